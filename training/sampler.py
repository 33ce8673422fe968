"""What a run plays: tasks drawn and budgets given by what it knows of them, turn limits, hints and budgets in prompts.

The record of tasks, `{task key: [pass rate, diversity]}`, is JSON in the learner's state, so every checkpoint has it.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from ..agents.agent import Agent, Demonstrator, LLMAgent
from ..agents.rollout import Episode, Limits, Pool, RemoteEnv, episode_seed, rollout
from ..agents.trajectory import Trajectory
from ..envs.core import Snapshot, StopReason
from ..envs.errors import RequestError, UnknownName
from ..envs.task import Task
from .catalogue.agentic import retry_lessons, retry_plan
from .catalogue.costs import forced_modes
from .catalogue.offpolicy import mix_policies
from .catalogue.regression import near_mastered
from .catalogue.sampling import distinct_ngrams, hints, horizon, knapsack, one_example, soup, variance_aware
from .config import RLConfig
from .extract import BUDGET, EXPERT, MODES
from .parameters import call, check_value, keyword_defaults, keyword_types

Record = Mapping[str, Sequence[float]]
UNSEEN = (0.5, 1.0)
"""Pass rate and diversity of a task never played: what both parts find worth playing most, or nearly so."""
BUDGETS = (512, 1024, 2048, 2560)
"""HBPO's budgets in tokens of an answer of 4,096; scaled to `hbpo_longest`."""
HINT = "Hint: "
_PARTS = (
    variance_aware, one_example, knapsack, hints, horizon, soup, retry_plan, retry_lessons, forced_modes, mix_policies,
    near_mastered,
)  # fmt: skip


def check_collect(rl: RLConfig) -> None:
    """Refuse parameters of the collect side that no part has, and a budget that cannot be met."""
    known = {name: hint for part in _PARTS for name, hint in keyword_types(part).items()}
    for name, value in rl.collect_params.items():
        if name not in known:
            raise UnknownName("parameter of the collect side", name, known)
        check_value(name, value, known[name])
    low = rl.collect_params.get("budget_low", keyword_defaults(knapsack)["budget_low"])
    if rl.budget == "knapsack" and rl.samples_per_task < low:
        raise RequestError(f"Expected rl.samples_per_task >= budget_low, got {rl.samples_per_task} < {low}.")
    if "budget_total" in rl.collect_params:
        raise RequestError("Expected no budget_total: it is rl.tasks_per_step x rl.samples_per_task.")
    if rl.sampler == "one_shot" and rl.dynamic_sampling:
        raise RequestError("Expected rl.dynamic_sampling=0 with rl.sampler=one_shot: there is no other task to draw.")
    if rl.augmentor in ("ghpo", "reflect_retry") and rl.dynamic_sampling:
        raise RequestError(
            f"Expected rl.dynamic_sampling=0 with rl.augmentor={rl.augmentor}: lost groups get "
            f"{'a hint' if rl.augmentor == 'ghpo' else 'retries'}, not a successor."
        )
    if rl.augmentor == "reflect_retry" and rl.samples_per_task < 2:
        raise RequestError(
            f"Expected rl.samples_per_task >= 2 with rl.augmentor=reflect_retry, got {rl.samples_per_task}: half of a "
            "group are first attempts, the rest retries."
        )
    _check_modes(rl)


def _check_modes(rl: RLConfig) -> None:
    if rl.augmentor != "a2fm":
        return
    if rl.budget != "uniform":
        raise RequestError("Expected rl.budget=uniform with rl.augmentor=a2fm: each mode has its share of a group.")
    if "" not in call(forced_modes, rl.samples_per_task, params=rl.collect_params):
        raise RequestError(
            f"Expected rl.samples_per_task > 3 x forced_per_mode with rl.augmentor=a2fm, got {rl.samples_per_task}: "
            "some episodes have to choose their mode. Lower rl.collect_params.forced_per_mode."
        )


# ---------------------------------------------------------------- which tasks, how often


