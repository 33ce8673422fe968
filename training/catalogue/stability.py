"""Stability rules: which tokens keep their gradient, and how much of it.

Shapes: B rows, T tokens, N tokens in a flat list, V vocabulary, H hidden size. A rule gives the derivative of the
objective per unit of advantage; the surrogate of each is a true antiderivative, so that loss and gradient agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..aggregate import SequenceUnit
from ..batch import Batch, segment_mean, segment_sum
from ..coefficients import LOG_RATIO_LIMIT, Factor, RatioBase, log_ratio, ppo_clip
from ..credit import group_relative
from ..parameters import Range
from ..slots import Algorithm, Part

EDGE = 1e-6
"""A ratio this close to a bound of BAPO's search counts as on it: exp(log 0.7) may be 0.69999999."""


# ---------------------------------------------------------------- soft and asymmetric rules


def unclipped(ratio_BT: Tensor, adv_BT: Tensor, logp_BT: Tensor) -> Factor:
    """L = -A r: importance weighting without any clip."""
    return Factor(ratio_BT, torch.ones_like(ratio_BT, dtype=torch.bool), -adv_BT * ratio_BT)


def soft_gate(
    ratio_BT: Tensor,
    adv_BT: Tensor,
    logp_BT: Tensor,
    *,
    tau_positive: float = 1.0,
    tau_negative: float = 1.05,
) -> Factor:
    """L = -A 4 / tau s with s = sigmoid(tau (r - 1)), c = 4 A r s (1 - s); tau by the sign of A (0: as positive).

    Smooth in place of a clip: 1 at r = 1, falling on both sides. SAPO, arXiv 2511.20347. One library detaches the
    gate and so has another gradient; this one differentiates through r as the paper does.
    """
    tau_BT = torch.full_like(ratio_BT, tau_positive).masked_fill(adv_BT < 0, tau_negative)
    gate_BT = torch.sigmoid(tau_BT * (ratio_BT - 1))
    factor_BT = 4 * ratio_BT * gate_BT * (1 - gate_BT)
    keep_BT = torch.ones_like(ratio_BT, dtype=torch.bool)
    return Factor(factor_BT, keep_BT, -adv_BT * 4 / tau_BT * gate_BT)


def tapered(ratio_BT: Tensor, adv_BT: Tensor, logp_BT: Tensor) -> Factor:
    """c = A where A >= 0, A min(r, 1) where A < 0: losses are forgotten as they fade, wins never.

    L = -A (1 + log r) where A >= 0 or r > 1, -A r otherwise. TOPR, arXiv 2503.14286. The ratio is that of the row's
    ratio slot: per token as its implementation has it; the paper's product over the answer is `product_ratio`.
    """
    faded_BT = (adv_BT < 0) & (ratio_BT < 1)
    log_BT = ratio_BT.clamp(min=torch.finfo(ratio_BT.dtype).tiny).log()
    loss_BT = -adv_BT * torch.where(faded_BT, ratio_BT, 1 + log_BT)
    factor_BT = torch.where(faded_BT, ratio_BT, 1.0)
    return Factor(factor_BT, torch.ones_like(faded_BT), loss_BT)


def product_ratio(
    logp_BT: Tensor, batch: Batch, *, ratio_base: RatioBase = "old", unit: SequenceUnit = "trajectory"
) -> Tensor:
    """prod over the unit's action tokens of exp(logp - base), the same on each; log clamped to +-20.

    The importance weight of a whole answer; TOPR, arXiv 2503.14286.
    """
    index_BT, count = batch.unit_index(unit)
    total = segment_sum(log_ratio(logp_BT, batch, ratio_base).flatten(), index_BT.flatten(), count)
    ratio_BT = total.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()[index_BT.clamp(min=0)]
    return ratio_BT.masked_fill(~batch.mask, 0.0)


# ---------------------------------------------------------------- bounds searched on the minibatch


