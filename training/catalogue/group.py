"""Group and batch estimators: what a trajectory's return is compared with, and how the difference is scaled.

Shapes: B rows, T tokens, K reward components, M trajectories, G groups.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...envs.errors import RequestError
from ..batch import Batch, segment_mean, segment_sum
from ..credit import Credit, Rewards, group_relative, spread, unit_stats, weights_K
from ..parameters import Range
from ..slots import Algorithm
from .stability import unclipped

MAX_BETA, BISECTIONS = 1e6, 60


def batch_scaled(batch: Batch, rewards: Rewards) -> Credit:
    """A_i = (R_i - mean_group) / (std of all raw returns of the batch + 1e-6), std unbiased. Lite PPO, 2508.08221."""
    traj, R_M = batch.trajectories, rewards.trajectory_M
    centred_M = R_M - segment_mean(R_M, traj.group_M, traj.groups)[traj.group_M]
    std = R_M.std() if len(R_M) > 1 else torch.ones_like(R_M.sum())
    return Credit(spread(batch, centred_M / (std + 1e-6)))


def beta_normalized(batch: Batch, rewards: Rewards, *, weight_cap: float = 1e6) -> Credit:
    """A_i = (R_i - p) / BetaPDF(p; alpha, beta), p the group's mean return, 1 / pdf at most `weight_cap`.

    With M, V the batch's mean and unbiased variance of p: a = (M (1 - M) / V - 1) M, b = (...) (1 - M),
    alpha = max(1, 1 + a / 3), beta = max(1, 1 + b / 3). Made for returns in [0, 1]: outside, p is cut there
    for the density. Without variance among groups the density is flat. BNPO, arXiv 2506.02864.
    """
    traj, R_M = batch.trajectories, rewards.trajectory_M
    p_G = segment_mean(R_M, traj.group_M, traj.groups)
    q_G = p_G.clamp(0.0, 1.0)
    alpha, beta = _beta_shape(q_G)
    log_pdf_G = (alpha - 1) * q_G.clamp(min=1e-12).log() + (beta - 1) * (1 - q_G).clamp(min=1e-12).log()
    log_pdf_G = log_pdf_G + math.lgamma(alpha + beta) - math.lgamma(alpha) - math.lgamma(beta)
    weight_G = (-log_pdf_G).exp().clamp(max=weight_cap)
    return Credit(spread(batch, (R_M - p_G[traj.group_M]) * weight_G[traj.group_M]))


def _beta_shape(p_G: Tensor) -> tuple[float, float]:
    mean = float(p_G.mean())
    variance = float(p_G.var()) if len(p_G) > 1 else 0.0
    if variance <= 1e-12:
        return 1.0, 1.0
    common = mean * (1 - mean) / variance - 1
    return max(1.0, 1 + common * mean / 3), max(1.0, 1 + common * (1 - mean) / 3)


def decoupled(
    batch: Batch, rewards: Rewards, *, reward_weights: Mapping[str, float] | Sequence[float] | None = None
) -> Credit:
    """t_i = sum_k w_k (R_ik - mean_group) / (std_group + 1e-4), A = (t - mean_batch) / (std_batch + 1e-4).

    Each reward is normalised by itself before they are added, so that none drowns the others. GDPO, arXiv 2601.05242.
    """
    traj = batch.trajectories
    parts_MK = batch.rewards[traj.first_row_M]
    z_KM = []
    for part_M in parts_MK.T:
        mean_M, std_M = unit_stats(part_M, traj.group_M, traj.groups, lone_mean_zero=True)
        z_KM.append((part_M - mean_M) / (std_M + 1e-4))
    t_M = (weights_K(batch, reward_weights)[:, None] * torch.stack(z_KM)).sum(0)
    everything = torch.zeros_like(traj.group_M)
    mean_M, std_M = unit_stats(t_M, everything, 1, lone_mean_zero=False)
    return Credit(spread(batch, (t_M - mean_M) / (std_M + 1e-4)))


def entropic(batch: Batch, rewards: Rewards, *, entropic_beta: float | None = None) -> Credit:
    """A_i = exp(beta R_i) / mean_{j != i} exp(beta R_j) - 1: towards the best of the group, not its mean.

    Without `entropic_beta`, beta is found per group by bisection so that KL(softmax(beta R) || uniform) = ln 2, or
    0.9 ln n where that is less (n = 2 reaches ln 2 at infinity only). Groups of equal returns get 0. TTT-Discover.
    """
    traj, R_M = batch.trajectories, rewards.trajectory_M
    adv_M = torch.zeros_like(R_M)
    for group in range(traj.groups):
        member = (traj.group_M == group).nonzero()[:, 0]
        R = R_M[member]
        if len(R) < 2 or bool((R[0] == R).all()):
            continue
        beta = adaptive_beta(R.tolist()) if entropic_beta is None else entropic_beta
        e = (beta * (R - R.max())).exp()
        adv_M[member] = e / ((e.sum() - e) / (len(R) - 1)).clamp(min=1e-12) - 1
    return Credit(spread(batch, adv_M))


def adaptive_beta(returns: Sequence[float]) -> float:
    """beta in [1e-6, 1e6] with KL(softmax(beta R) || uniform) = min(ln 2, 0.9 ln n), by 60 bisections."""
    R = torch.tensor(returns, dtype=torch.float64)
    target = min(math.log(2), 0.9 * math.log(len(returns)))
    low, high = 1 / MAX_BETA, MAX_BETA
    for _ in range(BISECTIONS):
        beta = (low * high) ** 0.5  # halves the range of its logarithm
        logp = torch.log_softmax(beta * R, -1)
        if float((logp.exp() * logp).sum()) + math.log(len(returns)) < target:
            low = beta
        else:
            high = beta
    return high


def consistency_blend(
    batch: Batch, rewards: Rewards, *, copo_gamma: float = 20.0, copo_rho: float = 1.5, normalize: bool = True
) -> Credit:
    """A = w A_local + (1 - w) A_global, w = sigmoid(gamma (H - rho)) of the group's answers.

    H = -sum_a p(a) ln p(a) over the clusters of a group; A_local is GRPO's, A_global = (mean R of the group - mean over
    groups) / std over groups (unbiased), the same for all of a group: where all answers agree, groups are compared
    instead. COPO.
    """
    traj = batch.trajectories
    cluster_M = batch.extra("cluster")[traj.first_row_M]
    weight_G = torch.sigmoid(copo_gamma * (_answer_entropy(cluster_M, traj.group_M, traj.groups) - copo_rho))
    mean_G = segment_mean(rewards.trajectory_M, traj.group_M, traj.groups)
    centre_G, std_G = unit_stats(mean_G, torch.zeros_like(mean_G, dtype=torch.long), 1, lone_mean_zero=False)
    global_BT = spread(batch, ((mean_G - centre_G) / (std_G + 1e-6))[traj.group_M])
    weight_BT = weight_G[traj.group_M][traj.row_B][:, None]
    local_BT = group_relative(batch, rewards, normalize=normalize).adv_BT
    return Credit(weight_BT * local_BT + (1 - weight_BT) * global_BT)


def _answer_entropy(cluster_M: Tensor, group_M: Tensor, groups: int) -> Tensor:
    """[G] entropy in nats of each group's distribution over clusters."""
    pairs = torch.stack([group_M.to(cluster_M.dtype), cluster_M], 1)
    kinds, count_C = torch.unique(pairs, dim=0, return_counts=True)
    size_G = torch.bincount(group_M, minlength=groups).to(cluster_M.dtype)
    p_C = count_C.to(cluster_M.dtype) / size_G[kinds[:, 0].long()]
    return segment_sum(-p_C * p_C.log(), kinds[:, 0].long(), groups)