def task_order(rl: RLConfig, seed: int, step: int, tasks: Sequence[Task], state: Mapping[str, Any]) -> list[int]:
    """Indices of tasks in the order in which a step takes them, drawn by (seed, step) and the record."""
    rng = random.Random(f"{seed}/{step}")
    if rl.sampler == "uniform":
        return rng.sample(range(len(tasks)), len(tasks))
    if rl.sampler == "one_shot":
        return call(one_example, range(len(tasks)), rl.tasks_per_step, params=rl.collect_params)
    pass_rate, diversity = zip(*(_known(state.get("weighed", {}), task) for task in tasks), strict=True)
    weight = call(variance_aware, pass_rate, diversity, params=rl.collect_params)["mixture"]
    left, order = list(range(len(tasks))), []
    for _ in range(min(len(tasks), rl.tasks_per_step * (1 + rl.dynamic_sampling))):
        total = sum(weight[i] for i in left)
        picked = rng.choices(left, [weight[i] for i in left])[0] if total > 0 else rng.choice(left)
        left.remove(picked)
        order.append(picked)
    return order


def group_sizes(rl: RLConfig, tasks: Sequence[Task], state: Mapping[str, Any]) -> list[int]:
    """Episodes of each task's group: samples_per_task, or as many in all shared out by `knapsack`."""
    if rl.budget == "uniform" or not tasks:
        return [rl.samples_per_task] * len(tasks)
    rates = [_known(state.get("tasks", {}), task)[0] for task in tasks]
    total = rl.samples_per_task * len(tasks)
    return call(knapsack, rates, params={**rl.collect_params, "budget_total": total})["samples"]


def _known(record: Record, task: Task) -> Sequence[float]:
    return record.get(task.key, UNSEEN)


def remember(rl: RLConfig, step: int, played: Sequence[Trajectory], state: Mapping[str, Any]) -> dict[str, Any]:
    """The state with what these episodes tell of their tasks; `weighed` is the copy that the sampler goes by."""
    if rl.sampler != "mmr1_vas" and rl.budget == "uniform":
        return dict(state)
    found: dict[str, list[Trajectory]] = {}
    for t in played:
        if not t.stop.is_error:
            found.setdefault(t.task.key, []).append(t)
    record = {key: list(known) for key, known in state.get("tasks", {}).items()}
    for key, ts in found.items():
        texts = [" ".join(turn.action for turn in t.turns) for t in ts]
        record[key] = [sum(t.success for t in ts) / len(ts), distinct_ngrams(texts)]
    new = {**state, "tasks": record}
    if rl.sampler == "mmr1_vas" and (step + 1) % rl.sampler_every == 0:
        new["weighed"] = record
    return new


