"""Episodes of one task as a tree: where they part ways, how often each way was gone and how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Branch(NamedTuple):
    """One episode from its first action to its end."""

    id: int
    actions: tuple[str, ...]
    success: bool
    score: float
    """As a share of the largest."""
    stop: str


@dataclass
class Node:
    """What follows one action after the actions above it."""

    actions: tuple[str, ...] = ()
    """One, or several in a row where no episode parts ways between them."""
    visits: int = 0
    wins: int = 0
    score: float = 0.0
    """Mean over the episodes that came here."""
    children: list[Node] = field(default_factory=list)
    ends: list[Branch] = field(default_factory=list)
    """Episodes that end here."""


def tree(branches: Sequence[Branch]) -> Node:
    """The prefix tree of the episodes' actions; children in order of visits, then of first appearance."""
    return _node((), branches, 0)


def _node(actions: tuple[str, ...], branches: Sequence[Branch], depth: int) -> Node:
    wins, score = sum(b.success for b in branches), sum(b.score for b in branches) / max(1, len(branches))
    node = Node(actions, len(branches), wins, score)
    node.ends = [b for b in branches if len(b.actions) == depth]
    below: dict[str, list[Branch]] = {}
    for branch in branches:
        if len(branch.actions) > depth:
            below.setdefault(branch.actions[depth], []).append(branch)
    for kin in sorted(below.values(), key=len, reverse=True):
        shared = _shared(kin, depth)
        node.children.append(_node(kin[0].actions[depth:shared], kin, shared))
    return node


def _shared(branches: Sequence[Branch], depth: int) -> int:
    """How many first actions all of them have in common; they share the one at `depth`."""
    shortest = min(len(b.actions) for b in branches)
    alike = depth + 1
    while alike < shortest and len({b.actions[alike] for b in branches}) == 1:
        alike += 1
    return alike
