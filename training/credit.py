"""Credit: rewards become one number per action token.

Shapes: B rows, T tokens, K reward components, M trajectories, N turns, L action tokens of a trajectory.
An estimator is `(batch, rewards, *, named parameters) -> Credit`; a modulator `(adv_BT, batch, *, ...) -> adv_BT`.
Both see the whole batch of a step, detached. Masked tokens get 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..envs.errors import RequestError, UnknownName
from .batch import Batch, segment_mean, segment_sum

StatsUnit = Literal["trajectory", "turn"]


class Rewards(NamedTuple):
    """Scalar rewards after weighting; both views hold the same total."""

    trajectory_M: Tensor
    token_BT: Tensor


class Credit(NamedTuple):
    """Advantage per token and, with a critic, the target of its value."""

    adv_BT: Tensor
    returns_BT: Tensor | None = None
    weight_BT: Tensor | None = None
    """Weight of each token in the loss where the estimator chose among the samples; 0 drops it."""
    extras: Mapping[str, Tensor] | None = None
    """Entries for `Batch.extras` that later parts read, such as `kl_weight`."""


def total_rewards(
    batch: Batch,
    *,
    reward_weights: Mapping[str, float] | Sequence[float] | None = None,
    kl_reward_coef: float = 0.0,
    overlong_max: int | None = None,
    overlong_cache: int = 4096,
) -> Rewards:
    """Weighted sum of the K components, minus KL to the reference, minus the overlong penalty.

    R = sum_k w_k r_k - beta sum_t (logp_old_t - logp_ref_t) + overlong(tokens of the trajectory)

    Without `token_rewards` the return sits on the trajectory's last action token. KL in reward: arXiv 2203.02155;
    the estimator is k1, per token.
    """
    trajectory_M = (batch.rewards @ weights_K(batch, reward_weights))[batch.trajectories.first_row_M]
    last_BT = batch.last_action()
    owner_BT = batch.trajectories.row_B[:, None]
    token_BT = batch.token_rewards
    if token_BT is None:
        token_BT = last_BT * trajectory_M[owner_BT]
    token_BT = token_BT.masked_fill(~batch.mask, 0.0)
    index_BT, M = batch.unit_index("trajectory")
    if kl_reward_coef:
        kl_BT = (needed(batch, "logp_old") - needed(batch, "logp_ref")).masked_fill(~batch.mask, 0.0)
        token_BT = token_BT - kl_reward_coef * kl_BT
        trajectory_M = trajectory_M - kl_reward_coef * segment_sum(kl_BT.flatten(), index_BT.flatten(), M)
    if overlong_max is not None:
        penalty_M = overlong_penalty(batch.packed.mask_ML.sum(1), overlong_max, overlong_cache).to(trajectory_M.dtype)
        token_BT = token_BT + last_BT * penalty_M[owner_BT]
        trajectory_M = trajectory_M + penalty_M
    return Rewards(trajectory_M, token_BT)


def overlong_penalty(length: Tensor, maximum: int, cache: int) -> Tensor:
    """0 up to maximum - cache tokens, then linear to -1 at maximum, -1 beyond. DAPO, arXiv 2503.14476."""
    return ((maximum - cache - length) / cache).clamp(-1.0, 0.0)


def informative_groups(batch: Batch, scores_B: Tensor) -> Tensor:
    """[B] bool: rows of groups whose scores [B] are not all equal (DAPO's dynamic sampling keeps these)."""
    group_M, count = batch.trajectories.group_M, batch.trajectories.groups
    scores_M = scores_B[batch.trajectories.first_row_M]
    spread_M = scores_M != segment_mean(scores_M, group_M, count)[group_M]
    varied_G = segment_sum(spread_M.to(torch.float32), group_M, count) > 0
    return varied_G[group_M][batch.trajectories.row_B]


# ---------------------------------------------------------------- estimators


def return_to_go(
    batch: Batch,
    rewards: Rewards,
    *,
    gamma: float = 1.0,
    baseline: Literal["none", "batch", "group"] = "none",
) -> Credit:
    """A_t = sum_{k >= t} gamma^{k-t} r_k - b over the trajectory's action tokens.

    b is 0, the batch's or the group's mean trajectory return. REINFORCE (Williams 1992); with `baseline="group"`
    and whitening it is REINFORCE++-baseline, arXiv 2501.03262.
    """
    adv_BT = discounted_returns(batch, rewards.token_BT, gamma)
    if baseline != "none":
        traj = batch.trajectories
        index_M = traj.group_M if baseline == "group" else torch.zeros_like(traj.group_M)
        mean_M = segment_mean(rewards.trajectory_M, index_M, traj.groups)[index_M]
        adv_BT = adv_BT - mean_M[traj.row_B][:, None]
    return Credit(adv_BT.masked_fill(~batch.mask, 0.0))


def group_relative(
    batch: Batch,
    rewards: Rewards,
    *,
    normalize: bool = True,
    stats_unit: StatsUnit = "trajectory",
) -> Credit:
    """A_i = (R_i - mean_group) / (std_group + 1e-6), std unbiased; without `normalize`, R_i - mean_group.

    `stats_unit="turn"` counts a trajectory once per turn (length-weighted, as row-wise libraries do). A group of
    one has mean 0 and std 1. GRPO, arXiv 2402.03300; without std: Dr. GRPO, arXiv 2503.20783.
    """
    return Credit(spread_turns(batch, _episode_advantage(batch, rewards.trajectory_M, None, normalize, stats_unit)))


def leave_one_out(batch: Batch, rewards: Rewards) -> Credit:
    """A_i = R_i - mean_{j != i} R_j = n / (n - 1) (R_i - mean_group). RLOO, arXiv 2402.14740.

    Raises RequestError for a group of one trajectory, where it is undefined.
    """
    group_M, groups = batch.trajectories.group_M, batch.trajectories.groups
    size_M = torch.bincount(group_M, minlength=groups)[group_M]
    if (size_M < 2).any():
        raise RequestError(
            "Expected at least 2 trajectories per group for rloo, got a group of 1: there is nothing to leave one out "
            "of. Sample more per task, or drop that group."
        )
    centred_M = rewards.trajectory_M - segment_mean(rewards.trajectory_M, group_M, groups)[group_M]
    return Credit(spread(batch, centred_M * size_M / (size_M - 1)))


def token_gae(
    batch: Batch, rewards: Rewards, *, gamma: float = 1.0, lam: float = 0.95, bootstrap: bool = True
) -> Credit:
    """GAE over a trajectory's action tokens, crossing turn borders and skipping environment tokens.

    See `gae`. A truncated trajectory bootstraps from `final_values`, else from its last value (EGAE, T-PPO
    arXiv 2506.15050). Source of the skipping rule: arXiv 2510.01132 and verl. Returns are A + V before whitening.
    """
    packed, values_BT = batch.packed, needed(batch, "values")
    adv_ML = gae(
        packed.take(rewards.token_BT),
        packed.take(values_BT),
        packed.mask_ML,
        gamma,
        lam,
        _bootstrap_M(batch, bootstrap),
    )
    return _critic_credit(batch, packed.put(adv_ML, batch.mask.shape))


def turn_gae(
    batch: Batch,
    rewards: Rewards,
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
    gamma_turn: float = 0.95,
    bootstrap: bool = True,
) -> Credit:
    """Bi-level GAE: over turns first, then over the tokens of each turn.

    At turn ends e_1 < ... < e_K:  A_k = R_k + gamma_turn V(e_{k+1}) - V(e_k) + gamma_turn lam A_{k+1};
    inside a turn, GAE with reward G_k = A_k + V(e_k) on its last token and nothing after it.
    Turn ends come from turn ids, not from nonzero rewards. RAGEN, arXiv 2504.20073.
    """
    packed, values_BT = batch.packed, needed(batch, "values")
    turn_ML = torch.where(packed.mask_ML, packed.take(batch.turns.token_BT), -1)
    end_ML = packed.mask_ML & (turn_ML != torch.cat([turn_ML[:, 1:], torch.full_like(turn_ML[:, :1], -1)], dim=1))
    summed_N = segment_sum(rewards.token_BT.flatten(), batch.turns.token_BT.flatten(), len(batch.turns.length_N))
    reward_ML = summed_N[turn_ML.clamp(min=0)] * end_ML
    values_ML = packed.take(values_BT)
    high_ML = gae(reward_ML, values_ML, end_ML, gamma_turn, lam, _bootstrap_M(batch, bootstrap))
    target_ML = (high_ML + values_ML) * end_ML
    adv_ML = gae(target_ML, values_ML, packed.mask_ML, gamma, lam, end_ML=end_ML)
    return _critic_credit(batch, packed.put(adv_ML, batch.mask.shape))


def group_in_group(
    batch: Batch,
    rewards: Rewards,
    *,
    gamma: float = 0.95,
    omega: float = 1.0,
    normalize: bool = True,
    stats_unit: StatsUnit = "trajectory",
    invalid_penalty: float = 0.1,
) -> Credit:
    """A(turn) = A_episode + omega A_step: step advantages compare turns of a group that answered the same observation.

    R_t = sum_{k >= t} gamma^{k-t} r_k over turns;  A_step = (R_t - mean) / (std + 1e-6) over turns of one
    (group, anchor). An invalid turn then loses `invalid_penalty` from its own episode score and its own R_t, not
    from earlier turns. GiGPO, arXiv 2505.10978.
    """
    turns = batch.turns
    N, index_BT = len(turns.length_N), turns.token_BT.flatten()
    penalty_N = torch.zeros(N, dtype=batch.rewards.dtype, device=batch.rewards.device)
    if batch.valid is not None and invalid_penalty:
        invalid_BT = (~batch.valid & batch.mask).to(penalty_N.dtype)
        penalty_N = invalid_penalty * (segment_sum(invalid_BT.flatten(), index_BT, N) > 0)
    step_N = turn_returns(batch, segment_sum(rewards.token_BT.flatten(), index_BT, N), gamma) - penalty_N
    bucket_N = anchor_buckets(batch)
    mean_N, std_N = unit_stats(step_N, bucket_N, int(bucket_N.max()) + 1, lone_mean_zero=False)
    step_adv_N = (step_N - mean_N) / (std_N + 1e-6 if normalize else 1.0)
    episode_adv_N = _episode_advantage(batch, rewards.trajectory_M, penalty_N, normalize, stats_unit)
    return Credit(spread_turns(batch, episode_adv_N + omega * step_adv_N))


# ---------------------------------------------------------------- modulators


def whiten_tokens(adv_BT: Tensor, batch: Batch, *, whiten: bool = True) -> Tensor:
    """(A - mean) / sqrt(var + 1e-8) over all action tokens of the batch, var unbiased; one token keeps its value."""
    if not whiten or int(batch.mask.sum()) < 2:
        return adv_BT
    x = adv_BT[batch.mask]
    mean = segment_mean(x, torch.zeros_like(x, dtype=torch.long), 1)
    return ((adv_BT - mean) / torch.sqrt(((x - mean) ** 2).sum() / (len(x) - 1) + 1e-8)).masked_fill(~batch.mask, 0.0)


# ---------------------------------------------------------------- recursions


def gae(
    reward_ML: Tensor,
    value_ML: Tensor,
    mask_ML: Tensor,
    gamma: float,
    lam: float,
    bootstrap_M: Tensor | None = None,
    end_ML: Tensor | None = None,
) -> Tensor:
    """Generalized advantage estimation that carries both terms unchanged through masked positions. [M, L].

    delta_t = r_t + gamma V_{t+1} - V_t,  A_t = delta_t + gamma lam A_{t+1}, where t+1 is the next *unmasked* position
    and V after the last one is `bootstrap_M` (0 by default). Nothing flows back over positions marked in `end_ML`.
    arXiv 1506.02438.
    """
    next_value = torch.zeros_like(value_ML[:, 0]) if bootstrap_M is None else bootstrap_M
    running = torch.zeros_like(next_value)
    adv_ML = torch.zeros_like(value_ML)
    for t in range(value_ML.shape[1] - 1, -1, -1):
        if end_ML is not None:
            next_value = next_value.masked_fill(end_ML[:, t], 0.0)
            running = running.masked_fill(end_ML[:, t], 0.0)
        keep = mask_ML[:, t]
        delta = reward_ML[:, t] + gamma * next_value - value_ML[:, t]
        running = torch.where(keep, delta + gamma * lam * running, running)
        next_value = torch.where(keep, value_ML[:, t], next_value)
        adv_ML[:, t] = torch.where(keep, running, 0.0)
    return adv_ML


def discounted_returns(batch: Batch, reward_BT: Tensor, gamma: float) -> Tensor:
    """G_t = r_t + gamma G_{t+1} over a trajectory's action tokens; [B, T], 0 on masked tokens."""
    zero_ML = torch.zeros_like(batch.packed.index_ML, dtype=reward_BT.dtype)
    returns_ML = gae(batch.packed.take(reward_BT), zero_ML, batch.packed.mask_ML, gamma, 1.0)
    return batch.packed.put(returns_ML, batch.mask.shape)


def turn_returns(batch: Batch, reward_N: Tensor, gamma: float) -> Tensor:
    """R_t = r_t + gamma R_{t+1} over a trajectory's turns in the order of their indices; [N]."""
    returns, owner = reward_N.tolist(), batch.turns.trajectory_N.tolist()
    for n in range(len(owner) - 2, -1, -1):
        if owner[n] == owner[n + 1]:
            returns[n] += gamma * returns[n + 1]
    return torch.tensor(returns, dtype=reward_N.dtype, device=reward_N.device)


# ---------------------------------------------------------------- helpers


def scaled(rewards: Rewards, batch: Batch, factor_M: Tensor) -> Rewards:
    """Both views of the rewards times one factor per trajectory."""
    return Rewards(rewards.trajectory_M * factor_M, rewards.token_BT * factor_M[batch.trajectories.row_B][:, None])


def spread(batch: Batch, x_M: Tensor) -> Tensor:
    """One number per trajectory -> all its action tokens, [B, T]."""
    return x_M[batch.trajectories.row_B][:, None] * batch.mask


def spread_turns(batch: Batch, x_N: Tensor) -> Tensor:
    """One number per turn -> all its action tokens, [B, T]."""
    return x_N[batch.turns.token_BT.clamp(min=0)] * batch.mask


def needed(batch: Batch, name: str) -> Tensor:
    """A field that this computation cannot do without."""
    value = getattr(batch, name)
    if value is None:
        raise RequestError(f"Expected {name} [B, T] in the batch, got None; this algorithm and its settings need it.")
    return value


def _critic_credit(batch: Batch, adv_BT: Tensor) -> Credit:
    return Credit(adv_BT, (adv_BT + needed(batch, "values")).masked_fill(~batch.mask, 0.0))


def _bootstrap_M(batch: Batch, bootstrap: bool) -> Tensor | None:
    """Value after the last action of each trajectory: 0 unless it was truncated.

    Right where the limit is the sampler's. Where it is the task's own deadline, being late is a loss and nothing
    follows it: with `bootstrap` a critic at gamma 1 would learn that late is as good as in time.
    Source: Pardo et al., Time Limits in Reinforcement Learning (arXiv 1712.00378).
    """
    if not bootstrap or batch.truncated is None or not batch.truncated.any():
        return None
    last_BT = batch.last_action()
    after_BT = needed(batch, "values") if batch.final_values is None else batch.final_values[:, None]
    picked_B = (last_BT * after_BT * batch.truncated[:, None]).masked_fill(~last_BT, 0.0).sum(1)
    return segment_sum(picked_B, batch.trajectories.row_B, len(batch.trajectories.group_M))


def unit_stats(x: Tensor, index: Tensor, count: int, *, lone_mean_zero: bool) -> tuple[Tensor, Tensor]:
    """Mean and unbiased std of each element's segment; a lone element has std 1 and, if asked, mean 0."""
    n = torch.bincount(index, minlength=count).to(x.dtype)
    mean = segment_mean(x, index, count)
    var = segment_sum((x - mean[index]) ** 2, index, count) / (n - 1).clamp(min=1)
    std = torch.where(n < 2, 1.0, var.sqrt())
    return torch.where((n < 2) & lone_mean_zero, 0.0, mean)[index], std[index]


def _episode_advantage(
    batch: Batch,
    score_M: Tensor,
    penalty_N: Tensor | None,
    normalize: bool,
    stats_unit: StatsUnit,
) -> Tensor:
    """[N] group-relative advantage of each turn's trajectory, each turn's score less its own penalty."""
    traj, owner_N = batch.trajectories, batch.turns.trajectory_N
    score_N = score_M[owner_N] if penalty_N is None else score_M[owner_N] - penalty_N
    group_N = traj.group_M[owner_N]
    if stats_unit == "turn":
        mean_N, std_N = unit_stats(score_N, group_N, traj.groups, lone_mean_zero=True)
    else:
        mean_score_M = segment_mean(score_N, owner_N, len(traj.group_M))
        present_M = torch.bincount(owner_N, minlength=len(traj.group_M)) > 0
        mean_score_M = torch.where(present_M, mean_score_M, score_M)
        mean_M, std_M = unit_stats(mean_score_M, traj.group_M, traj.groups, lone_mean_zero=True)
        mean_N, std_N = mean_M[owner_N], std_M[owner_N]
    return (score_N - mean_N) / (std_N + 1e-6 if normalize else 1.0)


def anchor_buckets(batch: Batch) -> Tensor:
    """[N] number of the (group, observation) each turn answered."""
    if batch.anchors is None:
        raise RequestError(
            "Expected anchors, the raw observation behind each turn, got None; gigpo groups turns by it."
        )
    position = [0] * len(batch.anchors)
    groups = batch.group.tolist()
    buckets: dict[tuple[int, str], int] = {}
    found: list[int] = []
    for row in batch.turns.row_N.tolist():  # turns are ordered by (trajectory, turn), so in order within a row
        key = (groups[row], batch.anchors[row][position[row]])
        position[row] += 1
        found.append(buckets.setdefault(key, len(buckets)))
    return torch.tensor(found, dtype=torch.long, device=batch.group.device)


def weights_K(batch: Batch, weights: Mapping[str, float] | Sequence[float] | None) -> Tensor:
    K = batch.rewards.shape[1]
    if weights is None:
        return torch.ones(K, dtype=batch.rewards.dtype, device=batch.rewards.device)
    if isinstance(weights, Mapping):
        for name in weights:
            if name not in batch.reward_names:
                raise UnknownName("reward", name, batch.reward_names)
        weights = [weights.get(name, 0.0) for name in batch.reward_names]
    if len(weights) != K:
        raise RequestError(f"Expected {K} reward_weights, one per reward component, got {len(weights)}.")
    if batch.token_rewards is not None and K > 1:
        raise RequestError("Expected reward_weights or token_rewards, got both; weight the token rewards when built.")
    return torch.tensor(list(weights), dtype=batch.rewards.dtype, device=batch.rewards.device)