# ---------------------------------------------------------------- risk


def risk_of_bundles(
    batch: Batch,
    rewards: Rewards,
    *,
    risk_low: float = 0.2,
    risk_high: float = 0.8,
    risk_weight: float = 1.5,
    bundle_size: int = 5,
) -> Credit:
    """A = (w CVaR + RVaR) / (w + 1) of the bundle's score, over its deviation and that of the question's returns.

    A bundle is `bundle_size` groups; its k-th score S_k sums the k-th returns of them. With tracked quantiles q_d, q_u
    at levels a_d, a_u: RVaR = [(S - q_d)+ - (S - q_u)+ + q_d - q_u] / (a_u - a_d), CVaR = -(q_d - S)+ / a_d. Groups of
    a batch must be of one size. Deviations of 0 count as 1. RiskPO, arXiv 2510.00911.
    """
    traj = batch.trajectories
    order, S_SK = bundle_scores(batch, rewards, bundle_size)
    low, high = quantiles(batch.state)
    risk_SK = mixed_risk(S_SK, low, high, risk_low, risk_high, risk_weight)
    std_S = S_SK.std(1, keepdim=True) if S_SK.shape[1] > 1 else torch.ones_like(S_SK)
    risk_SK = risk_SK / torch.where(std_S > 0, std_S, 1.0)
    adv_M = torch.zeros_like(rewards.trajectory_M)
    adv_M[order.flatten()] = risk_SK.repeat_interleave(bundle_size, 0)[: len(order)].flatten()
    _, std_M = unit_stats(rewards.trajectory_M, traj.group_M, traj.groups, lone_mean_zero=False)
    return Credit(spread(batch, adv_M / torch.where(std_M > 0, std_M, 1.0)))


