"""One episode in the terminal, played by a person or watched."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from rich.console import Console

from ..agents.agent import Agent, Answer, OutOfRoom, Player
from ..agents.rollout import Episode, play
from ..agents.trajectory import Trajectory
from ..envs import registry
from ..envs.core import StopReason
from ..envs.errors import RequestError
from ..envs.pool import EnvPool
from ..envs.task import Task
from .target import make_agent, options_for, resolve_recipe

DAY_S = 24 * 3600.0
"""A person may take this long."""


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


async def play_in_terminal(
    env: str, agent: str, key: str, split: str, params: Mapping[str, Any], console: Console
) -> Trajectory:
    """Play one task and print the episode."""
    task = _task(env, key, split, params)
    if agent == "human":
        player: Agent = HumanAgent(console)
        sampler = None
        recipe, _ = resolve_recipe("human", env)
    else:
        recipe, policy = resolve_recipe(agent, env)
        player, sampler = make_agent(recipe, policy, agent, temperature=0.0, engine="torch")
    pool = EnvPool(workers=1, lease_s=DAY_S, options=options_for(recipe, task.env))
    try:
        limits = recipe.limits.model_copy(update={"seconds": DAY_S})
        trajectory = await play(player, Episode(task), pool, limits, name="play")
    finally:
        if sampler is not None:
            sampler.close()
        await pool.aclose()
    if agent != "human":
        for turn in trajectory.turns:
            console.print(f"\n{turn.observation}", markup=False)
            console.print(f"> {turn.action}", style="bold", markup=False)
    console.print(f"\n{trajectory.final_observation}", markup=False)
    console.print(
        f"\n{trajectory.stop.value} after {len(trajectory.turns)} turns, score {trajectory.score:g} of "
        f"{trajectory.max_score:g}, task {task.key}" + (f"\n{trajectory.error}" if trajectory.error else ""),
        style="dim", markup=False,
    )  # fmt: skip
    return trajectory


def _task(env: str, key: str, split: str, params: Mapping[str, Any]) -> Task:
    if not key:
        found = registry.tasks(env, split, 1, **params)
        if not found:
            raise RequestError(f"{env} has no task in split {split!r}.")
        return found[0]
    for task in registry.tasks(env, split, **params):
        if task.key == key:
            return task
    raise RequestError(
        f"No task {key!r} in split {split!r} of {env}. `play` prints a game's key, a run's card.json lists them."
    )
