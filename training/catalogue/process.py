"""Process rewards: turns and tokens are paid before the end is known.

Shapes: B rows, T tokens, M trajectories, N turns, G groups, J unit tests.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batch import Batch, segment_mean, segment_sum
from ..coefficients import no_ratio, score_function
from ..credit import (
    Credit,
    Rewards,
    anchor_buckets,
    discounted_returns,
    leave_one_out,
    spread_turns,
    turn_returns,
    whiten_tokens,
)
from ..parameters import Range
from ..regularizers import State
from ..slots import Algorithm, Part

# ---------------------------------------------------------------- PRIME


def implicit_process(
    batch: Batch, rewards: Rewards, *, process_weight: float = 1.0, process_norm: bool = True
) -> Credit:
    """A_t = RLOO(R) + w sum_{k >= t} q'_k,  q'_t = (n q_t - sum over the group of its mean q) / (n - 1).

    q_t = log pi_phi - log pi_ref comes in `extras["process_rewards"]`; its mean is over a trajectory's action tokens.
    With `process_norm`, q is first divided by the largest |sum_{k >= t} q_k| of the batch. Raises RequestError for a
    group of one. PRIME, arXiv 2502.01456.
    """
    outcome_BT = leave_one_out(batch, rewards).adv_BT
    q_BT = batch.extra("process_rewards").to(outcome_BT.dtype).masked_fill(~batch.mask, 0.0)
    if process_norm:
        largest = discounted_returns(batch, q_BT, 1.0).abs().max()
        q_BT = q_BT / torch.where(largest > 0, largest, 1.0)
    index_BT, count = batch.unit_index("trajectory")
    group_M, groups = batch.trajectories.group_M, batch.trajectories.groups
    mean_M = segment_mean(q_BT.flatten(), index_BT.flatten(), count)
    n_M = torch.bincount(group_M, minlength=groups)[group_M]
    sum_M = segment_sum(mean_M, group_M, groups)[group_M]
    n_B1, sum_B1 = (x_M[batch.trajectories.row_B][:, None] for x_M in (n_M, sum_M))
    own_BT = ((n_B1 * q_BT - sum_B1) / (n_B1 - 1)).masked_fill(~batch.mask, 0.0)
    return Credit(outcome_BT + process_weight * discounted_returns(batch, own_BT, 1.0))


def outcome_pull(batch: Batch, rewards: Rewards, *, process_beta: float = 0.05, correct_at: float = 1.0) -> Tensor:
    """[B, T] derivative of the process model's loss with respect to log pi_phi of each action token.

    loss = mean over trajectories of BCE(sigmoid(beta sum_t q_t), R >= correct_at);
    d/dlogp = beta (sigmoid(beta sum q) - y) / M. PRIME, arXiv 2502.01456.
    """
    logit_M, label_M = _outcome_logits(batch, rewards, process_beta, correct_at)
    pull_M = process_beta * (torch.sigmoid(logit_M) - label_M) / len(label_M)
    return pull_M[batch.trajectories.row_B][:, None] * batch.mask


def process_fit(
    state: State, batch: Batch, rewards: Rewards, *, process_beta: float = 0.05, correct_at: float = 1.0
) -> dict[str, Any]:
    """state["process"]: cross-entropy and accuracy of sigmoid(beta sum_t q_t) as a forecast of the outcome. PRIME."""
    logit_M, label_M = _outcome_logits(batch, rewards, process_beta, correct_at)
    right_M = ((logit_M > 0) == (label_M > 0)).to(logit_M.dtype)
    loss = F.binary_cross_entropy_with_logits(logit_M, label_M)
    return {"process": {"cross_entropy": float(loss), "accuracy": float(right_M.mean())}}


def _outcome_logits(batch: Batch, rewards: Rewards, beta: float, correct_at: float) -> tuple[Tensor, Tensor]:
    index_BT, count = batch.unit_index("trajectory")
    q_BT = batch.extra("process_rewards").to(rewards.trajectory_M.dtype)
    sum_M = segment_sum(q_BT.flatten(), index_BT.flatten(), count)
    return beta * sum_M, (rewards.trajectory_M >= correct_at * (1 - 1e-6)).to(sum_M.dtype)


# ---------------------------------------------------------------- PAV


def best_of_k(value: Tensor, k: float) -> Tensor:
    """1 - (1 - Q)^K: the chance that the best of K tries succeeds."""
    return 1 - (1 - value.clamp(0.0, 1.0)) ** k


def prover_progress(rewards: Rewards, batch: Batch, *, pav_alpha: float = 1.0, prover_k: float = 4.0) -> Rewards:
    """r'_h = r_h + alpha A_h,  A_h = Q_mu(after turn h) - Q_mu(before it),  Q_mu = 1 - (1 - Q)^K.

    Q before a turn is `extras["success_values"]` where given, else the mean outcome of the group's trajectories that
    met the same observation; after the last turn it is the outcome itself, in [0, 1]. Sums telescope to
    alpha (Q_end - Q_start). Rewarding Progress, arXiv 2410.08146.
    """
    turns = batch.turns
    index_BT, count = batch.unit_index("turn")
    outcome_M = rewards.trajectory_M.clamp(0.0, 1.0)
    given = batch.extras.get("success_values")
    if given is not None:
        before_N = segment_mean(given.to(outcome_M.dtype).flatten(), index_BT.flatten(), count)
    else:
        before_N = _met_outcome(batch, outcome_M)
    q_N = best_of_k(before_N, prover_k)
    after_N = best_of_k(outcome_M, prover_k)[turns.trajectory_N]
    goes_on_N = turns.trajectory_N[1:] == turns.trajectory_N[:-1]
    after_N[:-1] = torch.where(goes_on_N, q_N[1:], after_N[:-1])
    progress_N = pav_alpha * (after_N - q_N)
    last_BT = _last_of_turn(batch)
    total_M = segment_sum(progress_N, turns.trajectory_N, len(outcome_M))
    return Rewards(rewards.trajectory_M + total_M, rewards.token_BT + spread_turns(batch, progress_N) * last_BT)


def _met_outcome(batch: Batch, outcome_M: Tensor) -> Tensor:
    """[N] mean outcome over the trajectories of a group that met a turn's observation, each counted once."""
    bucket_N, owner_N = anchor_buckets(batch), batch.turns.trajectory_N
    pairs = torch.unique(torch.stack([bucket_N, owner_N], dim=1), dim=0)
    return segment_mean(outcome_M[pairs[:, 1]], pairs[:, 0], int(bucket_N.max()) + 1)[bucket_N]