def balanced_clip(
    ratio_BT: Tensor,
    adv_BT: Tensor,
    logp_BT: Tensor,
    *,
    bapo_share: float = 0.5,
    bapo_low: float = 0.6,
    bapo_low_max: float = 0.9,
    bapo_high: float = 1.2,
    bapo_high_max: float = 3.0,
    bapo_step: float = 0.05,
    dual_clip: float = 3.0,
) -> Factor:
    """PPO's clip with absolute bounds (c_low, c_high) found by `balanced_bounds` on the whole minibatch. BAPO."""
    lows = _grid(bapo_low, max(bapo_low, bapo_low_max), bapo_step)
    highs = _grid(bapo_high, max(bapo_high, bapo_high_max), bapo_step)
    low, high = balanced_bounds(ratio_BT, adv_BT, lows, highs, bapo_share, dual_clip)
    return ppo_clip(ratio_BT, adv_BT, logp_BT, clip_low=1 - low, clip_high=high - 1, dual_clip=dual_clip)


def balanced_bounds(
    ratio_BT: Tensor, adv_BT: Tensor, lows: Sequence[float], highs: Sequence[float], share: float, dual: float
) -> tuple[float, float]:
    """First (c_low, c_high) at which positive tokens make up `share` of sum |r A| over tokens that keep a gradient.

    c_low rises first, which drops negative tokens with r < c_low; then c_high, which admits positive ones with
    r <= c_high. (lows[-1], highs[-1]) where nothing reaches the share. A token counts as long as it carries a
    gradient (paper, arXiv 2510.18927); the released code clamps instead, so that raising c_low adds negative mass.
    """
    size_BT = (ratio_BT * adv_BT).abs()
    positive, negative = adv_BT > 0, (adv_BT < 0) & (ratio_BT <= dual)
    low_L, high_H = (torch.tensor(x, dtype=ratio_BT.dtype, device=ratio_BT.device) for x in (lows, highs))
    # Tokens by how many bounds they clear: one pass over the tokens whatever the number of bounds.
    above = torch.searchsorted(low_L - EDGE, ratio_BT[negative], right=True)
    below = torch.searchsorted(high_H + EDGE, ratio_BT[positive])
    by_low = segment_sum(size_BT[negative], above, len(lows) + 1)
    by_high = segment_sum(size_BT[positive], below, len(highs) + 1)
    minus_L = by_low.flip(0).cumsum(0).flip(0)[1:].tolist()
    plus_H = by_high.cumsum(0)[:-1].tolist()
    for low, minus in zip(lows, minus_L, strict=True):
        if plus_H[0] >= share * (plus_H[0] + minus):
            return low, highs[0]
    for high, plus in zip(highs, plus_H, strict=True):
        if plus >= share * (plus + minus_L[-1]):
            return lows[-1], high
    return lows[-1], highs[-1]


def _grid(first: float, last: float, step: float) -> list[float]:
    """first, first + step, ... up to last."""
    return [first + step * k for k in range(round((last - first) / step) + 1)]


# ---------------------------------------------------------------- guards


def offpolicy_mask(
    ratio_BT: Tensor,
    adv_BT: Tensor,
    logp_BT: Tensor,
    batch: Batch,
    *,
    mask_delta: float = 0.5,
    ratio_base: RatioBase = "old",
    unit: SequenceUnit = "trajectory",
) -> Tensor:
    """0 on tokens with A < 0 of a unit whose mean over tokens of (base - logp) exceeds delta, else 1.

    Drops losing sequences that the policy has left behind, s < exp(-delta) in terms of GSPO's ratio, which drive
    collapse. DeepSeek-V3.2, arXiv 2512.02556 (against the sampling engine: ratio_base=rollout); the same mask with
    sequence clipping is the stable variant of ARLArena.
    """
    index_BT, count = batch.unit_index(unit)
    gap = segment_mean(-log_ratio(logp_BT, batch, ratio_base).flatten(), index_BT.flatten(), count)
    left_BT = (gap > mask_delta)[index_BT.clamp(min=0)] & batch.mask
    return (~((adv_BT < 0) & left_BT)).to(ratio_BT.dtype)


