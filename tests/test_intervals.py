"""Intervals: hand numbers, coverage by simulation, the edge cases where naive formulas claim certainty."""

from __future__ import annotations

import numpy as np
import pytest
from turnwise.training.stats import paired_difference, success_interval, wilson


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
    # task means 1, .5, 0: mean .5, sd .5, t_{.975,2} = 4.302653 -> half 4.302653 * .5 / sqrt(3) = 1.24207, cut
    i = success_interval([[True, True], [True, False], [False, False]])
    assert (i.mean, i.low, i.high) == (0.5, 0.0, 1.0)
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


def test_intervals_cover_what_they_promise() -> None:
    rng = np.random.default_rng(0)
    hits = pairs = 0
    for _ in range(400):
        p = rng.uniform(0.1, 0.9, size=80)
        outcomes = rng.random((2, 80)) < np.stack([p, np.clip(p + 0.1, 0, 1)])
        i = success_interval([[bool(x)] for x in outcomes[0]])
        d = paired_difference([[bool(x)] for x in outcomes[0]], [[bool(x)] for x in outcomes[1]])
        hits += i.low <= p.mean() <= i.high
        pairs += d.low <= (np.clip(p + 0.1, 0, 1) - p).mean() <= d.high
    assert hits / 400 > 0.93
    assert 0.92 < pairs / 400 < 0.98
