"""Held-out evaluation: every task, N trials, success with an interval over tasks, why episodes ended, what it cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ...agents.agent import Agent
from ...agents.rollout import CONCURRENCY, Episode, Limits, Pool, episode_seed, rollout
from ...agents.trajectory import Trajectory
from ...envs.core import StopReason
from ...envs.task import Task
from .intervals import Interval, mean_interval, paired_difference, success_interval
from .power import detectable_by
from .process import Process, of_episodes
from .repeated import Repeated, repeated

ENDPOINT_COUNTS = ("requests", "prompt_tokens", "completion_tokens")
"""What `agents.chat` counts; an endpoint counts the whole prompt in every turn, our engines what is new in it."""


class Evaluation(NamedTuple):
    """One policy on one split."""

    env: str
    split: str
    trials: int
    success: Interval
    successes: dict[str, list[bool]]
    """Task key -> outcome of each trial; trials that ended in an error are left out and counted below."""
    score: Interval
    """Final score as a share of the largest one, over the same trials: a partial score is no success."""
    repeats: Repeated | None
    """pass@k, pass^k and the scatter of runs; None with one trial a task."""
    process: Process
    by_stop_reason: dict[str, int]
    detectable: float
    """Smallest difference to another policy on the same tasks that so many tasks and trials would show."""
    cost: dict[str, float]
    trajectories: list[Trajectory]

    def priced(self, prompt: float, answer: float) -> Evaluation:
        """With `cost["price"]`, given what a million tokens of each kind cost; as it is where that is nothing."""
        if not prompt and not answer:
            return self
        price = (self.cost["prompt_tokens"] * prompt + self.cost["policy_tokens"] * answer) / 1e6
        return self._replace(cost={**self.cost, "price": price})

    def to_json(self) -> dict[str, Any]:
        """The stable shape of `turnwise eval --json`."""
        return {
            "env": self.env,
            "split": self.split,
            "tasks": len(self.successes),
            "trials": self.trials,
            "success": _bounds(self.success),
            "score": _bounds(self.score),
            "repeats": self.repeats._asdict() if self.repeats else None,
            "process": self.process._asdict(),
            "errors": sum(n for reason, n in self.by_stop_reason.items() if StopReason(reason).is_error),
            "by_stop_reason": self.by_stop_reason,
            "detectable": self.detectable,
            "cost": self.cost,
        }


def _bounds(i: Interval) -> dict[str, float]:
    return {"mean": i.mean, "low": i.low, "high": i.high}


async def evaluate(
    agent: Agent,
    tasks: Sequence[Task],
    pool: Pool,
    *,
    trials: int = 1,
    seed: int = 0,
    limits: Limits | None = None,
    on_end: Callable[[Trajectory], None] | None = None,
    done: Sequence[Trajectory] = (),
    concurrency: int = CONCURRENCY,
) -> Evaluation:
    """Play every task `trials` times; the same seed gives two agents the same games and the same dice.

    `done` are episodes of an evaluation that was interrupted: they are counted and not played again.
    """
    finished = {(t.task.key, t.copy_index): t for t in done}
    episodes = [
        Episode(task, group, copy, episode_seed("eval", seed, task.key, copy))
        for group, task in enumerate(tasks)
        for copy in range(trials)
    ]
    left = [e for e in episodes if (e.task.key, e.copy_index) not in finished]
    for t in await rollout(agent, left, pool, limits, concurrency, on_end):
        finished[t.task.key, t.copy_index] = t
    return summarise([finished[e.task.key, e.copy_index] for e in episodes], trials)


def summarise(played: Sequence[Trajectory], trials: int) -> Evaluation:
    """An evaluation from its episodes."""
    successes: dict[str, list[bool]] = {t.task.key: [] for t in played}
    scores: dict[str, list[float]] = {key: [] for key in successes}
    for t in played:
        if not t.stop.is_error:
            successes[t.task.key].append(t.success)
            scores[t.task.key].append(t.score / t.max_score)
    count = max(1, len(played))
    used = Counter[str]()
    for turn in (turn for t in played for turn in t.turns):
        used.update({name: turn.counts[name] for name in ENDPOINT_COUNTS if name in turn.counts})
    cost = {
        "episodes": float(len(played)),
        "turns_per_episode": sum(len(t.turns) for t in played) / count,
        "policy_tokens": float(sum(t.policy_tokens for t in played)) + used["completion_tokens"],
        "prompt_tokens": float(sum(len(u.prompt.ids) for t in played for u in t.turns if u.prompt))
        + used["prompt_tokens"],
        "seconds": round(sum(t.seconds for t in played), 3),
    }
    if used["requests"]:
        cost["requests"] = float(used["requests"])
    reasons = Counter(t.stop.value for t in played)
    first = played[0].task
    return Evaluation(
        first.env, first.split, trials, success_interval(list(successes.values())), successes,
        mean_interval(list(scores.values())), repeated(list(successes.values())), of_episodes(played),
        dict(sorted(reasons.items())), detectable_by(list(successes.values())), cost, list(played),
    )  # fmt: skip


def compare(base: Mapping[str, list[bool]], other: Mapping[str, list[bool]]) -> Interval:
    """Paired difference `other - base` over the tasks that both finished."""
    shared = [key for key in base if key in other]
    return paired_difference([base[k] for k in shared], [other[k] for k in shared])
