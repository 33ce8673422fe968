"""The runs and evaluations under one folder, opened for reading only. A name leads to a found folder or nowhere."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from ...envs.errors import RequestError
from ..run import Run, check_format

DEPTH = 4
"""Folders between the viewed one and a run; more would make a home folder slow to list."""
SKIPPED = {"checkpoints", "node_modules", "__pycache__"}


class Unreadable(Exception):
    """A folder that looks like a run and cannot be read; the text says why."""


class Found(NamedTuple):
    """A run or evaluation."""

    name: str
    """Path below the viewed folder; the folder's own name where it is a run itself."""
    folder: Path


def find(root: Path) -> dict[str, Found]:
    """Every run under `root` by name, in order of names. Links that lead out of it are left out."""
    root = root.resolve()
    found = {}
    for folder, below, files in os.walk(root):
        path = Path(folder)
        if {"card.json", "run.sqlite"} <= set(files):
            below.clear()
            if all((path / name).resolve().is_relative_to(root) for name in ("card.json", "run.sqlite")):
                relative = path.relative_to(root).as_posix() if path != root else root.name or "run"
                name = relative.encode("utf-8", "backslashreplace").decode()  # a file name may hold any bytes
                found[name] = Found(name, path)
        elif len(path.relative_to(root).parts) >= DEPTH:
            below.clear()
        else:
            below[:] = sorted(name for name in below if name not in SKIPPED and not name.startswith("."))
    return dict(sorted(found.items()))


@contextmanager
def reading(found: Found) -> Iterator[Run]:
    """The run, whose database can only be read and may be written by a trainer meanwhile.

    Raises:
        Unreadable: the database is damaged, of another program, or not yet created.
    """
    path = found.folder / "run.sqlite"
    try:
        db = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=10)
        try:
            db.execute("PRAGMA query_only=ON")
            check_format(found.folder, db)
            yield Run(found.folder, db)
        finally:
            db.close()
    except (sqlite3.Error, OSError, RequestError) as error:
        raise Unreadable(f"{found.name}: the database cannot be read: {error}") from error


def card(found: Found) -> dict[str, Any]:
    """The run's card.

    Raises:
        Unreadable: it is no JSON object.
    """
    try:
        data = json.loads((found.folder / "card.json").read_text())
    except (OSError, ValueError) as error:
        raise Unreadable(f"{found.name}: card.json cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise Unreadable(f"{found.name}: expected a JSON object in card.json, got {type(data).__name__}")
    return data


def token_text(root: Path, found: Found, runs: dict[str, Found]) -> Callable[[int], str] | None:
    """A function from token id to its text; None where the tokenizer is not under the viewed folder.

    An evaluation has no checkpoint: its tokens are those of the run that it evaluated.
    """
    evaluated = card(found).get("evaluation")
    if isinstance(evaluated, dict):
        target = os.path.realpath(str(evaluated.get("target", "")))
        found = next((other for other in runs.values() if str(other.folder) == target), found)
    paths = sorted(found.folder.glob("checkpoints/step-*/policy/tokenizer.json"))
    if not paths or not paths[-1].resolve().is_relative_to(root.resolve()):
        return None
    try:
        tokenizer = _tokenizer(str(paths[-1]), paths[-1].stat().st_mtime_ns)
    except Exception:  # tokenizers raises plain Exception for a file that it cannot read, and it may be pruned
        return None
    return lambda token: tokenizer.decode([token], skip_special_tokens=False)


@lru_cache(maxsize=4)
def _tokenizer(path: str, changed: int) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(path)
