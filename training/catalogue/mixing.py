"""Expert and own samples in one update: what an expert token is worth, and how the sources share the loss.

Shapes: B rows, T tokens, M trajectories. Rows whose provenance is in `batch.OWN` are the policy's own, all others come
from elsewhere.

Every gradient here is  keep * (1 / pi_ref) * A * grad pi  (unified view, arXiv 2509.04419); c = keep * pi / pi_ref * A:

| method | pi_ref | A | keep |
|---|---|---|---|
| SFT | pi | 1 | 1 |
| REINFORCE | pi | R - b | 1 |
| PPO, GRPO | pi_old | GAE, group z | clip |
| GSPO | pi (pi_old / pi)^(1 / length) | group z | sequence clip |
| CISPO | pi_old, the ratio capped | group z | cap |
| LUFFY, expert rows | 1, with f'(pi) | group z over both sources | 1 |
| SRFT, expert rows | 1 | group z over both sources | 1 |
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ..aggregate import SequenceUnit
from ..batch import Batch, own_rows, segment_mean, segment_sum
from ..coefficients import Factor
from ..credit import Credit, Rewards, StatsUnit, group_relative, needed
from ..parameters import Range
from ..slots import Algorithm, Part
from .classic import count_steps
from .stability import unclipped

# ---------------------------------------------------------------- advantage


def own_group_relative(
    batch: Batch, rewards: Rewards, *, normalize: bool = True, stats_unit: StatsUnit = "trajectory"
) -> Credit:
    """A_i = (R_i - mean) / (std + 1e-6) over the policy's own trajectories of a group, 0 on other rows.

    What is imitated needs no advantage. `group_relative` says the rest.
    """
    own_B = own_rows(batch)
    adv_BT = torch.zeros_like(rewards.token_BT)
    if not (batch.mask & own_B[:, None]).any():
        return Credit(adv_BT)
    own_M = own_B[batch.trajectories.first_row_M]
    mine = Rewards(rewards.trajectory_M[own_M], rewards.token_BT[own_B])
    rows = batch.rows(own_B.nonzero()[:, 0])
    adv_BT[own_B] = group_relative(rows, mine, normalize=normalize, stats_unit=stats_unit).adv_BT.to(adv_BT.dtype)
    return Credit(adv_BT)


# ---------------------------------------------------------------- coefficients of expert rows


def imitate(logp_BT: Tensor, adv_BT: Tensor, batch: Batch, *, phi: Literal["one", "p(1-p)"] = "one") -> Factor:
    """L = -phi logp with phi a constant, c = phi: 1 is SFT, p (1 - p) spares what is certain or hopeless.

    CHORD-mu and CHORD-phi, arXiv 2508.11408.
    """
    p_BT = logp_BT.exp()
    c_BT = p_BT * (1 - p_BT) if phi == "p(1-p)" else torch.ones_like(p_BT)
    return Factor(c_BT, torch.ones_like(batch.mask), -c_BT * logp_BT)


def shaped(logp_BT: Tensor, adv_BT: Tensor, batch: Batch, *, shape_gamma: float = 0.1) -> Factor:
    """L = -A f(p), f = p / (p + g), c = A g p / (p + g)^2: unlikely expert tokens count more than by p itself.

    pi_ref is 1: the expert's probabilities are unknown. LUFFY, arXiv 2504.14945; AMPO and Critique-GRPO use it too.
    """
    p_BT = logp_BT.exp()
    c_BT = adv_BT * shape_gamma * p_BT / (p_BT + shape_gamma) ** 2
    return Factor(c_BT, torch.ones_like(batch.mask), -adv_BT * p_BT / (p_BT + shape_gamma))


def entropy_imitate(
    logp_BT: Tensor,
    adv_BT: Tensor,
    batch: Batch,
    *,
    srft_sft: float = 0.5,
    unit: SequenceUnit = "trajectory",
) -> Factor:
    """L = -w logp - A p with w = srft_sft exp(-H) a constant, c = w + A p: SFT and off-policy RL on one expert row.

    H is the mean entropy over the unit's tokens. SRFT, arXiv 2506.19767.
    """
    weight_BT = srft_sft * (-_mean_entropy(batch, unit)).exp()
    p_BT = logp_BT.exp()
    loss_BT = -weight_BT * logp_BT - adv_BT * p_BT
    return Factor(weight_BT + adv_BT * p_BT, torch.ones_like(batch.mask), loss_BT)


def entropy_positives(
    adv_BT: Tensor, batch: Batch, *, srft_own: float = 0.1, unit: SequenceUnit = "trajectory"
) -> Tensor:
    """A -> srft_own exp(H) A where A > 0 on the policy's own rows: wins count by how unsure the policy was. SRFT."""
    own_BT = own_rows(batch)[:, None] & (adv_BT > 0)
    return torch.where(own_BT, srft_own * _mean_entropy(batch, unit).exp() * adv_BT, adv_BT)


