"""Which tasks flipped between the last evaluations of two runs, with an episode of each side."""

from __future__ import annotations

from typing import Any, NamedTuple

from ...envs.core import StopReason
from ..evaluation.commands import direction, points
from ..evaluation.gate import decide
from ..evaluation.store import PHASE
from ..run import Run

KINDS = {"f2p": "mended", "p2f": "broken", "p2p": "pass in both", "f2f": "fail in both", "undecided": "undecided"}


class Evaluated(NamedTuple):
    """The last held-out evaluation of a run."""

    step: int
    outcomes: dict[str, list[bool]]
    episodes: dict[tuple[str, bool], int]
    """(task, outcome) -> its first episode."""


def last_evaluation(run: Run) -> Evaluated | None:
    """None where the run holds none."""
    step = run.db.execute("SELECT MAX(step) FROM episodes WHERE phase = ?", (PHASE,)).fetchone()[0]
    if step is None:
        return None
    outcomes: dict[str, list[bool]] = {}
    episodes: dict[tuple[str, bool], int] = {}
    query = "SELECT id, task, success, stop FROM episodes WHERE step = ? AND phase = ? ORDER BY id"
    for id, task, success, stop in run.db.execute(query, (step, PHASE)):
        if not StopReason(stop).is_error:
            outcomes.setdefault(task, []).append(bool(success))
            episodes.setdefault((task, bool(success)), id)
    return Evaluated(step, outcomes, episodes)


def flip_map(base: Evaluated, candidate: Evaluated) -> dict[str, Any] | None:
    """Difference, exact McNemar p and tasks by what became of them; None where they share no task.

    Each task comes with the first episode of the verdict on each side; an undecided one with any.
    """
    if not set(base.outcomes) & set(candidate.outcomes):
        return None
    decision = decide(base.outcomes, candidate.outcomes)
    verdicts = {"f2p": (False, True), "p2f": (True, False), "p2p": (True, True), "f2f": (False, False)}
    kinds = []
    for kind, keys in decision.flips._asdict().items():
        won = verdicts.get(kind)
        rows = [
            {"task": key, "base": _of(base, key, won and won[0]), "candidate": _of(candidate, key, won and won[1])}
            for key in keys
        ]
        kinds.append({"kind": kind, "title": KINDS[kind], "rows": rows})
    d = decision.difference
    return {
        "difference": points(d), "verdict": direction(d), "tasks": d.tasks, "p": decision.p_value,
        "kinds": sorted(kinds, key=lambda k: list(KINDS).index(k["kind"])),
        "tone": "good" if d.low > 0 else "bad" if d.high < 0 else "",
    }  # fmt: skip


def _of(side: Evaluated, task: str, won: bool | None) -> int | None:
    outcomes = (True, False) if won is None else (won,)
    return next((side.episodes[task, o] for o in outcomes if (task, o) in side.episodes), None)
