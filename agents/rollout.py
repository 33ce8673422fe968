"""Playing: one coroutine per episode, no lock step. An episode that ends makes room for the next."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field

from ..envs.core import Snapshot, StopReason
from ..envs.errors import EnvError
from ..envs.task import Task
from .agent import Agent, EpisodeAgent, OutOfRoom, Player
from .engine import EngineError
from .trajectory import Trajectory, Turn

CONCURRENCY = 256
"""Episodes played side by side."""


class Limits(BaseModel):
    """When an episode is given up. The task's own `max_turns` always holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    invalid_actions: int = Field(default=5, ge=1, description="unparsable or impossible actions in a row")
    policy_tokens: int | None = Field(default=None, ge=1, description="tokens sampled per episode")
    seconds: float = Field(default=600.0, gt=0, description="wall clock per episode")


class Start(NamedTuple):
    """Where an episode goes on from instead of from its task's start."""

    snapshot: Snapshot
    turns: tuple[Turn, ...]
    """What was played up to there: the new episode's first turns."""


class Episode(NamedTuple):
    """One episode to play."""

    task: Task
    group: int = 0
    copy_index: int = 0
    seed: int = 0
    start: Start | None = None


class RemoteEnv(Protocol):
    """An environment behind a pool's lease."""

    async def reset(self) -> tuple[str, dict[str, Any]]: ...

    async def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]: ...

    async def expert(self) -> str: ...

    async def snapshot(self) -> Snapshot: ...

    async def restore(self, snapshot: Snapshot) -> tuple[str, dict[str, Any]]: ...


class Pool(Protocol):
    """Hands out environments; see `envs.pool.EnvPool`."""

    def lease(self, task: Task) -> AbstractAsyncContextManager[RemoteEnv]: ...

    def capacity(self, task: Task) -> int | None: ...


def episode_seed(*parts: int | str) -> int:
    """A 31-bit seed from whatever names an episode (run seed, step, task, copy)."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


async def rollout(
    agent: Agent,
    episodes: Sequence[Episode],
    pool: Pool,
    limits: Limits | None = None,
    concurrency: int = CONCURRENCY,
    on_end: Callable[[Trajectory], None] | None = None,
) -> list[Trajectory]:
    """Play all `episodes`, at most `concurrency` at once; trajectories come in the order of `episodes`."""
    played: dict[int, Trajectory] = {}
    waiting = iter(enumerate(episodes))

    async def one_after_the_other() -> None:
        with agent.seat():
            for index, episode in waiting:
                played[index] = await play(agent, episode, pool, limits or Limits(), name=f"{index}")
                if on_end is not None:
                    on_end(played[index])

    # No more seats than environments: an exact engine would wait for an episode that waits for a worker.
    room = [capacity for task in {e.task.env: e.task for e in episodes}.values() if (capacity := pool.capacity(task))]
    with _collecting_new_garbage_only():
        async with agent.on_duty():
            await asyncio.gather(*(one_after_the_other() for _ in range(min(concurrency, len(episodes), *room))))
    return [played[index] for index in range(len(episodes))]


@contextmanager
def _collecting_new_garbage_only() -> Iterator[None]:
    """Keep what is alive now out of garbage collections.

    Records are many small objects and set off full collections, each a walk over everything that torch and an
    engine have imported (0.3 s with vLLM); only what the rollout itself makes needs looking at.
    """
    if gc.get_freeze_count():  # the caller, or an outer rollout, has done this and will undo it
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


async def play(agent: Agent, episode: Episode, pool: Pool, limits: Limits, name: str) -> Trajectory:
    """Play one episode. What breaks in the environment or the engine ends the episode as data."""
    if isinstance(agent, EpisodeAgent):
        return await agent.episode(episode, pool, limits, f"{name}-{episode.group}-{episode.copy_index}-{episode.seed}")
    record = _Record(agent.name, episode)
    try:
        async with pool.lease(episode.task) as env, asyncio.timeout(limits.seconds):  # waiting for a worker is free
            player = agent.play(f"{name}-{episode.group}-{episode.copy_index}-{episode.seed}", episode.seed, env.expert)
            try:
                await _turns(record, player, env, limits)
            finally:
                player.close()
    except OutOfRoom as end:
        record.stop = end.stop
    except EnvError as error:
        record.fail(StopReason.ENV_ERROR, error)
    except EngineError as error:
        record.fail(StopReason.ENGINE_ERROR, error)
    except TimeoutError:
        record.stop = StopReason.TIME_LIMIT
    return record.trajectory()


async def _turns(record: _Record, player: Player, env: RemoteEnv, limits: Limits) -> None:
    start = record.episode.start
    observation, info = await (env.restore(start.snapshot) if start else env.reset())
    record.begin(observation, info)
    wrong, tokens = 0, sum(len(turn.output.ids) for turn in record.turns if turn.output)
    while record.stop is None:
        answer = await player.answer(observation, info)
        record.mode = record.mode or answer.mode
        anchor = info["anchor"]
        after, reward, _, _, info = await env.step(answer.action)
        record.add(
            Turn(
                observation=observation, anchor=anchor, action=answer.action, reward=reward, score=info["score"],
                valid=info["valid"], admissible=info["admissible"], counts={**info.get("counts", {}), **answer.counts},
                prompt=answer.prompt, output=answer.output, restart=answer.restart,
            ),
            after, info,
        )  # fmt: skip
        observation = after
        wrong = 0 if info["admissible"] else wrong + 1
        tokens += len(answer.output.ids) if answer.output else 0
        if record.stop is None and wrong >= limits.invalid_actions:
            record.stop = StopReason.INVALID_LIMIT
        if record.stop is None and limits.policy_tokens and tokens >= limits.policy_tokens:
            record.stop = StopReason.TOKEN_LIMIT


class _Record:
    """A trajectory in the making."""

    def __init__(self, agent: str, episode: Episode) -> None:
        self.agent, self.episode = agent, episode
        self.turns: list[Turn] = list(episode.start.turns) if episode.start else []
        self.stop: StopReason | None = None
        self.mode = ""
        self.error: str | None = None
        self.observation, self.success, self.score, self.max_score = "", False, 0.0, 1.0
        self.started = time.perf_counter()

    def begin(self, observation: str, info: dict[str, Any]) -> None:
        self.observation, self.score, self.max_score = observation, info["score"], info["max_score"]

    def add(self, turn: Turn, observation: str, info: dict[str, Any]) -> None:
        self.turns.append(turn)
        self.observation, self.score, self.success = observation, info["score"], info["success"]
        self.stop = StopReason(info["stop"]) if info["stop"] else None

    def fail(self, stop: StopReason, error: Exception) -> None:
        self.stop, self.error = stop, f"{type(error).__name__}: {error}"

    def trajectory(self) -> Trajectory:
        return Trajectory(
            task=self.episode.task, agent=self.agent, group=self.episode.group, copy_index=self.episode.copy_index,
            seed=self.episode.seed, turns=tuple(self.turns), final_observation=self.observation,
            stop=self.stop or StopReason.ABORTED, success=self.success, score=self.score, max_score=self.max_score,
            error=self.error, seconds=round(time.perf_counter() - self.started, 4), mode=self.mode,
        )  # fmt: skip
