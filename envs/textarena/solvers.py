"""What a player can do in each game, and what wins: read from the game's own state, hidden parts included."""

from __future__ import annotations

import random
import re
from abc import ABC, abstractmethod
from functools import lru_cache
from itertools import combinations, product
from typing import Any

from .searches import Board, jumps, lake_path, merge_tiles, push_boxes, reach_target, slide_cars, slide_tiles

DIRECTIONS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
Commands = tuple[str, ...] | None
_BRACKET = re.compile(r"\[[^\[\]]*\]")


class Solver(ABC):
    """One family of games. `moves` is None where a list would tell what is hidden, or would be too long."""

    def moves(self, game: Any) -> Commands:
        return None

    @abstractmethod
    def best(self, game: Any) -> str:
        """The next action of a player that wins."""

    def one_move(self, action: str) -> str:
        """What the game is given of an action."""
        return action


class OneMove(Solver):
    """Games that take several moves at once, in the order of a set of strings: another one in every process."""

    def one_move(self, action: str) -> str:
        """The first move only."""
        found = _BRACKET.search(action)
        return found[0] if found else action


class Crosswords(OneMove):
    def best(self, game: Any) -> str:
        state = game.state.game_state
        empty = ((r, c) for r, row in enumerate(state["board"]) for c, cell in enumerate(row) if cell == "_")
        row, column = next(empty)
        return f"[{row} {column} {state['solution'][row][column]}]"


class FrozenLake(Solver):
    def moves(self, game: Any) -> Commands:
        row, column = game.state.game_state["player_pos"]
        return tuple(
            f"[{name}]" for name, (dr, dc) in DIRECTIONS.items()
            if 0 <= row + dr < game.size and 0 <= column + dc < game.size
        )  # fmt: skip

    def best(self, game: Any) -> str:
        state = game.state.game_state
        grid = tuple("".join(row) for row in state["grid"])
        return f"[{lake_path(grid, state['player_pos'], state['goal_pos'])[0]}]"


class GuessTheNumber(Solver):
    def moves(self, game: Any) -> Commands:
        possible = range(game.min_number, game.max_number + 1)
        return tuple(f"[{number}]" for number in possible if number not in game.guessed_numbers)

    def best(self, game: Any) -> str:
        """The middle of what the hints leave."""
        low, high = game.min_number, game.max_number
        for number, hint in game.state.game_state["guess_history"]:
            low, high = (max(low, number + 1), high) if hint == "higher" else (low, min(high, number - 1))
        return f"[{(low + high) // 2}]"


class LightsOut(Solver):
    def moves(self, game: Any) -> Commands:
        return tuple(f"[{row} {column}]" for row in range(game.size) for column in range(game.size))

    def best(self, game: Any) -> str:
        """The first of the fewest presses: all first rows are tried, the rest follows row by row."""
        size, grid = game.size, game.state.game_state["grid"]
        found = [presses for first in product((0, 1), repeat=size) if (presses := _chase(grid, first)) is not None]
        row, column = min(found, key=len)[0]
        return f"[{row} {column}]"


def _chase(grid: list[list[bool]], first: tuple[int, ...]) -> list[tuple[int, int]] | None:
    """Presses that put every light out, those of the first row given; None where lights of the last row stay on."""
    size, lit = len(grid), [list(row) for row in grid]
    presses = list[tuple[int, int]]()
    for row in range(size):
        for column in range(size):
            if first[column] if row == 0 else lit[row - 1][column]:
                presses.append((row, column))
                for dr, dc in ((0, 0), *DIRECTIONS.values()):
                    if 0 <= row + dr < size and 0 <= column + dc < size:
                        lit[row + dr][column + dc] = not lit[row + dr][column + dc]
    return None if any(map(any, lit)) else presses


class LogicPuzzle(OneMove):
    def moves(self, game: Any) -> Commands:
        return tuple(
            f"[{row} {column} {mark}]" for grid in game.game_board.values() for row, cells in grid.items()
            for column, now in cells.items() for mark in "OX" if mark != now
        )  # fmt: skip

    def best(self, game: Any) -> str:
        for name, grid in game.game_board_solution.items():
            for row, cells in grid.items():
                for column, mark in cells.items():
                    if game.game_board[name][row][column] != mark:
                        return f"[{row} {column} {mark}]"
        raise AssertionError("the puzzle is solved")


class Mastermind(Solver):
    def best(self, game: Any) -> str:
        return f"[{' '.join(map(str, game.state.game_state['secret_code']))}]"


