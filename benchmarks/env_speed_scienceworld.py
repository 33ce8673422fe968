"""ScienceWorld: our environment against its raw engine, and what a virtual machine and an environment weigh.

*Raw* is `ScienceWorldEnv` of the `scienceworld` package as its users start it, with `server.step`, `getScore` and
`getCompleted` in a plain loop; its own `step` also lists all valid actions and is many times slower. *Ours* is
`TextEnv.step`, in the same process. Both replay the same winning actions of the same tasks; loading is not timed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from turnwise.envs import TextEnv, make, tasks
from turnwise.envs.scienceworld.jvm import Simulator
from turnwise.envs.task import Task

PLAYED = ("boil", "find-animal", "use-thermometer", "test-conductivity", "grow-plant")
WARM_UP_S = 10.0
"""The virtual machine compiles what it runs often; until then it is several times slower."""


def raw_steps(seconds: float) -> float:
    """Steps per second of the raw engine."""
    from scienceworld import ScienceWorldEnv

    env = ScienceWorldEnv()
    try:
        return _rate(lambda: _raw_episodes(env), seconds)
    finally:
        env.close()


def our_steps(seconds: float) -> float:
    """Steps per second of `turnwise/ScienceWorld-v0`."""
    env = make("ScienceWorld")
    try:
        return _rate(lambda: _our_episodes(env), seconds)
    finally:
        env.close()


def memory(envs: int = 4) -> dict[str, float]:
    """MB resident in the virtual machine: with one environment that has played, and for each further one."""
    opened = list[TextEnv]()
    try:
        sizes = []
        for _ in range(envs):
            opened.append(make("ScienceWorld"))
            for _ in _our_episodes(opened[-1]):
                pass
            sizes.append(_resident_mb(machine_pid(opened[-1])))
        return {"jvm": round(sizes[0], 1), "env": round((sizes[-1] - sizes[0]) / (envs - 1), 1)}
    finally:
        for env in opened:
            env.close()


def machine_pid(env: TextEnv) -> int:
    """Process id of the virtual machine that plays `env`."""
    game: Simulator = env._game  # type: ignore[attr-defined]
    return game.pid


@lru_cache
def _scripts() -> tuple[tuple[Task, tuple[str, ...]], ...]:
    """Tasks with the expert's actions."""
    env = make("ScienceWorld")
    found = []
    for task in tasks("ScienceWorld", "train", len(PLAYED), task=PLAYED):
        _, info = env.reset(options={"task": task})
        actions = []
        while info["stop"] is None:
            actions.append(env.expert())
            info = env.step(actions[-1])[-1]
        assert info["success"], f"the expert lost {task.params['task']}"
        found.append((task, tuple(actions)))
    env.close()
    return tuple(found)


def _raw_episodes(env: Any) -> Iterator[tuple[int, float]]:
    """Steps and seconds of each episode."""
    for task, actions in _scripts():
        env.load(task.params["task"], task.seed, task.params["simplification"])
        start = time.perf_counter()
        for action in actions:
            env.server.step(action)
            env.server.getScore()
            env.server.getCompleted()
        yield len(actions), time.perf_counter() - start


def _our_episodes(env: TextEnv) -> Iterator[tuple[int, float]]:
    """Steps and seconds of each episode."""
    for task, actions in _scripts():
        env.reset(options={"task": task})
        start = time.perf_counter()
        for action in actions:
            env.step(action)
        yield len(actions), time.perf_counter() - start


def _rate(episodes: Callable[[], Iterator[tuple[int, float]]], seconds: float) -> float:
    """Steps per second of stepping, over whole rounds of the tasks, after a warm-up."""
    _play_for(episodes, WARM_UP_S)
    steps, spent = _play_for(episodes, seconds)
    return steps / spent


def _play_for(episodes: Callable[[], Iterator[tuple[int, float]]], seconds: float) -> tuple[int, float]:
    steps, spent = 0, 0.0
    while spent < seconds:
        for played, took in episodes():
            steps, spent = steps + played, spent + took
    return steps, spent


def _resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    raw, ours = raw_steps(20.0), our_steps(20.0)
    print(f"raw {raw:.0f} steps/s, ours {ours:.0f} steps/s, ratio {ours / raw:.2f}; MB {memory()}")
