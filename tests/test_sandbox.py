"""The sandbox as its users meet it: state, output, limits; what it refuses to run without."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnwise.envs import RequestError, make, registry
from turnwise.envs.sandbox import limits as limits_module
from turnwise.envs.sandbox import probe, process
from turnwise.envs.sandbox.box import Output, Sandbox, run_program
from turnwise.envs.sandbox.limits import Limits
from turnwise.envs.sandbox.seccomp import PROCESSORS, seccomp_filter
from turnwise.training import doctor

needs_bwrap = pytest.mark.skipif(not process.program(), reason=f"no bubblewrap here: {probe.CURE}")


@pytest.fixture
def box() -> Iterator[Sandbox]:
    box = Sandbox(files={"data/table.csv": "a,b\n1,2\n", "note.txt": "zwölf\r\n"})
    yield box
    box.close()


@pytest.fixture
def fresh() -> Iterator[None]:
    """Every question about the machine is asked anew."""
    probe.ready.cache_clear()
    yield
    probe.ready.cache_clear()


# ---- what code sees --------------------------------------------------------------------------------------


@needs_bwrap
def test_variables_imports_and_files_last(box: Sandbox) -> None:
    assert box.run("import math\nx = 3") == Output("", True)
    assert box.run("open('new.txt', 'w').write(str(math.floor(x + 0.5)))") == Output("1\n", True)
    assert box.run("def f(y):\n    return x * y\nf(5)") == Output("15\n", True)
    assert box.run("print(open('new.txt').read()); print(open('data/table.csv').read())").text == "3\na,b\n1,2\n\n"
    assert box.run("open('note.txt', newline='').read()").text == "'zwölf\\r\\n'\n"
    assert box.run("") == Output("", True)
    assert box.run("None") == Output("", True)


@needs_bwrap
def test_errors_show_the_agent_s_lines_and_no_others(box: Sandbox) -> None:
    box.run("def half(x):\n    return x / 0")
    assert re.sub(r"\n +[\^~]+", "", box.run("y = 1\nhalf(2)").text) == (
        'Traceback (most recent call last):\n  File "<cell 2>", line 2, in <module>\n    half(2)\n'
        '  File "<cell 1>", line 2, in half\n    return x / 0\nZeroDivisionError: division by zero\n'
    )
    assert box.run("y").text == "1\n", "what came before the error counts"
    assert box.run("1 +").text.splitlines()[0] == '  File "<cell 4>", line 1'
    assert box.run("raise SystemExit(3)") == Output(
        'Traceback (most recent call last):\n  File "<cell 5>", line 1, in <module>\n    raise SystemExit(3)\n'
        "SystemExit: 3\n", False
    )  # fmt: skip
    assert box.run("y").ok


@needs_bwrap
def test_two_runs_print_the_same_bytes() -> None:
    code = (
        "import random\nclass Thing: pass\n"
        "print(object(), Thing(), Thing, len, lambda: 0, {'a', 'b', 'c', 'd', 'e'}, hash('x'), random.random())\n"
        "def f(): raise ValueError(object())\nf()"
    )
    texts = []
    for _ in range(2):
        box = Sandbox()
        texts.append(box.run(code).text)
        box.close()
    assert texts[0] == texts[1] and texts[0].count("at 0x…") == 4
    assert hex(0x7F0012345678) in Sandbox().run("print(hex(0x7F0012345678))").text, "numbers of the agent's own stay"


@needs_bwrap
def test_after_a_deadline_the_state_is_new_and_the_files_are_the_first_ones(box: Sandbox) -> None:
    box.run("x = 1\nopen('note.txt', 'w').write('changed')")
    assert box.run("while True: pass", timeout_s=0.2) == Output(
        "Stopped: it did not end within 0.2 s. The next call has a new interpreter: variables and files are gone.",
        False, True,
    )  # fmt: skip
    assert box.pid is None
    assert box.run("x").text.endswith("NameError: name 'x' is not defined\n")
    assert box.run("open('note.txt').read()").text == "'zwölf\\n'\n"


@needs_bwrap
def test_programs_print_and_end_with_their_status() -> None:
    files = {
        "main.py": "import sys, helper\nprint(helper.x, sys.argv[1:])\nprint('err', file=sys.stderr)",
        "helper.py": "x = 5",
    }
    assert run_program(["main.py", "a", "b"], files) == Output("5 ['a', 'b']\nerr\n", True)
    assert run_program(["main.py"], {"main.py": "raise SystemExit(2)"}) == Output("", False)
    assert run_program(["main.py"], {"main.py": "print(1)\nimport os\nos._exit(0)"}).ok
    test = "import unittest\nclass T(unittest.TestCase):\n    def test_x(self):\n        self.assertEqual(1, 2)\n"
    failed = run_program(["unittest"], {"test_a.py": test})
    assert not failed.ok and "AssertionError: 1 != 2" in failed.text and "FAILED (failures=1)" in failed.text
    assert run_program(["main.py"], {"main.py": "while True: pass"}, timeout_s=0.3) == Output(
        "Stopped: it did not end within 0.3 s.", False, True
    )


@needs_bwrap
def test_limits_are_what_was_asked_for() -> None:
    asked = Limits(memory_mb=300, processes=3, disk_mb=2, files=40, open_files=32, cpu_s=7)
    box = Sandbox(asked)
    box.run("1")
    lines = Path(f"/proc/{box.pid}/limits").read_text()
    held = {line[:26].strip(): line[26:47].split()[0] for line in lines.splitlines()[1:]}
    assert held["Max address space"] == str(100 << 20) and held["Max processes"] == "3"
    assert held["Max cpu time"] == "7" and held["Max open files"] == "32" and held["Max file size"] == str(2 << 20)
    assert held["Max core file size"] == "0" and held["Max locked memory"] == "0" and held["Max msgqueue size"] == "0"
    assert box.run("import os\nvfs = os.statvfs('/tmp')\n(vfs.f_blocks * vfs.f_frsize, vfs.f_files)").text == (
        f"({2 << 20}, 40)\n"
    )
    box.close()


@pytest.mark.parametrize(
    "wrong", [{"processes": 0}, {"cpu_s": 0}, {"memory_mb": 63}, {"memory_mb": 128, "processes": 3}]
)
def test_limits_that_cannot_be_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(RequestError, match=r"Expected .* got Limits\("):
        Limits(**wrong)


# ---- the filter ------------------------------------------------------------------------------------------


def verdict(code: bytes, audit: int, number: int, argument: int = 0) -> int:
    """What a classic BPF program returns for a system call: an interpreter of the five instructions that it has."""
    data = struct.pack("<IIQ6Q", number, audit, 0, argument, *[0] * 5)
    program = [struct.unpack_from("<HBBI", code, at) for at in range(0, len(code), 8)]
    at = accumulator = 0
    while True:
        operation, true, false, value = program[at]
        at += 1
        if operation == 0x06:
            return value
        if operation == 0x20:
            accumulator = struct.unpack_from("<I", data, value)[0]
            continue
        holds = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[operation]
        at += true if holds else false


ALLOW, KILL, EPERM, EACCES, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x0005000D, 0x00050026


@pytest.mark.parametrize("machine", PROCESSORS)
def test_the_filter_denies_what_it_names_and_nothing_else(machine: str) -> None:
    code, processor = seccomp_filter(machine), PROCESSORS[machine]
    special = {processor.numbers[name] for name in ("clone", "clone3", "socket")}
    denied = set(processor.numbers.values()) - special
    assert len(denied) == len(processor.numbers) - 3 >= 48
    for number in range(1000):
        expected = EPERM if number in denied else ALLOW
        if number not in special:
            assert verdict(code, processor.audit, number) == expected, number
    assert verdict(code, processor.audit, processor.numbers["clone3"]) == ENOSYS
    assert seccomp_filter("mips") == b""


@given(st.sampled_from(sorted(PROCESSORS)), st.integers(0, 2**32 - 1))
def test_threads_and_unix_sockets_pass_and_nothing_like_them(machine: str, argument: int) -> None:
    code, processor = seccomp_filter(machine), PROCESSORS[machine]
    cloned = verdict(code, processor.audit, processor.numbers["clone"], argument)
    assert cloned == (EPERM if argument & 0x7E020080 else ALLOW)
    opened = verdict(code, processor.audit, processor.numbers["socket"], argument)
    assert opened == (ALLOW if argument == 1 else EACCES)
    assert verdict(code, processor.audit, 0x40000000 + argument % 1000) == KILL
    assert verdict(code, argument, 1) == (ALLOW if argument == processor.audit else KILL)


# ---- no unsafe mode --------------------------------------------------------------------------------------


def test_without_bubblewrap_nothing_runs_and_the_cure_is_named(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNWISE_BWRAP", "/nowhere/bwrap")
    with pytest.raises(RequestError, match=r"found no bwrap. On Debian: apt-get install .*bubblewrap"):
        Sandbox().run("1")
    with pytest.raises(RequestError, match="found no bwrap"):
        run_program(["main.py"], {"main.py": ""})
    for id in ("PythonTool", "SWE"):
        assert registry.spec(id).reason() == "needs the program bwrap: see `turnwise doctor`"
        with pytest.raises(RequestError, match="needs the program bwrap: see `turnwise doctor`"):
            make(id)
    (finding,) = doctor._sandbox()
    assert finding.level == "missing" and finding.cure == probe.CURE


@needs_bwrap
def test_the_doctor_finds_a_sandbox_that_holds(fresh: None) -> None:
    (finding,) = doctor._sandbox()
    assert finding.level == "ok" and finding.state == f"{process.program()}, the sandbox holds"


def without(name: str) -> Any:
    """`Limits.order` without one limit."""
    original = Limits.order

    def order(self: Limits) -> dict[str, Any]:
        found = original(self)
        found["resources"].pop(name)
        return found

    return order


WEAK = {
    "RLIMIT_NPROC": "does not hold: processes",
    "RLIMIT_AS": "does not hold: memory",
}


@needs_bwrap
@pytest.mark.parametrize("missing", WEAK)
def test_a_machine_that_does_not_hold_a_limit_is_refused(
    fresh: None, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setattr(limits_module.Limits, "order", without(missing))
    why = probe.problem()
    assert why.startswith("Expected a sandbox that holds its limits, got one that does not") and WEAK[missing] in why
    with pytest.raises(RequestError, match=WEAK[missing]):
        Sandbox().run("1")


OPEN = {
    ("--remount-ro", "/"): "read-only root",
    ("--unshare-net",): "it shares the net namespace",
    ("--unshare-ipc",): "it shares the ipc namespace",
}
"""What is left out of the command line of bubblewrap, and what the probe then says."""


@needs_bwrap
@pytest.mark.parametrize("flags", OPEN)
def test_a_command_line_that_leaves_something_open_is_refused(
    fresh: None, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...]
) -> None:
    original = process.command

    def weaker(python: process.Python, info: int) -> list[str]:
        words = original(python, info)
        at = next(i for i in range(len(words)) if tuple(words[i : i + len(flags)]) == flags)
        return words[:at] + words[at + len(flags) :]

    monkeypatch.setattr(process, "command", weaker)
    assert OPEN[flags] in probe.problem()


@needs_bwrap
def test_a_process_that_kept_rights_is_refused() -> None:
    child = subprocess.Popen(["sleep", "100"])
    try:
        expected = "Cap" if os.geteuid() == 0 else "it shares the user namespace"
        assert probe._held(child.pid).startswith(expected) or probe._held(child.pid).startswith("CapBnd")
    finally:
        child.kill()
        child.wait()


@needs_bwrap
@pytest.mark.skipif(os.geteuid() != 0, reason="needs the superuser, to become somebody else")
def test_an_ordinary_user_gets_the_same_sandbox(tmp_path: Path) -> None:
    """The files of the sandbox alone, in the system's Python, as user 1000."""
    if not Path("/usr/bin/python3").exists():
        pytest.skip("the system has no Python of its own")
    package = tmp_path / "alone"
    package.mkdir()
    (package / "__init__.py").touch()
    source = Path(probe.__file__).parent
    shutil.copytree(source, package / "sandbox", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(source.parent / "errors.py", package)
    for path in (tmp_path, *tmp_path.parents, *tmp_path.rglob("*")):
        if str(path).count("/") > 1:
            path.chmod(path.stat().st_mode | 0o055)
    code = (
        "import os\nfrom alone.sandbox.box import *\nfrom alone.sandbox.probe import problem\n"
        "box = Sandbox()\nprint(os.getuid(), repr(problem()), box.run('x = 1'), box.run('x'), sep='|')\n"
        "print(box.run('import os\\nos.fork()').text.splitlines()[-1], box.run('while 1: pass', 0.2).lost, sep='|')"
    )
    done = subprocess.run(
        ["/usr/bin/python3", "-B", "-c", code], cwd=tmp_path, user=1000, group=1000, extra_groups=[],
        capture_output=True, text=True, env={"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        "1000|''|Output(text='', ok=True, lost=False)|Output(text='1\\n', ok=True, lost=False)",
        "BlockingIOError: [Errno 11] Resource temporarily unavailable|True",
    ], done.stderr


def test_what_runs_inside_needs_no_package_of_ours() -> None:
    source = Path(probe.__file__).with_name("inside.py").read_text()
    modules = set(re.findall(r"^(?:import|from) (\w+)", source, re.MULTILINE))
    assert modules <= set(sys.stdlib_module_names) and "turnwise" not in source
