"""ThoughtGraph: errors by hand and against slow references, what each action may do, graded answers, the expert."""

from __future__ import annotations

import inspect
import random
import re
from collections import Counter
from typing import Any

import pytest
from helpers import run
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import section_of
from turnwise.agents.agent import ScriptedAgent
from turnwise.agents.rollout import Episode
from turnwise.envs import RequestError, Task, UnknownName, tasks
from turnwise.envs.check import check_env
from turnwise.envs.thoughtgraph.env import SIZES, Thought, ThoughtGraphEnv, shortest
from turnwise.envs.thoughtgraph.kinds import FRUITS, KINDS, words

ID = "turnwise/ThoughtGraph-v0"


def started(kind: str = "sorting", items: str = "3 1 2 0", given: str = "", limit: int = 2) -> ThoughtGraphEnv:
    """An environment with a problem of our own."""
    env = ThoughtGraphEnv()
    env.reset(options={"task": Task(env=ID, params={"kind": kind, "size": 4, "limit": limit}, max_turns=40)})
    env.given, content = tuple(given.split()), tuple(items.split())
    env.thoughts, env.problems = {0: Thought(True, content)}, {0: content}
    return env


def play(env: ThoughtGraphEnv, *actions: str) -> dict[str, Any]:
    for action in actions[:-1]:
        info = env.step(action)[-1]
        assert info["admissible"], (action, env.state.observation)
    return env.step(actions[-1])[-1]


# ---- errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "given", "items", "solution", "errors"),
    [
        ("sorting", "", "3 1 2 0", "0 1 2 3", 0),
        ("sorting", "", "3 1 2 0", "0 2 1 3", 1),  # 2 before 1
        ("sorting", "", "3 1 2 0", "3 2 1 0", 3),
        ("sorting", "", "3 1 2 0", "0 1 2", 1),  # no 3
        ("sorting", "", "3 1 2 0", "0 1 2 2", 2),  # no 3, a 2 too many
        ("intersection", "4 7 9", "9 4 5", "4 9", 0),
        ("intersection", "4 7 9", "9 4 5", "9 4", 0),
        ("intersection", "4 7 9", "9 4 5", "4", 1),
        ("intersection", "4 7 9", "9 4 5", "4 9 9 7", 2),
        ("counting", "", "fig and fig pear", "fig=2 pear=1", 0),
        ("counting", "", "fig and fig pear", "pear=1 fig=2", 0),
        ("counting", "", "fig and fig pear", "fig=1", 2),
        ("counting", "", "fig and fig pear", "fig=4 pear=1 apple=1", 3),
        ("counting", "", "and the", "apple=0", 0),
    ],
)
def test_errors_by_hand(kind: str, given: str, items: str, solution: str, errors: int) -> None:
    found = KINDS[kind].read(solution)
    assert found is not None
    assert KINDS[kind].errors(tuple(given.split()), tuple(items.split()), found) == errors


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(sorted(KINDS)), st.integers(0, 10**6), st.integers(0, 10**6))
def test_nothing_but_the_truth_is_without_errors(kind: str, seed: int, other: int) -> None:
    rules, rng = KINDS[kind], random.Random(other)
    fixed, items = rules.draw(random.Random(seed), 8)
    truth = rules.truth(fixed, items)
    assert rules.errors(fixed, items, truth) == 0
    changed = list(truth)
    if changed and rng.random() < 0.5:
        changed.pop(rng.randrange(len(changed)))
    else:
        changed.append({"sorting": "5", "intersection": "100", "counting": f"{rng.choice(FRUITS)}=1"}[kind])
    right = sorted(changed) == sorted(truth) and (kind != "sorting" or tuple(changed) == truth)
    assert (rules.errors(fixed, items, tuple(changed)) == 0) is right
    assert rules.errors(fixed, items, tuple(rng.sample(truth, len(truth)))) == 0 or kind == "sorting"


def test_truths_against_slow_references() -> None:
    for seed in range(50):
        rng = random.Random(seed)
        _, digits = KINDS["sorting"].draw(rng, 16)
        assert Counter(KINDS["sorting"].truth((), digits)) == Counter(digits)
        assert list(map(int, KINDS["sorting"].truth((), digits))) == sorted(map(int, digits))
        first, second = KINDS["intersection"].draw(rng, 16)
        assert len(set(first)) == len(set(second)) == 16
        assert KINDS["intersection"].truth(first, second) == tuple(
            str(n) for n in range(100) if str(n) in first and str(n) in second
        )
        _, text = KINDS["counting"].draw(rng, 16)
        told = dict(each.split("=") for each in KINDS["counting"].truth((), text))
        assert told == {fruit: str(text.count(fruit)) for fruit in FRUITS if fruit in text}


