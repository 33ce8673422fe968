"""`TextEnv`: the environment contract. A game implements `start`, `act` and `expert`; the rest is here."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, ClassVar, NamedTuple

import gymnasium
from gymnasium import spaces
from pydantic import BaseModel, ConfigDict, Field

from .errors import EnvError, RequestError
from .task import Task

MAX_ACTION_CHARS = 500
MAX_OBSERVATION_CHARS = 20_000
NOT_AN_ACTION = "That is not an action. Write one short line of text."


class StopReason(StrEnum):
    """Why an episode ended. Closed: credit, reward and evaluation treat each value on purpose."""

    SUCCESS = "success"
    FAILURE = "failure"
    TURN_LIMIT = "turn_limit"
    TOKEN_LIMIT = "token_limit"
    CONTEXT_LIMIT = "context_limit"
    TIME_LIMIT = "time_limit"
    INVALID_LIMIT = "invalid_limit"
    ENV_ERROR = "env_error"
    ENGINE_ERROR = "engine_error"
    ABORTED = "aborted"

    @property
    def is_error(self) -> bool:
        """The episode says nothing about the policy: it is neither trained on nor counted as a loss."""
        return self in (StopReason.ENV_ERROR, StopReason.ENGINE_ERROR, StopReason.ABORTED)

    @property
    def is_truncated(self) -> bool:
        """A limit ended the episode, not the game: value bootstraps or the turn is masked."""
        return self.value.endswith("_limit")


class State(NamedTuple):
    """What a game says after its start or after an action."""

    observation: str
    score: float = 0.0
    """Cumulative, never a delta; `TextEnv` makes the deltas."""
    success: bool = False
    """Strict: the goal is reached. Never just 'the game is over'."""
    failure: bool = False
    """The game is over and lost."""
    commands: tuple[str, ...] | None = None
    """Actions possible now, where the game can list them."""
    admissible: bool = True
    """The action just taken was possible; a game without a list decides itself."""
    valid: bool = True
    """The action just taken could be parsed; for games whose actions have a grammar of their own."""
    extra: dict[str, Any] | None = None
    """Further entries of `info`, JSON values."""


class Snapshot(BaseModel):
    """One moment of an episode, for `TextEnv.restore`.

    As JSON it is the way here and what was met on it, so any process with the same game can go back to it. Engines
    that can be copied add a clone, which stays in the process.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Task
    actions: tuple[str, ...] = Field(description="since the reset, cleaned; empty where one could not be parsed")
    digests: tuple[str, ...] = Field(description="of the states after the reset and after each action")
    observation: str = Field(description="what the agent sees now")
    clone: Any = Field(default=None, exclude=True, repr=False, description="the engine's copy, where it makes one")


class _Clone(NamedTuple):
    """What `restore` sets beside the engine's own state."""

    engine: Any
    goal: str
    max_score: float
    history: tuple[tuple[str, State], ...]


class TextSpace(spaces.Text):
    """All strings up to `max_length` characters; samples printable ASCII."""

    def __init__(self, max_length: int) -> None:
        super().__init__(max_length, min_length=0, charset="abcdefghijklmnopqrstuvwxyz ")

    def contains(self, x: Any) -> bool:
        return isinstance(x, str) and len(x) <= self.max_length


