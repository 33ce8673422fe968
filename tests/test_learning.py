"""Learning: the toy game from random play to its optimal policy, by every algorithm row; real TextWorld, a little."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from turnwise.training import recipes, trainer
from turnwise.training.algorithms import ALGORITHMS
from turnwise.training.config import override
from turnwise.training.run import Run

BAR = 0.9
"""The optimal policy wins every toy task; uniform play over the commands wins 26 %."""
# In the toy game the turn limit is the task's own deadline, not the sampler's: being late is a loss.
EXTRA: dict[str, dict[str, Any]] = {
    "ppo": {"params.bootstrap": False},
    "t_ppo": {"params.bootstrap": False},
    "ppo_max": {"params.bootstrap": False},
    "ppo_turn": {"params.bootstrap": False},
    # At full weight the policy outruns a process model that has seen a few hundred episodes, and pleases it instead.
    "prime": {"params.process_weight": 0.2, "rl.dynamic_sampling": 1},
}

# Rows that learn from demonstrations beside their own episodes.
EXTRA |= {name: {"rl.experts": 1} for name in ("chord", "hpt", "ahpo", "expo", "critique_grpo")}
EXTRA["ampo"] = {"rl.experts": 2, "rl.experts_in": "failed", "rl.experts_replace": True}

# Rows that learn from more than a step's own episodes.
EXTRA["r3l"] = {"rl.augmentor": "reflect_retry", "rl.collect_params": {"retry_by": "rule"}}
EXTRA["remix"] = {"rl.replay": "remix"}
PARTS: dict[str, dict[str, Any]] = {
    # τ for steps of the size that this small policy takes: 2e-3 instead of 1.5e-5
    "capo": {"slots.guards": "capo", "params.capo_hessian": 0.15, "params.capo_fisher": 0.004},
    "dph_rl": {"slots.expert": "dph_rl", "rl.replay": "dph_rl", "rl.collect_params": {"mastered_at": 0.5}},
    "replay": {"rl.replay": "remix", "params.ratio_base": "rollout"},
    "retries": {
        "rl.augmentor": "reflect_retry",
        "slots.guards": "from_pivot",
        "rl.collect_params": {"retry_by": "rule"},
    },
}
"""Parts that change what is collected or read, put into grpo."""

OTHER_AIMS = {
    "riskpo": "the lower tail of returns, without a baseline; tests/test_catalogue_group.py shows what it prefers",
    "epo_explicit": "imitates its own episodes by weight, tests/test_catalogue_agentic.py shows what that gains",
    "flow_of_reasoning": "samples in proportion to reward, tests/test_catalogue_regression.py shows that it does",
}
"""Rows that do not maximise success on-policy, and where their own purpose is tested."""


@pytest.mark.parametrize("name", sorted(set(ALGORITHMS) - set(OTHER_AIMS)))
def test_every_row_learns_the_toy_game(name: str, tmp_path: Path) -> None:
    settings = {"algorithm": name, "rl.steps": 35, **EXTRA.get(name, {})}
    outcome = trainer.train(override(recipes.load("toy"), settings), tmp_path / "run")
    assert outcome.before.mean < 0.35, "imitating random play must not solve the game: then RL would prove nothing"
    assert outcome.after.mean >= BAR
    assert outcome.difference.low > 0


@pytest.mark.parametrize("name", PARTS)
def test_parts_of_the_loop_learn_the_toy_game(name: str, tmp_path: Path) -> None:
    outcome = trainer.train(override(recipes.load("toy"), {"rl.steps": 35, **PARTS[name]}), tmp_path / "run")
    assert outcome.before.mean < 0.35 and outcome.after.mean >= BAR


def test_a_broken_sign_does_not_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The learning test can fail: with the advantage negated the same recipe gets nowhere."""
    from turnwise.training import learner

    honest = learner.advantages

    def negated(*args: object, **kwargs: object) -> object:
        credit = honest(*args, **kwargs)  # type: ignore[arg-type]
        return credit._replace(adv_BT=-credit.adv_BT)

    monkeypatch.setattr(learner, "advantages", negated)
    outcome = trainer.train(override(recipes.load("toy"), {"rl.steps": 20}), tmp_path / "run")
    assert outcome.after.mean < 0.35


def test_textworld_trains_end_to_end_in_worker_processes(tmp_path: Path) -> None:
    pytest.importorskip("textworld")
    small = {
        "env.params.level": 2, "env.train_tasks": 8, "env.eval_tasks": 4, "sft.demos": 8, "sft.epochs": 8,
        "rl.steps": 2, "rl.tasks_per_step": 4, "rl.samples_per_task": 4, "engine.threads": 1, "engine.env_workers": 4,
        "model.hidden": 64, "model.heads": 2, "model.kv_heads": 2,
    }  # fmt: skip
    outcome = trainer.train(override(recipes.load("textworld_small"), small), tmp_path / "run")
    run = Run.open(tmp_path / "run")
    metrics = run.metrics()
    losses = [loss for _, loss in metrics["sft/loss"]]
    assert losses[-1] < 0.5 * losses[0]
    assert max(gap for _, gap in metrics["gap/max"]) < 1e-3
    assert outcome.after.tasks == 4
    stops = {row[0] for row in run.db.execute("SELECT DISTINCT stop FROM episodes")}
    assert stops <= {"success", "turn_limit", "invalid_limit"}, "an episode ended for a reason that is not the policy's"
