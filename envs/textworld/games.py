"""TextWorld games: sizes -> `Task` -> compiled game file in a cache. Everything here is a pure function of the task."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..errors import EnvError, RequestError, UnknownName
from ..pool import start_once
from ..task import Task

ENV_ID = "turnwise/TextWorld-v0"

SPLITS: dict[str, tuple[int, int]] = {
    "train": (50_001, 10_000),
    "validation": (20_001, 200),
    "test": (1, 100),
    "demonstrations": (40_001, 5_000),
}
"""Split -> first seed, number of seeds. Train, test and demonstration seeds start where those of
"A Practitioner's Guide to Multi-turn Agentic RL" (arXiv 2510.01132) do; ranges do not meet."""

SIZES: dict[str, dict[str, tuple[int | str, range | tuple[str, ...]]]] = {
    "custom": {"rooms": (2, range(1, 51)), "objects": (3, range(1, 101)), "quest": (4, range(1, 51))},
    "coin_collector": {"level": (5, range(1, 251))},
    "treasure_hunter": {"level": (5, range(1, 31))},
    "cooking": {
        "recipe": (1, range(1, 6)),
        "take": (1, range(6)),
        "go": (1, range(1, 13)),
        **{skill: (0, range(2)) for skill in ("open", "cook", "cut", "drop")},
        "recipe_seed": (0, range(1 << 31)),
        "foods": ("split", ("split", "train", "valid", "test", "all")),
    },
    "simple": {
        "rewards": ("dense", ("dense", "balanced", "sparse")),
        "goal": ("brief", ("detailed", "brief", "none")),
        "foods": ("split", ("split", "train", "test")),
    },
}
"""Family -> size -> default and allowed values. Coin collector is limited to 100 rooms by the engine."""

FOODS: dict[str, dict[str, str]] = {
    "cooking": {"train": "train", "demonstrations": "train", "validation": "valid", "test": "test"},
    "simple": {"train": "train", "demonstrations": "train", "validation": "train", "test": "test"},
}
"""Family -> split -> TextWorld's own split of the food: recipes (cooking) or names (simple) kept for testing."""

DENSE = ("custom", "coin_collector", "treasure_hunter")
"""Families that pay one point at the end, and whose remaining steps the engine can count."""

SEED_STRIDE = 1_000_000
MAX_CANDIDATES = 40
_LAYOUT = 1
"""Raise when the same task would compile to other bytes, so that old cache entries are not read."""


# ---- tasks, without importing the engine --------------------------------------------------------------


def make_tasks(split: str, count: int | None = None, **params: Any) -> list[Task]:
    """The first `count` tasks of `split`; see `TextWorldEnv.tasks`."""
    if split not in SPLITS:
        raise UnknownName(f"split of {ENV_ID}", split, SPLITS)
    options = {name: bool(params.pop(name, False)) for name in ("walkthrough_in_goal", "dense")}
    max_turns = params.pop("max_turns", None)
    sizes = check_sizes(**params)
    _check_options(sizes, **options)
    sizes.update({name: True for name, asked in options.items() if asked})
    if sizes.get("foods") == "split":
        sizes["foods"] = FOODS[sizes["family"]][split]
    first, size = SPLITS[split]
    turns, difficulty = int(max_turns or default_turns(sizes)), float(_length(sizes))
    return [
        Task(env=ENV_ID, seed=seed, params=sizes, max_turns=turns, split=split, difficulty=difficulty)
        for seed in range(first, first + (size if count is None else min(count, size)))
    ]


def check_sizes(family: str = "custom", grid: str | None = None, **sizes: Any) -> dict[str, Any]:
    """All sizes of a family, defaults filled in; `grid` "w2-o3-q4" stands for rooms, objects and quest."""
    if family not in SIZES:
        raise UnknownName(f"family of {ENV_ID}", family, SIZES)
    if grid is not None:
        sizes = {**sizes, **_parse_grid(family, grid)}
    for name in sizes:
        if name not in SIZES[family]:
            raise UnknownName(f"size of {ENV_ID} family {family}", name, SIZES[family])
    full = {name: _check_size(family, name, sizes.get(name, default)) for name, (default, _) in SIZES[family].items()}
    _check_together(family, full)
    return {"family": family, **full}


