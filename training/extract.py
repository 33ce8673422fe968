"""What single methods need of the episodes beyond tokens and rewards: `Batch.extras`, filled by name.

A reader is `(trajectory, row) -> number, or one number (or list of numbers) per token of the row`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, get_args

import torch
from torch import Tensor

from ..agents.context import Mode
from ..agents.trajectory import Row, Trajectory
from ..envs.core import StopReason
from .batch import EXTRAS, OWN, Batch

MODES: tuple[str, ...] = get_args(Mode)
"""Ways to answer, the cheapest first."""
Reader = Callable[[Trajectory, Row], float | Sequence[float] | Sequence[Sequence[float]]]


def same_actions(trajectory: Trajectory, row: Row) -> float:
    """A number that two episodes share when their actions are equal: the coarsest honest notion of "same answer"."""
    text = "\x1f".join(turn.action for turn in trajectory.turns)
    digest = hashlib.sha256(text.encode()).digest()
    return float(int.from_bytes(digest[:3], "big"))  # float32 holds 24 bits exactly


def preference_level(trajectory: Trajectory, row: Row) -> float:
    """1 success, 2 a wrong answer, 3 no answer within a limit, 4 unparsable: the levels of TRPA for an episode."""
    if trajectory.success:
        return 1.0
    if trajectory.stop is StopReason.INVALID_LIMIT:
        return 4.0
    return 3.0 if trajectory.stop in (StopReason.TOKEN_LIMIT, StopReason.CONTEXT_LIMIT) else 2.0


MILESTONES = 4
"""Tests that any game has: has the score reached 1/4, 2/4, 3/4, all of its maximum?"""


_TEST = re.compile(r"test_\d+")


def milestones(trajectory: Trajectory, row: Row) -> list[list[float]]:
    """Per token, 1 for each of `MILESTONES` equal shares of the maximum score that the turn's state has reached."""
    reached = []
    for turn in trajectory.turns:
        share = MILESTONES * turn.score / trajectory.max_score + 1e-9
        reached.append([float(share >= j + 1) for j in range(MILESTONES)])
    return [reached[turn] if turn >= 0 else [0.0] * MILESTONES for turn in row.turn]


def verified(trajectory: Trajectory, row: Row) -> list[list[float]]:
    """Per token, 1 for each test that the turn's state passes: those the environment counts, else the milestones.

    Counts of tests are named `test_00`, `test_01`, …, the same ones on all turns.
    """
    names = sorted(name for name in (trajectory.turns[0].counts if trajectory.turns else ()) if _TEST.fullmatch(name))
    if not names:
        return milestones(trajectory, row)
    passed = [[float(turn.counts[name]) for name in names] for turn in trajectory.turns]
    return [passed[turn] if turn >= 0 else [0.0] * len(names) for turn in row.turn]


def raised_the_score(trajectory: Trajectory, row: Row) -> list[float]:
    """Per token, 1 on turns that raised the score: the turns that decided the episode, without a judge."""
    return [float(turn >= 0 and trajectory.turns[turn].reward > 0) for turn in row.turn]


def first_call(trajectory: Trajectory, row: Row) -> float:
    """Index among the episode's action tokens of the last one of its first parsed action; -1 without any.

    Where the environment counts tool calls, an action without one (an answer) is none.
    """
    seen = 0
    for turn in trajectory.turns:
        seen += len(turn.output.ids) if turn.output else 0
        if turn.valid and turn.counts.get("tool_calls", 1.0) > 0:
            return float(seen - 1)
    return -1.0


def tool_calls(trajectory: Trajectory, row: Row) -> float:
    """Calls that the environment counted; where it counts none, each turn is one."""
    return float(sum(turn.counts.get("tool_calls", 1.0) for turn in trajectory.turns))


def flawed(trajectory: Trajectory, row: Row) -> float:
    """1 for a win on whose way some action was not admissible: a flaw that needs no judge."""
    return float(trajectory.success and not all(turn.admissible for turn in trajectory.turns))


BUDGET = "Use about {} tokens for all your actions."
"""What a budget in the first observation says (`sampler.Prompted`)."""
_BUDGET = re.compile(re.escape(BUDGET).replace(r"\{\}", r"(\d+)"))


def budget(trajectory: Trajectory, row: Row) -> float:
    """Tokens that the first observation told the episode to use, 0 where it did not."""
    found = _BUDGET.search(trajectory.turns[0].observation) if trajectory.turns else None
    return float(found[1]) if found else 0.0