def _last_of_turn(batch: Batch) -> Tensor:
    """[B, T] bool: the last action token of each turn."""
    turn_ML = torch.where(batch.packed.mask_ML, batch.packed.take(batch.turns.token_BT), -1)
    after_ML = torch.cat([turn_ML[:, 1:], torch.full_like(turn_ML[:, :1], -1)], dim=1)
    return batch.packed.put(batch.packed.mask_ML & (turn_ML != after_ML), batch.mask.shape)


# ---------------------------------------------------------------- VeRPO


def rarity_weights(pass_GJ: Tensor, alpha: float, sigma: float, delta: float) -> Tensor:
    """w_j = exp(-alpha rho_j) / (N_j + delta),  N_j = sum_j' exp(-(rho_j - rho_j')^2 / 2 sigma^2); [G, J].

    rho_j is the share of the group's turns that pass test j: rarely passed tests weigh more, crowds of alike ones less.
    Below 0 the group's task has no such test: it weighs 0 and crowds no other.
    """
    here_GJ = pass_GJ >= 0
    gap_GJJ = pass_GJ[:, :, None] - pass_GJ[:, None, :]
    crowd_GJ = (torch.exp(-(gap_GJJ**2) / (2 * sigma**2)) * here_GJ[:, None, :]).sum(-1)
    return torch.where(here_GJ, torch.exp(-alpha * pass_GJ) / (crowd_GJ + delta), 0.0)


