"""Reward components: what each turn of a finished episode was worth, kept apart by name.

A component maps an episode to one number per turn, or to None where the episode cannot be scored (the
environment or the engine broke: no reward is not reward 0). To add one, write the function and a line
in `COMPONENTS`; recipes name it with a weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from ..envs.core import StopReason
from ..envs.errors import RequestError, UnknownName


class ScoredTurn(Protocol):
    """What a component reads of a turn."""

    @property
    def reward(self) -> float: ...
    @property
    def score(self) -> float: ...
    @property
    def valid(self) -> bool: ...
    @property
    def admissible(self) -> bool: ...
    @property
    def counts(self) -> Mapping[str, float]: ...


class ScoredEpisode(Protocol):
    """What a component reads of an episode; `agents.Trajectory` is one."""

    @property
    def turns(self) -> Sequence[ScoredTurn]: ...
    @property
    def max_score(self) -> float: ...
    @property
    def success(self) -> bool: ...
    @property
    def stop(self) -> StopReason: ...


def outcome(episode: ScoredEpisode) -> list[float] | None:
    """1 on the last turn of a success, else 0."""
    if episode.stop.is_error:
        return None
    last = len(episode.turns) - 1
    return [float(episode.success and index == last) for index in range(len(episode.turns))]


def progress(episode: ScoredEpisode) -> list[float] | None:
    """`(score_t - score_{t-1}) / max_score`: sums to 1 on a win, to less on a loss.

    Source: the dense reward of arXiv 2510.01132, divided by the same number on wins and losses.
    """
    if episode.stop.is_error:
        return None
    if episode.max_score <= 0:
        raise RequestError(f"Expected max_score > 0 to measure progress, got {episode.max_score}.")
    return [turn.reward / episode.max_score for turn in episode.turns]


def invalid_penalty(episode: ScoredEpisode) -> list[float] | None:
    """-1 on each turn whose action could not be parsed, else 0."""
    return None if episode.stop.is_error else [-float(not turn.valid) for turn in episode.turns]


def inadmissible_penalty(episode: ScoredEpisode) -> list[float] | None:
    """-1 on each turn whose action was parsed but not possible, else 0."""
    return None if episode.stop.is_error else [-float(turn.valid and not turn.admissible) for turn in episode.turns]


def violation_penalty(episode: ScoredEpisode) -> list[float] | None:
    """-1 on each turn in which the environment saw a rule of its policy broken, else 0.

    Environments that count `violations` deny success to whoever broke a rule, so a win pays nothing.
    """
    if episode.stop.is_error:
        return None
    return [-float(turn.counts.get("violations", 0.0) > 0) for turn in episode.turns]


def step_cost(episode: ScoredEpisode) -> list[float] | None:
    """-1 on each turn."""
    return None if episode.stop.is_error else [-1.0] * len(episode.turns)


class Component(NamedTuple):
    """A component and how far its sum over an episode can go; bounds take the turn limit T >= 1."""

    per_turn: Callable[[ScoredEpisode], list[float] | None]
    worst_win: Callable[[int], float]
    """Lower bound over episodes that succeed; their last action is valid and admissible."""
    best_loss: Callable[[int], float]
    """Upper bound over episodes of at least one turn that do not succeed."""
    reached: bool = True
    """False: a loss comes near its bound but stays below."""


COMPONENTS: dict[str, Component] = {
    "outcome": Component(outcome, lambda T: 1.0, lambda T: 0.0),
    "progress": Component(progress, lambda T: 1.0, lambda T: 1.0, reached=False),
    "invalid_penalty": Component(invalid_penalty, lambda T: 1.0 - T, lambda T: 0.0),
    "inadmissible_penalty": Component(inadmissible_penalty, lambda T: 1.0 - T, lambda T: 0.0),
    "violation_penalty": Component(violation_penalty, lambda T: 0.0, lambda T: 0.0),
    "step_cost": Component(step_cost, lambda T: -float(T), lambda T: -1.0),
}


def component(name: str) -> Component:
    """The component called `name`."""
    if name not in COMPONENTS:
        raise UnknownName("reward component", name, COMPONENTS)
    return COMPONENTS[name]


def score(episode: ScoredEpisode, weights: Mapping[str, float]) -> dict[str, list[float] | None]:
    """Weighted rewards by component, one number per turn; None for a component that does not score this episode."""
    rewards = {name: component(name).per_turn(episode) for name in weights}
    return {
        name: None if per_turn is None else [weights[name] * value for value in per_turn]
        for name, per_turn in rewards.items()
    }


def total(episode: ScoredEpisode, weights: Mapping[str, float]) -> float | None:
    """Sum over components and turns; None when no component scores this episode."""
    scored = [per_turn for per_turn in score(episode, weights).values() if per_turn is not None]
    return sum(map(sum, scored)) if scored else None


def check_ordering(weights: Mapping[str, float], max_turns: int) -> None:
    """Refuse weights under which an episode that fails could score as much as one that succeeds.

    With w_c >= 0 the gap between the worst win and the best loss is at least
    `sum_c w_c (worst_win_c(T) - best_loss_c(T))`, T = `max_turns`. It must be positive, or zero where a
    component with positive weight keeps losses strictly below its bound. The bound takes the extremes
    of all components at once, so it may refuse weights that no real episode would upset.

    Raises `RequestError` with the gap and what each component contributes.
    """
    if not weights or min(weights.values()) < 0:
        raise RequestError(
            f"Expected reward weights >= 0 (penalties are negative by themselves), at least one, got {dict(weights)}."
        )
    parts = {
        name: weight * (component(name).worst_win(max_turns) - component(name).best_loss(max_turns))
        for name, weight in weights.items()
    }
    gap = sum(parts.values())
    strict = any(weight > 0 and not component(name).reached for name, weight in weights.items())
    if gap > 0 or (gap == 0 and strict):
        return
    each = ", ".join(f"{name} {part:+.3g}" for name, part in parts.items())
    raise RequestError(
        f"With these reward weights a failed episode of up to {max_turns} turns could score as much as a success: "
        f"expected worst win - best loss > 0, got {gap:.3g} ({each}). Raise outcome or lower the penalties."
    )
