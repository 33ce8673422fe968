"""`check_env`: the promises that every environment makes, each tested by playing it in worker processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, cast

from .bad_actions import BAD_ACTIONS
from .bench import Bench, continue_restored, difference, replay_after_prefix, script
from .errors import EnvError, TurnwiseError
from .pool import EnvPool, WorkerEnv, start_once
from .registry import env_class, require, splits, tasks

UNPARSABLE = ("", "   ", "\x00", "x" * 10_000)
INFO_TYPES: dict[str, Any] = {
    "score": float,
    "max_score": float,
    "success": bool,
    "valid": bool,
    "admissible": bool,
    "anchor": str,
    "commands": (tuple, type(None)),
    "goal": str,
    "turn": int,
    "task": str,
    "stop": (str, type(None)),
}


@dataclass(frozen=True)
class Check:
    """One promise, kept or not, and why."""

    name: str
    ok: bool
    detail: str
    seconds: float


@dataclass(frozen=True)
class Report:
    """What `check_env` found."""

    env: str
    params: dict[str, Any]
    checks: tuple[Check, ...]
    memory_mb: float | None = None
    """Memory of a worker process that plays it, what workers share divided among them."""

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`."""
        return {**asdict(self), "checks": [asdict(check) for check in self.checks], "ok": self.ok}


# ---- the promises: each returns what is wrong, nothing when it is kept ------------------------------------


async def check_gymnasium(bench: Bench) -> list[str]:
    """gymnasium's own checker has nothing to say."""
    async with bench.pool.lease(bench.sample[0], **bench.params) as env:
        return await cast(WorkerEnv, env).conform()


async def check_reward(bench: Bench) -> list[str]:
    """The reward is `score_t - score_{t-1}`, and `info` holds what it should."""
    wrong = []
    for played in await bench.episodes("expert", "random", "empty"):
        for before, after in zip((None, *played.steps), played.steps, strict=False):
            wrong += [f"{played.where}: {text}" for text in wrong_info(after.info)]
            delta = after.info["score"] - before.info["score"] if before else 0.0
            if abs(after.reward - delta) > 1e-9:
                wrong.append(f"{played.where}: reward {after.reward} for a score change of {delta}")
    return wrong


def wrong_info(info: dict[str, Any]) -> list[str]:
    """Missing keys and wrong types."""
    return [
        f"info[{key!r}] is {info.get(key, 'missing')!r}"
        for key, kind in INFO_TYPES.items()
        if key not in info or not isinstance(info[key], kind)
    ]


async def check_ordering(bench: Bench) -> list[str]:
    """Progress of every loss is below progress of every win of the expert."""
    wins = [played.progress for played in await bench.episodes("expert") if played.won]
    losses = [played for played in await bench.episodes("random", "empty", "almost") if played.steps and not played.won]
    worst = min(wins, default=float("inf"))
    return [
        f"{loss.where}: lost with {loss.progress:.3g}, a win has {worst:.3g}"
        for loss in losses
        if loss.progress >= worst
    ]


async def check_success(bench: Bench) -> list[str]:
    """Success means the goal: it ends the episode, comes with no limit, and scores like the expert's."""
    wrong = []
    goal = {played.task.key: played.progress for played in await bench.episodes("expert") if played.won}
    for played in await bench.episodes("expert", "random", "empty", "almost"):
        for step in played.steps:
            success, stop = step.info["success"], step.info["stop"]
            if success != (stop == "success") or (success and (step.truncated or not step.terminated)):
                wrong.append(f"{played.where}: success={success} with stop={stop!r}, truncated={step.truncated}")
        if played.won and played.progress < goal.get(played.task.key, played.progress):
            expected = goal[played.task.key]
            wrong.append(
                f"{played.where}: success at {played.progress:.3g} of max_score, the expert's at {expected:.3g}"
            )
    return wrong


async def check_determinism(bench: Bench) -> list[str]:
    """Same task and actions, same bytes: again, in another process (other hash seed), after a broken-off start."""
    wrong = []
    for played in await bench.episodes("expert", "random"):
        if played.error:
            continue
        again = {
            "again": await bench.replay(played),
            "in another process": await bench.replay(played, bench.other),
            "after a prefix": await replay_after_prefix(bench, played),
        }
        wrong += [
            f"{played.where}: {how}: {text}" for how, other in again.items() if (text := difference(played, other))
        ]
    return wrong


async def check_actions(bench: Bench) -> list[str]:
    """`valid` is about parsing, `admissible` about the game; listed commands are admissible."""
    wrong = []
    unknown = env_class(bench.id).unknown_action
    for task in bench.sample:
        async with bench.pool.lease(task, **bench.params) as env:
            for action in (*UNPARSABLE, unknown):
                _, before = await env.reset()
                info = (await env.step(action))[-1]
                if info["valid"] is not (action == unknown) or info["admissible"]:
                    flags = f"valid={info['valid']}, admissible={info['admissible']}"
                    wrong.append(f"{task.split} task {task.key}: {action[:30]!r} was {flags}")
            for command in (before["commands"] or ())[:10]:
                await env.reset()
                if not (await env.step(command))[-1]["admissible"]:
                    wrong.append(f"{task.split} task {task.key}: listed {command!r} was not admissible")
    return wrong


