"""A recipe's agent program: trained, evaluated and resumed like the built-in agent, by the command line alone."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_cli import SMALL, turnwise
from turnwise.agents.trajectory import Trajectory
from turnwise.training.run import Run

pytest.importorskip("openai")
pytest.importorskip("uvicorn")

PROGRAM = """
import openai

CLIENT = openai.OpenAI(api_key="none")


def play(run):
    client = CLIENT.with_options(base_url=run.base_url)
    observation, info = run.env.reset()
    messages = []
    while not info["stop"]:
        messages.append({"role": "user", "content": observation})
        answer = client.chat.completions.create(model="policy", messages=messages).choices[0]
        messages.append({"role": "assistant", "content": answer.message.content})
        observation, *_, info = run.env.step(answer.message.content if answer.finish_reason == "stop" else "")
"""
COMMAND = """
import json, os
import openai

answer = openai.OpenAI().chat.completions.create(model="policy", messages=[{"role": "user", "content": "hi"}])
print(json.dumps(len(answer.choices[0].message.content) > 4))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where a user keeps their program and their runs."""
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("user")
        (path / "my_program.py").write_text(PROGRAM)
        (path / "once.py").write_text(textwrap.dedent(COMMAND))
        patch.chdir(path)
        yield path
        sys.modules.pop("my_program", None)


def trained(out: str, *settings: str) -> None:
    done = turnwise("train", "toy", *[part for each in (*SMALL, *settings) for part in ("--set", each)], "--out", out)
    assert done.code == 0, done.err


def played(out: str | Path, step: int, phase: str) -> list[Trajectory]:
    run = Run.open(Path(out))
    try:
        return list(run.trajectories(step, phase))
    finally:
        run.close()


def said(out: str, step: int) -> dict[str, tuple[float, list[tuple[int, ...]]]]:
    """By held-out task, the score and the ids of each answer; episodes are kept in the order in which they end."""
    return {
        t.task.key: (t.score, [turn.output.ids for turn in t.turns if turn.output]) for t in played(out, step, "eval")
    }


def test_a_recipe_trains_and_evaluates_a_program(folder: Path) -> None:
    trained("by_program", "program=my_program:play")
    trained("built_in")
    # greedy and before RL: a program that says what the built-in agent says gets the same answers
    assert said("by_program", 0) == said("built_in", 0)
    learned = played("by_program", 1, "train")
    assert len(learned) == 4 and all(turn.output and turn.output.logprobs for t in learned for turn in t.turns)
    run = Run.open(Path("by_program"))
    assert run.metrics()["gap/max"][0][1] < 1e-3 and run.metrics()["approx_kl"]
    run.close()
    again = turnwise("eval", "by_program", "--tasks", "6", "--out", "again", "--json")
    assert again.code == 0, again.err
    assert said("again", 0) == said("by_program", 2)


def test_the_same_seed_samples_the_same_episodes(folder: Path) -> None:
    trained("twice", "program=my_program:play", "rl.steps=1")
    first, second = played("by_program", 1, "train"), played("twice", 1, "train")
    assert [[turn.action for turn in t.turns] for t in first] == [[turn.action for turn in t.turns] for t in second]
    assert len({tuple(turn.action for turn in t.turns) for t in first}) > 1


def test_a_command_is_a_program_of_a_recipe(folder: Path) -> None:
    trained("by_command", f'program=["{sys.executable}", "once.py"]', "rl.steps=1", "env.eval_tasks=2",
            "context.max_action_tokens=2")  # fmt: skip
    found = played("by_command", 1, "train")
    assert all(len(t.turns) == 1 and t.stop.value in ("success", "failure") for t in found)
    assert max(len(t.turns[0].output.ids) for t in found if t.turns[0].output) == 2


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["program=my_program:run"], "Expected a program as package.module:function, got 'my_program:run'"),
        (["program=nowhere"], "got 'nowhere': No module named 'nowhere'"),
        (['program=["no-such-command", "x"]'], "got 'no-such-command', which is not found here"),
        (["program=my_program:play", "rl.experts=1"], "rl.experts=0 and env.seats=1 with a program, got none, none, 1"),
    ],
)
def test_a_program_that_cannot_be_played_is_refused(folder: Path, settings: list[str], says: str) -> None:
    done = turnwise("train", "toy", *[part for each in settings for part in ("--set", each)], "--out", "never")
    assert done.code == 2 and says in " ".join(done.err.split()) and not Path("never").exists(), done.err


def test_a_program_is_watched_like_an_agent(folder: Path) -> None:
    done = turnwise("play", "Toy", "--agent", "by_program", "--split", "test")
    assert done.code == 0 and "turns, score" in done.out, done.err
