"""MiniWoB++: the split of its pages, scripted experts, right and wrong answers, time that stands still."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
from test_browser import needs_browser
from turnwise.envs import EnvError, RequestError, Task, UnknownName, make, tasks
from turnwise.envs.miniwob import names
from turnwise.envs.miniwob.experts import EXPERTS, Page

SEEN = (
    "ascending-numbers", "button-delay", "click-checkboxes-large", "click-menu", "click-pie-nodelay", "click-shape",
    "click-tab-2-hard", "click-widget", "copy-paste-2", "daily-calendar", "email-inbox-forward-nl", "enter-password",
    "guess-number", "login-user-popup", "odd-or-even", "sign-agreement", "simple-algebra", "text-editor",
    "use-slider-2",
)  # fmt: skip
UNSEEN = ("book-flight", "multi-layouts", "phone-book", "search-engine", "social-media-some", "terminal")
"""A sample of names that need different skills; a slow test plays all."""


@needs_browser
def test_every_page_of_the_wheel_is_in_one_kind_of_split() -> None:
    seen, unseen, pointer = (set(names.split_names(split)) for split in ("train", "unseen", "pointer"))
    assert (unseen, pointer) == (names.UNSEEN, names.POINTER)
    assert not (seen & unseen or seen & pointer or unseen & pointer)
    assert len(seen | unseen | pointer) == len(list(names.folder().glob("*.html"))) == 130
    listed = {split: tasks("MiniWoB", split) for split in names.SEEDS}
    assert {split: len(each) for split, each in listed.items()} == names.splits()
    seeds = [{(task.params["name"], task.seed) for task in each} for each in listed.values()]
    assert sum(map(len, seeds)) == len(set.union(*seeds)) == sum(names.splits().values())
    assert not set(EXPERTS) & pointer and len(set(EXPERTS) & unseen) >= 21 and len(set(EXPERTS) & seen) >= 75
    for split in names.SEEDS:
        known = [name in EXPERTS for name in names.split_names(split)]
        assert known == sorted(known, reverse=True)


def play(env: Any, task: Task) -> bool:
    """Whether the expert wins."""
    _, info = env.reset(options={"task": task})
    while info["stop"] is None:
        *_, info = env.step(env.expert())
    return info["success"]


@needs_browser
def test_scripted_experts_win() -> None:
    env = make("MiniWoB")
    for split, sample in (("validation", SEEN), ("unseen", UNSEEN)):
        for name in sample:
            (task,) = tasks("MiniWoB", split, 1, names=name)
            assert env.has_expert(task) and play(env, task), (name, task.seed, env.goal)
    env.close()


@needs_browser
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("split", ["validation", "test", "unseen"])
def test_experts_win_every_held_out_task(split: str) -> None:
    env = make("MiniWoB")
    known = [task for task in tasks("MiniWoB", split) if env.has_expert(task)]
    lost = [(task.params, task.seed) for task in known if not play(env, task)]
    env.close()
    assert not lost and len(known) >= 375


def play_another_instruction(env: Any, name: str) -> str:
    """How a task ends where its expert does what the next task asks for; empty where that cannot be done."""
    one, other = tasks("MiniWoB", "unseen" if name in names.UNSEEN else "validation", 2, names=name)
    env.reset(options={"task": other})
    wrong = env.goal
    _, info = env.reset(options={"task": one})
    if wrong == env.goal:
        return ""
    try:
        while info["stop"] is None:
            *_, info = env.step(EXPERTS[name](Page(wrong, env._shown, tuple(env._past))))
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
    assert sum(end == "failure" for end in ends.values()) >= 40
    # Two instructions may have the same answer.
    assert {name for name, end in ends.items() if end == "success"} <= {
        "count-shape",
        "navigate-tree",
        "generate-number",
    }


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
    assert env._browser.read().text == first  # type: ignore[attr-defined]  # it moves, but only when we act
    assert env.step("press[a]")[0] != first

    _, info = start("click-button", max_turns=40)
    for _ in range(40):  # twenty seconds of the page's time; MiniWoB++ allows ten
        *_, info = env.step("press[a]")
    assert info["stop"] == "turn_limit"
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
    env.reset(options={"task": tasks("MiniWoB", "pointer", 1)[0]})
    with pytest.raises(RequestError, match="scripted expert"):
        env.expert()
    env.close()