class Minesweeper(Solver):
    def best(self, game: Any) -> str:
        """The middle first, then what is safe, cells without a mine around them before others."""
        if game.first_move:
            return f"[{game.rows // 2} {game.cols // 2}]"
        hidden = [
            (game.grid[r][c], r, c) for r in range(game.rows) for c in range(game.cols) if not game.revealed[r][c]
        ]
        _, row, column = min(each for each in hidden if each[0] >= 0)
        return f"[{row} {column}]"


class PegJump(Solver):
    def moves(self, game: Any) -> Commands:
        board = game.state.game_state["board"]
        possible = (
            f"[{start} {end}]" for start, over, end in game.ALLOWED_MOVES
            if board[start] and board[over] and not board[end]
        )  # fmt: skip
        return tuple(dict.fromkeys(possible))

    def best(self, game: Any) -> str:
        pegs = frozenset(i for i, peg in enumerate(game.state.game_state["board"]) if peg)
        plan = jumps(pegs, tuple(game.ALLOWED_MOVES))
        return f"[{plan[0][0]} {plan[0][1]}]" if plan else (self.moves(game) or ("",))[0]


class RushHour(Solver):
    def moves(self, game: Any) -> Commands:
        taken, found = game._occupied(), list[str]()
        for car in game.state.game_state["vehicles"].values():
            for forward in (True, False):
                row, column = car.front(forward)
                if 0 <= row < game.BOARD_SIZE and 0 <= column < game.BOARD_SIZE and taken[row][column] is None:
                    found.append(f"[{car.vid}{'+' if forward else '-'}]")
        return tuple(found)

    def best(self, game: Any) -> str:
        cars = tuple(
            (car.vid, car.row, car.col, car.length, car.horizontal)
            for car in game.state.game_state["vehicles"].values()
        )
        plan = slide_cars(cars, game.BOARD_SIZE)
        return f"[{plan[0]}]" if plan else (self.moves(game) or ("",))[0]


class Secretary(Solver):
    def moves(self, game: Any) -> Commands:
        return "[accept]", "[continue]"

    def best(self, game: Any) -> str:
        state = game.state.game_state
        return "[accept]" if state["draws"][state["current_idx"] - 1] == max(state["draws"]) else "[continue]"


class Slitherlink(Solver):
    def moves(self, game: Any) -> Commands:
        across = [f"[h {r} {c}]" for r in range(game.R + 1) for c in range(game.C)]
        return (*across, *(f"[v {r} {c}]" for r in range(game.R) for c in range(game.C + 1)))

    def best(self, game: Any) -> str:
        """Draws the rectangle that fits the numbers: every puzzle is made from one."""
        for top, bottom in combinations(range(game.R + 1), 2):
            for left, right in combinations(range(game.C + 1), 2):
                across = {(row, c) for row in (top, bottom) for c in range(left, right)}
                down = {(r, column) for column in (left, right) for r in range(top, bottom)}
                if _fits(game.clues, across, down):
                    for kind, wanted, drawn in (("h", across, game.h_edges), ("v", down, game.v_edges)):
                        for row, column in sorted(wanted ^ drawn):
                            return f"[{kind} {row} {column}]"
        raise AssertionError("no rectangle fits")


def _fits(clues: list[list[int | None]], across: set[tuple[int, int]], down: set[tuple[int, int]]) -> bool:
    return all(
        clue is None
        or clue == ((r, c) in across) + ((r + 1, c) in across) + ((r, c) in down) + ((r, c + 1) in down)
        for r, row in enumerate(clues) for c, clue in enumerate(row)
    )  # fmt: skip


class Sokoban(Solver):
    def moves(self, game: Any) -> Commands:
        return tuple(f"[{name}]" for name in DIRECTIONS if not game._would_collide_with_wall(name))

    def best(self, game: Any) -> str:
        """The fewest moves; any move where a box is stuck."""
        rows, columns = game.room_state.shape
        cells = [(r, c) for r in range(rows) for c in range(columns)]
        walls = frozenset(cell for cell in cells if game.room_state[cell] == 0)
        goals = frozenset(cell for cell in cells if game.room_fixed[cell] == 2)
        boxes = frozenset(cell for cell in cells if game.room_state[cell] in (3, 4))
        plan = push_boxes(walls, goals, boxes, tuple(map(int, game.player_position)))
        return f"[{plan[0]}]" if plan else (self.moves(game) or ("",))[0]


