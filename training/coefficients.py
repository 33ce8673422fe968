"""Coefficients: the detached number that multiplies grad log-prob, one per action token.

    c = keep * shaped ratio * advantage * behaviour weight        L = -sum(weight * c.detach() * logp)

Shapes: B rows, T tokens. Everything here is detached and 0 on masked tokens. The surrogate is the value other
libraries log as "policy loss"; its gradient with respect to logp is -c.
A ratio is `(logp_BT, batch, *, ...) -> ratio_BT`; a stability rule `(ratio_BT, adv_BT, logp_BT, *, ...) -> Factor`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .aggregate import SequenceUnit
from .batch import Batch, segment_sum
from .credit import needed

LOG_RATIO_LIMIT = 20.0
RatioBase = Literal["old", "rollout"]
BehaviourName = Literal["none", "tis", "icepop", "seq_tis", "seq_mis", "geo_mis"]


class Factor(NamedTuple):
    """What a stability rule makes of the ratio."""

    factor_BT: Tensor
    """Derivative of the objective with respect to logp, per unit of advantage."""
    keep_BT: Tensor
    """bool: False where the rule takes the token's gradient away."""
    surrogate_BT: Tensor
    """Per-token loss value to log."""


# ---------------------------------------------------------------- ratios


def token_ratio(logp_BT: Tensor, batch: Batch, *, ratio_base: RatioBase = "old") -> Tensor:
    """r_t = exp(logp_t - base_t), log-ratio clamped to +-20. PPO, arXiv 1707.06347.

    `ratio_base="rollout"` takes the sampling engine's log-probs as base ("bypass mode").
    """
    return torch.exp(log_ratio(logp_BT, batch, ratio_base)).masked_fill(~batch.mask, 0.0)


def sequence_ratio(
    logp_BT: Tensor,
    batch: Batch,
    *,
    ratio_base: RatioBase = "old",
    unit: SequenceUnit = "trajectory",
) -> Tensor:
    """s = exp(mean over the unit's action tokens of (logp_t - base_t)), the same on each of them. GSPO, 2507.18071.

    With weights 1 / (units * tokens of the unit), c = A s is the exact gradient coefficient per token.
    """
    index_BT, count = batch.unit_index(unit)
    mean = _unit_mean(log_ratio(logp_BT, batch, ratio_base), index_BT, count)
    return torch.exp(mean)[index_BT.clamp(min=0)].masked_fill(~batch.mask, 0.0)


def no_ratio(logp_BT: Tensor, batch: Batch) -> Tensor:
    """1 on action tokens: the score-function gradient, on-policy only."""
    return batch.mask.to(logp_BT.dtype)


# ---------------------------------------------------------------- stability rules


def ppo_clip(
    ratio_BT: Tensor,
    adv_BT: Tensor,
    logp_BT: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
) -> Factor:
    """L = max(-A r, -A clip(r, 1 - low, 1 + high)); for A < 0 at most -A c with dual clip c.

    No gradient where A > 0 and r > 1 + high, where A < 0 and r < 1 - low, where A < 0 and r > c.
    arXiv 1707.06347; two-sided bounds: arXiv 2503.14476; dual clip: arXiv 1912.09729.
    """
    over = (adv_BT > 0) & (ratio_BT > 1 + clip_high)
    under = (adv_BT < 0) & (ratio_BT < 1 - clip_low)
    loss_BT = torch.maximum(-adv_BT * ratio_BT, -adv_BT * ratio_BT.clamp(1 - clip_low, 1 + clip_high))
    keep_BT = ~(over | under)
    if dual_clip is not None:
        keep_BT &= ~((adv_BT < 0) & (ratio_BT > dual_clip))
        loss_BT = torch.where(adv_BT < 0, torch.minimum(loss_BT, -adv_BT * dual_clip), loss_BT)
    return Factor(ratio_BT * keep_BT, keep_BT, loss_BT)


def truncated_ratio(ratio_BT: Tensor, adv_BT: Tensor, logp_BT: Tensor, *, clip_high: float = 4.0) -> Factor:
    """L = -sg(min(r, 1 + high)) A logp: no token is dropped. CISPO, arXiv 2506.13585."""
    factor_BT = ratio_BT.clamp(max=1 + clip_high)
    return Factor(factor_BT, torch.ones_like(ratio_BT, dtype=torch.bool), -factor_BT * adv_BT * logp_BT)


def score_function(ratio_BT: Tensor, adv_BT: Tensor, logp_BT: Tensor) -> Factor:
    """L = -A logp: every token keeps its gradient."""
    return Factor(ratio_BT, torch.ones_like(ratio_BT, dtype=torch.bool), -ratio_BT * adv_BT * logp_BT)


# ---------------------------------------------------------------- behaviour weights


def behaviour_weight(
    batch: Batch,
    *,
    behaviour: BehaviourName = "none",
    behaviour_low: float = 0.5,
    behaviour_high: float = 2.0,
    unit: SequenceUnit = "trajectory",
) -> Tensor:
    """[B, T] correction of the gap between trainer and sampling engine, rho_t = exp(logp_old_t - logp_rollout_t).

    tis      min(rho_t, high)                       (truncated importance sampling; Yao, Liu et al., 2025)
    icepop   rho_t if low <= rho_t <= high else 0   (Ling team, 2025)
    seq_tis  min(prod rho, high)                    over the unit's tokens
    seq_mis  prod rho if low <= prod rho <= high else 0
    geo_mis  1 if low <= exp(mean log rho) <= high else 0

    Multiplies the per-token loss; denominators stay as they are.
    """
    if behaviour == "none":
        return batch.mask.to(batch.rewards.dtype)
    log_rho_BT = log_ratio(needed(batch, "logp_old"), batch, "rollout")
    index_BT, count = batch.unit_index(unit)
    if behaviour in ("seq_tis", "seq_mis"):
        log_rho_BT = segment_sum(log_rho_BT.flatten(), index_BT.flatten(), count)[index_BT.clamp(min=0)]
    elif behaviour == "geo_mis":
        log_rho_BT = _unit_mean(log_rho_BT, index_BT, count)[index_BT.clamp(min=0)]
    rho_BT = log_rho_BT.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    if behaviour in ("tis", "seq_tis"):
        weight_BT = rho_BT.clamp(max=behaviour_high)
    else:
        inside_BT = (rho_BT >= behaviour_low) & (rho_BT <= behaviour_high)
        weight_BT = inside_BT * (torch.ones_like(rho_BT) if behaviour == "geo_mis" else rho_BT)
    return weight_BT.masked_fill(~batch.mask, 0.0)


# ---------------------------------------------------------------- helpers


def log_ratio(logp_BT: Tensor, batch: Batch, base: RatioBase) -> Tensor:
    """logp - base, clamped to +-20; masked tokens hold anything, NaN included."""
    base_BT = needed(batch, "logp_old" if base == "old" else "logp_rollout")
    return (logp_BT - base_BT).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


def _unit_mean(x_BT: Tensor, index_BT: Tensor, count: int) -> Tensor:
    index = index_BT.flatten()
    return segment_sum(x_BT.flatten(), index, count) / torch.bincount(index[index >= 0], minlength=count).clamp(min=1)
