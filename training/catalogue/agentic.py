"""Rows made for many turns: similar states, entropy of steps, updates turn by turn, credit from a pivot on.

Shapes: B rows, T tokens, M trajectories, N turns. All statistics are over the whole batch of a step.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any, Literal

import torch
from torch import Tensor

from ..batch import Batch, segment_mean
from ..coefficients import log_ratio, no_ratio, score_function, sequence_ratio
from ..credit import (
    Credit,
    Rewards,
    StatsUnit,
    group_in_group,
    group_relative,
    needed,
    spread,
    spread_turns,
    unit_stats,
)
from ..parameters import Range
from ..slots import Algorithm, Part

AmplifyRule = Literal["paper", "code"]
RetryBy = Literal["policy", "rule"]
OUTCOMES = ("success", "success_but_inefficient", "failure")
BRACES = 8
"""A text of nothing but braces must not cost time."""

# ---------------------------------------------------------------- states that look alike


def merged_anchors(batch: Batch, similarity: float) -> list[list[str]]:
    """Anchors by row, each replaced by the first of its group, in alphabetical order, that is similar enough to it.

    Similar: 2 * matching characters / all characters >= `similarity` (difflib). Sorting makes the result the same
    whatever the order of rows; observations of different groups are never compared.
    """
    anchors = batch.anchors
    if anchors is None:
        needed(batch, "anchors")
    assert anchors is not None
    groups = batch.group.tolist()
    seen = sorted({(group, text) for group, row in zip(groups, anchors, strict=True) for text in row})
    leaders: dict[int, list[str]] = {}
    chosen: dict[tuple[int, str], str] = {}
    for group, text in seen:
        known = leaders.setdefault(group, [])
        found = next((leader for leader in known if _alike(leader, text, similarity)), None)
        if found is None:
            known.append(text)
        chosen[group, text] = found if found is not None else text
    return [[chosen[group, text] for text in row] for group, row in zip(groups, anchors, strict=True)]


def _alike(leader: str, text: str, similarity: float) -> bool:
    matcher = SequenceMatcher(None, leader, text, autojunk=False)
    if matcher.real_quick_ratio() < similarity or matcher.quick_ratio() < similarity:  # cheap upper bounds
        return False
    return matcher.ratio() >= similarity


def similar_group_in_group(
    batch: Batch,
    rewards: Rewards,
    *,
    anchor_similarity: float = 0.95,
    gamma: float = 0.95,
    omega: float = 1.0,
    normalize: bool = True,
    stats_unit: StatsUnit = "trajectory",
    invalid_penalty: float = 0.1,
) -> Credit:
    """A(turn) = A_episode + omega A_step as in `gigpo`, turns compared whose observations are alike to `similarity`.

    At 1 it is `gigpo`. GiGPO, arXiv 2505.10978.
    """
    merged = dataclasses.replace(batch, anchors=merged_anchors(batch, anchor_similarity))
    return group_in_group(
        merged, rewards, gamma=gamma, omega=omega, normalize=normalize, stats_unit=stats_unit,
        invalid_penalty=invalid_penalty,
    )  # fmt: skip


# ---------------------------------------------------------------- entropy of steps


def entropy_modulated(
    adv_BT: Tensor, batch: Batch, *, empg_k: float = 1.0, empg_k_future: float = 1.0, empg_zeta: float = 0.1
) -> Tensor:
    """A' = A g_t + zeta f_{t+1}, then minus its mean over turns: sure steps count more, clear next states pay a bonus.

    H_t is the mean entropy of turn t's tokens, h_t = (H_t - min) / (max - min + 1e-8) over all turns of the batch,
    g_t = exp(-k h_t) / mean exp(-k h), f_t = exp(-k' h_t); a trajectory's last turn gets no bonus. Detached.
    EMPG, arXiv 2509.09265.
    """
    turns = batch.turns
    index, count = turns.token_BT.flatten(), len(turns.length_N)
    entropy_N = segment_mean(needed(batch, "entropy").flatten(), index, count)
    h_N = (entropy_N - entropy_N.min()) / (entropy_N.max() - entropy_N.min() + 1e-8)
    weight_N, clear_N = torch.exp(-empg_k * h_N), torch.exp(-empg_k_future * h_N)
    bonus_N = torch.zeros_like(h_N)
    follows_N = turns.trajectory_N[1:] == turns.trajectory_N[:-1]
    bonus_N[:-1] = empg_zeta * clear_N[1:] * follows_N
    changed_BT = adv_BT * spread_turns(batch, weight_N / weight_N.mean()) + spread_turns(batch, bonus_N)
    by_turn_N = segment_mean(changed_BT.flatten(), index, count)
    return (changed_BT - by_turn_N.mean()).masked_fill(~batch.mask, 0.0)


# ---------------------------------------------------------------- turn by turn


def standardised(adv_BT: Tensor, batch: Batch, *, standard_clip: float = 3.0) -> Tensor:
    """clip((A - mean) / (std + 1e-6), +-clip) over the trajectories of the batch, std unbiased.

    A is the trajectory's mean advantage. SeeUPO's batch normalisation, arXiv 2602.06554.
    """
    index_BT, count = batch.unit_index("trajectory")
    adv_M = segment_mean(adv_BT.flatten(), index_BT.flatten(), count)
    present_M = torch.bincount(index_BT[batch.mask], minlength=count) > 0
    whole = torch.zeros(int(present_M.sum()), dtype=torch.long, device=adv_M.device)
    mean, std = unit_stats(adv_M[present_M], whole, 1, lone_mean_zero=False)
    return spread(batch, ((adv_M - mean[0]) / (std[0] + 1e-6)).clamp(-standard_clip, standard_clip))


def carried_ratio(adv_BT: Tensor, batch: Batch, *, carry_clip: float | None = 0.2) -> Tensor:
    """M_t = A s_{t+1} s_{t+2} ... s_T: each later turn's ratio after its own update multiplies the advantage.

    s_j = exp(mean over turn j's tokens of (logp_after - logp_old)). With `carry_clip` c each s and each partial product
    are clipped to [1 - c, 1 + c], as the authors' code does; None is the paper's formula. `extras["logp_after"]` holds
    each turn's log-probs right after the update on it; without it every ratio is 1. Keyed by trajectory, so the order
    of rows is of no matter. SeeUPO, arXiv 2602.06554.
    """
    if "logp_after" not in batch.extras:
        return adv_BT
    turns = batch.turns
    moved_BT = log_ratio(batch.extra("logp_after"), batch, "old")
    ratios = segment_mean(moved_BT.flatten(), turns.token_BT.flatten(), len(turns.length_N)).exp().tolist()
    owner = turns.trajectory_N.tolist()
    low, high = (0.0, float("inf")) if carry_clip is None else (1 - carry_clip, 1 + carry_clip)
    product = [1.0] * len(owner)
    for n in range(len(owner) - 2, -1, -1):
        if owner[n] == owner[n + 1]:
            later = min(max(ratios[n + 1], low), high)
            product[n] = min(max(product[n + 1] * later, low), high)
    return adv_BT * spread_turns(batch, torch.tensor(product, dtype=adv_BT.dtype, device=adv_BT.device))


# ---------------------------------------------------------------- from the pivot on


def amplified(
    batch: Batch,
    rewards: Rewards,
    *,
    amplify: float = 3.0,
    amplify_rule: AmplifyRule = "paper",
    correct_at: float = 1.0,
) -> Credit:
    """A = R - mean of the group, then a where R is the best possible, a A where A > 0, A otherwise.

    `amplify_rule="code"` gives 1 instead of a to the best (as the authors' code does). A group in which all
    reached the best return learns from each of them: imitation of successes. R3L (Reflect-then-Retry).
    """
    adv_BT = group_relative(batch, rewards, normalize=False).adv_BT
    best_BT = spread(batch, (rewards.trajectory_M >= correct_at * (1 - 1e-6)).to(adv_BT.dtype)) > 0
    raised_BT = torch.where(adv_BT > 0, amplify * adv_BT, adv_BT)
    top = amplify if amplify_rule == "paper" else 1.0
    return Credit(torch.where(best_BT, top, raised_BT).masked_fill(~batch.mask, 0.0))


def from_pivot(ratio_BT: Tensor, adv_BT: Tensor, logp_BT: Tensor, batch: Batch) -> Tensor:
    """1 from the turn `extras["pivot"]` on, 0 before it: what a retry shares with its base gets no gradient.

    Denominators still count the tokens before the pivot. R3L, pivotal credit.
    """
    return (batch.turn >= batch.extra("pivot")[:, None]).to(ratio_BT.dtype)


# ---------------------------------------------------------------- retries


def retry_plan(
    reflection: str, turn_rewards: Sequence[float], success: bool, *, retry_by: RetryBy = "policy"
) -> dict[str, Any]:
    """{"outcome", "pivot", "advice"}: from which turn an episode is tried again, and with what advice; pivot None: not.

    policy: by the JSON object in `reflection`, which names `trajectory_outcome`, `retry_from_step` within the episode
    and `improvement_suggestion`; a reflection that lacks one of them, or says success, leads to no retry. rule: a
    lost episode from its first turn without a reward, without advice, for policies that cannot write. Unit:
    trajectory. R3L (Reflect-then-Retry); the rule is ours.
    """
    if retry_by == "rule":
        first = next((turn for turn, reward in enumerate(turn_rewards) if reward <= 0), 0)
        return {"outcome": OUTCOMES[0] if success else OUTCOMES[2], "pivot": None if success else first, "advice": ""}
    found = _first_object(reflection)
    outcome, pivot = found.get("trajectory_outcome"), found.get("retry_from_step")
    advice = found.get("improvement_suggestion")
    if outcome not in OUTCOMES:
        return {"outcome": None, "pivot": None, "advice": ""}
    sound = type(pivot) is int and 0 <= pivot < len(turn_rewards) and isinstance(advice, str) and advice.strip()
    if outcome == OUTCOMES[0] or not sound:
        return {"outcome": outcome if outcome == OUTCOMES[0] else None, "pivot": None, "advice": ""}
    return {"outcome": outcome, "pivot": pivot, "advice": " ".join(str(advice).split())}


def _first_object(text: str) -> dict[str, Any]:
    """The JSON object that begins at one of the first `BRACES` opening braces of a text, {} where none does."""
    decoder, start = json.JSONDecoder(), -1
    for _ in range(BRACES):
        start = text.find("{", start + 1)
        if start < 0:
            break
        try:
            return decoder.raw_decode(text, start)[0]
        except (ValueError, RecursionError):
            continue
    return {}


def retry_lessons(
    base: Sequence[float], retry: Sequence[float] | None, outcome: str | None, *, imitate_lessons: bool = True
) -> list[str]:
    """What else of an episode is imitated, as trajectories of reward 1 in groups of their own.

    `base` and `retry` are (1 if it won, turns). Reflection and guided retry where the retry won and the base did not,
    or took more turns; the reflection alone where it rightly said that the base won. Unit: trajectory. R3L.
    """
    if not imitate_lessons:
        return []
    if retry is not None and retry[0] and (not base[0] or retry[1] < base[1]):
        return ["reflection", "retry"]
    return ["reflection"] if base[0] and outcome == OUTCOMES[0] else []


# ---------------------------------------------------------------- rows

ROWS = (
    Algorithm(
        "empg",
        "Harnessing Uncertainty: Entropy-Modulated Policy Gradients (arXiv 2509.09265)",
        "turn",
        group_relative,
        modulators=(entropy_modulated,),
        params={"aggregator": "seq_mean_token_mean"},
        needs=frozenset({"group_complete", "entropy", "batch_stats"}),
        source="k, k' 1 and zeta 0.1: circulating re-implementations (ARLArena: zeta 0.05); the rest as grpo.",
        left_out="Nothing known. The copy in circulation takes min and max over raw token entropies, padding "
        "included, and scales the whole batch by each step's factor; here it is the formula. The bonus is paid "
        "whether or not the trajectory succeeds.",
    ),
    Algorithm(
        "seeupo",
        "SeeUPO: sequence-level sequential update policy optimization (arXiv 2602.06554)",
        "turn",
        group_relative,
        modulators=(standardised, carried_ratio),
        ratio=sequence_ratio,
        params={"normalize": False, "unit": "turn", "aggregator": "seq_mean_token_mean"},
        needs=frozenset({"group_complete", "batch_stats", "unit_complete", "turn_by_turn"}),
        source="Authors' launcher: no std, batch norm clipped at 3, reverse order, GSPO ratio of a turn, one epoch. "
        "clip 0.2: ours, the range of the carried ratio (their KL 0.002 is off until beta is set).",
        left_out="Their code recomputes the old log-probs with parameters already updated, and carries ratios by row "
        "position; here both are the paper's: against the policy that sampled, by trajectory.",
    ),
    Algorithm(
        "r3l",
        "R3L: Reflect-then-Retry reinforcement learning",
        "trajectory",
        amplified,
        ratio=no_ratio,
        stability=score_function,
        guards=(from_pivot,),
        params={"aggregator": "seq_mean_token_mean"},
        needs=frozenset({"group_complete", "pivot"}),
        source="Paper: a 3, no ratio, no clip, no KL.",
        left_out="Reflecting and retrying are the part reflect_retry: set rl.augmentor=reflect_retry, without it every "
        "episode has pivot 0. The code's 1 / (1 + tau) on the loss, its KL and entropy terms, which contradict the "
        "paper.",
    ),
)

PARTS = (
    Part(
        "gigpo_similar", "estimator", similar_group_in_group, "Group-in-Group Policy Optimization (arXiv 2505.10978)",
        "turn", frozenset({"group_complete", "anchors"}),
        source="Authors' code: similarity 0.95; the rest as gigpo.",
        left_out="Their clusters depend on the order of rows; here observations are taken in alphabetical order.",
    ),
    Part("entropy_modulated", "modulators", entropy_modulated, unit="turn",
         needs=frozenset({"entropy", "batch_stats"})),
    Part("standardised", "modulators", standardised, needs=frozenset({"batch_stats"})),
    Part("carried_ratio", "modulators", carried_ratio, unit="turn", needs=frozenset({"turn_by_turn"})),
    Part(
        "reflect_retry", "augmentor", retry_plan, "R3L: Reflect-then-Retry reinforcement learning",
        source="Authors' code: keys of the reflection, half of a group retried, advice as a system message.",
        left_out="In a run: rl.augmentor=reflect_retry, with any row; half of rl.samples_per_task are first attempts. "
        "The policy writes the reflection, reading its episode and the score; retries go back to the turn, are played "
        "with the advice and learned from without it. `retry_lessons` says what is imitated besides. Stopping after "
        "the same action three times.",
    ),
    Part(
        "retry_lessons", "augmentor", retry_lessons, "R3L: Reflect-then-Retry reinforcement learning",
        source="Authors' code.", left_out="In a run: with rl.augmentor=reflect_retry. Nothing known.",
    ),
    Part("amplified", "estimator", amplified, needs=frozenset({"group_complete"})),
    Part("from_pivot", "guards", from_pivot, unit="turn", needs=frozenset({"pivot"})),
)  # fmt: skip

NEEDS = {
    "turn_by_turn": "one update per turn index, the last first, on all trajectories that have the turn",
}

MEANING = {
    "anchor_similarity": "share of matching characters from which two observations count as one state",
    "empg_k": "k: how fast a step's weight falls with its entropy",
    "empg_k_future": "k': how fast the bonus falls with the next step's entropy",
    "empg_zeta": "ζ: bonus for a clear next state",
    "standard_clip": "bound on the standardised advantage",
    "carry_clip": "range of the carried ratio around 1; None: unbounded, as in the paper",
    "amplify": "α: weight of positive advantages",
    "amplify_rule": "what the best return gets: α (paper) or 1 (code)",
    "epo_mean": "what EPO averages entropy over: tokens in turns in trajectories, or all tokens alike",
    "retry_by": "who says from where an episode is retried: the policy's reflection, or a rule without advice",
    "imitate_lessons": "also imitate guided retries that won and the reflections that led there",
    "correct_at": "return from which a trajectory counts as solved",
}
RANGES = {
    "anchor_similarity": Range(0.0, 1.0), "empg_k": Range(0.0), "empg_k_future": Range(0.0), "empg_zeta": Range(0.0),
    "standard_clip": Range(0.0), "carry_clip": Range(0.0, 1.0), "amplify": Range(0.0),
}  # fmt: skip
EXTRAS = {
    "logp_after": "[B, T] log-prob of each turn's tokens right after the update on that turn",
    "pivot": "[B] turn index from which tokens are trained on; 0 trains on all",
}
