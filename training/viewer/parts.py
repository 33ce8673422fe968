"""What each reward component gave in each turn, reckoned from what was recorded."""

from __future__ import annotations

from typing import Any, NamedTuple

from ...envs.core import StopReason
from ...rewards.components import COMPONENTS, score


class _Scored(NamedTuple):
    """What reward components read of a recorded turn or episode."""

    reward: float = 0.0
    score: float = 0.0
    valid: bool = True
    admissible: bool = True
    counts: dict[str, float] = {}  # noqa: RUF012
    turns: tuple[_Scored, ...] = ()
    max_score: float = 1.0
    success: bool = False
    stop: StopReason = StopReason.ABORTED


def reward_parts(card: dict[str, Any], shown: dict[str, Any], turns: list[dict[str, Any]]) -> list[dict[str, float]]:
    """For each turn what each reward component of the recipe gave; zeros and components unknown here are left out."""
    recipe = card.get("recipe")
    weights = recipe.get("rewards") if isinstance(recipe, dict) else None
    known = {name: weight for name, weight in (weights or {}).items() if name in COMPONENTS}
    played = tuple(_Scored(t["reward"], t["score"], t["valid"], t["admissible"], t["counts"]) for t in turns)
    episode = _Scored(
        turns=played, max_score=shown["max_score"], success=bool(shown["success"]), stop=StopReason(shown["stop"])
    )
    parts = score(episode, known) if played and known else {}
    return [{name: each[i] for name, each in parts.items() if each and each[i]} for i in range(len(turns))]
