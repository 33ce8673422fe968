"""`turnwise/PythonTool-v0`: questions that need a computation, with a Python that stays between calls."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar

from ..core import State
from ..errors import RequestError, UnknownName
from ..sandbox.box import Sandbox
from ..sandbox.limits import Limits
from ..sandbox.probe import require
from ..task import Task
from ..tool_calls import Call
from ..tools import Tool, ToolEnv, function_tool
from .questions import FAMILIES, RESIDUES, Question, make_question

SIZES = {"train": 10_000, "validation": 500, "test": 1_000}
_FIRST_SEED = {"train": 0, "validation": 100_000, "test": 200_000}


class PythonToolEnv(ToolEnv):
    """Tools `python`, a sandboxed interpreter whose variables last, and `answer`, which ends the episode.

    Success is the exact answer. Only calls of `python` are counted as tool calls and cost anything. The interpreter
    starts with its first call and ends with the episode.
    """

    id: ClassVar[str] = "turnwise/PythonTool-v0"
    isolated: ClassVar[bool] = True
    """Not because it is unsafe: a call lasts as long as the agent's code, and others should not wait for it."""
    limits: ClassVar[Limits] = Limits(output_chars=5_900)

    @classmethod
    def splits(cls) -> dict[str, int]:
        return dict(SIZES)

    @classmethod
    def tasks(
        cls, split: str, count: int | None = None, *, kind: str = "mixed", python_cost: float = 1.0,
        timeout_s: float = 10.0, max_turns: int = 8,
    ) -> list[Task]:  # fmt: skip
        """The first `count` tasks of `split`.

        kind: a family of questions, or `mixed`. python_cost: of a call. timeout_s: of a call, at most 30.
        """
        if kind not in (*FAMILIES, "mixed"):
            raise UnknownName("kind of question", kind, (*FAMILIES, "mixed"))
        if not isinstance(python_cost, int | float) or not 0 <= python_cost < float("inf"):
            raise RequestError(f"Expected a python_cost of 0 or more, got {python_cost!r}.")
        if not isinstance(timeout_s, int | float) or not 0 < timeout_s <= 30:
            raise RequestError(f"Expected a timeout_s above 0 and up to 30, got {timeout_s!r}.")
        tasks = []
        for i in range(SIZES[split] if count is None else min(count, SIZES[split])):
            drawn = random.Random(f"kind {split} {i}").choice(list(FAMILIES))
            params = {
                "split": split, "kind": drawn if kind == "mixed" else kind, "python_cost": float(python_cost),
                "timeout_s": float(timeout_s),
            }  # fmt: skip
            tasks.append(
                Task(env=cls.id, seed=_FIRST_SEED[split] + i, params=params, max_turns=max_turns, split=split,
                     goal="Answer the question.", meta={"kind": params["kind"]})
            )  # fmt: skip
        return tasks

    def open(self, task: Task) -> tuple[str, Sequence[Tool]]:
        require()
        self.close()
        params = task.params
        self.question = question(task)
        self.box = Sandbox(self.limits, self.question.files)
        self.timeout_s = float(params["timeout_s"])
        self.given: str | None = None
        self._printed = ""
        self._calls = self._reported = 0
        named = ", ".join(self.question.files)
        opening = "\n".join(
            [
                "Answer the question exactly. Python runs in a sandbox without network; variables and files last from "
                f"call to call. A call costs {params['python_cost']:g} and is stopped after {self.timeout_s:g} s.",
                *([f"Files: {named}"] if named else []),
                f"Question: {self.question.text}",
            ]
        )
        return opening, [
            function_tool(self.python, cost=float(params["python_cost"])),
            function_tool(self.answer, cost=0.0),
        ]

    def python(self, code: str) -> str:
        """Run Python code and show what it prints, and the value of a last expression."""
        self._calls += 1
        self._printed = self.box.run(code, self.timeout_s).text
        return self._printed or "(no output)"

    def answer(self, value: int | str) -> str:
        """Answer the question, which ends the episode."""
        self.given, self.over = str(value).strip(), True
        self.box.close()
        return "Answered."

    def judge(self) -> State:
        success = self.given == self.question.answer
        calls, self._reported = self._calls - self._reported, self._calls
        return State(
            "", float(success), success, self.over and not success, extra={"counts": {"tool_calls": float(calls)}}
        )

    def expert_calls(self) -> list[Call]:
        """Runs the code of the question, then answers with what it printed."""
        if not self._printed:
            return [Call("python", {"code": self.question.code})]
        return [Call("answer", {"value": self._printed.strip()})]

    def close(self) -> None:
        super().close()
        if hasattr(self, "box"):
            self.box.close()


def question(task: Task) -> Question:
    """The question of a task."""
    if task.params["split"] not in RESIDUES:
        raise UnknownName("split of a PythonTool task", str(task.params["split"]), RESIDUES)
    if task.params["kind"] not in FAMILIES:
        raise UnknownName("kind of question", str(task.params["kind"]), FAMILIES)
    return make_question(task.params["kind"], task.params["split"], task.seed)