def verified_turns(
    batch: Batch,
    rewards: Rewards,
    *,
    verpo_alpha: float = 1.0,
    verpo_sigma: float = 0.1,
    verpo_delta: float = 0.0,
    verpo_beta: float = 1.0,
    verpo_gamma: float = 1.0,
) -> Credit:
    """A = A_traj + beta A_turn, both centred in the group:  R_turn = sum_j w_j p_j,  R_traj = R gamma^turns.

    p_j (`extras["tests"]`) is 1 where the turn's state passes test j, -1 where its task has no such test, w
    `rarity_weights`; A_turn is centred over all turns of the group, A_traj over its trajectories. VeRPO,
    arXiv 2601.03525.
    """
    turns, traj = batch.turns, batch.trajectories
    tests_BTJ = batch.extra("tests").to(rewards.trajectory_M.dtype)
    index, count = turns.token_BT.flatten(), len(turns.length_N)
    pass_NJ = torch.stack([segment_mean(x_BT.flatten(), index, count) for x_BT in tests_BTJ.unbind(-1)], dim=1)
    group_N = traj.group_M[turns.trajectory_N]
    rate_GJ = torch.stack([segment_mean(x_N, group_N, traj.groups) for x_N in pass_NJ.unbind(1)], dim=1)
    weight_GJ = rarity_weights(rate_GJ, verpo_alpha, verpo_sigma, verpo_delta)
    turn_N = (weight_GJ[group_N] * pass_NJ).sum(1)
    turn_N = turn_N - segment_mean(turn_N, group_N, traj.groups)[group_N]
    turns_M = torch.bincount(turns.trajectory_N, minlength=len(traj.group_M))
    whole_M = rewards.trajectory_M * verpo_gamma**turns_M
    whole_M = whole_M - segment_mean(whole_M, traj.group_M, traj.groups)[traj.group_M]
    return Credit(spread_turns(batch, whole_M[turns.trajectory_N] + verpo_beta * turn_N))


# ---------------------------------------------------------------- EPO, the explicit one


def critical_turns(batch: Batch, rewards: Rewards, *, gamma: float = 0.99) -> Credit:
    """A(turn t) = G_t / max_k |G_k|,  G_t = s_t + gamma G_{t+1},  s = 1 at critical turns, R at the last, else 0.

    Critical turns come in `extras["critical"]` (above 0: critical). With a score-function rule and turns averaged over
    their tokens this is reward-weighted likelihood: no weight is negative unless a return is. Explicit policy
    optimization, arXiv 2502.12486.
    """
    turns = batch.turns
    index, count = turns.token_BT.flatten(), len(turns.length_N)
    score_N = (segment_mean(batch.extra("critical").flatten(), index, count) > 0).to(rewards.trajectory_M.dtype)
    last_N = torch.ones_like(score_N, dtype=torch.bool)
    last_N[:-1] = turns.trajectory_N[1:] != turns.trajectory_N[:-1]
    score_N = torch.where(last_N, rewards.trajectory_M[turns.trajectory_N], score_N)
    return_N = turn_returns(batch, score_N, gamma)
    most_M = torch.zeros_like(rewards.trajectory_M)
    most_M = most_M.scatter_reduce(0, turns.trajectory_N, return_N.abs(), "amax")
    most_N = most_M[turns.trajectory_N]
    return Credit(spread_turns(batch, return_N / torch.where(most_N > 0, most_N, 1.0)))


# ---------------------------------------------------------------- rows

