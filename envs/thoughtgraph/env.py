"""`turnwise/ThoughtGraph-v0`: split a problem, solve the parts, merge, refine, and answer with one of the thoughts."""

from __future__ import annotations

import random
import re
from typing import Any, ClassVar, NamedTuple

from ..core import State, TextEnv
from ..errors import RequestError, UnknownName
from ..task import Task
from .kinds import KINDS, NONE, Items, Kind, join

SIZES = {"train": 10_000, "validation": 500, "test": 1_000, "large": 200}
"""Split -> number of tasks; those of `large` have twice the items."""
_FIRST_SEED = {split: 100_000 * index for index, split in enumerate(SIZES)}
MAX_PARTS = 8
_ACTION = re.compile(r"(split|solve|refine|merge|score|drop|answer) (\d{1,6}(?:[ ,]+\d{1,6})*)(?: ?: ?(.*))?", re.I)
_WRITES = {"split": 1, "solve": 1, "refine": 1, "merge": 2}
_READS = {"score": 1, "drop": 1, "answer": 1}


class Thought(NamedTuple):
    """A node of the graph. A problem has items of its own; a solution is of the problems in `of`."""

    is_problem: bool
    content: Items
    parents: tuple[int, ...] = ()
    of: tuple[int, ...] = ()


class Refused(Exception):
    """The action is not possible; the message says why. `valid` is False where its content could not be read."""

    def __init__(self, message: str, valid: bool = True) -> None:
        super().__init__(message)
        self.valid = valid


