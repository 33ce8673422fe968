"""Tool environments: what a call costs beside the function itself and beside the raw MCP SDK, and who wins.

    python benchmarks/tools.py [--repeats 5] [--calls 2000] [--only sandbox_ms …] [--out benchmarks/results/tools.json]

*Function*: the same typed function called directly, through `function_tool` (arguments checked), and as an action of an
environment (text parsed, checked, counted, observed). *MCP*: `McpServer.call` against `Client.call_tool` of the SDK in
its own event loop, on the same server, in memory and over stdio. *Sandbox*: a call in the persistent sandbox against
the same cell sent to a bare Python over a pipe; a start with its first call, and a program (`run_program`), against a
bare `bwrap` and a bare Python that run one line. Contenders take turns in one process. *Speed*: steps per second of
experts, start of episodes included. Functions and speed are measured in the processor's time of this process, which is
what a quiet machine takes; MCP and the sandbox by the clock, because two processes work on a call. *Agents*: success
over tasks with Wilson's 95 % interval; the random agent draws from the listed commands (`commands=True`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from measure import interleave, load_average, machine, merge_json, ratio
from turnwise.agents.agent import ScriptedAgent
from turnwise.agents.rollout import Limits
from turnwise.envs import State, Task, ToolEnv, make, tasks
from turnwise.envs.mcp_tools import McpServer
from turnwise.envs.pool import EnvPool
from turnwise.envs.sandbox import probe, process
from turnwise.envs.sandbox.box import Sandbox, run_program
from turnwise.envs.tool_calls import Call, render_calls
from turnwise.envs.tools import Tool, function_tool
from turnwise.training.evaluation import evaluate

SERVER = """
    from mcp.server import MCPServer

    server = MCPServer("bench")

    @server.tool()
    def add(a: int, b: int) -> dict[str, object]:
        "Add two numbers."
        return {"sum": a + b}

    if __name__ == "__main__":
        server.run("stdio")
"""
DESK = "turnwise/ServiceDesk-v0"


def add(a: int, b: int) -> dict[str, Any]:
    """Add two numbers."""
    return {"sum": a + b}


class Adder(ToolEnv):
    """One tool, no end."""

    id = "bench/Adder-v0"

    @classmethod
    def splits(cls) -> dict[str, int]:
        return {"train": 1}

    @classmethod
    def tasks(cls, split: str, count: int | None = None, **params: Any) -> list[Task]:
        return [Task(env=cls.id, max_turns=10**9)]

    def open(self, task: Task) -> tuple[str, Sequence[Tool]]:
        return "Add.", [function_tool(add)]

    def judge(self) -> State:
        return State("")

    def expert_calls(self) -> list[Call]:
        return [Call("add", {"a": 1, "b": 2})]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "tools.json")
    parts: dict[str, Callable[[argparse.Namespace], Any]] = {
        "function_us": lambda given: function_costs(given.repeats, given.calls),
        "mcp_ms": lambda given: mcp_costs(given.repeats, max(given.calls // 10, 20)),
        "sandbox_ms": lambda given: sandbox_costs(given.repeats, given.calls),
        "steps_per_s": lambda given: speeds(given.repeats),
        "agents": lambda given: agents(),
    }
    parser.add_argument("--only", nargs="*", choices=parts, default=list(parts))
    options = parser.parse_args()
    conditions = {"load_average_before": load_average(), **machine()}
    found = {name: parts[name](options) for name in options.only}
    for name, measured in found.items():
        for row in measured if isinstance(measured, list) else [measured]:
            print(name, {key: value for key, value in row.items() if key != "rounds"})
    if options.only == list(parts):
        found["conditions"] = conditions
    else:  # the other entries keep theirs
        found |= {f"{name}_conditions": conditions for name in options.only}
    merge_json(options.out, found)


def function_costs(repeats: int, calls: int) -> dict[str, Any]:
    """Microseconds of one call: bare, as a tool, as a step of an environment."""
    tool, env = function_tool(add), Adder()
    env.reset()
    action, arguments = render_calls([Call("add", {"a": 1, "b": 2})]), {"a": 1, "b": 2}

    def step() -> None:
        env._history.clear()  # an endless episode is not what is measured
        env.step(action)

    contenders: dict[str, Callable[[], Any]] = {
        "bare": lambda: add(**arguments),
        "tool": lambda: tool.run(**tool.check(arguments)),
        "step": step,
    }
    rounds = interleave({name: _timer(run, calls, 1e6, time.process_time) for name, run in contenders.items()}, repeats)
    return _summary(rounds)


def mcp_costs(repeats: int, calls: int) -> dict[str, Any]:
    """Milliseconds of one call over MCP: ours and the SDK's own client, in memory and over stdio."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench_server.py"
        path.write_text(textwrap.dedent(SERVER))
        sys.path.insert(0, folder)
        import bench_server  # type: ignore[import-not-found]

        ours = {"memory": McpServer(bench_server.server), "stdio": McpServer((sys.executable, str(path)))}
        targets = {"memory": bench_server.server, "stdio": path}
        try:
            contenders: dict[str, Callable[[], float]] = {}
            for kind, server in ours.items():
                contenders[f"{kind} ours"] = _timer(
                    lambda s=server: s.call("add", {"a": 1, "b": 2}), calls, 1e3, time.perf_counter
                )
                contenders[f"{kind} sdk"] = lambda t=targets[kind]: asyncio.run(_sdk(t, calls))
            rounds = interleave(contenders, repeats)
        finally:
            for server in ours.values():
                server.close()
    summary = _summary(rounds)
    for kind in ours:
        summary[f"{kind} ours / sdk"] = ratio(rounds[f"{kind} ours"], rounds[f"{kind} sdk"])
    return summary


