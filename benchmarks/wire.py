"""What a step costs over the wire: in this process, over our server, over OpenEnv's own, with either client.

    python benchmarks/wire.py [--repeats 5] [--steps 400] [--out benchmarks/results/wire.json]

*Step*: milliseconds of one step of an endless episode of one word, whose environment does nothing, so that what is
measured is the way there and back: `local` (the environment called), `pool` (a worker process of `EnvPool`), `ours`
(our client, our server), and with OpenEnv in an environment of its own (`make peers`) `their_client` (its
`GenericEnvClient().sync()`, our server), `their_server` (our client, its `create_app`) and `theirs` (both its own).
*Episodes*: steps per second of ServiceDesk's expert over 40 tasks, resets included, in process and over our server.
Servers run in processes of their own; contenders take turns; times are by the clock: two processes share a step.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from measure import interleave, load_average, machine, merge_json, ratio
from turnwise.envs import State, Task, TextEnv, make, register, tasks
from turnwise.envs.openenv.client import get
from turnwise.envs.pool import EnvPool

ROOT = Path(__file__).resolve().parent.parent
DESK, OPENENV = "turnwise/ServiceDesk-v0", "turnwise/OpenEnv-v0"
THEIR_SERVER = """
    import sys
    import uvicorn
    from openenv.core.env_server import Action, Environment, Observation, State, create_app

    class Say(Action):
        action: str

    class Told(Observation):
        text: str

    class Idle(Environment):
        SUPPORTS_CONCURRENT_SESSIONS = True

        def reset(self, seed=None, episode_id=None, **kwargs):
            return Told(text="Go on.")

        def step(self, action, timeout_s=None, **kwargs):
            return Told(text="Go on.", reward=0.0)

        @property
        def state(self):
            return State()

    uvicorn.run(create_app(Idle, Say, Told, max_concurrent_envs=8), port=int(sys.argv[1]), log_level="error")
"""
THEIR_CLIENT = """
    import sys, time
    from openenv.core import GenericEnvClient
    with GenericEnvClient(base_url=sys.argv[1]).sync() as env:
        env.reset(seed=0)
        for line in sys.stdin:
            start = time.perf_counter()
            for _ in range(int(line)):
                env.step({"action": "go"})
            print(time.perf_counter() - start, flush=True)