class TextEnv(gymnasium.Env[str, str], ABC):
    """A game in text with the promises of `turnwise check`.

    `reset(seed=…, options={"task": Task})` plays that task; without one it draws a task of `split`.
    `step(action)` returns the usual five values; the reward is `score_t - score_{t-1}`.

    `info` always holds: `score`, `max_score`, `success`, `valid` (parsable), `admissible` (possible
    when it was tried), `anchor` (raw observation), `commands` (tuple or None), `goal`, `turn`, `task`
    (key) and `stop` (a `StopReason` value or None).
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012  gymnasium's own attribute
    id: ClassVar[str]
    max_score: float = 1.0
    max_action_chars: ClassVar[int] = MAX_ACTION_CHARS
    max_observation_chars: ClassVar[int] = MAX_OBSERVATION_CHARS
    unknown_action: ClassVar[str] = "turnwise knows no such words"
    """An action that every game of this kind parses and none knows."""
    isolated: ClassVar[bool] = False
    """True: the engine is not safe beside others, so rollouts play it in a worker process."""

    def __init__(self, split: str = "train", render_mode: str | None = None, **params: Any) -> None:
        self.split, self.params, self.render_mode = split, params, render_mode
        self.action_space = TextSpace(self.max_action_chars)
        self.observation_space = TextSpace(self.max_observation_chars)
        self.task: Task | None = None
        self.goal = ""
        self.turn = 0
        self.state = State("")
        self._history: list[tuple[str, State]] = []
        self._digests: list[str] = []
        self._pool: Sequence[Task] = ()

    # ---- what a game implements -------------------------------------------------------------------

    @abstractmethod
    def start(self, task: Task) -> State:
        """Begin `task`; may set `self.goal` and `self.max_score`."""

    @abstractmethod
    def act(self, action: str) -> State:
        """Take one action that passed `clean`."""

    def clean(self, action: Any) -> str | None:
        """`action` as `act` gets it, or None when it is refused: one printable line of at most `max_action_chars`."""
        return clean_action(action, self.max_action_chars)

    @abstractmethod
    def expert(self) -> str:
        """The next action of a policy that wins every task, given everything done so far."""

    @classmethod
    @abstractmethod
    def tasks(cls, split: str, count: int | None = None, **params: Any) -> list[Task]:
        """The first `count` tasks of `split` (all when None), always in the same order."""

    @classmethod
    @abstractmethod
    def splits(cls) -> dict[str, int]:
        """Split name -> number of tasks available here and now."""

    @classmethod
    def splits_with(cls, **params: Any) -> dict[str, int]:
        """`splits` where the parameters decide which there are."""
        return cls.splits()

    def tool_schemas(self) -> list[dict[str, Any]]:
        """Name, description and parameters (a JSON schema) of each tool of the episode; none in a game of words."""
        return []

    @classmethod
    def unprepared(cls, tasks: Sequence[Task]) -> list[Task]:
        """Those whose first start is slow and not yet done, for games that are compiled."""
        return []

    def clone_state(self) -> Any:
        """An independent copy of the game's state where that is cheap, else None: `restore` then replays."""
        return None

    def restore_state(self, clone: Any) -> bool:
        """Continue from a copy of `clone`, which must stay as it is; False where this engine cannot."""
        return False

    @classmethod
    def has_expert(cls, task: Task) -> bool:
        """Whether `expert()` is known to win `task`; where False, it raises `RequestError`."""
        return True

    @classmethod
    def missing(cls) -> str:
        """What is not here of the data that this environment can use, and how to get it; empty when nothing is."""
        return ""

    # ---- the contract -----------------------------------------------------------------------------

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.task = self._choose(options or {})
        self.turn = 0
        self.goal = self.task.goal
        self.state = self.start(self.task)
        self._history, self._digests = [("", self.state)], []
        return self._observation(), self._info(valid=True, stop=None)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if self.task is None:
            raise RequestError("step() came before reset(). Call reset() first.")
        before, cleaned = self.state, self.clean(action)
        self.turn += 1
        if cleaned is None:
            self.state = before._replace(observation=NOT_AN_ACTION, admissible=False, extra=None)
        else:
            self.state = self.act(cleaned)
        self._history.append((cleaned or "", self.state))
        stop = self._stop()
        terminated = stop in (StopReason.SUCCESS, StopReason.FAILURE)
        truncated = stop is StopReason.TURN_LIMIT
        reward = float(self.state.score - before.score)
        valid = cleaned is not None and self.state.valid
        return self._observation(), reward, terminated, truncated, self._info(valid, stop)

    def snapshot(self) -> Snapshot:
        """This moment, to come back to with `restore` any number of times."""
        if self.task is None:
            raise RequestError("snapshot() came before reset(). Call reset() first.")
        self._digests += [_digest(state) for _, state in self._history[len(self._digests) :]]
        engine = self.clone_state()
        return Snapshot(
            task=self.task,
            actions=tuple(action for action, _ in self._history[1:]),
            digests=tuple(self._digests),
            observation=self._observation(),
            clone=None if engine is None else _Clone(engine, self.goal, self.max_score, tuple(self._history)),
        )

    def restore(self, snapshot: Snapshot) -> tuple[str, dict[str, Any]]:
        """Go back to `snapshot`; returns what its last `step` or `reset` gave as observation and info.

        Without a clone the actions are replayed; raises `EnvError` where the game answers otherwise than it did.
        """
        task = self._choose({"task": snapshot.task})
        clone = snapshot.clone
        if isinstance(clone, _Clone) and self.restore_state(clone.engine):
            self.task, self.goal, self.max_score = task, clone.goal, clone.max_score
            self._history, self._digests = list(clone.history), list(snapshot.digests)
            self.turn, self.state = len(snapshot.actions), clone.history[-1][1]
        else:
            self._replay(snapshot)
        valid = not snapshot.actions or (snapshot.actions[-1] != "" and self.state.valid)
        return self._observation(), self._info(valid, self._stop() if self.turn else None)

    def render(self) -> str:  # type: ignore[override]
        return self.state.observation

    def _replay(self, snapshot: Snapshot) -> None:
        for turn, expected in enumerate(snapshot.digests):
            if turn == 0:
                self.reset(options={"task": snapshot.task})
            else:
                self.step(snapshot.actions[turn - 1])
            if _digest(self.state) != expected:
                raise EnvError(
                    f"Expected turn {turn} of task {snapshot.task.key} as the snapshot recorded it, got "
                    f"{self.state.observation[:80]!r}: the game is not deterministic, or not the same version."
                )

    def _choose(self, options: dict[str, Any]) -> Task:
        task = options.get("task")
        if task is not None:
            task = Task.model_validate(task) if isinstance(task, dict) else task
            if task.env != self.id:
                raise RequestError(f"Expected a task of {self.id!r}, got one of {task.env!r}.")
            return task
        if not self._pool:
            self._pool = self.tasks(self.split, **self.params)
        if not self._pool:
            raise RequestError(
                f"{self.id} has no task in split {self.split!r} here. `turnwise envs` says what is missing."
            )
        return self._pool[int(self.np_random.integers(len(self._pool)))]

    def _stop(self) -> StopReason | None:
        assert self.task is not None
        if self.state.success:
            return StopReason.SUCCESS
        if self.state.failure:
            return StopReason.FAILURE
        return StopReason.TURN_LIMIT if self.turn >= self.task.max_turns else None

    def _observation(self) -> str:
        return self.state.observation[: self.max_observation_chars]

    def _info(self, valid: bool, stop: StopReason | None) -> dict[str, Any]:
        assert self.task is not None
        return {
            "score": float(self.state.score),
            "max_score": float(self.max_score),
            "success": self.state.success,
            "valid": valid,
            "admissible": valid and self.state.admissible,
            "anchor": self.state.observation,
            "commands": self.state.commands,
            "goal": self.goal,
            "turn": self.turn,
            "task": self.task.key,
            "stop": stop.value if stop else None,
            **(self.state.extra or {}),
        }


def _digest(state: State) -> str:
    """First 16 hex digits of the SHA-256 of what a state says and is worth, lists of commands left out."""
    text = json.dumps([state.observation, float(state.score), state.success, state.failure])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def clean_action(action: Any, max_chars: int = MAX_ACTION_CHARS) -> str | None:
    """One line of printable text with single spaces, or None when `action` is not that.

    Engines see only what passes here: interpreters written in C do not survive ten kilobytes of
    noise or control characters.
    """
    if not isinstance(action, str) or len(action) > max_chars:
        return None
    text = " ".join(action.split())
    return text if text and text.isprintable() else None