async def _sdk(target: Any, calls: int) -> float:
    from mcp import Client, StdioServerParameters

    if isinstance(target, Path):
        target = StdioServerParameters(command=sys.executable, args=[str(target)])
    async with Client(target) as client:
        await client.list_tools()
        start = time.perf_counter()
        for _ in range(calls):
            await client.call_tool("add", {"a": 1, "b": 2})
        return (time.perf_counter() - start) / calls * 1e3


CELL = "x = x + 1 if 'x' in globals() else 1\nprint(x)"
BARE = """
import contextlib, io, json, sys
scope = {}
for line in sys.stdin:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(json.loads(line), scope)
    print(json.dumps(out.getvalue()), flush=True)
"""
"""A worker without any protection: the least that a call over a pipe can cost."""


def sandbox_costs(repeats: int, calls: int) -> dict[str, Any]:
    """Milliseconds of a call, of a start with its first call, and of a program of one line."""
    if why := probe.problem():
        raise SystemExit(why)
    python = probe.ready()
    assert isinstance(python, process.Python)
    box = Sandbox()
    bare = subprocess.Popen([python.path, "-S", "-c", BARE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert bare.stdin is not None and bare.stdout is not None

    def ask_bare() -> str:
        assert bare.stdin is not None and bare.stdout is not None
        bare.stdin.write(json.dumps(CELL) + "\n")
        bare.stdin.flush()
        return json.loads(bare.stdout.readline())

    def start_ours() -> None:
        with contextlib.closing(Sandbox()) as fresh:
            assert fresh.run("1").text == "1\n"

    line = [python.path, "-S", "-c", "print(1)"]
    bwrap = [
        process.program(),
        "--unshare-all",
        "--die-with-parent",
        "--new-session",
        "--cap-drop",
        "ALL",
        "--clearenv",
    ]
    bwrap += ["--ro-bind", "/usr", "/usr", "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64"]
    starts = max(calls // 100, 5)
    contenders: dict[str, Callable[[], float]] = {
        "call ours": _timer(lambda: box.run(CELL), calls, 1e3, time.perf_counter),
        "call bare pipe": _timer(ask_bare, calls, 1e3, time.perf_counter),
        "start ours": _timer(start_ours, starts, 1e3, time.perf_counter),
        "start bare bwrap": _timer(lambda: _one_line([*bwrap, "--", *line]), starts, 1e3, time.perf_counter),
        "start bare python": _timer(lambda: _one_line(line), starts, 1e3, time.perf_counter),
        "program ours": _timer(
            lambda: run_program(["main.py"], {"main.py": "print(1)"}), starts, 1e3, time.perf_counter
        ),
    }
    try:
        rounds = interleave(contenders, repeats)
    finally:
        box.close()
        bare.kill()
        bare.communicate()
    summary = _summary(rounds)
    for ours, raw in (("call ours", "call bare pipe"), ("start ours", "start bare bwrap")):
        summary[f"{ours} / {raw}"] = ratio(rounds[ours], rounds[raw])
    return summary


def _one_line(command: list[str]) -> None:
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "1\n"


def speeds(repeats: int) -> dict[str, Any]:
    """Steps per second of experts' episodes."""
    played = {
        "ServiceDesk": tasks(DESK, "test", 50),
        "ServiceDesk depth 4, 3 requests": tasks(DESK, "test", 30, depth=4, requests=3, categories=5),
        "BFCL base": tasks("turnwise/BFCL-v0", "base", 50),
    }

    def run(listed: list[Task]) -> float:
        env, steps, start = make(listed[0].env), 0, time.process_time()
        for task in listed:
            _, info = env.reset(options={"task": task})
            while not info["stop"]:
                info = env.step(env.expert())[-1]
                steps += 1
        env.close()
        return steps / (time.process_time() - start)

    return _summary(interleave({name: lambda listed=listed: run(listed) for name, listed in played.items()}, repeats))


def agents() -> list[dict[str, Any]]:
    """Success of scripted agents."""
    rows = []
    for params in ({}, {"depth": 1}, {"depth": 4, "requests": 3, "categories": 5}):
        for agent in ("expert", "random", "empty"):
            listed = tasks(DESK, "test", 200, **params)
            rows.append(_row(agent, listed, params, Limits(invalid_actions=5)))
    for split in ("base", "miss_func", "miss_param", "long_context"):
        for agent in ("expert", "random", "empty"):
            rows.append(_row(agent, tasks("turnwise/BFCL-v0", split), {"split": split}, Limits()))
    return rows


class _Pool(EnvPool):
    """Service desks that list commands, so that the random agent has something to draw from."""

    def lease(self, task: Task, **kwargs: Any) -> Any:
        return super().lease(task, **({"commands": True} if task.env == DESK else {}), **kwargs)


def _row(agent: str, listed: list[Task], params: dict[str, Any], limits: Limits) -> dict[str, Any]:
    async def play() -> Any:
        pool = _Pool(workers=2)
        try:
            return await evaluate(ScriptedAgent(agent), listed, pool, limits=limits)
        finally:
            await pool.aclose()

    found = asyncio.run(play())
    turns = sum(len(t.turns) for t in found.trajectories) / len(listed)
    broken = sum(turn.counts.get("violations", 0) > 0 for t in found.trajectories for turn in t.turns)
    rates = {key: round(100 * getattr(found.success, key), 1) for key in ("mean", "low", "high")}
    return {
        "env": listed[0].env, "params": params, "agent": agent, "tasks": len(listed), "success_percent": rates,
        "turns": round(turns, 1), "turns_with_violations": int(broken), "by_stop_reason": found.by_stop_reason,
    }  # fmt: skip


def _timer(run: Callable[[], Any], calls: int, scale: float, clock: Callable[[], float]) -> Callable[[], float]:
    def timed() -> float:
        start = clock()
        for _ in range(calls):
            run()
        return (clock() - start) / calls * scale

    return timed


def _summary(rounds: dict[str, list[float]]) -> dict[str, Any]:
    medians = {name: float(f"{sorted(values)[len(values) // 2]:.4g}") for name, values in rounds.items()}
    return {**medians, "rounds": {name: [float(f"{value:.4g}") for value in values] for name, values in rounds.items()}}


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
