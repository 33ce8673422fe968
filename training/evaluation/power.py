"""How many tasks and runs it takes to see a difference: asked before, reported after.

The difference of two policies on T tasks with R runs each varies with

    Var(diff) = Var_i(p_Ai - p_Bi) / T + (s2_A + s2_B) / (T R)

where the first term is there only if the tasks stand for others like them, and s2 is the variance within a task,
p (1 - p). Source: On Randomness in Agentic Evals; Miller 2024 (arXiv 2411.00640).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, sqrt
from typing import NamedTuple

import numpy as np
from scipy import stats

from .intervals import Interval

ALPHA, POWER = 0.05, 0.8


def quantiles(alpha: float = ALPHA, power: float = POWER) -> float:
    """`z_{1 - alpha/2} + z_power`: 2.8016 at the defaults, 7.849 squared."""
    return float(stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(power))


def difference_deviation(within: float, between: float, tasks: int, runs: int) -> float:
    """Standard deviation of the difference of two policies.

    within: variance of one outcome within a task, mean of both policies. between: variance over tasks of the difference
    of their true rates; 0 for a claim about these tasks only.
    """
    return sqrt(between / tasks + 2 * within / (tasks * runs))


def runs_needed(difference: float, deviation: float, alpha: float = ALPHA, power: float = POWER) -> int:
    """Runs of each of two systems on the same tasks: `R >= (z_{1-a/2} + z_{1-b})^2 * 2 SD_run^2 / delta^2`."""
    return max(1, ceil(quantiles(alpha, power) ** 2 * 2 * deviation**2 / difference**2 - 1e-9))


def tasks_needed(
    difference: float, within: float, between: float, runs: int, alpha: float = ALPHA, power: float = POWER
) -> int:
    """Tasks that both systems play `runs` times each, compared pair by pair."""
    return max(2, ceil((quantiles(alpha, power) * difference_deviation(within, between, 1, runs) / difference) ** 2))


def unpaired_tasks_needed(first: float, second: float, alpha: float = ALPHA, power: float = POWER) -> int:
    """Tasks per system if each plays other ones, by the test of two proportions.

    `(z_{1-a/2} sqrt(2 m (1 - m)) + z_{1-b} sqrt(p (1 - p) + q (1 - q)))^2 / (p - q)^2`, m the mean of p and q.
    """
    mean = (first + second) / 2
    null = stats.norm.ppf(1 - alpha / 2) * sqrt(2 * mean * (1 - mean))
    other = stats.norm.ppf(power) * sqrt(first * (1 - first) + second * (1 - second))
    return ceil((null + other) ** 2 / (first - second) ** 2)


def detectable(deviation: float, alpha: float = ALPHA, power: float = POWER) -> float:
    """Smallest true difference that is found with `power`, given the deviation of the difference."""
    return quantiles(alpha, power) * deviation


def power_of(difference: float, deviation: float, alpha: float = ALPHA) -> float:
    """Chance that a two-sided test finds a true `difference`: both tails of the normal approximation."""
    if deviation == 0:
        return 1.0 if difference else alpha
    z, shift = float(stats.norm.ppf(1 - alpha / 2)), abs(difference) / deviation
    return float(stats.norm.sf(z - shift) + stats.norm.cdf(-z - shift))


class Plan(NamedTuple):
    """One way to spend episodes: `runs` of each of `tasks`, for each of two policies."""

    runs: int
    tasks: int
    episodes: int
    """Of each policy."""
    detectable: float
    """Smallest difference found with the power asked for."""


def plans(
    difference: float,
    rate: float,
    agreement: float = 0.5,
    likeness: float = 0.7,
    power: float = POWER,
    available: int | None = None,
) -> list[Plan]:
    """What detects `difference` between policies of about `rate`, for 1 to 16 runs a task.

    agreement (0 to 1): share of the variance of an outcome that is the task's, not the run's; 1 where a task is always
    won or always lost. likeness (0 to 1): correlation over tasks of the two policies' rates; 1 where the same tasks are
    hard for both by the same amount.

        within  = p (1 - p) (1 - agreement)
        between = 2 p (1 - p) agreement (1 - likeness)

    `available`: plans with more tasks than there are get all of them, and say what that can detect.
    """
    spread = rate * (1 - rate)
    within, between = spread * (1 - agreement), 2 * spread * agreement * (1 - likeness)
    found = []
    for runs in (1, 2, 4, 8, 16):
        wanted = tasks_needed(difference, within, between, runs, power=power)
        tasks = wanted if available is None else min(wanted, available)
        deviation = difference_deviation(within, between, tasks, runs)
        found.append(Plan(runs, tasks, runs * tasks, detectable(deviation, power=power)))
    return found


def detectable_by(successes: Sequence[Sequence[bool]], agreement: float = 0.5, likeness: float = 0.7) -> float:
    """After an evaluation: smallest difference to another policy, playing the same, that would be found.

    The variance within a task is the unbiased `p (1 - p) R / (R - 1)`, and that over tasks what the task means have
    beyond it; with one trial a task `agreement` shares the variance out, as in `plans`. NaN below two tasks.
    """
    played = [trials for trials in successes if len(trials)]
    if len(played) < 2:
        return float("nan")
    means, runs = np.array([np.mean(trials) for trials in played]), min(map(len, played))
    if runs > 1:
        within = float(np.mean([np.var(trials, ddof=1) for trials in played]))
        over_tasks = max(0.0, float(means.var(ddof=1)) - within / runs)
    else:
        spread = float(means.var(ddof=1))
        within, over_tasks = spread * (1 - agreement), spread * agreement
    return detectable(difference_deviation(within, 2 * over_tasks * (1 - likeness), len(played), runs))


def detectable_in(difference: Interval) -> float:
    """After a paired comparison: smallest true difference that it finds with the usual power, from its own scatter."""
    if difference.tasks < 2:
        return float("nan")
    quantile = float(stats.t.ppf(1 - ALPHA / 2, difference.tasks - 1))
    half = max(difference.high - difference.mean, difference.mean - difference.low)  # a bound may be cut at 1
    return detectable(half / quantile)
