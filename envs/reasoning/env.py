"""`turnwise/ReasoningGym-v0`: one question of reasoning-gym, one answer, the library's own score."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, ClassVar

from ..core import State, TextEnv
from ..errors import RequestError, UnknownName
from ..task import Task
from . import names
from .experts import SOLVERS
from .grading import ROW, grade, read_rows, write_rows

MAX_ANSWER_CHARS = 6_000
GIVE_UP = "I do not know"


class ReasoningGymEnv(TextEnv):
    """A question and one answer, which ends the episode. Success is the library's score 1, nothing less.

    The score of a wrong answer is what the library gives it: between 0 and 1 for one that is partly right or only well
    formed. `info["family"]` names the family of the generator.
    """

    id: ClassVar[str] = names.ENV_ID
    isolated: ClassVar[bool] = True  # graders run on whatever an agent writes: a deadline and a process of their own
    max_action_chars: ClassVar[int] = MAX_ANSWER_CHARS
    unknown_action: ClassVar[str] = GIVE_UP

    @classmethod
    def splits(cls) -> dict[str, int]:
        return names.splits()

    @classmethod
    def tasks(cls, split: str, count: int | None = None, **params: Any) -> list[Task]:
        """The first `count` tasks of `split`; `names.make_tasks` has the parameters."""
        return names.make_tasks(split, count, **params)

    def clean(self, action: Any) -> str | None:
        """Printable lines: grids are written in several, and spaces belong to some answers."""
        if not isinstance(action, str) or len(action) > self.max_action_chars or not action.strip():
            return None
        lines = [line.rstrip("\r").replace("\t", " ") for line in action.strip("\n").split("\n")]
        return "\n".join(lines) if all(line.isprintable() for line in lines) else None

    def start(self, task: Task) -> State:
        self._name = task.params["dataset"]
        self._dataset = make_dataset(task)
        self._entry: dict[str, Any] = self._dataset[0]
        gold = self._entry["answer"]
        self._rows = isinstance(gold, str) and "\n" in gold and ROW not in gold
        hint = f"\n\nWrite the rows of the answer on lines of their own, or on one line with {ROW} between them."
        return self._look(str(self._entry["question"]) + (hint if self._rows else ""), 0.0)

    def act(self, action: str) -> State:
        if self.state.success or self.state.failure:
            return self.state._replace(observation="The question is answered.", admissible=False)
        if action.strip() == GIVE_UP:
            return self._look("Not answered.", 0.0, over=True, admissible=False)
        score = grade(self._dataset, self._name, self._entry, read_rows(action, self._rows))
        return self._look("Right." if score == 1.0 else "Wrong.", score, over=True)

    def expert(self) -> str:
        """The gold answer, on one line where the library takes it so; a solver's where there is none."""
        gold = self._entry["answer"]
        if gold is None:
            return SOLVERS[self._name](self._entry["metadata"])
        line = write_rows(gold) if self._rows else " ".join(gold.split())
        written = read_rows(line, self._rows)
        return line if grade(self._dataset, self._name, self._entry, written) == 1.0 else gold

    def _look(self, text: str, score: float, over: bool = False, admissible: bool = True) -> State:
        extra = {"family": names.family_of(self._name)}
        won = score == 1.0
        return State(text, score, won, over and not won, admissible=admissible, extra=extra)


def make_dataset(task: Task) -> Any:
    """The library's data set of a task, whose only entry is the task; the last few are kept."""
    name, level, config = task.params["dataset"], task.params.get("level"), task.params.get("config") or {}
    known = [each for members in names.FAMILIES.values() for each in members]
    if name not in known:
        raise UnknownName("generator of ReasoningGym", str(name), known)
    try:
        return _make_dataset(name, task.seed, level, json.dumps(config))
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise RequestError(
            f"Expected arguments that {name} takes, got level {level!r} and {config}: {error}."
        ) from error


@lru_cache(maxsize=16)
def _make_dataset(name: str, seed: int, level: int | None, config: str) -> Any:
    import reasoning_gym
    from reasoning_gym.factory import DATASETS, create_curriculum

    if level is None or name in names.PLAIN:
        return reasoning_gym.create_dataset(name, seed=seed, size=1, **json.loads(config))
    curriculum = create_curriculum(name)
    for attribute, definition in curriculum.attributes.items():
        top = min(names.TOP_LEVEL.get(name, names.MAX_LEVEL), len(definition.levels) - 1)
        curriculum.set_attr_level(attribute, min(level, top))
    made: Any = curriculum.generate_configuration({"seed": seed, "size": 1})
    return DATASETS[name][0](made)
