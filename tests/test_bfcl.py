"""BFCL multi-turn: gold replays win all 800 tasks, wrong ones do not, and the official checker agrees."""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import run
from turnwise.agents.agent import ReplayAgent
from turnwise.agents.rollout import Episode
from turnwise.envs import MissingDependency, RequestError, Task, UnknownName, env_class, make, spec, tasks
from turnwise.envs.check import check_env
from turnwise.envs.tool_calls import Call, parse_calls, render_calls

ID = "turnwise/BFCL-v0"
SPLITS = ("base", "miss_func", "miss_param", "long_context")

needs_bfcl = pytest.mark.skipif(importlib.util.find_spec("bfcl_eval") is None, reason="bfcl-eval is not installed")


def expert(task: Task) -> tuple[list[str], list[dict[str, Any]]]:
    """Actions and infos of the expert's episode."""
    env = make(ID)
    _, info = env.reset(options={"task": task})
    actions, infos = [], [info]
    while not infos[-1]["stop"]:
        actions.append(env.expert())
        infos.append(env.step(actions[-1])[-1])
    return actions, infos


def play(task: Task, actions: list[str]) -> dict[str, Any]:
    env = make(ID)
    _, info = env.reset(options={"task": task})
    for action in actions:
        info = env.step(action)[-1]
        if info["stop"]:
            break
    return info


def official(task: Task, said: list[list[list[str]]]) -> bool:
    """What the benchmark's own checker says of calls by turn and step, run by its own executor."""
    from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker import multi_turn_checker
    from turnwise.envs.bfcl import _entries

    entry = _entries(task.split)[task.params["entry"]]
    raw = {"id": entry.id, "initial_config": entry.initial, "involved_classes": entry.services}
    name = f"turnwise{random.random()}".replace(".", "")  # instances are kept in globals under it
    return multi_turn_checker(said, entry.gold, raw, task.split, name)["valid"]


def in_python(call: Call) -> str:
    return f"{call.name}({', '.join(f'{key}={value!r}' for key, value in call.arguments.items())})"


def by_turn(actions: list[str]) -> list[list[list[str]]]:
    """Actions as the official checker takes them: turns of steps of calls."""
    turns: list[list[list[str]]] = [[]]
    for action in actions:
        calls = parse_calls(action)
        if calls[0].name == "respond":
            turns.append([])
        else:
            turns[-1].append([in_python(call) for call in calls])
    return turns[:-1]


@needs_bfcl
@pytest.mark.parametrize("split", SPLITS)
def test_gold_replays_win_every_task(split: str) -> None:
    listed = tasks(ID, split)
    assert len(listed) == 200 == env_class(ID).splits()[split]
    for task in listed:
        actions, infos = expert(task)
        assert infos[-1]["success"] and all(info["admissible"] for info in infos), (task.params, infos[-1])
        assert infos[-1]["score"] == infos[-1]["max_score"] and len(actions) <= task.max_turns


@needs_bfcl
def test_bfcl_keeps_every_promise() -> None:
    report = check_env(ID)
    assert report.ok, [check for check in report.checks if not check.ok]


@needs_bfcl
@pytest.mark.parametrize("split", SPLITS)
def test_the_official_checker_agrees_on_gold_and_on_spoiled_gold(split: str) -> None:
    """One gold call is dropped, doubled or moved to the next turn; both sides have to say the same of it."""
    rng, verdicts = random.Random(split), []
    for task in tasks(ID, split)[::20]:
        actions, _ = expert(task)
        assert official(task, by_turn(actions))
        calls = [i for i, action in enumerate(actions) if "respond" not in action]
        at = rng.choice(calls)
        for spoiled in (
            actions[:at] + actions[at + 1 :],
            actions[: at + 1] + actions[at:],
            [*actions[:at], actions[at + 1], actions[at], *actions[at + 2 :]],
        ):
            info = play(task, spoiled)
            verdicts.append(info["success"])
            assert info["success"] == official(task, by_turn(spoiled)), (task.params, spoiled, info["failed"])
    assert 0 < sum(verdicts) < len(verdicts)


@needs_bfcl
@pytest.mark.parametrize("split", SPLITS)
def test_agents_that_only_talk_win_nothing(split: str) -> None:
    for task in tasks(ID, split)[::10]:
        info = play(task, ["I cannot do that."] * 20)
        assert info["stop"] == "failure" and "no call in turn" in info["failed"]
        assert info["score"] < info["max_score"]


@needs_bfcl
def test_an_answer_that_was_never_asked_for_is_missed() -> None:
    """The first turn of this task only looks: another look leaves the same state."""
    task = next(t for t in tasks(ID, "base") if t.params["entry"] == "multi_turn_base_3")
    actions, _ = expert(task)
    assert parse_calls(actions[0])[0].name == "find"
    for other, won in ((Call("pwd", {}), False), (Call("find", {"path": ".", "name": "test"}), True)):
        changed = [render_calls([other]), *actions[1:]]
        info = play(task, changed)
        assert info["success"] == won == official(task, by_turn(changed))
        assert info["failed"] == ("" if won else "an answer that turn 0 needs was never asked for")


