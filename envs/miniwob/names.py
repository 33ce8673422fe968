"""MiniWoB++'s tasks by name and seed, and their splits, read from the pages of the `miniwob` wheel."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import RequestError, UnknownName
from ..task import Task

ENV_ID = "turnwise/MiniWoB-v0"

UNSEEN = frozenset(
    [
        "book-flight",
        "book-flight-nodelay",
        "choose-list",
        "click-scroll-list",
        "enter-date",
        "enter-time",
        "find-greatest",
        "grid-coordinate",
        "multi-layouts",
        "multi-orderings",
        "navigate-tree",
        "phone-book",
        "read-table",
        "read-table-2",
        "search-engine",
        "social-media",
        "social-media-all",
        "social-media-some",
        "terminal",
        "tic-tac-toe",
        "use-autocomplete",
        "use-autocomplete-nodelay",
    ]
)
"""Names that no training task has; with a name go those that differ little from it."""

POINTER = frozenset(
    [
        "bisect-angle",
        "chase-circle",
        "circle-center",
        "count-sides",
        "drag-box",
        "drag-circle",
        "drag-cube",
        "drag-items",
        "drag-items-grid",
        "drag-shapes",
        "drag-shapes-2",
        "drag-single-shape",
        "drag-sort-numbers",
        "draw-circle",
        "draw-line",
        "find-midpoint",
        "highlight-text",
        "highlight-text-2",
        "hot-cold",
        "moving-items",
        "resize-textarea",
        "right-angle",
        "simon-says",
        "use-colorwheel-2",
        "visual-addition",
    ]
)
"""Names that ask for a place of the mouse, a drag or the look of a picture: what is shown has places here."""

LEFT_OUT = frozenset(["hover-shape"])
"""A page that never ends and rewards nothing: its call of the reward is commented out."""

GRADED = frozenset(
    [
        "bisect-angle",
        "chase-circle",
        "circle-center",
        "draw-circle",
        "draw-line",
        "find-midpoint",
        "moving-items",
        "right-angle",
        "use-colorwheel-2",
    ]
)
"""Names whose raw reward measures how near the answer is."""
NEAR = 0.9
"""The raw reward that wins a graded task; 1 cannot be had by a mouse that stands on whole pixels."""

TICKS_MS = {"chase-circle": 100, "simon-says": 250, "stock-market": 100}
"""What an action takes where half a second is too long to see what matters."""
TURNS = {"chase-circle": 120, "hot-cold": 40, "moving-items": 30, "simon-says": 40, "stock-market": 100}
"""Names that need more than `MAX_TURNS`."""
MAX_TURNS = 20

SEEDS = {"train": 100, "validation": 5, "test": 10, "unseen": 20, "pointer": 10}
"""Split -> seeds per name."""
_FIRST_SEED = {split: 1_000_000 * index for index, split in enumerate(SEEDS)}


def splits() -> dict[str, int]:
    """Split -> number of tasks."""
    return {split: SEEDS[split] * len(split_names(split)) for split in SEEDS}


def make_tasks(
    split: str,
    count: int | None = None,
    *,
    names: str | tuple[str, ...] | list[str] | None = None,
    max_turns: int | None = None,
    **unknown: Any,
) -> list[Task]:
    """The first `count` tasks of `split`: the first seed of every name, then the next.

    names: one or several of the split's names. max_turns: `MAX_TURNS`, or what `TURNS` says.
    """
    if unknown:
        raise UnknownName("parameter of MiniWoB tasks", next(iter(unknown)), ("names", "max_turns"))
    if split not in SEEDS:
        raise UnknownName("split of MiniWoB", split, SEEDS)
    if max_turns is not None and (not isinstance(max_turns, int) or max_turns < 1):
        raise RequestError(f"Expected max_turns of at least 1, got {max_turns!r}.")
    known = split_names(split)
    wanted = known if names is None else (names,) if isinstance(names, str) else tuple(names)
    for name in wanted:
        if name not in known:
            raise UnknownName(f"MiniWoB task of split {split!r}", name, known)
    pairs = ((index, name) for index in range(SEEDS[split]) for name in wanted)
    made = [
        Task(env=ENV_ID, seed=_FIRST_SEED[split] + index, params={"name": name}, split=split,
             max_turns=max_turns or TURNS.get(name, MAX_TURNS), meta={"task_type": name})
        for index, name in pairs
    ]  # fmt: skip
    return made[:count]


@lru_cache(maxsize=8)
def split_names(split: str) -> tuple[str, ...]:
    """Names of a split."""
    chosen = {"unseen": UNSEEN, "pointer": POINTER}.get(split, _names() - UNSEEN - POINTER)
    return tuple(sorted(_names() & chosen))


@lru_cache(maxsize=1)
def folder() -> Path:
    """The folder of the wheel's pages, found without importing the wheel, which would import its own browser driver."""
    found = importlib.util.find_spec("miniwob")
    places = list(found.submodule_search_locations or ()) if found else []
    pages = Path(places[0]) / "html" / "miniwob" if places else Path()
    if not places or not pages.is_dir():
        raise RequestError("Expected the pages of MiniWoB++, found none. Install them: pip install 'turnwise[web]'")
    return pages


def page_address(name: str) -> str:
    """The address of a task's page."""
    if name not in _names():
        raise UnknownName("MiniWoB task", name, _names())
    return (folder() / f"{name}.html").as_uri()


@lru_cache(maxsize=1)
def _names() -> frozenset[str]:
    """Of all pages that are tasks."""
    return frozenset(path.stem for path in folder().glob("*.html")) - LEFT_OUT
