"""Evaluations on disk: killed ten times and whole, told apart, compared and gated from the command line."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from helpers import TINY
from test_cli import SMALL, Done, refused, turnwise
from turnwise.agents.agent import Demonstrator
from turnwise.agents.context import Context, Renderer
from turnwise.agents.models import build_tokenizer
from turnwise.agents.rollout import Episode, rollout
from turnwise.agents.trajectory import Trajectory
from turnwise.envs import tasks
from turnwise.envs.pool import EnvPool
from turnwise.training.evaluation.store import open_recorder
from turnwise.training.run import Run

TOY = ["--env", "Toy", "--json"]


def played(count: int) -> list[Trajectory]:
    """Episodes of an expert whose words are tokens."""
    context, pool = Context(), EnvPool()
    episodes = [Episode(task, group) for group, task in enumerate(tasks("Toy", "test", count))]
    listener = Demonstrator("expert", context)
    asyncio.run(rollout(listener, episodes, pool))
    return asyncio.run(
        rollout(Demonstrator("expert", context, Renderer(build_tokenizer(listener.heard, TINY))), episodes, pool)
    )


def test_what_is_recorded_is_what_is_read(tmp_path: Path) -> None:
    whole = played(5)
    assert any(turn.output for t in whole for turn in t.turns)
    turn = whole[0].turns[0].model_copy(update={"anchor": "elsewhere", "counts": {"tool_calls": 2.0}, "restart": True})
    whole[0] = whole[0].model_copy(update={"turns": (turn, *whole[0].turns[1:])})
    run = Run.create(tmp_path / "run", {})
    run.record(3, "eval", {}, whole)
    run.record(3, "train", {}, whole[:1])
    assert list(run.trajectories(3, "eval")) == whole
    assert list(run.trajectories(2, "eval")) == []
    run.close()


def test_a_recorder_keeps_what_was_added_and_closes(tmp_path: Path) -> None:
    whole = played(3)
    with open_recorder(tmp_path / "e", {"target": "x"}) as recorder:
        assert recorder.done == []
        for t in whole:
            recorder.add(t)
    with open_recorder(tmp_path / "e", {"target": "x"}) as again:
        assert again.done == whole


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose policy has learned little: no two of its episodes are alike."""
    folder = tmp_path_factory.mktemp("policy") / "run"
    done = turnwise("train", "toy", *[part for setting in SMALL for part in ("--set", setting)], "--out", folder)
    assert done.code == 0, done.err
    return folder


KILLS = """
import os, signal, sys
from turnwise.training import cli
from turnwise.training.evaluation import store

add, left = store.Recorder.add, 0


def add_or_die(self, trajectory):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    store.FLUSH_SECONDS = 1e9 if left % 3 else 0.0  # two episodes wait for a third, and are lost with the process
    add(self, trajectory)


store.Recorder.add = add_or_die
sys.argv, kills = ["turnwise", *sys.argv[2:]], map(int, sys.argv[1].split(","))
for left in kills:
    pid = os.fork()
    if not pid:
        cli.main()
        os._exit(0)
    print(os.WTERMSIG(os.waitpid(pid, 0)[1]), flush=True)
"""
"""A process that has imported everything once and starts the command again after each kill -9, as a user would."""