class Moments(NamedTuple):
    """Adam's state on rows of the output layer, ascending: what a further gradient would meet."""

    first_NKH: Tensor
    second_NKH: Tensor
    betas: tuple[float, float]
    step: float
    """Updates so far."""
    eps: float

    def direction(self, grad_NKH: Tensor) -> Tensor:
        """Adam's step per unit of learning rate if each gradient alone came next, bias-corrected."""
        (b1, b2), t = self.betas, self.step + 1
        first = (b1 * self.first_NKH + (1 - b1) * grad_NKH) / (1 - b1**t)
        second = (b2 * self.second_NKH + (1 - b2) * grad_NKH**2) / (1 - b2**t)
        return first / (second.sqrt() + self.eps)


def curvature(
    hidden_NH: Tensor, prob_NK: Tensor, token_N: Tensor, adv_N: Tensor, lr: float, moments: Moments | None = None
) -> tuple[Tensor, Tensor]:
    """(m_H, m_F), each [N]: what one optimiser step on a token does to the objective and to the policy.

    Only the output layer moves, logits = W h: v = e_a - pi, token gradient g = A v h^T, step g^ = Adam(g) from its
    `moments` (without: SGD, g^ = g), u = g^ h. K: the vocabulary, or its likeliest tokens; `token_N`: the column of a.
        m_H = lr <g, g^> + lr^2 / 2 A [(v.u)^2 - u^T (diag(pi) - pi pi^T) u],   m_F = lr^2 / 2 (v.u)^2
    CAPO, arXiv 2510.00819.
    """
    score_NK = -prob_NK.clone()
    score_NK[torch.arange(len(token_N), device=token_N.device), token_N] += 1.0
    grad_NK = adv_N[:, None] * score_NK
    if moments is None:
        move_NK = grad_NK * (hidden_NH**2).sum(1, keepdim=True)
    else:
        grad_NKH = grad_NK[:, :, None] * hidden_NH[:, None, :]
        move_NK = (moments.direction(grad_NKH) * hidden_NH[:, None, :]).sum(2)
    along_N = (score_NK * move_NK).sum(1)
    spread_N = (prob_NK * move_NK**2).sum(1) - (prob_NK * move_NK).sum(1) ** 2
    hessian_N = lr * adv_N * along_N + lr**2 / 2 * adv_N * (along_N**2 - spread_N)
    return hessian_N, lr**2 / 2 * along_N**2


def curvature_guard(
    ratio_BT: Tensor,
    adv_BT: Tensor,
    logp_BT: Tensor,
    batch: Batch,
    *,
    capo_hessian: float = 0.01,
    capo_fisher: float = 1e-4,
) -> Tensor:
    """1 where m_F < tau_F and |m_H| < tau_H, else 0; `curvature` gives both. CAPO, arXiv 2510.00819."""
    calm_BT = (batch.extra("m_F") < capo_fisher) & (batch.extra("m_H").abs() < capo_hessian)
    return calm_BT.to(ratio_BT.dtype)


# ---------------------------------------------------------------- rows

_GROUP = frozenset({"group_complete"})

