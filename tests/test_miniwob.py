"""MiniWoB++: the split of its pages, scripted experts, right and wrong answers, time that stands still."""

from __future__ import annotations

import math
import random
import time
from typing import Any

import pytest
from test_browser import needs_browser
from turnwise.envs import EnvError, RequestError, Task, UnknownName, make, tasks
from turnwise.envs.miniwob import names
from turnwise.envs.miniwob.experts import EXPERTS, Page

SEEN = (
    "ascending-numbers", "button-delay", "click-checkboxes-large", "click-checkboxes-soft", "click-menu",
    "click-menu-2", "click-pie-nodelay", "click-shape", "click-tab-2-hard", "click-widget", "copy-paste-2",
    "daily-calendar", "email-inbox-forward-nl", "email-inbox-nl-turk", "enter-password", "guess-number",
    "login-user-popup", "number-checkboxes", "odd-or-even", "scroll-text-2", "sign-agreement", "simple-algebra",
    "stock-market", "text-editor", "use-slider-2",
)  # fmt: skip
UNSEEN = ("book-flight", "multi-layouts", "phone-book", "search-engine", "social-media-some", "terminal", "tic-tac-toe")
"""A sample of names that need different skills; a slow test plays all."""


@needs_browser
def test_every_page_of_the_wheel_is_in_one_kind_of_split() -> None:
    seen, unseen, pointer = (set(names.split_names(split)) for split in ("train", "unseen", "pointer"))
    assert (unseen, pointer) == (names.UNSEEN, names.POINTER)
    assert not (seen & unseen or seen & pointer or unseen & pointer)
    assert seen | unseen | pointer | names.LEFT_OUT == {path.stem for path in names.folder().glob("*.html")}
    assert seen | unseen | pointer == set(EXPERTS) and (len(seen), len(unseen), len(pointer)) == (82, 22, 25)
    listed = {split: tasks("MiniWoB", split) for split in names.SEEDS}
    assert {split: len(each) for split, each in listed.items()} == names.splits()
    seeds = [{(task.params["name"], task.seed) for task in each} for each in listed.values()]
    assert sum(map(len, seeds)) == len(set.union(*seeds)) == sum(names.splits().values())
    assert pointer >= names.GRADED and set(names.TICKS_MS) | set(names.TURNS) <= set(EXPERTS)
    assert [task.max_turns for task in tasks("MiniWoB", "pointer", 8)] == [20, 120, *[20] * 6]
    assert tasks("MiniWoB", "pointer", 1, names="hot-cold", max_turns=7)[0].max_turns == 7


def play(env: Any, task: Task) -> bool:
    """Whether the expert wins."""
    _, info = env.reset(options={"task": task})
    while info["stop"] is None:
        *_, info = env.step(env.expert())
    return info["success"]


@needs_browser
def test_scripted_experts_win() -> None:
    env = make("MiniWoB")
    for split, sample in (("validation", SEEN), ("unseen", UNSEEN), ("pointer", names.split_names("pointer"))):
        for name in sample:
            (task,) = tasks("MiniWoB", split, 1, names=name)
            assert env.has_expert(task) and play(env, task), (name, task.seed, env.goal)
    env.close()


@needs_browser
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("split", ["validation", "test", "unseen", "pointer"])
def test_experts_win_every_held_out_task(split: str) -> None:
    env = make("MiniWoB")
    lost = [(task.params, task.seed) for task in tasks("MiniWoB", split) if not play(env, task)]
    env.close()
    assert not lost


def play_another_instruction(env: Any, name: str) -> str:
    """How a task ends where its expert does what the next task asks for; empty where that cannot be done."""
    split = "unseen" if name in names.UNSEEN else "pointer" if name in names.POINTER else "validation"
    one, other = tasks("MiniWoB", split, 2, names=name)
    env.reset(options={"task": other})
    wrong = env.goal
    _, info = env.reset(options={"task": one})
    if wrong == env.goal:
        return ""
    try:
        while info["stop"] is None:
            *_, info = env.step(EXPERTS[name](Page(wrong, env._shown, tuple(env._past), env._browser.evaluate)))
    except (EnvError, LookupError, ValueError, StopIteration):  # what is asked for is not on this page
        return ""
    assert info["score"] == float(info["success"])
    return info["stop"]


@needs_browser
def test_answers_to_another_instruction_lose() -> None:
    env = make("MiniWoB")
    for name in (
        "choose-date",
        "enter-text",
        "find-word",
        "form-sequence",
        "read-table",
        "sign-agreement",
        "order-food",
    ):
        assert play_another_instruction(env, name) == "failure", name
    env.close()


@needs_browser
@pytest.mark.slow
def test_answers_to_another_instruction_lose_wherever_they_can_be_given() -> None:
    env = make("MiniWoB")
    ends = {name: play_another_instruction(env, name) for name in EXPERTS}
    env.close()
    assert sum(end == "failure" for end in ends.values()) >= 50, ends
    same = {"count-shape", "generate-number", "navigate-tree", "stock-market"}  # two instructions may have one answer
    unread = {
        "email-inbox-forward-nl-turk",
        "email-inbox-nl-turk",
    }  # the page says who wrote, so does the expert's answer
    assert {name for name, end in ends.items() if end == "success"} <= same | unread