def _check_size(family: str, name: str, value: Any) -> int | str:
    allowed = SIZES[family][name][1]
    value = int(value) if isinstance(allowed, range) else str(value)
    if value not in allowed:
        span = f"{allowed.start}..{allowed.stop - 1}" if isinstance(allowed, range) else ", ".join(allowed)
        raise RequestError(f"Expected {name} of {family} in {span}, got {value}.")
    return value


def _check_options(sizes: dict[str, Any], walkthrough_in_goal: bool, dense: bool) -> None:
    family = sizes["family"]
    if walkthrough_in_goal and family == "cooking":
        raise RequestError("walkthrough_in_goal: the goal of a cooking game never holds its walkthrough. Leave it out.")
    if walkthrough_in_goal and family == "simple" and sizes["goal"] != "detailed":
        raise RequestError(f"walkthrough_in_goal: expected goal=detailed with it, got goal={sizes['goal']}.")
    if dense and family not in DENSE:
        raise RequestError(f"Expected dense with {', '.join(DENSE)}, got {family}, which pays step by step by itself.")


def _parse_grid(family: str, grid: str) -> dict[str, int]:
    match = re.fullmatch(r"w(\d+)-o(\d+)-q(\d+)", grid)
    if match is None or family != "custom":
        raise RequestError(f"Expected grid like 'w2-o3-q4' with family custom, got {grid!r} with {family}.")
    return dict(zip(("rooms", "objects", "quest"), map(int, match.groups()), strict=True))


