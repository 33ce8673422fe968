"""Diagnostics by hand and against plain loops; alarms that stop a collapsing run and keep its best checkpoint."""

from __future__ import annotations

import itertools
import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from turnwise.agents.trajectory import Trajectory, Turn
from turnwise.envs import RequestError, StopReason
from turnwise.envs.task import Task
from turnwise.training import diagnostics, recipes, trainer
from turnwise.training.config import Alarm, override, parse_settings
from turnwise.training.credit import total_rewards
from turnwise.training.fixture import read_batch
from turnwise.training.run import Run

FEW = settings(max_examples=25, deadline=None, derandomize=True)
SMALL = [
    "rl.steps=8", "sft.demos=96", "sft.epochs=4", "rl.tasks_per_step=4", "rl.samples_per_task=4", "env.train_tasks=20",
    "env.eval_tasks=10", "engine.threads=1", "checkpoint_every=50", "eval.every=1",
]  # fmt: skip


def record(group: int, actions: list[str], score: float = 0.0) -> Trajectory:
    task = Task(env="turnwise/Toy-v0", seed=group, params={}, max_turns=9, goal="", split="train")
    turns = [
        Turn(observation="o", anchor=f"{i % 2}", action=a, reward=0, score=0, valid=True, admissible=True)
        for i, a in enumerate(actions)
    ]
    return Trajectory(
        task=task, agent="x", group=group, turns=tuple(turns), stop=StopReason.TURN_LIMIT, score=score, max_score=2.0
    )


# ---------------------------------------------------------------- numbers


def test_repetition() -> None:
    # 1 2 1 2 1 2: three 4-grams, (1212) twice -> 1 of 3; the second answer has one, the third none
    assert diagnostics.repeated_ngrams([[[1, 2, 1, 2, 1, 2]]]) == pytest.approx(1 / 3)
    assert diagnostics.repeated_ngrams([[[1, 2, 1, 2, 1, 2], [1, 2, 1, 2]], [[7]]]) == pytest.approx(1 / 4)
    assert (
        diagnostics.repeated_ngrams([[[5] * 10]]) == pytest.approx(6 / 7) and diagnostics.repeated_ngrams([[[1]]]) == 0
    )
    # the same action before another observation is no circle
    assert diagnostics.repeated_actions([[("a", "go"), ("b", "go"), ("a", "go"), ("a", "go")]]) == 0.5


def test_action_information_by_hand() -> None:
    same = [(0, ["l"]), (0, ["l"]), (1, ["r"]), (1, ["r"])]
    assert diagnostics.action_information(same) == 1.0  # tasks determine actions
    alike = [(g, ["l", "r"]) for g in (0, 0, 1, 1)]
    assert diagnostics.action_information(alike) == 0.0  # one template for all
    # group 0: l l r (1 of 3 pairs), group 1: r r (1 of 1) -> 2 of 4; across: l-r x4 no, r-r x2 yes -> 2 of 6
    mixed = [(0, ["l"]), (0, ["l"]), (0, ["r"]), (1, ["r"]), (1, ["r"])]
    assert diagnostics.action_information(mixed) == pytest.approx(2 / 4 - 2 / 6)
    assert diagnostics.action_information([(0, ["l"])]) == 0.0 and diagnostics.action_information([]) == 0.0


@FEW
@given(seed=st.integers(0, 10**6))
def test_action_information_is_the_loop_over_pairs_and_unbiased(seed: int) -> None:
    rng = random.Random(seed)
    episodes = [(rng.randint(0, 2), [rng.choice("abc") for _ in range(rng.randint(1, 3))]) for _ in range(9)]
    hits: dict[bool, list[bool]] = {True: [], False: []}
    for (g, a), (h, b) in itertools.combinations(episodes, 2):
        for x, y in zip(a, b, strict=False):
            hits[g == h].append(x == y)
    want = sum(hits[True]) / len(hits[True]) - sum(hits[False]) / len(hits[False]) if all(hits.values()) else 0.0
    assert diagnostics.action_information(episodes) == pytest.approx(want)
    rng.shuffle(episodes)
    assert diagnostics.action_information(episodes) == pytest.approx(want)


def test_independent_actions_carry_no_information() -> None:
    # a plug-in estimate of mutual information would be far above 0 with groups of four
    rng = random.Random(1)
    values = [diagnostics.action_information([(g, [rng.choice("abcd")]) for g in range(8) for _ in range(4)])
              for _ in range(400)]  # fmt: skip
    mean = sum(values) / 400
    error = math.sqrt(sum((v - mean) ** 2 for v in values) / 399 / 400)
    assert abs(mean) < 4 * error


