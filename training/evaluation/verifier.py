"""What resampling against an imperfect verifier can reach, and how often to try.

A sample is correct with chance r; the verifier accepts a correct one with chance c (completeness) and rejects a wrong
one with chance s (soundness). Source: Inference Scaling FLaws (Stroebl et al. 2024, arXiv 2411.17501). Its
notebook multiplies posterior payoff by posterior survival, which conditions twice; here mixtures are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Attempt(NamedTuple):
    """Chances of one attempt."""

    accepted_right: float
    accepted_wrong: float
    rejected: float


def attempt(rate: float, completeness: float = 1.0, soundness: float = 1.0) -> Attempt:
    """`c r`, `(1 - r)(1 - s)` and the rest."""
    right, wrong = completeness * rate, (1 - rate) * (1 - soundness)
    return Attempt(right, wrong, 1 - right - wrong)


def ceiling(rate: float, completeness: float = 1.0, soundness: float = 1.0) -> float:
    """Accuracy of what is accepted, however many attempts: `c r / (c r + (1 - s)(1 - r))`."""
    a = attempt(rate, completeness, soundness)
    return a.accepted_right / (a.accepted_right + a.accepted_wrong)


def accepted_right_by(attempts: int, rate: float, completeness: float = 1.0, soundness: float = 1.0) -> float:
    """Chance to end with a correct accepted sample in at most `attempts`: `p_TP (1 - q^K) / (1 - q)`."""
    a = attempt(rate, completeness, soundness)
    return a.accepted_right * sum(a.rejected**k for k in range(attempts))


def expected_value(
    attempts: int,
    rates: Sequence[float],
    weights: Sequence[float],
    wrong: float,
    completeness: float = 1.0,
    soundness: float = 1.0,
) -> float:
    """Worth of at most K attempts on a mixture of task types: a correct answer is worth 1, a false one `wrong` (< 0).

    `EV(K) = sum_j w_j sum_{k <= K} q_j^(k-1) (p_TP_j + wrong * p_FP_j)`.
    """
    total = 0.0
    for rate, weight in zip(rates, weights, strict=True):
        a = attempt(rate, completeness, soundness)
        payoff = a.accepted_right + wrong * a.accepted_wrong
        total += weight * payoff * sum(a.rejected**k for k in range(attempts))
    return total


def best_attempts(
    rates: Sequence[float],
    weights: Sequence[float],
    wrong: float,
    completeness: float = 1.0,
    soundness: float = 1.0,
    most: int = 200,
) -> int:
    """The K in 0..most with the highest `expected_value`; the smallest of equals."""
    values = [expected_value(k, rates, weights, wrong, completeness, soundness) for k in range(most + 1)]
    return values.index(max(values))
