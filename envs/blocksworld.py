"""`turnwise/BlocksWorld-v0`: stack coloured blocks as asked, in text; puzzles by their optimal number of actions."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import ClassVar, NamedTuple

from .core import State, TextEnv
from .errors import RequestError, UnknownName
from .task import Task

COLOURS = ("red", "blue", "orange", "yellow", "white", "magenta")
TABLE, HAND = -1, -2
STEPS = (2, 4, 6, 8)
SIZES = {"train": 10_000, "validation": 500, "test": 1_000}
_FIRST_SEED = {"train": 0, "validation": 100_000, "test": 200_000}
_SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}
_FEWEST = {2: 3, 4: 3, 6: 4, 8: 5}
"""Optimal number of actions -> fewest blocks for which there are puzzles enough."""
_PATTERN = re.compile(
    r"(?P<verb>pick up|put down) the (?P<block>\w+) block"
    r"|stack the (?P<top>\w+) block on top of the (?P<bottom>\w+) block"
    r"|unstack the (?P<upper>\w+) block from on top of the (?P<lower>\w+) block"
)

Blocks = tuple[int, ...]
"""What each block stands on: another block's number, `TABLE` or `HAND`."""
Goal = frozenset[tuple[int, int]]
"""Conditions (block, what it stands on)."""


class Action(NamedTuple):
    """`block` goes from one support to another; one of them is the hand."""

    block: int
    source: int
    target: int

    @property
    def text(self) -> str:
        """As the agent writes it."""
        name = COLOURS[self.block]
        if self.source == TABLE:
            return f"pick up the {name} block"
        if self.target == TABLE:
            return f"put down the {name} block"
        if self.target == HAND:
            return f"unstack the {name} block from on top of the {COLOURS[self.source]} block"
        return f"stack the {name} block on top of the {COLOURS[self.target]} block"


class Puzzle(NamedTuple):
    """A start, a goal, the fewest actions between them and how many plans have that length."""

    start: Blocks
    goal: Goal
    optimal: int
    plans: int


# ---- the rules -------------------------------------------------------------------------------------------


def possible(blocks: Blocks) -> Iterator[Action]:
    """What can be done: a clear block into an empty hand, a held block onto the table or a clear block."""
    covered = set(blocks)
    if HAND in covered:
        held = blocks.index(HAND)
        yield Action(held, HAND, TABLE)
        yield from (Action(held, HAND, below) for below in range(len(blocks)) if below not in covered and below != held)
    else:
        yield from (Action(block, below, HAND) for block, below in enumerate(blocks) if block not in covered)


def apply(blocks: Blocks, action: Action) -> Blocks:
    """The blocks after an action."""
    return (*blocks[: action.block], action.target, *blocks[action.block + 1 :])


def is_met(blocks: Blocks, goal: Goal) -> bool:
    """Whether every condition holds."""
    return all(blocks[block] == below for block, below in goal)


@lru_cache(maxsize=1 << 12)
def plan(blocks: Blocks, goal: Goal) -> tuple[tuple[Action, ...], int]:
    """(a shortest plan, how many plans are as short), by breadth-first search with counts of paths."""
    level, ways = [blocks], {blocks: 1}
    came: dict[Blocks, tuple[Blocks, Action] | None] = {blocks: None}
    while level:
        reached = [each for each in level if is_met(each, goal)]
        if reached:
            return _way_to(reached[0], came), sum(ways[each] for each in reached)
        following: dict[Blocks, int] = {}
        for each in level:
            for action in possible(each):
                after = apply(each, action)
                if after in came and after not in following:
                    continue  # met on an earlier level
                came.setdefault(after, (each, action))
                following[after] = following.get(after, 0) + ways[each]
        level, ways = list(following), following
    raise RequestError(f"Expected a goal that blocks can meet, got {sorted(goal)}.")


def _way_to(blocks: Blocks, came: dict[Blocks, tuple[Blocks, Action] | None]) -> tuple[Action, ...]:
    actions = []
    while (step := came[blocks]) is not None:
        blocks, action = step
        actions.append(action)
    return tuple(reversed(actions))


# ---- puzzles ---------------------------------------------------------------------------------------------


@lru_cache(maxsize=1 << 12)
def make_puzzle(seed: int, count: int, steps: int, split: str) -> Puzzle:
    """The puzzle of a seed whose shortest plan has `steps` actions; no two splits share one, names included."""
    rng = random.Random(f"blocks {seed} {count} {steps}")
    while True:
        start, target = _arrange(rng, count), _arrange(rng, count)
        on = [(block, below) for block, below in enumerate(target) if below != TABLE]
        conditions = on + [
            (block, TABLE) for block, below in enumerate(target) if below == TABLE and rng.random() < 0.3
        ]
        goal: Goal = frozenset(conditions)
        if not goal or split_of(f"{start} {sorted(goal)}") != split:
            continue
        actions, plans = plan(start, goal)
        if len(actions) == steps:
            return Puzzle(start, goal, steps, plans)


def split_of(content: str) -> str:
    """The split that a puzzle belongs to, by its hash."""
    place = int.from_bytes(hashlib.sha256(content.encode()).digest()[:6]) / 2**48
    for split, share in _SHARES.items():
        place -= share
        if place < 0:
            return split
    return "test"


def _arrange(rng: random.Random, count: int) -> Blocks:
    """Blocks in random order, each onto the table or onto the tower before it."""
    order, below = rng.sample(range(count), count), [TABLE] * count
    for lower, upper in pairwise(order):
        below[upper] = lower if rng.random() < 0.5 else TABLE
    return tuple(below)