def test_episode_metrics() -> None:
    # scores 2, 0 of 2 -> std .5; the other group 1, 1 -> 0
    played = [record(0, ["a"], 2), record(0, ["a"], 0), record(1, ["b", "b", "b"], 1), record(1, ["b"], 1)]
    got = diagnostics.of_episodes(played)
    assert got["group/score_std"] == 0.25 and got["information/actions"] == 1.0
    assert got["repeat/actions"] == pytest.approx(1 / 6)  # the third turn answers "0" with "b" again
    assert diagnostics.of_episodes([record(0, ["a"]).model_copy(update={"stop": StopReason.ENV_ERROR})]) == {}


def test_entropy_by_turn() -> None:
    fixture = {"rewards": [0, 0], "turn": [[0, 0, -1, 1], [0, -1, 9, 12]], "entropy": [[1, 2, 99, 3], [6, 99, 4, 5]]}
    got = diagnostics.entropy_by_turn(read_batch(fixture)[0])
    assert got == {"entropy/turn_0": 3.0, "entropy/turn_1": 3.0, "entropy/later_turns": 4.5}


def test_critic_residual_by_hand() -> None:
    # V = [.5, .7], r = 1 at the end: d = [.2, .3]; V = [.2, .4], r = 0: d = [.2, -.4]; sums .5, -.2
    fixture = {"rewards": [1, 0], "mask": [[1, 0, 1], [1, 0, 1]], "values": [[0.5, 9, 0.7], [0.2, 9, 0.4]]}
    batch, _, _ = read_batch(fixture)
    got = diagnostics.critic_residual(batch, total_rewards(batch), 1.0)
    error = math.sqrt((0.5 - 0.15) ** 2 * 2) / math.sqrt(2)
    assert got["critic/residual"] == pytest.approx(0.3 / 4) and got["critic/residual_z"] == pytest.approx(0.15 / error)
    cut, _, _ = read_batch({**fixture, "truncated": [1, 0]})  # its last token is left out: [.2], [.2, -.4]
    assert diagnostics.critic_residual(cut, total_rewards(cut), 1.0)["critic/residual"] == pytest.approx(0.0)
    discounted = diagnostics.critic_residual(batch, total_rewards(batch), 0.5)
    assert discounted["critic/residual"] == pytest.approx((0.35 - 0.5 + 0.3 + 0.2 - 0.2 - 0.4) / 4)


def test_a_fitting_critic_has_no_residual() -> None:
    torch.manual_seed(0)
    won = (torch.rand(400) < 0.3).double().tolist()
    batch, _, _ = read_batch({"rewards": won, "values": [[0.3]] * 400})
    assert abs(diagnostics.critic_residual(batch, total_rewards(batch), 1.0)["critic/residual_z"]) < 3
    bad, _, _ = read_batch({"rewards": won, "values": [[0.6]] * 400})
    assert diagnostics.critic_residual(bad, total_rewards(bad), 1.0)["critic/residual_z"] < -5


# ---------------------------------------------------------------- alarms


def steps_at_which(alarm: Alarm, values: list[float | None], first: int = 1) -> list[int]:
    series = [(first + i, value) for i, value in enumerate(values)]
    return [at for at, _ in series if diagnostics.fired([alarm], {"x": series}, at)]


def test_an_alarm_fires_once_per_stretch() -> None:
    high = Alarm(metric="x", above=1.0, steps=2)
    assert steps_at_which(high, [2, 2, 2, 0, 2, 0, 2, 2, 2]) == [2, 8]
    assert steps_at_which(high, [1, 1, 1]) == []  # the bound itself is within
    assert steps_at_which(Alarm(metric="x", below=0.5), [0.5, 0.4, 0.3, 0.6, None]) == [2, 5]
    assert steps_at_which(high, [float("nan"), None, 0]) == [2], "no number is worse than any"
    assert steps_at_which(Alarm(metric="x", above=1.0, steps=2), [9, 9, 9], first=-2) == []  # SFT steps; then step 0
    assert diagnostics.fired([high], {"x": [(1, 2.0), (2, 2.0)]}, 3) == [], "no value at this step, no news"
    (found,) = diagnostics.fired([high], {"x": [(1, 2.0), (2, 3.0)]}, 2)
    assert str(found) == "x was above 1 for 2 steps, at last 3 (step 2)"


