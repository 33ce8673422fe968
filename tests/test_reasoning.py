"""ReasoningGym: every generator on its gold answer and on wrong ones, guarded graders, own solvers, splits, levels."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pages import section_of
from turnwise.envs import RequestError, Task, UnknownName, tasks
from turnwise.envs.check import check_env
from turnwise.envs.reasoning import names
from turnwise.envs.reasoning.experts import SOLVERS, boxnet, graph_color, rubiks_cube, rush_hour
from turnwise.envs.reasoning.grading import FORMS, grade, read_rows, write_rows

pytest.importorskip("reasoning_gym")
import reasoning_gym
from reasoning_gym.factory import DATASETS
from turnwise.envs.reasoning.env import GIVE_UP, ReasoningGymEnv, make_dataset

ID = "turnwise/ReasoningGym-v0"
EVERY = [name for members in names.FAMILIES.values() for name in members]
WRONG = (
    "turnwise knows no such words",
    "((",
    "9" * 400,
    "yes and no",
    '{"name": "finish"}',
    "[]",
    "None",
    "| | |",
    "nan",
    "1e999999999",
)
ALIKE = {"kakurasu", "n_queens", "knights_knaves", "syllogism", "aiw", "coin_flip", "game_of_life_halting"}
"""Generators where one task's gold answer may be right in another: few answers, or several right ones."""


def task(name: str, seed: int = 0, **params: Any) -> Task:
    return Task(env=ID, seed=seed, params={"dataset": name, "level": None, "config": {}, **params}, max_turns=1)


def answer(name: str, text: str, seed: int = 0) -> dict[str, Any]:
    env = ReasoningGymEnv()
    env.reset(options={"task": task(name, seed)})
    return env.step(text)[-1]


def test_the_lists_are_the_librarys_generators_by_folder() -> None:
    assert sorted([*EVERY, *names.LEFT_OUT]) == sorted(DATASETS) and len(DATASETS) == 106
    for family, members in names.FAMILIES.items():
        assert {DATASETS[name][0].__module__.split(".")[1] for name in members} == {family}


@pytest.mark.parametrize("family", names.FAMILIES)
def test_every_generator_pays_the_expert_and_nobody_who_is_wrong(family: str) -> None:
    env = ReasoningGymEnv()
    for name in names.FAMILIES[family]:
        env.reset(options={"task": task(name)})
        gold = env.expert()
        info = env.step(gold)[-1]
        assert info["success"] and info["score"] == 1.0 and info["stop"] == "success", (name, gold)
        env.reset(options={"task": task(name, 1)})
        others = () if name in ALIKE or env.expert() == gold else (gold,)
        for text in (*WRONG, GIVE_UP, *others):
            env.reset(options={"task": task(name, 1)})
            _, reward, terminated, _, info = env.step(text)
            assert info["stop"] == "failure" and terminated and not info["success"], (name, text)
            assert 0 <= reward == info["score"] < 1, (name, text)


def test_a_score_below_one_is_no_success() -> None:
    solved = make_dataset(task("mini_sudoku"))[0]["answer"]
    nearly = str(int(solved[0]) % 4 + 1) + solved[1:]
    info = answer("mini_sudoku", nearly)
    assert 0.8 <= info["score"] < 1 and info["stop"] == "failure" and not info["success"]
    assert answer("mini_sudoku", solved)["success"]


def test_giving_up_is_no_answer() -> None:
    info = answer("gcd", GIVE_UP)
    assert info["valid"] and not info["admissible"] and info["score"] == 0.0 and info["stop"] == "failure"


# ---- graders --------------------------------------------------------------------------------------------


def graded(name: str, text: str, seed: int = 0) -> tuple[float, Any, dict[str, Any]]:
    dataset = make_dataset(task(name, seed))
    return grade(dataset, name, dataset[0], text), dataset, dataset[0]


def test_puzzle24_needs_the_given_numbers_and_24_itself() -> None:
    score, dataset, entry = graded("puzzle24", "4*3*2*1")
    assert score == 0.0 and dataset.score_answer("4*3*2*1", entry) == 1.0  # the library takes any four numbers
    numbers = entry["metadata"]["numbers"]
    assert grade(dataset, "puzzle24", entry, entry["answer"]) == 1.0
    assert grade(dataset, "puzzle24", entry, " + ".join(map(str, numbers))) == 0.0
    assert grade(dataset, "puzzle24", entry, "9" * 5000) == 0.0