ROWS = (
    Algorithm(
        "prime",
        "PRIME: process reinforcement through implicit rewards (arXiv 2502.01456)",
        "token",
        implicit_process,
        modulators=(whiten_tokens,),
        controllers=(process_fit,),
        needs=frozenset({"group_complete", "batch_stats", "ref_logp", "process_model"}),
        source="Authors' code: beta 0.05, batch norm, update of the model after the policy's; weight 5 on process and "
        "outcome alike, which whitening makes 1. The model's learning rate is rl.critic_lr (theirs: twice the "
        "policy's).",
        left_out="Filter by group accuracy (0.2 to 0.8): rl.dynamic_sampling drops groups without a signal.",
    ),
    Algorithm(
        "verpo",
        "VeRPO: verifiable dense reward policy optimization (arXiv 2601.03525)",
        "turn",
        verified_turns,
        needs=frozenset({"group_complete", "batch_stats", "tests"}),
        source="sigma 0.1, alpha 1: the worked example; beta, gamma 1 and delta 0: ours, the paper's are not known.",
        left_out="In a run, test j is whether the score has reached the j-th of equal shares of its maximum.",
        status="formula only",
    ),
    Algorithm(
        "epo_explicit",
        "EPO: explicit policy optimization for strategic reasoning (arXiv 2502.12486)",
        "turn",
        critical_turns,
        ratio=no_ratio,
        stability=score_function,
        params={"aggregator": "seq_mean_token_mean", "unit": "turn"},
        needs=frozenset({"critical"}),
        source="Authors' code: gamma 0.99.",
        left_out="The language model that picks critical turns: in a run they are those that raised the score. The "
        "frozen dialogue agent and self-play. Turns are averaged over the batch, not first within an episode.",
    ),
)

PARTS = (
    Part(
        "pav", "transforms", prover_progress, "Rewarding Progress: process advantage verifiers (arXiv 2410.08146)",
        "turn", frozenset({"group_complete", "anchors"}),
        source="Paper: prover best of 4. alpha 1 is ours: the paper's value for RL is not known.",
        left_out="A trained verifier: values are outcomes of the group's episodes through the same observation, unless "
        "success_values are given. Put it before an estimator by turn or token; against a group, sums cancel.",
    ),
    Part("implicit_process", "estimator", implicit_process, unit="token",
         needs=frozenset({"group_complete", "process_model", "ref_logp"})),
    Part("verified_turns", "estimator", verified_turns, unit="turn", needs=frozenset({"group_complete", "tests"})),
    Part("critical_turns", "estimator", critical_turns, unit="turn", needs=frozenset({"critical"})),
)  # fmt: skip

NEEDS = {
    "process_model": "a copy of the policy trained on outcomes, whose log-ratio to the reference pays each token",
}
MEANING = {
    "process_weight": "weight of the process rewards",
    "process_norm": "divide process rewards by the batch's largest sum to the end",
    "process_beta": "β: logit per nat of log-ratio in the process model's loss",
    "pav_alpha": "α: weight of the progress",
    "prover_k": "K: the prover is the best of K tries",
    "verpo_alpha": "α: how much rarely passed tests weigh",
    "verpo_sigma": "σ: width within which pass rates crowd each other",
    "verpo_delta": "δ: added to the crowd",
    "verpo_beta": "β: weight of the turn advantage",
    "verpo_gamma": "γ: discount of the outcome per turn",
}
RANGES = {
    "process_weight": Range(0.0), "process_beta": Range(0.0), "pav_alpha": Range(0.0), "prover_k": Range(1.0),
    "verpo_alpha": Range(0.0), "verpo_sigma": Range(1e-6), "verpo_delta": Range(0.0), "verpo_beta": Range(0.0),
    "verpo_gamma": Range(0.0, 1.0),
}  # fmt: skip
EXTRAS = {
    "process_rewards": "[B, T] log-ratio of the process model to the reference at each action token",
    "success_values": "[B, T] probability of success before the token's turn, the same on all its tokens",
    "tests": "[B, T, J] 1 where the token's turn passes test j, the same on all its tokens; -1 where there is none",
    "critical": "[B, T] above 0 on tokens of turns that decided the episode",
}
