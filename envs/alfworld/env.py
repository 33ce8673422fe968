"""`turnwise/ALFWorld-v0`: generated and official ALFWorld games behind the `TextEnv` contract."""

from __future__ import annotations

import copy
import json
import random
from functools import lru_cache
from typing import Any, ClassVar

from ..core import State, TextEnv
from ..errors import RequestError, UnknownName
from ..task import Task
from . import official, stock, tables
from .engine import World
from .experts import Explorer, oracle
from .game import Game, parse_game
from .generator import Level, generate
from .goals import TASK_TYPES

EXPERTS, BACKENDS = ("exploring", "oracle"), ("fast", "stock")
SIZES = {"train": 10_000, "validation": 500, "test": 1_000}
_PARAMETERS = ("task_types", "receptacles", "distractors", "max_turns", "source")
_FIRST_SEED = {"train": 0, "validation": 1_000_000, "test": 2_000_000}


class ALFWorldEnv(TextEnv):
    """Household tasks in text, word for word as the stock engine tells them.

    Splits `train`, `validation`, `test` are generated from floor plans of their own; `official_train`,
    `official_valid_seen` and `official_valid_unseen` are the published games where they are found
    (see `official`). The score counts the goal's conditions that hold, success is the goal itself.

    expert: `"exploring"` (knows only what it was shown) or `"oracle"` (knows the state, short plans).
    backend: `"fast"`, or `"stock"` for TextWorld's engine, a thousand times slower, checked against ours.
    """

    id: ClassVar[str] = "turnwise/ALFWorld-v0"

    def __init__(
        self,
        split: str = "train",
        render_mode: str | None = None,
        expert: str = "exploring",
        backend: str = "fast",
        **params: Any,
    ) -> None:
        if expert not in EXPERTS:
            raise UnknownName("expert", expert, EXPERTS)
        if backend not in BACKENDS:
            raise UnknownName("backend", backend, BACKENDS)
        super().__init__(split, render_mode, **params)
        self.expert_kind = expert
        self._engine = stock.new_engine() if backend == "stock" else None

    @classmethod
    def splits(cls) -> dict[str, int]:
        return dict(SIZES) | official.splits()

    @classmethod
    def missing(cls) -> str:
        return official.missing()

    @classmethod
    def tasks(
        cls,
        split: str,
        count: int | None = None,
        *,
        task_types: str | tuple[str, ...] | list[str] = TASK_TYPES,
        receptacles: int = 8,
        distractors: int = 8,
        max_turns: int | None = None,
        source: str = "",
        **unknown: Any,
    ) -> list[Task]:
        """The first `count` tasks of `split`.

        task_types: one name or several, taken in turn. receptacles (4 to 60) and distractors (0 to 100) set
        how large a generated room is: the dial of difficulty. max_turns: by default 50 for official games and
        `max(25, 2 * receptacles + 9)` for generated ones, enough to open everything, carry and put.
        source: `"official"` turns `train` into `official_train` and so on.
        """
        if unknown:
            raise UnknownName("parameter of ALFWorld tasks", next(iter(unknown)), _PARAMETERS)
        split = f"official_{split}" if source == "official" and not split.startswith("official_") else split
        wanted = (task_types,) if isinstance(task_types, str) else tuple(task_types)
        for name in wanted:
            if name not in TASK_TYPES:
                raise UnknownName("ALFWorld task type", name, TASK_TYPES)
        if split in SIZES:
            Level(0, wanted[0], 1, receptacles, distractors)  # refuses sizes out of range before listing
            size = {"receptacles": receptacles, "distractors": distractors}
            turns = max_turns or max(25, 2 * receptacles + 9)
            number = SIZES[split] if count is None else min(count, SIZES[split])
            return [_generated(cls.id, split, i, wanted, size, turns) for i in range(number)]
        if split not in official.splits():
            raise UnknownName("split of ALFWorld", split, cls.splits(), hint=official.HINT)
        return official.tasks(cls.id, split, count, wanted, max_turns or 50)

    def start(self, task: Task) -> State:
        game = load_game(task)
        self.goal = game.sentence
        self.world = stock.StockWorld(game, game_file(task), self._engine) if self._engine else World(game)
        observation = self.world.intro()
        self.max_score = float(self.world.progress()[1])
        self._explorer = Explorer(game.goal, observation, self.world.commands, lived_in=task.game is not None)
        return self._state(observation, True)

    def act(self, action: str) -> State:
        admissible = self.world.action(action) is not None
        observation = self.world.do(action)
        self._explorer.observe(action, admissible, observation, self.world.commands)
        return self._state(observation, admissible)

    def expert(self) -> str:
        if self.expert_kind == "oracle":
            return next(iter(oracle(self.world)), "look")
        return self._explorer.act()

    def clone_state(self) -> tuple[World, Explorer] | None:
        return None if self._engine else (self.world.copy(), copy.deepcopy(self._explorer))

    def restore_state(self, clone: tuple[World, Explorer]) -> bool:
        if self._engine:
            return False
        self.world, self._explorer = clone[0].copy(), copy.deepcopy(clone[1])
        return True

    def _state(self, observation: str, admissible: bool) -> State:
        met, total = self.world.progress()
        return State(observation, float(met), met == total, commands=self.world.commands, admissible=admissible)


def load_game(task: Task) -> Game:
    """The parsed game of `task`, generated or read once and kept while it is in use."""
    return _official_game(task.game, _path(task)) if task.game is not None else _generated_game(_level(task))


def game_file(task: Task) -> dict[str, Any]:
    """The content of the game file of `task`, decoded."""
    return json.loads(official.read(_path(task), task.game)) if task.game is not None else generate(_level(task))


def _path(task: Task) -> str:
    return str(task.meta.get("path", ""))


def _level(task: Task) -> Level:
    fields = task.params
    try:
        return Level(task.seed, fields["task_type"], fields["room"], fields["receptacles"], fields["distractors"])
    except KeyError as missing:
        raise RequestError(f"Expected the task parameter {missing} of a generated game, got {fields}.") from None


@lru_cache(maxsize=1024)
def _generated_game(level: Level) -> Game:
    return parse_game(generate(level))


@lru_cache(maxsize=256)
def _official_game(digest: str, path: str) -> Game:
    return parse_game(official.read(path, digest))


def _generated(
    env: str, split: str, index: int, task_types: tuple[str, ...], size: dict[str, int], max_turns: int
) -> Task:
    task_type = task_types[index % len(task_types)]
    seed = _FIRST_SEED[split] + index
    room = random.Random(seed).choice(tables.rooms(split, task_type))
    return Task(env=env, seed=seed, params={"task_type": task_type, "room": room, **size}, max_turns=max_turns,
                split=split, difficulty=float(size["receptacles"]), meta={"task_type": task_type})  # fmt: skip
