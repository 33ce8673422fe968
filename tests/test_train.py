"""The loop: resume after kill -9 is exact, what a run folder holds, what is refused before anything starts."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from turnwise.envs import RequestError, UnknownName, registry, tasks
from turnwise.training import recipes, trainer
from turnwise.training.config import Recipe, override, parse_settings
from turnwise.training.run import Run
from turnwise.training.session import list_tasks, stage_starts, validate

SMALL = [
    "sft.demos=24", "sft.epochs=1", "rl.steps=6", "rl.tasks_per_step=3", "rl.samples_per_task=3",
    "env.train_tasks=40", "env.eval_tasks=10", "checkpoint_every=2", "algorithm=ppo", "rl.minibatches=2",
    "params.epo_lambda=0.01", "params.epo_kappa_l=0.5", "engine.threads=1", "eval.every=3",
]  # fmt: skip


TEXTWORLD = [
    "sft.demos=8", "sft.epochs=1", "rl.steps=3", "rl.tasks_per_step=3", "rl.samples_per_task=3", "env.train_tasks=4",
    "env.eval_tasks=2", "checkpoint_every=1", "engine.threads=1", "env.params.level=3", "env.params.max_turns=5",
]  # fmt: skip
SHAPED = [
    "sft.demos=96", "sft.epochs=3", "rl.steps=6", "rl.tasks_per_step=3", "rl.samples_per_task=4", "env.train_tasks=6",
    "env.eval_tasks=4", "checkpoint_every=2", "engine.threads=1", "rl.sampler=mmr1_vas", "rl.sampler_every=2",
    "rl.budget=knapsack", "rl.curriculum=scaling_inter", "rl.augmentor=ghpo", "algorithm=d3s",
    'rl.collect_params={"horizon_first": 2, "horizon_add": 1, "horizon_every": 3}',
]  # fmt: skip
REPLAYED = [
    "sft.demos=96", "sft.epochs=2", "rl.steps=6", "rl.tasks_per_step=4", "rl.samples_per_task=4", "env.train_tasks=20",
    "env.eval_tasks=4", "checkpoint_every=1", "engine.threads=1", "algorithm=remix", "rl.replay=remix", "rl.epochs=2",
    "rl.augmentor=reflect_retry",
    'rl.collect_params={"replay_share": 0.6, "reincarnate_at": 4, "retry_by": "rule"}',
]  # fmt: skip
ALFWORLD = [
    "sft.demos=24", "rl.steps=3", "rl.tasks_per_step=3", "rl.samples_per_task=3", "env.train_tasks=24",
    "env.eval_tasks=4", "checkpoint_every=1", "engine.kind=torch",
]  # fmt: skip


def small(*settings: str) -> Recipe:
    return override(recipes.load("toy"), parse_settings([*SMALL, *settings]))


def exact_metrics(folder: Path) -> dict[tuple[int, str], float]:
    """Every metric that does not measure time."""
    db = sqlite3.connect(folder / "run.sqlite")
    rows = db.execute("SELECT step, name, value FROM metrics WHERE name NOT LIKE 'time/%' AND name NOT LIKE 'speed/%'")
    return {(step, name): value for step, name, value in rows}


def episodes(folder: Path) -> list[tuple[Any, ...]]:
    db = sqlite3.connect(folder / "run.sqlite")
    query = (
        "SELECT e.step, e.phase, e.task, e.stop, t.turn, t.action, k.output, k.logprobs FROM episodes e "
        "JOIN turns t ON t.episode = e.id JOIN tokens k ON k.episode = e.id AND k.turn = t.turn "
        "ORDER BY e.step, e.phase, e.id, t.turn"
    )
    return db.execute(query).fetchall()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    trainer.train(small(), folder)
    return folder


def killed_at(step: int, recipe: str, settings: list[str], folder: Path) -> int:
    """Train until the checkpoint of `step` stands, then kill -9; returns the last step written."""
    command = [sys.executable, "-m", "turnwise.training.cli", "train", recipe, "--out", str(folder)]
    for setting in settings:
        command += ["--set", setting]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not (folder / "checkpoints" / f"step-{step}").is_dir():
        assert process.poll() is None, process.stderr.read().decode()[-2000:] if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return max(step for step, _ in exact_metrics(folder))


def test_kill_9_and_resume_equal_an_uninterrupted_run_bit_for_bit(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    assert killed_at(4, "toy", SMALL, folder) < 6, "the run was over before it was killed; the test proved nothing"
    trainer.resume(folder)
    assert exact_metrics(folder) == exact_metrics(whole)
    assert episodes(folder) == episodes(whole)


def test_what_decides_what_is_played_survives_kill_9(tmp_path: Path) -> None:
    """Pass rates behind sampler and budget, the growing turn limit, hints, a schedule over steps."""
    trainer.train(override(recipes.load("toy"), parse_settings(SHAPED)), tmp_path / "whole")
    assert killed_at(2, "toy", SHAPED, tmp_path / "killed") < 6, "the run was over before it was killed"
    trainer.resume(tmp_path / "killed")
    assert exact_metrics(tmp_path / "killed") == exact_metrics(tmp_path / "whole")
    assert episodes(tmp_path / "killed") == episodes(tmp_path / "whole")


@pytest.mark.parametrize("step", [2, 5])
def test_what_is_learned_from_again_survives_kill_9(step: int, tmp_path: Path) -> None:
    """Episodes of earlier policies with their log-probs, retries, and, from step 4 on, the policy as its reference."""
    trainer.train(override(recipes.load("toy"), parse_settings(REPLAYED)), tmp_path / "whole")
    metrics = Run.open(tmp_path / "whole").metrics()
    assert max(share for _, share in metrics["replayed"]) > 0 and max(n for _, n in metrics["retry/share"]) > 0
    assert killed_at(step, "toy", REPLAYED, tmp_path / "killed") < 6, "the run was over before it was killed"
    trainer.resume(tmp_path / "killed")
    assert exact_metrics(tmp_path / "killed") == exact_metrics(tmp_path / "whole")
    assert episodes(tmp_path / "killed") == episodes(tmp_path / "whole")


@pytest.mark.parametrize(
    ("module", "recipe", "settings"),
    [("textworld", "textworld_small", TEXTWORLD), ("alfworld", "alfworld_small", ALFWORLD)],
)
def test_text_worlds_resume_exactly_too(module: str, recipe: str, settings: list[str], tmp_path: Path) -> None:
    """TextWorld's games answer from worker processes, whose order is never the same twice."""
    pytest.importorskip(module)
    trainer.train(override(recipes.load(recipe), parse_settings(settings)), tmp_path / "whole")
    assert killed_at(1, recipe, settings, tmp_path / "killed") < 3, "the run was over before it was killed"
    trainer.resume(tmp_path / "killed")
    assert exact_metrics(tmp_path / "killed") == exact_metrics(tmp_path / "whole")
    assert episodes(tmp_path / "killed") == episodes(tmp_path / "whole")


