"""Regression losses: the coefficient is that of a squared or pairwise loss in sums of log-ratios.

Shapes: B rows, T tokens, U units (trajectories or turns). Every function here returns the whole coefficient
c = -dL/dlogp in units of the row's aggregator, and as surrogate the loss itself, laid out over the unit's tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batch import Batch, Unit, segment_mean, segment_sum
from ..coefficients import Factor, log_ratio
from ..credit import (
    Credit,
    Rewards,
    anchor_buckets,
    group_relative,
    needed,
    spread,
    spread_turns,
    turn_returns,
    unit_stats,
)
from ..parameters import Range
from ..regularizers import Update, kl_estimate
from ..slots import TERMS, Algorithm, Part

Divergence = Literal["forward", "js", "alpha"]

# ---------------------------------------------------------------- what the regressions aim at


def trajectory_return(batch: Batch, rewards: Rewards) -> Credit:
    """A_i = R_i, the trajectory's return itself."""
    return Credit(spread(batch, rewards.trajectory_M))


def log_return(batch: Batch, rewards: Rewards, *, reward_power: float = 1.0, reward_floor: float = 1e-3) -> Credit:
    """A_i = power * log(max(R_i, floor)): the log of the positive reward that a flow is to match."""
    return Credit(spread(batch, reward_power * rewards.trajectory_M.clamp(min=reward_floor).log()))


def anchor_advantage(batch: Batch, rewards: Rewards, *, gamma: float = 1.0) -> Credit:
    """A(turn) = R_t - mean of R over the turns of its group that answered the same observation.

    R_t is the discounted return from the turn on, a Monte-Carlo sample of V(s + a). arXiv 2412.18279 trains a critic on
    16 such samples per state instead.
    """
    index_BT, count = batch.unit_index("turn")
    reward_N = segment_sum(rewards.token_BT.flatten(), index_BT.flatten(), count)
    return_N, bucket_N = turn_returns(batch, reward_N, gamma), anchor_buckets(batch)
    mean_N, _ = unit_stats(return_N, bucket_N, int(bucket_N.max()) + 1, lone_mean_zero=False)
    return Credit(spread_turns(batch, return_N - mean_N))


# ---------------------------------------------------------------- coefficients


def rover(logp_BT: Tensor, adv_BT: Tensor, batch: Batch, *, rho: float = 1.0) -> Factor:
    """L = (q_t - target_t)^2 with q = rho (logp - logp_old), c = 2 rho (target - q). Token mean.

    target_t = A + rho (mean_v log pi - mean_v log pi_old) at the trajectory's next action token, 0 after the last.
    ROVER, random policy valuation; the means are over the vocabulary (`extras` mean_logp, mean_logp_old).
    """
    value_BT = batch.extra("mean_logp") - batch.extra("mean_logp_old")
    ahead_ML = torch.roll(batch.packed.take(value_BT.masked_fill(~batch.mask, 0.0)), -1, dims=1)
    ahead_ML[:, -1] = 0.0
    ahead_BT = batch.packed.put(ahead_ML, batch.mask.shape)  # padding is 0: so is what follows the last token
    error_BT = adv_BT + rho * ahead_BT - rho * log_ratio(logp_BT, batch, "old")
    return _whole(2 * rho * error_BT, error_BT**2)


def trajectory_balance(
    logp_BT: Tensor, adv_BT: Tensor, batch: Batch, *, log_z: float | None = None, unit: Unit = "trajectory"
) -> Factor:
    """L = (s - b)^2, s = sum log pi - log R; b = mean of s over the group (VarGrad), or -log Z where it is given.

    c = -2 (s - b): the mean's own gradient cancels over the group. Mean over units of sums over tokens. The estimator
    gives log R. Flow of Reasoning, arXiv 2406.05673 (VarGrad: arXiv 2010.10436).
    """
    index_BT, sum_U = _sums(logp_BT, batch, unit)
    flow_U = sum_U - _first(adv_BT, index_BT, len(sum_U))
    error_U = flow_U + log_z if log_z is not None else flow_U - _group_mean(flow_U, batch, unit)
    return _by_unit(-2 * error_U, error_U**2, index_BT, batch)


