"""Searches behind the experts: paths over ice, jumping pegs, sliding cars, pushed boxes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from functools import lru_cache
from typing import TypeVar

Place = tuple[int, int]
Car = tuple[str, int, int, int, bool]
"""Name, row, column, length, and whether it stands along its row."""
_STEPS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
S = TypeVar("S", bound=Hashable)


def shortest(start: S, is_goal: Callable[[S], bool], after: Callable[[S], Iterable[tuple[str, S]]]) -> tuple[str, ...]:
    """The fewest moves from `start` to a goal, breadth first; empty where there is no way."""
    came: dict[S, tuple[S, str] | None] = {start: None}
    waiting = deque([start])
    while waiting:
        state = waiting.popleft()
        if is_goal(state):
            moves = list[str]()
            while (step := came[state]) is not None:
                state, move = step
                moves.append(move)
            return tuple(reversed(moves))
        for move, reached in after(state):
            if reached not in came:
                came[reached] = (state, move)
                waiting.append(reached)
    return ()


@lru_cache(maxsize=256)
def lake_path(grid: tuple[str, ...], start: Place, goal: Place) -> tuple[str, ...]:
    """Steps around the holes."""

    def after(place: Place) -> Iterable[tuple[str, Place]]:
        for name, (dr, dc) in _STEPS.items():
            row, column = place[0] + dr, place[1] + dc
            if 0 <= row < len(grid) and 0 <= column < len(grid) and grid[row][column] != "H":
                yield name, (row, column)

    return shortest(start, lambda place: place == goal, after)


@lru_cache(maxsize=64)
def jumps(pegs: frozenset[int], moves: tuple[tuple[int, int, int], ...]) -> tuple[Place, ...]:
    """Jumps (from, to) that leave one peg, depth first; empty where none do."""
    dead = set[frozenset[int]]()

    def search(left: frozenset[int]) -> tuple[Place, ...] | None:
        if len(left) == 1:
            return ()
        if left in dead:
            return None
        for start, over, end in moves:
            if start in left and over in left and end not in left:
                rest = search(left - {start, over} | {end})
                if rest is not None:
                    return ((start, end), *rest)
        dead.add(left)
        return None

    return search(pegs) or ()


@lru_cache(maxsize=256)
def slide_cars(cars: tuple[Car, ...], size: int) -> tuple[str, ...]:
    """Steps `A+` and `B-` that bring car X to the right edge."""
    red = next(i for i, car in enumerate(cars) if car[0] == "X")
    start = tuple(car[2] if car[4] else car[1] for car in cars)

    def cells(index: int, at: int) -> list[Place]:
        _, row, column, length, across = cars[index]
        return [(row, at + k) if across else (at + k, column) for k in range(length)]

    def after(state: tuple[int, ...]) -> Iterable[tuple[str, tuple[int, ...]]]:
        taken = {cell for index, at in enumerate(state) for cell in cells(index, at)}
        for index, at in enumerate(state):
            for sign, step in (("+", 1), ("-", -1)):
                if not 0 <= at + step <= size - cars[index][3]:
                    continue
                front = cells(index, at + step)[-1 if step > 0 else 0]
                if front not in taken:
                    yield f"{cars[index][0]}{sign}", (*state[:index], at + step, *state[index + 1 :])

    return shortest(start, lambda state: state[red] >= size - cars[red][3], after)


@lru_cache(maxsize=256)
def push_boxes(
    walls: frozenset[Place], goals: frozenset[Place], boxes: frozenset[Place], player: Place
) -> tuple[str, ...]:
    """Steps that push every box onto a goal."""

    def after(state: tuple[Place, frozenset[Place]]) -> Iterable[tuple[str, tuple[Place, frozenset[Place]]]]:
        (row, column), stand = state
        for name, (dr, dc) in _STEPS.items():
            ahead, beyond = (row + dr, column + dc), (row + 2 * dr, column + 2 * dc)
            if ahead in walls or (ahead in stand and (beyond in walls or beyond in stand)):
                continue
            yield name, (ahead, stand - {ahead} | {beyond} if ahead in stand else stand)

    return shortest((player, boxes), lambda state: state[1] <= goals, after)