@needs_browser
@pytest.mark.slow
def test_every_page_starts_and_is_the_same_again() -> None:
    one, other = make("MiniWoB"), make("MiniWoB")
    for split in ("train", "unseen", "pointer"):
        for task in tasks("MiniWoB", split, len(names.split_names(split))):
            rng = random.Random(task.key)
            (first, info), (second, _) = (env.reset(options={"task": task}) for env in (one, other))
            assert first == second and one.goal and one.goal == other.goal, task.params
            for _ in range(4):
                if info["stop"] is None and info["commands"]:
                    action = rng.choice(info["commands"])
                    left, right = one.step(action), other.step(action)
                    assert left == right, (task.params, action)
                    info = left[-1]
    one.close()
    other.close()


@needs_browser
def test_rewards_are_binary_and_time_stands_still() -> None:
    env = make("MiniWoB")

    def start(name: str, seed: int = 0, max_turns: int = 60) -> tuple[str, dict[str, Any]]:
        return env.reset(options={"task": Task(env=env.id, seed=seed, params={"name": name}, max_turns=max_turns)})

    start("click-test-2")
    wrong = "TWO" if "ONE" in env.goal else "ONE"
    shown = env._shown  # type: ignore[attr-defined]
    *_, terminated, truncated, info = env.step(f"click[{shown.find('button', wrong).number}]")
    assert (terminated, truncated, info["stop"], info["score"]) == (True, False, "failure", 0.0)
    assert env.step("click[1]")[4]["score"] == 0.0

    first, _ = start("chase-circle")
    time.sleep(0.3)
    assert env._browser.read(places=True).text == first  # type: ignore[attr-defined]  # it moves, but only when we act
    assert env.step("press[a]")[0] != first

    _, info = start("click-button", max_turns=40)
    for _ in range(40):  # twenty seconds of the page's time; MiniWoB++ allows ten
        *_, info = env.step("press[a]")
    assert info["stop"] == "turn_limit"
    env.close()


@needs_browser
def test_what_moves_away_below_the_mouse_is_told_in_the_same_action() -> None:
    env = make("MiniWoB")
    env.reset(options={"task": Task(env=env.id, seed=3, params={"name": "chase-circle"}, max_turns=90)})
    env.step(env.expert())
    mouse, inside = env._browser._mouse, []  # type: ignore[attr-defined]
    for _ in range(40):
        env.step("press[a]")
        box = env._shown.find("shape").box  # type: ignore[attr-defined]
        inside.append(math.dist(mouse, box.centre) < 22)
        missed_since = env._browser.evaluate("exitTime")  # type: ignore[attr-defined]
        assert (missed_since is None) == inside[-1], (mouse, box)
    assert 3 < sum(inside) < 38
    env.close()


@needs_browser
@pytest.mark.parametrize(("off", "won"), [(0, True), (2, True), (9, False)])
def test_near_enough_wins_where_a_page_measures(off: int, won: bool) -> None:
    env = make("MiniWoB")
    env.reset(options={"task": tasks("MiniWoB", "pointer", 1, names="circle-center")[0]})
    x, y = (float(number) for number in env.expert().removeprefix("click[").removesuffix("]").split(","))
    env.step(f"click[{x + off},{y}]")
    *_, info = env.step(env.expert())
    raw = env._browser.evaluate("WOB_RAW_REWARD_GLOBAL")  # type: ignore[attr-defined]
    assert 0 < raw < 1 and (info["success"], info["score"]) == (won, float(won)), raw
    env.close()


@needs_browser
def test_dice_are_looked_at_without_being_thrown() -> None:
    env = make("MiniWoB")
    env.reset(options={"task": tasks("MiniWoB", "unseen", 1, names="tic-tac-toe")[0]})
    look = "() => [gameState.join(), Math.random.state().i, Math.random.state().j]"
    before = env._browser.evaluate(look)  # type: ignore[attr-defined]
    assert env.expert() == env.expert() and env._browser.evaluate(look) == before  # type: ignore[attr-defined]
    env.close()


@needs_browser
def test_wrong_tasks_of_miniwob_are_refused() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'click-button'"):
        tasks("MiniWoB", "train", names="click-buton")
    with pytest.raises(UnknownName, match="split 'train' 'drag-box'"):
        tasks("MiniWoB", "train", names="drag-box")
    with pytest.raises(RequestError, match="max_turns"):
        tasks("MiniWoB", "train", max_turns=0)
    env = make("MiniWoB")
    with pytest.raises(UnknownName, match="MiniWoB task"):
        env.reset(options={"task": Task(env=env.id, params={"name": "../../../etc/passwd"})})
    with pytest.raises(UnknownName, match="MiniWoB task 'hover-shape'"):
        env.reset(options={"task": Task(env=env.id, params={"name": "hover-shape"})})
    env.close()