class ThoughtGraphEnv(TextEnv):
    """The graph of ARIES (arXiv 2502.21208) without its model: every thought is written by the agent.

    Success is an answer without an error. The score of another answer is `1 - errors / items`, at least 0; before
    there is an answer it is 0. `info["thoughts"]` is how many thoughts were made, `info["errors"]` is of the answer.
    """

    id: ClassVar[str] = "turnwise/ThoughtGraph-v0"
    unknown_action: ClassVar[str] = "answer 999"
    max_action_chars: ClassVar[int] = 2_000

    @classmethod
    def splits(cls) -> dict[str, int]:
        return dict(SIZES)

    @classmethod
    def tasks(
        cls, split: str, count: int | None = None, *, kind: str = "mixed", size: int = 16, limit: int = 8,
        slack: int = 6,
    ) -> list[Task]:  # fmt: skip
        """The first `count` tasks of `split`.

        kind: one of `KINDS`, or all of them in turn. size: items of the problem (twice as many in `large`). limit:
        items of a problem that may be solved as it is. slack: turns beyond the shortest way.
        """
        if kind not in (*KINDS, "mixed"):
            raise UnknownName("kind of thought graph", str(kind), (*KINDS, "mixed"))
        items = size * 2 if split == "large" else size
        if not isinstance(limit, int) or not isinstance(size, int) or not 2 <= limit <= items <= MAX_PARTS * limit:
            raise RequestError(
                f"Expected a size (twice as much in large) from limit to {MAX_PARTS} limits and a limit of at least 2, "
                f"got size {size!r} and limit {limit!r} in {split}."
            )
        if items > 50 or not isinstance(slack, int) or slack < 0:
            raise RequestError(f"Expected at most 50 items and a slack of 0 or more, got {items} and {slack!r}.")
        names, turns = list(KINDS), shortest(items, limit) + slack
        return [
            Task(env=cls.id, seed=_FIRST_SEED[split] + i, split=split, difficulty=float(items), max_turns=turns,
                 params={"kind": names[i % len(names)] if kind == "mixed" else kind, "size": items, "limit": limit})
            for i in range(SIZES[split] if count is None else min(count, SIZES[split]))
        ]  # fmt: skip

    def start(self, task: Task) -> State:
        if task.params["kind"] not in KINDS:
            raise UnknownName("kind of thought graph", str(task.params["kind"]), KINDS)
        self.kind: Kind = KINDS[task.params["kind"]]
        self.limit = int(task.params["limit"])
        rng = random.Random(f"thoughts {task.seed} {self.kind.name} {task.params['size']}")
        self.given, items = self.kind.draw(rng, int(task.params["size"]))
        self.thoughts = {0: Thought(True, items)}
        self.problems = {0: items}  # of all that were ever made: solutions outlive problems that are dropped
        self.groups: list[tuple[int, ...]] = []  # what each split of thought 0 made
        self._made, self._answer = 1, -1
        self.goal = self.kind.goal
        return self._look(f"{self.goal}\n{self._usage()}")

    def act(self, action: str) -> State:
        if self._answer >= 0:
            return self._look("The answer is given.", admissible=False)
        match = _ACTION.fullmatch(action)
        if match is None:
            return self._look("Write a verb, numbers of thoughts and a content.", admissible=False, valid=False)
        verb, numbers = match[1].lower(), tuple(map(int, re.findall(r"\d+", match[2])))
        try:
            event = self._do(verb, numbers, match[3])
        except Refused as refused:
            return self._look(str(refused), admissible=False, valid=refused.valid)
        return self._look(event)

    def expert(self) -> str:
        """Follows the shortest way from the thoughts that are right."""
        group = self._sound_split()
        if not group:
            parts = [" ".join(part) for part in _pieces(self.thoughts[0].content, self.limit)]
            return f"split 0: {' | '.join(parts)}"
        solved = {of: number for number, thought in self.thoughts.items() for of in [thought.of]
                  if of and set(of) <= set(group) and not self._errors(thought)}  # fmt: skip
        if group in solved:
            return f"answer {solved[group]}"
        for number in group:
            if not any(number in of for of in solved):
                return f"solve {number}: {self._right((number,))}"
        # the widest first, so that none is merged twice
        left, right = _next_pair(sorted(solved, key=lambda of: (-len(of), of)))
        return f"merge {solved[left]} {solved[right]}: {self._right((*left, *right))}"

    def clone_state(self) -> tuple[object, ...]:
        return (self.kind, self.limit, self.given, self._made, self._answer,
                dict(self.thoughts), dict(self.problems), list(self.groups))  # fmt: skip

    def restore_state(self, clone: Any) -> bool:
        self.kind, self.limit, self.given, self._made, self._answer, thoughts, problems, groups = clone
        self.thoughts, self.problems, self.groups = dict(thoughts), dict(problems), list(groups)
        return True

    # ---- actions ------------------------------------------------------------------------------------------

    def _do(self, verb: str, numbers: tuple[int, ...], content: str | None) -> str:
        wanted = (_WRITES | _READS)[verb]
        if len(numbers) != wanted or len(set(numbers)) != wanted:
            raise Refused(f"To {verb} takes {wanted} thought{'s'[: wanted - 1]}.")
        if (content is not None) is not (verb in _WRITES):
            raise Refused(f"To {verb} takes {'a content' if verb in _WRITES else 'no content'}.", valid=False)
        missing = [number for number in numbers if number not in self.thoughts]
        if missing:
            raise Refused(f"There is no thought {missing[0]}.")
        thoughts = [self.thoughts[number] for number in numbers]
        if thoughts[0].is_problem is not (verb in ("split", "solve")) and verb != "drop":
            raise Refused(f"Thought {numbers[0]} is a {'problem' if thoughts[0].is_problem else 'solution'}.")
        if verb == "split":
            return self._split(numbers[0], content or "")
        if verb in _WRITES:
            return self._write(verb, numbers, thoughts, content or "")
        return self._judge(verb, numbers[0], thoughts[0])

    def _split(self, number: int, content: str) -> str:
        parts = [self.kind.read_part(part) for part in content.split("|")]
        if any(not part for part in parts):
            raise Refused("Write the parts with | between them.", valid=False)
        whole = len(self.thoughts[number].content)
        if not 2 <= len(parts) <= MAX_PARTS or any(len(part or ()) >= whole for part in parts):
            raise Refused(f"A problem is split into 2 to {MAX_PARTS} smaller ones.")
        made = tuple(self._add(Thought(True, part or (), (number,))) for part in parts)
        self.groups += [made] if number == 0 else []
        return f"Thoughts {made[0]} to {made[-1]} are parts of {number}."

    def _write(self, verb: str, numbers: tuple[int, ...], thoughts: list[Thought], content: str) -> str:
        if thoughts[-1].is_problem is not (verb == "solve"):
            raise Refused(f"Thought {numbers[-1]} is a {'problem' if thoughts[-1].is_problem else 'solution'}.")
        if verb == "solve" and len(thoughts[0].content) > self.limit:
            raise Refused(f"Only problems of at most {self.limit} items can be solved. Split it.")
        of = numbers if verb == "solve" else tuple(each for thought in thoughts for each in thought.of)
        if len(set(of)) < len(of):
            raise Refused("Both are of the same problem.")
        solution = self.kind.read(content)
        if solution is None:
            raise Refused(f"Write {self.kind.form}.", valid=False)
        made = self._add(Thought(False, solution, numbers, tuple(sorted(of))))
        return f"Thought {made} is written."

    def _judge(self, verb: str, number: int, thought: Thought) -> str:
        if verb == "drop":
            if number == 0:
                raise Refused("Thought 0 is the problem itself.")
            del self.thoughts[number]
            return f"Thought {number} is dropped."
        if verb == "answer":
            self._answer = number
            return f"Thought {number} is the answer."
        return f"Thought {number} has {self._errors(thought)} errors as a solution of its problems."

    def _add(self, thought: Thought) -> int:
        number, self._made = self._made, self._made + 1
        self.thoughts[number] = thought
        if thought.is_problem:
            self.problems[number] = thought.content
        return number

    # ---- what thoughts are worth ----------------------------------------------------------------------------

    def _errors(self, thought: Thought) -> int:
        """Of a solution, as one of its problems together."""
        return self.kind.errors(self.given, join([self.problems[number] for number in thought.of]), thought.content)

    def _right(self, numbers: tuple[int, ...]) -> str:
        """The solution of these problems together."""
        return " ".join(self.kind.truth(self.given, join([self.problems[number] for number in numbers]))) or NONE

    def _sound_split(self) -> tuple[int, ...]:
        """Problems, small enough to be solved, that make up the whole one; empty where there are none."""
        whole = self.problems[0]
        for group in ((0,), *self.groups):
            parts = [self.problems[number] for number in group]
            small = all(number in self.thoughts and len(self.problems[number]) <= self.limit for number in group)
            if small and sorted(join(parts)) == sorted(whole):
                return group
        return ()

    # ---- what the agent reads -------------------------------------------------------------------------------

    def _usage(self) -> str:
        return (
            f"A problem of more than {self.limit} items has to be split. Solutions are {self.kind.form}. Actions:\n"
            "split 0: items | items   parts of a problem, written by you\n"
            "solve 1: content   a solution of a problem\n"
            "merge 3 4: content   one solution of the problems of two\n"
            "refine 5: content   a better version of a solution\n"
            "score 5   the number of errors in a solution\n"
            "drop 5   forget a thought\n"
            "answer 6   end with this solution"
        )

    def _look(self, event: str, admissible: bool = True, valid: bool = True) -> State:
        lines = [f"{number} {self._told(thought)}" for number, thought in sorted(self.thoughts.items())]
        extra: dict[str, Any] = {"thoughts": self._made, "errors": None}
        score, answered = 0.0, self._answer >= 0
        if answered:
            whole = self.problems[0]
            extra["errors"] = self.kind.errors(self.given, whole, self.thoughts[self._answer].content)
            score = max(0.0, 1 - extra["errors"] / len(whole))
        won = extra["errors"] == 0
        text = "\n".join([event, "Thoughts:", *lines])
        return State(text, score, won, answered and not won, None, admissible, valid, extra)

    def _told(self, thought: Thought) -> str:
        if thought.is_problem:
            what = f"part of {thought.parents[0]}" if thought.parents else "problem"
            return f"{what}: {self.kind.show(self.given, thought.content)}"
        return f"solves {', '.join(map(str, thought.of))}: {' '.join(thought.content) or NONE}"


def shortest(items: int, limit: int) -> int:
    """Turns that a problem takes: a split, a solution of each part, merges of two, the answer."""
    parts = -(-items // limit)
    return 2 * parts + 1 if parts > 1 else 2


def _pieces(items: Items, limit: int) -> list[Items]:
    return [items[start : start + limit] for start in range(0, len(items), limit)]


def _next_pair(solved: list[tuple[int, ...]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The first solution and the first after it of other problems."""
    return solved[0], next(each for each in solved if not set(each) & set(solved[0]))
