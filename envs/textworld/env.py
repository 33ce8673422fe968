"""`TextWorldEnv`: Microsoft TextWorld's generated games, played by its own interpreter."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from ..core import State, TextEnv
from ..errors import RequestError
from ..task import Task
from .games import ENV_ID, SPLITS, ensure_game, make_tasks, unprepared

NOT_A_VERB = "That's not a verb I recognise."
"""The engine's own words for an unknown verb, given for commands to the interpreter too."""

ONE_ACTION = "Write one action at a time."
NOTHING_TO_REPEAT = "You can hardly repeat that."
NO_ANSWER = "Nothing happens."

INTERPRETER_VERBS = frozenset(
    word[:9]
    for word in [
        "q",
        "quit",
        "die",
        "restart",
        "restore",
        "save",
        "undo",
        "o",
        "oops",
        "script",
        "transcript",
        "noscript",
        "unscript",
        "recording",
        "commands",
        "replay",
        "verify",
        "version",
        "brief",
        "normal",
        "verbose",
        "long",
        "superbrief",
        "short",
        "notify",
        "nouns",
        "pronouns",
        "restrict",
        "enable",
        "disable",
        "print_state",
    ]
)
"""First nine letters, which is all that the interpreter reads, of the verbs that act on the program and not
in the game: they write files, leave the game, or (`print_state`) show what the player cannot see."""

REFUSALS = (
    NOT_A_VERB,
    "I didn't understand that sentence.",
    "I only understood you as far as",
    "You can't see any such thing.",
    "You can't go that way.",
    "You have to be more specific!",
    "You'll have to say",
    "What do you want to",
)
"""How the engine opens its answer to an action that is not possible."""

_STATUS_LINE = re.compile(r"\n?>\s*-= [^\n]* =-\s*-?\d+/\d+\s*$")
_MENU = re.compile(r"\s*Would you like to RESTART, RESTORE a saved game, QUIT or UNDO the last command\?")
_NO_EFFECT = ("look", "l", "inventory", "i", "examine", "x")


class TextWorldEnv(TextEnv):
    """Families custom, coin_collector, treasure_hunter, cooking and simple; score as the game counts it.

    `commands=True` lists the admissible commands each turn (about a third of the engine's speed).
    The goal is in `info["goal"]`; the title and the status line of the engine's text are left out.
    An action is one command: interpreter commands (quit, save, undo, …) are answered like unknown verbs.
    """

    id: ClassVar[str] = ENV_ID
    isolated: ClassVar[bool] = True

    def __init__(
        self, split: str = "train", render_mode: str | None = None, commands: bool = True, **params: Any
    ) -> None:
        super().__init__(split, render_mode, **params)
        self._lists_commands = commands
        self._game: Any = None
        self._path: Path | None = None
        self._dense = False
        self._walkthrough: list[str] = []
        self._sent: list[str] = []
        self._position: int | None = 0
        self._moves = 0

    @classmethod
    def unprepared(cls, tasks: Sequence[Task]) -> list[Task]:
        return unprepared(tasks)

    @classmethod
    def splits(cls) -> dict[str, int]:
        return {split: size for split, (_, size) in SPLITS.items()}

    @classmethod
    def tasks(cls, split: str, count: int | None = None, **params: Any) -> list[Task]:
        """The first `count` tasks of `split`.

        `family` and its sizes: custom `rooms objects quest` (or `grid="w2-o3-q4"`), coin_collector and
        treasure_hunter `level`, cooking `recipe take go open cook cut drop recipe_seed foods`, simple
        `rewards goal foods`. `max_turns` replaces the family's limit; `walkthrough_in_goal=True` lets the
        goal spell out every step, as TextWorld does unless told not to; `dense=True` counts the steps that
        are left of the engine's winning policy where the game itself pays only at the end.
        """
        return make_tasks(split, count, **params)

    def start(self, task: Task) -> State:
        path, dense = ensure_game(task), bool(task.params.get("dense", False))
        if (path, dense) != (self._path, self._dense):
            self.close()
            self._game = _start_game(path, commands=self._lists_commands, policy=dense)
            self._path, self._dense = path, dense
        facts = json.loads(path.with_suffix(".json").read_text())
        self._walkthrough = list(facts["metadata"]["walkthrough"])
        self.goal = str(facts["objective"])
        self._sent, self._position, self._moves = [], 0, 0
        found = self._game.reset()
        self.max_score = float(len(self._walkthrough) if dense else found.max_score)
        return self._state(found, _opening(found.feedback, self.goal), admissible=True)

    def act(self, action: str) -> State:
        if self.state.success or self.state.failure:
            return self.state._replace(observation="The game is over.", admissible=False)
        refusal = refuse(action, first=not self._sent)
        if refusal is not None:
            return self.state._replace(observation=refusal, admissible=False)
        self._sent.append(action)
        found, _, _ = self._game.step(action)
        observation = _clean(found.feedback) or NO_ANSWER
        admissible = self._was_admissible(action, observation, int(found.moves))
        self._position = follow(self._walkthrough, self._position, action.lower(), admissible)
        return self._state(found, observation, admissible)

    def expert(self) -> str:
        """The next command of the walkthrough; after other actions, the engine's policy from here."""
        if self._position is not None and self._position < len(self._walkthrough):
            return self._walkthrough[self._position]
        policy = self._policy()
        if not policy:
            raise RequestError("The expert knows no way to win from here: the actions so far left the walkthrough.")
        return policy[0]

    def close(self) -> None:
        if self._game is not None:
            self._game.close()
        self._game = self._path = None

    def _state(self, found: Any, observation: str, admissible: bool) -> State:
        over = bool(found.won or found.lost)
        listed = tuple(found.admissible_commands) if self._lists_commands and not over else ()
        return State(
            observation,
            self._progress(found) if self._dense else float(found.score),
            success=bool(found.won),
            failure=bool(found.lost) and not found.won,
            commands=listed if self._lists_commands else None,
            admissible=admissible,
        )

    def _progress(self, found: Any) -> float:
        """Steps of the winning policy done: as many as it had less those that are left, never below 0.

        Below `max_score` unless the goal is reached, so no loss pays like a win; 0 once no policy wins.
        """
        if found.won or found.lost or not found.policy_commands:
            return self.max_score if found.won else 0.0
        return max(0.0, self.max_score - len(found.policy_commands))

    def _was_admissible(self, action: str, observation: str, moves: int) -> bool:
        """It was listed, or the engine did it: 'get lamp' is as good as the listed 'take lamp'."""
        moved, self._moves = moves > self._moves, moves
        if self._lists_commands:
            return moved or action.lower() in map(str.lower, self.state.commands or ())
        return not observation.startswith(REFUSALS)

    def _policy(self) -> list[str]:
        """The engine's winning policy after replaying this episode; costly, so computed only when asked for."""
        assert self._path is not None
        game = _start_game(self._path, policy=True)
        try:
            found = game.reset()
            for action in self._sent:
                found, _, _ = game.step(action)
            return list(found.policy_commands or ())
        finally:
            game.close()


