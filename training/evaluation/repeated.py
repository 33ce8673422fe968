"""Several runs of one task: unbiased pass@k and pass^k, and how far runs scatter.

`n` runs of a task of which `c` succeeded. Source: On Randomness in Agentic Evals; Chen et al. 2021 (arXiv 2107.03374)
for pass@k; tau-bench (arXiv 2406.12045) for pass^k. Plugging c/n into the power of k is biased and not offered.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb, sqrt
from typing import NamedTuple

import numpy as np


def pass_at_k(runs: int, successes: int, k: int) -> float:
    """Chance that at least one of `k` runs succeeds: `1 - C(n - c, k) / C(n, k)`, unbiased for k <= n."""
    _check(runs, successes, k)
    return 1.0 - comb(runs - successes, k) / comb(runs, k)


def pass_hat_k(runs: int, successes: int, k: int) -> float:
    """Chance that all of `k` runs succeed: `C(c, k) / C(n, k)`, unbiased for k <= n."""
    _check(runs, successes, k)
    return comb(successes, k) / comb(runs, k)


def within_task_variance(runs: int, successes: int) -> float:
    """Unbiased variance of one run's outcome on a task: `p (1 - p) n / (n - 1)`, p = c / n; needs two runs."""
    _check(runs, successes, 2)
    p = successes / runs
    return p * (1 - p) * runs / (runs - 1)


def run_deviation(within: float, tasks: int) -> float:
    """Standard deviation of one run's score over `tasks` fixed tasks: `sqrt(s2_w / T)`."""
    return sqrt(within / tasks)


class Repeated(NamedTuple):
    """What several runs of the same tasks say."""

    runs: int
    """Fewest runs that any task has."""
    pass_at: dict[int, float]
    pass_hat: dict[int, float]
    by_run: list[float]
    """Score of each whole run."""
    deviation: float
    """Standard deviation of one run's score, from the variance within tasks."""


def repeated(successes: Sequence[Sequence[bool]]) -> Repeated | None:
    """pass@k and pass^k for k in 1, 2, 5 and n over tasks; None where no task has two runs.

    A task that lost runs to errors of the environment counts with those it has; k goes as far as every task does.
    """
    played = [trials for trials in successes if len(trials)]
    runs = min(map(len, played), default=0)
    if runs < 2:
        return None
    counts = [(len(trials), sum(trials)) for trials in played]
    ks = sorted({k for k in (1, 2, 5, runs) if k <= runs})
    within = float(np.mean([within_task_variance(n, c) for n, c in counts]))
    return Repeated(
        runs,
        {k: float(np.mean([pass_at_k(n, c, k) for n, c in counts])) for k in ks},
        {k: float(np.mean([pass_hat_k(n, c, k) for n, c in counts])) for k in ks},
        [float(np.mean([trials[run] for trials in played])) for run in range(runs)],
        run_deviation(within, len(played)),
    )


def _check(runs: int, successes: int, k: int) -> None:
    if not (0 <= successes <= runs and 1 <= k <= runs):
        raise ValueError(f"expected 0 <= successes <= runs and 1 <= k <= runs, got {successes} of {runs} and k = {k}")