@pytest.mark.parametrize(
    ("kind", "text", "read"),
    [
        ("sorting", "[0, 1, 2]", ("0", "1", "2")),
        ("sorting", "0 12", None),
        ("sorting", "none", ()),
        ("sorting", "", None),
        ("sorting", "0 ²", None),
        ("intersection", "{07, 12}", ("7", "12")),
        ("intersection", "seven", None),
        ("counting", "Fig: 2, pear = 1", ("fig=2", "pear=1")),
        ("counting", "fig=1 fig=1", None),
        ("counting", "plum=1", None),
    ],
)
def test_solutions_are_read(kind: str, text: str, read: tuple[str, ...] | None) -> None:
    assert KINDS[kind].read(text) == read


# ---- playing ---------------------------------------------------------------------------------------------


def test_an_episode_by_hand() -> None:
    env = started()
    info = play(env, "split 0: 3 1 | 2 0", "solve 1: 1 3", "solve 2: 0 2", "merge 3 4: 0 1 2 3", "answer 5")
    assert info["success"] and info["stop"] == "success" and info["score"] == 1.0 and info["errors"] == 0
    assert info["thoughts"] == 6
    assert env.thoughts[5].of == (1, 2) and env.thoughts[5].parents == (3, 4)


def test_wrong_contents_are_the_agents_own_and_cost_what_they_are_wrong_by() -> None:
    env = started()
    info = play(env, "split 0: 3 1 | 2 0", "solve 1: 3 1", "solve 2: 0 2", "merge 3 4: 0 2 1 3", "answer 5")
    assert info["errors"] == 1 and info["score"] == 0.75 and info["stop"] == "failure" and not info["success"]
    partial = started()
    info = play(partial, "split 0: 3 1 | 2 0", "solve 1: 1 3", "answer 3")
    assert info["errors"] == 2 and info["score"] == 0.5 and info["stop"] == "failure"


def test_a_wrong_split_is_met_only_at_the_end() -> None:
    env = started()
    info = play(env, "split 0: 3 1 | 2 2", "solve 1: 1 3", "solve 2: 2 2", "score 4")
    assert "Thought 4 has 0 errors" in env.state.observation and info["score"] == 0.0
    info = play(env, "merge 3 4: 1 2 2 3", "answer 5")
    assert info["errors"] == 2 and not info["success"]


def test_refining_and_scoring() -> None:
    env = started()
    play(env, "split 0: 3 1 | 2 0", "solve 1: 3 1", "score 3")
    assert env.state.observation.startswith("Thought 3 has 1 errors")
    play(env, "refine 3: 1 3", "score 4")
    assert env.state.observation.startswith("Thought 4 has 0 errors")
    assert env.thoughts[4].of == (1,) and env.thoughts[4].parents == (3,)


def test_solutions_outlive_a_problem_that_is_dropped() -> None:
    env = started()
    play(env, "split 0: 3 1 | 2 0", "solve 1: 1 3", "drop 1", "solve 2: 0 2", "merge 3 4: 0 1 2 3", "score 5")
    assert "has 0 errors" in env.state.observation and "1 part of 0" not in env.state.observation
    assert not play(env, "solve 1: 1 3")["admissible"]
    assert play(env, "answer 5")["success"]


@pytest.mark.parametrize(
    ("actions", "says", "valid"),
    [
        (["solve 0: 0 1 2 3"], "Only problems of at most 2 items", True),
        (["answer 0"], "Thought 0 is a problem", True),
        (["answer 7"], "There is no thought 7", True),
        (["split 0: 3 1 2 0"], "split into 2 to 8 smaller", True),
        (["split 0: 3 1 2 0 | 1"], "split into 2 to 8 smaller", True),
        (["split 0: 3 1 | "], "Write the parts", False),
        (["split 0"], "To split takes a content", False),
        (["drop 0"], "Thought 0 is the problem itself", True),
        (["split 0: 3 1 | 2 0", "solve 1: one three"], "Write digits", False),
        (["split 0: 3 1 | 2 0", "solve 1: 1 3", "merge 3: 1 3"], "takes 2 thoughts", True),
        (["split 0: 3 1 | 2 0", "solve 1: 1 3", "merge 3 3: 1 3"], "takes 2 thoughts", True),
        (["split 0: 3 1 | 2 0", "solve 1: 1 3", "refine 3: 1 3", "merge 3 4: 1 3"], "of the same problem", True),
        (["split 0: 3 1 | 2 0", "solve 1: 1 3", "merge 3 1: 1 3"], "Thought 1 is a problem", True),
        (["split 0: 3 1 | 2 0", "solve 1: 1 3", "split 3: 1 | 3"], "Thought 3 is a solution", True),
        (["split 0: 3 1 | 2 0", "refine 1: 1 3"], "Thought 1 is a problem", True),
        (["answer 3: 1"], "takes no content", False),
        (["I think the digits are 0 1 2 3"], "Write a verb", False),
    ],
)
def test_what_cannot_be_done_changes_nothing(actions: list[str], says: str, valid: bool) -> None:
    env = started()
    before = [dict(env.thoughts)]
    for action in actions[:-1]:
        play(env, action)
        before.append(dict(env.thoughts))
    info = play(env, actions[-1])
    assert says in env.state.observation
    assert info["valid"] is valid and not info["admissible"] and info["stop"] is None
    assert env.thoughts == before[-1]


