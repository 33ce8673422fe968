"""Environments in worker processes: episodes per second, memory."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import Sequence
from itertools import cycle
from typing import Any

from turnwise.envs import Task, TextEnv, make, tasks
from turnwise.envs.pool import EnvPool
from turnwise.envs.processes import proportional_mb

Script = tuple[Task, tuple[str, ...]]
"""A task and the commands that are replayed in it."""


def pool_rate(scripts: Sequence[Script], workers: int, seconds: float) -> float:
    """Episodes per second; workers are started before the clock is."""

    async def main() -> float:
        pool = EnvPool(workers=workers)
        try:
            for script in scripts:
                await asyncio.gather(*(play_in(pool, script) for _ in range(workers)))
            begun, done = time.perf_counter(), 0

            async def player(first: int) -> None:
                nonlocal done
                for index, script in enumerate(cycle(scripts)):
                    if index < first:  # not all in the same game at the same time
                        continue
                    if time.perf_counter() - begun >= seconds:
                        return
                    await play_in(pool, script)
                    done += 1

            await asyncio.gather(*(player(first) for first in range(workers)))
            return done / (time.perf_counter() - begun)
        finally:
            await pool.aclose()

    return asyncio.run(main())


async def play_in(pool: EnvPool, script: Script) -> None:
    """One episode in a worker."""
    task, commands = script
    async with pool.lease(task) as env:
        await env.reset()
        for command in commands:
            await env.step(command)


def local_mb(count: int) -> float:
    """Growth of this process per ALFWorld environment, each in a game of its own."""
    envs, listed = list[TextEnv](), tasks("ALFWorld", "test", count + 1)
    for task in listed:
        envs.append(make("ALFWorld"))
        _, info = envs[-1].reset(options={"task": task})
        while info["stop"] is None:
            info = envs[-1].step(envs[-1].expert())[4]
        if len(envs) == 1:  # what all share: modules, grammar, floor plans
            before = own_mb()
    return (own_mb() - before) / count


def own_mb() -> float:
    """MB of this process, garbage left out."""
    gc.collect()
    return proportional_mb(os.getpid()) or 0.0


async def worker_mb(listed: Sequence[Task], kwargs: dict[str, Any]) -> float:
    """Mean over workers that are alive together, each with an environment that has played."""
    pool = EnvPool(workers=len(listed), isolate_all=True)

    async def hold(task: Task) -> None:
        async with pool.lease(task, **kwargs) as env:
            await env.reset()
            info: dict[str, Any] = {"stop": None}
            for _ in range(5):
                if info["stop"] is None:
                    *_, info = await env.step(await env.expert())
            await together.wait()

    together = asyncio.Barrier(len(listed) + 1)
    try:
        holding = [asyncio.create_task(hold(task)) for task in listed]
        while together.n_waiting < len(listed):
            await asyncio.sleep(0.05)
            for task in holding:
                if task.done():
                    task.result()
        sizes = pool.memory().values()
        await together.wait()
        await asyncio.gather(*holding)
        return sum(sizes) / len(listed)
    finally:
        await pool.aclose()
