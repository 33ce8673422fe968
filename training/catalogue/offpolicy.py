"""Group-relative REINFORCE read as off-policy: masks, regularised and shifted baselines, data shaping, replay.

Shapes: B rows, T tokens, M trajectories. `rec` turns PPO's parts (importance weight, clip) on and off one by one.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ..batch import Batch, segment_mean
from ..coefficients import LOG_RATIO_LIMIT, Factor, log_ratio
from ..credit import Credit, Rewards, group_relative, needed, spread, unit_stats
from ..parameters import Range
from ..regularizers import KLEstimator, Update, kl_estimate
from ..slots import TERMS, Algorithm, Part
from .classic import count_steps

# ---------------------------------------------------------------- REC


def rec(
    ratio_BT: Tensor,
    adv_BT: Tensor,
    logp_BT: Tensor,
    *,
    rec_mask: Literal["one_side", "two_side", "ring", "none"] = "one_side",
    rec_weight: Literal["none", "ratio"] = "none",
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    ring_low: float = 0.6,
    ring_high: float = 2.0,
) -> Factor:
    """c = keep W A, W = 1 or the ratio, logged as -keep W A logp with W a constant.

    one_side  A >= 0 and r <= 1 + high, or A <= 0 and r >= 1 - low (PPO's)
    two_side  1 - low <= r <= 1 + high
    ring      two_side, or A >= 0 and r <= 1 - ring_low, or A <= 0 and r >= 1 + ring_high
    The ratio is that of the row's ratio slot: with `sequence_ratio` this is REC-GSPO. REC, arXiv 2509.24203.
    """
    over, under = ratio_BT > 1 + clip_high, ratio_BT < 1 - clip_low
    if rec_mask == "none":
        keep_BT = torch.ones_like(over)
    elif rec_mask == "one_side":
        keep_BT = ((adv_BT >= 0) & ~over) | ((adv_BT <= 0) & ~under)
    else:
        keep_BT = ~over & ~under
    if rec_mask == "ring":
        keep_BT |= (adv_BT >= 0) & (ratio_BT <= 1 - ring_low) | (adv_BT <= 0) & (ratio_BT >= 1 + ring_high)
    factor_BT = (ratio_BT if rec_weight == "ratio" else torch.ones_like(ratio_BT)) * keep_BT
    return Factor(factor_BT, keep_BT, -factor_BT * adv_BT * logp_BT)


# ---------------------------------------------------------------- OPMD, AsymRE


def opmd_advantage(
    batch: Batch,
    rewards: Rewards,
    *,
    opmd_baseline: Literal["mean", "log_mean_exp"] = "mean",
    opmd_baseline_tau: float = 1.0,
) -> Credit:
    """A_i = R_i - b, b the group's mean or tau log mean exp(R / tau); 0 for a group of one.

    The second is the value of the entropy-regularised optimum. OPMD, arXiv 2501.12599 and 2509.24203.
    """
    traj, tau = batch.trajectories, opmd_baseline_tau
    mean_M, _ = unit_stats(rewards.trajectory_M, traj.group_M, traj.groups, lone_mean_zero=True)
    if opmd_baseline == "mean":
        return Credit(spread(batch, rewards.trajectory_M - mean_M))
    top_G = torch.full((traj.groups,), -math.inf, dtype=mean_M.dtype, device=mean_M.device)
    top_M = top_G.scatter_reduce(0, traj.group_M, rewards.trajectory_M, "amax")[traj.group_M]
    part_M = ((rewards.trajectory_M - top_M) / tau).exp()
    soft_M = top_M + tau * segment_mean(part_M, traj.group_M, traj.groups)[traj.group_M].log()
    alone_M = torch.bincount(traj.group_M, minlength=traj.groups)[traj.group_M] < 2
    return Credit(spread(batch, rewards.trajectory_M - torch.where(alone_M, 0.0, soft_M)))


def opmd(
    logp_BT: Tensor,
    adv_BT: Tensor,
    batch: Batch,
    *,
    opmd_form: Literal["kimi", "simple"] = "kimi",
    opmd_tau: float = 0.1,
) -> Factor:
    """kimi: L = -A logp + tau (logp - logp_old)^2, c = A - 2 tau (logp - logp_old); simple: c = A / (1 + tau).

    Per token. Online policy mirror descent: Kimi k1.5, arXiv 2501.12599 (its 1 / 2 is in tau); the simple form is
    that of arXiv 2509.24203, with tau 1.
    """
    if opmd_form == "simple":
        c_BT = adv_BT / (1 + opmd_tau)
        return Factor(c_BT, torch.ones_like(batch.mask), -c_BT * logp_BT)
    gap_BT = log_ratio(logp_BT, batch, "old")
    loss_BT = -adv_BT * logp_BT + opmd_tau * gap_BT**2
    return Factor(adv_BT - 2 * opmd_tau * gap_BT, torch.ones_like(batch.mask), loss_BT)


def shifted_mean(batch: Batch, rewards: Rewards, *, asymre_shift: float = 0.1) -> Credit:
    """A_i = R_i - (mean_group - shift): wins count more than losses. AsymRE, arXiv 2506.20520.

    Group of one: mean 0. Equal rewards leave A = shift, imitation of what was sampled.
    """
    traj = batch.trajectories
    mean_M, _ = unit_stats(rewards.trajectory_M, traj.group_M, traj.groups, lone_mean_zero=True)
    return Credit(spread(batch, rewards.trajectory_M - mean_M + asymre_shift))


# ---------------------------------------------------------------- RED


def red_weight(adv_BT: Tensor, batch: Batch, *, red_temperature: float | None = 1.0) -> Tensor:
    """A exp(A / T): the better a sample, the more it counts; None: off. RED-weight, arXiv 2509.24203."""
    if red_temperature is None:
        return adv_BT
    return adv_BT * (adv_BT / red_temperature).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()


def red_drop(batch: Batch, rewards: Rewards, *, normalize: bool = False) -> Credit:
    """Group advantage after surplus losses (R < mean) are dropped at random until they are no more than wins.

    Mean (and std, with `normalize`) are those of the survivors; the dropped weigh 0. The draw depends on the step and
    the group's members in order of trajectory id, not on the order of rows. RED-drop, arXiv 2509.24203.
    """
    traj, reward_M = batch.trajectories, rewards.trajectory_M
    win_M = reward_M >= segment_mean(reward_M, traj.group_M, traj.groups)[traj.group_M]
    members: list[list[int]] = [[] for _ in range(traj.groups)]
    for m, group in enumerate(traj.group_M.tolist()):
        members[group].append(m)
    keep_M, wins = torch.ones_like(win_M), win_M.tolist()
    rng = random.Random(int(batch.state.get("step", 0)))
    for ids in members:
        losers = [m for m in ids if not wins[m]]
        surplus = 2 * len(losers) - len(ids)
        if surplus > 0:
            keep_M[rng.sample(losers, surplus)] = False
    row_B = keep_M[traj.row_B]
    left = batch.rows(row_B.nonzero()[:, 0])
    credit = group_relative(left, Rewards(reward_M[keep_M], rewards.token_BT[row_B]), normalize=normalize)
    adv_BT = torch.zeros_like(rewards.token_BT)
    adv_BT[row_B] = credit.adv_BT.to(adv_BT.dtype)
    return Credit(adv_BT, weight_BT=(batch.mask & row_B[:, None]).to(adv_BT.dtype))


# ---------------------------------------------------------------- ReMix


def shifted_clip(
    logp_BT: Tensor, adv_BT: Tensor, batch: Batch, *, clip_low: float = 0.2, clip_high: float = 0.2
) -> Factor:
    """PPO's clip around the shift of the policy since the token was sampled: min(r A, clip(r, s - low, s + high) A).

    r = pi / pi_gen, s = pi_old / pi_gen, pi_gen the policy that sampled the token (`extras["logp_replay"]`; without
    it the data is fresh): then s = 1 and this is PPO. Mix-PPG of ReMix, arXiv 2507.06892.
    """
    old_BT = needed(batch, "logp_old").masked_fill(~batch.mask, 0.0)
    gen_BT = batch.extras.get("logp_replay", old_BT).masked_fill(~batch.mask, 0.0)
    ratio_BT = (logp_BT - gen_BT).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    shift_BT = (old_BT - gen_BT).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    low_BT, high_BT = shift_BT - clip_low, shift_BT + clip_high
    keep_BT = ~((adv_BT > 0) & (ratio_BT > high_BT) | (adv_BT < 0) & (ratio_BT < low_BT))
    bounded_BT = torch.minimum(torch.maximum(ratio_BT, low_BT), high_BT)
    loss_BT = torch.maximum(-adv_BT * ratio_BT, -adv_BT * bounded_BT)
    return Factor(adv_BT * ratio_BT * keep_BT, keep_BT, loss_BT)


def base_share(step: int, start: int, floor: float) -> float:
    """lambda(t) = max(1 - 0.1 ceil(max(t - start, 0) / 10), floor). ReMix."""
    return max(1 - 0.1 * math.ceil(max(step - start, 0) / 10), floor)


def kl_convex(
    update: Update,
    *,
    remix_kl: float = 0.01,
    remix_start: int = 50,
    remix_floor: float = 0.5,
    kl_estimator: KLEstimator = "k3",
) -> Tensor | None:
    """remix_kl * aggregate(lambda KL(pi || base) + (1 - lambda) KL(pi || previous)), lambda by `base_share`.

    base: `logp_ref`; previous: `extras["logp_previous"]`, without it the policy that opened the update. ReMix.
    """
    if not remix_kl:
        return None
    batch, off_BT = update.batch, ~update.batch.mask
    previous = batch.extras.get("logp_previous")
    old_BT = needed(batch, "logp_old").masked_fill(off_BT, 0.0)
    previous_BT = old_BT if previous is None else previous.masked_fill(off_BT, 0.0)
    share = base_share(int((update.state or {}).get("step", 0)), remix_start, remix_floor)
    logp_BT = update.logp_BT.masked_fill(off_BT, 0.0)
    base_BT = kl_estimate(logp_BT, needed(batch, "logp_ref").masked_fill(off_BT, 0.0), kl_estimator, old_BT)
    last_BT = kl_estimate(logp_BT, previous_BT, kl_estimator, old_BT)
    return remix_kl * (update.weights.policy_BT * (share * base_BT + (1 - share) * last_BT)).sum()


def mix_policies(
    ages: Sequence[int],
    slots: int,
    draw: str,
    *,
    replay_share: float = 0.4,
    replay_back: int = 2,
    reincarnate_at: int | None = None,
) -> list[int]:
    """Indices of stored groups that take the place of fresh ones in a step of `slots` groups.

    `ages` are the steps since each group was played. Each slot is old with probability `replay_share`: a policy
    1 to `replay_back` steps old is drawn evenly among those stored, then one of its groups, none twice; one slot at
    least stays fresh. The same `draw` gives the same answer. At step `reincarnate_at` the policy becomes its own
    reference, replay ends and each batch is passed over once. Unit: group. Mix-PPG of ReMix, arXiv 2507.06892.
    """
    rng = random.Random(draw)
    left: dict[int, list[int]] = {}
    for index, age in enumerate(ages):
        if 1 <= age <= replay_back:
            left.setdefault(age, []).append(index)
    chosen: list[int] = []
    for _ in range(slots):
        old = rng.random() < replay_share
        if old and left and len(chosen) < slots - 1:
            age = rng.choice(sorted(left))
            chosen.append(left[age].pop(rng.randrange(len(left[age]))))
            if not left[age]:
                del left[age]
    return chosen


# ---------------------------------------------------------------- rows

_GROUP = frozenset({"group_complete"})
_REC = "Group-Relative REINFORCE Is Secretly an Off-Policy Algorithm"

ROWS = (
    Algorithm(
        "rec",
        f"{_REC}: REC (arXiv 2509.24203)",
        "trajectory",
        group_relative,
        stability=rec,
        params={"normalize": False},
        needs=_GROUP,
        source="Authors' code: clip 0.2 / 0.2, ring 0.6 / 2, no std, no KL, token mean; one-side without importance "
        "weight (REC-OneSide-NoIS).",
        left_out="Sequence ratios (REC-GSPO): slots.ratio=sequence_ratio, rec_weight=ratio, "
        "aggregator=seq_mean_token_mean.",
    ),
    Algorithm(
        "opmd",
        f"Kimi k1.5: online policy mirror descent (arXiv 2501.12599); {_REC} (arXiv 2509.24203)",
        "trajectory",
        opmd_advantage,
        coef=opmd,
        needs=_GROUP,
        source="Authors' code: Kimi's form with tau 0.1; opmd_form=simple takes tau 1.",
        left_out="Kimi k1.5 squares the log-ratio of the whole answer; here, as in the authors' code, of each token.",
    ),
    Algorithm(
        "asymre",
        "Asymmetric REINFORCE (arXiv 2506.20520)",
        "trajectory",
        shifted_mean,
        stability=rec,
        params={"rec_mask": "none"},
        needs=_GROUP,
        source="Shift 0.1: the REC authors' code.",
        left_out="Nothing known.",
    ),
    Algorithm(
        "red",
        f"{_REC}: RED (arXiv 2509.24203)",
        "trajectory",
        group_relative,
        modulators=(red_weight,),
        stability=rec,
        params={"normalize": False, "rec_mask": "none"},
        needs=_GROUP,
        source="Paper: RED-weight at temperature 1, no clip, no importance weight.",
        left_out="RED-drop: slots.estimator=red_drop with red_temperature=null.",
    ),
    Algorithm(
        "remix",
        "ReMix: squeezing the soaked sponge (arXiv 2507.06892)",
        "trajectory",
        group_relative,
        coef=shifted_clip,
        terms=(*TERMS, kl_convex),
        controllers=(count_steps,),
        needs=_GROUP | {"ref_logp", "logp_replay"},
        source="Secondary notes: clip 0.2, lambda(t) from step 50 down to 0.5. The weight of the KL is ours.",
        left_out="Old trajectories are rl.replay=remix (part mix_policies: probability 0.4, two policies back), "
        "updates-to-data 2 is rl.epochs=2, policy reincarnation rl.collect_params.reincarnate_at; without rl.replay "
        "the data is fresh. KL to the previous policy is to the one that opened the update, unless extras give "
        "logp_previous.",
        status="formula only",
    ),
)

PARTS = (
    Part("rec_mask", "stability", rec, unit="token"),
    Part("opmd_advantage", "estimator", opmd_advantage, needs=_GROUP),
    Part("shifted_mean", "estimator", shifted_mean, needs=_GROUP),
    Part("red_weight", "modulators", red_weight, f"{_REC}: RED (arXiv 2509.24203)",
         source="Paper: temperature 1.", left_out="Nothing known."),
    Part("red_drop", "estimator", red_drop, f"{_REC}: RED (arXiv 2509.24203)", needs=_GROUP,
         source="Authors' code: no std.", left_out="Nothing known."),
    Part(
        "mix_policies", "replay", mix_policies, "ReMix: squeezing the soaked sponge (arXiv 2507.06892)", "trajectory",
        source="Secondary notes: probability 0.4, two policies back, reincarnation at step 50 or 100.",
        left_out="In a run: rl.replay=remix, with an algorithm that knows who sampled a token: remix, or any with "
        "params.ratio_base=rollout or a behaviour weight. Whole groups are drawn, so that a baseline stays one of "
        "its own policy, and they are played episodes saved, not added.",
        status="formula only",
    ),
    Part("kl_convex", "terms", kl_convex, unit="token", needs=frozenset({"ref_logp"})),
)  # fmt: skip

MEANING = {
    "rec_mask": "which ratios keep their gradient",
    "rec_weight": "importance weight: none, or the ratio",
    "ring_low": "wins with a ratio below 1 - ring_low are back in",
    "ring_high": "losses with a ratio above 1 + ring_high are back in",
    "opmd_baseline": "the group's mean, or the soft maximum",
    "opmd_baseline_tau": "τ of the soft maximum",
    "opmd_form": "Kimi's squared log-ratio, or the advantage divided by 1 + τ",
    "opmd_tau": "τ: pull to the policy that opened the update",
    "asymre_shift": "how far the baseline lies below the mean",
    "red_temperature": "T: advantage by which a sample's weight grows e-fold; None: off",
    "replay_share": "p: probability that a group of a step is one of an earlier policy",
    "replay_back": "N: age in steps of the oldest policy whose groups are kept",
    "reincarnate_at": "step at which the policy becomes its own reference and goes on on-policy; None: never",
    "remix_kl": "weight of the convex KL",
    "remix_start": "step from which the base's share falls",
    "remix_floor": "smallest share of the base",
}
RANGES = {
    "ring_low": Range(0.0, 1.0),
    "ring_high": Range(0.0),
    "opmd_baseline_tau": Range(1e-6),
    "opmd_tau": Range(0.0),
    "red_temperature": Range(1e-6),
    "replay_share": Range(0.0, 1.0),
    "replay_back": Range(1),
    "reincarnate_at": Range(1),
    "remix_kl": Range(0.0),
    "remix_start": Range(0),
    "remix_floor": Range(0.0, 1.0),
}
EXTRAS = {
    "logp_replay": "[B, T] log-prob of the policy that sampled the token, however old",
    "logp_previous": "[B, T] log-prob of the policy before the last update",
}
