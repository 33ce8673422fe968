"""pass@k, pass^k, power and verifier ceilings: numbers by hand, enumeration, simulation."""

from __future__ import annotations

from itertools import combinations
from math import isnan, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnwise.training.evaluation.intervals import Interval, paired_difference
from turnwise.training.evaluation.power import (
    detectable,
    detectable_by,
    detectable_in,
    difference_deviation,
    plans,
    power_of,
    quantiles,
    runs_needed,
    tasks_needed,
    unpaired_tasks_needed,
)
from turnwise.training.evaluation.repeated import (
    pass_at_k,
    pass_hat_k,
    repeated,
    run_deviation,
    within_task_variance,
)
from turnwise.training.evaluation.verifier import accepted_right_by, attempt, best_attempts, ceiling, expected_value

# ---- several runs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "best", "worst"), [(1, 0.4, 0.4), (2, 0.666667, 0.133333), (5, 0.976190, 0.0)])
def test_four_of_ten(k: int, best: float, worst: float) -> None:
    assert (pass_at_k(10, 4, k), pass_hat_k(10, 4, k)) == pytest.approx((best, worst), abs=1e-6)


@pytest.mark.parametrize(("k", "best", "worst"), [(2, 0.555556, 0.377778), (5, 0.658730, 0.333333)])
def test_three_tasks(k: int, best: float, worst: float) -> None:
    counts = (10, 4, 0)
    assert np.mean([pass_at_k(10, c, k) for c in counts]) == pytest.approx(best, abs=1e-6)
    assert np.mean([pass_hat_k(10, c, k) for c in counts]) == pytest.approx(worst, abs=1e-6)


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.data())
def test_both_are_shares_of_all_draws_without_replacement(outcomes: list[bool], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(outcomes)))
    draws = list(combinations(outcomes, k))
    assert pass_at_k(len(outcomes), sum(outcomes), k) == pytest.approx(np.mean([any(d) for d in draws]))
    assert pass_hat_k(len(outcomes), sum(outcomes), k) == pytest.approx(np.mean([all(d) for d in draws]))


@given(st.integers(1, 12), st.data())
def test_more_runs_help_any_and_hurt_all(n: int, data: st.DataObject) -> None:
    c = data.draw(st.integers(0, n))
    at, hat = ([f(n, c, k) for k in range(1, n + 1)] for f in (pass_at_k, pass_hat_k))
    assert at[0] == pytest.approx(hat[0])
    assert at == sorted(at) and hat == sorted(hat, reverse=True)


def test_pass_at_k_is_unbiased_where_the_plug_in_is_not() -> None:
    rng, p, n, k = np.random.default_rng(0), 0.3, 4, 3
    c = rng.binomial(n, p, 100_000)
    truth = 1 - (1 - p) ** k
    unbiased = np.array([pass_at_k(n, int(x), k) for x in range(n + 1)])[c].mean()
    assert unbiased == pytest.approx(truth, abs=0.004)
    assert abs((1 - (1 - c / n) ** k).mean() - truth) > 0.05


@pytest.mark.parametrize(("n", "c", "k"), [(3, 4, 1), (3, -1, 1), (3, 1, 4), (3, 1, 0)])
def test_impossible_counts_are_refused(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="expected 0 <= successes"):
        pass_at_k(n, c, k)


def test_scatter_of_a_run() -> None:
    assert run_deviation(0.08, 500) == pytest.approx(0.0126491, abs=1e-7)
    # p = .4, n = 10: .24 * 10 / 9
    assert within_task_variance(10, 4) == pytest.approx(0.2666667, abs=1e-7)


def test_variance_within_tasks_is_that_of_whole_runs() -> None:
    rng = np.random.default_rng(1)
    p = rng.uniform(size=200)
    outcomes = rng.random((400, 200)) < p  # 400 runs of the same 200 tasks
    found = repeated([[bool(x) for x in column] for column in outcomes.T])
    assert found is not None and found.runs == 400
    assert found.deviation == pytest.approx(float(np.std(found.by_run, ddof=1)), rel=0.1)
    assert found.deviation == pytest.approx(sqrt(float((p * (1 - p)).mean()) / 200), rel=0.02)


