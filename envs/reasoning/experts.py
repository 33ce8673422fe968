"""Right answers of generators of reasoning-gym that come without one: found from the task's metadata."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

WIDTH = 6
"""Of a Rush Hour board."""
_EXIT_ROW = 2


def graph_color(metadata: dict[str, Any]) -> str:
    """A colouring, by trying the colours of each vertex in turn (backtracking)."""
    puzzle = metadata["puzzle"]
    beside: dict[int, set[int]] = {vertex: set() for vertex in puzzle["vertices"]}
    for u, v in puzzle["edges"]:
        beside[u].add(v)
        beside[v].add(u)
    order, found = sorted(beside, key=lambda vertex: -len(beside[vertex])), dict[int, int]()

    def colour(index: int) -> bool:
        if index == len(order):
            return True
        vertex = order[index]
        for shade in puzzle["color_options"]:
            if all(found.get(other) != shade for other in beside[vertex]):
                found[vertex] = shade
                if colour(index + 1):
                    return True
                del found[vertex]
        return False

    colour(0)
    return json.dumps({str(vertex): found[vertex] for vertex in sorted(found)})


def rubiks_cube(metadata: dict[str, Any]) -> str:
    """The scramble backwards, every turn inverted."""
    moves = metadata["scramble_moves"].split()
    return " ".join(move.removesuffix("'") if move.endswith("'") else f"{move}'" for move in reversed(moves))


def boxnet(metadata: dict[str, Any]) -> str:
    """One box after the other, along its row and column to the target of its colour."""
    squares: dict[str, list[str]] = metadata["initial_state"]
    targets = [(item.removeprefix("target_"), where) for where, items in squares.items() for item in items
               if item.startswith("target_")]  # fmt: skip
    plan: list[dict[str, str]] = []
    for where, items in squares.items():
        for item in items:
            if not item.startswith("box_"):
                continue
            goal = next(each for each in targets if each[0] == item.removeprefix("box_"))
            targets.remove(goal)
            plan += _carry(item, _place(where), _place(goal[1]))
    return json.dumps(plan)


def _carry(box: str, start: tuple[float, float], goal: tuple[float, float]) -> Iterator[dict[str, str]]:
    here = start
    while here != goal:
        axis = 0 if here[0] != goal[0] else 1
        ahead = list(here)
        ahead[axis] += 1 if goal[axis] > here[axis] else -1
        yield {f"Agent[{here[0]}, {here[1]}]": f"move({box}, square[{ahead[0]}, {ahead[1]}])"}
        here = (ahead[0], ahead[1])
    yield {f"Agent[{here[0]}, {here[1]}]": f"move({box}, target_{box.removeprefix('box_')})"}


def _place(text: str) -> tuple[float, float]:
    row, column = re.findall(r"\d+\.\d+", text)
    return float(row), float(column)


class _Car(NamedTuple):
    name: str
    size: int
    stride: int
    """1 along a row, `WIDTH` along a column."""


def rush_hour(metadata: dict[str, Any]) -> str:
    """The fewest moves that bring car A to the right edge, by breadth-first search."""
    board: str = metadata["board_config"]
    places = {name: [i for i, cell in enumerate(board) if cell == name] for name in sorted(set(board) - {"o", "x"})}
    # the question and the grader name the cars anew, in order, without the gaps of the configuration
    cars = [_Car(chr(ord("A") + i), len(cells), cells[1] - cells[0]) for i, cells in enumerate(places.values())]
    walls = frozenset(i for i, cell in enumerate(board) if cell == "x")
    start = tuple(cells[0] for cells in places.values())
    goal = _EXIT_ROW * WIDTH + WIDTH - cars[0].size
    came: dict[tuple[int, ...], tuple[tuple[int, ...], str] | None] = {start: None}
    waiting = deque([start])
    while waiting:
        state = waiting.popleft()
        if state[0] == goal:
            return " ".join(reversed(list(_moves(came, state))))
        for after, move in _slides(state, cars, walls):
            if after not in came:
                came[after] = (state, move)
                waiting.append(after)
    return ""


def _moves(came: dict[tuple[int, ...], tuple[tuple[int, ...], str] | None], state: tuple[int, ...]) -> Iterator[str]:
    while (step := came[state]) is not None:
        state, move = step
        yield move


def _slides(state: tuple[int, ...], cars: list[_Car], walls: frozenset[int]) -> Iterator[tuple[tuple[int, ...], str]]:
    """Every slide of a car over free cells."""
    taken = set(walls)
    for car, at in zip(cars, state, strict=True):
        taken.update(at + car.stride * k for k in range(car.size))
    for index, (car, at) in enumerate(zip(cars, state, strict=True)):
        lane = at % WIDTH if car.stride == 1 else at // WIDTH
        for sign, room in ((1, WIDTH - lane - car.size), (-1, lane)):
            for steps in range(1, room + 1):
                front = at + car.stride * (steps + car.size - 1 if sign > 0 else -steps)
                if front in taken:
                    break
                moved = (*state[:index], at + sign * steps * car.stride, *state[index + 1 :])
                yield moved, f"{car.name}{'+' if sign > 0 else '-'}{steps}"


SOLVERS: dict[str, Callable[[dict[str, Any]], str]] = {
    "boxnet": boxnet,
    "graph_color": graph_color,
    "rubiks_cube": rubiks_cube,
    "rush_hour": rush_hour,
}
"""Generator without a gold answer -> what finds one."""