def _mean_entropy(batch: Batch, unit: SequenceUnit) -> Tensor:
    index_BT, count = batch.unit_index(unit)
    mean = segment_mean(needed(batch, "entropy").flatten(), index_BT.flatten(), count)
    return mean[index_BT.clamp(min=0)]


# ---------------------------------------------------------------- mixers


def chord_mix(
    batch: Batch,
    *,
    mu_peak: float = 0.1,
    mu_valley: float = 0.1,
    mu_warmup: int = 0,
    mu_decay: int = 0,
) -> Tensor:
    """[B] mu on expert rows, 1 - mu on own ones, mu by `chord_mu` at this step. CHORD, arXiv 2508.11408."""
    mu = chord_mu(int(batch.state.get("step", 0)), mu_peak, mu_valley, mu_warmup, mu_decay)
    return _shares(batch, 1 - mu, mu)


def chord_mu(step: int, peak: float, valley: float, warmup: int, decay: int) -> float:
    """Linear from 0 to `peak` over `warmup` steps, cosine to `valley` over `decay`, then constant."""
    if step < warmup:
        return peak * step / warmup
    if step >= warmup + decay:
        return valley
    return valley + (peak - valley) * (1 + math.cos(math.pi * (step - warmup) / decay)) / 2


def hpt_mix(batch: Batch, *, hpt_gate: int = 0, sft_weight: float = 1.0, success_at: float = 1.0) -> Tensor:
    """[B] imitation where at most `hpt_gate` own episodes of the group succeeded, RL in all other groups.

    (own, expert) = (0, sft_weight) or (1, 0) by group. HPT, arXiv 2509.04419.
    """
    lost_B = (solved(batch, success_at) <= hpt_gate).to(batch.rewards.dtype)
    return _shares(batch, 1 - lost_B, sft_weight * lost_B)


def ahpo_mix(batch: Batch, *, ahpo_least: int = 1, sft_weight: float = 1.0, success_at: float = 1.0) -> Tensor:
    """[B] 1 on own rows; `sft_weight` on expert rows of groups with fewer than `ahpo_least` successes, else 0. AHPO."""
    wanted_B = (solved(batch, success_at) < ahpo_least).to(batch.rewards.dtype)
    return _shares(batch, 1.0, sft_weight * wanted_B)


def expo_mix(batch: Batch, *, expo_beta: float = 0.1, expo_anneal: int = 0, success_at: float = 1.0) -> Tensor:
    """[B] 1 on own rows; beta on explanations in groups without a success, else 0. ExP-GRPO, arXiv 2507.02834.

    beta falls linearly to 0 over `expo_anneal` steps; 0: constant.
    """
    left = max(0.0, 1 - int(batch.state.get("step", 0)) / expo_anneal) if expo_anneal else 1.0
    wanted_B = (solved(batch, success_at) == 0).to(batch.rewards.dtype)
    return _shares(batch, 1.0, expo_beta * left * wanted_B)


def solved(batch: Batch, success_at: float) -> Tensor:
    """[B] how many of the policy's own trajectories of the row's group succeeded.

    From `extras["solved"]`, which a run fills for whole groups; without it, trajectories whose rewards add up to
    `success_at`, among the rows at hand.
    """
    if "solved" in batch.extras:
        return batch.extra("solved")
    traj = batch.trajectories
    total_M, other_M = (x_B[traj.first_row_M] for x_B in (batch.rewards.sum(1), _others(batch)))
    won_M = ((total_M >= success_at - 1e-6) & ~other_M).to(total_M.dtype)
    return segment_sum(won_M, traj.group_M, traj.groups)[traj.group_M][traj.row_B]


