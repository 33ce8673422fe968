"""TextArena: every game with its expert and its losers, its own randomness, searches by hand, splits."""

from __future__ import annotations

import inspect
import random
import re
from itertools import combinations, product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pages import section_of
from turnwise.envs import Task, UnknownName, tasks
from turnwise.envs.check import BAD_ACTIONS, check_env
from turnwise.envs.textarena import names
from turnwise.envs.textarena.searches import (
    jumps,
    lake_path,
    merge_tiles,
    push_boxes,
    reach_target,
    slide_cars,
    slide_tiles,
)
from turnwise.envs.textarena.solvers import SOLVERS

pytest.importorskip("textarena")
import numpy as np
import textarena
from turnwise.envs.textarena.env import TextArenaEnv

ID = "turnwise/TextArena-v0"


def started(name: str, seed: int = 0) -> TextArenaEnv:
    env = TextArenaEnv()
    env.reset(options={"task": Task(env=ID, seed=seed, params={"name": name}, max_turns=names.TURNS[name])})
    return env


def win(env: TextArenaEnv) -> list[str]:
    actions, over = [], False
    while not over:
        actions.append(env.expert())
        _, _, terminated, truncated, info = env.step(actions[-1])
        assert info["admissible"], actions[-1]
        over = terminated or truncated
    assert env.state.success and env.state.score == 1.0
    return actions


@pytest.mark.parametrize("name", names.TURNS)
def test_the_expert_wins_and_a_broken_rule_loses(name: str) -> None:
    for seed in (0, 1):
        win(started(name, seed))
    env = started(name)
    for _ in range(2):  # games forgive one move that breaks their rules
        assert env.state.failure is False
        *_, terminated, _, info = env.step("turnwise knows no such words")
        assert info["valid"] and not info["admissible"]
    assert terminated and info["stop"] == "failure" and not info["success"] and 0 <= info["score"] <= 0.99


def test_a_reward_that_is_not_a_win_is_no_success() -> None:
    env = started("2048-v0-super-easy")
    board = env._game.state.game_state["board"]
    board[0][0] = 128  # as far as it goes, and then two moves that are none: the game pays 1 for the way made
    for _ in range(2):
        info = env.step("[Sideways]")[-1]
    assert info["stop"] == "failure" and info["score"] == 0.99
    env = started("GuessTheNumber-v0")
    secret = env._game.game_number
    wrong = next(n for n in (1, 20) if n != secret)
    assert env.step(f"[{wrong}]")[-1]["stop"] is None and env.step(f"[{secret}]")[-1]["success"]


def test_walking_into_a_hole_is_a_failure() -> None:
    env = started("FrozenLake-v0-hardcore")
    state = env._game.state.game_state
    state["grid"][0][1] = "H"
    _, reward, terminated, _, info = env.step("[right]")
    assert terminated and info["stop"] == "failure" and reward == info["score"] < 1 and info["admissible"]


def test_listed_commands_are_the_moves_that_a_game_takes() -> None:
    assert started("FrozenLake-v0").state.commands == ("[down]", "[right]")
    assert started("TowerOfHanoi-v0").state.commands == ("[A B]", "[A C]")
    assert started("PegJump-v0").state.commands == ("[12 5]", "[14 5]")
    env = started("GuessTheNumber-v0")
    other = 1 if env._game.game_number != 1 else 2
    env.step(f"[{other}]")
    assert len(env.state.commands or ()) == 19 and f"[{other}]" not in (env.state.commands or ())
    assert started("Mastermind-v0").state.commands is None and started("Minesweeper-v0").state.commands is None


def test_bad_actions_are_answered_in_every_game() -> None:
    brackets = ("[]", "[9 9 9]", "[-1 0]", "[99999999999999999999 0]", "[a b c]", "[up] [down]", "[A+]", "[1]" * 60)
    for name in names.TURNS:
        for action in (*brackets, *BAD_ACTIONS[5:9]):  # the kit tries the others
            observation = env_of(name).step(action)[0]
            assert isinstance(observation, str) and observation


_kept: dict[str, TextArenaEnv] = {}


def env_of(name: str) -> TextArenaEnv:
    """An environment of a game that is not over: a fresh one is only made where it is."""
    env = _kept.get(name)
    if env is None or env.state.success or env.state.failure or env.turn > names.TURNS[name] - 2:
        env = _kept[name] = started(name)
    return env


# ---- 2048 and Countdown ----------------------------------------------------------------------------------

TILE = st.sampled_from((0, 0, 2, 2, 4, 8, 64))
BOARD = st.tuples(*[st.tuples(*[TILE] * 4)] * 4)


