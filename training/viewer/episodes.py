"""Episodes by filter, one page at a time, and one episode turn by turn."""

from __future__ import annotations

import json
import math
import sqlite3
from array import array
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import urlencode

PAGE = 50
COLUMNS = "id, step, phase, task, grp, copy, stop, success, score, max_score, turns, seconds, error"
GROUP_SHOWN = 16


class Filter(NamedTuple):
    """What the reader asked for; empty is everything."""

    step: int | None = None
    phase: str = ""
    task: str = ""
    """Part of the task's key."""
    stop: str = ""
    success: int | None = None

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


def turns(db: sqlite3.Connection, id: int, text: Callable[[int], str] | None) -> list[dict[str, Any]]:
    """The episode's turns with the log-prob of each sampled token, where tokens were recorded."""
    query = (
        "SELECT turn, observation, action, reward, score, valid, admissible, extra, output, logprobs "
        "FROM turns LEFT JOIN tokens USING (episode, turn) WHERE episode = ? ORDER BY turn"
    )
    found = []
    for turn, observation, action, reward, score, valid, admissible, extra, output, logprobs in db.execute(
        query, (id,)
    ):
        ids, values = array("i", output or b""), array("f", logprobs or b"")
        found.append({
            "turn": turn, "observation": observation, "action": action, "reward": reward, "score": score,
            "valid": bool(valid), "admissible": bool(admissible),
            "counts": (json.loads(extra) if extra else {}).get("counts", {}),
            "tokens": [
                {"text": text(token) if text else f"#{token}", "logp": logp, "p": math.exp(logp)}
                for token, logp in zip(ids, values, strict=False)
            ],
        })  # fmt: skip
    return found


def _row(row: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip(COLUMNS.split(", "), row, strict=True))
