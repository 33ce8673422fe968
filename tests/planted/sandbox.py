"""Bugs in the sandbox and in the environments whose code runs in it."""

from __future__ import annotations

from .record import Mutant

LIMITS, PROCESS, INSIDE, SECCOMP, BOX, PROBE = (
    f"envs/sandbox/{name}.py" for name in ("limits", "process", "inside", "seccomp", "box", "probe")
)
PYTHON, ASKED = (f"envs/python_tool/{name}.py" for name in ("env", "questions"))
SWE, PROGRAM, REPOSITORY, BUGS = (f"envs/swe/{name}.py" for name in ("env", "program", "repository", "bugs"))
EXTRACT = "training/extract.py"
T_SANDBOX, T_ESCAPE, T_PYTHON, T_SWE, T_COSTS = (
    (f"test_{name}.py",) for name in ("sandbox", "sandbox_escape", "python_tool", "swe", "catalogue_costs")
)

MUTANTS = (
    Mutant("processes are not limited", LIMITS, '"RLIMIT_NPROC": self.processes,', "", T_SANDBOX),
    Mutant(
        "each process has all the memory",
        LIMITS,
        "(self.memory_mb << 20) // self.processes",
        "self.memory_mb << 20",
        T_SANDBOX,
    ),
    Mutant("the disk has no size", INSIDE, "size={limits['disk']},", "", T_ESCAPE),
    Mutant("files are not counted", INSIDE, ",nr_inodes={limits['files']}", "", T_ESCAPE),
    Mutant("capabilities are kept", INSIDE, "must(libc.capset(header, none))", "libc.getpid()", T_SANDBOX),
    Mutant("the filter is not loaded", INSIDE, "must(libc.prctl(_SECCOMP, 2,", "(lambda *rest: 0)((0, 2,", T_SANDBOX),
    Mutant("output has no end", INSIDE, "        if self.room < 0:\n            raise Full\n", "", T_ESCAPE),
    Mutant("the root can be written", PROCESS, '"--remount-ro", "/", "--chdir"', '"--chdir"', T_SANDBOX),
    Mutant("the network is shared", PROCESS, '"--unshare-net", ', "", T_SANDBOX),
    Mutant("processes are shared", PROCESS, '"--unshare-pid", ', "", T_SANDBOX),
    Mutant("the environment is shared", PROCESS, '        "--clearenv", ', "        ", T_ESCAPE),
    Mutant("sandboxes outlive their worker", PROCESS, '"--die-with-parent", ', "", T_ESCAPE),
    Mutant(
        "code runs between calls",
        PROCESS,
        "        signal.pidfd_send_signal(self._pidfd, signal.SIGSTOP)\n",
        "",
        T_ESCAPE,
    ),
    Mutant("any socket may be opened", SECCOMP, "(_EQUAL, 1, 0, AF_UNIX)", "(_EQUAL, 1, 1, AF_UNIX)", T_SANDBOX),
    Mutant("32-bit calls pass", SECCOMP, "(_EQUAL, 1, 0, processor.audit)", "(_EQUAL, 1, 1, 0)", T_SANDBOX),
    Mutant(
        "namespaces may be made", SECCOMP, "(_ANY_BIT, 0, 1, _NAMESPACES)", "(_ANY_BIT, 1, 1, _NAMESPACES)", T_SANDBOX
    ),
    Mutant("answers need not match", BOX, 'if answer["id"] != self._calls:', "if False:", T_ESCAPE),
    Mutant("addresses are shown", BOX, 'return _ADDRESS.sub("at 0x…", spelled)', "return spelled", T_SANDBOX),
    Mutant(
        "a sandbox that does not hold is used",
        PROBE,
        'return held if said == "holds" else said',
        "return held",
        T_SANDBOX,
    ),
    Mutant(
        "the sign of an answer does not matter",
        PYTHON,
        "success = self.given == self.question.answer",
        'success = (self.given or "").lstrip("-") == self.question.answer',
        T_PYTHON,
    ),
    Mutant(
        "an answer counts as a call of the tool",
        PYTHON,
        'extra={"counts": {"tool_calls": float(calls)}}',
        "extra={}",
        T_PYTHON,
    ),
    Mutant("numbers are shared between splits", ASKED, "if n % 5 in RESIDUES[self.split]", "if n", T_PYTHON),
    Mutant("the week begins a day late", ASKED, "(zeller + 5) % 7", "(zeller + 4) % 7", T_PYTHON),
    Mutant(
        "success before it is submitted",
        SWE,
        "success = self.submitted and count == whole",
        "success = count == whole",
        T_SWE,
    ),
    Mutant("one hidden test may fail", SWE, "count == whole", "count >= whole - 1", T_SWE),
    Mutant("tests can be changed", SWE, 'if path.startswith("tests/"):', 'if path == "":', T_SWE),
    Mutant("any module name will do", SWE, "if not _NAME.fullmatch(path):", 'if path == "":', T_SWE),
    Mutant("whatever comes out is right", SWE, "passed(test, came.get(i)) for", "i in came for", T_SWE),
    Mutant(
        "the answers are sent along",
        SWE,
        "json.dumps([test.case for test in self.repo.hidden])",
        "json.dumps([[*test.case, *test.came] for test in self.repo.hidden])",
        T_SWE,
    ),
    Mutant("true is one", PROGRAM, "json.dumps(came) == json.dumps(test.came)", "came == test.came", T_SWE),
    Mutant("bugs need not show", REPOSITORY, "0 < of_hidden <=", "0 <= of_hidden <=", T_SWE),
    Mutant("splits share bugs", BUGS, "% 5 == 0 else", "% 5 >= 0 else", T_SWE),
    Mutant(
        "the tests that an environment counts are not used",
        EXTRACT,
        '"tests": verified',
        '"tests": milestones',
        T_COSTS,
    ),
    Mutant("an answer is a call", EXTRACT, ' and turn.counts.get("tool_calls", 1.0) > 0:', ":", T_COSTS),
)