def test_repeated_counts_what_every_task_has() -> None:
    found = repeated([[True, False, True], [False, False], [], [True, True, True]])
    assert found is not None and found.runs == 2 and set(found.pass_at) == {1, 2}
    assert found.pass_at[1] == pytest.approx((2 / 3 + 0 + 1) / 3)
    assert found.by_run == pytest.approx([2 / 3, 1 / 3])
    assert repeated([[True], [False]]) is None


# ---- power --------------------------------------------------------------------------------------------


def test_runs_needed_by_the_paper() -> None:
    assert quantiles() ** 2 == pytest.approx(7.849, abs=1e-3)
    assert [runs_needed(d, 0.015) for d in (0.01, 0.02, 0.03)] == [36, 9, 4]
    assert runs_needed(0.02, run_deviation(0.08, 500)) == 7


def test_pairing_is_what_makes_it_affordable() -> None:
    assert unpaired_tasks_needed(0.5, 0.53) == 4356
    # 7.849 * .1 / .0009
    assert tasks_needed(0.03, within=0.05, between=0.0, runs=1) == 873


def test_sampling_error_of_tasks() -> None:
    # T = 500, p = .5 in one arm: sqrt(.25 / 500) = 2.236 points
    assert difference_deviation(0.125, 0.0, 500, 1) == pytest.approx(0.0223607, abs=1e-7)


def test_the_power_promised_is_the_power_found() -> None:
    """Two policies on tasks drawn anew: a t-test on paired differences finds the planned difference in 80 %."""
    rng, gain, agreement, likeness = np.random.default_rng(0), 0.1, 0.4, 1.0
    plan = next(p for p in plans(gain, 0.5, agreement, likeness) if p.runs == 4)
    concentration = (1 - agreement) / agreement  # Beta(a, a): variance of the rates is p (1 - p) * agreement
    found, repeats = 0, 600
    for _ in range(repeats):
        p = np.clip(rng.beta(concentration / 2, concentration / 2, plan.tasks), 0, 1 - gain)
        d = (rng.binomial(4, p + gain) - rng.binomial(4, p)) / 4
        found += abs(d.mean()) > 1.96 * d.std(ddof=1) / sqrt(plan.tasks)
    assert 0.75 < found / repeats < 0.9  # clipping makes p more extreme than planned: a little less noise


def test_power_and_detectable_are_inverse() -> None:
    assert power_of(detectable(0.02), 0.02) == pytest.approx(0.8, abs=1e-4)
    assert power_of(0.0, 0.02) == pytest.approx(0.05)
    assert power_of(0.01, 0.0) == 1.0


def test_what_an_evaluation_could_have_shown_by_hand() -> None:
    # Task means 1, 1/2, 0, 1/2: within (0 + 1/2 + 0 + 1/2)/4 = 1/4, over tasks 1/6 - 1/8 = 1/24 beyond it.
    # Deviation of the difference: sqrt(2 * 1/24 * 0.3 / 4 + 2 * 1/4 / 8) = sqrt(0.00625 + 0.0625); times 2.80159.
    found = detectable_by([[True, True], [True, False], [False, False], [False, True]])
    assert found == pytest.approx(2.80159 * 0.06875**0.5, abs=1e-5)
    # One trial each, half won: variance 1/3, half of it the task's: sqrt((2 * 1/6 * 0.3 + 2 * 1/6) / 4).
    once = detectable_by([[True], [False], [True], [False]])
    assert once == pytest.approx(2.80159 * (1.3 / 12) ** 0.5, abs=1e-5)
    assert isnan(detectable_by([[True]])) and isnan(detectable_in(Interval(0, -1, 1, 1)))
    # Differences 1, 0, 0, 0: deviation 1/4, whatever t made of it.
    difference = paired_difference([[False]] * 4, [[True], [False], [False], [False]])
    assert detectable_in(difference) == pytest.approx(2.80159 / 4, abs=1e-5)


