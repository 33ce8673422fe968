"""MiniWoB++'s tasks by name and seed, and their splits, read from the pages of the `miniwob` wheel."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import RequestError, UnknownName
from ..task import Task
from .experts import EXPERTS

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
        "hover-shape",
        "moving-items",
        "resize-textarea",
        "right-angle",
        "scroll-text-2",
        "simon-says",
        "use-colorwheel-2",
        "visual-addition",
    ]
)
"""Names that ask for a place of the mouse, a drag or the look of a picture, which text and four actions do not give."""

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
    max_turns: int = 20,
    **unknown: Any,
) -> list[Task]:
    """The first `count` tasks of `split`: the first seed of every name, names with an expert first, then the next.

    names: one or several of the split's names.
    """
    if unknown:
        raise UnknownName("parameter of MiniWoB tasks", next(iter(unknown)), ("names", "max_turns"))
    if split not in SEEDS:
        raise UnknownName("split of MiniWoB", split, SEEDS)
    if not isinstance(max_turns, int) or max_turns < 1:
        raise RequestError(f"Expected max_turns of at least 1, got {max_turns!r}.")
    known = split_names(split)
    wanted = known if names is None else (names,) if isinstance(names, str) else tuple(names)
    for name in wanted:
        if name not in known:
            raise UnknownName(f"MiniWoB task of split {split!r}", name, known)
    pairs = ((index, name) for index in range(SEEDS[split]) for name in wanted)
    made = [
        Task(env=ENV_ID, seed=_FIRST_SEED[split] + index, params={"name": name}, max_turns=max_turns, split=split,
             meta={"task_type": name})
        for index, name in pairs
    ]  # fmt: skip
    return made[:count]


@lru_cache(maxsize=8)
def split_names(split: str) -> tuple[str, ...]:
    """Names of a split, those with a scripted expert first."""
    found = [path.stem for path in folder().glob("*.html")]
    kind = split if split in ("unseen", "pointer") else ""
    names = (name for name in found if kind == ("unseen" if name in UNSEEN else "pointer" if name in POINTER else ""))
    return tuple(sorted(names, key=lambda name: (name not in EXPERTS, name)))


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
    page = folder() / f"{name}.html"
    if Path(name).name != name or not page.is_file():
        raise UnknownName("MiniWoB task", name, (path.stem for path in folder().glob("*.html")))
    return page.as_uri()
