"""Selection: which trajectories and tokens of a batch are learned from, and how often.

Shapes: B rows, T tokens, M trajectories. A selector is `(adv_BT, batch, *, ...) -> weight_BT`; 0 drops a token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ...envs.errors import RequestError
from ..batch import Batch, segment_mean, segment_sum
from ..credit import group_relative, needed, spread
from ..parameters import Range
from ..slots import Algorithm, Part
from .classic import count_steps
from .rewarding import RewardWeights, outcomes

FilterName = Literal["bon", "br", "bw"]
TIE = 1e-9
"""Values nearer than this are equal: sums in another order must not choose other samples."""

# ---------------------------------------------------------------- D^3S


def spread_most(values: Sequence[float], size: int) -> list[int]:
    """Indices, ascending, of the `size` values with the largest variance: the k lowest and size - k highest, best k.

    Exact, since moving a chosen value outwards never lowers the variance. Of equal values the first go with the low
    end, the last with the high end; of equal variances the fewest low ones win. D^3S.
    """
    order = sorted(range(len(values)), key=lambda i: (round(values[i] / TIE), i))
    size = min(size, len(values))
    best, chosen = -math.inf, order[:size]
    for low in range(size + 1):
        picked = order[:low] + order[len(order) - (size - low) :]
        mean = sum(values[i] for i in picked) / max(size, 1)
        variance = sum((values[i] - mean) ** 2 for i in picked) / max(size, 1)
        if variance > best + TIE:
            best, chosen = variance, picked
    return sorted(chosen)


def schedule(progress: float, first: float, last: float) -> float:
    """(1 - p) first + p last with the progress p held in [0, 1]."""
    p = min(1.0, max(0.0, progress))
    return (1 - p) * first + p * last


def down_sampled(
    adv_BT: Tensor,
    batch: Batch,
    *,
    d3s_samples_first: float = 0.5,
    d3s_samples_last: float = 1.0,
    d3s_tokens_first: float = 0.5,
    d3s_tokens_last: float = 1.0,
    d3s_steps: int = 100,
) -> Tensor:
    """1 on the top share K_p of tokens by |A| H among the trajectories, a share N_p of all, of the largest Var(A).

    A trajectory's A is the mean over its action tokens; H is the policy's entropy. Both shares go from first to last
    over `d3s_steps` steps (`state["step"]`), rounded up, at least one. Unit: trajectory, then token. D^3S.
    """
    traj, (index_BT, count) = batch.trajectories, batch.unit_index("trajectory")
    progress = int(batch.state.get("step", 0)) / d3s_steps
    adv_M = segment_mean(adv_BT.flatten(), index_BT.flatten(), count)
    size = _share(schedule(progress, d3s_samples_first, d3s_samples_last), count)
    kept_M = torch.zeros(count, dtype=torch.bool, device=adv_BT.device)
    kept_M[spread_most(adv_M.tolist(), size)] = True
    kept_BT = kept_M[traj.row_B][:, None] & batch.mask
    entropy_BT = needed(batch, "entropy").masked_fill(~batch.mask, 0.0)
    share = schedule(progress, d3s_tokens_first, d3s_tokens_last)
    return (kept_BT & top_tokens(adv_BT.abs() * entropy_BT, kept_BT, share)).to(adv_BT.dtype)


def top_tokens(score_BT: Tensor, among_BT: Tensor, share: float) -> Tensor:
    """[B, T] bool: tokens of `among_BT` whose score reaches that of the share's last; equal scores go together."""
    scores = score_BT[among_BT]
    if not len(scores):
        return among_BT
    bar = scores.sort(descending=True).values[_share(share, len(scores)) - 1]
    return among_BT & (score_BT >= bar - TIE)


def _share(share: float, count: int) -> int:
    return min(count, max(1, math.ceil(share * count - 1e-9)))


# ---------------------------------------------------------------- PF-PPO


def filter_weights(size: int, name: FilterName) -> list[float]:
    """Probability of each rank, best first, to be learned from: bon [1, 0, ..], br half the best and the rest evenly,
    bw half the best and half the worst. A group of one is always taken. PF-PPO, arXiv 2409.06957.
    """
    if size == 1:
        return [1.0]
    if name == "bon":
        return [1.0, *[0.0] * (size - 1)]
    if name == "br":
        return [0.5, *[0.5 / (size - 1)] * (size - 1)]
    return [0.5, *[0.0] * (size - 2), 0.5]


