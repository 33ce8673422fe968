"""One episode in the terminal, played by a person or watched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from ..agents.human import DAY_S
from ..agents.rollout import Episode, rollout
from ..agents.trajectory import Trajectory
from ..envs import registry
from ..envs.errors import RequestError
from ..envs.pool import EnvPool
from ..envs.task import Task
from .target import make_agent, options_for, resolve_recipe


async def play_in_terminal(
    env: str, agent: str, key: str, split: str, params: Mapping[str, Any], console: Console
) -> Trajectory:
    """Play one task and print the episode."""
    task = _task(env, key, split, params)
    recipe, policy = resolve_recipe(agent, env)
    player, sampler = make_agent(recipe, policy, agent, temperature=0.0, engine="torch", console=console)
    pool = EnvPool(workers=1, lease_s=DAY_S, options=options_for(recipe, task.env))
    try:
        limits = recipe.limits.model_copy(update={"seconds": DAY_S})
        (trajectory,) = await rollout(player, [Episode(task)], pool, limits)
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
