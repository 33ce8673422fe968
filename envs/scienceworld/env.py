"""`turnwise/ScienceWorld-v0`: science experiments of elementary school, played by ScienceWorld's own engine."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from ..core import State, TextEnv
from ..errors import RequestError
from ..task import Task
from .jvm import UNKNOWN_ACTION, Answer, Simulator
from .variations import ENV_ID, SPLITS, VARIATIONS, make_tasks, split_variations

NOT_AN_ACTION = "No known action matches that input."
"""The engine's answer to words that are no action; they take no time in the game."""

IDLE = frozenset(("look", "look around", "inventory", "task", "help"))
"""Actions that take no time and change nothing."""

_REFUSAL = re.compile(
    r"""(?x)
    (I'm\ not\ sure | It'?s\ not\ clear\ how | You\ can't | You\ must\ disconnect | Something\ can't
      | Connections\ must\ specify | That\ can't | That\ is\ (already|not) | That\ object\ (already\ appears|does\ not)
      | The\ door\ doesn't\ appear ) .*
    | .* (is\ not\ (moveable|movable|openable|closeable|edible|a\ container|something\ that\ can\ be\ activated|open
      | currently\ passable|flammable) | is\ already\ (open|closed|activated|deactivated|on\ fire|connected,.*)
      | isn't\ open,\ so\ you\ can't\ see\ inside | can't\ be\ poured\ out.* | aren't\ able\ to\ move
      | is\ empty,\ so\ there's\ nothing\ to\ pour | does\ not\ contain\ any\ liquids\ to\ dunk\ into
      | appears\ broken,\ and\ can't\ be\ activated\ or\ deactivated) \.?
    """
)
"""One-line answers to actions that were understood but are not possible now. Menus of an ambiguous request
("Ambiguous request: Please enter the number …") are not among them: the next action is the number."""


class ScienceWorldEnv(TextEnv):
    """ScienceWorld's 30 tasks; the score is the engine's, 0 to 100, and success is 100.

    A game that the engine ends with a negative score, after a wrong final choice, is a failure worth 0.
    `commands=True` lists what is possible each turn, which takes several times as long as the turn itself.
    """

    id: ClassVar[str] = ENV_ID
    isolated: ClassVar[bool] = True
    max_score: float = 100.0

    def __init__(
        self, split: str = "train", render_mode: str | None = None, commands: bool = False, **params: Any
    ) -> None:
        super().__init__(split, render_mode, **params)
        self._lists_commands = commands
        self._game: Simulator | None = None
        self._planner: Simulator | None = None
        self._gold: tuple[Task | None, list[str]] = (None, [])

    @classmethod
    def splits(cls) -> dict[str, int]:
        return {split: sum(len(split_variations(name, split)) for name in VARIATIONS) for split in SPLITS}

    @classmethod
    def tasks(cls, split: str, count: int | None = None, **params: Any) -> list[Task]:
        """The first `count` tasks of `split`: the first variation of every task, then the second, and so on.

        task: one name or several (`variations.VARIATIONS`). variations: at most so many of each. simplification:
        `"easy"` or some of the engine's, separated by commas. max_turns replaces the task's limit.
        """
        return make_tasks(split, count, **params)

    def start(self, task: Task) -> State:
        self._game = _open(self._game)
        self._game.load(task.params["task"], task.seed, task.params["simplification"])
        self.goal, look = self._game.describe()
        return self._state(f"{self.goal}\n\n{look}", Answer("", 0.0, False))

    def act(self, action: str) -> State:
        if self.state.success or self.state.failure:
            return self.state._replace(observation="The game is over.", admissible=False)
        assert self._game is not None
        answer = self._game.step(action)
        return self._state(answer.text, answer, is_possible(answer.text))

    def expert(self) -> str:
        """The next action of the gold path, which the engine finds once per task and only from its start."""
        path, position = self._path(), 0
        for action, state in self._history[1:]:
            if position < len(path) and action == path[position]:
                position += 1
            elif action and action not in IDLE and state.observation != NOT_AN_ACTION:
                raise RequestError(
                    f"Expected the gold path so far, got {action!r}: the expert of ScienceWorld knows the way from "
                    "the start only. Call reset()."
                )
        return path[position] if position < len(path) else "look around"

    def close(self) -> None:
        for simulator in (self._game, self._planner):
            if simulator is not None:
                simulator.close()
        self._game = self._planner = None

    def _path(self) -> list[str]:
        """The gold path; found in a simulator of its own, because the search begins the game anew."""
        task = self.task
        assert task is not None
        if self._gold[0] != task:
            self._planner = _open(self._planner)
            self._planner.load(task.params["task"], task.seed, task.params["simplification"], gold=True)
            self._gold = (task, self._planner.gold_path())
        return self._gold[1]

    def _state(self, observation: str, answer: Answer, admissible: bool = True) -> State:
        score = round(100 * answer.score)
        success = score == self.max_score
        failure = not success and (answer.over or score < 0)
        commands = None
        if self._lists_commands:
            assert self._game is not None
            commands = () if success or failure else self._game.commands()
        return State(
            observation,
            0.0 if score < 0 else float(score),
            success,
            failure,
            commands,
            admissible,
        )


def is_possible(answer: str) -> bool:
    """The engine did what was asked, or asked which of several things was meant."""
    return answer not in (NOT_AN_ACTION, UNKNOWN_ACTION) and not _REFUSAL.fullmatch(answer)


def _open(simulator: Simulator | None) -> Simulator:
    """This simulator, or a new one when there is none or its machine has failed."""
    return simulator if simulator is not None and simulator.usable else Simulator()