EXPERT, RETRY, REPLAY, START = "expert", "retry", "replay", "start"
"""Agents whose episodes are demonstrations, retries with advice, of an earlier step, of the policy before RL."""
PROVENANCE = {EXPERT: 1, RETRY: 3, REPLAY: 4, START: 5}
_UNSCORED = (1, 3)
"""Provenance of rows that no engine sampled in their context, so that there are no log-probs of it."""


def provenance(trajectory: Trajectory, row: Row) -> float:
    """`PROVENANCE` by the agent's name, 0 for what the policy sampled."""
    return float(PROVENANCE.get(trajectory.agent, 0))


def mode(trajectory: Trajectory, row: Row) -> float:
    """Index of the episode's mode, -1 where the policy named none."""
    return float(MODES.index(trajectory.mode)) if trajectory.mode in MODES else -1.0


READERS: dict[str, Reader] = {
    "provenance": provenance,
    "solved": lambda trajectory, row: float(trajectory.success),  # `extract` counts over the group
    "logp_replay": lambda trajectory, row: row.logprobs,
    "logp_pi0": lambda trajectory, row: row.logprobs,  # read on rows of provenance 5 only
    "cluster": same_actions,
    "level": preference_level,
    "tool_calls": tool_calls,
    "pivot": lambda trajectory, row: float(trajectory.pivot),
    "mode": mode,
    "forced": lambda trajectory, row: float(trajectory.forced),
    "tests": verified,
    "critical": raised_the_score,
    "first_call": first_call,
    "flawed": flawed,
    "budget": budget,
}
"""How a run fills an entry; one that is not here can only come from a fixture or from code of one's own."""

EXTRAS.update(
    cluster="[B] whole numbers: rows of a group whose answers mean the same share one",
    tool_calls="[B] calls of the trajectory",
)


def extract(names: Iterable[str], kept: Sequence[Trajectory], rows: Sequence[tuple[int, Row]]) -> dict[str, Tensor]:
    """The entries of `names` for these rows, `(trajectory index, row)`; `[B]`, padded `[B, T]` or `[B, T, J]`."""
    width = max(len(row.ids) for _, row in rows)
    found = {}
    for name in names:
        read = [READERS[name](kept[index], row) for index, row in rows]
        if name == "solved":
            won = Counter(t.group for t in kept if t.success and PROVENANCE.get(t.agent, 0) in OWN)
            read = [float(won[kept[index].group]) for index, _ in rows]
        found[name] = torch.tensor([_padded(x, width) for x in _as_wide(read)], dtype=torch.float32)
    return found


def _as_wide(read: list[Any]) -> list[Any]:
    """Lists per token as long as the longest of any row, -1 where there is nothing: tasks differ in their tests."""
    if not isinstance(read[0], Sequence) or not isinstance(read[0][0], Sequence):
        return read
    most = max(len(row[0]) for row in read)
    return [[[*x, *[-1.0] * (most - len(x))] for x in row] for row in read]


def _padded(x: Any, width: int) -> Any:
    """A number as it is; a list of numbers or lists up to `width` with zeros like its entries."""
    if isinstance(x, (int, float)):
        return x
    blank = [0.0] * len(x[0]) if isinstance(x[0], Sequence) else 0.0
    return [*x, *[blank] * (width - len(x))]


def sampled(batch: Batch) -> Tensor:
    """[B, T] bool: action tokens that the engine sampled in this step, in the very context of their row."""
    return _outside(batch, (*_UNSCORED, PROVENANCE[REPLAY], PROVENANCE[START]))


def _outside(batch: Batch, kinds: Sequence[int]) -> Tensor:
    """[B, T] bool: action tokens of rows of another provenance than these."""
    found = batch.extras.get("provenance")
    if found is None:
        return batch.mask
    return batch.mask & ~torch.isin(found, torch.tensor(kinds, dtype=found.dtype, device=found.device))[:, None]


def follow_trainer(batch: Batch) -> Batch:
    """The batch with the trainer's log-probs wherever the engine's are asked for and there are none.

    Replayed rows keep those of the policy that sampled them.
    """
    if batch.logp_old is None or "provenance" not in batch.extras:
        return batch
    engine_BT = _outside(batch, _UNSCORED)
    extras = dict(batch.extras)
    if "logp_replay" in extras:
        extras["logp_replay"] = torch.where(engine_BT, extras["logp_replay"], batch.logp_old)
    rollout = batch.logp_rollout
    rollout = None if rollout is None else torch.where(engine_BT, rollout, batch.logp_old)
    return dataclasses.replace(batch, logp_rollout=rollout, extras=extras)
