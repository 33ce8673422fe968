"""TextWorld's own engine behind the interface of `World`: the reference, at about 20 steps a second."""

from __future__ import annotations

import sys
import threading
from typing import Any

from ..errors import EnvError, MissingDependency
from .engine import World
from .game import Game

_TRANSLATOR = threading.Lock()
"""Loading a game writes `sys.argv` and swaps `sys.stdout`: one at a time in a process."""


def new_engine() -> Any:
    """A stock engine; reuse it from game to game, because each keeps 2.6 MB of library until the process ends."""
    try:
        with _TRANSLATOR:
            from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
            from textworld.core import EnvInfos
            from textworld.envs.pddl import PddlEnv

            return AlfredDemangler(PddlEnv(EnvInfos(won=True, admissible_commands=True)))
    except ImportError as error:
        raise MissingDependency(error.name or "textworld", "alfworld", "ALFWorld's stock engine") from error


class StockWorld(World):
    """A `World` that says, offers and judges what the stock engine does, and keeps our state beside it.

    Our state serves what the stock engine has not (progress, the oracle). A difference between the two is
    an `EnvError`. Copies are plain `World`s.
    """

    __slots__ = ("_engine", "_reply")

    def __init__(self, game: Game, data: dict[str, Any], engine: Any) -> None:
        self._engine = engine
        with _TRANSLATOR:
            argv, out = list(sys.argv), sys.stdout
            try:
                engine.load(data)
                self._reply = engine.reset()
            finally:
                sys.argv[:], sys.stdout = argv, out
        super().__init__(game)

    def intro(self) -> str:
        return self._agree(super().intro())

    @property
    def won(self) -> bool:
        return bool(self._reply["won"])

    def do(self, command: str) -> str:
        text = super().do(command)
        self._reply = self._engine.step(command)[0]
        return self._agree(text)

    def _agree(self, text: str) -> str:
        theirs = (self._reply.feedback, tuple(self._reply["admissible_commands"]), bool(self._reply["won"]))
        if theirs != (text, self.commands, super().won):
            raise EnvError(f"The engines differ: stock says {theirs[0]!r}, ours {text!r}.")
        return theirs[0]