def contrastive(logp_BT: Tensor, adv_BT: Tensor, batch: Batch, *, copg_beta: float = 0.5) -> Factor:
    """c_i = R^b_i - mean_{j != i} R^b_j with R^b = R - b u, u = sum log(pi / ref): RLOO of the regularised return.

    L_i = -u_i (R_i - mean_{j != i} R_j) + b / 2 u_i (u_i - mean_{j != i} u_j); off-policy without importance weights.
    Mean over trajectories of sums over tokens. CoPG, arXiv 2406.19185.
    """
    u_BT = (logp_BT - needed(batch, "logp_ref")).masked_fill(~batch.mask, 0.0)
    index_BT, u_M = _sums(u_BT, batch, "trajectory")
    return_M = _first(adv_BT, index_BT, len(u_M))
    size_M = torch.bincount(batch.trajectories.group_M)[batch.trajectories.group_M]
    factor_M = torch.where(size_M > 1, size_M / (size_M - 1).clamp(min=1), 0.0)
    alone_M, u_alone_M = (factor_M * (x_M - _group_mean(x_M, batch, "trajectory")) for x_M in (return_M, u_M))
    loss_M = -u_M * alone_M + copg_beta / 2 * u_M * u_alone_M
    return _by_unit(alone_M - copg_beta * u_alone_M, loss_M, index_BT, batch)


def direct_advantage(
    logp_BT: Tensor, adv_BT: Tensor, batch: Batch, *, direct_beta: float = 0.02, unit: Unit = "turn"
) -> Factor:
    """L = (A / beta - u)^2 / 2, u = sum over the step's tokens of log(pi / ref), c = A / beta - u.

    Mean over steps of sums over tokens; a step is a turn. Direct Advantage Policy Optimization, arXiv 2412.18279.
    """
    u_BT = (logp_BT - needed(batch, "logp_ref")).masked_fill(~batch.mask, 0.0)
    index_BT, u_U = _sums(u_BT, batch, unit)
    error_U = _first(adv_BT, index_BT, len(u_U)) / direct_beta - u_U
    return _by_unit(error_U, error_U**2 / 2, index_BT, batch)


def preference_levels(
    logp_BT: Tensor, adv_BT: Tensor, batch: Batch, *, trpa_beta: float = 0.1, top_weight: float = 2.5
) -> Factor:
    """L = -mean over pairs of log sigmoid(h), h = a beta (l_w - l_l), l = mean over tokens of log(pi / ref).

    Pairs are all (w, l) of a group with level_w < level_l; a is `top_weight` where w is of level 1, else 1. A group
    without pairs counts each trajectory as -log sigmoid(+-beta l), plus for level 1. Sequence mean of token means:
    c_i = units * sum over pairs of +-a beta sigmoid(-h) / pairs. TRPA; levels come in `extras["level"]`.
    """
    u_BT = (logp_BT - needed(batch, "logp_ref")).masked_fill(~batch.mask, 0.0)
    index_BT, sum_M = _sums(u_BT, batch, "trajectory")
    length_M = torch.bincount(index_BT[batch.mask], minlength=len(sum_M)).clamp(min=1)
    mean_M, level_M = sum_M / length_M, batch.extra("level")[batch.trajectories.first_row_M]
    group_M = batch.trajectories.group_M
    pair_MM = (group_M[:, None] == group_M[None]) & (level_M[:, None] < level_M[None])
    best_M = (level_M == 1).to(mean_M.dtype)
    weight_MM = (1 + (top_weight - 1) * best_M)[:, None] * pair_MM
    h_MM = trpa_beta * weight_MM * (mean_M[:, None] - mean_M[None])
    push_MM = trpa_beta * weight_MM * torch.sigmoid(-h_MM)
    pairs_G = segment_sum(pair_MM.sum(1).to(mean_M.dtype), group_M, batch.trajectories.groups)
    lone_M = pairs_G[group_M] == 0
    sign_M = trpa_beta * (2 * best_M - 1) * lone_M
    count = (pair_MM.sum() + lone_M.sum()).clamp(min=1)
    push_M = (push_MM.sum(1) - push_MM.sum(0) + sign_M * torch.sigmoid(-sign_M * mean_M)) / count
    loss_M = (-F.logsigmoid(h_MM) * pair_MM).sum(1) - F.logsigmoid(sign_M * mean_M) * lone_M
    units = int((torch.bincount(index_BT[batch.mask], minlength=len(sum_M)) > 0).sum())
    return _whole((units * push_M)[index_BT.clamp(min=0)], (units * loss_M / count)[index_BT.clamp(min=0)])