@pytest.mark.parametrize("gold", ["True", "False"])
def test_only_the_right_one_of_two_answers_counts(gold: str) -> None:
    name, other = "game_of_life_halting", {"True": "False", "False": "True"}[gold]
    seed = next(s for s in range(20) if make_dataset(task(name, s))[0]["answer"] == gold)
    for text in (other, "perhaps"):
        score, dataset, entry = graded(name, text, seed)
        assert score == 0.0 and dataset.score_answer(text, entry) == 1.0  # the library takes any text
    assert graded(name, gold.lower(), seed)[0] == 1.0


@pytest.mark.parametrize("name", ["binary_matrix", "n_queens", "spiral_matrix", "string_insertion"])
def test_an_answer_is_not_executed(name: str, tmp_path: Path) -> None:
    code = f"[__import__('pathlib').Path({str(tmp_path / 'ran')!r}).touch()]"
    score, dataset, entry = graded(name, code)
    assert score == 0.0 and not list(tmp_path.iterdir())
    dataset.score_answer(code, entry)
    assert list(tmp_path.iterdir())  # the library alone runs it


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("countdown", "9**9**9**9"),
        ("countdown", "9* *9* *9* *9"),
        ("puzzle24", "9**9**9**9"),
        ("puzzle24", "exp(99)"),
        ("coin_flip", "1e999999999"),
        ("coin_flip", "1E-999999999"),
        ("complex_arithmetic", "nan"),
        ("rush_hour", "A+99999999999"),
        ("rubiks_cube", "R99999999999"),
    ],
)
def test_answers_that_would_never_be_graded_are_worth_nothing(name: str, text: str) -> None:
    assert not FORMS[name].fullmatch(text) and graded(name, text)[0] == 0.0


@pytest.mark.parametrize("text", ["R U'", "R2 U2", "A+3 B-1", "(8 / 3) * 2 - 1", "4.9e-04", "1/8", "-5.0 + 3.0i"])
def test_forms_let_ordinary_answers_pass(text: str) -> None:
    assert any(form.fullmatch(text) for form in FORMS.values())


def test_a_grader_that_breaks_pays_nothing() -> None:
    score, dataset, entry = graded("prime_factorization", "six")
    with pytest.raises(ValueError):
        dataset.score_answer("six", entry)
    assert score == 0.0


def test_rows_on_one_line_and_on_several() -> None:
    assert read_rows("1 2 | 3 4", rows=True) == "1 2\n3 4"
    assert read_rows("1 2 | 3 4", rows=False) == "1 2 | 3 4"
    assert read_rows("a |\nb", rows=True) == "a |\nb"
    assert write_rows("1  2\n3 4") == "1 2 | 3 4"
    gold = reasoning_gym.create_dataset("rotate_matrix", seed=0, size=1)[0]["answer"]
    assert "\n" in gold and answer("rotate_matrix", gold)["success"]
    assert answer("rotate_matrix", gold.replace("\n", " | "))["success"]


# ---- solvers, by hand ------------------------------------------------------------------------------------


def test_a_colouring_by_hand() -> None:
    puzzle = {"vertices": [0, 1, 2], "edges": [(0, 1), (1, 2), (0, 2)], "color_options": [1, 2, 3]}
    assert sorted(json.loads(graph_color({"puzzle": puzzle})).values()) == [1, 2, 3]
    path = {"vertices": [0, 1, 2], "edges": [(0, 1), (1, 2)], "color_options": [1, 2]}
    assert json.loads(graph_color({"puzzle": path})) == {"0": 2, "1": 1, "2": 2}


def test_a_scramble_backwards() -> None:
    assert rubiks_cube({"scramble_moves": "B D' F"}) == "F' D B'"


def test_a_box_is_carried_by_hand() -> None:
    squares = {"0.5_0.5": ["box_red"], "0.5_1.5": [], "1.5_0.5": [], "1.5_1.5": ["target_red"]}
    assert json.loads(boxnet({"initial_state": squares})) == [
        {"Agent[0.5, 0.5]": "move(box_red, square[1.5, 0.5])"},
        {"Agent[1.5, 0.5]": "move(box_red, square[1.5, 1.5])"},
        {"Agent[1.5, 1.5]": "move(box_red, target_red)"},
    ]