def test_killed_ten_times_is_an_evaluation_like_any_other(policy: Path, tmp_path: Path) -> None:
    args = ["eval", str(policy), "--json", "--tasks", "40", "--trials", "2", "--temperature", "1"]
    whole = turnwise(*args, "--out", tmp_path / "whole")
    assert whole.code == 0, whole.err
    rng, killed = random.Random(1), tmp_path / "killed"
    after = ",".join(str(rng.randint(1, 12)) for _ in range(10))
    command = [sys.executable, "-c", KILLS, after, *args, "--out", str(killed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.stdout.split() == [str(signal.SIGKILL.value)] * 10, done.stderr
    assert 0 < count(killed) < 80
    found, expected = turnwise(*args, "--out", killed).json, whole.json
    for result in (found, expected):
        result["cost"].pop("seconds")
    assert found == expected
    assert [strip(t) for t in read(killed)] == [strip(t) for t in read(tmp_path / "whole")]


def count(folder: Path) -> int:
    if not (folder / "card.json").is_file():
        return 0
    run = Run.open(folder)
    try:
        return run.db.execute("SELECT COUNT(*) FROM episodes").fetchone()[0]
    finally:
        run.close()


def read(folder: Path) -> list[Trajectory]:
    run = Run.open(folder)
    try:
        return sorted(run.trajectories(0, "eval"), key=lambda t: (t.task.key, t.copy_index))
    finally:
        run.close()


def strip(t: Trajectory) -> Any:
    """What was played, without how long it took; log-probs differ in rounding with the rows beside them."""
    return (
        t.task.key,
        t.copy_index,
        t.stop,
        t.score,
        [(u.observation, u.action, u.output and u.output.ids) for u in t.turns],
    )


# ---- the command line -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("evaluations")
    made = {name: root / name for name in ("expert", "random", "others")}
    assert turnwise("eval", "expert", *TOY, "--tasks", "30", "--out", made["expert"]).code == 0
    assert turnwise("eval", "random", *TOY, "--tasks", "30", "--out", made["random"]).code == 0
    assert turnwise("eval", "random", *TOY, "--split", "validation", "--tasks", "5", "--out", made["others"]).code == 0
    return made


def test_gate_lets_the_better_pass_and_stops_the_worse(folders: dict[str, Path], tmp_path: Path) -> None:
    good = turnwise("gate", folders["random"], folders["expert"], "--json")
    assert good.code == 0 and good.json["accepted"] and good.json["difference"]["low"] > 0.5
    report = tmp_path / "report.xml"
    bad = turnwise("gate", folders["expert"], folders["random"], "--github", "--junit", report)
    assert bad.code == 1 and "refused" in bad.out and "::error title=turnwise gate::" in bad.out
    suite = ElementTree.parse(report).getroot()
    broken = [case for case in suite if case.find("failure") is not None]
    assert len(broken) == int(suite.get("failures", "")) > 20
    assert len(suite) == 30 == int(suite.get("tests", ""))
    assert "now fails by turn_limit" in bad.out


def test_equal_policies_are_not_a_release_but_no_regression(folders: dict[str, Path]) -> None:
    same = turnwise("compare", folders["expert"], folders["expert"])
    assert same.code == 0 and "no difference shown" in same.out and "30 pass" in same.out
    assert turnwise("gate", folders["expert"], folders["expert"]).code == 1
    allowed = turnwise("gate", folders["expert"], folders["expert"], "--min-fixes", "0", "--alpha", "1")
    assert allowed.code == 0 and "accepted" in allowed.out


def test_a_critical_task_stops_it(folders: dict[str, Path], tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    flips = turnwise("compare", folders["expert"], folders["random"], "--json").json["flips"]
    keys.write_text(flips["p2f"][0] + "\n")
    args = ["gate", folders["expert"], folders["random"], "--max-regression", "1", "--min-fixes", "0", "--alpha", "1"]
    assert turnwise(*args).code == 0
    stopped = turnwise(*args, "--critical", keys, "--json")
    assert stopped.code == 1 and stopped.json["reasons"] == [f"critical task {flips['p2f'][0]} fails now"]


def test_a_task_name_cannot_give_the_pipeline_a_command(folders: dict[str, Path]) -> None:
    from turnwise.training.evaluation.commands import github_lines
    from turnwise.training.evaluation.gate import decide

    name = "task\n::set-output name=x::1"
    lines = github_lines(decide({name: [True]}, {name: [False]}, critical=[name]))
    assert not any("\n" in line for line in lines) and "%0A" in lines[0]


def test_a_plan_plays_nothing() -> None:
    plan = turnwise("eval", "--plan", "0.05", "--json").json
    assert [p["runs"] for p in plan] == [1, 2, 4, 8, 16]
    assert all(p["detectable"] <= 0.05 for p in plan)
    limited = turnwise("eval", "--plan", "0.05", "--tasks", "134")
    assert limited.code == 0 and "5 points" in limited.out


def test_several_trials_are_reported_as_such() -> None:
    found = turnwise("eval", "random", *TOY, "--tasks", "20", "--trials", "3").json
    assert found["repeats"]["runs"] == 3 and set(found["repeats"]["pass_at"]) == {"1", "2", "3"}
    assert found["repeats"]["pass_at"]["1"] == pytest.approx(found["success"]["mean"])
    assert found["errors"] == 0 and found["process"]["invalid"] == 0


WRONG: dict[str, tuple[list[str], list[str]]] = {
    "another evaluation": (["eval", "random", *TOY, "--out", "{expert}"], ["another evaluation", "--out"]),
    "no tasks shared": (["compare", "{expert}", "{others}"], ["share none", "same split"]),
    "not a folder": (["compare", "{expert}", "/no/such"], ["'/no/such'", "card.json"]),
    "no target": (["eval"], ["expert, random, empty"]),
    "critical file": (["gate", "{expert}", "{random}", "--critical", "/no/keys"], ["/no/keys", "No such file"]),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_requests(name: str, folders: dict[str, Path]) -> None:
    args, words = WRONG[name]
    refused(turnwise(*[arg.format(**folders) if "{" in arg else arg for arg in args]), *words)


def test_an_unknown_critical_task_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("nonsense\n")
    done: Done = turnwise("gate", folders["expert"], folders["random"], "--critical", tmp_path / "keys")
    refused(done, "'nonsense'")
