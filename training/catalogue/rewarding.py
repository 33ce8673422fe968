"""Transforms of the reward before credit, and the estimators and modulators that belong to them.

Shapes: B rows, T tokens, M trajectories, G groups. A transform is `(rewards, batch, *, ...) -> Rewards`.
A single-turn paper's "response" is the trajectory here, its length the trajectory's action tokens.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ..batch import Batch, segment_mean, segment_sum
from ..credit import (
    Credit,
    Rewards,
    discounted_returns,
    group_relative,
    needed,
    scaled,
    spread,
    token_gae,
    unit_stats,
    weights_K,
    whiten_tokens,
)
from ..parameters import Range
from ..regularizers import Update, value_loss
from ..slots import TERMS, Algorithm, Part

RewardWeights = Mapping[str, float] | Sequence[float] | None
ScaleForm = Literal["linear", "exponential", "inverse"]

# ---------------------------------------------------------------- DARLING


def diverse(rewards: Rewards, batch: Batch) -> Rewards:
    """R'_i = R_i (n - |cluster of i|) / n within a group of n: a good answer earns more the fewer say the same.

    `extras["cluster"]` holds the answers' clusters; n is the divisor of the authors' code. Unit: trajectory. DARLING.
    """
    return scaled(rewards, batch, diversity(batch))


def diversity(batch: Batch) -> Tensor:
    """[M] (n - |cluster|) / n: share of the group whose answer means something else."""
    traj, dtype = batch.trajectories, batch.rewards.dtype
    pair_M = cluster_index(batch)
    size_M = torch.bincount(pair_M)[pair_M].to(dtype)
    n_M = torch.bincount(traj.group_M, minlength=traj.groups)[traj.group_M].to(dtype)
    return (n_M - size_M) / n_M


def cluster_index(batch: Batch) -> Tensor:
    """[M] number of each trajectory's (group, cluster of answers)."""
    traj = batch.trajectories
    cluster_M = batch.extra("cluster")[traj.first_row_M]
    pairs = torch.stack([traj.group_M.to(cluster_M.dtype), cluster_M], 1)
    return torch.unique(pairs, dim=0, return_inverse=True)[1]


# ---------------------------------------------------------------- FAPO


def flawed_positives(
    rewards: Rewards,
    batch: Batch,
    *,
    flaw_penalty: float = 1.0,
    correct_at: float = 1.0,
    reward_weights: RewardWeights = None,
) -> Rewards:
    """R' = 1 for a win, 1 - lambda for a flawed one (`extras["flawed"]` above 0), -1 for a loss; on the last token.

    Against the group a flawed win is good while wins are rare and bad once they are common. KL in the reward and the
    overlong penalty stay. Unit: trajectory. FAPO.
    """
    outcome_M = outcomes(batch, reward_weights)
    flawed_M = batch.extra("flawed")[batch.trajectories.first_row_M] > 0
    target_M = torch.where(flawed_M, 1.0 - flaw_penalty, 1.0).to(outcome_M.dtype)
    return with_outcome(rewards, batch, outcome_M, torch.where(won(outcome_M, correct_at), target_M, -1.0))


def outcomes(batch: Batch, reward_weights: RewardWeights) -> Tensor:
    """[M] weighted sum of the reward components, before any penalty."""
    return (batch.rewards @ weights_K(batch, reward_weights))[batch.trajectories.first_row_M]


def won(outcome_M: Tensor, correct_at: float) -> Tensor:
    """[M] bool: the outcome reaches `correct_at`, sums of progress in float32 allowed for."""
    return outcome_M >= correct_at - 1e-6 * abs(correct_at)


def with_outcome(rewards: Rewards, batch: Batch, outcome_M: Tensor, target_M: Tensor) -> Rewards:
    """The rewards with `target_M` on each last action token in place of the outcome; penalties stay."""
    row_B, last_BT = batch.trajectories.row_B, batch.last_action()
    own_BT = last_BT * outcome_M[row_B][:, None] if batch.token_rewards is None else batch.token_rewards * batch.mask
    token_BT = rewards.token_BT - own_BT + last_BT * target_M[row_B][:, None]
    return Rewards(rewards.trajectory_M - outcome_M + target_M, token_BT)


# ---------------------------------------------------------------- SEED-GRPO


