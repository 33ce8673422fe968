"""How episodes went, beside whether they were won: steps, waste, tools, revisions, where runs of a task part ways.

Sources: OTC (arXiv 2504.14870) for tool productivity; the strategic-games evaluation for revisions (rounds in which a
plan may be revised under a budget); On Randomness in Agentic Evals for divergence.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from statistics import median
from typing import NamedTuple

import numpy as np

from ...agents.trajectory import Trajectory
from ..diagnostics import repeated_actions

NAN = float("nan")


class Process(NamedTuple):
    """Means over episodes that the agent could have won; NaN where nothing says it."""

    turns_to_success: float
    """Turns of the episodes that were won."""
    invalid: float
    """Share of turns whose action could not be parsed."""
    inadmissible: float
    """Share of turns whose action was parsed but not possible."""
    repeated: float
    """Share of turns whose (observation, action) occurred earlier in the episode."""
    tool_productivity: float
    """Episodes won per tool call."""
    diverged_turn: float
    """Median over pairs of runs of one task: first turn with another action."""
    diverged_tokens: float
    """Median over the same pairs: first token that differs, as a share of the shorter run's tokens."""


def of_episodes(played: Sequence[Trajectory]) -> Process:
    """The process metrics of an evaluation; episodes that an environment or engine broke are left out."""
    sound = [t for t in played if not t.stop.is_error and t.turns]
    won = [t for t in sound if t.success]
    turns = sum(len(t.turns) for t in sound)
    invalid = sum(not turn.valid for t in sound for turn in t.turns)
    impossible = sum(turn.valid and not turn.admissible for t in sound for turn in t.turns)
    calls = sum(turn.counts.get("tool_calls", 0.0) for t in sound for turn in t.turns)
    pairs = [pair for runs in _by_task(sound) for pair in combinations(runs, 2)]  # of (actions, tokens)
    return Process(
        sum(len(t.turns) for t in won) / len(won) if won else NAN,
        invalid / turns if turns else NAN,
        impossible / turns if turns else NAN,
        repeated_actions([[(turn.anchor, turn.action) for turn in t.turns] for t in sound]) if sound else NAN,
        len(won) / calls if calls else NAN,
        median([first_difference(a, b) for (a, _), (b, _) in pairs]) if pairs else NAN,
        median([divergence(a, b) for (_, a), (_, b) in pairs]) if pairs else NAN,
    )


def first_difference(a: Sequence[object], b: Sequence[object]) -> int:
    """Index of the first entry that differs; the shorter length where one begins like the other."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def divergence(a: Sequence[int], b: Sequence[int]) -> float:
    """First differing token index as a share of the shorter run; 1 where one run begins like the other, NaN without."""
    shorter = min(len(a), len(b))
    return first_difference(a, b) / shorter if shorter else NAN


# ---- rounds with revisions and budgets ------------------------------------------------------------------


class Round(NamedTuple):
    """One round of a match: its outcome (win 0 or 1, or a score), whether a plan was revised, what was spent."""

    outcome: float
    offered: bool = True
    """A revision of the plan was possible before this round."""
    revised: bool = False
    improved: bool = False
    """The outcome after the revision is better than before it."""
    spent: float = 0.0
    budget: float = float("inf")


def over_correction(rounds: Sequence[Round]) -> float:
    """Over-correction risk rate: revised rounds / rounds in which a revision was offered."""
    offered = [r for r in rounds if r.offered]
    return sum(r.revised for r in offered) / len(offered) if offered else NAN


def correction_success(rounds: Sequence[Round]) -> float:
    """Revisions after which the outcome improved / revisions."""
    revised = [r for r in rounds if r.revised]
    return sum(r.improved for r in revised) / len(revised) if revised else NAN


def improvement_slope(outcomes: Sequence[float]) -> float:
    """Least-squares slope of a round's outcome on its index, per round."""
    if len(outcomes) < 2:
        return NAN
    return float(np.polyfit(np.arange(len(outcomes)), np.asarray(outcomes, float), 1)[0])


def over_budget(rounds: Sequence[Round]) -> float:
    """Rounds that spent more than their budget / rounds."""
    return sum(r.spent > r.budget for r in rounds) / len(rounds) if rounds else NAN


class Abstention(NamedTuple):
    """How well an agent knows when not to answer."""

    precision: float
    """Of the abstentions, those where no answer could be given."""
    recall: float
    """Of the tasks without an answer, those that were left unanswered."""


def abstention(abstained: Sequence[bool], answerable: Sequence[bool]) -> Abstention:
    """Precision and recall of abstaining, one entry per episode."""
    right = sum(a and not b for a, b in zip(abstained, answerable, strict=True))
    said, due = sum(abstained), sum(not b for b in answerable)
    return Abstention(right / said if said else NAN, right / due if due else NAN)


def _by_task(played: Sequence[Trajectory]) -> list[list[tuple[list[str], list[int]]]]:
    """Actions and tokens of each run, task by task."""
    found: dict[str, list[tuple[list[str], list[int]]]] = {}
    for t in played:
        tokens = [token for turn in t.turns if turn.output for token in turn.output.ids]
        found.setdefault(t.task.key, []).append(([turn.action for turn in t.turns], tokens))
    return list(found.values())
