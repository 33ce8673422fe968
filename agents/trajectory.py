"""What an episode leaves: `Segment`, `Turn`, `Trajectory`. Immutable, versioned, exact to the token."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..envs.core import StopReason
from ..envs.task import Task

SCHEMA_VERSION = 1


class Owner(StrEnum):
    """Who wrote a token."""

    POLICY = "policy"
    ENVIRONMENT = "environment"


class Segment(BaseModel):
    """Token ids of one owner, as the engine saw or sampled them. Text is derived from ids, never re-encoded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    owner: Owner
    ids: tuple[int, ...]
    logprobs: tuple[float, ...] | None = None
    """Natural logs under the distribution sampled from, one per id; None on environment tokens."""
    version: int | None = None
    """Version of the weights that sampled these ids."""

    @model_validator(mode="after")
    def _one_logprob_per_id(self) -> Segment:
        if self.logprobs is not None and len(self.logprobs) != len(self.ids):
            raise ValueError(f"expected {len(self.ids)} log-probs, one per id, got {len(self.logprobs)}")
        return self


class Turn(BaseModel):
    """One observation and the action that answered it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    observation: str
    anchor: str
    """Raw observation without decoration: equal anchors are equal states for step-level credit."""
    action: str
    """What the environment was given; empty when nothing could be parsed."""
    reward: float
    """Score delta in the environment's own units."""
    score: float
    valid: bool
    admissible: bool
    counts: dict[str, float] = {}
    """What the environment counted in this turn, such as `tool_calls`, `tool_cost` and `violations`."""
    prompt: Segment | None = None
    """Environment-owned ids added before this action; None for scripted agents."""
    output: Segment | None = None
    """Policy-owned ids of this action with its end token."""
    restart: bool = False
    """The context was rebuilt for this turn, so a new training row begins here."""


class Row(NamedTuple):
    """One training row: a context that only grew. All lists have one entry per token."""

    ids: list[int]
    action: list[bool]
    """True on policy-owned tokens."""
    logprobs: list[float]
    """0 on environment tokens."""
    turn: list[int]
    """Turn index within the trajectory; -1 on environment tokens."""
    version: int


class Trajectory(BaseModel):
    """One episode. A failed episode is a record too; its `stop` says what failed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    task: Task
    agent: str
    group: int = 0
    """Episodes of one group play the same task from the same start."""
    copy_index: int = Field(default=0, description="which of the group's copies this is")
    seed: int = 0
    turns: tuple[Turn, ...] = ()
    final_observation: str = ""
    stop: StopReason
    success: bool = False
    score: float = 0.0
    max_score: float = 1.0
    error: str | None = None
    seconds: float = 0.0
    pivot: int = Field(
        default=0,
        ge=0,
        description="turn from which it is learned from: a retry shares what comes before with its base",
    )
    mode: str = Field(default="", description="the context's mode that the episode was played in")
    forced: bool = Field(default=False, description="the mode was given to the policy, not chosen by it")

    def rows(self) -> Iterator[Row]:
        """Training rows: one for a transcript, one per turn where the context was rebuilt each turn."""
        row: Row | None = None
        for index, turn in enumerate(self.turns):
            if turn.prompt is None or turn.output is None:
                continue
            if turn.restart or row is None:
                if row is not None:
                    yield row
                row = Row([], [], [], [], turn.output.version or 0)
            _append(row, turn.prompt, -1)
            _append(row, turn.output, index)
        if row is not None:
            yield row

    def __repr__(self) -> str:
        """A line, not a book: `asyncio.run` makes this text of what its coroutine returns (CPython's `getsignal`)."""
        return f"Trajectory({self.task.key}, {self.stop.value}, score {self.score:g}, {len(self.turns)} turns)"

    @property
    def policy_tokens(self) -> int:
        """Number of tokens the policy sampled."""
        return sum(len(turn.output.ids) for turn in self.turns if turn.output)

    def summary(self) -> dict[str, Any]:
        """The fields a table of episodes shows."""
        return {
            "task": self.task.key, "group": self.group, "copy": self.copy_index, "stop": self.stop.value,
            "success": self.success, "score": self.score, "max_score": self.max_score, "turns": len(self.turns),
            "policy_tokens": self.policy_tokens, "seconds": self.seconds, "error": self.error,
        }  # fmt: skip


def _append(row: Row, segment: Segment, turn: int) -> None:
    count = len(segment.ids)
    row.ids.extend(segment.ids)
    row.action.extend([segment.owner is Owner.POLICY] * count)
    row.logprobs.extend(segment.logprobs or [0.0] * count)
    row.turn.extend([turn] * count)