def certain_answers(
    adv_BT: Tensor, batch: Batch, *, seed_alpha: float = 0.02, seed_form: ScaleForm = "linear"
) -> Tensor:
    """A' = A f(alpha SE / ln G): a question weighs less the more its answers disagree in meaning.

    p(C) = sum over the cluster of exp(l_i) / sum over the group, l_i the mean log-prob of trajectory i's action tokens
    when it was sampled; SE = -sum_C p ln p in nats. f(x) = 1 - x (linear), exp(-x), or 1 / (1 + x) (inverse). Groups
    of one keep their advantage. Unit: trajectory. SEED-GRPO, arXiv 2505.12346.
    """
    traj = batch.trajectories
    n_G = torch.bincount(traj.group_M, minlength=traj.groups).to(adv_BT.dtype)
    x_G = seed_alpha * semantic_entropy(batch) / n_G.log().clamp(min=math.log(2))
    scale_G = {"linear": 1 - x_G, "exponential": torch.exp(-x_G), "inverse": 1 / (1 + x_G)}[seed_form]
    return adv_BT * scale_G[traj.group_M][traj.row_B][:, None]


def semantic_entropy(batch: Batch) -> Tensor:
    """[G] -sum_C p(C) ln p(C) over the answer clusters of each group."""
    traj, pair_M = batch.trajectories, cluster_index(batch)
    logp_BT = needed(batch, "logp_old") if batch.logp_rollout is None else batch.logp_rollout
    packed = batch.packed
    mean_M = packed.take(logp_BT).sum(1) / packed.mask_ML.sum(1).clamp(min=1)
    top_G = torch.full((traj.groups,), -torch.inf, dtype=mean_M.dtype, device=mean_M.device)
    top_G = top_G.scatter_reduce(0, traj.group_M, mean_M, "amax")
    share_M = torch.exp(mean_M - top_G[traj.group_M])
    share_M = share_M / segment_sum(share_M, traj.group_M, traj.groups)[traj.group_M]
    clusters = int(pair_M.max()) + 1
    p_C = segment_sum(share_M, pair_M, clusters)
    group_C = torch.zeros(clusters, dtype=torch.long, device=pair_M.device).index_put((pair_M,), traj.group_M)
    return segment_sum(-torch.special.xlogy(p_C, p_C), group_C, traj.groups).clamp(min=0)


# ---------------------------------------------------------------- PPO-max


def normalized_clipped(
    rewards: Rewards, batch: Batch, *, reward_clip: float = 5.0, reward_weights: RewardWeights = None
) -> Rewards:
    """r~ = clip((r - mean) / std, -delta, delta) on the last action token; KL in the reward stays as it is.

    Moments run over all outcomes since the start, this step's included, std of the population; without deviation
    r~ = 0. The authors' code only divides by the std. Unit: trajectory. PPO-max, arXiv 2307.04964.
    """
    outcome_M = outcomes(batch, reward_weights)
    count, mean, squares = moments(batch.state, outcome_M)
    std = math.sqrt(squares / count)
    flat = std <= 1e-9 * max(1.0, abs(mean))
    target_M = torch.zeros_like(outcome_M) if flat else ((outcome_M - mean) / std).clamp(-reward_clip, reward_clip)
    return with_outcome(rewards, batch, outcome_M, target_M)


def moments(state: Mapping[str, Any], outcome_M: Tensor) -> tuple[float, float, float]:
    """(count, mean, sum of squared deviations) of all outcomes up to now: Chan's merge of the batch's into the rest."""
    count, mean, squares = (float(x) for x in state.get("reward_moments", (0, 0, 0)))
    new = outcome_M.double()
    n, gap = len(new), float(new.mean()) - mean
    total = count + n
    return total, mean + gap * n / total, squares + float(((new - new.mean()) ** 2).sum()) + gap**2 * count * n / total


def track_moments(
    state: Mapping[str, Any], batch: Batch, rewards: Rewards, *, reward_weights: RewardWeights = None
) -> dict[str, Any]:
    """state["reward_moments"] of the next step."""
    return {"reward_moments": list(moments(state, outcomes(batch, reward_weights)))}


# ---------------------------------------------------------------- T-PPO


def extended_gae(
    batch: Batch, rewards: Rewards, *, gamma: float = 1.0, lam: float = 0.95, bootstrap: bool = True
) -> Credit:
    """GAE where an unfinished trajectory goes on from its own last value: V(s_l) := V(s_{l-1}) (EGAE).

    Its last delta is r + gamma V_{l-1} - V_{l-1}. The critic's target is the Monte-Carlo return of finished
    trajectories; of unfinished ones it is NaN, not known. Unfinished is `truncated`; with `bootstrap=False` a limit
    ends the task and all are finished. Unit: token. T-PPO, arXiv 2506.15050.
    """
    open_B = None if batch.truncated is None or not bootstrap else batch.truncated
    adv_BT = token_gae(
        _own_ends(batch) if open_B is not None else batch, rewards, gamma=gamma, lam=lam, bootstrap=bootstrap
    ).adv_BT
    returns_BT = discounted_returns(batch, rewards.token_BT, gamma)
    if open_B is not None:
        returns_BT = returns_BT.masked_fill(open_B[:, None] & batch.mask, torch.nan)
    return Credit(adv_BT, returns_BT)