def episodes(
    rl: RLConfig, seed: int, step: int, tasks: Sequence[Task], chosen: Sequence[int], state: Mapping[str, Any],
    first_group: int,
) -> list[Episode]:  # fmt: skip
    """Groups of episodes of the chosen tasks, each with a seed of its own even where a task comes twice.

    Half of a group where the other half are retries.
    """
    sizes = group_sizes(rl, [tasks[index] for index in chosen], state)
    if rl.augmentor == "reflect_retry":
        sizes = [(size + 1) // 2 for size in sizes]
    found = []
    for g, (index, size) in enumerate(zip(chosen, sizes, strict=True)):
        again = () if chosen.index(index) == g else (first_group + g,)
        for copy in range(size):
            episode = episode_seed("train", seed, step, index, copy, *again)
            found.append(Episode(tasks[index], first_group + g, copy, episode))
    return found


# ---------------------------------------------------------------- shaped environments


class Shaped:
    """A pool whose episodes end after `turns` turns and whose first observation has `note(task)` below it."""

    def __init__(self, pool: Pool, turns: int | None = None, note: Callable[[Task], str] | None = None) -> None:
        self.pool, self.turns, self.note = pool, turns, note

    @asynccontextmanager
    async def lease(self, task: Task) -> AsyncIterator[RemoteEnv]:
        """The pool's environment, shaped."""
        async with self.pool.lease(task) as env:
            yield _ShapedEnv(env, self.turns, self.note(task) if self.note else "")

    def capacity(self, task: Task) -> int | None:
        """That of the pool."""
        return self.pool.capacity(task)


class _ShapedEnv:
    def __init__(self, env: RemoteEnv, turns: int | None, note: str) -> None:
        self.env, self.turns, self.note, self.played = env, turns, note, 0

    async def reset(self) -> tuple[str, dict[str, Any]]:
        observation, info = await self.env.reset()
        return f"{observation}\n{self.note}" if self.note else observation, info

    async def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = await self.env.step(action)
        self.played += 1
        if self.turns is not None and self.played >= self.turns and not info["stop"]:
            return observation, reward, terminated, True, {**info, "stop": StopReason.TURN_LIMIT.value}
        return observation, reward, terminated, truncated, info

    async def expert(self) -> str:
        return await self.env.expert()

    async def snapshot(self) -> Snapshot:
        return await self.env.snapshot()

    async def restore(self, snapshot: Snapshot) -> tuple[str, dict[str, Any]]:
        self.played = len(snapshot.actions)
        return await self.env.restore(snapshot)


def shaped_pool(rl: RLConfig, step: int, pool: Pool) -> Pool:
    """The pool of an RL step: with the step's turn limit where a curriculum sets one."""
    if rl.curriculum == "none":
        return pool
    return Shaped(pool, call(horizon, step, params=rl.collect_params))


# ---------------------------------------------------------------- help


async def play(
    agent: LLMAgent, wanted: Sequence[Episode], pool: Pool, limits: Limits, rl: RLConfig, longest: int
) -> list[Trajectory]:
    """The episodes in their order; hbpo tells each quarter of a group a budget of tokens, a2fm gives some a mode."""
    found: dict[tuple[int, int], Trajectory] = {}
    if rl.augmentor == "a2fm":
        modes = call(forced_modes, rl.samples_per_task, params=rl.collect_params)
        for mode in (*MODES, ""):
            own = [e for e in wanted if modes[e.copy_index] == mode]
            player = LLMAgent(agent.engine, agent.renderer, agent.context, agent.temperature, agent.name, mode)
            for t in await rollout(player, own, pool, limits):
                found[t.group, t.copy_index] = t.model_copy(update={"forced": bool(mode)})
        return [found[e.group, e.copy_index] for e in wanted]
    if rl.augmentor != "hbpo":
        return await rollout(agent, wanted, pool, limits)
    for index, tokens in enumerate(BUDGETS):
        own = [e for e in wanted if e.copy_index % len(BUDGETS) == index]
        text = BUDGET.format(max(1, round(tokens * longest / 4096)))
        for t in await rollout(agent, own, Shaped(pool, note=lambda _, text=text: text), limits):
            found[t.group, t.copy_index] = t
    return [found[e.group, e.copy_index] for e in wanted]


async def with_hints(
    agent: Agent, played: Sequence[Trajectory], pool: Pool, limits: Limits, rl: RLConfig, seed: int, step: int,
    expert: Demonstrator,
) -> list[Trajectory]:  # fmt: skip
    """The episodes after groups that won nothing were played again with more and more of a solution.

    The solution is the expert's list of actions. The group that wins first takes the place of the lost one; one that
    never wins stays. Solutions that the expert fails to find leave their group alone. GHPO.
    """
    groups: dict[int, list[Trajectory]] = {}
    for t in played:
        groups.setdefault(t.group, []).append(t)
    lost = [g for g, ts in groups.items() if not any(t.success for t in ts)]
    shown = [Episode(groups[g][0].task, g, 0, episode_seed(EXPERT, seed, step, g)) for g in lost]
    solved = await rollout(expert, shown, pool, limits) if shown else []
    solutions = {t.task.key: "; ".join(turn.action for turn in t.turns) for t in solved if t.success}
    ladder = {key: call(hints, text, [0.0], params=rl.collect_params) for key, text in solutions.items()}
    replaced: dict[int, list[Trajectory]] = {}
    for level in range(max(map(len, ladder.values()), default=0)):
        again = [
            Episode(t.task, g, t.copy_index, episode_seed("hint", seed, step, g, t.copy_index, level))
            for g in lost
            if g not in replaced and groups[g][0].task.key in ladder
            for t in groups[g]
        ]
        notes = {key: f"{HINT}{texts[level]}" for key, texts in ladder.items()}
        tried = await rollout(agent, again, Shaped(pool, note=lambda task, notes=notes: notes[task.key]), limits)
        won = {t.group for t in tried if t.success}
        replaced |= {g: [t for t in tried if t.group == g] for g in won}
    return [t for g, ts in groups.items() for t in replaced.get(g, ts)]


def hinted(played: Sequence[Trajectory]) -> float:
    """Share of episodes whose first observation holds a hint: their success is not the policy's own."""
    return sum(bool(t.turns) and f"\n{HINT}" in t.turns[0].observation for t in played) / len(played)


def mode_shares(played: Sequence[Trajectory]) -> dict[str, float]:
    """Share of each mode among the episodes that chose theirs, and of those that named none."""
    free = [t.mode for t in played if not t.forced]
    return {f"mode/{mode or 'none'}": free.count(mode) / max(1, len(free)) for mode in (*MODES, "")}
