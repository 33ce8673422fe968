"""Stored episodes graded anew: their actions replayed in the environment as it is now, or by a grader of your own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...agents.agent import ReplayAgent
from ...agents.rollout import Episode, Limits, Pool, play
from ...agents.trajectory import Trajectory
from ...envs.core import StopReason
from ...envs.errors import RequestError
from ..run import Run, environment_card
from ..terminal import finite
from .episodes import Evaluation, summarise
from .store import PHASE, last_step

REPLAY = "replay"
Grader = Callable[[Trajectory], bool | float]
"""Success, or a share of the largest score of which 1 is success."""


def stored(folder: Path) -> tuple[list[Trajectory], dict[str, Any]]:
    """The episodes of the folder's last evaluation, and what its card says of it."""
    run = Run.open(folder)
    try:
        step = last_step(run, folder)
        about = run.card.get("evaluation") or {"target": str(folder)}
        return list(run.trajectories(step, PHASE)), {**about, "step": step}
    finally:
        run.close()


def by_grader(played: Sequence[Trajectory], grader: Grader) -> list[Trajectory]:
    """The episodes with the grader's success and score; those that an environment or engine broke stay as they are."""
    return [t if t.stop.is_error else _graded(t, grader(t)) for t in played]


async def by_replay(played: Sequence[Trajectory], pool: Pool) -> list[Trajectory]:
    """The episodes with what the environment says now to the same actions."""
    found = []
    for index, t in enumerate(played):
        if t.stop.is_error:
            found.append(t)
            continue
        agent = ReplayAgent([turn.action for turn in t.turns])
        limits = Limits(invalid_actions=len(t.turns) + 1)
        again = await play(agent, Episode(t.task, t.group, t.copy_index, t.seed), pool, limits, name=f"again-{index}")
        # Out of actions without an end of the game: what ended the episode then was a limit of its own, which holds.
        stop = t.stop if again.stop is StopReason.ABORTED and t.stop.is_truncated else again.stop
        update = {"success": again.success, "score": again.score, "max_score": again.max_score, "stop": stop}
        found.append(t.model_copy(update={**update, "error": again.error}))
    return found


def rescored(
    before: Sequence[Trajectory], after: Sequence[Trajectory], about: Mapping[str, Any], out: Path | None
) -> tuple[Evaluation, list[str]]:
    """(the evaluation, keys of tasks that are judged otherwise); with `out`, kept there as an evaluation of its own."""
    trials = max(t.copy_index for t in after) + 1
    result = summarise(after, trials)
    changed = sorted({new.task.key for old, new in zip(before, after, strict=True) if old.success != new.success})
    if out is not None:
        run = Run.create(out, {"evaluation": dict(about), **environment_card()})
        run.record(0, PHASE, {}, after)
        run.finish(finite(result.to_json()))
        run.close()
    return result, changed


def _graded(t: Trajectory, verdict: bool | float) -> Trajectory:
    share = float(verdict)
    if not 0.0 <= share <= 1.0:
        raise RequestError(f"Expected a grader to answer True, False or a share from 0 to 1, got {verdict!r}.")
    success = share == 1.0
    stop = t.stop
    if success:
        stop = StopReason.SUCCESS
    elif stop is StopReason.SUCCESS:
        stop = StopReason.FAILURE
    return t.model_copy(update={"success": success, "score": share * t.max_score, "stop": stop})