async def check_splits(bench: Bench) -> list[str]:
    """Splits are fixed lists of tasks without a common key."""
    wrong, owner = list[str](), dict[str, str]()
    for split, size in splits(bench.id, **bench.params).items():
        listed = tasks(bench.id, split, **bench.params)
        if [task.key for task in listed] != [task.key for task in tasks(bench.id, split, **bench.params)]:
            wrong.append(f"{split}: two calls list different tasks")
        if not bench.params and len(listed) != size:
            wrong.append(f"{split}: {size} tasks promised, {len(listed)} listed")
        for task in listed:
            if owner.setdefault(task.key, split) != split:
                wrong.append(f"task {task.key} is in {owner[task.key]} and in {split}")
    return wrong


async def check_expert(bench: Bench) -> list[str]:
    """The expert wins every sampled task for which one is known."""
    played = await bench.episodes("expert")
    return [
        f"{each.where}: {each.error or each.steps[-1].info['stop']}" for each in played if each.error or not each.won
    ]


async def check_empty(bench: Bench) -> list[str]:
    """An agent that says nothing wins no task."""
    played = await bench.episodes("empty")
    return [f"{each.where}: {each.error or 'won'}" for each in played if each.error or each.won]


async def check_robustness(bench: Bench) -> list[str]:
    """Every bad action gets an observation in time; the game is as good as new after a reset."""
    wrong = []
    for task in {task.split: task for task in bench.sample}.values():
        for action in BAD_ACTIONS:
            played = await bench.play(task, f"{action[:30]!a}", script([action]))
            wrong += [f"{task.split} task {task.key}: {action[:30]!a}: {played.error}"] if played.error else []
        expert = next((each for each in await bench.episodes("expert") if each.task == task), None)
        if expert is None:
            continue
        after = await bench.replay(expert)
        if expert.won and not after.won:
            wrong.append(f"{expert.where}: its win is {after.error or 'none'} after bad actions")
    wrong += [f"{each.where}: {each.error}" for each in await bench.episodes("random") if each.error]
    return wrong


async def check_isolation(bench: Bench) -> list[str]:
    """Two episodes that run at the same time, as rollouts run them, are what they are alone."""
    wrong, played = list[str](), [each for each in await bench.episodes("expert") if not each.error]
    pool = bench.pool if env_class(bench.id).isolated else EnvPool(workers=1)
    for left, right in pairwise(played):
        alone = [await bench.replay(each, pool) for each in (left, right)]
        again = [await bench.replay(each, pool) for each in (left, right)]
        both = await asyncio.gather(bench.replay(left, pool), bench.replay(right, pool))
        for one, same, beside in zip(alone, again, both, strict=True):
            if not difference(one, same) and (text := difference(one, beside)):  # else determinism fails, not this
                wrong.append(f"{one.where}: beside another: {text}")
    return wrong


async def check_snapshot(bench: Bench) -> list[str]:
    """A restored snapshot goes on as the episode did: after its end, a second time, in another process."""
    wrong = list[str]()
    pool = bench.pool if env_class(bench.id).isolated else EnvPool(workers=1)
    for played in await bench.episodes("expert", "random"):
        if played.error:
            continue
        for how, other in (await continue_restored(bench, played, pool)).items():
            text = difference(played, other)
            if text and not difference(played, await bench.replay(played, bench.other)):  # else determinism fails
                wrong.append(f"{played.where}: {how}: {text}")
    return wrong


PROMISES: dict[str, Callable[[Bench], Awaitable[list[str]]]] = {
    "gymnasium": check_gymnasium,
    "reward": check_reward,
    "ordering": check_ordering,
    "success": check_success,
    "determinism": check_determinism,
    "actions": check_actions,
    "splits": check_splits,
    "expert": check_expert,
    "empty": check_empty,
    "robustness": check_robustness,
    "isolation": check_isolation,
    "snapshot": check_snapshot,
}


def check_env(id: str, tasks_per_split: int = 2, deadline_s: float = 60.0, **params: Any) -> Report:
    """Test the promises on the first `tasks_per_split` tasks of each split; `params` go to `tasks` and the class.

    The environment is played in worker processes, so that a crash or a hang is a failed check.
    """
    found = require(id)
    listed = {split: tasks(found.id, split, tasks_per_split, **params) for split in splits(found.id, **params)}
    sample = [task for split in listed.values() for task in split]
    if not sample:
        check = Check("tasks", False, "no split has a task here; `turnwise envs` says what is missing", 0.0)
        return Report(found.id, params, (check,))
    return asyncio.run(_check(Bench(found.id, sample, params, deadline_s)))


async def _check(bench: Bench) -> Report:
    checks, memory_mb = [], None
    with suppress(EnvError):  # the promises meet it again and say so
        await start_once(env_class(bench.id).unprepared(bench.sample), 2, lambda: None)
    try:
        for name, promise in PROMISES.items():
            start = time.monotonic()
            try:
                wrong = await promise(bench)
            except TurnwiseError as error:
                wrong = [f"{type(error).__name__}: {error}"]
            detail = "; ".join(wrong[:3]) + (f"; and {len(wrong) - 3} more" if len(wrong) > 3 else "")
            doc = (promise.__doc__ or "").strip()
            checks.append(Check(name, not wrong, detail or doc, time.monotonic() - start))
        memory_mb = bench.memory_mb()
    finally:
        bench.close()
    return Report(bench.id, bench.params, tuple(checks), memory_mb)
