"""`Batch`: the one object that algorithms see. Padded tensors, checked at the door.

Shapes: B rows, T tokens, K reward components, M trajectories, N turns, L action tokens of the longest trajectory.

A row is a whole trajectory (transcript layout) or one turn of it (windowed layout: several rows share a
trajectory id). Everything derived here (`turns`, `trajectories`, `packed`) is the same in both, and so is
every formula built on it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..envs.errors import RequestError, UnknownName

Unit = Literal["token", "turn", "trajectory"]
"""What a mean, a deviation or a sequence ratio runs over."""

TOKEN_FIELDS = ("token_rewards", "logp_old", "logp_rollout", "logp_ref", "entropy", "values", "valid")
"""Optional fields of shape [B, T]."""


EXTRAS: dict[str, str] = {
    "kl_weight": "[B] weight of the KL loss on the row",
    "provenance": "[B] whole numbers: 0 sampled by the policy, 1 expert, 2 hinted, 3 retried with advice that the row "
    "leaves out, 4 replayed from an earlier step, 5 sampled before RL",
}
"""Meaning and shape of what `Batch.extras` may hold; modules of the catalogue add theirs."""
OWN = (0, 2, 4)
"""Provenance of rows that the policy, old or new, sampled in the very context of the row."""


class Turns(NamedTuple):
    """The N turns of a batch, ordered by trajectory, then turn."""

    token_BT: Tensor
    """Which of the N turns an action token belongs to, -1 elsewhere."""
    trajectory_N: Tensor
    """Which of the M trajectories a turn belongs to."""
    row_N: Tensor
    length_N: Tensor
    """Action tokens of the turn."""


class Trajectories(NamedTuple):
    """The M trajectories of a batch, ordered by id."""

    row_B: Tensor
    """Which of the M trajectories a row belongs to."""
    first_row_M: Tensor
    group_M: Tensor
    """Which of the groups (numbered from 0) a trajectory belongs to."""
    groups: int


class Packed(NamedTuple):
    """Action tokens of each trajectory side by side, environment tokens left out, whatever the layout."""

    index_ML: Tensor
    """Position in the flattened [B * T] tensor; 0 where padded."""
    mask_ML: Tensor

    def take(self, x_BT: Tensor) -> Tensor:
        """[B, T] -> [M, L], zero where padded."""
        return x_BT.reshape(-1)[self.index_ML].masked_fill(~self.mask_ML, 0)

    def put(self, x_ML: Tensor, shape: torch.Size) -> Tensor:
        """[M, L] -> [B, T], zero on tokens that are not actions."""
        flat = torch.zeros(shape.numel(), dtype=x_ML.dtype, device=x_ML.device)
        flat[self.index_ML[self.mask_ML]] = x_ML[self.mask_ML]
        return flat.view(shape)


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of tokens with everything an algorithm may need; `validate()` checks shapes, dtypes and sense."""

    group: Tensor
    """[B] long: rows of one task instance (same task, same seed) share it."""
    trajectory: Tensor
    """[B] long: rows of one episode share it."""
    mask: Tensor
    """[B, T] bool: True on tokens the policy sampled."""
    turn: Tensor
    """[B, T] long: index of the turn within the trajectory; -1 where `mask` is False."""
    rewards: Tensor
    """[B, K] float: return of the whole trajectory by component, repeated on each of its rows; never pre-summed."""
    reward_names: tuple[str, ...] = ()
    task: list[str] | None = None
    """Task key by row."""
    token_rewards: Tensor | None = None
    """[B, T] float: each turn's reward, already weighted, on that turn's last action token. None: all at the end."""
    logp_old: Tensor | None = None
    """[B, T] log-probability under the policy that opened this update, by the trainer."""
    logp_rollout: Tensor | None = None
    """[B, T] the same by the engine that sampled."""
    logp_ref: Tensor | None = None
    entropy: Tensor | None = None
    """[B, T] full-vocabulary entropy in nats under the sampling-time policy, detached."""
    values: Tensor | None = None
    """[B, T] critic's value of the state before each action token."""
    final_values: Tensor | None = None
    """[B] critic's value after the last token; used where `truncated`."""
    anchors: list[list[str]] | None = None
    """By row, the raw observation each of its turns answered."""
    valid: Tensor | None = None
    """[B, T] bool: the token's turn was a well-formed action."""
    terminated: Tensor | None = None
    """[B] bool: the environment ended the trajectory."""
    truncated: Tensor | None = None
    """[B] bool: a limit ended the trajectory."""
    version: Tensor | None = None
    """[B] long: weight version that sampled the row."""
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    """What single methods need, by name: first dimension B, the second T where there is one per token (`EXTRAS`)."""
    state: Mapping[str, Any] = field(default_factory=dict)
    """Controller state as of this step (JSON values)."""

    def rows(self, index: Tensor | slice | Sequence[int]) -> Batch:
        """The batch with these rows only, in this order (a micro-batch, a minibatch, a shuffle)."""
        picked = torch.arange(len(self.group), device=self.group.device)[index]
        order = picked.tolist() if self.task is not None or self.anchors is not None else []

        def pick(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value[picked]
            return [value[i] for i in order] if isinstance(value, list) else value

        taken = {f.name: pick(getattr(self, f.name)) for f in dataclasses.fields(self)}
        return dataclasses.replace(self, **taken | {"extras": {key: x[picked] for key, x in self.extras.items()}})

    def to(self, device: torch.device) -> Batch:
        """The batch with every tensor on `device`."""
        fields = ((f.name, getattr(self, f.name)) for f in dataclasses.fields(self))
        moved = {name: value.to(device) for name, value in fields if isinstance(value, Tensor)}
        return dataclasses.replace(self, **moved, extras={name: x.to(device) for name, x in self.extras.items()})

    def extra(self, name: str) -> Tensor:
        """An entry of `extras` that this computation cannot do without."""
        if name not in self.extras:
            raise RequestError(f"Expected extras[{name!r}] in the batch ({EXTRAS[name]}), got none.")
        return self.extras[name]

    def validate(self) -> Batch:
        """This batch, or RequestError naming the first thing wrong with it."""
        _check_shapes(self)
        _check_turns(self)
        _check_rewards(self)
        _check_groups(self)
        return self

    @cached_property
    def trajectories(self) -> Trajectories:
        """Rows by trajectory and trajectories by group."""
        ids, row_B = torch.unique(self.trajectory, return_inverse=True)
        rows = torch.arange(len(row_B), device=row_B.device)
        first_M = torch.full((len(ids),), len(row_B), device=row_B.device).scatter_reduce(0, row_B, rows, "amin")
        groups, group_M = torch.unique(self.group[first_M], return_inverse=True)
        return Trajectories(row_B, first_M, group_M, len(groups))

    @cached_property
    def turns(self) -> Turns:
        """Tokens by turn and turns by trajectory."""
        row_B = self.trajectories.row_B
        stride = int(self.turn.max()) + 1
        keys = (row_B[:, None] * stride + self.turn)[self.mask]
        unique, index = torch.unique(keys, return_inverse=True)
        token_BT = torch.full_like(self.turn, -1)
        token_BT[self.mask] = index
        row_N = torch.zeros_like(unique)
        row_N[index] = self.mask.nonzero()[:, 0]
        length_N = torch.bincount(index, minlength=len(unique))
        return Turns(token_BT, torch.div(unique, max(stride, 1), rounding_mode="floor"), row_N, length_N)

    @cached_property
    def packed(self) -> Packed:
        """Positions of each trajectory's action tokens, in the order they were sampled."""
        flat = self.mask.flatten().nonzero()[:, 0]
        turn = self.turns.token_BT.flatten()[flat]
        order = torch.argsort(turn, stable=True)
        owner = self.turns.trajectory_N[turn[order]]
        count_M = torch.bincount(owner, minlength=len(self.trajectories.group_M))
        column = torch.arange(len(owner), device=owner.device) - (count_M.cumsum(0) - count_M)[owner]
        shape = (len(count_M), int(count_M.max()))
        index_ML = torch.zeros(shape, dtype=torch.long, device=owner.device)
        mask_ML = torch.zeros(shape, dtype=torch.bool, device=owner.device)
        index_ML[owner, column] = flat[order]
        mask_ML[owner, column] = True
        return Packed(index_ML, mask_ML)

    def unit_index(self, unit: Unit) -> tuple[Tensor, int]:
        """([B, T] index of the turn or trajectory of each action token, -1 elsewhere; how many there are)."""
        if unit == "turn":
            return self.turns.token_BT, len(self.turns.length_N)
        row_BT = self.trajectories.row_B[:, None].expand_as(self.turn)
        return torch.where(self.mask, row_BT, -1), len(self.trajectories.group_M)

    def last_action(self) -> Tensor:
        """[B, T] bool: the last action token of each trajectory."""
        packed = self.packed
        last_ML = packed.mask_ML & (packed.mask_ML.flip(1).cumsum(1).flip(1) == 1)
        return packed.put(last_ML, self.mask.shape)


def own_rows(batch: Batch) -> Tensor:
    """[B] bool: rows that the policy sampled as they stand; on all others `expert` coefficients hold."""
    provenance_B = batch.extra("provenance")
    return torch.isin(provenance_B, torch.tensor(OWN, dtype=provenance_B.dtype, device=provenance_B.device))


def segment_sum(x: Tensor, index: Tensor, count: int) -> Tensor:
    """Sum of x by segment: `out[s] = sum x[i] over index[i] = s`; x and index flat, index -1 left out."""
    keep = index >= 0
    return torch.zeros(count, dtype=x.dtype, device=x.device).index_add(0, index[keep], x[keep])


def segment_mean(x: Tensor, index: Tensor, count: int) -> Tensor:
    """Mean of x by segment, exactly the common value where all are equal; 0 where empty."""
    n = segment_sum(torch.ones_like(x), index, count)
    mean = segment_sum(x, index, count) / n.clamp(min=1)
    keep = index >= 0
    low = torch.full_like(mean, torch.inf).scatter_reduce(0, index[keep], x[keep], "amin")
    high = torch.full_like(mean, -torch.inf).scatter_reduce(0, index[keep], x[keep], "amax")
    return torch.where(low == high, low, mean)


def _check_shapes(batch: Batch) -> None:
    if batch.mask.ndim != 2 or 0 in batch.mask.shape:
        raise RequestError(f"Expected mask of shape [B, T] with B, T >= 1, got {list(batch.mask.shape)}.")
    B, T = batch.mask.shape
    expected: dict[str, tuple[tuple[int, ...], str]] = {
        "mask": ((B, T), "bool"),
        "turn": ((B, T), "long"),
        "rewards": ((B, batch.rewards.shape[-1] if batch.rewards.ndim == 2 else 1), "float"),
        **dict.fromkeys(("group", "trajectory", "version"), ((B,), "long")),
        **dict.fromkeys(("terminated", "truncated"), ((B,), "bool")),
        **{name: ((B, T), "bool" if name == "valid" else "float") for name in TOKEN_FIELDS},
        "final_values": ((B,), "float"),
    }
    for name, (shape, kind) in expected.items():
        value = getattr(batch, name)
        if value is None:
            continue
        if tuple(value.shape) != shape:
            raise RequestError(f"Expected {name} of shape {list(shape)}, got {list(value.shape)}.")
        if {"bool": torch.bool, "long": torch.long}.get(kind, batch.rewards.dtype) != value.dtype:
            raise RequestError(f"Expected {name} of type {kind} (float: one dtype throughout), got {value.dtype}.")
        if kind == "float" and not torch.isfinite(value[batch.mask] if shape == (B, T) else value).all():
            raise RequestError(f"Expected finite {name}, got NaN or infinity; leave that episode out of the batch.")
    if not batch.rewards.dtype.is_floating_point:
        raise RequestError(f"Expected float rewards, got {batch.rewards.dtype}.")
    for name, value in batch.extras.items():
        if name not in EXTRAS:
            raise UnknownName("entry of extras", name, EXTRAS)
        if value.shape[0] != B or not torch.isfinite(value).all():
            raise RequestError(f"Expected finite extras[{name!r}] for each of {B} rows, got {list(value.shape)}.")
    for name, value in (("task", batch.task), ("anchors", batch.anchors)):
        if value is not None and len(value) != B:
            raise RequestError(f"Expected {name} for each of {B} rows, got {len(value)}.")


def _check_turns(batch: Batch) -> None:
    if not batch.mask.any():
        raise RequestError("Expected at least one action token, got a mask that is False everywhere.")
    if ((batch.turn >= 0) != batch.mask).any():
        raise RequestError(
            "Expected turn >= 0 exactly where mask is True and -1 elsewhere; give environment tokens -1."
        )
    running = torch.cummax(batch.turn, dim=1).values
    if (batch.mask & (batch.turn < running)).any():
        raise RequestError("Expected turn indices that never fall along a row; order the row's tokens by time.")
    token_rows = torch.arange(len(batch.group), device=batch.turn.device)[:, None].expand_as(batch.turn)[batch.mask]
    if (batch.turns.row_N[batch.turns.token_BT[batch.mask]] != token_rows).any():
        raise RequestError("Expected each (trajectory, turn) in one row, got one in several; give episodes own ids.")
    if batch.anchors is not None:
        counts = torch.bincount(batch.turns.row_N, minlength=len(batch.group)).tolist()
        for row, (anchors, count) in enumerate(zip(batch.anchors, counts, strict=True)):
            if len(anchors) != count:
                raise RequestError(f"Expected one anchor per turn: row {row} has {count} turns, got {len(anchors)}.")


def _check_rewards(batch: Batch) -> None:
    first_B = batch.trajectories.first_row_M[batch.trajectories.row_B]
    if (batch.rewards != batch.rewards[first_B]).any():
        raise RequestError("Expected the same rewards on every row of a trajectory: they are the trajectory's return.")
    if batch.reward_names and len(batch.reward_names) != batch.rewards.shape[1]:
        raise RequestError(f"Expected {batch.rewards.shape[1]} reward_names, got {len(batch.reward_names)}.")
    if batch.token_rewards is not None and (batch.token_rewards[~batch.mask] != 0).any():
        raise RequestError(
            "Expected token_rewards on action tokens only, got one on a masked token, where credit never sees it; "
            "put a turn's reward on that turn's last action token."
        )
    if batch.terminated is not None and batch.truncated is not None and (batch.terminated & batch.truncated).any():
        raise RequestError("Expected terminated or truncated, got a row with both.")


def _check_groups(batch: Batch) -> None:
    first_B = batch.trajectories.first_row_M[batch.trajectories.row_B]
    if (batch.group != batch.group[first_B]).any():
        raise RequestError("Expected every row of a trajectory in one group, got a trajectory in several.")
    if batch.task is None:
        return
    seen: dict[int, str] = {}
    for group, task in zip(batch.group.tolist(), batch.task, strict=True):
        if seen.setdefault(group, task) != task:
            raise RequestError(
                f"Expected one task per group, got {seen[group]!r} and {task!r} in group {group}: "
                "a baseline over different tasks means nothing. Number groups by task and seed."
            )
