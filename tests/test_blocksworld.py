"""BlocksWorld: the rules and plans against slow references, puzzles of every length, the grader, diversity."""

from __future__ import annotations

import inspect
import itertools
import re
from typing import Any

import pytest
from helpers import run
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import section_of
from turnwise.agents.agent import ScriptedAgent
from turnwise.agents.rollout import Episode
from turnwise.envs import RequestError, Task, UnknownName, tasks
from turnwise.envs.blocksworld import (
    COLOURS,
    HAND,
    SIZES,
    TABLE,
    Action,
    BlocksWorldEnv,
    Puzzle,
    apply,
    distinct_plans,
    is_met,
    make_puzzle,
    plan,
    possible,
    puzzle,
)
from turnwise.envs.check import check_env

ID = "turnwise/BlocksWorld-v0"
LEVELS = ((2, 3), (4, 3), (4, 4), (6, 4), (6, 5), (8, 5))


def started(task: Task) -> BlocksWorldEnv:
    env = BlocksWorldEnv()
    env.reset(options={"task": task})
    return env


def depth_first(blocks: tuple[int, ...], goal: Any, length: int) -> list[tuple[str, ...]]:
    """A slow reference: every plan of at most `length` actions that meets the goal with its last one."""
    if is_met(blocks, goal):
        return [()]
    if length == 0:
        return []
    return [
        (action.text, *rest)
        for action in possible(blocks)
        for rest in depth_first(apply(blocks, action), goal, length - 1)
    ]


# ---- rules and plans -------------------------------------------------------------------------------------


def test_the_rules_by_hand() -> None:
    """Blue on red, orange beside: two blocks are clear; with blue in the hand it can go to three places."""
    blocks = (TABLE, 0, TABLE)
    assert {action.text for action in possible(blocks)} == {
        "unstack the blue block from on top of the red block",
        "pick up the orange block",
    }
    held = apply(blocks, Action(1, 0, HAND))
    assert held == (TABLE, HAND, TABLE)
    assert {action.text for action in possible(held)} == {
        "put down the blue block",
        "stack the blue block on top of the red block",
        "stack the blue block on top of the orange block",
    }


def test_a_plan_by_hand() -> None:
    """Turning a tower of three round: unstack, put down, unstack, stack, pick up, stack. There is one way."""
    tower = (TABLE, 0, 1)
    actions, ways = plan(tower, frozenset({(0, 1), (1, 2)}))
    assert [action.text for action in actions] == [
        "unstack the orange block from on top of the blue block",
        "put down the orange block",
        "unstack the blue block from on top of the red block",
        "stack the blue block on top of the orange block",
        "pick up the red block",
        "stack the red block on top of the blue block",
    ]
    assert ways == 1
    two, ways = plan((TABLE, TABLE, TABLE, TABLE), frozenset({(0, 1), (2, 3)}))  # either pair first
    assert len(two) == 4 and ways == 2


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.sampled_from([(2, 3), (4, 3), (4, 4)]), st.sampled_from(list(SIZES)))
def test_length_and_number_of_plans_are_those_of_a_slow_search(seed: int, level: tuple[int, int], split: str) -> None:
    steps, blocks = level
    found = make_puzzle(seed, blocks, steps, split)
    everything = depth_first(found.start, found.goal, steps)
    assert {len(actions) for actions in everything} == {steps}
    assert len(everything) == len(set(everything)) == found.plans


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.sampled_from(LEVELS), st.randoms())
def test_play_keeps_the_laws_of_blocks(seed: int, level: tuple[int, int], rng: Any) -> None:
    """Whatever is done can be undone, one block at most is held, nothing carries two blocks or itself."""
    blocks = make_puzzle(seed, level[1], level[0], "train").start
    for _ in range(12):
        action = rng.choice(list(possible(blocks)))
        before, blocks = blocks, apply(blocks, action)
        assert any(apply(blocks, back) == before for back in possible(blocks))
        carrying = [below for below in blocks if below >= 0]
        assert len(carrying) == len(set(carrying)) and blocks.count(HAND) <= 1
        for block in range(len(blocks)):
            seen = set()
            while block >= 0:
                assert block not in seen
                seen.add(block)
                block = blocks[block]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.permutations(range(4)))
def test_plans_do_not_depend_on_the_colours(seed: int, order: list[int]) -> None:
    found = make_puzzle(seed, 4, 6, "train")

    def renamed(block: int) -> int:
        return order[block] if block >= 0 else block

    start = [TABLE] * 4
    for block, below in enumerate(found.start):
        start[order[block]] = renamed(below)
    goal = frozenset((renamed(block), renamed(below)) for block, below in found.goal)
    actions, plans = plan(tuple(start), goal)
    assert (len(actions), plans) == (found.optimal, found.plans)


# ---- puzzles ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_splits_share_no_puzzle_and_every_puzzle_has_its_length(level: tuple[int, int]) -> None:
    owner: dict[Puzzle, str] = {}
    for split in SIZES:
        for task in tasks(ID, split, 60, steps=level[0], blocks=level[1]):
            found = puzzle(task)
            assert owner.setdefault(found, split) == split
            assert found.optimal == level[0] and len(found.start) == level[1] and found.plans >= 1


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"steps": 3}, "Expected steps of 2, 4, 6 or 8, got 3"),
        ({"steps": 8}, "Expected blocks from 5 to 6 for 8 steps, got 4"),
        ({"blocks": "4"}, "Expected blocks from 3 to 6 for 4 steps, got '4'"),
        ({"slack": -1}, "Expected a slack of 0 or more, got -1"),
        ({"step": 2}, "step"),
    ],
)
def test_bad_parameters_are_named(params: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=re.escape(says)):
        tasks(ID, "train", 1, **params)