@given(BOARD)
def test_tiles_slide_as_in_the_game(board: Any) -> None:
    game = env_of("2048-v0-easy")._game
    for index, direction in enumerate(("up", "down", "left", "right")):
        copied = type(game)()
        copied.state = type("State", (), {"game_state": {"board": [list(row) for row in board]}})()
        moved, _ = copied._apply_move(index)
        after = slide_tiles(board, direction)
        assert after == tuple(map(tuple, copied.state.game_state["board"])) and moved is (after != board)


def test_the_expert_of_2048_knows_the_next_tile_and_does_not_take_it() -> None:
    env = started("2048-v0-easy", 7)
    for _ in range(20):
        board = tuple(map(tuple, env._game.state.game_state["board"]))
        action, dice = env.expert(), random.Random()
        assert env.expert() == action
        dice.setstate(env._random[0])
        moved = slide_tiles(board, action[1:-1].lower())
        empty = [(r, c) for r in range(4) for c in range(4) if not moved[r][c]]
        (row, column), four = dice.choice(empty), dice.random() < 0.1
        env.step(action)
        assert env._game.state.game_state["board"][row][column] == (4 if four else 2)
    stuck = tuple(tuple(2 << (r + c) % 2 for c in range(4)) for r in range(4))
    assert merge_tiles(stuck, random.getstate()) == ""


def test_tiles_merge_once_and_the_only_move_is_found() -> None:
    board = ((2, 4, 8, 16), (4, 8, 16, 32), (8, 16, 32, 64), (16, 32, 64, 64))
    assert slide_tiles(board, "up") == ((2, 4, 8, 16), (4, 8, 16, 32), (8, 16, 32, 128), (16, 32, 64, 0))
    assert slide_tiles(((2, 2, 2, 2), (4, 2, 2, 0), (0,) * 4, (0,) * 4), "right")[:2] == ((0, 0, 4, 4), (0, 0, 4, 4))
    corner = ((2, 4, 8, 16), (4, 8, 16, 32), (8, 16, 32, 64), (16, 32, 64, 0))  # two ways into the gap, one looks back
    dice = random.Random(3).getstate()
    assert merge_tiles(corner, dice) in ("down", "right") and merge_tiles(corner, dice, 1) in ("down", "right")