def mixed_risk(S: Tensor, low: float, high: float, a_low: float, a_high: float, weight: float) -> Tensor:
    """(w CVaR + RVaR) / (w + 1) of scores S, elementwise."""
    rvar = ((S - low).clamp(min=0) - (S - high).clamp(min=0) + low - high) / (a_high - a_low)
    return (weight * -(low - S).clamp(min=0) / a_low + rvar) / (weight + 1)


def bundle_scores(batch: Batch, rewards: Rewards, bundle_size: int) -> tuple[Tensor, Tensor]:
    """([G, K] trajectory of each group's k-th place, [bundles, K] summed returns)."""
    traj = batch.trajectories
    sizes = torch.bincount(traj.group_M, minlength=traj.groups)
    if int(sizes.min()) != int(sizes.max()):
        raise RequestError(
            f"Expected groups of one size for riskpo, got {int(sizes.min())} to {int(sizes.max())} trajectories: a "
            "bundle adds their k-th returns. Do not combine it with a budget or dynamic sampling."
        )
    order = torch.argsort(traj.group_M, stable=True).view(traj.groups, -1)
    R_GK = rewards.trajectory_M[order]
    bundle_G = torch.arange(traj.groups, device=order.device) // bundle_size
    S = torch.zeros(int(bundle_G[-1]) + 1, order.shape[1], dtype=R_GK.dtype, device=R_GK.device)
    return order, S.index_add(0, bundle_G, R_GK)


def quantiles(state: Mapping[str, Any]) -> tuple[float, float]:
    """The tracked quantiles of bundle scores, 0 before the first step."""
    low, high = state.get("risk_quantiles", (0.0, 0.0))
    return float(low), float(high)


def track_quantiles(
    state: Mapping[str, Any],
    batch: Batch,
    rewards: Rewards,
    *,
    risk_low: float = 0.2,
    risk_high: float = 0.8,
    risk_lr: float = 0.1,
    bundle_size: int = 5,
) -> dict[str, Any]:
    """q <- q + lr (a - mean 1[S < q]) for both levels."""
    S = bundle_scores(batch, rewards, bundle_size)[1].flatten()
    moved = [
        q + risk_lr * (level - float((q > S).to(S.dtype).mean()))
        for q, level in zip(quantiles(state), (risk_low, risk_high), strict=True)
    ]
    return {"risk_quantiles": moved}


# ---------------------------------------------------------------- difficulty


