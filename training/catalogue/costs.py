"""What a call costs: rewards that shrink with tool use, modes that must earn their price, earlier calls.

Shapes: B rows, T tokens, M trajectories, G groups. A transform is `(rewards, batch, *, ...) -> rewards`; it multiplies
both views of the rewards by one factor per trajectory, so that a wrong answer (reward 0) stays at 0.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ...agents.context import Mode
from ..batch import Batch, segment_mean
from ..credit import Rewards, scaled
from ..parameters import Range
from ..regularizers import State
from ..slots import Part

OTCVariant = Literal["grpo", "ppo"]
MODE_NAMES: tuple[str, ...] = get_args(Mode)
MashPenalty = Literal["exp", "otc", "otc_strict", "linear"]

# ---------------------------------------------------------------- factors by number of calls


def tool_productivity(calls_M: Tensor, fewest_M: Tensor, max_calls: float) -> Tensor:
    """sin(f pi / 2n), f = 2 n m / (m + n); where n = 0, cos(m pi / (2 m + c)). m calls, n fewest, c most allowed.

    1 at m = n and falling beyond it. OTC-GRPO, arXiv 2504.14870.
    """
    mixed_M = 2 * fewest_M * calls_M / (calls_M + fewest_M).clamp(min=1)
    above_M = torch.sin(mixed_M * math.pi / (2 * fewest_M.clamp(min=1)))
    return torch.where(fewest_M == 0, call_decay(calls_M, max_calls), above_M)


def call_decay(calls_M: Tensor, max_calls: float) -> Tensor:
    """cos(m pi / (2 m + c)): 1 without a call, falling to 0. OTC-PPO, arXiv 2504.14870."""
    return torch.cos(calls_M * math.pi / (2 * calls_M + max_calls))


def search_penalty(calls_M: Tensor, fewest_M: Tensor, kind: MashPenalty, decay: float, max_calls: float) -> Tensor:
    """exp lambda^(s - n) | otc | otc_strict: at n = 0 only s = 0 pays | linear max(1 - s / (max + 1), 0).

    s searches, n fewest; s < n, which only a wrong answer can have, counts as s = n in `exp`. MASH, arXiv 2510.01152.
    """
    if kind == "exp":
        return decay ** (calls_M - fewest_M).clamp(min=0.0)
    if kind == "linear":
        return (1 - calls_M / (max_calls + 1)).clamp(min=0.0)
    factor_M = tool_productivity(calls_M, fewest_M, max_calls)
    if kind == "otc_strict":
        return torch.where(fewest_M == 0, (calls_M == 0).to(factor_M.dtype), factor_M)
    return factor_M


# ---------------------------------------------------------------- transforms


def optimal_tool_calls(
    rewards: Rewards,
    batch: Batch,
    *,
    otc_variant: OTCVariant = "grpo",
    otc_max_calls: int = 4,
    otc_alpha: float = 1.0,
    correct_at: float = 1.0,
) -> Rewards:
    """R' = alpha R r_tool: the solved trajectory with the fewest calls of its question keeps the most.

    r_tool is `tool_productivity` (variant grpo, n over the solved of the group and `state["fewest_calls"]`) or
    `call_decay` (variant ppo). A question never solved keeps factor 1. Unit: trajectory. OTC, arXiv 2504.14870.
    """
    calls_M = _calls(batch)
    if otc_variant == "ppo":
        return scaled(rewards, batch, otc_alpha * call_decay(calls_M, otc_max_calls))
    fewest_M = fewest_by_trajectory(batch, rewards, correct_at)
    known_M = fewest_M.isfinite()
    factor_M = tool_productivity(calls_M, torch.where(known_M, fewest_M, 0.0), otc_max_calls)
    return scaled(rewards, batch, otc_alpha * torch.where(known_M, factor_M, 1.0))


def pay_per_search(
    rewards: Rewards,
    batch: Batch,
    *,
    mash_penalty: MashPenalty = "exp",
    mash_lambda: float = 0.7,
    mash_max_calls: int = 5,
    correct_at: float = 1.0,
) -> Rewards:
    """R' = R penalty(s): searches cost, so that wanting to search can later be read as abstaining.

    `search_penalty` with n over the solved of the group and of earlier steps (`state["fewest_calls"]`). Unit:
    trajectory. MASH, arXiv 2510.01152.
    """
    calls_M, fewest_M = _calls(batch), fewest_by_trajectory(batch, rewards, correct_at)
    known_M = fewest_M.isfinite()
    factor_M = search_penalty(calls_M, torch.where(known_M, fewest_M, 0.0), mash_penalty, mash_lambda, mash_max_calls)
    return scaled(rewards, batch, torch.where(known_M, factor_M, 1.0))


def adaptive_mode(
    rewards: Rewards, batch: Batch, *, mode_power: float = 2.0, easy_at: float = 0.0, correct_at: float = 1.0
) -> Rewards:
    """R' = R (1 - p^alpha) where a mode other than instant was chosen freely on an easy question, else R.

    p is the share solved among the question's forced instant rollouts; a question is easy from p = `easy_at` on. Forced
    rollouts never change; a free one that names no mode has the format wrong and gets 0. Unit: trajectory. A2FM's
    adaptive policy optimization.
    """
    traj = batch.trajectories
    mode_M, forced_M = (batch.extra(name)[traj.first_row_M] for name in ("mode", "forced"))
    solved_M = _solved(rewards, correct_at).to(rewards.trajectory_M.dtype)
    instant_M = torch.where((mode_M == 0) & (forced_M != 0), traj.group_M, -1)
    p_M = segment_mean(solved_M, instant_M, traj.groups)[traj.group_M]
    free_M = forced_M == 0
    factor_M = torch.where(free_M & (mode_M > 0) & (p_M >= easy_at), 1 - p_M**mode_power, 1.0)
    return scaled(rewards, batch, torch.where(free_M & (mode_M < 0), 0.0, factor_M))


def forced_modes(copies: int, *, forced_per_mode: int = 3) -> list[str]:
    """The mode that each copy of a group is given, "" where it chooses: `forced_per_mode` of each of the three first.

    Unit: group. A2FM's adaptive policy optimization.
    """
    given = [mode for mode in MODE_NAMES for _ in range(forced_per_mode)]
    return [*given, *[""] * copies][:copies]


def fewest_by_trajectory(batch: Batch, rewards: Rewards, correct_at: float) -> Tensor:
    """[M] fewest calls of a solved trajectory of the same group, or of its task in earlier steps; inf where none."""
    traj, calls_M = batch.trajectories, _calls(batch)
    solved_M = _solved(rewards, correct_at)
    best_G = torch.full((traj.groups,), torch.inf, dtype=calls_M.dtype, device=calls_M.device)
    best_G = best_G.scatter_reduce(0, traj.group_M[solved_M], calls_M[solved_M], "amin")
    past = batch.state.get("fewest_calls", {})
    if batch.task is not None and past:
        keys = [batch.task[row] for row in traj.first_row_M.tolist()]
        known = [float(past.get(key, math.inf)) for key in keys]
        return torch.minimum(best_G[traj.group_M], torch.tensor(known, dtype=calls_M.dtype, device=calls_M.device))
    return best_G[traj.group_M]


def fewest_calls(state: State, batch: Batch, rewards: Rewards, *, correct_at: float = 1.0) -> dict[str, Any]:
    """state["fewest_calls"][task] = least calls that ever solved it; a number only falls. OTC and MASH."""
    past = dict(state.get("fewest_calls", {}))
    if batch.task is None:
        return {"fewest_calls": past}
    solved = _solved(rewards, correct_at).tolist()
    for row, calls, won in zip(batch.trajectories.first_row_M.tolist(), _calls(batch).tolist(), solved, strict=True):
        if won:
            past[batch.task[row]] = min(past.get(batch.task[row], math.inf), calls)
    return {"fewest_calls": past}


# ---------------------------------------------------------------- earlier calls


def earlier_calls(adv_BT: Tensor, batch: Batch, *, aspo_delta: float = -2.0, aspo_bound: float = 0.7) -> Tensor:
    """A' = A + clip(delta (p - mean p) / mean L, +-k |A|) for solved trajectories that call; the sign stays.

    p is the action token of the first call (`extras["first_call"]`, below 0: none), L the action tokens of the
    trajectory, both averaged over those trajectories of the group. Solved is A > 0, which with rewards of 0 and 1 is
    the same where the group is mixed; elsewhere A = 0 stays 0. Unit: trajectory. ASPO.
    """
    index_BT, count = batch.unit_index("trajectory")
    traj, first_M = batch.trajectories, batch.extra("first_call")[batch.trajectories.first_row_M].to(adv_BT.dtype)
    adv_M = segment_mean(adv_BT.flatten(), index_BT.flatten(), count)
    length_M = batch.packed.mask_ML.sum(1).to(adv_BT.dtype)
    subset_M = torch.where((adv_M > 0) & (first_M >= 0), traj.group_M, -1)
    mean_p_M, mean_length_M = (segment_mean(x, subset_M, traj.groups)[traj.group_M] for x in (first_M, length_M))
    bonus_M = aspo_delta * (first_M - mean_p_M) / mean_length_M.clamp(min=1)
    bonus_BT = (bonus_M * (subset_M >= 0))[traj.row_B][:, None]
    bound_BT = aspo_bound * adv_BT.abs()
    return adv_BT + torch.minimum(torch.maximum(bonus_BT, -bound_BT), bound_BT)


# ---------------------------------------------------------------- helpers


def _calls(batch: Batch) -> Tensor:
    return batch.extra("tool_calls")[batch.trajectories.first_row_M].to(batch.rewards.dtype)


def _solved(rewards: Rewards, correct_at: float) -> Tensor:
    return rewards.trajectory_M >= correct_at * (1 - 1e-6)  # sums of progress in float32


# ---------------------------------------------------------------- parts

_CALLS = frozenset({"group_complete", "tool_calls"})

PARTS = (
    Part(
        "otc", "transforms", optimal_tool_calls, "OTC: optimal tool calls by RL (arXiv 2504.14870)",
        needs=_CALLS, source="Paper: alpha 1. c 4: its examples.",
        left_out="The minimum over the whole of training is kept only with controllers=fewest_calls.",
    ),
    Part(
        "mash", "transforms", pay_per_search, "MASH: pay-per-search models are abstention models (arXiv 2510.01152)",
        needs=_CALLS, source="Authors' code: exp, lambda 0.7 (0.5 on NQ, 0.8 on HotpotQA), at most 5 searches.",
        left_out="Removing the tool at test time; synthetic warm start; the past minimum needs "
        "controllers=fewest_calls. Their otc gives 1 instead of 0 at s = 0 < n, which no solved rollout can have.",
    ),
    Part(
        "a2fm_apo", "transforms", adaptive_mode, "A2FM: adaptive agent foundation model, adaptive policy optimization",
        needs=frozenset({"group_complete", "mode", "forced"}),
        source="Secondary notes: alpha 2, 3 forced rollouts per mode.",
        left_out="How accuracy, format and this factor combine is not published (product here), nor when a "
        "question is easy. In a run: rl.augmentor=a2fm and context.modes; what a mode means is for the system message "
        "and the policy, here it is the word that the first answer opens with.",
        status="formula only",
    ),
    Part(
        "forced_modes", "augmentor", forced_modes,
        "A2FM: adaptive agent foundation model, adaptive policy optimization",
        source="Secondary notes: 3 forced rollouts per mode and 3 free ones.",
        left_out="In a run: rl.augmentor=a2fm gives the mode's word as the opening of the first answer, which is not "
        "trained on.",
        status="formula only",
    ),
    Part(
        "fewest_calls", "controllers", fewest_calls, "OTC (arXiv 2504.14870), MASH (arXiv 2510.01152)",
        needs=frozenset({"tool_calls"}), source="Both papers keep the minimum per question.", left_out="Nothing known.",
    ),
    Part(
        "aspo", "modulators", earlier_calls, "Understanding Tool-Integrated Reasoning, ASPO",
        needs=frozenset({"group_complete", "first_call"}),
        source="Authors' recipe: delta -2, k 0.7; the paper also has (-1.5, 0.7) and (-2, 0.9).",
        left_out="Nothing known. In a run, the first call is the first turn whose action could be parsed.",
    ),
)  # fmt: skip
ROWS = ()

MEANING = {
    "otc_variant": "factor of OTC-GRPO (against the fewest calls) or OTC-PPO (by calls alone)",
    "otc_max_calls": "c: most calls allowed",
    "otc_alpha": "α: weight of the product",
    "mash_penalty": "how searches beyond the fewest cost",
    "mash_lambda": "λ: factor per further search",
    "mash_max_calls": "most searches allowed",
    "mode_power": "α: how fast the reward falls with how easy the question is",
    "forced_per_mode": "ρ: episodes of a group that are given each mode",
    "easy_at": "share of forced instant successes from which a question is easy",
    "aspo_delta": "δ: advantage per answer length that the first call comes later; negative rewards early calls",
    "aspo_bound": "k: largest change in units of the advantage",
}
RANGES = {
    "otc_max_calls": Range(1), "otc_alpha": Range(0.0), "mash_lambda": Range(0.0, 1.0), "mash_max_calls": Range(0),
    "forced_per_mode": Range(1), "mode_power": Range(0.0), "easy_at": Range(0.0, 1.0), "aspo_bound": Range(0.0, 1.0),
}  # fmt: skip
EXTRAS = {
    "mode": "[B] mode the episode used: 0 instant, 1 reasoning, 2 agentic, -1 named none",
    "forced": "[B] 1 where the mode was forced",
    "first_call": "[B] action tokens of the trajectory before its first call ends; below 0: no call",
}
