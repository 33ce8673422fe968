"""Trajectories to tensors: the ids that were seen and sampled, padded on the right, and a `Batch` over them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..agents.trajectory import Row, Trajectory
from ..envs.core import StopReason
from ..envs.errors import RequestError
from ..rewards.components import score
from .batch import Batch
from .extract import extract


class Encoded(NamedTuple):
    """Rows as the trainer reads them."""

    ids: Tensor
    """[B, T] token ids; 0 where padded."""
    lengths: list[int]
    """Tokens of each row."""
    batch: Batch
    trajectories: list[Trajectory]
    """Those that are in the batch, by `Batch.trajectory`."""


def encode(trajectories: Sequence[Trajectory], weights: Mapping[str, float], extras: Iterable[str] = ()) -> Encoded:
    """One batch from the episodes of one step, `weights` naming the reward components.

    Episodes that say nothing about the policy (`StopReason.is_error`) and those without a policy
    token are left out. Rewards stay apart by component in `Batch.rewards`; their weighted sum per
    turn sits on the turn's last action token in `Batch.token_rewards`. `extras` names what else the
    algorithm needs (`extract.READERS`).
    """
    kept = [t for t in trajectories if not t.stop.is_error and t.policy_tokens]
    if not kept:
        raise RequestError("Expected at least one episode with policy tokens; every episode of this step failed.")
    rows = [(index, row) for index, t in enumerate(kept) for row in t.rows()]
    scored = [score(t, dict(weights)) for t in kept]
    owner = torch.tensor([index for index, _ in rows])
    action = _pad([row.action for _, row in rows], False, torch.bool)
    turn = _pad([row.turn for _, row in rows], -1, torch.long)
    names = tuple(weights)
    totals = torch.tensor([[sum(parts[name] or [0.0]) for name in names] for parts in scored])
    batch = Batch(
        group=torch.tensor([t.group for t in kept])[owner],
        trajectory=owner,
        mask=action,
        turn=turn,
        rewards=totals[owner],
        reward_names=names,
        task=[kept[index].task.key for index, _ in rows],
        token_rewards=_turn_rewards(rows, kept, scored, action),
        logp_rollout=_pad([row.logprobs for _, row in rows], 0.0, torch.float32),
        anchors=[[kept[i].turns[t].anchor for t in sorted(set(row.turn) - {-1})] for i, row in rows],
        valid=_pad([[t >= 0 and kept[i].turns[t].admissible for t in row.turn] for i, row in rows], False, torch.bool),
        terminated=torch.tensor([t.stop in (StopReason.SUCCESS, StopReason.FAILURE) for t in kept])[owner],
        truncated=torch.tensor([t.stop.is_truncated for t in kept])[owner],
        version=torch.tensor([row.version for _, row in rows]),
        extras=extract(extras, kept, rows),
    )
    ids = _pad([row.ids for _, row in rows], 0, torch.long)
    return Encoded(ids, [len(row.ids) for _, row in rows], batch.validate(), kept)


def _turn_rewards(
    rows: Sequence[tuple[int, Row]],
    kept: Sequence[Trajectory],
    scored: Sequence[Mapping[str, Sequence[float] | None]],
    action: Tensor,
) -> Tensor:
    rewards = torch.zeros(action.shape)
    for b, (index, row) in enumerate(rows):
        per_turn = [sum(values) for values in zip(*(v for v in scored[index].values() if v is not None), strict=True)]
        last = {turn: position for position, turn in enumerate(row.turn) if turn >= 0}
        for turn, position in last.items():
            rewards[b, position] = per_turn[turn]
    return rewards


def _pad(rows: Sequence[Sequence[float]], value: float, dtype: torch.dtype) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows], dtype=dtype)
