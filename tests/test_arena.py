"""Pairwise ranking: chances by hand, strengths recovered from matches, difficulty that changes only ties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnwise.training.evaluation.arena import (
    Match,
    fit,
    mean_maximum_rank_violation,
    outcome_chances,
    rank,
)

THETA, NU, TAU = np.array([1.0, 0.0]), np.array([0.5, 0.5]), np.array([-1.0, 1.0])


def test_chances_by_hand() -> None:
    win, tie, loss = outcome_chances(THETA, NU, TAU)[0, 1]
    assert (win, loss, tie) == pytest.approx((0.301206, 0.110808, 0.587986), abs=1e-6)
    assert win / (win + loss) == pytest.approx(0.731059, abs=1e-6)


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=5), st.floats(-4, 4))
def test_difficulty_moves_only_the_ties(theta: list[float], shift: float) -> None:
    chances = outcome_chances(np.array(theta), np.array([1.0]), np.array([shift]))
    assert np.allclose(chances.sum(-1), 1)
    assert np.allclose(chances[..., 0], chances[..., 2].T)
    odds = np.log(chances[0, 1, 0]) - np.log(chances[0, 1, 2])
    assert odds == pytest.approx(theta[0] - theta[1], abs=1e-6)


def test_a_policy_good_at_hard_tasks() -> None:
    """psi [P, J]: the first policy is two logits better where it is hard."""
    psi = np.array([[0.0, 2.0], [0.0, 0.0]])
    plain, better = (outcome_chances(np.zeros(2), NU, TAU, p)[0, 1, 0] for p in (None, psi))
    s = 1 / (1 + np.exp(-np.array([1.0, -1.0, 1.0])))  # solved: easy; hard; hard with psi
    assert plain == pytest.approx(0.5 * s[0] * (1 - s[0]) + 0.5 * s[1] * (1 - s[1]))
    assert better == pytest.approx(0.5 * s[0] * (1 - s[0]) + 0.5 * s[2] * (1 - s[1]))


def play(theta: np.ndarray, matches: int, seed: int = 0) -> list[Match]:
    rng = np.random.default_rng(seed)
    chances = outcome_chances(theta, NU, np.array([-1.5, 1.5]))
    played = []
    for _ in range(matches):
        a, b = rng.choice(len(theta), 2, replace=False)
        played.append(Match(int(a), int(b), 1 - int(rng.choice(3, p=chances[a, b]))))
    return played


def test_strengths_are_recovered() -> None:
    truth = np.array([1.2, 0.3, -0.4, -1.1])
    found = rank(play(truth, 3000), 4, resamples=40)
    assert (found.low < truth).all() and (truth < found.high).all()
    assert found.theta == pytest.approx(truth, abs=0.25)
    assert found.theta.sum() == pytest.approx(0, abs=1e-6)
    assert mean_maximum_rank_violation(found.theta, truth) == 0.0


def test_who_is_first_in_a_pair_does_not_matter() -> None:
    played = play(np.array([0.5, 0.0, -0.5]), 300)
    turned = [Match(m.second, m.first, -m.outcome) for m in played]
    assert fit(played, 3).theta == pytest.approx(fit(turned, 3).theta, abs=1e-4)


def test_a_policy_that_never_lost_has_a_finite_strength() -> None:
    found = fit([Match(0, 1, 1)] * 20, 2)
    assert 1 < found.theta[0] < 20


def test_rank_violation_by_hand() -> None:
    # 0.2 and 0.5 changed places: both are wrong by .3, the third by nothing
    assert mean_maximum_rank_violation(np.array([2.0, 1.0, 3.0]), np.array([0.2, 0.5, 0.9])) == pytest.approx(0.2)


@pytest.mark.parametrize("match", [Match(0, 0, 1), Match(0, 1, 2)])
def test_impossible_matches_are_refused(match: Match) -> None:
    with pytest.raises(ValueError, match="expected two policies"):
        fit([match], 2)
