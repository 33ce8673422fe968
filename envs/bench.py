"""Episodes of scripted, random and expert agents, for `check`."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from .core import Snapshot
from .errors import EnvError, TurnwiseError
from .pool import EnvPool, PlayedEnv
from .registry import env_class
from .task import Task


class Step(NamedTuple):
    """One turn; the first of an episode is its reset, with an empty action."""

    action: str
    observation: str
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]


class Episode(NamedTuple):
    """What an agent met; `error` when the environment broke."""

    task: Task
    agent: str
    steps: tuple[Step, ...]
    error: str | None = None

    @property
    def actions(self) -> list[str]:
        return [step.action for step in self.steps[1:]]

    @property
    def won(self) -> bool:
        return bool(self.steps) and self.steps[-1].info["success"] is True

    @property
    def progress(self) -> float:
        """(last score - first score) / max_score."""
        first, last = self.steps[0].info, self.steps[-1].info
        return (last["score"] - first["score"]) / last["max_score"]

    @property
    def where(self) -> str:
        return f"{self.agent} agent, {self.task.split} task {self.task.key}"


Agent = Callable[[PlayedEnv, Step, int], Awaitable[str]]


class Bench:
    """Plays each agent once per sampled task, in worker processes, and remembers the episodes."""

    def __init__(self, id: str, sample: Sequence[Task], params: dict[str, Any], deadline_s: float) -> None:
        self.id, self.sample, self.params = id, sample, params
        self.pool, self.other = (EnvPool(workers=2, deadline_s=deadline_s, isolate_all=True) for _ in range(2))
        self._played: dict[tuple[str, str], Episode] = {}

    async def play(self, task: Task, name: str, agent: Agent, pool: EnvPool | None = None) -> Episode:
        steps: list[Step] = []
        try:
            async with (pool or self.pool).lease(task, **self.params) as env:
                await episode(env, agent, steps)
        except TurnwiseError as error:
            return Episode(task, name, tuple(steps), f"{type(error).__name__}: {error}")
        return Episode(task, name, tuple(steps))

    async def replay(self, source: Episode, pool: EnvPool | None = None) -> Episode:
        return await self.play(source.task, source.agent, script(source.actions), pool)

    async def episodes(self, *names: str) -> list[Episode]:
        """One of each agent and task; none that needs an expert where none is known."""
        expertless = {task.key for task in self.sample if not env_class(self.id).has_expert(task)}
        pairs = ((task, name) for name in names for task in self.sample)
        played = (pair for pair in pairs if pair[0].key not in expertless or pair[1] not in ("expert", "almost"))
        return [await self._once(task, name) for task, name in played]

    async def _once(self, task: Task, name: str) -> Episode:
        key = (task.key, name)
        if key not in self._played:
            agent = await self._almost(task) if name == "almost" else AGENTS[name](task)
            self._played[key] = await self.play(task, name, agent)
        return self._played[key]

    async def _almost(self, task: Task) -> Agent:
        """The best loser: the expert's actions but the last, then nothing."""
        return script((await self._once(task, "expert")).actions[:-1])

    def memory_mb(self) -> float | None:
        """Mean memory of a worker that plays the environment, in MB; None where it cannot be told."""
        sizes = self.pool.memory().values()
        return round(sum(sizes) / len(sizes), 1) if sizes else None

    def close(self) -> None:
        self.pool.close()
        self.other.close()


async def episode(env: PlayedEnv, agent: Agent, steps: list[Step]) -> None:
    """Play until the environment stops, appending to `steps`."""
    observation, info = await env.reset()
    steps.append(Step("", observation, 0.0, False, False, info))
    await go_on(env, agent, steps)


async def go_on(env: PlayedEnv, agent: Agent, steps: list[Step]) -> None:
    """Play on from `steps`, the episode so far, until the environment stops."""
    while not (steps[-1].terminated or steps[-1].truncated):
        if len(steps) > env.task.max_turns:
            raise EnvError(f"The episode did not stop after {env.task.max_turns} turns, its limit.")
        action = await agent(env, steps[-1], len(steps) - 1)
        steps.append(Step(action, *await env.step(action)))


def script(actions: Sequence[str]) -> Agent:
    """These actions, then empty ones."""

    async def agent(env: PlayedEnv, last: Step, turn: int) -> str:
        await asyncio.sleep(0)  # let a neighbour in the same process move
        return actions[turn] if turn < len(actions) else ""

    return agent


def expert_agent(task: Task) -> Agent:
    async def agent(env: PlayedEnv, last: Step, turn: int) -> str:
        return await env.expert()

    return agent


def random_agent(task: Task) -> Agent:
    """Uniform over the listed commands; unknown words where none are listed."""
    rng, unknown = random.Random(task.key), env_class(task.env).unknown_action

    async def agent(env: PlayedEnv, last: Step, turn: int) -> str:
        return rng.choice(last.info["commands"] or (unknown,))

    return agent


AGENTS: dict[str, Callable[[Task], Agent]] = {
    "expert": expert_agent,
    "random": random_agent,
    "empty": lambda task: script(()),
}


async def replay_after_prefix(bench: Bench, source: Episode) -> Episode:
    """Play half of the actions, reset the same instance, then play all of them."""
    steps: list[Step] = []
    try:
        async with bench.pool.lease(source.task, **bench.params) as env:
            await env.reset()
            for action in source.actions[: len(source.actions) // 2]:
                await env.step(action)
            await episode(env, script(source.actions), steps)
    except TurnwiseError as error:
        return source._replace(steps=tuple(steps), error=str(error))
    return source._replace(steps=tuple(steps))


async def continue_restored(bench: Bench, source: Episode, pool: EnvPool) -> dict[str, Episode]:
    """How -> the episode continued from a snapshot at half of its actions, which was taken in `pool`."""
    half, found = len(source.actions) // 2, dict[str, Episode]()
    async with pool.lease(source.task, **bench.params) as env:
        await env.reset()
        for action in source.actions[:half]:
            await env.step(action)
        saved = await env.snapshot()
        for action in source.actions[half:]:
            await env.step(action)
        for how in ("after the episode went on", "from the same snapshot again"):
            found[how] = await _continued(env, saved, source)
            if found[how].error:
                return found
    async with bench.other.lease(source.task, **bench.params) as env:
        carried = Snapshot.model_validate_json(saved.model_dump_json())
        found["in another process"] = await _continued(env, carried, source)
    return found


async def _continued(env: PlayedEnv, saved: Snapshot, source: Episode) -> Episode:
    steps, turn = list(source.steps[: len(saved.digests)]), len(saved.actions)
    agent = expert_agent(source.task) if source.agent == "expert" else script(source.actions)
    try:
        observation, info = await env.restore(saved)
        steps[turn] = steps[turn]._replace(observation=observation, info=info)
        await go_on(env, agent, steps)
    except TurnwiseError as error:
        return source._replace(steps=tuple(steps), error=str(error))
    return source._replace(steps=tuple(steps))


def difference(one: Episode, other: Episode) -> str | None:
    """The first turn at which two episodes differ, or None."""
    if other.error:
        return other.error
    for turn, (left, right) in enumerate(zip(one.steps, other.steps, strict=False)):
        if json.dumps(left) != json.dumps(right):
            return f"turn {turn}: {left.observation[:80]!r} became {right.observation[:80]!r}"
    if len(one.steps) != len(other.steps):
        return f"{len(one.steps) - 1} turns became {len(other.steps) - 1}"
    return None
