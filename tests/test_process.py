"""Process metrics and drift: numbers by hand, fits that recover what made the data."""

from __future__ import annotations

from math import isnan, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnwise.agents.trajectory import Owner, Segment, Trajectory, Turn
from turnwise.envs import StopReason, tasks
from turnwise.training.evaluation.drift import action_divergence, fit_drift, turn_divergence
from turnwise.training.evaluation.process import (
    Round,
    abstention,
    correction_success,
    divergence,
    first_difference,
    improvement_slope,
    of_episodes,
    over_budget,
    over_correction,
)

TASK = tasks("Toy", "test", 1)[0]


def turn(action: str, ids: tuple[int, ...], valid: bool = True, admissible: bool = True, calls: float = 0.0) -> Turn:
    return Turn(
        observation="o", anchor="o", action=action, reward=0.0, score=0.0, valid=valid, admissible=admissible,
        counts={"tool_calls": calls}, output=Segment(owner=Owner.POLICY, ids=ids, logprobs=(0.0,) * len(ids)),
    )  # fmt: skip


def episode(*turns: Turn, success: bool = False, stop: StopReason = StopReason.FAILURE) -> Trajectory:
    return Trajectory(task=TASK, agent="a", turns=turns, success=success, stop=stop)


def test_an_evaluation_by_hand() -> None:
    won = episode(turn("a", (1, 2)), turn("b", (3,), calls=2), success=True, stop=StopReason.SUCCESS)
    lost = episode(turn("a", (1, 4)), turn("", (5,), valid=False), turn("a", (6,), admissible=False, calls=1))
    broken = episode(turn("zzz", (9,), calls=50), stop=StopReason.ENV_ERROR)
    p = of_episodes([won, lost, broken])
    assert p.turns_to_success == 2
    assert (p.invalid, p.inadmissible, p.repeated) == pytest.approx((1 / 5, 1 / 5, 1 / 5))
    assert p.tool_productivity == pytest.approx(1 / 3)
    assert (p.diverged_turn, p.diverged_tokens) == (1, pytest.approx(1 / 3))


def test_nothing_played_says_nothing() -> None:
    assert all(isnan(x) for x in of_episodes([]))
    assert isnan(of_episodes([episode(turn("a", (1,)))]).tool_productivity)


@given(st.lists(st.integers(0, 2), max_size=6), st.lists(st.integers(0, 2), max_size=6))
def test_runs_part_where_their_common_prefix_ends(a: list[int], b: list[int]) -> None:
    at = first_difference(a, b)
    assert a[:at] == b[:at] and at == first_difference(b, a)
    assert at == min(len(a), len(b)) or a[at] != b[at]
    assert isnan(divergence(a, b)) if not (a and b) else 0 <= divergence(a, b) <= 1


def test_rounds_by_hand() -> None:
    rounds = [Round(1, revised=True, improved=True)] * 3 + [Round(0, revised=True)] * 2 + [Round(1)]
    assert over_correction(rounds) == pytest.approx(0.8333, abs=1e-4)
    assert correction_success(rounds) == pytest.approx(0.6)
    assert improvement_slope([0, 0, 1, 0, 1, 1]) == pytest.approx(0.2)
    assert over_budget([Round(1, spent=s, budget=10) for s in (9, 11, 10, 12)]) == 0.5
    assert over_correction([Round(1, offered=False)]) != over_correction([Round(1)]) == 0


def test_abstention_by_hand() -> None:
    found = abstention([True, True, False, False], [False, True, False, True])
    assert found == (0.5, 0.5)
    assert isnan(abstention([False], [True]).precision)


# ---- drift --------------------------------------------------------------------------------------------


def test_the_recurrence_by_hand() -> None:
    d = [0.0]
    while len(d) < 7:
        d.append(0.8 * d[-1] + 0.3)
    assert d[1:] == pytest.approx([0.3, 0.54, 0.732, 0.8856, 1.00848, 1.106784])
    found = fit_drift([d])
    assert (found.a, found.b, found.equilibrium) == pytest.approx((0.8, 0.3, 1.5))
    assert found.stable and found.spread == pytest.approx(0, abs=1e-6)


def test_a_reminder_lowers_what_follows() -> None:
    d = [0.0]
    for t in range(12):
        d.append(0.8 * d[-1] + 0.3 - 0.5 * (t in (3, 7)))
    plain = 0.8**3 * 0 + 0.3 * (1 - 0.8**4) / 0.2
    assert d[4] == pytest.approx(plain - 0.5)
    assert fit_drift([d], reminders=(3, 7)).reminder == pytest.approx(0.5)
    assert fit_drift([d]).a != pytest.approx(0.8, abs=1e-3)  # what is not asked for disturbs the fit


def test_a_noisy_recurrence_is_recovered() -> None:
    rng, dialogues = np.random.default_rng(0), []
    for _ in range(200):
        d = [0.0]
        for _ in range(20):
            d.append(0.7 * d[-1] + 0.2 + 0.1 * rng.standard_normal())
        dialogues.append(d)
    found = fit_drift(dialogues)
    assert (found.a, found.b, found.noise) == pytest.approx((0.7, 0.2, 0.1), abs=0.01)
    assert found.spread == pytest.approx(float(np.std([d[-1] for d in dialogues])), rel=0.15)


def test_divergences_by_hand() -> None:
    q, p = np.log([[0.5, 0.5], [0.9, 0.1]]), np.log([[0.5, 0.5], [0.5, 0.5]])
    assert turn_divergence(q, p) == pytest.approx((0.9 * log(1.8) + 0.1 * log(0.2)) / 2)
    # with .5 added: (2.5, .5) / 3 against (.5, 2.5) / 3
    assert action_divergence(["go", "go"], ["take", "take"]) == pytest.approx((2.5 - 0.5) / 3 * log(5))
    assert action_divergence(["go"], ["go"]) == pytest.approx(0)
    with pytest.raises(ValueError, match="at least 2 pairs"):
        fit_drift([[0.1]])
