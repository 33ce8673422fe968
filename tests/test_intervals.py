"""Intervals: hand numbers, coverage by simulation, the edge cases where naive formulas claim certainty."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from turnwise.training.evaluation.intervals import (
    mcnemar,
    mcnemar_one_sided,
    mean_interval,
    paired_difference,
    success_interval,
    task_bootstrap,
    wilson,
)


def test_wilson_by_hand() -> None:
    # n = 100, p = .23, z = 1.959964: centre (.23 + .0192073)/(1 + .0384146) = .2399882,
    # half 1.959964 * sqrt(.23 * .77 / 100 + 3.841459 / 40000) / 1.0384146 = .0815531
    low, high = wilson(0.23, 100)
    assert (low, high) == pytest.approx((0.158436, 0.321541), abs=1e-5)


def test_one_trial_per_task_is_a_proportion() -> None:
    i = success_interval([[True]] * 23 + [[False]] * 77)
    assert (i.mean, i.tasks) == (0.23, 100)
    assert (i.low, i.high) == pytest.approx(wilson(0.23, 100))


def test_several_trials_average_within_tasks_first() -> None:
    # task means 1, .5, 0: variance .25, n_eff = .25 / (.25 / 3) = 3, t_{.975,2} = 4.302653, so z^2 / n = 6.170943,
    # half 4.302653 * sqrt(.25 / 3 + 18.512822 / 36) / 7.170943 = .463829
    i = success_interval([[True, True], [True, False], [False, False]])
    assert (i.mean, i.low, i.high) == pytest.approx((0.5, 0.036171, 0.963829), abs=1e-5)
    # Trials that agree within their tasks add nothing: more of them must not narrow the interval.
    few = success_interval([[True] * 2, [False] * 2] * 10)
    many = success_interval([[True] * 50, [False] * 50] * 10)
    assert few == many


@pytest.mark.parametrize("outcome", [True, False])
def test_certainty_is_never_claimed(outcome: bool) -> None:
    for trials in (1, 3):
        i = success_interval([[outcome] * trials] * 20)
        assert i.high - i.low == pytest.approx(0.16113, abs=1e-4)


def test_paired_difference_by_hand() -> None:
    # d = 1, 0, 1, -1, 1: mean .4, sd .894427, t_{.975,4} = 2.776445 -> half 1.110578
    base = [[False], [True], [False], [True], [False]]
    other = [[True], [True], [True], [False], [True]]
    d = paired_difference(base, other)
    assert (d.mean, d.tasks) == (pytest.approx(0.4), 5)
    assert (d.low, d.high) == pytest.approx((-0.710578, 1.0), abs=1e-5)
    back = paired_difference(other, base)
    assert (back.mean, back.low, back.high) == pytest.approx((-d.mean, -d.high, -d.low))


def test_identical_policies_show_no_difference_and_no_certainty() -> None:
    d = paired_difference([[True]] * 50, [[True]] * 50)
    assert d.mean == 0 and d.low < 0 < d.high


def test_pairs_without_an_outcome_are_left_out() -> None:
    assert paired_difference([[True], [], [False], [True]], [[True], [True], [True], []]).tasks == 2


SCENES = [
    (tasks, trials, mean, spread)
    for tasks in (10, 20, 50, 200)
    for trials in (1, 4, 16)
    for mean, spread in ((0.5, 2.0), (0.1, 2.0), (0.5, 0.3), (0.95, 5.0))
]
"""Tasks, trials of each, mean and spread of the tasks' rates, Beta(mean * spread, (1 - mean) * spread)."""


def coverage(draw: Callable[[np.random.Generator], tuple[float, float, float]], repeats: int) -> float:
    """Share of intervals (truth, low, high) that hold the truth."""
    rng = np.random.default_rng(0)
    drawn = [draw(rng) for _ in range(repeats)]
    return float(np.mean([low - 1e-9 <= truth <= high + 1e-9 for truth, low, high in drawn]))


def of_success(tasks: int, trials: int, mean: float, spread: float) -> Callable[..., tuple[float, float, float]]:
    def draw(rng: np.random.Generator) -> tuple[float, float, float]:
        p = rng.beta(mean * spread, (1 - mean) * spread, tasks)
        i = success_interval(rng.random((tasks, trials)) < p[:, None])
        return mean, i.low, i.high

    return draw