def _shares(batch: Batch, own: Tensor | float, other: Tensor | float) -> Tensor:
    """[B] one of two weights by provenance; built in the batch's dtype, since `where` on numbers would be float32."""
    other_B = _others(batch).to(batch.rewards.dtype)
    return other_B * other + (1 - other_B) * own


def _others(batch: Batch) -> Tensor:
    return ~own_rows(batch)


# ---------------------------------------------------------------- collect side


def rank_teachers(answer_probs: Sequence[Sequence[float]], *, teachers: int = 2) -> dict[str, Any]:
    """Comprehension r_p = mean prob of the true answer's tokens after a teacher's reasoning, and the best `teachers`.

    `answer_probs` holds one list per correct trace; `chosen` are indices, best first, ties in the given order. AMPO.
    """
    scores = [math.fsum(probs) / len(probs) for probs in answer_probs]
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return {"comprehension": scores, "chosen": order[:teachers]}


# ---------------------------------------------------------------- rows

_GROUP = frozenset({"group_complete"})
_MIXED = _GROUP | {"provenance"}
_GATED = _MIXED | {"solved"}
_EXPERTS = "In a run rl.experts adds demonstrations of the environment's expert to each group"

ROWS = (
    Algorithm(
        "chord",
        "CHORD: on-policy RL meets off-policy experts (arXiv 2508.11408)",
        "trajectory",
        own_group_relative,
        expert=imitate,
        mixer=chord_mix,
        controllers=(count_steps,),
        params={"phi": "p(1-p)"},
        needs=_MIXED,
        source="Authors' code: CHORD-phi with mu 0.1. CHORD-mu: phi=one, mu_peak 0.9, mu_valley 0.05, mu_decay 200.",
        left_out=f"{_EXPERTS}; the paper draws them from a fixed set, a fifth of the batch.",
    ),
    Algorithm(
        "hpt",
        "Unified policy gradient estimator, Hybrid Post-Training (arXiv 2509.04419)",
        "trajectory",
        own_group_relative,
        stability=unclipped,
        expert=imitate,
        mixer=hpt_mix,
        params={"normalize": False, "aggregator": "seq_sum_norm"},
        needs=_GATED,
        source="Authors' code: gate 0 (2 of 8 for weak models), SFT weight 1 (0.3 for the smallest), no std, no clip, "
        "no KL, Dr. GRPO's aggregation. Their entropy bonus of 0.001 is off: set entropy_coef.",
        left_out=f"{_EXPERTS}. Off-policy RL in place of SFT: slots.expert=luffy.",
    ),
    Algorithm(
        "ahpo",
        "MM-HELIX: adaptive hybrid policy optimization (arXiv 2510.08540)",
        "trajectory",
        own_group_relative,
        expert=imitate,
        mixer=ahpo_mix,
        needs=_GATED,
        source="Secondary notes: imitation is added to GRPO below a number of successes, which they do not give: 1.",
        left_out=f"{_EXPERTS}.",
        status="formula only",
    ),
    Algorithm(
        "expo",
        "ExPO: self-explanation policy optimization (arXiv 2507.02834)",
        "trajectory",
        own_group_relative,
        expert=imitate,
        mixer=expo_mix,
        controllers=(count_steps,),
        needs=_GATED,
        source="Secondary notes: ExP-GRPO; beta and its schedule are ours.",
        left_out="Explanations that the policy writes when told the answer: rows of provenance > 0 stand for them. "
        f"{_EXPERTS}. ExP-DPO.",
        status="formula only",
    ),
    Algorithm(
        "ampo",
        "AMPO: more than one teacher (arXiv 2510.02227)",
        "trajectory",
        group_relative,
        expert=shaped,
        params={"normalize": False, "aggregator": "seq_sum_norm", "dual_clip": 10.0},
        needs=_MIXED,
        source="Authors' code: clip 0.2, dual clip 10, g 0.1, no std, no KL, constant length divisor. Their entropy "
        "bonus of 0.001 is off: set entropy_coef.",
        left_out="A run has one teacher, the environment's expert: rl.experts=2, rl.experts_in=failed and "
        "rl.experts_replace=true put its demonstrations in place of failed samples. Several are ranked by "
        "`rank_teachers`.",
    ),
    Algorithm(
        "critique_grpo",
        "Critique-GRPO (arXiv 2506.03106)",
        "trajectory",
        group_relative,
        stability=unclipped,
        expert=shaped,
        params={"normalize": False, "aggregator": "seq_sum_norm"},
        needs=_MIXED,
        source="Authors' code: g 0.1, no clip, no std, no KL, constant length divisor; 7 samples and 1 refinement.",
        left_out="Refinements are retries (rl.augmentor=reflect_retry): half of a group instead of one in eight, the "
        "critique is the policy's own reflection. Or rl.experts puts demonstrations in their place.",
    ),
)