def refuse(action: str, first: bool = False) -> str | None:
    """The answer to an action that must not reach the interpreter, or None for one that may.

    The first one cannot ask for a repetition: what the interpreter heard before it is ours, not the player's.
    """
    text = action.lower().rstrip(" .!")
    words = text.split()
    if not words or words[0][:9] in INTERPRETER_VERBS or words[0].startswith(("tw-", "print_")):
        return NOT_A_VERB
    if first and words[0] in ("again", "g"):
        return NOTHING_TO_REPEAT
    if "\\" in text:  # the interpreter's front end takes what follows as a key
        return NOT_A_VERB
    if any(mark in text for mark in ".,;") or "then" in words:
        return ONE_ACTION
    return None


def follow(walkthrough: list[str], position: int | None, action: str, admissible: bool) -> int | None:
    """Index of the walkthrough's next command after `action`; None once the game went elsewhere.

    Actions without effect (looking, impossible ones) leave the position; the walkthrough's own may be skipped.
    """
    if position is None:
        return None
    for index in range(position, len(walkthrough)):
        if walkthrough[index].lower() == action:
            return index + 1
        if not _is_idle(walkthrough[index]):
            break
    return position if not admissible or _is_idle(action) else None


def _is_idle(command: str) -> bool:
    return command.split()[0] in _NO_EFFECT


def _start_game(path: Path, commands: bool = False, policy: bool = False) -> Any:
    from textworld.core import EnvInfos
    from textworld.helpers import start

    infos = EnvInfos(
        feedback=True, score=True, max_score=True, won=True, lost=True, moves=True,
        admissible_commands=commands, policy_commands=policy,
    )  # fmt: skip
    return start(str(path), infos)


def _opening(feedback: str, goal: str) -> str:
    """The first room: what follows the title's letters of dollar signs and the goal, where there is one."""
    after_title = feedback.rpartition("$$")[2]
    return _clean((goal and after_title.partition(goal)[2]) or after_title)


def _clean(feedback: str) -> str:
    """The engine's text without the status line (room, score/moves), the closing menu and runs of blank lines."""
    text = _MENU.sub("", _STATUS_LINE.sub("", feedback))
    return re.sub(r"\n\s*\n+", "\n\n", text).strip()
