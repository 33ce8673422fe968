"""Evaluations on disk: a folder like a run's, written while it is played, so that a killed one goes on."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from ...agents.trajectory import Trajectory
from ...envs.errors import RequestError
from ..run import Run, environment_card
from ..terminal import finite

PHASE = "eval"
FLUSH_SECONDS = 0.25
"""A transaction a few times a second costs little; what a kill loses is played again."""


class Recorder:
    """Writes finished episodes into the folder; what is in `done` was there before."""

    def __init__(self, run: Run) -> None:
        self.run, self.done = run, list(run.trajectories(0, PHASE))
        self._waiting: list[Trajectory] = []
        self._flushed = time.monotonic()

    def add(self, trajectory: Trajectory) -> None:
        self._waiting.append(trajectory)
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        if self._waiting:
            self.run.record(0, PHASE, {}, self._waiting)
        self._waiting, self._flushed = [], time.monotonic()

    def finish(self, results: Mapping[str, Any]) -> None:
        """Every episode is there: the card gets what they say together."""
        self.run.finish(finite(results))

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.flush()
        self.run.close()


def open_recorder(folder: Path, what: Mapping[str, Any]) -> Recorder:
    """The folder of this evaluation, new or begun earlier; refuses one that holds something else."""
    if not (folder / "card.json").is_file():
        return Recorder(Run.create(folder, {"evaluation": dict(what), **environment_card()}))
    run = Run.open(folder)
    before = run.card.get("evaluation")
    if before != what:
        run.close()
        changed = sorted(k for k in {*what, *(before or {})} if (before or {}).get(k) != what.get(k))
        raise RequestError(
            f"The folder {folder} holds "
            + (f"another evaluation: {', '.join(changed)} differ" if before else "a training run")
            + ". Repeat the command that began it, or give another --out."
        )
    return Recorder(run)


def outcomes(folder: Path) -> dict[str, list[bool]]:
    """Task key -> outcomes of the last evaluation that an evaluation's or a training run's folder holds."""
    run = Run.open(folder)
    try:
        return run.successes(last_step(run, folder), PHASE)
    finally:
        run.close()


def symptoms_of(folder: Path) -> list[tuple[str, str]]:
    """(task key, why it ended) of every episode of that evaluation that was not won."""
    run = Run.open(folder)
    try:
        step = last_step(run, folder)
        query = "SELECT task, stop FROM episodes WHERE phase = ? AND step = ? AND success = 0 ORDER BY id"
        return [(task, stop) for task, stop in run.db.execute(query, (PHASE, step))]
    finally:
        run.close()


def last_step(run: Run, folder: Path) -> int:
    """The newest step with an evaluation."""
    found = run.db.execute("SELECT MAX(step) FROM episodes WHERE phase = ?", (PHASE,)).fetchone()[0]
    if found is None:
        raise RequestError(
            f"Expected an evaluation in {str(folder)!r}, found none. Write one with `turnwise eval TARGET --out DIR`."
        )
    return int(found)
