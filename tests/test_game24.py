"""Game24: the list of puzzles and the number of solutions against slow references, exact steps, the grader."""

from __future__ import annotations

import inspect
import itertools
import random
import re
from fractions import Fraction
from typing import Any

import pytest
from helpers import run
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import section_of
from turnwise.agents.agent import ScriptedAgent
from turnwise.agents.rollout import Episode
from turnwise.envs import RequestError, Task, tasks
from turnwise.envs.check import check_env
from turnwise.envs.game24 import SIZES, Game24Env, Numbers, after, merges, puzzles, solutions, solve

ID = "turnwise/Game24-v0"


def started(*numbers: int, slack: int = 50) -> Game24Env:
    env = Game24Env()
    env.reset(options={"task": Task(env=ID, params={"numbers": list(numbers)}, max_turns=3 + slack)})
    return env


def fractions(*numbers: int) -> Numbers:
    return tuple(map(Fraction, sorted(numbers)))


def is_solvable(numbers: list[Fraction]) -> bool:
    """A slow reference: every pair, every operator, by brute force."""
    if len(numbers) == 1:
        return numbers[0] == 24
    for i, j in itertools.permutations(range(len(numbers)), 2):
        rest = [each for k, each in enumerate(numbers) if k not in (i, j)]
        a, b = numbers[i], numbers[j]
        if any(is_solvable([*rest, value]) for value in [a + b, a - b, a * b, *([a / b] if b else [])]):
            return True
    return False


# ---- puzzles and solutions -------------------------------------------------------------------------------


def test_there_are_1362_puzzles() -> None:
    assert len(puzzles()) == len(set(puzzles())) == 1362
    assert (1, 1, 1, 8) in puzzles() and (3, 3, 8, 8) in puzzles() and (1, 1, 1, 1) not in puzzles()


def test_a_sample_is_listed_just_when_brute_force_solves_it() -> None:
    everything = list(itertools.combinations_with_replacement(range(1, 14), 4))
    assert len(everything) == 1820
    for numbers in random.Random(0).sample(everything, 60):
        listed = numbers in puzzles()
        assert listed is is_solvable(list(map(Fraction, numbers))) is (solve(fractions(*numbers)) is not None)


@pytest.mark.parametrize(
    ("numbers", "count"),
    [
        ((3, 3, 8, 8), 1),  # 8 / (3 - 8 / 3)
        ((1, 5, 5, 5), 1),  # 5 * (5 - 1 / 5)
        ((1, 1, 1, 8), 1),  # 8 * (1 + 1 + 1)
        ((2, 2, 2, 3), 2),  # 2 * 2 * 2 * 3 and (2 + 2) * 2 * 3
        ((1, 1, 1, 1), 0),
    ],
)
def test_numbers_of_solutions_by_hand(numbers: tuple[int, ...], count: int) -> None:
    assert solutions(fractions(*numbers)) == count


def expressions(numbers: list[tuple[str, Fraction]]) -> set[str]:
    """A slow reference: all expressions of the numbers as text, made by merging in every order."""
    if len(numbers) == 1:
        return {numbers[0][0]} if numbers[0][1] == 24 else set()
    found = set[str]()
    for i, j in itertools.permutations(range(len(numbers)), 2):
        rest = [each for k, each in enumerate(numbers) if k not in (i, j)]
        (s, a), (t, b) = numbers[i], numbers[j]
        made = [(f"({s}+{t})", a + b), (f"({s}-{t})", a - b), (f"({s}*{t})", a * b)]
        made += [(f"({s}/{t})", a / b)] if b else []
        for each in made:
            found |= expressions([*rest, each])
    return found


def same_rational_function(numbers: tuple[int, ...], text: str) -> tuple[Fraction | None, ...]:
    """Values of an expression of distinct numbers where these are replaced by others: equal just for equal formulas."""
    rng = random.Random(1)
    values = []
    for _ in range(3):
        point = {f"n{number}": Fraction(rng.randint(1000, 10**6)) for number in numbers}
        try:
            values.append(eval(re.sub(r"(\d+)", r"n\1", text), point))
        except ZeroDivisionError:
            values.append(None)
    return tuple(values)


@pytest.mark.parametrize("numbers", [(2, 7, 8, 11), (2, 3, 5, 12), (4, 6, 9, 13)])
def test_solutions_are_the_formulas_that_differ(numbers: tuple[int, ...]) -> None:
    """For four different numbers, formulas are the same just when they agree on other numbers too."""
    found = expressions([(str(number), Fraction(number)) for number in numbers])
    assert all(eval(re.sub(r"(\d+)", r"Fraction(\1)", text), {"Fraction": Fraction}) == 24 for text in found)
    assert solutions(fractions(*numbers)) == len({same_rational_function(numbers, text) for text in found})


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 13), min_size=2, max_size=4))
def test_merges_are_all_the_distinct_steps(numbers: list[int]) -> None:
    given = fractions(*numbers)
    expected = set()
    for i, j in itertools.permutations(range(len(given)), 2):
        a, b = given[i], given[j]
        rest = [each for k, each in enumerate(given) if k not in (i, j)]
        expected |= {tuple(sorted([*rest, value])) for value in (a + b, a - b, a * b, a / b)}
    listed = list(merges(given))
    assert {after(given, merge) for merge in listed} == expected
    assert len({merge.text for merge in listed}) == len(listed)