def _check_together(family: str, sizes: dict[str, Any]) -> None:
    if family == "cooking" and sizes["take"] > sizes["recipe"]:
        raise RequestError(f"Expected take <= recipe, got {sizes['take']} > {sizes['recipe']}.")
    if family == "cooking" and sizes["go"] not in (1, 6, 9, 12):
        raise RequestError(f"Expected go in 1, 6, 9, 12, got {sizes['go']}.")
    if family == "cooking" and sizes["recipe_seed"] and not sizes["take"]:
        raise RequestError("Expected take >= 1 with a recipe_seed: the new recipe's ingredients have to be fetched.")
    if family == "coin_collector":
        rooms = ((sizes["level"] - 1) // 100 + 1) * _length({"family": family, **sizes})
        if rooms > 100:
            raise RequestError(f"Level {sizes['level']} has {rooms} rooms; the engine takes at most 100.")


def _length(sizes: dict[str, Any]) -> int:
    """How long the game is: quest length, or what stands for it."""
    match sizes["family"]:
        case "custom":
            return sizes["quest"]
        case "coin_collector":
            return (sizes["level"] - 1) % 100 + 1
        case "treasure_hunter":
            return sizes["level"]
        case "simple":
            return 12  # steps of the longest walkthrough: the food is in the garden
        case _:
            return sum(sizes[name] for name in ("recipe", "take", "go", "open", "cook", "cut", "drop"))


def default_turns(sizes: dict[str, Any]) -> int:
    """Turn limit: 3 per step of a custom quest (12 and 24 in arXiv 2510.01132); 100 for cooking; else 50 or more."""
    match sizes["family"]:
        case "custom":
            return 3 * sizes["quest"]
        case "cooking":
            return 100
        case _:
            return max(50, 3 * _length(sizes))


# ---- game files ---------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """`$TURNWISE_CACHE/textworld`, else `textworld` in the user's cache folder of this package."""
    root = os.environ.get("TURNWISE_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return (Path(root) if root else Path(base) / "turnwise") / "textworld"


def game_path(task: Task) -> Path:
    """Where the compiled game of `task` is or will be: named by the hash of all that decides its bytes."""
    params = {name: value for name, value in task.params.items() if name != "dense"}  # that decides the score only
    identity = {"layout": _LAYOUT, "textworld": version("textworld"), "seed": task.seed, "params": params}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]
    return cache_folder() / digest[:2] / digest / "game.z8"


def ensure_game(task: Task) -> Path:
    """Path of the compiled game of `task`, compiling it if it is not in the cache."""
    path = game_path(task)
    if not path.is_file():
        with _locked(path.parent.with_name("lock")):
            if not path.is_file():
                _compile(task, path)
    return path


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock between processes: episodes of one group would all compile the same game."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _compile(task: Task, path: Path) -> None:
    """Generate and compile aside, then rename: a reader never meets half a game."""
    from textworld.generator import compile_game

    game, options = generate(task)
    _sort_sets(game)
    aside = Path(tempfile.mkdtemp(prefix="making-", dir=path.parent.parent))
    try:
        options.path, options.force_recompile = str(aside / path.name), True
        compile_game(game, options)
        (aside / "game.ni").unlink()  # the source; only the compiler needs it
        with suppress(FileExistsError, OSError):  # another process was first: the same bytes
            aside.rename(path.parent)
        if not path.is_file():
            raise EnvError(f"The game of task {task.key} was compiled but could not be moved to {path.parent}.")
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _sort_sets(game: Any) -> None:
    """Give an order to what the generator kept in sets: theirs, and so the bytes, change with Python's hash seed."""
    options = game.grammar.options
    options.names_to_exclude = sorted(options.names_to_exclude, key=str)
    for quest in game.quests:
        quest.fail_events = tuple(sorted(quest.fail_events, key=lambda event: json.dumps(event.serialize())))


def generate(task: Task) -> tuple[Any, Any]:
    """The game of `task` and its generator options.

    The task's seed stands for the first of `seed, seed + 1_000_000, …` whose game can be made and, in
    the custom family, whose quest has the length asked for: the generator treats it as an upper bound.
    """
    from textworld.generator.chaining import QuestGenerationError

    make = _MAKERS[task.params["family"]]
    for seed in range(task.seed, task.seed + MAX_CANDIDATES * SEED_STRIDE, SEED_STRIDE):
        options = _options(task, seed)
        try:
            game = make(task.params, options)
        except QuestGenerationError:
            continue
        if task.params["family"] != "custom" or len(game.metadata["walkthrough"]) == task.params["quest"]:
            return game, options
    raise RequestError(
        f"No game of {task.params} in {MAX_CANDIDATES} seeds from {task.seed}. Ask for a shorter quest or more rooms."
    )


def _options(task: Task, seed: int) -> Any:
    from textworld.generator.game import GameOptions

    options = GameOptions()
    options.seeds = seed
    options.grammar.only_last_action = not task.params.get("walkthrough_in_goal", False)
    options.grammar.allowed_variables_numbering = True  # the grammar has fewer names than a large game has rooms
    return options


def _custom(sizes: dict[str, Any], options: Any) -> Any:
    from textworld.generator import make_game

    options.nb_rooms, options.nb_objects, options.quest_length = sizes["rooms"], sizes["objects"], sizes["quest"]
    return make_game(options)


def _challenge(name: str) -> Callable[[dict[str, Any], Any], Any]:
    def make(sizes: dict[str, Any], options: Any) -> Any:
        from textworld.challenges import CHALLENGES

        foods = sizes.get("foods")
        settings = {**sizes, "split": None if foods == "all" else foods, "test": foods == "test"}
        return CHALLENGES[name][1](settings, options)

    return make


_MAKERS: dict[str, Callable[[dict[str, Any], Any], Any]] = {
    "custom": _custom,
    "coin_collector": _challenge("tw-coin_collector"),
    "treasure_hunter": _challenge("tw-treasure_hunter"),
    "cooking": _challenge("tw-cooking"),
    "simple": _challenge("tw-simple"),
}


# ---- compiling many -----------------------------------------------------------------------------------


def prepare(tasks: Sequence[Task], processes: int = 2) -> int:
    """Compile the games of `tasks` that are not cached, in worker processes; returns how many were compiled.

    Half a second to two seconds each on one core; treasure hunter above level 20 searches up to minutes.
    Raises the first error after all others are done.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    missing = unprepared(tasks)
    if not missing:
        return 0
    columns = (TextColumn("compiling games"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("", total=len(missing))
        asyncio.run(start_once(missing, processes, lambda: progress.advance(bar)))
    return len(missing)


def unprepared(tasks: Sequence[Task]) -> list[Task]:
    """One task for each game that is not in the cache."""
    return list({game_path(task): task for task in tasks if not game_path(task).is_file()}.values())