def puzzle(task: Task) -> Puzzle:
    """The puzzle of a task."""
    params = task.params
    if params["puzzles"] not in SIZES:
        raise UnknownName("puzzles of a BlocksWorld task", str(params["puzzles"]), SIZES)
    return make_puzzle(task.seed, int(params["blocks"]), int(params["steps"]), params["puzzles"])


def distinct_plans(task: Task, plans: Sequence[Sequence[str]]) -> int:
    """How many different plans among `plans` (lists of action texts) reach the goal of a task with their last action.

    The measure of diversity that `puzzle(task).plans` bounds for plans of optimal length.
    """
    env, won = BlocksWorldEnv(), set[tuple[str, ...]]()
    for actions in plans:
        env.reset(options={"task": task})
        played = [env.step(action)[-1] for action in actions]
        wins = [info["success"] for info in played]
        if wins and wins[-1] and not any(wins[:-1]) and all(info["admissible"] for info in played):
            won.add(tuple(" ".join(action.split()) for action in actions))
    return len(won)


class BlocksWorldEnv(TextEnv):
    """One hand, coloured blocks, four kinds of actions; success is that every condition of the goal holds.

    The score is the share of the conditions unmet at first that were gained, `(m - m_0) / (n - m_0)` with `m` of `n`
    conditions met now and `m_0` at the start: 1 when solved, negative where more is lost. `info` also has `optimal`,
    the fewest actions that solve the puzzle, and `shortest_plans`, how many plans are as short.
    """

    id: ClassVar[str] = "turnwise/BlocksWorld-v0"

    @classmethod
    def splits(cls) -> dict[str, int]:
        return dict(SIZES)

    @classmethod
    def tasks(
        cls, split: str, count: int | None = None, *, steps: int = 4, blocks: int = 4, slack: int = 4
    ) -> list[Task]:
        """Puzzles that take `steps` actions (2, 4, 6 or 8), to be solved in `steps + slack`."""
        if steps not in STEPS:
            raise RequestError(f"Expected steps of 2, 4, 6 or 8, got {steps!r}.")
        if not isinstance(blocks, int) or not _FEWEST[steps] <= blocks <= len(COLOURS):
            raise RequestError(
                f"Expected blocks from {_FEWEST[steps]} to {len(COLOURS)} for {steps} steps, got {blocks!r}."
            )
        if not isinstance(slack, int) or slack < 0:
            raise RequestError(f"Expected a slack of 0 or more, got {slack!r}.")
        return [
            Task(env=cls.id, seed=_FIRST_SEED[split] + i, split=split, difficulty=float(steps), max_turns=steps + slack,
                 params={"steps": steps, "blocks": blocks, "puzzles": split}, goal="Arrange the blocks as asked.")
            for i in range(SIZES[split] if count is None else min(count, SIZES[split]))
        ]  # fmt: skip

    def start(self, task: Task) -> State:
        self.puzzle = puzzle(task)
        self.blocks = self.puzzle.start
        self._met = self._count()
        asked = [_on(*condition) for condition in sorted(self.puzzle.goal)]
        self.goal = f"Arrange the blocks so that {_listed(asked)}."
        return self._look(self.goal)

    def act(self, action: str) -> State:
        if self.state.success:
            return self._look("It is done already.", admissible=False)
        wanted = next((each for each in possible(self.blocks) if each.text == action.lower().rstrip(".")), None)
        if wanted is None:
            return self._look(self._why_not(action.lower().rstrip(".")), admissible=False)
        self.blocks = apply(self.blocks, wanted)
        return self._look(f"You {wanted.text}.")

    def expert(self) -> str:
        actions, _ = plan(self.blocks, self.puzzle.goal)
        return actions[0].text if actions else "put down the red block"

    def clone_state(self) -> tuple[Puzzle, Blocks, int]:
        return self.puzzle, self.blocks, self._met

    def restore_state(self, clone: tuple[Puzzle, Blocks, int]) -> bool:
        self.puzzle, self.blocks, self._met = clone
        return True

    def _count(self) -> int:
        return sum(self.blocks[block] == below for block, below in self.puzzle.goal)

    def _why_not(self, action: str) -> str:
        match = _PATTERN.fullmatch(action)
        named = [name for key, name in match.groupdict().items() if name and key != "verb"] if match else []
        if not match:
            return "You can pick up, put down, stack or unstack a block."
        unknown = [name for name in named if name not in COLOURS[: len(self.blocks)]]
        if unknown:
            return f"There is no {unknown[0]} block."
        return f"You cannot {action} now."

    def _look(self, event: str, admissible: bool = True) -> State:
        gained = (self._count() - self._met) / (len(self.puzzle.goal) - self._met)
        won = is_met(self.blocks, self.puzzle.goal)
        held = (
            f"You hold the {COLOURS[self.blocks.index(HAND)]} block." if HAND in self.blocks else "Your hand is empty."
        )
        stands = [_on(block, below) for block, below in enumerate(self.blocks) if below != HAND]
        text = f"{event}\n{_listed(stands).capitalize()}. {held}"
        commands = () if won else tuple(action.text for action in possible(self.blocks))
        extra = {"optimal": self.puzzle.optimal, "shortest_plans": self.puzzle.plans}
        return State(text, gained, won, commands=commands, admissible=admissible, extra=extra)


def _on(block: int, below: int) -> str:
    where = "the table" if below == TABLE else f"the {COLOURS[below]} block"
    return f"the {COLOURS[block]} block is on {where}"


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
