"""What an update made of each sampled token, turn by turn, for readers of an episode."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from torch import Tensor

from ..agents.trajectory import Trajectory
from .batch import Batch

Shades: TypeAlias = "dict[tuple[int, int], dict[str, array[float]]]"
"""(trajectory, turn) -> name -> one float32 per action token of that turn, in order."""


def by_turn(batch: Batch, **named_BT: Tensor) -> Shades:
    """The [B, T] values of each turn's action tokens; in windowed contexts every row holds one turn."""
    found: Shades = {}
    plain = {name: x_BT.float().cpu().tolist() for name, x_BT in named_BT.items()}
    turns, masks = batch.turn.tolist(), batch.mask.tolist()
    for row, trajectory in enumerate(batch.trajectory.tolist()):
        for position, turn in enumerate(turns[row]):
            if masks[row][position]:
                kept = found.setdefault((trajectory, turn), {name: array("f") for name in plain})
                for name, values in plain.items():
                    kept[name].append(values[row][position])
    return found


def of_episodes(
    shades: Shades, learned: Sequence[Trajectory], recorded: Sequence[Trajectory]
) -> list[Mapping[int, dict[str, array[float]]]]:
    """For each recorded episode turn -> values; empty where the update did not read it. `learned` is the batch's."""
    by_trajectory: dict[int, dict[int, dict[str, array[float]]]] = {}
    for (trajectory, turn), values in shades.items():
        by_trajectory.setdefault(trajectory, {})[turn] = values
    place = {id(t): index for index, t in enumerate(learned)}
    return [by_trajectory.get(place.get(id(t), -1), {}) for t in recorded]