"""


class Idle(TextEnv):
    """Nothing happens, for ever."""

    id = "bench/Idle-v0"

    @classmethod
    def splits(cls) -> dict[str, int]:
        return {"train": 1}

    @classmethod
    def tasks(cls, split: str, count: int | None = None, **params: Any) -> list[Task]:
        return [Task(env=cls.id, max_turns=10**9)]

    def start(self, task: Task) -> State:
        return State("Go on.")

    def act(self, action: str) -> State:
        self._history.clear()  # an endless episode is not what is measured
        return State("Go on.")

    def expert(self) -> str:
        return "go"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--serve", type=int, default=0, help="used by this script: serve the idle environment")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "wire.json")
    options = parser.parse_args()
    register(Idle.id, "wire:Idle")
    if options.serve:
        serve(options.serve)
        return
    load = load_average()
    with contextlib.ExitStack() as stack:
        steps = interleave(contenders(options.steps, stack), options.repeats)
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(_process([sys.executable, "-m", "turnwise.training.cli", "serve", DESK, "--port"]))
        local, wired = tasks(DESK, "test", 40), tasks(OPENENV, "test", 40, url=url)
        episodes = interleave({"local": lambda: _speed(local), "ours": lambda: _speed(wired)}, options.repeats)
    found = {
        "step_ms": _summary(steps),
        "episodes_steps_per_s": _summary(episodes) | {"ours / local": ratio(episodes["ours"], episodes["local"])},
        "conditions": {"load_average_before": load, "steps": options.steps, **machine()},
    }
    for one, other in (("their_client", "theirs"), ("ours", "theirs")):
        if one in steps and other in steps:
            found["step_ms"][f"{one} / {other}"] = ratio(steps[one], steps[other])
    for name in ("step_ms", "episodes_steps_per_s"):
        print(name, {key: value for key, value in found[name].items() if key != "rounds"})
    merge_json(options.out, found)


def contenders(steps: int, stack: contextlib.ExitStack) -> dict[str, Callable[[], float]]:
    """Name -> milliseconds per step; those of OpenEnv where it is installed."""
    ours = stack.enter_context(_process([sys.executable, str(Path(__file__).resolve()), "--serve"]))
    found = {"local": _stepper(None, steps), "pool": _pooled(steps), "ours": _stepper(ours, steps)}
    python = os.environ.get("TURNWISE_OPENENV_PYTHON") or str(ROOT / ".venv-openenv" / "bin" / "python")
    if not Path(python).exists():
        print("without OpenEnv: make peers")
        return found
    theirs = stack.enter_context(_process([python, "-c", textwrap.dedent(THEIR_SERVER)]))
    return found | {
        "their_client": _their_client(python, ours, steps, stack),
        "their_server": _stepper(theirs, steps, success_at=1.0),
        "theirs": _their_client(python, theirs, steps, stack),
    }


def _stepper(url: str | None, steps: int, **params: Any) -> Callable[[], float]:
    """Our environment, here or behind a server."""
    task = tasks(OPENENV, "train", 1, url=url, **params)[0] if url else Idle.tasks("train")[0]
    env = make(OPENENV) if url else Idle()
    env.reset(options={"task": task})

    def run() -> float:
        start = time.perf_counter()
        for _ in range(steps):
            env._history.clear()
            env.step("go")
        return (time.perf_counter() - start) / steps * 1e3

    return run


def _pooled(steps: int) -> Callable[[], float]:
    async def play() -> float:
        pool = EnvPool(workers=1, isolate_all=True)
        try:
            async with pool.lease(Idle.tasks("train")[0]) as env:
                await env.reset()
                start = time.perf_counter()
                for _ in range(steps):
                    await env.step("go")
                return (time.perf_counter() - start) / steps * 1e3
        finally:
            await pool.aclose()

    return lambda: asyncio.run(play())


def _their_client(python: str, url: str, steps: int, stack: contextlib.ExitStack) -> Callable[[], float]:
    command = [python, "-c", textwrap.dedent(THEIR_CLIENT), url]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=_alone())
    stack.callback(process.kill)

    def run() -> float:
        assert process.stdin and process.stdout
        process.stdin.write(f"{steps}\n")
        process.stdin.flush()
        return float(process.stdout.readline()) / steps * 1e3

    return run


def _speed(listed: list[Task]) -> float:
    """Steps per second of the expert."""
    env, steps, start = make(listed[0].env), 0, time.perf_counter()
    for task in listed:
        _, info = env.reset(options={"task": task})
        while not info["stop"]:
            info = env.step(env.expert())[-1]
            steps += 1
    env.close()
    return steps / (time.perf_counter() - start)


@contextlib.contextmanager
def _process(command: list[str]) -> Iterator[str]:
    """The address of a server in a process of its own, which takes its port as the last argument."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    theirs = command[0] != sys.executable
    process = subprocess.Popen([*command, str(port)], stdout=subprocess.DEVNULL, env=_alone() if theirs else None)
    try:
        url = f"http://127.0.0.1:{port}"
        while process.poll() is None:
            with contextlib.suppress(ValueError):
                get(url, "/health")
                break
            time.sleep(0.1)
        yield url
    finally:
        process.kill()
        process.wait()


def serve(port: int) -> None:
    """The idle environment on a port."""
    import uvicorn
    from turnwise.envs.openenv.served import Served
    from turnwise.envs.openenv.server import create_app

    app = create_app(Served(Idle.id))
    uvicorn.run(app, port=port, log_level="error", access_log=False, ws_per_message_deflate=False)


def _alone() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


def _summary(rounds: dict[str, list[float]]) -> dict[str, Any]:
    medians = {name: float(f"{sorted(values)[len(values) // 2]:.4g}") for name, values in rounds.items()}
    return {**medians, "rounds": {name: [float(f"{value:.4g}") for value in values] for name, values in rounds.items()}}


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).resolve().parent), os.environ.get("PYTHONPATH", "")])
    main()