def _own_ends(batch: Batch) -> Batch:
    """The batch without the critic's value after the last token."""
    return dataclasses.replace(batch, final_values=None)


def finished_value_loss(update: Update, *, value_coef: float = 1.0, value_clip: float | None = 0.2) -> Tensor | None:
    """`value_loss` over the tokens whose return is known; the others have a gradient of exactly 0. T-PPO."""
    if update.returns_BT is None:
        return value_loss(update, value_coef=value_coef, value_clip=value_clip)
    known_BT = ~update.returns_BT.isnan()
    weights = update.weights._replace(token_BT=update.weights.token_BT * known_BT)
    filled_BT = torch.where(known_BT, update.returns_BT, 0.0)  # a NaN would come back through the gradient
    return value_loss(
        update._replace(weights=weights, returns_BT=filled_BT), value_coef=value_coef, value_clip=value_clip
    )


# ---------------------------------------------------------------- HBPO


def budget_curve(length: Tensor, longest: int) -> Tensor:
    """f(n) = 4 cos(pi n / (2 longest)): 4 for no token, 0 at the longest answer. HBPO."""
    return 4 * torch.cos(math.pi * length / (2 * longest))


def budget_reward(
    rewards: Rewards,
    batch: Batch,
    *,
    hbpo_longest: int = 4096,
    correct_at: float = 1.0,
    reward_weights: RewardWeights = None,
) -> Rewards:
    """R' of a win: min(round(f(n), 2) - |b - n| / longest, f(b)) with budget b, round(f(n), 2) without; else 0 or -1.

    n counts the trajectory's action tokens, b is `extras["budget"]` in tokens (0: none). Longer than `longest` or lost:
    0; lost with an invalid turn (the format error of a single answer): -1. Unit: trajectory. HBPO, arXiv 2507.15844.
    """
    outcome_M, n_M = outcomes(batch, reward_weights), batch.packed.mask_ML.sum(1).to(batch.rewards.dtype)
    b_M = batch.extra("budget")[batch.trajectories.first_row_M].to(n_M.dtype)
    free_M = (budget_curve(n_M, hbpo_longest) * 100).round() / 100
    bound_M = torch.minimum(free_M - (b_M - n_M).abs() / hbpo_longest, budget_curve(b_M, hbpo_longest))
    won_M = won(outcome_M, correct_at)
    target_M = torch.where(b_M > 0, bound_M, free_M).masked_fill(~won_M | (n_M > hbpo_longest), 0.0)
    if batch.valid is not None:
        index_BT, count = batch.unit_index("trajectory")
        wrong_BT = (~batch.valid & batch.mask).to(n_M.dtype)
        target_M = target_M.masked_fill(~won_M & (segment_sum(wrong_BT.flatten(), index_BT.flatten(), count) > 0), -1.0)
    return with_outcome(rewards, batch, outcome_M, target_M)


def budget_relative(batch: Batch, rewards: Rewards, *, hbpo_longest: int = 4096) -> Credit:
    """A_i = (R_i - mean) / (std + 1e-6) over the whole group + (mean R of i's budget - f(b)), once.

    std unbiased. The authors' code adds the second term twice. Trajectories without a budget get the first term only.
    HBPO, arXiv 2507.15844.
    """
    traj, R_M = batch.trajectories, rewards.trajectory_M
    mean_M, std_M = unit_stats(R_M, traj.group_M, traj.groups, lone_mean_zero=True)
    b_M = batch.extra("budget")[traj.first_row_M].to(R_M.dtype)
    sub_M = torch.unique(torch.stack([traj.group_M.to(R_M.dtype), b_M], 1), dim=0, return_inverse=True)[1]
    intra_M = segment_mean(R_M, sub_M, int(sub_M.max()) + 1)[sub_M] - budget_curve(b_M, hbpo_longest)
    return Credit(spread(batch, (R_M - mean_M) / (std_M + 1e-6) + torch.where(b_M > 0, intra_M, 0.0)))


# ---------------------------------------------------------------- one example


def policy_share(adv_BT: Tensor, batch: Batch, *, policy_coef: float = 1.0) -> Tensor:
    """A' = policy_coef A; with 0 only the additive terms train (entropy alone, arXiv 2504.20571). Unit: token."""
    return adv_BT * policy_coef


# ---------------------------------------------------------------- rows

_GROUP, _BATCH = frozenset({"group_complete"}), frozenset({"group_complete", "batch_stats"})
_CRITIC = frozenset({"critic", "batch_stats"})

