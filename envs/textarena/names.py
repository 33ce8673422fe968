"""Which games of textarena are played, by family, and which are left out and why; the splits and their tasks."""

from __future__ import annotations

from typing import Any

from ..errors import UnknownName
from ..task import Task

ENV_ID = "turnwise/TextArena-v0"

TURNS: dict[str, int] = {
    "Crosswords-v0": 60,
    "FrozenLake-v0": 60, "FrozenLake-v0-random": 60, "FrozenLake-v0-hardcore": 60,
    "GuessTheNumber-v0": 20, "GuessTheNumber-v0-hardcore": 20,
    "LightsOut-v0": 40,
    "LogicPuzzle-v0": 60, "LogicPuzzle-v0-hard": 60,
    "Minesweeper-v0-small": 60, "Minesweeper-v0": 150, "Minesweeper-v0-medium": 150, "Minesweeper-v0-hard": 150,
    "RushHour-v0": 100,
    "Secretary-v0": 10, "Secretary-v0-long": 20,
    "Slitherlink-v0": 100,
    "Sudoku-v0-very-easy": 30, "Sudoku-v0-easy": 40, "Sudoku-v0": 60, "Sudoku-v0-medium": 100,
    "2048-v0-super-easy": 250, "2048-v0-very-easy": 400, "2048-v0-easy": 1000,
    "Mastermind-v0": 40, "Mastermind-v0-hard": 60, "Mastermind-v0-extreme": 100,
    "Sokoban-v0": 60,
    "ThreeCardMonte-v0": 4,
    "Countdown-v0": 24,
    "Cryptarithm-v0": 30,
    "PegJump-v0": 28,
    "TowerOfHanoi-v0": 28, "TowerOfHanoi-v0-medium": 60, "TowerOfHanoi-v0-hard": 124,
    "TowerOfHanoi-v0-hardcore": 252, "TowerOfHanoi-v0-extreme": 508,
}  # fmt: skip
"""Game -> actions before the episode is truncated, refused ones included; most games end sooner."""
UNSEEN = ("Mastermind", "Sokoban", "ThreeCardMonte")
"""Families that no training task has."""
FIXED = ("Countdown", "Cryptarithm", "PegJump", "TowerOfHanoi")
"""Families without chance: one task each, in a split of their own."""

SEEDS = {"train": 100, "validation": 5, "test": 10, "unseen": 20, "fixed": 1}
"""Split -> seeds per game."""
FIRST_SEED = {split: 1_000_000 * index for index, split in enumerate(SEEDS)}


def family_of(name: str) -> str:
    """`Mastermind` of `Mastermind-v0-hard`."""
    return name.partition("-v0")[0]


def split_names(split: str) -> tuple[str, ...]:
    """Games of a split."""
    kind = split if split in ("unseen", "fixed") else ""
    return tuple(
        name for name in TURNS
        if kind == ("unseen" if family_of(name) in UNSEEN else "fixed" if family_of(name) in FIXED else "")
    )  # fmt: skip


def splits() -> dict[str, int]:
    """Split -> number of tasks."""
    return {split: seeds * len(split_names(split)) for split, seeds in SEEDS.items()}


def make_tasks(
    split: str, count: int | None = None, *, names: str | tuple[str, ...] | list[str] | None = None
) -> list[Task]:
    """The first `count` tasks of `split`: the first seed of every game, then the next.

    names: one or several of the split's games.
    """
    if split not in SEEDS:
        raise UnknownName("split of TextArena", split, SEEDS)
    known = split_names(split)
    wanted = known if names is None else (names,) if isinstance(names, str) else tuple(names)
    for name in wanted:
        if name not in known:
            raise UnknownName(f"TextArena game of split {split!r}", str(name), known)
    pairs = ((index, name) for index in range(SEEDS[split]) for name in wanted)
    made = [
        Task(env=ENV_ID, seed=FIRST_SEED[split] + index, params={"name": name}, max_turns=TURNS[name], split=split,
             goal="Win the game.", meta={"task_type": family_of(name)})
        for index, name in pairs
    ]  # fmt: skip
    return made[:count]


def name_of(params: dict[str, Any]) -> str:
    """The game that a task's params name; raises where it is not played."""
    name = str(params.get("name"))
    if name not in TURNS:
        raise UnknownName("TextArena game", name, TURNS)
    return name
