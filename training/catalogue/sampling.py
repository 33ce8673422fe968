"""The collect side: which tasks are played, how often, with what help, against which reference.

Pure functions on plain numbers, texts and state dicts; `training.sampler` puts them to use in a run.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

from ...envs.errors import RequestError
from ..parameters import Range
from ..slots import Part

# ---------------------------------------------------------------- which tasks


def variance_aware(
    pass_rate: Sequence[float],
    diversity: Sequence[float],
    *,
    vas_alpha: float = 0.5,
    vas_beta: float = 0.5,
    vas_share: float = 0.5,
) -> dict[str, list[float]]:
    """VPS_i = alpha P_i (1 - P_i) + beta D_i, probabilities VPS / sum VPS (even where all are 0), and what is drawn by.

    P is a task's pass rate, D the diversity of its trajectories in [0, 1]. `mixture` = share VPS / sum VPS +
    (1 - share) / n. `learnability` is the code's P (1 - P), scaled to [0, 1] by its least and largest. Unit: task.
    MMR1, arXiv 2509.21268.
    """
    if not pass_rate or len(pass_rate) != len(diversity):
        raise RequestError(
            f"Expected as many diversities as pass rates, at least one, got {len(diversity)} and {len(pass_rate)}."
        )
    variance = [p * (1 - p) for p in pass_rate]
    score = [vas_alpha * v + vas_beta * d for v, d in zip(variance, diversity, strict=True)]
    total, low, high = sum(score), min(variance), max(variance)
    even = 1 / len(score)
    probability = [s / total if total > 0 else even for s in score]
    return {
        "score": score,
        "probability": probability,
        "mixture": [vas_share * p + (1 - vas_share) * even for p in probability],
        "learnability": [(v - low) / (high - low) if high > low else 0.0 for v in variance],
    }


def distinct_ngrams(texts: Sequence[str], n: int = 2) -> float:
    """Distinct n-grams of words over all of them, in [0, 1]: the diversity of a task's trajectories (distinct-n)."""
    grams = [tuple(words[i : i + n]) for words in (text.split() for text in texts) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def one_example(tasks: Sequence[Any], count: int, *, one_shot_index: int = 0) -> list[Any]:
    """The same task `count` times: a whole step learns from one example. Unit: task. 1-shot RLVR, arXiv 2504.20571."""
    if not 0 <= one_shot_index < len(tasks):
        raise RequestError(f"Expected one_shot_index below {len(tasks)}, the number of tasks, got {one_shot_index}.")
    return [tasks[one_shot_index]] * count


# ---------------------------------------------------------------- how often


def knapsack_value(samples: int, p: float) -> float:
    """(1 - p^N - (1 - p)^N) p (1 - p)^2: chance that N samples differ, times what that teaches. Knapsack RL."""
    return (1 - p**samples - (1 - p) ** samples) * p * (1 - p) ** 2


def knapsack(
    pass_rate: Sequence[float], *, budget_total: int | None = None, budget_low: int = 2, budget_high: int = 128
) -> dict[str, Any]:
    """Samples per task, `low` to `high` each, that maximise sum_i Value(N_i, p_i) with sum N <= total; and that value.

    Value is concave in N - each further sample adds (p^N (1 - p) + (1 - p)^N p) p (1 - p)^2 - so giving them out one
    by one to the largest gain is the optimum of the dynamic programme. What is left goes evenly to tasks never won
    (p = 0); those always won get `low`. Without a total: 8 per task. Unit: task. Knapsack RL, arXiv 2509.25849.
    """
    count = len(pass_rate)
    total = 8 * count if budget_total is None else budget_total
    if not 1 <= budget_low <= budget_high or not all(0 <= p <= 1 for p in pass_rate):
        raise RequestError("Expected 1 <= budget_low <= budget_high and pass rates in [0, 1].")
    if total < budget_low * count:
        raise RequestError(f"Expected budget_total >= {budget_low * count} for {count} tasks, got {total}.")
    samples, left = [budget_low] * count, total - budget_low * count
    heap = [(-_gain(budget_low, p), i) for i, p in enumerate(pass_rate) if 0 < p < 1 and budget_low < budget_high]
    heapq.heapify(heap)
    while left and heap:
        _, i = heapq.heappop(heap)
        samples[i], left = samples[i] + 1, left - 1
        if samples[i] < budget_high:
            heapq.heappush(heap, (-_gain(samples[i], pass_rate[i]), i))
    hopeless = [i for i, p in enumerate(pass_rate) if p == 0]
    while left and (open_ := [i for i in hopeless if samples[i] < budget_high]):
        for i in open_[:left]:
            samples[i], left = samples[i] + 1, left - 1
    return {"samples": samples, "value": sum(knapsack_value(n, p) for n, p in zip(samples, pass_rate, strict=True))}


def _gain(samples: int, p: float) -> float:
    return (p**samples * (1 - p) + (1 - p) ** samples * p) * p * (1 - p) ** 2


# ---------------------------------------------------------------- with what help


def hints(solution: str, rewards: Sequence[float], *, hint_share: float = 0.25, hint_levels: int = 3) -> list[str]:
    """First 25, 50, 75 % of the solution's characters, to be tried in order where no rollout of a group won; else none.

    The group is played again with the first hint that lets one win. Won is a reward above 0. Unit: task. GHPO.
    """
    if any(reward > 0 for reward in rewards):
        return []
    return [solution[: math.ceil(len(solution) * min(1.0, hint_share * k) - 1e-9)] for k in range(1, hint_levels + 1)]


def hint_level(
    level: int, rewards: Sequence[float], *, hint_min: float = 0.0, hint_max: float = 0.35, hint_levels: int = 3
) -> dict[str, Any]:
    """The task's hint level for its next visit, and the levels to try at once for a group of which none won.

    Up where accuracy (share of rewards above 0) <= min, down where > max, within 0 .. `hint_levels`. Attempts are 1,
    2, ... for a dead group, none where one won. Unit: task. SAGE and its light variant, code: BaohaoLiao/SAGE.
    """
    if not rewards:
        raise RequestError("Expected the rewards of a group, got none.")
    accuracy = sum(reward > 0 for reward in rewards) / len(rewards)
    moved = level + 1 if accuracy <= hint_min else level - 1 if accuracy > hint_max else level
    attempts = [] if accuracy > 0 else list(range(1, hint_levels + 1))
    return {"level": min(hint_levels, max(0, moved)), "attempts": attempts}


# ---------------------------------------------------------------- curriculum


def stages(sizes: Sequence[float], *, stage_bounds: Sequence[float] = (3.0, 8.0)) -> list[int]:
    """Stage of each task by its size, such as the steps of its solution: the number of bounds below it.

    Stages are trained in order, small before large. Unit: task. CRAFT-GUI (bounds are illustrative).
    """
    if list(stage_bounds) != sorted(stage_bounds):
        raise RequestError(f"Expected stage_bounds in ascending order, got {list(stage_bounds)}.")
    return [bisect_left(stage_bounds, size) for size in sizes]


def horizon(
    step: int, *, horizon_first: int = 5, horizon_add: int = 5, horizon_every: int = 100, horizon_last: int = 50
) -> int:
    """Turns allowed at an RL step (from 0): min(last, first + add floor(step / every)).

    Short interactions first, longer ones once those are learned. ScalingInter-RL, arXiv 2509.08755.
    """
    return min(horizon_last, horizon_first + horizon_add * (step // horizon_every))


# ---------------------------------------------------------------- reference


def soup(first: Mapping[str, Any], second: Mapping[str, Any], *, soup_share: float = 0.5) -> dict[str, Any]:
    """theta = a theta_1 + (1 - a) theta_2, entry by entry (tensors or lists of numbers), of one shape. SALSA.

    The KL of the reward is then against a reference in the middle of two fine-tuned models. arXiv 2411.01798.
    """
    if first.keys() != second.keys():
        raise RequestError(f"Expected the same entries, got {sorted(first.keys() ^ second.keys())[:3]} in one only.")
    return {name: _mixed(value, second[name], soup_share, name) for name, value in first.items()}


def _mixed(one: Any, two: Any, share: float, name: str) -> Any:
    if isinstance(one, (list, tuple)):
        if not isinstance(two, (list, tuple)) or len(one) != len(two):
            raise RequestError(f"Expected {name} of one shape in both.")
        return [_mixed(a, b, share, name) for a, b in zip(one, two, strict=True)]
    if getattr(one, "shape", None) != getattr(two, "shape", None):
        raise RequestError(f"Expected {name} of one shape in both, got {list(one.shape)} and {list(two.shape)}.")
    return share * one + (1 - share) * two


# ---------------------------------------------------------------- parts

ROWS = ()
PARTS = (
    Part(
        "mmr1_vas", "sampler", variance_aware, "MMR1: variance-aware sampling (arXiv 2509.21268)",
        source="Paper: alpha = beta = 0.5 (best in its ablation: 0.8, 0.2), half of a batch drawn by it, refreshed "
        "every 28 steps.",
        left_out="In a run (rl.sampler=mmr1_vas) pass rates and distinct-2 of the actions are those of a task's last "
        "visit, not of rollouts made for the estimate; a task never played counts as P 0.5, D 1. rl.sampler_every is "
        "the refresh; tasks are drawn without replacement.",
    ),
    Part(
        "one_shot", "sampler", one_example, "RL for reasoning with one training example (arXiv 2504.20571)",
        source="Paper: one example repeated to the batch size.", left_out="How the paper picks the example.",
    ),
    Part(
        "knapsack", "budget", knapsack, "Knapsack RL: budget allocation (arXiv 2509.25849)", status="formula only",
        source="Two re-implementations and a survey: 2 to 128 samples, 8 per task in all.",
        left_out="The rules for p = 0 and p = 1 are a survey's. In a run (rl.budget=knapsack) p is of the last visit; "
        "a task never played counts as 0.5.",
    ),
    Part(
        "ghpo", "augmentor", hints, "GHPO: guided hybrid policy optimization (code: hkgc-1/GHPO)",
        source="Authors' code: 25, 50, 75 % of the solution's characters.",
        left_out="In a run (rl.augmentor=ghpo) the solution is the expert's list of actions.",
    ),
    Part(
        "sage", "augmentor", hint_level, "SAGE: self-hints (code: BaohaoLiao/SAGE)",
        source="Authors' code: levels 3, min 0 (run script: 0.1), max 0.35.",
        left_out="The policy writing the hints itself from a reference solution: a run has no such prompt, so this is "
        "the controller of levels only.",
    ),
    Part(
        "craft_gui", "curriculum", stages, "CRAFT-GUI: curriculum by trajectory length (abstract)",
        status="formula only", source="Bounds are illustrative: the abstract gives none.",
        left_out="Its judge; a mixed reward is reward_weights. In a run, stages are env.curriculum.",
    ),
    Part(
        "scaling_inter", "curriculum", horizon, "AgentGym-RL, ScalingInter-RL (arXiv 2509.08755)",
        status="formula only", source="Numbers are ours.",
        left_out="In a run: rl.horizon.",
    ),
    Part(
        "salsa", "reference", soup, "SALSA: soup-based alignment learning (arXiv 2411.01798)", status="formula only",
        source="Abstract and a review: the midpoint. The KL coefficient could not be checked.",
        left_out="In a run: rl.reference_soup names the second fine-tuned checkpoint.",
    ),
)  # fmt: skip
MEANING = {
    "vas_alpha": "α: weight of the variance of the outcome",
    "vas_beta": "β: weight of the diversity of trajectories",
    "vas_share": "λ: share of a step drawn by that weight; the rest evenly",
    "one_shot_index": "which task of the stage is the one example",
    "budget_total": "samples of a step in all; None: 8 per task",
    "budget_low": "least samples of a task",
    "budget_high": "most samples of a task",
    "hint_share": "share of the solution that each level shows more",
    "hint_levels": "number of hint levels",
    "hint_min": "accuracy up to which a task gets more help",
    "hint_max": "accuracy above which it gets less",
    "stage_bounds": "largest size of each stage but the last",
    "horizon_first": "turns at the first step",
    "horizon_add": "turns more at each growth",
    "horizon_every": "steps between growths",
    "horizon_last": "most turns",
    "soup_share": "a: share of the first model",
}
RANGES = {
    "vas_alpha": Range(0.0), "vas_beta": Range(0.0), "vas_share": Range(0.0, 1.0), "one_shot_index": Range(0),
    "budget_total": Range(1), "budget_low": Range(1), "budget_high": Range(1), "hint_share": Range(0.0, 1.0),
    "hint_levels": Range(1), "hint_min": Range(0.0, 1.0), "hint_max": Range(0.0, 1.0), "horizon_first": Range(1),
    "horizon_add": Range(0), "horizon_every": Range(1), "horizon_last": Range(1), "soup_share": Range(0.0, 1.0),
}  # fmt: skip