def test_an_alarm_has_one_bound() -> None:
    for text in ('[{"metric":"x"}]', '[{"metric":"x","above":1,"below":0}]', '[{"metric":"x","above":1,"steps":0}]'):
        with pytest.raises(RequestError, match="alarms"):
            override(recipes.load("toy"), parse_settings([f"alarms={text}"]))
    assert all(alarm.action == "warn" for alarm in recipes.load("toy").alarms)


def run_with(tmp_path: Path, scores: dict[int, float], folders: list[int]) -> Run:
    run = Run.create(tmp_path / "run", {})
    for step, score in scores.items():
        run.record(step, "eval", {"eval/success": score})
    for step in folders:
        (run.folder / "checkpoints" / f"step-{step}").mkdir()
    return run


def test_the_best_checkpoint_is_the_newest_of_the_best_kept(tmp_path: Path) -> None:
    run = run_with(tmp_path, {0: 0.1, 2: 0.8, 4: 0.8, 6: 0.9, 8: 0.0}, [0, 2, 4, 8])
    step, folder, success = trainer.best_checkpoint(run)
    assert (step, folder.name, success) == (4, "step-4", 0.8)
    trainer._go_back(run, step)
    assert [at for at, _ in run.checkpoints()] == [0, 2, 4]
    assert run.metrics()["eval/success"] == [(0, 0.1), (2, 0.8), (4, 0.8)]


def test_pruning_spares_the_best(tmp_path: Path) -> None:
    from turnwise.training.checkpoint import prune

    run = run_with(tmp_path, {}, [0, 1, 2, 3, 4, 5])
    prune(run.folder / "checkpoints", spare=2)
    assert [step for step, _ in run.checkpoints()] == [0, 2, 4, 5]


def collapse(tmp_path: Path, action: str, *more: str) -> subprocess.CompletedProcess[str]:
    """Train with an absurd learning rate from the third step on (warm-up makes the first steps mild)."""
    alarm = f'alarms=[{{"metric":"valid","below":0.5,"steps":2,"action":"{action}"}}]'
    command = [sys.executable, "-m", "turnwise.training.cli", "train", "toy", "--out", str(tmp_path / "run")]
    for setting in (*SMALL, "rl.lr=0.5", alarm, *more):
        command += ["--set", setting]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_collapsing_run_stops_with_one_message_and_names_its_best_checkpoint(tmp_path: Path) -> None:
    done = collapse(tmp_path, "stop")
    assert done.returncode == 1, done.stderr[-2000:]
    assert "Traceback" not in done.stderr and done.stderr.count("error: ") == 1
    run = Run.open(tmp_path / "run")
    best, folder, success = trainer.best_checkpoint(run)
    message = " ".join(done.stderr.split())
    assert "Alarm: valid was below 0.5 for 2 steps" in message and "The run stopped." in message
    assert f"Its best checkpoint is {folder} (held-out success {success:.0%})." in message
    assert folder.is_dir() and success == max(value for _, value in run.metrics()["eval/success"])
    assert run.latest()[0] > best and len(run.metrics()["valid"]) < 8


def test_restore_goes_back_to_the_best_checkpoint(tmp_path: Path) -> None:
    done = collapse(tmp_path, "restore")
    assert done.returncode == 1 and "start from there" in " ".join(done.stderr.split())
    run = Run.open(tmp_path / "run")
    assert run.latest()[0] == trainer.best_checkpoint(run)[0]
    assert max(step for step, _ in run.metrics()["eval/success"]) == run.latest()[0]


def test_a_warning_lets_the_run_go_on(tmp_path: Path) -> None:
    settings_: dict[str, Any] = {
        **parse_settings(SMALL), "rl.steps": 2, "eval.every": 0,
        "alarms": [{"metric": "success", "below": 2.0, "steps": 2}, {"metric": "suces", "above": 1}],
    }  # fmt: skip
    with pytest.warns(UserWarning) as warned:
        trainer.train(override(recipes.load("toy"), settings_), tmp_path / "run")
    texts = [str(w.message) for w in warned]
    assert sum("Alarm: success was below 2 for 2 steps" in text for text in texts) == 1
    assert any("Alarms on suces wait for a metric" in text for text in texts)
    metrics = Run.open(tmp_path / "run").metrics()
    for name in ("masked", "repeat/ngrams", "group/score_std", "information/actions", "entropy/turn_0"):
        assert [step for step, _ in metrics[name]] == [1, 2]
