"""A person at the terminal, playing one episode after the other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from rich.console import Console

from ..envs.core import StopReason
from .agent import Agent, Answer, OutOfRoom, Player

DAY_S = 24 * 3600.0
"""A person may take this long for an episode."""


class HumanAgent(Agent):
    """Asks the person at the terminal. `?` lists the admissible commands, an empty line or end of input gives up."""

    name = "human"

    def __init__(self, console: Console) -> None:
        self.console = console

    def play(self, episode: str, seed: int, expert: Callable[[], Awaitable[str]]) -> Player:
        return _Human(self.console)


class _Human:
    def __init__(self, console: Console) -> None:
        self.console = console

    async def answer(self, observation: str, info: dict[str, Any]) -> Answer:
        self.console.print(f"\n{observation}", markup=False)
        while True:
            try:
                line = self.console.input("[bold]> [/]").strip()
            except EOFError:
                line = ""
            if line == "?":
                self.console.print("\n".join(info["commands"] or ["(this game lists none)"]), style="dim", markup=False)
                continue
            if not line:
                raise OutOfRoom(StopReason.ABORTED)
            return Answer(line)

    def close(self) -> None:
        pass
