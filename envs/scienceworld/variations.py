"""ScienceWorld's tasks and their official splits, without starting Java."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..errors import RequestError, UnknownName
from ..task import Task

ENV_ID = "turnwise/ScienceWorld-v0"

VARIATIONS = {
    "boil": 30,
    "change-the-state-of-matter-of": 30,
    "chemistry-mix": 32,
    "chemistry-mix-paint-secondary-color": 36,
    "chemistry-mix-paint-tertiary-color": 36,
    "find-animal": 300,
    "find-living-thing": 300,
    "find-non-living-thing": 300,
    "find-plant": 300,
    "freeze": 30,
    "grow-fruit": 126,
    "grow-plant": 126,
    "identify-life-stages-1": 14,
    "identify-life-stages-2": 10,
    "inclined-plane-determine-angle": 168,
    "inclined-plane-friction-named-surfaces": 1386,
    "inclined-plane-friction-unnamed-surfaces": 162,
    "lifespan-longest-lived": 125,
    "lifespan-longest-lived-then-shortest-lived": 125,
    "lifespan-shortest-lived": 125,
    "measure-melting-point-known-substance": 436,
    "measure-melting-point-unknown-substance": 300,
    "melt": 30,
    "mendelian-genetics-known-plant": 120,
    "mendelian-genetics-unknown-plant": 480,
    "power-component": 20,
    "power-component-renewable-vs-nonrenewable-energy": 20,
    "test-conductivity": 900,
    "test-conductivity-of-unknown-substances": 600,
    "use-thermometer": 540,
}
"""Task -> number of variations in scienceworld 1.2.3; a test asks the engine."""

SIMPLIFICATIONS = (
    "easy",
    "teleportAction",
    "openDoors",
    "openContainers",
    "selfWateringFlowerPots",
    "noElectricalAction",
)
SPLITS = ("train", "validation", "test")
"""The engine's train, dev and test."""

LONG = {
    **dict.fromkeys(("boil", "change-the-state-of-matter-of", "freeze", "melt"), 300),
    **dict.fromkeys(("grow-fruit", "measure-melting-point-known-substance"), 150),
    "inclined-plane-determine-angle": 300,
    "inclined-plane-friction-named-surfaces": 500,
    "inclined-plane-friction-unnamed-surfaces": 500,
    "measure-melting-point-unknown-substance": 200,
    **dict.fromkeys(("mendelian-genetics-known-plant", "mendelian-genetics-unknown-plant"), 250),
}
"""Task -> turn limit where gold paths come near the usual 100 or pass it: lead boils after 145 actions, a block slides
down rubber in 282. Of 436 gold paths, 3 to 18 of each task, those of other tasks take at most 59."""


def default_turns(task: str) -> int:
    """Turn limit of a task: 100, as usual in the field, where that is enough for the expert."""
    return LONG.get(task, 100)


def split_variations(task: str, split: str) -> range:
    """Variations of a task in a split: two quarters (rounded down) for train, one for validation, the rest for test."""
    count = VARIATIONS[task]
    quarter = count // 4
    return {
        "train": range(2 * quarter),
        "validation": range(2 * quarter, 3 * quarter),
        "test": range(3 * quarter, count),
    }[split]


def make_tasks(
    split: str,
    count: int | None = None,
    *,
    task: str | Sequence[str] | None = None,
    variations: int | None = None,
    simplification: str = "",
    max_turns: int | None = None,
    **unknown: object,
) -> list[Task]:
    """The first `count` tasks of `split`; see `ScienceWorldEnv.tasks`."""
    if unknown:
        known = ("task", "variations", "simplification", "max_turns")
        raise UnknownName(f"parameter of {ENV_ID}", next(iter(unknown)), known)
    if split not in SPLITS:
        raise UnknownName(f"split of {ENV_ID}", split, SPLITS)
    if variations is not None and variations < 1:
        raise RequestError(f"Expected variations >= 1, got {variations}.")
    names = _names(task)
    simplification = _check_simplification(simplification, names)
    chosen = list(_interleaved(split, names, variations))[:count]
    return [
        Task(
            env=ENV_ID, seed=variation, params={"task": name, "simplification": simplification}, split=split,
            max_turns=max_turns or default_turns(name), meta={"task_type": name},
        )
        for name, variation in chosen
    ]  # fmt: skip


def _names(task: str | Sequence[str] | None) -> list[str]:
    names = list(VARIATIONS) if task is None else [task] if isinstance(task, str) else list(task)
    for name in names:
        if name not in VARIATIONS:
            raise UnknownName(f"task of {ENV_ID}", name, VARIATIONS)
    return names


def _check_simplification(text: str, names: Sequence[str]) -> str:
    """The simplifications in the engine's order, so that equal ones have equal keys."""
    wanted = [word for word in text.replace(" ", "").split(",") if word]
    for word in wanted:
        if word not in SIMPLIFICATIONS:
            raise UnknownName(f"simplification of {ENV_ID}", word, SIMPLIFICATIONS)
    electrical = [name for name in names if "power-component" in name or "conductivity" in name]
    if "noElectricalAction" in wanted and electrical:
        raise RequestError(f"noElectricalAction leaves {electrical[0]} without a way to win. Leave one of them out.")
    return ",".join(word for word in SIMPLIFICATIONS if word in wanted)


def _interleaved(split: str, names: Sequence[str], variations: int | None) -> Iterator[tuple[str, int]]:
    """The first variation of every task, then the second of every task, and so on."""
    listed = {name: split_variations(name, split)[:variations] for name in names}
    for index in range(max(map(len, listed.values()), default=0)):
        yield from ((name, numbers[index]) for name, numbers in listed.items() if index < len(numbers))