def test_nothing_follows_the_answer() -> None:
    env = started(limit=4)
    assert play(env, "solve 0: 0 1 2 3", "answer 1")["success"]
    assert not play(env, "drop 1")["admissible"]


def test_the_other_kinds_by_hand() -> None:
    env = started("intersection", "9 4 5 1", "4 7 9 8")
    assert "0 problem: 4 7 9 8 & 9 4 5 1" in env.step("look")[0]
    info = play(env, "split 0: 9 4 | 5 1", "solve 1: 4 9", "solve 2: none", "merge 3 4: 9 4", "answer 5")
    assert info["success"]
    env = started("counting", "fig and fig pear")
    play(env, "split 0: fig and | fig pear", "solve 1: fig=1", "solve 2: fig=1 pear=1")
    info = play(env, "merge 3 4: fig=2 pear=1", "answer 5")
    assert info["success"]


@pytest.mark.parametrize(
    ("split", "size", "limit"), [("test", 16, 8), ("large", 16, 8), ("test", 8, 8), ("test", 9, 2)]
)
def test_the_expert_wins_in_the_fewest_turns(split: str, size: int, limit: int) -> None:
    listed = tasks(ID, split, 60, size=size, limit=limit, slack=0)
    items = size * (2 if split == "large" else 1)
    played = run(ScriptedAgent("expert"), [Episode(task) for task in listed])
    assert all(t.success and len(t.turns) == shortest(items, limit) for t in played)
    assert not any(t.success or t.score for name in ("random", "empty") for t in
                   run(ScriptedAgent(name), [Episode(task) for task in listed]))  # fmt: skip


def test_the_expert_finds_its_way_from_bad_beginnings() -> None:
    for task in tasks(ID, "test", 6, slack=12):
        env = ThoughtGraphEnv()
        env.reset(options={"task": task})
        items = env.thoughts[0].content
        for action in (
            f"split 0: {' '.join(items[:5])} | {' '.join(items[5:9])}",
            "solve 1: none",
            "solve 2: none",
            "merge 3 4: none",
        ):
            env.step(action)
        while env.state.success is False and env.turn < task.max_turns:
            assert env.step(env.expert())[-1]["admissible"]
        assert env.state.success


def test_splits_share_no_problem() -> None:
    owner: dict[tuple[Any, ...], str] = {}
    for split in SIZES:
        for task in tasks(ID, split, size=10, limit=5):
            kind, seed, size = task.params["kind"], task.seed, task.params["size"]
            rng = random.Random(f"thoughts {seed} {kind} {size}")
            assert owner.setdefault((kind, *KINDS[kind].draw(rng, size)), split) == split


@pytest.mark.parametrize(
    ("params", "error", "says"),
    [
        ({"kind": "sort"}, UnknownName, "Did you mean 'sorting'"),
        ({"size": 4, "limit": 8}, RequestError, "from limit to 8 limits"),
        ({"size": 20, "limit": 2}, RequestError, "from limit to 8 limits"),
        ({"size": 60, "limit": 30}, RequestError, "at most 50 items"),
        ({"slack": -1}, RequestError, "a slack of 0 or more, got 16 and -1"),
    ],
)
def test_bad_parameters_are_named(params: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        tasks(ID, "train", 1, **params)


def test_words() -> None:
    assert words(" [1, 2] ") == ("1", "2") and words("none") == () and words("  ") is None


def test_the_page_names_every_parameter_and_the_sizes() -> None:
    text = section_of(ID)
    own = set(inspect.signature(ThoughtGraphEnv.tasks).parameters) - {"split", "count"}
    assert set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE)) == own
    for split, size in SIZES.items():
        assert re.search(rf"`{split}`\s+{size:,}", text)


def test_thoughtgraph_keeps_every_promise() -> None:
    report = check_env(ID, tasks_per_split=3)
    assert report.ok, [check for check in report.checks if not check.ok]