def test_what_is_called_detectable_is_found_in_four_of_five_comparisons() -> None:
    rng = np.random.default_rng(5)
    tasks, runs, repeats = 300, 2, 300
    hard = rng.beta(2, 2, tasks)
    shown = detectable_by((rng.random((tasks, runs)) < hard[:, None]).tolist(), likeness=1.0)
    found = 0
    for _ in range(repeats):
        base = rng.random((tasks, runs)) < hard[:, None]
        better = rng.random((tasks, runs)) < np.clip(hard + shown, 0, 1)[:, None]
        found += paired_difference(base.tolist(), better.tolist()).low > 0
    assert 0.72 < found / repeats < 0.88


def test_plans_say_what_a_small_split_can_show() -> None:
    free, limited = plans(0.05, 0.5), plans(0.05, 0.5, available=134)
    assert [p.tasks for p in free] == sorted((p.tasks for p in free), reverse=True)
    assert all(p.detectable <= 0.05 for p in free) and all(p.tasks <= 134 for p in limited)
    assert limited[0].detectable > 0.1


# ---- imperfect verifiers ------------------------------------------------------------------------------


def test_attempts_by_hand() -> None:
    assert attempt(0.13, 1.0, 0.75) == pytest.approx((0.13, 0.2175, 0.6525))
    assert ceiling(0.13, 1.0, 0.75) == pytest.approx(0.374101, abs=1e-6)
    assert ceiling(0.87, 1.0, 0.75) == pytest.approx(0.963989, abs=1e-6)


RATES, WEIGHTS = (0.87, 0.13), (0.58, 0.42)


def test_expected_value_of_a_mixture() -> None:
    found = [expected_value(k, RATES, WEIGHTS, -0.7, soundness=0.75) for k in (1, 2, 3, 4)]
    assert found == pytest.approx([0.482, 0.524, 0.525, 0.522], abs=5e-4)
    assert [best_attempts(RATES, WEIGHTS, wrong, soundness=0.75) for wrong in (-0.7, -1, -2)] == [3, 2, 1]
    assert expected_value(2, RATES, WEIGHTS, -1, soundness=0.75) == pytest.approx(0.472, abs=5e-4)
    assert expected_value(1, RATES, WEIGHTS, -2, soundness=0.75) == pytest.approx(0.339, abs=5e-4)


def test_a_perfect_verifier_only_gains() -> None:
    assert ceiling(0.1) == 1.0
    assert accepted_right_by(200, 0.1) == pytest.approx(1.0, abs=1e-6)


@given(st.floats(0.01, 0.99), st.floats(0.05, 1.0), st.floats(0.0, 0.99))
def test_the_ceiling_is_the_limit(rate: float, completeness: float, soundness: float) -> None:
    a = attempt(rate, completeness, soundness)
    many = 200
    accepted = (a.accepted_right + a.accepted_wrong) * sum(a.rejected**k for k in range(many))
    right = accepted_right_by(many, rate, completeness, soundness)
    assert right / accepted == pytest.approx(ceiling(rate, completeness, soundness))


def test_expected_value_by_playing() -> None:
    rng, trials, tries = np.random.default_rng(3), 100_000, 3
    kind = rng.choice(2, size=trials, p=WEIGHTS)
    rate, worth, open_ = np.array(RATES)[kind], np.zeros(trials), np.ones(trials, bool)
    for _ in range(tries):
        right = rng.random(trials) < rate
        accepted = open_ & (right | (rng.random(trials) < 0.25))
        worth[accepted] = np.where(right[accepted], 1.0, -0.7)
        open_ &= ~accepted
    three_errors = 3 * worth.std() / sqrt(trials)
    assert worth.mean() == pytest.approx(expected_value(tries, RATES, WEIGHTS, -0.7, soundness=0.75), abs=three_errors)