def difficulty_aware(
    batch: Batch, rewards: Rewards, *, normalize: bool = True, hard_below: float = 0.3, hard_kl: float = 0.5
) -> Credit:
    """GRPO's advantage; groups all won or all lost are dropped, and rows of hard groups weigh `hard_kl` in the KL loss.

    A group's accuracy is the share of returns above 0.5: hard up to `hard_below`. CLPO.
    """
    traj = batch.trajectories
    accuracy_G = pass_rates(batch, rewards)
    kept_M = ((accuracy_G > 0) & (accuracy_G < 1))[traj.group_M]
    kl_B = torch.where(accuracy_G <= hard_below, hard_kl, 1.0).to(batch.rewards.dtype)[traj.group_M][traj.row_B]
    adv_BT = group_relative(batch, rewards, normalize=normalize).adv_BT
    return Credit(adv_BT, weight_BT=spread(batch, kept_M.to(adv_BT.dtype)), extras={"kl_weight": kl_B})


def asymmetric_kl(batch: Batch, rewards: Rewards, *, normalize: bool = True) -> Credit:
    """GRPO's advantage; won trajectories weigh w(d) = 1 - exp(-e (1 - d)) in the KL loss (DADS), lost ones 1.

    d = 1 - pass rate of the group; w = 1 where d is 0 or 1. View-R1's asymmetric policy optimisation.
    """
    traj = batch.trajectories
    d_M = 1 - pass_rates(batch, rewards)[traj.group_M]
    w_M = torch.where((d_M > 0) & (d_M < 1), 1 - torch.exp(-math.e * (1 - d_M)), 1.0)
    w_M = torch.where(rewards.trajectory_M > 0.5, w_M, 1.0).to(batch.rewards.dtype)
    adv_BT = group_relative(batch, rewards, normalize=normalize).adv_BT
    return Credit(adv_BT, extras={"kl_weight": w_M[traj.row_B]})


def longer_losses(adv_BT: Tensor, batch: Batch, *, stcr_base: float = 1.00001) -> Tensor:
    """A < 0 is multiplied by 1 + max(0, 1 - base^-(L - mean L of the group's positive trajectories)) (STCR).

    L counts action tokens; groups without a positive advantage stay as they are.
    """
    traj, length_M = batch.trajectories, batch.packed.mask_ML.sum(1).to(adv_BT.dtype)
    sign_M = batch.packed.take(adv_BT).sum(1).sign()
    positive_M = torch.where(sign_M > 0, traj.group_M, -1)
    count_G = segment_sum(torch.ones_like(length_M), positive_M, traj.groups)
    mean_M = segment_mean(length_M, positive_M, traj.groups)[traj.group_M]
    excess_M = torch.where(count_G[traj.group_M] > 0, length_M - mean_M, 0.0)
    factor_M = 1 + (1 - stcr_base**-excess_M).clamp(min=0)
    return torch.where(adv_BT < 0, adv_BT * factor_M[traj.row_B][:, None], adv_BT)


def pass_rates(batch: Batch, rewards: Rewards) -> Tensor:
    """[G] share of the group's trajectories whose return is above 0.5."""
    won_M = (rewards.trajectory_M > 0.5).to(batch.rewards.dtype)
    return segment_mean(won_M, batch.trajectories.group_M, batch.trajectories.groups)


# ---------------------------------------------------------------- rows

_GROUP, _BATCH = frozenset({"group_complete"}), frozenset({"group_complete", "batch_stats"})