def divergence_to_start(
    logp_BT: Tensor,
    adv_BT: Tensor,
    batch: Batch,
    *,
    dph_eta: float = 0.02,
    divergence: Divergence = "forward",
    dph_alpha: float = 0.2,
) -> Factor:
    """L = eta D(u), u = pi / pi_0 at tokens that pi_0 sampled: keeps what the start could do, without a live reference.

    forward KL u - 1 - ln u | JS u ln u - (u + 1) ln((u + 1) / 2) | alpha (u^(1-a) - (1-a) u - a) / (a (a - 1));
    c = -dD/dlogp: 1 - u | -u ln(2u / (u + 1)) | -(1 - a) (u^(1-a) - u) / (a (a - 1)). DPH-RL.
    """
    u_BT = (logp_BT - batch.extra("logp_pi0")).clamp(-20.0, 20.0).exp()
    a = dph_alpha
    if divergence == "forward":
        loss_BT, c_BT = u_BT - 1 - u_BT.log(), 1 - u_BT
    elif divergence == "js":
        loss_BT = u_BT * u_BT.log() - (u_BT + 1) * ((u_BT + 1) / 2).log()
        c_BT = -u_BT * (2 * u_BT / (u_BT + 1)).log()
    else:
        loss_BT = (u_BT ** (1 - a) - (1 - a) * u_BT - a) / (a * (a - 1))
        c_BT = -(1 - a) * (u_BT ** (1 - a) - u_BT) / (a * (a - 1))
    return _whole(dph_eta * c_BT, dph_eta * loss_BT)


def kl_to_old(update: Update, *, kl_old_coef: float = 0.001) -> Tensor | None:
    """kl_old_coef * token mean of k3(pi || pi_old): a trust region around the policy that opened the update."""
    if not kl_old_coef:
        return None
    off_BT = ~update.batch.mask
    old_BT = needed(update.batch, "logp_old").masked_fill(off_BT, 0.0)
    kl_BT = kl_estimate(update.logp_BT.masked_fill(off_BT, 0.0), old_BT, "k3")
    return kl_old_coef * (update.weights.token_BT * kl_BT).sum()


# ---------------------------------------------------------------- helpers


def _sums(x_BT: Tensor, batch: Batch, unit: Unit) -> tuple[Tensor, Tensor]:
    """([B, T] unit of each action token, [U] sum of x over it)."""
    index_BT, count = batch.unit_index(unit)
    return index_BT, segment_sum(x_BT.flatten(), index_BT.flatten(), count)


def _first(x_BT: Tensor, index_BT: Tensor, count: int) -> Tensor:
    """[U] the value that all tokens of a unit share."""
    return segment_mean(x_BT.flatten(), index_BT.flatten(), count)


def _group_mean(x_U: Tensor, batch: Batch, unit: Unit) -> Tensor:
    """[U] mean over the units of each unit's group."""
    group_M = batch.trajectories.group_M
    group_U = group_M if unit == "trajectory" else group_M[batch.turns.trajectory_N]
    return segment_mean(x_U, group_U, batch.trajectories.groups)[group_U]


def _by_unit(c_U: Tensor, loss_U: Tensor, index_BT: Tensor, batch: Batch) -> Factor:
    """Coefficient on every token of a unit; its loss shared out evenly, so that a sum over tokens gives it back."""
    length_U = torch.bincount(index_BT[batch.mask], minlength=len(c_U)).clamp(min=1)
    at_BT = index_BT.clamp(min=0)
    return _whole(c_U[at_BT], (loss_U / length_U)[at_BT])


def _whole(c_BT: Tensor, loss_BT: Tensor) -> Factor:
    return Factor(c_BT, torch.ones_like(c_BT, dtype=torch.bool), loss_BT)


def near_mastered(
    pass_rate: Sequence[float], *, mastered_at: float = 0.75, start_tasks: int = 32, start_rows: int = 8
) -> dict[str, list[int]]:
    """Which tasks are `kept`, won at a rate of `mastered_at` or more before RL, and which are to be explored.

    Of `start_tasks` tasks played before RL the won episodes of the kept ones are held on to, `start_rows` of them in
    each step's batch. Unit: task. DPH-RL; the threshold is ours.
    """
    kept = [index for index, rate in enumerate(pass_rate) if rate >= mastered_at]
    return {"kept": kept, "explored": [index for index in range(len(pass_rate)) if index not in set(kept)]}


# ---------------------------------------------------------------- rows

_PAIRS = frozenset({"group_complete", "whole_minibatch", "unit_complete"})

