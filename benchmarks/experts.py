"""What the scripted agents win: the expert beside one that plays at random and one that says nothing.

    python benchmarks/experts.py Toy ALFWorld TextWorld:family=cooking,take=2 [--splits test] [--tasks 100]
                                 [--agents expert,random,empty] [--workers 2] [--out FILE]

An environment is its id, bare or whole, with task parameters after a colon. Every task is played once by every agent.
The expert plays the tasks for which one is known.
Rates come with Wilson's 95 % interval; `progress` is the mean of score / max_score, `turns` the mean length. An episode
that the environment broke is no loss: it is left out of the rates and counted as `broken`.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any

from measure import load_average, machine, merge_json
from turnwise.agents.agent import ScriptedAgent
from turnwise.agents.trajectory import Trajectory
from turnwise.envs import Task, env_class, registry
from turnwise.envs.pool import EnvPool, start_once
from turnwise.training.config import parse_settings
from turnwise.training.evaluation import evaluate

AGENTS = ("expert", "random", "empty")


def main() -> None:
    """Play, print a line per agent, write the figures to the result file."""
    options = _options()
    print(
        f"{'environment':52} {'split':20} {'agent':7} {'tasks':>5} {'success':>24} {'progress':>8} {'turns':>6} broken"
    )
    for name in options.env:
        id, params = parse_env(name)
        for split in options.splits:
            results = measure(id, params, split, options.tasks, options.agents, options.workers)
            for row in results["agents"]:
                print(line(name, split, row), flush=True)
            merge_json(options.out, {f"{name} {split}": results})


def parse_env(text: str) -> tuple[str, dict[str, Any]]:
    """`TextWorld:family=cooking,take=2` -> the id and the task parameters."""
    name, _, settings = text.partition(":")
    return registry.spec(name).id, parse_settings(settings.split(",") if settings else [])


def measure(
    id: str, params: dict[str, Any], split: str, count: int, agents: Sequence[str], workers: int
) -> dict[str, Any]:
    """Figures of each agent on the first `count` tasks of `split`, and the conditions."""
    tasks = registry.tasks(id, split, count, **params)
    started, load = time.perf_counter(), load_average()
    asyncio.run(start_once(env_class(id).unprepared(tasks), workers, lambda: None))
    rows = [asyncio.run(_play(agent, tasks, workers)) for agent in agents]
    conditions = {"seconds": round(time.perf_counter() - started, 1), "load_average_before": load, **machine()}
    return {"env": id, "params": params, "split": split, "agents": rows, "conditions": conditions}


class _Pool(EnvPool):
    """Environments that list commands where they can, so that the random agent has something to draw from."""

    def lease(self, task: Task, **kwargs: Any) -> Any:
        listed = {"commands": True} if "commands" in signature(env_class(task.env)).parameters else {}
        return super().lease(task, **listed, **kwargs)


async def _play(agent: str, tasks: Sequence[Task], workers: int) -> dict[str, Any]:
    tasks = [task for task in tasks if agent != "expert" or env_class(task.env).has_expert(task)]
    pool = _Pool(workers=workers)
    try:
        found = await evaluate(ScriptedAgent(agent), tasks, pool)
    finally:
        await pool.aclose()
    whole = [t for t in found.trajectories if not t.stop.is_error]
    return {
        "agent": agent,
        "tasks": len(tasks),
        "won": sum(t.success for t in whole),
        "success": {"mean": found.success.mean, "low": found.success.low, "high": found.success.high},
        "progress": _mean([_progress(t) for t in whole]),
        "turns": _mean([len(t.turns) for t in whole]),
        "broken": len(found.trajectories) - len(whole),
        "by_stop_reason": found.by_stop_reason,
    }


def line(name: str, split: str, row: dict[str, Any]) -> str:
    """One row of the table."""
    mean, low, high = (100 * row["success"][key] for key in ("mean", "low", "high"))
    success = f"{mean:.1f} % [{low:.1f}, {high:.1f}]"
    return (
        f"{name:52} {split:20} {row['agent']:7} {row['tasks']:5} {success:>24} {row['progress']:8.3f} "
        f"{row['turns']:6.1f} {row['broken']:6}"
    )


def _progress(episode: Trajectory) -> float:
    return episode.score / episode.max_score


def _mean(values: Sequence[float]) -> float:
    return round(statistics.fmean(values), 4) if values else float("nan")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("env", nargs="+", help="environment id, with task parameters after a colon")
    parser.add_argument("--splits", type=lambda text: text.split(","), default=["test"], help="comma-separated")
    parser.add_argument("--tasks", type=int, default=100, help="tasks per split")
    parser.add_argument("--agents", type=_agents, default=AGENTS, help="comma-separated, of: " + ", ".join(AGENTS))
    parser.add_argument("--workers", type=int, default=2, help="worker processes for isolated environments")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "experts.json")
    return parser.parse_args()


def _agents(text: str) -> list[str]:
    names = text.split(",")
    unknown = sorted(set(names) - set(AGENTS))
    if unknown:
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(AGENTS)}, got {', '.join(unknown)}")
    return names


if __name__ == "__main__":
    main()