def test_the_folder_tells_the_whole_run(whole: Path) -> None:
    run = Run.open(whole)
    card = run.card
    assert card["recipe"]["algorithm"] == "ppo"
    assert len(card["train_tasks"]) == 40 and len(card["held_out_tasks"]) == 10
    assert not set(card["train_tasks"]) & set(card["held_out_tasks"])
    metrics = run.metrics()
    assert [step for step, _ in metrics["success"]] == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in metrics["eval/success"]] == [0, 3, 6]
    assert max(gap for _, gap in metrics["gap/max"]) < 1e-3
    assert max(gap for _, gap in metrics["gap/canary"]) < 1e-3
    assert {step for step, _ in run.checkpoints()} == {0, 4, 6}
    assert not list(whole.rglob("*.pt")) and not list(whole.rglob("*.pkl")) and not list(whole.rglob("*.bin"))
    state = json.loads((run.latest()[1] / "state.json").read_text())
    assert len(state["controllers"]["history"]) == 6


def test_dense_and_sparse_rewards_reach_the_batch_as_tokens(whole: Path) -> None:
    rows = episodes(whole)
    assert all(len(output) == len(logprobs) and len(output) % 4 == 0 for *_, output, logprobs in rows)


def test_resume_before_the_first_checkpoint_starts_over(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "early"
    trainer.Run.create(folder, Run.open(whole).card).close()
    outcome = trainer.resume(folder)
    assert exact_metrics(folder) == exact_metrics(whole)
    assert outcome.difference.tasks == 10


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (["rl.stepz=3"], UnknownName, "Did you mean 'rl.steps'"),
        (["rl.steps=many"], RequestError, "Bad value for 'rl.steps'"),
        (["algorithm=grppo"], UnknownName, "Did you mean 'grpo'"),
        (["algorithm=rloo", "rl.samples_per_task=1"], RequestError, "samples_per_task >= 2"),
        (["params.clip_lo=0.1"], UnknownName, "clip_low"),
        (["rewards.outcom=1"], UnknownName, "Did you mean 'outcome'"),
        (["env.id=turnwise/Toi-v0"], UnknownName, "Did you mean 'turnwise/Toy-v0'"),
        (["env.train_split=dev"], UnknownName, "split of turnwise/Toy-v0"),
        (["env.eval_split=train"], RequestError, "share 10 keys"),
        (["env.eval_tasks=100000"], RequestError, "all that the split has"),
        (["rl.tasks_per_step=41"], RequestError, "rl.tasks_per_step <= env.train_tasks"),
        (["algorithm=reinforce", "rl.epochs=2"], RequestError, "epochs=1"),
        (["algorithm=seeupo", "rl.minibatches=2"], RequestError, "one update per turn"),
        (["model.hidden=48"], RequestError, "multiple of 32"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(
    settings: list[str], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message.replace("(", r"\(")):
        trainer.train(small("algorithm=grpo", "rl.minibatches=1", *settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_is_sound(name: str) -> None:
    """Its parts fit together, its lists are long enough and share no task."""
    recipe = recipes.load(name)
    if missing := registry.spec(recipe.env.id).reason():
        pytest.skip(missing)
    assert recipe.name == name
    validate(recipe)


def test_the_budget_splits_into_demonstrations_and_episodes() -> None:
    # 1,000 units, 60 %: 600 / 10 = 60 demonstrations; the other 400 episodes are 44 steps of 9
    r = small("budget.total=1000", "budget.sft_share=0.6")
    assert (r.sft.demos, r.rl.steps) == (60, 44)


def test_an_existing_folder_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RequestError, match="not empty"):
        trainer.train(small(), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_stages_share_the_steps_by_weight() -> None:
    # 40 steps by 1 : 2 : 1 -> 10, 20, 10; 7 steps by 1 : 1 -> 3.5, rounded to even
    assert stage_starts([1.0, 2.0, 1.0], 40) == [0, 10, 30]
    assert stage_starts([1.0, 1.0], 7) == [0, 4]
    assert stage_starts([3.0], 9) == [0]


def test_a_curriculum_is_played_in_order_and_demonstrated_as_a_whole(tmp_path: Path) -> None:
    stages = [{"params": {"rooms": 1}, "train_tasks": 9}, {"params": {"rooms": 2}, "train_tasks": 5, "weight": 2.0}]
    r = override(small("algorithm=grpo", "rl.minibatches=1", "rl.steps=3"), {"env.curriculum": stages})
    first, second = (tasks("Toy", "train", s["train_tasks"], slack=1, **s["params"]) for s in stages)
    mixed = [task for pair in zip(first, second, strict=False) for task in pair] + first[5:]
    assert [t.key for t in list_tasks(r).train] == [t.key for t in mixed]
    trainer.train(r, tmp_path / "run")
    run = Run.open(tmp_path / "run")
    assert run.card["train_tasks"] == [t.key for t in mixed]
    played = {step: {row[2] for row in episodes(tmp_path / "run") if row[:2] == (step, "train")} for step in (1, 2, 3)}
    assert played[1] <= {t.key for t in first}
    assert played[2] | played[3] <= {t.key for t in second}
    with pytest.raises(RequestError, match=r"rl.tasks_per_step <= env.train_tasks, got 6 > 5"):
        trainer.train(override(r, {"rl.tasks_per_step": 6}), tmp_path / "refused")


def test_dynamic_sampling_learns_only_from_groups_with_a_signal(tmp_path: Path) -> None:
    able = ["algorithm=dapo", "rl.minibatches=1", "rl.steps=2", "sft.demos=200", "sft.epochs=4", "env.train_tasks=200"]
    silent = {}
    for rounds in (0, 30):
        trainer.train(small(*able, f"rl.dynamic_sampling={rounds}"), tmp_path / str(rounds))
        silent[rounds] = max(v for _, v in Run.open(tmp_path / str(rounds)).metrics()["zero_signal_groups"])
    assert silent[30] == 0.0 < silent[0]
