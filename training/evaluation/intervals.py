"""How sure a number is: intervals over tasks, paired differences, exact tests.

A task is the unit: trials of one task are not independent, so they are averaged first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.95


class Interval(NamedTuple):
    """A mean with the bounds of its 95 % confidence interval."""

    mean: float
    low: float
    high: float
    tasks: int

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def success_interval(successes: Sequence[Sequence[bool]]) -> Interval:
    """Success rate over tasks, each with its trials: Wilson's score interval with the effective number of trials.

    One trial per task: `n` tasks and the normal quantile. Several: `n_eff = p (1 - p) / (var(task means) / n)`,
    kept between the number of tasks and of trials, with Student's quantile of n - 1. 20 of 20 never reads as certainty,
    and trials that agree within their tasks add nothing. Student's t on task means, for comparison, covers 82 % where
    rates are extreme and the percentile bootstrap 13 % (LOG.md). Source: Wilson 1927; effective sample size after
    Korn and Graubard 1998; tasks as clusters after Miller 2024 (arXiv 2411.00640).
    """
    played = [trials for trials in successes if len(trials)]
    if not played:
        return Interval(float("nan"), 0.0, 1.0, 0)
    means, tasks, trials = np.array([np.mean(t) for t in played]), len(played), sum(map(len, played))
    mean = float(means.mean())
    if tasks == 1 or trials == tasks or mean in (0.0, 1.0):
        return Interval(mean, *wilson(mean, tasks), tasks)
    variance = float(means.var(ddof=1)) / tasks
    effective = mean * (1 - mean) / variance if variance else trials
    low, high = wilson(mean, min(max(effective, tasks), trials), float(stats.t.ppf(0.5 + LEVEL / 2, tasks - 1)))
    return Interval(mean, low, high, tasks)


def mean_interval(values: Sequence[Sequence[float]]) -> Interval:
    """Mean of fractional scores over tasks, each with its trials: Student's t over task means, not cut to [0, 1].

    A partial score is no success: the two are reported apart.
    """
    means = np.array([np.mean(trials) for trials in values if len(trials)])
    if len(means) < 2:
        mean = float(means[0]) if len(means) else float("nan")
        return Interval(mean, float("-inf"), float("inf"), len(means))
    mean, half = float(means.mean()), _t_half_width(means)
    return Interval(mean, mean - half, mean + half, len(means))


def paired_difference(base: Sequence[Sequence[bool]], other: Sequence[Sequence[bool]]) -> Interval:
    """Mean of `other - base` per task, with Student's t over the tasks both played.

    `d_i = mean(other_i) - mean(base_i)`, half width `t_{.975, n-1} * sd(d) / sqrt(n)`. With no spread
    among the differences (two identical policies, say) the interval is that of one discordant task
    more on either side: `± 1.96 / n`.
    """
    pairs = [(a, b) for a, b in zip(base, other, strict=True) if len(a) and len(b)]
    if len(pairs) < 2:
        return Interval(float("nan"), -1.0, 1.0, len(pairs))
    d = np.array([np.mean(b) - np.mean(a) for a, b in pairs])
    half = _t_half_width(d) if float(d.std()) > 0 else 1.96 / len(d)
    mean = float(d.mean())
    return Interval(mean, max(-1.0, mean - half), min(1.0, mean + half), len(d))


def mcnemar(worse: int, better: int) -> float:
    """Two-sided exact p-value that flips in both directions are equally likely.

    `p = min(1, 2 P(X <= min(worse, better)))`, X binomial of `worse + better` fair coins; 1 without a flip.
    Source: McNemar 1947, exact form.
    """
    if worse < 0 or better < 0:
        raise ValueError(f"expected counts of flips, got {worse} and {better}")
    if worse + better == 0:
        return 1.0
    return min(1.0, 2.0 * float(stats.binom.cdf(min(worse, better), worse + better, 0.5)))


def mcnemar_one_sided(worse: int, better: int) -> float:
    """Exact p-value that `better` flips are no likelier than `worse` ones: `P(X >= better)`, X as in `mcnemar`."""
    if worse + better == 0:
        return 1.0
    return float(stats.binom.sf(better - 1, worse + better, 0.5))


def task_bootstrap(
    values: np.ndarray, statistic: Callable[[np.ndarray], float], resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Percentile interval of any statistic of tasks: whole tasks (rows of `values`) are drawn with replacement.

    Needs a few dozen tasks and rates away from 0 and 1; `success_interval` is for the others. Source: Efron 1979.
    """
    if len(values) < 2:
        raise ValueError(f"expected at least 2 tasks to resample, got {len(values)}")
    rng = np.random.default_rng(seed)
    found = [statistic(values[rng.integers(0, len(values), len(values))]) for _ in range(resamples)]
    low, high = np.quantile(found, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    return Interval(statistic(values), float(low), float(high), len(values))


def wilson(rate: float, count: float, z: float | None = None) -> tuple[float, float]:
    """Wilson's score interval of a proportion `rate` seen in `count` observations, at quantile `z` (of 95 %)."""
    z = float(stats.norm.ppf(0.5 + LEVEL / 2)) if z is None else z
    centre = (rate + z * z / (2 * count)) / (1 + z * z / count)
    half = z * np.sqrt(rate * (1 - rate) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    # At 0 and 1 one bound is exact; rounding must not push it past the rate itself.
    return max(0.0, min(float(centre - half), rate)), min(1.0, max(float(centre + half), rate))


def _t_half_width(x: np.ndarray) -> float:
    n = len(x)
    return float(stats.t.ppf(0.5 + LEVEL / 2, n - 1) * x.std(ddof=1) / np.sqrt(n))