ROWS = (
    Algorithm(
        "sapo",
        "Soft Adaptive Policy Optimization (arXiv 2511.20347)",
        "trajectory",
        group_relative,
        stability=soft_gate,
        params={"aggregator": "seq_mean_token_mean"},
        needs=_GROUP,
        source="Paper: tau 1 / 1.05, group z-score, sequence mean.",
        left_out="Nothing known.",
    ),
    Algorithm(
        "topr",
        "Tapered Off-Policy REINFORCE (arXiv 2503.14286)",
        "trajectory",
        group_relative,
        stability=tapered,
        params={"normalize": False},
        needs=_GROUP,
        source="Reward minus the group's mean, no std, no clip.",
        left_out="The paper tapers the product of ratios over the whole answer: slots.ratio=product_ratio. Per token "
        "here, as implementations do, since a product over a long trajectory is 0 or 1.",
    ),
    Algorithm(
        "bapo",
        "BAPO: balanced policy optimization with adaptive clipping (arXiv 2510.18927)",
        "trajectory",
        group_relative,
        stability=balanced_clip,
        needs=_GROUP | {"whole_minibatch"},
        source="Paper: c_low 0.6 to 0.9, c_high 1.2 to 3, share 0.5; step 0.05 and dual clip 3: the authors' code.",
        left_out="The released code's sums, which clamp instead of dropping (see `balanced_bounds`).",
    ),
)

PARTS = (
    Part("unclipped", "stability", unclipped, unit="token"),
    Part("soft_gate", "stability", soft_gate, unit="token"),
    Part("tapered", "stability", tapered, unit="token"),
    Part("product_ratio", "ratio", product_ratio, needs=frozenset({"unit_complete"})),
    Part("balanced_clip", "stability", balanced_clip, unit="token", needs=frozenset({"whole_minibatch"})),
    Part(
        "offpolicy_mask",
        "guards",
        offpolicy_mask,
        "DeepSeek-V3.2 (arXiv 2512.02556); ARLArena's masking of negative sequences",
        needs=frozenset({"unit_complete"}),
        source="delta is ours: the report gives none.",
        left_out="With advantages per turn or token, a sequence loses its negative tokens only.",
    ),
    Part(
        "capo",
        "guards",
        curvature_guard,
        "CAPO: curvature-aware policy optimization (arXiv 2510.00819)",
        "token",
        frozenset({"curvature"}),
        source="Authors' code: tau_H 0.01, tau_F 1e-4 (Dr. CAPO 5e-4 / 1e-3, ReinCAPO 0.1 / 1e-5) at learning rate "
        "1.5e-5.",
        left_out="Only the output layer is modelled, as in the paper, on the likeliest tokens and the sampled one "
        "(32, ours). Moments are the trainer's own; before the optimiser's first step there are none, and the step is "
        "plain SGD, as in the authors' code. Thresholds fit a learning rate of 1.5e-5; m_H grows with it, m_F with its "
        "square.",
    ),
)

MEANING = {
    "tau_positive": "τ: steepness of the gate where the advantage is positive",
    "tau_negative": "τ: the same where it is negative",
    "bapo_share": "ρ0: share of the update that positive tokens are to have",
    "bapo_low": "lower bound on the ratio that the search begins with",
    "bapo_low_max": "and ends with",
    "bapo_high": "upper bound on the ratio that the search begins with",
    "bapo_high_max": "and ends with",
    "bapo_step": "step of the search",
    "mask_delta": "δ: mean log-ratio by which a losing sequence may have become less likely",
    "capo_hessian": "τ_H: largest change of the objective by one step on a token",
    "capo_fisher": "τ_F: largest change of the policy by the same step",
}
RANGES = {
    "tau_positive": Range(1e-6),
    "tau_negative": Range(1e-6),
    "bapo_share": Range(0.0, 1.0),
    "bapo_low": Range(0.0, 1.0),
    "bapo_low_max": Range(0.0, 1.0),
    "bapo_high": Range(1.0),
    "bapo_high_max": Range(1.0),
    "bapo_step": Range(1e-3),
    "capo_hessian": Range(0.0),
    "capo_fisher": Range(0.0),
}
NEEDS = {
    "curvature": "hidden states, probabilities of the vocabulary and the optimiser's moments: a forward pass more",
}
EXTRAS = {
    "m_H": "[B, T] CAPO: change of the objective by an optimiser step on the token alone",
    "m_F": "[B, T] CAPO: change of the policy by the same step",
}
