"""Named suites: lists of held-out tasks by their content keys, so that a number a year from now is of the same tasks.

A suite is a JSON file beside this module: parts, each with an environment, a split, parameters and the keys of its
tasks in order. Tasks are listed by the environment and compared with the keys before anything is played.
`python -m turnwise.training.evaluation.suites` writes the files of `DEFINED` anew; raise `version` when keys change.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ...envs import registry
from ...envs.errors import RequestError, UnknownName
from ...envs.task import Task

FOLDER = Path(__file__).with_name("suites")


class Part(BaseModel):
    """One list of tasks; its success is reported by itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: Literal["in distribution", "unseen tasks", "unseen families"]
    """What is new to a policy trained on the environment's `train` split: other seeds of the same generator; rooms,
    products or wordings kept for testing; another kind of game or size."""
    env: str
    split: str = "test"
    params: dict[str, Any] = Field(default_factory=dict)
    count: int = Field(ge=1)
    keys: tuple[str, ...] = ()

    def listed(self) -> list[Task]:
        """The tasks as the environment lists them here."""
        return registry.tasks(self.env, self.split, self.count, **self.params)

    def tasks(self) -> list[Task]:
        """The suite's tasks; refuses where the environment lists others."""
        found = self.listed()
        other = [t.key for t, key in zip(found, self.keys, strict=False) if t.key != key]
        if other or len(found) != len(self.keys):
            raise RequestError(
                f"Expected the {len(self.keys)} tasks of the suite's part {self.name!r}, got {len(found)} of which "
                f"{len(other)} differ: the environment or its data is of another version. Numbers would not compare."
            )
        return found

    def known_to(self, trained_on: Collection[str]) -> list[str]:
        """Keys of this part that are among a run's training tasks."""
        return sorted(set(self.keys) & set(trained_on))


class Suite(BaseModel):
    """A named, versioned list of parts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: int
    about: str
    parts: tuple[Part, ...]


def names() -> list[str]:
    """Every suite that there is."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def load(name: str) -> Suite:
    """The suite of that name."""
    if name not in names():
        raise UnknownName("suite", name, names())
    return Suite.model_validate_json((FOLDER / f"{name}.json").read_text())


TEXTWORLD, ALFWORLD = "turnwise/TextWorld-v0", "turnwise/ALFWorld-v0"
COIN = {"family": "coin_collector", "level": 10}
COOK = {"family": "cooking", "recipe": 1, "take": 1, "cook": 1}
FULL = {"receptacles": 60, "distractors": 30, "max_turns": 50}
SMOKE: dict[str, dict[str, Any]] = {
    "Toy": {}, "ALFWorld": {"task_types": "pick_and_place_simple", "receptacles": 4, "distractors": 0},
    "BlocksWorld": {}, "Game24": {}, "SearchQA": {}, "ServiceDesk": {"depth": 1}, "Shop": {"products": 100},
    "ReasoningGym": {}, "TextArena": {}, "Negotiation": {}, "Werewolf": {}, "ThoughtGraph": {}, "PythonTool": {},
    "SWE": {},
}  # fmt: skip
SEEDS, CONTENT, KINDS = "in distribution", "unseen tasks", "unseen families"

DEFINED = (
    Suite(name="toy", version=1, about="The pure-Python coin game; seconds, to try a pipeline.", parts=(
        Part(name="validation", kind=SEEDS, env="turnwise/Toy-v0", split="validation", count=50),
        Part(name="test", kind=SEEDS, env="turnwise/Toy-v0", count=100),
        Part(name="six rooms", kind=KINDS, env="turnwise/Toy-v0", params={"rooms": 6}, count=100),
    )),
    # After Tiny QA Benchmark++: does everything still play at all, in seconds, before anything is measured.
    Suite(name="smoke", version=1, about="One or two small tasks of each environment that starts at once.", parts=tuple(
        Part(name=name, kind=SEEDS, env=f"turnwise/{name}-v0", params=params, count=2)
        for name, params in SMOKE.items()
    )),
    Suite(name="textworld", version=1, about="Real TextWorld games: unseen worlds, then other families.", parts=(
        Part(name="w2-o3-q4", kind=SEEDS, env=TEXTWORLD, params={"grid": "w2-o3-q4"}, count=100),
        Part(name="w4-o6-q8", kind=KINDS, env=TEXTWORLD, params={"grid": "w4-o6-q8"}, count=100),
        Part(name="coin collector 10", kind=KINDS, env=TEXTWORLD, params=COIN, count=100),
        Part(name="cooking", kind=KINDS, env=TEXTWORLD, params=COOK, count=100),
    )),
    Suite(name="alfworld", version=1, about="All six household tasks in generated rooms never trained in.", parts=(
        Part(name="rooms of 5", kind=CONTENT, env=ALFWORLD, params={"receptacles": 5, "distractors": 3}, count=200),
        Part(name="rooms of 8", kind=CONTENT, env=ALFWORLD, params={"receptacles": 8, "distractors": 6}, count=200),
        Part(name="full rooms", kind=CONTENT, env=ALFWORLD, params=FULL, count=200),
    )),
    Suite(name="scienceworld", version=1, about="Variations of elementary science kept for testing.", parts=(
        Part(name="test", kind=CONTENT, env="turnwise/ScienceWorld-v0", count=200),
    )),
    Suite(name="tools", version=1, about="A service desk with a policy, and BFCL's multi-turn tasks.", parts=(
        Part(name="service desk", kind=SEEDS, env="turnwise/ServiceDesk-v0", count=100),
        Part(name="BFCL base", kind=KINDS, env="turnwise/BFCL-v0", split="base", count=200),
    )),
    Suite(name="code", version=1, about="Questions that need a program, and unseen repositories.", parts=(
        Part(name="python", kind=CONTENT, env="turnwise/PythonTool-v0", count=100),
        Part(name="repositories", kind=CONTENT, env="turnwise/SWE-v0", count=100),
    )),
    Suite(name="games", version=2, about="Opponents, kinds of question and games that training does not have.", parts=(
        Part(name="negotiation", kind=KINDS, env="turnwise/Negotiation-v0", split="unseen", count=100),
        Part(name="werewolf", kind=KINDS, env="turnwise/Werewolf-v0", split="unseen", count=100),
        Part(name="reasoning", kind=KINDS, env="turnwise/ReasoningGym-v0", split="unseen", count=200),
        Part(name="textarena", kind=KINDS, env="turnwise/TextArena-v0", split="unseen", count=100),
        Part(name="thought graph", kind=KINDS, env="turnwise/ThoughtGraph-v0", split="large", count=100),
    )),
    Suite(name="web", version=1, about="The shop as text: products and wordings never met in training.", parts=(
        Part(name="shop", kind=CONTENT, env="turnwise/Shop-v0", count=200),
    )),
)  # fmt: skip


def write() -> None:
    """Write every defined suite with the keys that its environments list here."""
    FOLDER.mkdir(exist_ok=True)
    for suite in DEFINED:
        parts = tuple(part.model_copy(update={"keys": tuple(t.key for t in part.listed())}) for part in suite.parts)
        data = suite.model_copy(update={"parts": parts}).model_dump(mode="json")
        (FOLDER / f"{suite.name}.json").write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    write()