def test_the_page_names_every_parameter_and_the_sizes() -> None:
    text = section_of(ID)
    own = {
        name
        for function in (BlocksWorldEnv.tasks, BlocksWorldEnv.__init__)
        for name in inspect.signature(function).parameters
    } - {"self", "split", "count", "params", "render_mode"}
    assert set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE)) == own
    for split, size in BlocksWorldEnv.splits().items():
        assert re.search(rf"`{split}`\s+{size:,}", text)


def test_a_task_of_no_split_is_refused() -> None:
    task = tasks(ID, "test", 1)[0]
    with pytest.raises(UnknownName, match="puzzles of a BlocksWorld task"):
        started(task.model_copy(update={"params": task.params | {"puzzles": "tset"}}))


# ---- playing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("params", [{}, {"steps": 8, "blocks": 5, "slack": 0}])
def test_blocksworld_keeps_every_promise(params: dict[str, Any]) -> None:
    report = check_env(ID, **params)
    assert report.ok, [check for check in report.checks if not check.ok]


@pytest.mark.parametrize("split", SIZES)
def test_the_expert_wins_in_the_fewest_actions(split: str) -> None:
    listed = [
        task for steps, blocks in LEVELS for task in tasks(ID, split, 20, steps=steps, blocks=blocks, slack=0)
    ] + tasks(ID, split, 100)
    played = run(ScriptedAgent("expert"), [Episode(task) for task in listed])
    assert len(played) == 220
    assert all(t.success and len(t.turns) == task.difficulty for t, task in zip(played, listed, strict=True))


def test_the_expert_wins_from_wherever_chance_has_led() -> None:
    import random

    for i, task in enumerate(tasks(ID, "test", 20, slack=40)):
        env, rng = started(task), random.Random(i)
        for _ in range(7):
            if not env.state.success:
                env.step(rng.choice(list(env.state.commands or ())))
        while not env.state.success:
            env.step(env.expert())
        assert env.turn <= 7 + 24


def test_random_play_rarely_wins_and_silence_never() -> None:
    listed = [Episode(task, seed=i) for i, task in enumerate(tasks(ID, "test", 100))]
    by_chance = run(ScriptedAgent("random"), listed)
    assert all(turn.admissible for t in by_chance for turn in t.turns)
    assert 0 < len([t for t in by_chance if t.success]) < 40
    assert all(t.score < t.max_score for t in by_chance if not t.success)
    assert not any(t.success or t.score for t in run(ScriptedAgent("empty"), listed))


def test_actions_that_the_rules_forbid_change_nothing() -> None:
    task = next(t for t in tasks(ID, "test", 100) if max(puzzle(t).start) >= 0)
    env = started(task)
    blocks = env.blocks
    below = next(each for each in blocks if each >= 0)
    other = next(each for each in range(4) if each != below)
    forbidden = {
        f"pick up the {COLOURS[below]} block": "cannot",
        f"put down the {COLOURS[other]} block": "cannot",
        f"stack the {COLOURS[other]} block on top of the {COLOURS[below]} block": "cannot",
        f"unstack the {COLOURS[below]} block from on top of the {COLOURS[below]} block": "cannot",
        "pick up the magenta block": "no magenta block",
        "pick up the table": "pick up, put down, stack or unstack",
    }
    for action, says in forbidden.items():
        observation, reward, *_, info = env.step(action)
        assert says in observation and reward == 0.0 and info["valid"] and not info["admissible"], action
        assert env.blocks == blocks
        env.turn = 0


def test_the_score_is_the_share_of_conditions_gained() -> None:
    """Three conditions, one met at first: breaking it gives -1/2, meeting one more 1/2, all 1."""
    env = started(tasks(ID, "test", 1)[0])
    env.puzzle = Puzzle((TABLE, 0, TABLE, TABLE), frozenset({(1, 0), (2, 1), (3, 2)}), 4, 1)
    env.blocks = env.puzzle.start
    env._met = env._count()
    taken = env.act("unstack the blue block from on top of the red block")
    assert taken.score == -0.5 and not taken.success
    env.act("stack the blue block on top of the red block")
    env.act("pick up the orange block")
    half = env.act("stack the orange block on top of the blue block")
    assert half.score == 0.5 and not half.success
    env.act("pick up the yellow block")
    assert env.act("Stack the yellow block on top of the orange block.").success


def test_distinct_plans_counts_winning_plans_once() -> None:
    task = next(t for t in tasks(ID, "test", 100) if puzzle(t).plans >= 2)
    found = puzzle(task)
    plans = depth_first(found.start, found.goal, found.optimal)
    assert distinct_plans(task, plans) == found.plans
    assert distinct_plans(task, [plans[0], plans[0], plans[0][:-1], ["look", *plans[0]], [*plans[0], "look"], []]) == 1


def test_info_tells_how_many_shortest_plans_there_are() -> None:
    for task in itertools.islice(tasks(ID, "validation"), 10):
        env = started(task)
        info = env.step("look")[-1]
        assert (info["optimal"], info["shortest_plans"]) == (4, puzzle(task).plans)