def exactly(numbers: tuple[int, ...]) -> set[int]:
    """Values of the expressions that use all of these numbers, by trying every one."""
    if len(numbers) == 1:
        return set(numbers)
    found = set[int]()
    for mask in range(1, 2 ** len(numbers) - 1):
        one, two = (tuple(n for i, n in enumerate(numbers) if (mask >> i & 1) == bit) for bit in (1, 0))
        for a, b in product(exactly(one), exactly(two)):
            found |= {a + b, a - b, a * b} | ({a // b} if b and a % b == 0 else set())
    return found


@given(st.lists(st.integers(1, 12), min_size=2, max_size=4), st.integers(1, 60))
def test_a_target_is_reached_exactly_where_it_can_be(numbers: list[int], target: int) -> None:
    moves, left = reach_target(tuple(numbers), target), list(numbers)
    parts = (part for count in range(2, len(numbers) + 1) for part in combinations(numbers, count))
    assert bool(moves) == any(target in exactly(part) for part in parts)
    for move in moves:
        i, j, sign = move[1:-1].split()
        a, b = left[int(i)], left[int(j)]
        left = [n for k, n in enumerate(left) if k not in (int(i), int(j))]
        left.append({"+": a + b, "-": a - b, "*": a * b, "/": a // b if b and a % b == 0 else -(10**9)}[sign])
    assert not moves or left[-1] == target


def test_countdown_is_won_in_five_moves_and_lost_numbers_are_played_on() -> None:
    env = started("Countdown-v0")
    assert len(win(env)) <= 5
    env = started("Countdown-v0")
    for _ in range(4):  # 100 / 2, then what is left of it
        env.step("[0 1 -]")
    assert env.expert() == "[0 1 +]"


# ---- randomness ------------------------------------------------------------------------------------------


def test_games_leave_everybodys_random_numbers_alone() -> None:
    random.seed(5)
    np.random.seed(5)
    expected = random.Random(5).random(), np.random.RandomState(5).random_sample()
    env = started("2048-v0-easy")
    env.step("[Left]")
    started("Sokoban-v0")
    assert (random.random(), np.random.random_sample()) == expected


def test_games_beside_each_other_and_among_other_draws_are_what_they_are_alone() -> None:
    def play(disturb: bool) -> list[str]:
        env, seen = started("2048-v0-easy", 3), list[str]()
        beside = started("2048-v0-easy", 4)
        for action in ["[Left]", "[Up]", "[Right]", "[Down]"] * 5:
            if disturb:
                random.seed(len(seen))
                beside.step(action)
            seen.append(env.step(action)[0])
        return seen

    assert play(False) == play(True)


def test_several_moves_at_once_are_the_first_one_where_their_order_is_chance() -> None:
    solver = SOLVERS["LogicPuzzle"]
    assert solver.one_move("I say [a b X] and [c d O]") == "[a b X]" and solver.one_move("nothing") == "nothing"
    env = started("LogicPuzzle-v0")
    first, second = [each for each in env.state.commands or () if each.endswith("O]")][:2]
    assert first in env.step(first + second)[0] and second not in env.state.observation.split("Current")[0]


# ---- searches, by hand -----------------------------------------------------------------------------------


def test_a_path_around_holes() -> None:
    assert lake_path((" H ", " H ", "   "), (0, 0), (0, 2)) == ("down", "down", "right", "right", "up", "up")
    assert lake_path(("  ", "  "), (0, 0), (1, 1)) in (("down", "right"), ("right", "down"))


def test_jumps_by_hand() -> None:
    moves = ((1, 2, 3), (3, 4, 5))
    assert jumps(frozenset({1, 2, 4}), moves) == ((1, 3), (3, 5))
    assert jumps(frozenset({1, 4}), moves) == ()


def test_cars_by_hand() -> None:
    red, blocker = ("X", 2, 0, 2, True), ("A", 2, 3, 2, False)
    plan = slide_cars((red, blocker), 6)
    assert plan == ("A+", "X+", "X+", "X+", "X+") or sorted(plan) == sorted(("A+", *["X+"] * 4))
    assert slide_cars((red, ("A", 0, 3, 6, False)), 6) == ()


def test_boxes_by_hand() -> None:
    walls = frozenset((r, c) for r in range(3) for c in range(6) if r != 1 or c in (0, 5))
    row = frozenset({(1, 4)}), frozenset({(1, 2)})
    assert push_boxes(walls, *row, (1, 1)) == ("right", "right")
    assert push_boxes(walls, *row, (1, 3)) == ()


# ---- tasks -----------------------------------------------------------------------------------------------


def test_games_are_the_librarys_and_families_are_apart() -> None:
    registered = textarena.envs.registration.ENV_REGISTRY
    assert all(f"{name}-raw" in registered for name in names.TURNS)
    owner: dict[tuple[str, int], str] = {}
    for split in names.SEEDS:
        listed = tasks(ID, split)
        assert len(listed) == names.splits()[split]
        for each in listed:
            assert owner.setdefault((each.params["name"], each.seed), split) == split
            family = names.family_of(each.params["name"])
            assert (family in names.UNSEEN, family in names.FIXED) == (split == "unseen", split == "fixed")


def test_fixed_games_are_the_same_for_every_seed_and_others_are_not() -> None:
    for name in names.split_names("fixed"):
        assert started(name, 0).state.observation == started(name, 1).state.observation
    for name in ("FrozenLake-v0", "Sudoku-v0", "LightsOut-v0", "Secretary-v0"):
        assert started(name, 0).state.observation != started(name, 1).state.observation


def test_bad_names_are_named() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'FrozenLake-v0'"):
        tasks(ID, "train", 1, names="FrozenLak-v0")
    with pytest.raises(UnknownName, match="TextArena game of split 'train'"):
        tasks(ID, "train", 1, names="Sokoban-v0")
    with pytest.raises(UnknownName, match="TextArena game"):
        TextArenaEnv().reset(options={"task": Task(env=ID, params={"name": "Bandit-v0"})})


def test_the_page_names_every_game_and_the_sizes() -> None:
    text = section_of(ID)
    own = set(inspect.signature(names.make_tasks).parameters) - {"split", "count"}
    assert set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE)) >= own
    for split, size in names.splits().items():
        assert re.search(rf"`{split}`[^\n]*\b{size:,}\b", text)
    assert all(f"{family}" in text for family in SOLVERS)


@pytest.mark.slow
@pytest.mark.parametrize("split", names.SEEDS)
def test_the_expert_wins_every_task(split: str) -> None:
    env: Any = TextArenaEnv()
    for each in tasks(ID, split):
        env.reset(options={"task": each})
        win(env)


def test_textarena_keeps_every_promise() -> None:
    report = check_env(ID, tasks_per_split=1)
    assert report.ok, [check for check in report.checks if not check.ok]