PARTS = (
    Part("own_group_relative", "estimator", own_group_relative, needs=_MIXED),
    Part("imitate", "expert", imitate, unit="token", needs=frozenset({"provenance"})),
    Part(
        "luffy", "expert", shaped, "LUFFY: learning to reason under off-policy guidance (arXiv 2504.14945)", "token",
        frozenset({"provenance"}),
        source="Paper: f(p) = p / (p + 0.1), group statistics over both sources.",
        left_out=f"{_EXPERTS} (the paper: 1 beside 7 samples). LUFFY also drops the clip: slots.stability=unclipped.",
    ),
    Part(
        "srft", "expert", entropy_imitate, "SRFT: single-stage supervised and reinforcement fine-tuning (arXiv "
        "2506.19767)", "trajectory", frozenset({"provenance", "entropy", "unit_complete"}),
        source="Paper: 0.5 exp(-H).",
        left_out="Its weight of own wins is the part srft_own (slots.modulators). H is the mean entropy of the "
        "trajectory; the paper does not name the unit.",
    ),
    Part(
        "srft_own", "modulators", entropy_positives, "SRFT (arXiv 2506.19767)", "trajectory",
        frozenset({"provenance", "entropy"}),
        source="Paper: 0.1 exp(H) on own wins; losses keep their advantage (-1 for rewards of +-1).",
        left_out="As for srft.",
    ),
    Part("chord_mix", "mixer", chord_mix, needs=frozenset({"provenance"})),
    Part("hpt_mix", "mixer", hpt_mix, needs=frozenset({"provenance", "solved"})),
    Part("ahpo_mix", "mixer", ahpo_mix, needs=frozenset({"provenance", "solved"})),
    Part("expo_mix", "mixer", expo_mix, needs=frozenset({"provenance", "solved"})),
    Part(
        "rank_teachers", "augmentor", rank_teachers, "AMPO: more than one teacher (arXiv 2510.02227)",
        source="Authors' code: 2 of up to 4 teachers.",
        left_out="A run has one teacher, the environment's expert, so nothing to rank: for traces of one's own.",
    ),
)  # fmt: skip

MEANING = {
    "phi": "weight of an expert token: 1, or p (1 - p)",
    "shape_gamma": "g: probability at which an expert token's pull is halved",
    "srft_sft": "weight of imitation at entropy 0",
    "srft_own": "weight of own wins at entropy 0",
    "mu_peak": "μ: largest share of the expert's loss",
    "mu_valley": "μ: final share",
    "mu_warmup": "steps over which μ rises to its peak",
    "mu_decay": "steps over which it then falls",
    "hpt_gate": "successes up to which a group is imitated",
    "ahpo_least": "successes from which a group needs no expert",
    "sft_weight": "weight of imitation where it is on",
    "expo_beta": "β: weight of the explanations",
    "expo_anneal": "steps over which β falls to 0; 0: constant",
    "success_at": "return that counts as a success where extras.solved is not given",
    "teachers": "how many traces to take",
}
RANGES = {
    "shape_gamma": Range(1e-6),
    "srft_sft": Range(0.0),
    "srft_own": Range(0.0),
    "mu_peak": Range(0.0, 1.0),
    "mu_valley": Range(0.0, 1.0),
    "mu_warmup": Range(0),
    "mu_decay": Range(0),
    "hpt_gate": Range(0),
    "ahpo_least": Range(0),
    "sft_weight": Range(0.0),
    "expo_beta": Range(0.0),
    "expo_anneal": Range(0),
    "teachers": Range(1),
}
EXTRAS = {"solved": "[B] how many of the policy's own episodes of the row's group succeeded"}
