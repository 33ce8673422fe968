"""Episodes by filter, one page at a time, and one episode turn by turn."""

from __future__ import annotations

import json
import math
import sqlite3
from array import array
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import urlencode

from ..run import INADMISSIBLE, INVALID, PROGRESS, SHADES, VIOLATION
from . import tree

PAGE = 50
COLUMNS = "id, step, phase, task, grp, copy, stop, success, score, max_score, turns, seconds, error"
GROUP_SHOWN = 16
TREE_SHOWN = 256
PARTS = {
    "outcome": "success",
    "progress": f"parts & {PROGRESS}",
    "invalid_penalty": f"parts & {INVALID}",
    "inadmissible_penalty": f"parts & {INADMISSIBLE}",
    "violation_penalty": f"parts & {VIOLATION}",
}
"""Reward component -> where it is not 0, in SQL."""


class Filter(NamedTuple):
    """What the reader asked for; empty is everything."""

    step: int | None = None
    phase: str = ""
    task: str = ""
    """Part of the task's key."""
    stop: str = ""
    success: int | None = None
    part: str = ""
    """A reward component: episodes in which it is not 0."""

    def where(self) -> tuple[str, list[Any]]:
        """Conditions and their values; every value is bound, none is put into the text."""
        conditions, values = ["1"], []
        for name in ("step", "phase", "stop", "success"):
            value = getattr(self, name)
            if value not in (None, ""):
                conditions.append(f"{name} = ?")
                values.append(value)
        if self.task:
            conditions.append("instr(task, ?)")
            values.append(self.task)
        if self.part:
            conditions.append(PARTS[self.part])
        return " AND ".join(conditions), values

    def query(self) -> str:
        """As part of an address."""
        return urlencode({name: value for name, value in self._asdict().items() if value not in (None, "")})


class Page(NamedTuple):
    """Some episodes in order of ids, and whether there are others on either side."""

    rows: list[dict[str, Any]]
    earlier: bool
    later: bool


def page_query(chosen: Filter, *, forward: bool) -> tuple[str, list[Any]]:
    """SQL for one page beyond an id, which is its next-to-last value; the last is the number of rows.

    Pages begin at an id, not at an offset, so that SQLite reads only the rows that it returns or filters out.
    """
    where, values = chosen.where()
    sign, order = (">", "") if forward else ("<", " DESC")
    return f"SELECT {COLUMNS} FROM episodes WHERE {where} AND id {sign} ? ORDER BY id{order} LIMIT ?", values


def page(db: sqlite3.Connection, chosen: Filter, after: int = 0, before: int | None = None, size: int = PAGE) -> Page:
    """The page after an id, or the one before an id."""
    forward = before is None
    query, values = page_query(chosen, forward=forward)
    edge = after if before is None else before
    rows = [_row(r) for r in db.execute(query, (*values, edge, size + 1))]
    more, rows = len(rows) > size, rows[:size]
    if forward:
        return Page(rows, bool(rows) and neighbour(db, chosen, rows[0]["id"], forward=False) is not None, more)
    rows.reverse()
    return Page(rows, more, bool(rows) and neighbour(db, chosen, rows[-1]["id"], forward=True) is not None)


def neighbour(db: sqlite3.Connection, chosen: Filter, id: int, *, forward: bool) -> int | None:
    """The next or previous episode that the filter lets through."""
    query, values = page_query(chosen, forward=forward)
    row = db.execute(query, (*values, id, 1)).fetchone()
    return row[0] if row else None


def episode(db: sqlite3.Connection, id: int) -> dict[str, Any] | None:
    """One episode's row with its final observation."""
    row = db.execute(f"SELECT {COLUMNS}, final FROM episodes WHERE id = ?", (id,)).fetchone()
    return {**_row(row[:-1]), "final": row[-1]} if row else None


def choices(db: sqlite3.Connection) -> dict[str, list[Any]]:
    """Steps and phases there are, from the index alone."""
    pairs = db.execute("SELECT DISTINCT step, phase FROM episodes ORDER BY step, phase").fetchall()
    return {"steps": sorted({s for s, _ in pairs}), "phases": sorted({p for _, p in pairs})}


def group(db: sqlite3.Connection, id: int) -> list[dict[str, Any]]:
    """Episodes of the same task, step and phase as this one, the first `GROUP_SHOWN`."""
    query = (
        f"SELECT {COLUMNS} FROM episodes WHERE (step, phase, task) = "
        "(SELECT step, phase, task FROM episodes WHERE id = ?) ORDER BY grp, copy, id LIMIT ?"
    )
    return [_row(row) for row in db.execute(query, (id, GROUP_SHOWN))]


def branches(db: sqlite3.Connection, id: int) -> list[tree.Branch]:
    """What was done in the episodes of the same task and step, retries included; the first `TREE_SHOWN`."""
    kin = (
        "SELECT id, stop, success, score, max_score FROM episodes WHERE (step, task) = "
        "(SELECT step, task FROM episodes WHERE id = :id) AND (phase = 'eval') = "
        "(SELECT phase = 'eval' FROM episodes WHERE id = :id) ORDER BY id LIMIT :limit"
    )
    found = []
    for key, stop, success, score, most in db.execute(kin, {"id": id, "limit": TREE_SHOWN}).fetchall():
        actions = [a for (a,) in db.execute("SELECT action FROM turns WHERE episode = ? ORDER BY turn", (key,))]
        found.append(tree.Branch(key, tuple(actions), bool(success), score / most if most else 0.0, stop))
    return found


def turns(db: sqlite3.Connection, id: int, text: Callable[[int], str] | None) -> list[dict[str, Any]]:
    """The episode's turns; each sampled token with its log-prob, and what the update made of it where that is kept."""
    query = (
        f"SELECT turn, observation, action, reward, score, valid, admissible, extra, output, logprobs, "
        f"{', '.join(SHADES)} FROM turns LEFT JOIN tokens USING (episode, turn) "
        "LEFT JOIN shades USING (episode, turn) WHERE episode = ? ORDER BY turn"
    )
    found = []
    for turn, observation, action, reward, score, valid, admissible, extra, output, logprobs, *shades in db.execute(
        query, (id,)
    ):
        found.append({
            "turn": turn, "observation": observation, "action": action, "reward": reward, "score": score,
            "valid": bool(valid), "admissible": bool(admissible),
            "counts": (json.loads(extra) if extra else {}).get("counts", {}),
            "tokens": _tokens(output, logprobs, shades, text),
        })  # fmt: skip
    return found


def _tokens(
    output: bytes | None, logprobs: bytes | None, shades: list[bytes | None], text: Callable[[int], str] | None
) -> list[dict[str, Any]]:
    """Text and numbers of each sampled token."""
    numbers = {"logp": array("f", logprobs or b"")}
    numbers |= {name: array("f", blob) for name, blob in zip(SHADES, shades, strict=True) if blob}
    found = []
    for position, token in enumerate(array("i", output or b"")):
        of_token = {name: values[position] for name, values in numbers.items() if position < len(values)}
        if "logp" in of_token:
            shown = text(token) if text else f"#{token}"
            found.append({"text": shown, "numbers": {**of_token, "p": math.exp(of_token["logp"])}})
    return found


def _row(row: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip(COLUMNS.split(", "), row, strict=True))