ROWS = (
    Algorithm(
        "darling", "DARLING: diversity-aware reinforcement learning (code: facebookresearch/darling)", "trajectory",
        group_relative, transforms=(diverse,), params={"normalize": False, "beta": 0.001}, needs=_GROUP | {"cluster"},
        source="Authors' script: no deviation, token mean, k3 KL 0.001; divisor n is the code's.",
        left_out="Their classifier of equal meaning: in a run, equal action sequences are one answer.",
    ),
    Algorithm(
        "fapo", "FAPO: flawed-aware policy optimization (code: yyDing1/FAPO)", "trajectory",
        group_relative, transforms=(flawed_positives,), params={"clip_high": 0.28}, needs=_GROUP | {"flawed"},
        source="Authors' code: lambda 1, clip 0.2 / 0.28, token mean.",
        left_out="Training of the generative judge that finds flaws: in a run, a win with an inadmissible action is "
        "flawed. The overlong penalty is off until overlong_max is set.",
    ),
    Algorithm(
        "seed_grpo", "SEED-GRPO: semantic entropy enhanced GRPO (arXiv 2505.12346)", "trajectory",
        group_relative, modulators=(certain_answers,), needs=_GROUP | {"cluster"}, status="formula only",
        source="Secondary notes: f linear, alpha 0.02; another re-implementation has inverse with 0.0417.",
        left_out="The focal form of f. In a run, equal action sequences are one answer.",
    ),
    Algorithm(
        "ppo_max", "Secrets of RLHF in large language models I: PPO-max (arXiv 2307.04964)", "token",
        token_gae, transforms=(normalized_clipped,), modulators=(whiten_tokens,), terms=(*TERMS, value_loss),
        controllers=(track_moments,), params={"kl_reward_coef": 0.05}, needs=_CRITIC,
        source="Paper: KL in reward 0.05 (its code: 0.01), gamma 1, lambda 0.95, clips 0.2. reward_clip 5 is ours.",
        left_out="The pretraining loss (there is no pretraining data in a run) and the critic's start from a reward "
        "model; rl.critic_warmup trains it first. The code's missing mean is not copied.",
    ),
    Algorithm(
        "t_ppo", "Truncated proximal policy optimization (arXiv 2506.15050)", "token",
        extended_gae, modulators=(whiten_tokens,), terms=(*TERMS, finished_value_loss), needs=_CRITIC,
        status="formula only",
        source="Two secondary notes: gamma 1, lambda 0.95, no KL; the rest as ppo.",
        left_out="Generation in windows of 8k tokens whose unfinished answers go on in the next step: an outer loop. "
        "Here each trajectory is one window.",
    ),
    Algorithm(
        "hbpo", "Hierarchical budget policy optimization (arXiv 2507.15844)", "trajectory",
        budget_relative, transforms=(budget_reward,), needs=_GROUP | {"budget"},
        source="Authors' code: budgets 512, 1024, 2048, 2560 tokens of 4,096, four rollouts each, no KL.",
        left_out="The code's second count of the budget term.",
    ),
    Algorithm(
        "one_shot_rlvr", "Reinforcement learning for reasoning with one training example (arXiv 2504.20571)",
        "trajectory", group_relative, modulators=(policy_share,), params={"beta": 0.001, "entropy_coef": 0.001},
        needs=_GROUP,
        source="Authors' scripts: KL 0.001, entropy 0.001; policy_coef 0 is their entropy-only run.",
        left_out="One example for all groups of a step is rl.sampler=one_shot.",
    ),
)  # fmt: skip
PARTS = (
    Part("diverse", "transforms", diverse, needs=_GROUP | {"cluster"}),
    Part("flawed_positives", "transforms", flawed_positives, needs=frozenset({"flawed"})),
    Part("certain_answers", "modulators", certain_answers, needs=_GROUP | {"cluster"}),
    Part("normalized_clipped", "transforms", normalized_clipped),
    Part("track_moments", "controllers", track_moments),
    Part("budget_reward", "transforms", budget_reward, needs=frozenset({"budget"})),
    Part("budget_relative", "estimator", budget_relative, needs=_GROUP | {"budget"}),
)
MEANING = {
    "flaw_penalty": "λ: what a flawed win loses; 1 puts it midway between win and loss",
    "seed_alpha": "α: how much an undecided question loses of its advantage",
    "seed_form": "f: shape of that loss",
    "reward_clip": "δ: bound on the normalised reward, in deviations",
    "hbpo_longest": "longest answer in tokens; its quarter wave is the reward of length",
    "policy_coef": "factor on the policy's loss; 0: additive terms only",
}
RANGES = {
    "flaw_penalty": Range(0.0, 2.0), "seed_alpha": Range(0.0), "reward_clip": Range(0.0), "hbpo_longest": Range(1),
    "policy_coef": Range(0.0),
}  # fmt: skip
EXTRAS = {
    "flawed": "[B] 1 where a judge finds the way to the trajectory's success wrong",
    "budget": "[B] tokens that the prompt told the trajectory to use; 0: none",
}
