"""`turnwise/TextArena-v0`: a single-player game of textarena, with its own randomness and a strict win."""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Iterator
from typing import Any, ClassVar

from ..core import State, TextEnv
from ..task import Task
from . import names
from .solvers import SOLVERS

OVER = "The game is over."
LOST = 0.99
"""Most that a lost game is worth: some count a part of the way as all of it."""


class TextArenaEnv(TextEnv):
    """A game as textarena plays it, without wrappers: what it says in words, actions in square brackets.

    Success is the reward 1 that a game pays for its win, and not after a move that broke its rules. A game that is lost
    scores what it pays, its own measure of the way that was made, at most 0.99.
    """

    id: ClassVar[str] = names.ENV_ID
    isolated: ClassVar[bool] = True  # the games share Python's random numbers with everybody, and some take seconds

    @classmethod
    def splits(cls) -> dict[str, int]:
        return names.splits()

    @classmethod
    def tasks(cls, split: str, count: int | None = None, **params: Any) -> list[Task]:
        """The first `count` tasks of `split`; `names.make_tasks` has the parameters."""
        return names.make_tasks(split, count, **params)

    def start(self, task: Task) -> State:
        import textarena

        self._name = names.name_of(task.params)
        self._solver = SOLVERS[names.family_of(self._name)]
        self._random: Any = None
        with self._own_randomness():
            self._game: Any = textarena.make(f"{self._name}-raw")
            self._game.reset(num_players=1, seed=task.seed)
        return self._look(False, True)

    def act(self, action: str) -> State:
        if self.state.success or self.state.failure:
            return self.state._replace(observation=OVER, admissible=False)
        with self._own_randomness():
            done, _ = self._game.step(self._solver.one_move(action))
        state = self._game.state
        refused = state.error_count > 0 or state.game_info[0]["invalid_move"]
        return self._look(bool(done), not refused)

    def expert(self) -> str:
        if self.state.success or self.state.failure:
            return "[over]"
        with self._own_randomness():
            return self._solver.best(self._game)

    def _look(self, done: bool, admissible: bool) -> State:
        state = self._game.state
        heard = [text.strip("\n") for source, text, _ in state.get_current_player_observation() if source == -1]
        if not done:
            return State("\n\n".join(heard), commands=self._solver.moves(self._game), admissible=admissible)
        paid, reason = _outcome(state.rewards[0], state.game_info[0].get("reason") or OVER)
        won = paid >= 1.0 and not state.game_info[0]["invalid_move"]
        score = 1.0 if won else min(max(paid, 0.0), LOST)
        return State("\n\n".join([*heard, reason]), score, won, not won, (), admissible)

    @contextlib.contextmanager
    def _own_randomness(self) -> Iterator[None]:
        """Python's and numpy's random numbers go on where this game left them, and come back as they were."""
        import numpy as np

        before = random.getstate(), np.random.get_state()
        if self._random is not None:
            random.setstate(self._random[0])
            np.random.set_state(self._random[1])
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # games print
                yield
        finally:
            self._random = random.getstate(), np.random.get_state()
            random.setstate(before[0])
            np.random.set_state(before[1])


def _outcome(paid: Any, reason: str) -> tuple[float, str]:
    """What a game pays and why: three games mix up the two where a broken rule ends them."""
    if isinstance(paid, str):
        return float(reason.rpartition(" ")[2]), f"Invalid Move: {paid}"
    return float(paid), reason