def test_splits_share_no_puzzle_and_hold_them_all() -> None:
    owner: dict[tuple[int, ...], str] = {}
    for split in SIZES:
        for task in tasks(ID, split):
            assert owner.setdefault(tuple(task.params["numbers"]), split) == split
    assert set(owner) == set(puzzles())


def test_the_page_names_every_parameter_and_the_sizes() -> None:
    text = section_of(ID)
    own = {
        name for function in (Game24Env.tasks, Game24Env.__init__) for name in inspect.signature(function).parameters
    } - {"self", "split", "count", "params", "render_mode"}
    assert set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE)) == own
    for split, size in Game24Env.splits().items():
        assert re.search(rf"`{split}`\s+{size:,}", text)


# ---- playing ---------------------------------------------------------------------------------------------


def test_game24_keeps_every_promise() -> None:
    report = check_env(ID)
    assert report.ok, [check for check in report.checks if not check.ok]


@pytest.mark.parametrize("split", SIZES)
def test_the_expert_wins_in_three_steps(split: str) -> None:
    played = run(ScriptedAgent("expert"), [Episode(task) for task in tasks(ID, split, 150, slack=0)])
    assert len(played) == 150 and all(t.success and len(t.turns) == 3 for t in played)


def test_random_play_rarely_wins_and_silence_never() -> None:
    listed = [Episode(task, seed=i) for i, task in enumerate(tasks(ID, "test", 150))]
    by_chance = run(ScriptedAgent("random"), listed)
    assert all(turn.admissible for t in by_chance for turn in t.turns)
    assert len([t for t in by_chance if t.success]) < 20
    assert not any(t.score for t in by_chance if not t.success)
    assert not any(t.success or t.score for t in run(ScriptedAgent("empty"), listed))


def test_arithmetic_is_exact() -> None:
    env = started(3, 3, 8, 8)
    for action in ("8 / 3 = 8/3", "3 - 8/3 = 1/3 (left: 1/3 8)"):
        assert env.step(action)[-1]["admissible"], action
    info = env.step("8 ÷ 1/3 = 24")[-1]
    assert info["success"] and info["stop"] == "success" and info["score"] == 1.0


@pytest.mark.parametrize(
    ("action", "says", "valid"),
    [
        ("8 / 3 = 2.6667", "Write one step", False),
        ("8 / 3 = 2", "8 / 3 is not 2", True),
        ("8 - 3 = 5 (left: 5 8 8)", "Those are not the numbers", True),
        ("8 * 9 = 72", "Only the numbers left", True),
        ("3 * 3 * 8 = 72", "Write one step", False),
        ("24", "Write one step", False),
        ("8 + 8 = 16 = 24", "Write one step", False),
        ("1/0 + 3 = 3", "Nothing can be divided by 0", True),
    ],
)
def test_wrong_steps_change_nothing(action: str, says: str, valid: bool) -> None:
    env = started(3, 3, 8, 8)
    observation, reward, *_, info = env.step(action)
    assert says in observation and "Left: 3 3 8 8" in observation
    assert reward == 0.0 and info["valid"] is valid and not info["admissible"] and info["stop"] is None


def test_each_number_is_used_once_and_none_is_left_over() -> None:
    env = started(1, 2, 3, 4)
    assert "Left: 2 3 5" in env.step("4 + 1 = 5")[0]
    assert not env.step("4 + 1 = 5")[-1]["admissible"]
    env = started(3, 8, 1, 1)
    info = env.step("3 * 8 = 24")[-1]  # 24 is there, and two numbers are left
    assert info["admissible"] and not info["success"] and info["stop"] is None
    env.step("1 + 1 = 2")
    assert env.step("24 + 2 = 26")[-1]["stop"] == "failure"


def test_division_by_zero_is_not_listed_and_refused() -> None:
    env = started(4, 4, 6, 6)
    env.step("4 - 4 = 0")
    assert not any("/ 0" in command for command in env.state.commands or ())
    observation, *_, info = env.step("6 / 0 = 0")
    assert "divided by 0" in observation and not info["admissible"]


def test_info_tells_the_number_of_solutions() -> None:
    assert started(3, 3, 8, 8).step("look")[-1]["solutions"] == 1


@pytest.mark.parametrize("numbers", [[1, 2, 3], [1, 2, 3, 0], ["1", 2, 3, 4]])
def test_a_task_without_four_numbers_is_refused(numbers: list[Any]) -> None:
    with pytest.raises(RequestError, match="Expected four whole numbers from 1 to 99"):
        Game24Env().reset(options={"task": Task(env=ID, params={"numbers": numbers})})


def test_bad_parameters_are_named() -> None:
    with pytest.raises(RequestError, match="Expected a slack of 0 or more, got -1"):
        tasks(ID, "train", 1, slack=-1)
