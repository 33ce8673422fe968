"""Searches behind the experts: paths over ice, jumping pegs, sliding cars, pushed boxes, sums, merging tiles."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from functools import lru_cache
from itertools import pairwise, permutations
from typing import Any, TypeVar

Place = tuple[int, int]
Car = tuple[str, int, int, int, bool]
"""Name, row, column, length, and whether it stands along its row."""
_STEPS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
Board = tuple[tuple[int, ...], ...]
AHEAD = 3
"""Moves that `merge_tiles` looks ahead."""
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


@lru_cache(maxsize=256)
def reach_target(numbers: tuple[int, ...], target: int) -> tuple[str, ...]:
    """Moves `[i j +]` that make the target of numbers, of which each is used at most once; empty where none do.

    A move takes the numbers at two places away and puts what it makes at the end.
    """
    dead = set[tuple[int, ...]]()

    def search(left: tuple[int, ...]) -> tuple[str, ...] | None:
        if tuple(sorted(left)) in dead:
            return None
        for (i, a), (j, b) in permutations(enumerate(left), 2):
            rest = tuple(n for place, n in enumerate(left) if place not in (i, j))
            for sign, made in (("+", a + b), ("-", a - b), ("*", a * b), ("/", a // b if b and a % b == 0 else None)):
                if made is None or abs(made) > 1_000_000:
                    continue
                more = () if made == target else search((*rest, made)) if rest else None
                if more is not None:
                    return (f"[{i} {j} {sign}]", *more)
        dead.add(tuple(sorted(left)))
        return None

    return search(numbers) or ()


def slide_tiles(board: Board, direction: str) -> Board:
    """The board after a move, before a tile is added."""
    if direction in ("up", "down"):
        return _turned(slide_tiles(_turned(board), "left" if direction == "up" else "right"))
    if direction == "right":
        return tuple(_slid(row[::-1])[::-1] for row in board)
    return tuple(map(_slid, board))


def merge_tiles(board: Board, dice: Any, depth: int = AHEAD) -> str:
    """The move after which the best board can be had `depth` moves on, with the tiles that the dice will add.

    `dice` is a state of Python's random numbers; empty where nothing moves. What a board is worth follows R. Xiao's
    2048-ai: free places and equal neighbours, less for rows and columns that rise and fall and for many tiles.
    """
    return _foresee(board, dice, depth)[1]


def _foresee(board: Board, dice: Any, depth: int) -> tuple[float, str]:
    if not depth:
        return sum(map(_worth, board)) + sum(map(_worth, _turned(board))), ""
    rng, best, chosen = random.Random(), float("-inf"), ""
    for direction in _STEPS:
        moved = slide_tiles(board, direction)
        if moved != board:
            rng.setstate(dice)
            added = _with_tile(moved, rng)
            value = _foresee(added, rng.getstate(), depth - 1)[0]
            if value > best or not chosen:
                best, chosen = value, direction
    return best, chosen


def _with_tile(board: Board, rng: random.Random) -> Board:
    """The board with the tile that the game adds: the same draws in the same order."""
    row, column = rng.choice([(r, c) for r, line in enumerate(board) for c, tile in enumerate(line) if not tile])
    tile = 4 if rng.random() < 0.1 else 2
    return tuple(
        tuple(tile if (r, c) == (row, column) else old for c, old in enumerate(line)) for r, line in enumerate(board)
    )


def _turned(board: Board) -> Board:
    return tuple(zip(*board, strict=True))


@lru_cache(maxsize=1 << 17)
def _slid(row: tuple[int, ...]) -> tuple[int, ...]:
    """A row moved to the left, equal neighbours merged once."""
    tiles, merged = [tile for tile in row if tile], list[int]()
    while tiles:
        tile = tiles.pop(0)
        merged.append(2 * tiles.pop(0) if tiles and tiles[0] == tile else tile)
    return (*merged, *[0] * (len(row) - len(merged)))


@lru_cache(maxsize=1 << 17)
def _worth(row: tuple[int, ...]) -> float:
    ranks = [max(0, tile.bit_length() - 1) for tile in row]
    there = [rank for rank in ranks if rank]
    fall = sum(max(0, a**4 - b**4) for a, b in pairwise(ranks))
    rise = sum(max(0, b**4 - a**4) for a, b in pairwise(ranks))
    equal = sum(a == b for a, b in pairwise(there))
    return 270 * ranks.count(0) + 700 * equal - 47 * min(fall, rise) - 11 * sum(rank**3.5 for rank in there)