ROWS = (
    Algorithm(
        "lite_ppo", "Tricks or Traps? A deep dive into RL for LLM reasoning, Lite PPO (arXiv 2508.08221)", "trajectory",
        batch_scaled, needs=_BATCH,
        source="ROLL and TRL presets: group mean, batch deviation, token mean, clip 0.2, no KL.",
        left_out="Nothing known.",
    ),
    Algorithm(
        "bnpo", "BNPO: Beta normalization policy optimization (arXiv 2506.02864)", "trajectory",
        beta_normalized, params={"aggregator": "seq_mean_token_sum", "clip_high": 0.28}, needs=_BATCH,
        source="Authors' code: clip 0.2 / 0.28, mean over sequences of token sums, no KL.",
        left_out="Its decomposition over several rewards: use gdpo.",
    ),
    Algorithm(
        "gdpo", "GDPO: group reward-decoupled normalization (arXiv 2601.05242)", "trajectory",
        decoupled, params={"aggregator": "seq_mean_token_mean"}, needs=_BATCH,
        source="Authors' code: weights 1, epsilon 1e-4, GRPO otherwise.",
        left_out="KL in reward and the overlong penalty do not enter: rewards are taken before they are summed.",
    ),
    Algorithm(
        "ttt_discover", "Learning to discover at test time, entropic objective (code: test-time-training/discover)",
        "trajectory", entropic, stability=unclipped, needs=_GROUP,
        source="Authors' code: adaptive beta with KL ln 2 (their command line's other default: fixed 2).",
        left_out="Reuse of states by PUCT: the search buffer. Target 0.9 ln n for groups of two is ours.",
    ),
    Algorithm(
        "copo", "COPO: consistency-aware policy optimization (arXiv 2508.04138)", "trajectory",
        consistency_blend, needs=_BATCH | {"cluster"}, status="formula only",
        source="Secondary notes agree on gamma 20, rho 1.5, H and w.",
        left_out="Authors' code was not to be had; the unbiased deviation over groups and blending advantages instead "
        "of losses are our reading. In a run, equal action sequences are one answer.",
    ),
    Algorithm(
        "riskpo", "RiskPO: risk-based policy optimization (arXiv 2510.00911)", "trajectory",
        risk_of_bundles, controllers=(track_quantiles,), needs=_BATCH,
        source="Authors' code: bundles of 5, levels 0.2 / 0.8, w 1.5, quantile step 0.1, no KL.",
        left_out="Groups are bundled in the order of the batch.",
    ),
    Algorithm(
        "clpo", "CLPO: curriculum learning meets policy optimization (code: csuking/CLPO)", "trajectory",
        difficulty_aware, params={"beta": 0.001, "aggregator": "seq_mean_token_mean"}, needs=_GROUP,
        source="Authors' script: KL 0.001, half of it on hard groups (accuracy at most 0.3).",
        left_out="Rewriting of hard and medium tasks by the policy: a game has no paraphrase with the same answer.",
    ),
    Algorithm(
        "apo_asymmetric", "APO: asymmetric policy optimization (code: Indolent-Kawhi/View-R1)", "trajectory",
        asymmetric_kl, modulators=(longer_losses,), params={"beta": 0.001, "aggregator": "seq_mean_token_mean"},
        needs=_GROUP,
        source="Authors' code: KL 1e-3 (k3), base 1.00001, clip 0.2.",
        left_out="Nothing known.",
    ),
)  # fmt: skip
PARTS = ()
MEANING = {
    "weight_cap": "largest factor on an advantage",
    "entropic_beta": "β of the entropic objective; None: found per group",
    "copo_gamma": "γ: steepness between comparing answers and comparing groups",
    "copo_rho": "ρ: answer entropy at which both weigh the same",
    "risk_low": "lower quantile level of RiskPO",
    "risk_high": "upper quantile level of RiskPO",
    "risk_weight": "w: weight of the lower tail",
    "risk_lr": "step of the quantile tracker",
    "bundle_size": "groups whose returns are added to one score",
    "hard_below": "accuracy up to which a group is hard",
    "hard_kl": "weight of the KL loss on hard groups",
    "stcr_base": "base of the factor on long losing trajectories",
}
RANGES = {
    "weight_cap": Range(1.0), "entropic_beta": Range(0.0), "copo_gamma": Range(0.0), "risk_low": Range(0.0, 1.0),
    "risk_high": Range(0.0, 1.0), "risk_weight": Range(0.0), "risk_lr": Range(0.0), "bundle_size": Range(1),
    "hard_below": Range(0.0, 1.0), "hard_kl": Range(0.0), "stcr_base": Range(1.0),
}  # fmt: skip
