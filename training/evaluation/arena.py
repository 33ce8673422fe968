"""Many policies compared in pairs: Bradley-Terry over tasks of unknown difficulty, ties included.

A task falls into one of J difficulty buckets with chance nu_j. Policy p solves it with chance
`s(theta_p - tau_j + psi_pj)`, s the logistic function, tau the bucket's difficulty, psi what the policy is better or
worse at there:

    P(A beats B) = sum_j nu_j P_A|j (1 - P_B|j),  the reverse mirrored, the rest is a tie.

Fitted by expectation-maximisation over buckets. Source: RoboArena (arXiv 2506.18123), which extends Bradley and
Terry 1952.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logsumexp


class Match(NamedTuple):
    """One comparison of two policies by index on one task: 1 where the first won, -1 the second, 0 a tie."""

    first: int
    second: int
    outcome: int


class Ranking(NamedTuple):
    """Fitted strengths, in logits, summing to 0."""

    theta: np.ndarray
    """`[P]`"""
    low: np.ndarray
    high: np.ndarray
    """Bounds of 95 % bootstrap intervals over matches, `[P]`."""
    nu: np.ndarray
    """`[J]`"""
    tau: np.ndarray
    """`[J]`"""


def outcome_chances(theta: np.ndarray, nu: np.ndarray, tau: np.ndarray, psi: np.ndarray | None = None) -> np.ndarray:
    """`[P, P, 3]`: chance that the first of two policies wins, that they tie, that the second wins."""
    joint = _joint(theta, tau, psi)
    return np.einsum("j,jabc->abc", nu, joint)


def fit(matches: Sequence[Match], policies: int, buckets: int = 2, rounds: int = 60, prior: float = 0.1) -> Ranking:
    """Maximum of the likelihood with a weak normal prior (variance 1 / `prior`), so that a policy that never lost has a
    finite strength. Bucket effects psi are left at 0: with two outcomes a match they are not told apart from theta."""
    return _fit(_counts(matches, policies), buckets, rounds, prior)


def rank(matches: Sequence[Match], policies: int, buckets: int = 2, resamples: int = 200, seed: int = 0) -> Ranking:
    """`fit` with intervals: matches are drawn anew with replacement."""
    rng, best = np.random.default_rng(seed), fit(matches, policies, buckets)
    drawn = [
        fit([matches[i] for i in rng.integers(0, len(matches), len(matches))], policies, buckets, rounds=20).theta
        for _ in range(resamples)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    return best._replace(low=low, high=high)


def _counts(matches: Sequence[Match], policies: int) -> np.ndarray:
    """`[P, P, 3]` matches by pair and outcome (win of the first, tie, win of the second)."""
    counts = np.zeros((policies, policies, 3))
    for match in matches:
        if match.outcome not in (-1, 0, 1) or match.first == match.second:
            raise ValueError(f"expected two policies and an outcome of -1, 0 or 1, got {match}")
        counts[match.first, match.second, 1 - match.outcome] += 1
    return counts


def _joint(theta: np.ndarray, tau: np.ndarray, psi: np.ndarray | None = None) -> np.ndarray:
    """`[J, P, P, 3]` chances of outcomes within each bucket."""
    solved = expit(theta[None, :] - tau[:, None] + (0 if psi is None else psi.T))
    first = solved[:, :, None] * (1 - solved[:, None, :])
    second = first.transpose(0, 2, 1)
    return np.stack([first, 1 - first - second, second], axis=-1)


def _fit(counts: np.ndarray, buckets: int, rounds: int, prior: float) -> Ranking:
    policies = len(counts)
    theta, tau, nu = np.zeros(policies), np.linspace(-1, 1, buckets) * (buckets > 1), np.full(buckets, 1 / buckets)
    for _ in range(rounds):
        logs = np.log(nu)[:, None, None, None] + np.log(_joint(theta, tau).clip(1e-12))
        weights = np.exp(logs - logsumexp(logs, axis=0, keepdims=True)) * counts
        before = theta

        def loss(x: np.ndarray, weights: np.ndarray = weights) -> float:
            chances = _joint(x[:policies], x[policies:])
            return float(-(weights * np.log(chances.clip(1e-12))).sum() + prior / 2 * (x**2).sum())

        x = minimize(loss, np.concatenate([theta, tau]), method="L-BFGS-B").x
        theta, tau = x[:policies] - x[:policies].mean(), x[policies:] - x[:policies].mean()
        nu = (weights.sum((1, 2, 3)) + 1e-6) / (weights.sum() + buckets * 1e-6)
        if np.abs(theta - before).max() < 1e-5:
            break
    return Ranking(theta, theta, theta, nu, tau)


def mean_maximum_rank_violation(found: np.ndarray, truth: np.ndarray) -> float:
    """How badly a ranking misorders: mean over policies of the largest true gap to one it is on the wrong side of.

    `1/P sum_i max_j |truth_i - truth_j| 1[sign(found_i - found_j) != sign(truth_i - truth_j)]`. Source: SIMPLER
    (arXiv 2405.05941).
    """
    gap = truth[:, None] - truth[None, :]
    wrong = np.sign(found[:, None] - found[None, :]) != np.sign(gap)
    return float((np.abs(gap) * wrong).max(1).mean())
