"""`turnwise/SWE-v0`: find and mend the bugs of a small repository; hidden tests judge, out of the agent's reach."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from ..core import State
from ..errors import RequestError, UnknownName
from ..sandbox.box import run_program
from ..sandbox.limits import Limits
from ..sandbox.probe import require
from ..task import Task
from ..tool_calls import Call
from ..tools import Tool, ToolEnv, ToolError, function_tool
from .bugs import Bug
from .program import TESTS, passed
from .repository import KINDS, PROGRAMS, repository

SIZES = {"train": 10_000, "validation": 500, "test": 1_000}
_FIRST_SEED = {"train": 0, "validation": 100_000, "test": 200_000}
_LIMITS = {"bugs": (1, 4), "visible": (2, 16), "hidden": (4, 32), "distractors": (0, 2)}
_NAME = re.compile(r"[a-z_][a-z0-9_]*\.py")
_DURATION = re.compile(r"^(Ran \d+ tests?) in [\d.]+s$", re.MULTILINE)
_JUDGE = Path(__file__).with_name("playing.py").read_text()
_JUDGE_LIMITS, _JUDGE_S = Limits(output_chars=200_000, disk_mb=4, cpu_s=10), 20.0
"""Processor time and not the clock ends a verdict, so that a busy machine changes none."""
MAX_FILES = 40
MAX_FILE_CHARS = 8_000
MAX_LINES = 200


class SWEEnv(ToolEnv):
    """Tools `list_files`, `read_file`, `search`, `edit`, `write_file`, `run_tests`, `run_python` and `submit`.

    Files are kept here, not in the sandbox: what runs there gets copies, and leaves nothing behind. The score is the
    number of hidden tests that pass beyond those that passed at the start, and one more for success: all hidden tests
    pass after `submit`. They are played anew whenever a file has changed. `info` has `ratio`, the share of hidden tests
    that pass, and `tests`, which of them; `info["counts"]` has them as `test_00`, … for VeRPO.
    """

    id: ClassVar[str] = "turnwise/SWE-v0"
    isolated: ClassVar[bool] = True
    """Not because it is unsafe: running tests takes time, and others should not wait for it."""
    limits: ClassVar[Limits] = Limits(output_chars=5_900, disk_mb=4)

    @classmethod
    def splits(cls) -> dict[str, int]:
        return dict(SIZES)

    @classmethod
    def tasks(
        cls, split: str, count: int | None = None, *, bugs: int = 1, kind: str = "mixed", program: str | None = None,
        visible: int = 8, hidden: int = 12, distractors: int = 0, timeout_s: float = 5.0, max_turns: int | None = None,
    ) -> list[Task]:  # fmt: skip
        """The first `count` tasks of `split`.

        bugs: how many. kind: of bug, or `mixed`. program: one of the split's, by default any. visible, hidden: tests.
        distractors: other programs in the same repository. timeout_s: of a run. max_turns: by default 12 + 8 per bug.
        """
        dials = {"bugs": bugs, "visible": visible, "hidden": hidden, "distractors": distractors}
        for name, value in dials.items():
            low, high = _LIMITS[name]
            if not isinstance(value, int) or not low <= value <= high:
                raise RequestError(f"Expected {name} from {low} to {high}, got {value!r}.")
        if kind not in (*KINDS, "mixed"):
            raise UnknownName("kind of bug", kind, (*KINDS, "mixed"))
        if program is not None and program not in PROGRAMS[split]:
            raise UnknownName(f"program of the split {split!r}", program, PROGRAMS[split])
        if not isinstance(timeout_s, int | float) or not 0 < timeout_s <= 30:
            raise RequestError(f"Expected a timeout_s above 0 and up to 30, got {timeout_s!r}.")
        tasks = []
        for i in range(SIZES[split] if count is None else min(count, SIZES[split])):
            drawn = random.Random(f"program {split} {i}").choice(PROGRAMS[split])
            params = {
                **dials, "split": split, "kind": kind, "program": program or drawn, "timeout_s": float(timeout_s),
            }  # fmt: skip
            tasks.append(
                Task(env=cls.id, seed=_FIRST_SEED[split] + i, params=params, max_turns=max_turns or 12 + 8 * bugs,
                     split=split, goal="Mend the repository.", difficulty=float(bugs),
                     meta={"program": params["program"]})
            )  # fmt: skip
        return tasks

    def open(self, task: Task) -> tuple[str, Sequence[Tool]]:
        require()
        self.repo = repository(task.params, task.seed)
        self.timeout_s = float(task.params["timeout_s"])
        self.files = dict(self.repo.files)
        self.submitted = False
        self._read = set[str]()
        self._tested: Mapping[str, str] | None = None
        self._judged, self._results = dict(self.files), self.repo.before
        self.max_score = float(len(self.repo.hidden) - sum(self.repo.before) + 1)
        self._reported = self._ran = 0
        opening = "\n".join(
            [
                f"A repository: {self.repo.program.summary}",
                "Some of its tests fail, because of bugs in its modules. Find and mend them, then submit. Other tests, "
                f"which you do not see, decide. {TESTS} is right and cannot be changed.",
                self.list_files(),
            ]
        )
        free = (self.list_files, self.read_file, self.search, self.edit, self.write_file, self.submit)
        return opening, [
            *(function_tool(tool, cost=0.0) for tool in free[:-1]),
            function_tool(self.run_tests), function_tool(self.run_python), function_tool(free[-1], cost=0.0),
        ]  # fmt: skip

    # ---- tools ---------------------------------------------------------------------------------------------

    def list_files(self) -> str:
        """List the files and their numbers of lines."""
        return "\n".join(f"{path} ({len(text.splitlines())} lines)" for path, text in sorted(self.files.items()))

    def read_file(self, path: str, first: int = 1, last: int | None = None) -> str:
        """Show a file, or its lines from first to last, with their numbers."""
        lines = self._file(path).splitlines()
        last = min(len(lines) if last is None else last, first + MAX_LINES - 1)
        if first < 1 or (lines and first > len(lines)) or last < first - 1:
            raise ToolError(f"{path} has lines 1 to {len(lines)}, there is no {first} to {last}.")
        self._read.add(path)
        return "\n".join(f"{i:4} {lines[i - 1]}" for i in range(first, min(last, len(lines)) + 1)) or "(empty)"

    def search(self, text: str) -> str:
        """Find the lines that contain a text, in all files."""
        found = [
            f"{path}:{number}: {line}"
            for path, content in sorted(self.files.items())
            for number, line in enumerate(content.splitlines(), 1)
            if text in line
        ]
        return "\n".join(found) or "Nothing found."

    def edit(self, path: str, old: str, new: str) -> str:
        """Replace a text, which must occur exactly once in the file, by another."""
        content = self._file(path)
        if not old or content.count(old) != 1:
            raise ToolError(f"expected the old text once in {path}, found it {content.count(old) if old else 0} times.")
        self._write(path, content.replace(old, new))
        return f"Changed {path}."

    def write_file(self, path: str, text: str) -> str:
        """Make a module anew, or replace all of it."""
        self._write(path, text)
        return f"Wrote {path} ({len(text.splitlines())} lines)."

    def run_tests(self) -> str:
        """Run the tests of the repository."""
        self._ran += 1
        self._tested = dict(self.files)
        text = run_program(["unittest", "-b"], self.files, self.limits, self.timeout_s).text
        return _DURATION.sub(r"\1", text)

    def run_python(self, code: str) -> str:
        """Run a script in a copy of the repository and show what it prints."""
        self._ran += 1
        script = {"run_this_script.py": code}
        return (
            run_program(["run_this_script.py"], self.files | script, self.limits, self.timeout_s).text or "(no output)"
        )

    def submit(self) -> str:
        """Say that the repository is mended, which ends the episode."""
        self.submitted = self.over = True
        return "Submitted."

    # ---- judging -------------------------------------------------------------------------------------------

    def judge(self) -> State:
        if self.files != self._judged:
            self._judged = dict(self.files)
            self._results = self._verify()
        count, whole = sum(self._results), len(self._results)
        success = self.submitted and count == whole
        ran, self._reported = self._ran - self._reported, self._ran
        counts = {f"test_{i:02}": float(result) for i, result in enumerate(self._results)}
        return State(
            "", float(count - sum(self.repo.before) + success), success, self.over and not success,
            extra={
                "ratio": count / whole, "tests": list(self._results),
                "counts": {"tool_calls": float(ran), **counts},
            },
        )  # fmt: skip

    def expert_calls(self) -> list[Call]:
        """Runs the tests, reads each wrong file, takes its bugs back one by one, runs the tests again, submits."""
        wrong = [path for path, text in self.repo.gold.items() if self.files.get(path) != text]
        if self._tested is None:
            return [Call("run_tests", {})]
        for path in wrong:
            if path not in self._read:
                return [Call("read_file", {"path": path})]
            for bug in self.repo.bugs:
                if bug.file == path and (lines := _repair(bug, self.repo.gold[path], self.files[path])):
                    return [Call("edit", {"path": path, "old": lines[0], "new": lines[1]})]
            return [Call("write_file", {"path": path, "text": self.repo.gold[path]})]
        if self._tested != self.files:
            return [Call("run_tests", {})]
        return [Call("submit", {})]

    def _verify(self) -> tuple[bool, ...]:
        """Which hidden tests pass, each played on its own copy of the modules.

        Code under test meets inputs only. Whether what it made of them is right is decided here, in another process
        than its own, so it can print, exit and replace what it likes: that makes no wrong value right.
        """
        cases = json.dumps([test.case for test in self.repo.hidden])
        modules = tuple(sorted((path, text) for path, text in self.files.items() if "/" not in path))
        came = dict(_played(modules, cases))
        return tuple(passed(test, came.get(i)) for i, test in enumerate(self.repo.hidden))

    def _file(self, path: str) -> str:
        if path not in self.files:
            raise ToolError(f"there is no file {path[:80]!r}.")
        return self.files[path]

    def _write(self, path: str, text: str) -> None:
        if path.startswith("tests/"):
            raise ToolError("the tests are right as they are and cannot be changed.")
        if not _NAME.fullmatch(path):
            raise ToolError(f"expected a module at the top, such as name.py, got {path[:80]!r}.")
        if len(text) > MAX_FILE_CHARS or (path not in self.files and len(self.files) >= MAX_FILES):
            raise ToolError(f"files have up to {MAX_FILE_CHARS:,} characters, repositories up to {MAX_FILES} files.")
        self.files[path] = text


@lru_cache(maxsize=256)
def _played(modules: tuple[tuple[str, str], ...], cases: str) -> tuple[tuple[int, Any], ...]:
    """(index, what came out) of the cases that came to an end, in a sandbox of their own."""
    files = {f"repo/{path}": text for path, text in modules} | {"judge.py": _JUDGE, "cases.json": cases}
    found: dict[int, Any] = {}
    for line in run_program(["judge.py"], files, _JUDGE_LIMITS, _JUDGE_S).text.splitlines():
        try:
            index, came = json.loads(line)
        except (ValueError, TypeError, RecursionError):
            continue
        if type(index) is int:
            found.setdefault(index, came)
    return tuple(found.items())


def _repair(bug: Bug, gold: str, text: str) -> tuple[str, str] | None:
    """(old, new) lines that take a bug back in `text`; None where it is not there as it was planted."""
    for around in range(4):
        first, last = gold.rfind("\n", 0, bug.start) + 1, gold.find("\n", bug.end)
        for _ in range(around):
            first = gold.rfind("\n", 0, max(0, first - 1)) + 1
            last = gold.find("\n", last + 1) if last >= 0 else last
        last = len(gold) if last < 0 else last
        right = gold[first:last]
        wrong = gold[first : bug.start] + bug.new + gold[bug.end : last]
        if text.count(wrong) == 1 and wrong != right:
            return wrong, right
    return None