ROWS = (
    Algorithm(
        "flow_of_reasoning",
        "Flow of Reasoning: GFlowNet trajectory balance (arXiv 2406.05673)",
        "trajectory",
        log_return,
        coef=trajectory_balance,
        params={"aggregator": "seq_mean_token_sum"},
        needs=_PAIRS,
        source="Authors' code: VarGrad, no log Z. reward_floor is ours: a flow needs positive rewards.",
        left_out="Replay buffer, epsilon-greedy exploration, learned log Z (give log_z for TB with a constant).",
    ),
    Algorithm(
        "copg",
        "Contrastive Policy Gradient (arXiv 2406.19185)",
        "trajectory",
        trajectory_return,
        coef=contrastive,
        params={"aggregator": "seq_mean_token_sum"},
        needs=_PAIRS | {"ref_logp"},
        source="b 0.5 as in the paper's toy task; task dependent.",
        left_out="Offline data sets.",
    ),
    Algorithm(
        "direct_advantage",
        "Direct Advantage Policy Optimization (arXiv 2412.18279)",
        "turn",
        anchor_advantage,
        coef=direct_advantage,
        params={"aggregator": "seq_mean_token_sum", "unit": "turn"},
        needs=frozenset({"group_complete", "anchors", "unit_complete", "ref_logp"}),
        source="beta 0.02: paper.",
        left_out="The paper's offline pipeline: frozen critic on 16 completions a state, states with a value gap of "
        "0.1. Here the return of the turn stands for its value, and a step is a turn.",
    ),
    Algorithm(
        "rover",
        "ROVER: random policy valuation for diverse reasoning",
        "token",
        group_relative,
        coef=rover,
        needs=frozenset({"group_complete", "mean_logp", "unit_complete"}),
        source="Authors' script: rho 1, group z-score (the paper: centred reward: normalize=false), no KL, no clip.",
        left_out="Nothing known.",
    ),
    Algorithm(
        "trpa",
        "TRPA: trust region preference approximation",
        "trajectory",
        trajectory_return,
        coef=preference_levels,
        terms=(*TERMS, kl_to_old),
        params={"aggregator": "seq_mean_token_mean"},
        needs=_PAIRS | {"ref_logp", "level"},
        source="Authors' code: beta 0.1, 2.5 on pairs of level 1, KL to the old policy 0.001.",
        left_out="Sign of groups without pairs is our reading.",
    ),
)

PARTS = (
    Part(
        "dph_rl", "expert", divergence_to_start, "DPH-RL: the choice of divergence", "token",
        frozenset({"logp_pi0", "provenance"}),
        source="Authors' code: eta 0.01 to 0.05 (forward), 0.05 to 0.2 (JS); alpha 0.2.",
        left_out="In a run: rl.replay=dph_rl (part near_mastered) adds episodes that the policy won before RL. Tasks "
        "that are near-mastered are not taken out of what RL explores.",
    ),
    Part(
        "near_mastered", "replay", near_mastered, "DPH-RL: the choice of divergence",
        source="Numbers are ours.", left_out="In a run: rl.replay=dph_rl, with slots.expert=dph_rl.",
        status="formula only",
    ),
    Part("kl_to_old", "terms", kl_to_old, unit="token"),
)  # fmt: skip

MEANING = {
    "rho": "ρ: temperature between log-ratio and value",
    "log_z": "log Z of trajectory balance; None: the group's mean instead (VarGrad)",
    "reward_power": "exponent of the reward that a flow matches",
    "reward_floor": "smallest reward a flow is asked to match",
    "copg_beta": "b: weight of the log-ratio in the regularised return",
    "direct_beta": "β: advantage per nat of log-ratio",
    "trpa_beta": "β: slope of the preference",
    "top_weight": "weight of pairs whose winner is of level 1",
    "dph_eta": "η: weight of the divergence to the start",
    "mastered_at": "share of wins before RL from which a task counts as nearly mastered",
    "start_tasks": "tasks played before RL",
    "start_rows": "episodes from before RL in each step's batch",
    "divergence": "which divergence: forward KL, Jensen-Shannon, alpha",
    "dph_alpha": "α of the alpha divergence",
    "kl_old_coef": "weight of KL to the policy that opened the update",
}
RANGES = {
    "rho": Range(0.0), "reward_floor": Range(0.0), "reward_power": Range(0.0), "copg_beta": Range(0.0),
    "mastered_at": Range(0.0, 1.0), "start_tasks": Range(1), "start_rows": Range(1),
    "direct_beta": Range(0.0), "trpa_beta": Range(0.0), "top_weight": Range(0.0), "dph_eta": Range(0.0),
    "dph_alpha": Range(0.0, 1.0, high_open=True), "kl_old_coef": Range(0.0),
}  # fmt: skip
EXTRAS = {
    "mean_logp": "[B, T] mean over the vocabulary of log pi at each action token",
    "mean_logp_old": "[B, T] the same under the policy that opened the update",
    "level": "[B] preference level of the trajectory, 1 the best",
    "logp_pi0": "[B, T] log-prob of the policy before RL at tokens that it sampled",
}