class Sudoku(Solver):
    def best(self, game: Any) -> str:
        board = game.state.game_state["board"]
        row, column = next((r, c) for r in range(9) for c in range(9) if board[r][c] == 0)
        return f"[{row + 1} {column + 1} {game.full_grid[row][column]}]"


class ThreeCardMonte(Solver):
    def moves(self, game: Any) -> Commands:
        return tuple(f"[{cup}]" for cup in range(game.num_cups))

    def best(self, game: Any) -> str:
        return f"[{game.ball_pos}]"


class TowerOfHanoi(Solver):
    def moves(self, game: Any) -> Commands:
        towers = game.state.game_state["towers"]
        return tuple(
            f"[{a} {b}]" for a in towers for b in towers
            if a != b and towers[a] and (not towers[b] or towers[b][-1] > towers[a][-1])
        )  # fmt: skip

    def best(self, game: Any) -> str:
        """Bring the largest disk that is not on C there; for that, the smaller ones to the third tower; and so on."""
        towers = game.state.game_state["towers"]
        where = {disk: name for name, disks in towers.items() for disk in disks}
        goal, move = "C", ""
        for disk in sorted(where, reverse=True):
            if where[disk] != goal:
                move = f"[{where[disk]} {goal}]"
                goal = next(name for name in "ABC" if name not in (where[disk], goal))
        return move


class Cryptarithm(Solver):
    def best(self, game: Any) -> str:
        for letter, digit in sorted(_letters(tuple(game.addends), game.result).items()):
            if game.mapping.get(letter) != digit:
                holder = game.digit_used.get(digit)
                if holder is None:
                    return f"[{letter} {digit}]"
                free = next(each for each in range(9, -1, -1) if each not in game.digit_used)
                return f"[{holder} {free}]"
        raise AssertionError("the puzzle is solved")


@lru_cache(maxsize=4)
def _letters(addends: tuple[str, ...], result: str) -> dict[str, int]:
    """Digits of the letters, column by column from the right; the first solution."""
    width = len(result)
    words = [word.rjust(width) for word in (*addends, result)]
    first = {word.strip()[0] for word in words}

    def fill(column: int, row: int, total: int, found: dict[str, int]) -> dict[str, int] | None:
        if column < 0:
            return found if total == 0 else None
        letter = words[row][column]
        last = row == len(words) - 1
        choices = [0] if letter == " " else [found[letter]] if letter in found else range(10)
        for digit in choices:
            fresh = letter != " " and letter not in found
            if fresh and (digit in found.values() or (digit == 0 and letter in first)):
                continue
            if last and total % 10 != digit:
                continue
            after = fill(column - 1, 0, total // 10, found | {letter: digit} if fresh else found) if last else fill(
                column, row + 1, total + digit, found | {letter: digit} if fresh else found
            )  # fmt: skip
            if after is not None:
                return after
        return None

    return fill(width - 1, 0, 0, {}) or {}


class Countdown(Solver):
    def best(self, game: Any) -> str:
        """A way to the target, or any move where numbers that it needs are spent."""
        return (*reach_target(tuple(game.numbers), game.target), "[0 1 +]")[0]


class Game2048(Solver):
    def moves(self, game: Any) -> Commands:
        """Directions in which something moves."""
        board = _tiles(game)
        return tuple(f"[{name.capitalize()}]" for name in DIRECTIONS if slide_tiles(board, name) != board)

    def best(self, game: Any) -> str:
        """Looks ahead with the tiles that will come: the dice are the game's own here."""
        return f"[{merge_tiles(_tiles(game), random.getstate()).capitalize()}]"


def _tiles(game: Any) -> Board:
    return tuple(map(tuple, game.state.game_state["board"]))


SOLVERS: dict[str, Solver] = {
    "2048": Game2048(),
    "Countdown": Countdown(),
    "Crosswords": Crosswords(),
    "Cryptarithm": Cryptarithm(),
    "FrozenLake": FrozenLake(),
    "GuessTheNumber": GuessTheNumber(),
    "LightsOut": LightsOut(),
    "LogicPuzzle": LogicPuzzle(),
    "Mastermind": Mastermind(),
    "Minesweeper": Minesweeper(),
    "PegJump": PegJump(),
    "RushHour": RushHour(),
    "Secretary": Secretary(),
    "Slitherlink": Slitherlink(),
    "Sokoban": Sokoban(),
    "Sudoku": Sudoku(),
    "ThreeCardMonte": ThreeCardMonte(),
    "TowerOfHanoi": TowerOfHanoi(),
}
"""Family -> what is known of it."""