def test_a_car_gets_out_in_the_fewest_moves() -> None:
    board = "oooooooooBooAAoBoooooooooooooooooooo"
    assert rush_hour({"board_config": board}) in ("B-1 A+4", "B+1 A+4", "B+2 A+4", "B+3 A+4")
    walled = "oooxoooooBooAAoBoooooooooooxoooooooo"
    assert rush_hour({"board_config": walled}) == ""  # B needs two free cells below


# ---- tasks -----------------------------------------------------------------------------------------------


def test_splits_share_neither_seeds_nor_unseen_families() -> None:
    seen, owner = set[str](), dict[tuple[str, int], str]()
    for split in names.SEEDS:
        for each in tasks(ID, split):
            key = each.params["dataset"], each.seed
            assert owner.setdefault(key, split) == split
            assert (each.meta["family"] in names.UNSEEN) is (split == "unseen")
            seen.add(each.params["dataset"])
    assert seen == set(EVERY)


def test_levels_and_arguments_reach_the_generator() -> None:
    easy, hard = (make_dataset(task("chain_sum", level=level)).config for level in (0, 2))
    assert hard.max_terms > easy.max_terms
    assert make_dataset(task("chain_sum", config={"min_terms": 9, "max_terms": 9}))[0]["question"].count(" + ") <= 8
    assert tasks(ID, "train", 1, names="gcd", level=1)[0].difficulty == 1.0


@pytest.mark.parametrize(
    ("params", "error", "says"),
    [
        ({"names": "gdc"}, UnknownName, "Did you mean 'gcd'"),
        ({"names": "word_ladder"}, RequestError, "left out: its tasks depend on the hash seed"),
        ({"names": "coin_flip"}, UnknownName, "generator of split 'train'"),
        ({"family": "geometry"}, UnknownName, "family of split 'train'"),
        ({"level": 3}, RequestError, "Expected a level from 0 to 2 or None, got 3"),
        ({"config": {"a": 1}}, RequestError, "with one generator in names"),
        ({"colour": 1}, RequestError, "parameters"),
    ],
)
def test_bad_parameters_are_named(params: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=re.escape(says)):
        tasks(ID, "train", 1, **params)


def test_bad_arguments_of_a_generator_are_named() -> None:
    with pytest.raises(RequestError, match="Expected arguments that gcd takes"):
        ReasoningGymEnv().reset(options={"task": task("gcd", config={"colour": 1})})
    with pytest.raises(UnknownName, match="generator of ReasoningGym"):
        ReasoningGymEnv().reset(options={"task": task("word_ladder")})


def test_the_page_names_every_parameter_and_the_sizes() -> None:
    text = section_of(ID)
    own = set(inspect.signature(names.make_tasks).parameters) - {"split", "count"}
    assert set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE)) >= own
    for split, size in names.splits().items():
        assert re.search(rf"`{split}`[^\n]*\b{size:,}\b", text)
    assert all(f"`{name}`" in text for name in names.LEFT_OUT)


@pytest.mark.slow
@pytest.mark.parametrize("level", [None, 0, 1, 2])
def test_the_expert_wins_at_every_level(level: int | None) -> None:
    env = ReasoningGymEnv()
    for split in ("test", "unseen"):
        seeds = names.SEEDS["test"] if level is None else 2
        per_seed = sum(map(len, names.families(split).values()))
        for each in tasks(ID, split, seeds * per_seed, level=level):
            env.reset(options={"task": each})
            assert env.step(env.expert())[-1]["success"], each


@pytest.mark.slow
def test_what_is_left_out_for_its_hash_seed_does_depend_on_it() -> None:
    assert set(SOLVERS) <= set(EVERY)
    hashed = [name for name, why in names.LEFT_OUT.items() if "hash seed" in why]
    code = (
        "import json, reasoning_gym as r\n"
        "def text(name): return str([r.create_dataset(name, seed=s, size=1)[0] for s in range(20)])\n"
        f"print(json.dumps({{name: text(name) for name in {hashed!r}}}))"
    )
    said = []
    for seed in ("1", "2", "3"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        said.append(json.loads(done.stdout))
    for name in hashed:
        assert len({each[name] for each in said}) > 1, name


def test_reasoning_gym_keeps_every_promise() -> None:
    report = check_env(ID, tasks_per_split=1)
    assert report.ok, [check for check in report.checks if not check.ok]
