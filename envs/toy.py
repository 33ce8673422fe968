"""Signs: a game in pure Python whose best policy is known, for tests and first steps."""

from __future__ import annotations

import random
from typing import Any, ClassVar

from .core import State, TextEnv
from .task import Task

COLOURS = ("red", "green", "blue")


class ToyEnv(TextEnv):
    """A row of rooms, each with a sign; the door of the sign's colour leads on, another leads nowhere.

    The optimal policy opens the door that the sign names and wins every task in `rooms` turns. A
    uniform one over the listed commands wins with probability
    `P(X >= rooms)`, X ~ Binomial(max_turns, 1/3). One point per door passed.
    """

    id: ClassVar[str] = "turnwise/Toy-v0"
    _SIZES: ClassVar[dict[str, int]] = {"train": 1000, "validation": 100, "test": 200}
    _FIRST_SEED: ClassVar[dict[str, int]] = {"train": 0, "validation": 100_000, "test": 200_000}

    @classmethod
    def splits(cls) -> dict[str, int]:
        return dict(cls._SIZES)

    @classmethod
    def tasks(cls, split: str, count: int | None = None, *, rooms: int = 3, slack: int = 0) -> list[Task]:
        """Houses of `rooms` rooms, to be left in `rooms + slack` turns."""
        size = cls._SIZES[split] if count is None else min(count, cls._SIZES[split])
        first = cls._FIRST_SEED[split]
        return [
            Task(env=cls.id, seed=first + i, params={"rooms": rooms}, max_turns=rooms + slack,
                 goal=f"Walk through {rooms} rooms.", split=split, difficulty=float(rooms))
            for i in range(size)
        ]  # fmt: skip

    def start(self, task: Task) -> State:
        self._rng = random.Random(task.seed)
        self._rooms, self._passed = int(task.params["rooms"]), 0
        self.max_score = float(self._rooms)
        self._sign = self._rng.choice(COLOURS)
        return self._look("You enter a house.")

    def act(self, action: str) -> State:
        if action not in self._commands():
            return self._look("Nothing happens.", admissible=False)
        if action.split()[1] != self._sign:
            return self._look("A wall.")
        self._passed += 1
        self._sign = self._rng.choice(COLOURS)
        return self._look("You walk on.")

    def expert(self) -> str:
        return f"open {self._sign} door"

    def clone_state(self) -> tuple[Any, ...]:
        return self._rng.getstate(), self._rooms, self._passed, self._sign

    def restore_state(self, clone: tuple[Any, ...]) -> bool:
        state, self._rooms, self._passed, self._sign = clone
        self._rng = random.Random()
        self._rng.setstate(state)
        return True

    @staticmethod
    def _commands() -> tuple[str, ...]:
        return tuple(f"open {colour} door" for colour in COLOURS)

    def _look(self, event: str, admissible: bool = True) -> State:
        won = self._passed >= self._rooms
        text = f"{event} You are out." if won else f"{event} The sign says {self._sign}."
        return State(text, float(self._passed), won, commands=() if won else self._commands(), admissible=admissible)