@needs_bfcl
def test_long_contexts_are_long() -> None:
    def longest(split: str) -> int:
        """Characters of the longest answer to a gold call in the first tasks."""
        return max(len(info["anchor"]) for task in tasks(ID, split, 20) for info in expert(task)[1][1:])

    assert longest("base") < 1_000 < 10_000 < longest("long_context")


@needs_bfcl
def test_plain_words_end_a_turn_like_respond() -> None:
    task = tasks(ID, "base", 1)[0]
    actions, _ = expert(task)
    spoken = ["All done." if "respond" in action else action for action in actions]
    assert play(task, spoken)["success"]


@needs_bfcl
def test_a_turn_has_twenty_steps() -> None:
    task = tasks(ID, "base", 1)[0]
    listing = render_calls([Call("ls", {})])
    env = make(ID)
    env.reset(options={"task": task})
    infos = [env.step(listing)[-1] for _ in range(21)]
    assert [info["stop"] for info in infos] == [None] * 20 + ["failure"] and "more than 20 steps" in infos[-1]["failed"]


@needs_bfcl
def test_missing_functions_are_listed_when_they_arrive() -> None:
    task = next(t for t in tasks(ID, "miss_func") if t.params["entry"] == "multi_turn_miss_func_3")
    env = make(ID)
    observation, _ = env.reset(options={"task": task})
    names = {json.loads(line)["name"] for line in observation.splitlines() if line.startswith('{"name"')} - {"tool"}
    assert {"cd", "cp", "respond"} <= names and not names & {"find", "ls", "mv"}  # held back; mv is excluded
    observation = env.step("I have no tool for that.")[0]
    assert '"name": "find"' in observation and "I have updated some more functions" in observation
    assert "Did you mean cd?" in env.step('{"name": "cdd", "arguments": {}}')[0]


@needs_bfcl
def test_arguments_are_checked_by_name() -> None:
    env = make(ID)
    env.reset(options={"task": tasks(ID, "base", 1)[0]})
    observation, _, _, _, info = env.step('{"name": "cd", "arguments": {"path": "x"}}')
    assert "Invalid arguments for cd" in observation and "'folder' is a required property" in observation
    assert not info["valid"]
    assert "error" in env.step('{"name": "cd", "arguments": {"folder": "nowhere"}}')[0]
    assert "Error" in env.step('{"name": "cd", "arguments": {"folder": [1]}}')[0]


@needs_bfcl
def test_a_call_that_never_ends_costs_its_episode() -> None:
    import asyncio

    from turnwise.agents.rollout import Limits, rollout
    from turnwise.envs.bfcl import _entries
    from turnwise.envs.pool import EnvPool

    found = next(t for t in tasks(ID, "base") if "MathAPI" in _entries("base")[t.params["entry"]].services)
    endless = render_calls([Call("power", {"base": 7, "exponent": 10**11})])

    async def main() -> Any:
        pool = EnvPool(workers=1, deadline_s=2.0)
        try:
            return (await rollout(ReplayAgent([endless]), [Episode(found)], pool, Limits()))[0]
        finally:
            await pool.aclose()

    assert asyncio.run(main()).stop.value == "env_error"


@needs_bfcl
def test_training_on_it_is_refused_and_splits_are_disjoint(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from turnwise.training import recipes, trainer
    from turnwise.training.config import override

    settings = {"env.id": ID, "env.params": {}, "env.train_split": "base", "env.eval_split": "miss_func"}
    with pytest.raises(RequestError, match="its tasks are a benchmark and stay held out"):
        trainer.train(override(recipes.load("toy"), settings), tmp_path / "run")
    assert not (tmp_path / "run" / "run.sqlite").exists()
    assert len({task.key for split in SPLITS for task in tasks(ID, split)}) == 800
    with pytest.raises(UnknownName, match="Known: base, long_context, miss_func, miss_param"):
        tasks(ID, "train")
    (played,) = run(ReplayAgent(expert(tasks(ID, "base", 1)[0])[0]), [Episode(tasks(ID, "base", 1)[0])])
    assert played.success and played.turns[0].counts["tool_calls"] >= 1


@pytest.fixture
def without_bfcl(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "bfcl_eval" else real(name, *a))
    monkeypatch.delitem(sys.modules, "turnwise.envs.bfcl", raising=False)
    yield


def test_without_the_wheel_the_exact_command_is_named(without_bfcl: None) -> None:
    assert spec(ID).reason() == (
        "needs bfcl_eval: pip install 'turnwise[tools]' && pip install --no-deps bfcl-eval mpmath"
    )
    with pytest.raises(MissingDependency, match="pip install --no-deps bfcl-eval mpmath"):
        make(ID)
