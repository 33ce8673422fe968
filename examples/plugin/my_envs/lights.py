"""Lights out in a row: each switch flips its lamp and the neighbours; all lamps have to be lit."""

from __future__ import annotations

import itertools
import random
from typing import ClassVar

from turnwise.envs import State, Task, TextEnv

Lamps = tuple[bool, ...]


def flip(lamps: Lamps, switch: int) -> Lamps:
    """The lamps after one switch."""
    return tuple(lit != (abs(index - switch) <= 1) for index, lit in enumerate(lamps))


def solve(lamps: Lamps) -> list[int]:
    """The fewest switches that light all lamps; the order of switches does not matter, and none is used twice."""
    for count in range(len(lamps) + 1):
        for chosen in itertools.combinations(range(len(lamps)), count):
            after = lamps
            for switch in chosen:
                after = flip(after, switch)
            if all(after):
                return list(chosen)
    raise ValueError("these lamps cannot all be lit")


class LightsEnv(TextEnv):
    """`flip 2` uses the second switch. Starts are made by switching from all lit, so that each can be solved."""

    id: ClassVar[str] = "my_envs/Lights-v0"
    _SIZES: ClassVar[dict[str, tuple[int, int]]] = {"train": (0, 200), "test": (100_000, 50)}

    @classmethod
    def splits(cls) -> dict[str, int]:
        return {name: size for name, (_, size) in cls._SIZES.items()}

    @classmethod
    def tasks(cls, split: str, count: int | None = None, *, lamps: int = 5) -> list[Task]:
        first, size = cls._SIZES[split]
        return [
            Task(env=cls.id, seed=first + i, params={"lamps": lamps}, max_turns=2 * lamps, split=split,
                 goal="Light all lamps.")
            for i in range(size)
        ][:count]  # fmt: skip

    def start(self, task: Task) -> State:
        rng, count = random.Random(task.seed), int(task.params["lamps"])
        self.lamps: Lamps = (True,) * count
        while all(self.lamps):
            for switch in rng.sample(range(count), rng.randint(1, count)):
                self.lamps = flip(self.lamps, switch)
        return self._look("A row of lamps, a switch under each.")

    def act(self, action: str) -> State:
        if action not in self._commands():
            return self._look("Nothing happens.", admissible=False)
        self.lamps = flip(self.lamps, int(action.split()[1]) - 1)
        return self._look("Click.")

    def expert(self) -> str:
        return f"flip {solve(self.lamps)[0] + 1}"

    def _commands(self) -> tuple[str, ...]:
        return tuple(f"flip {index + 1}" for index in range(len(self.lamps)))

    def _look(self, event: str, admissible: bool = True) -> State:
        won = all(self.lamps)
        text = f"{event} {' '.join('on' if lit else 'off' for lit in self.lamps)}"
        return State(text, float(won), won, commands=() if won else self._commands(), admissible=admissible)