def policy_filter(
    adv_BT: Tensor, batch: Batch, *, pf_filter: FilterName = "bw", reward_weights: RewardWeights = None
) -> Tensor:
    """w_i n_kept on trajectory i: the expectation of sampling one of its group with probability w_i (PF-PPO).

    w is `filter_weights` by rank of the outcome, shared evenly among equal ones; n_kept counts the group's w > 0, so
    the mean over what is kept is that expectation where sequences weigh the same. Unit: trajectory. arXiv 2409.06957.
    """
    traj, outcome_M = batch.trajectories, outcomes(batch, reward_weights)
    weight_M = torch.zeros_like(outcome_M)
    for group in range(traj.groups):
        member = (traj.group_M == group).nonzero()[:, 0]
        values, rank = torch.unique(-outcome_M[member], return_inverse=True)  # ascending: the best come first
        by_rank = torch.tensor(filter_weights(len(member), pf_filter), dtype=weight_M.dtype, device=weight_M.device)
        place = rank.sort(stable=True).values
        weight_M[member] = segment_mean(by_rank, place, len(values))[rank]
    kept_G = segment_sum((weight_M > 0).to(weight_M.dtype), traj.group_M, traj.groups)
    return spread(batch, weight_M * kept_G[traj.group_M])


def r_squared(rewards: Sequence[float], scores: Sequence[float], weights: Sequence[float]) -> float:
    """Squared weighted correlation of rewards with true scores; 0 where either does not vary."""
    total = sum(weights)
    x0, y0 = (sum(w * v for w, v in zip(weights, values, strict=True)) / total for values in (rewards, scores))
    sxx, syy, sxy = (
        sum(w * (a - a0) * (b - b0) for w, a, b in zip(weights, one, two, strict=True))
        for one, a0, two, b0 in ((rewards, x0, rewards, x0), (scores, y0, scores, y0), (rewards, x0, scores, y0))
    )
    return sxy**2 / (sxx * syy) if sxx > TIE * total and syy > TIE * total else 0.0


def choose_filter(rewards: Sequence[Sequence[float]], scores: Sequence[Sequence[float]]) -> dict[str, Any]:
    """R^2 of reward against true score on what each filter takes, and the filter with the highest.

    `rewards` and `scores` by group; `all` takes every sample. The first of equals wins: bon, br, bw. PF-PPO.
    """
    if not rewards or [len(g) for g in rewards] != [len(g) for g in scores] or not all(rewards):
        raise RequestError("Expected rewards and scores as groups of the same sizes, at least one of each.")
    flat_rewards, flat_scores = [r for g in rewards for r in g], [s for g in scores for s in g]
    found = {"all": r_squared(flat_rewards, flat_scores, [1.0] * len(flat_rewards))}
    names: tuple[FilterName, ...] = ("bon", "br", "bw")
    for name in names:
        weights: list[float] = []
        for group in rewards:
            rank = sorted(range(len(group)), key=lambda i, group=group: -group[i])
            by_rank = dict(zip(rank, filter_weights(len(group), name), strict=True))
            weights += [by_rank[i] for i in range(len(group))]
        found[name] = r_squared(flat_rewards, flat_scores, weights)
    return {"r_squared": found, "best": max(names, key=lambda name: found[name])}


# ---------------------------------------------------------------- rows

_D3S = "D3S: dynamic dual-level down-sampling"
_PF = "Policy filtration for RLHF, PF-PPO (arXiv 2409.06957)"
_GROUP = frozenset({"group_complete"})

ROWS = (
    Algorithm(
        "d3s", f"{_D3S} (OpenReview)", "trajectory",
        group_relative, selectors=(down_sampled,), controllers=(count_steps,),
        needs=_GROUP | {"entropy", "batch_stats"}, status="formula only",
        source="A secondary note. Shares 0.5 to 1 over 100 steps are ours: the paper's N and K could not be checked.",
        left_out="N is a share of the step's trajectories, not a number. Groups are not filtered before the batch: "
        "the largest variance of the whole batch is taken at once.",
    ),
)  # fmt: skip
PARTS = (
    Part("down_sampled", "selectors", down_sampled, unit="token", needs=frozenset({"entropy", "batch_stats"})),
    Part(
        "pf_ppo", "selectors", policy_filter, _PF, needs=_GROUP,
        source="Paper: best and worst (bw) is one of its two best filters; N = 5 responses.",
        left_out="Samples are weighted by their probability instead of drawn. The code's unnormalised weights of br "
        "(0.4 and 0.1) are not copied.",
    ),
    Part(
        "pf_ppo_choice", "sampler", choose_filter, _PF,
        source="Paper: the filter with the highest R^2 of reward against the true score.",
        left_out="A run has no second, true score to compare its reward with: for data that has.",
    ),
)  # fmt: skip
MEANING = {
    "d3s_samples_first": "N_0: share of trajectories at the first step",
    "d3s_samples_last": "N_1: the same at the end of the schedule",
    "d3s_tokens_first": "K_0: share of tokens of those trajectories at the first step",
    "d3s_tokens_last": "K_1: the same at the end of the schedule",
    "d3s_steps": "steps of the schedule",
    "pf_filter": "which of a group are learned from: best (bon), best and rest (br), best and worst (bw)",
}
RANGES = {
    "d3s_samples_first": Range(0.0, 1.0), "d3s_samples_last": Range(0.0, 1.0), "d3s_tokens_first": Range(0.0, 1.0),
    "d3s_tokens_last": Range(0.0, 1.0), "d3s_steps": Range(1),
}  # fmt: skip