def of_difference(tasks: int, trials: int, mean: float, spread: float) -> Callable[..., tuple[float, float, float]]:
    def draw(rng: np.random.Generator) -> tuple[float, float, float]:
        p = rng.beta(mean * spread, (1 - mean) * spread, tasks)
        q = p + 0.2 * (1 - p)
        base, other = (rng.random((tasks, trials)) < x[:, None] for x in (p, q))
        d = paired_difference(base, other)
        return 0.2 * (1 - mean), d.low, d.high

    return draw


@pytest.mark.parametrize("of", [of_success, of_difference])
def test_intervals_cover_what_they_promise(of: Callable[..., Any]) -> None:
    """Of tasks drawn anew, few or many, at middling and extreme rates: 93 to 97 % together, nowhere far below."""
    found = {scene: coverage(of(*scene), 150) for scene in SCENES}
    assert 0.93 < np.mean(list(found.values())) < 0.97
    assert min(found.values()) > 0.85, found


@pytest.mark.slow
@pytest.mark.parametrize("of", [of_success, of_difference])
def test_intervals_cover_in_a_long_simulation(of: Callable[..., Any]) -> None:
    found = {scene: coverage(of(*scene), 2000) for scene in SCENES}
    for scene, share in found.items():
        print(f"{of.__name__} tasks {scene[0]} trials {scene[1]} mean {scene[2]} spread {scene[3]}: {share:.3f}")
    print(f"all: {np.mean(list(found.values())):.4f}")
    assert 0.94 < np.mean(list(found.values())) < 0.97
    assert min(found.values()) > 0.89, found


def test_students_t_would_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interval that Wilson's replaced: a rate of 95 % on 10 tasks of 16 trials."""
    scene = (10, 16, 0.95, 5.0)

    def student(outcomes: np.ndarray) -> Any:
        return mean_interval(outcomes.astype(float))

    honest = coverage(of_success(*scene), 400)
    monkeypatch.setattr(f"{__name__}.success_interval", student)
    assert coverage(of_success(*scene), 400) < 0.87 < honest


# ---- exact tests and resampling -----------------------------------------------------------------------


def test_mcnemar_by_hand() -> None:
    # 3 against 14 of 17 fair coins: 2 * (1 + 17 + 136 + 680) / 2^17 = .0127258
    assert mcnemar(3, 14) == pytest.approx(0.012726, abs=1e-6)
    assert mcnemar(2, 8) == pytest.approx(0.109375)
    assert mcnemar(0, 0) == 1.0 and mcnemar(4, 4) == 1.0
    # 14 or more of 17: (680 + 136 + 17 + 1) / 2^17
    assert mcnemar_one_sided(3, 14) == pytest.approx(834 / 2**17)
    assert mcnemar_one_sided(14, 3) > 0.99


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_scipys_binomial_test(worse: int, better: int) -> None:
    assert mcnemar(worse, better) == pytest.approx(mcnemar(better, worse))
    if worse + better:
        assert mcnemar(worse, better) == pytest.approx(scipy.stats.binomtest(worse, worse + better).pvalue)


def test_equal_policies_differ_in_one_comparison_of_twenty() -> None:
    """A/A: two evaluations of one policy on the same tasks, 400 times; a planted gain is found as planned."""
    rng, tasks, runs = np.random.default_rng(5), 120, 2
    alarms = 0
    for _ in range(400):
        p = rng.beta(1, 1, tasks)
        first, second = (rng.random((tasks, runs)) < p[:, None] for _ in range(2))
        d = paired_difference(first, second)
        alarms += not d.low <= 0 <= d.high
    assert alarms <= 400 * 0.05 + 2 * sqrt(400 * 0.05 * 0.95)


def test_the_bootstrap_agrees_with_t_where_both_hold() -> None:
    x = np.random.default_rng(2).uniform(size=(60, 3))
    found = task_bootstrap(x, lambda rows: float(rows.mean()), resamples=2000)
    exact = mean_interval(x)
    assert found.mean == pytest.approx(exact.mean)
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=0.006)
    with pytest.raises(ValueError, match="at least 2 tasks"):
        task_bootstrap(x[:1], lambda rows: float(rows.mean()))


def test_partial_scores_are_no_successes() -> None:
    # task means .5, .7: mean .6, sd .141421, t_{.975,1} = 12.706205 -> half 1.270620
    i = mean_interval([[0.4, 0.6], [0.7]])
    assert (i.mean, i.low, i.high) == pytest.approx((0.6, -0.670620, 1.870620), abs=1e-5)
    assert mean_interval([[0.4]]).high == float("inf")
