"""Demonstrations in a run: they join their groups, their weights and masks are right, nobody reads what they lack."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import run as play_all
from helpers import tiny_policy
from turnwise.agents.agent import Demonstrator
from turnwise.agents.context import Context
from turnwise.agents.rollout import Episode
from turnwise.envs import registry
from turnwise.envs.errors import RequestError
from turnwise.envs.toy import ToyEnv
from turnwise.training import algorithms as table
from turnwise.training import learner, objective, recipes, trainer
from turnwise.training.augment import expert_episodes, seated
from turnwise.training.batch import Batch
from turnwise.training.collate import encode
from turnwise.training.config import RLConfig, override
from turnwise.training.extract import follow_trainer, sampled
from turnwise.training.run import Run

TASKS = registry.tasks("turnwise/Toy-v0", "train", 3, rooms=2, slack=1)


def test_expert_episodes_join_their_groups() -> None:
    groups = [Episode(TASKS[g], group=g, copy_index=c, seed=c) for g in range(2) for c in range(2)]
    played = play_all(Demonstrator("random", Context(goal="never")), groups)
    played = [t.model_copy(update={"success": t.group == 1}) for t in played]
    every = expert_episodes(played, RLConfig(experts=2), seed=0, step=5)
    assert [(e.task.key, e.group, e.copy_index) for e in every] == [
        (TASKS[g].key, g, c) for g in range(2) for c in (2, 3)
    ]
    failed = expert_episodes(played, RLConfig(experts=1, experts_in="failed"), seed=0, step=5)
    assert [e.group for e in failed] == [0]
    assert len({e.seed for e in (*every, *expert_episodes(played, RLConfig(experts=2), seed=0, step=6))}) == 8


def test_demonstrations_take_the_places_of_the_last_failures() -> None:
    own = play_all(Demonstrator("random", Context(goal="never")), [Episode(TASKS[0], 0, c) for c in range(4)])
    own = [t.model_copy(update={"success": t.copy_index == 3}) for t in own]
    shown = [own[0].model_copy(update={"copy_index": 4 + k, "success": True}) for k in range(2)]
    assert [t.copy_index for t in seated(own, shown, replace=False)] == [0, 1, 2, 3, 4, 5]
    assert [t.copy_index for t in seated(own, shown, replace=True)] == [0, 3, 4, 5]
    won = [t.model_copy(update={"success": True}) for t in own]
    assert len(seated(won, shown, replace=True)) == 6, "no failure to replace"


def test_an_expert_that_never_answers_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mute(self: ToyEnv) -> str:
        raise NotImplementedError("no expert here")

    monkeypatch.setattr(ToyEnv, "expert", mute)
    with pytest.raises(RequestError, match=r"expert of turnwise/Toy-v0 because of rl\.experts"):
        trained(tmp_path, monkeypatch, {"algorithm": "chord"})


def test_log_probs_of_demonstrations_are_the_trainers() -> None:
    context = Context(goal="never")
    _, renderer = tiny_policy(TASKS, context)
    shown = play_all(Demonstrator("expert", context, renderer), [Episode(TASKS[0], 0, 1)])
    own = [t.model_copy(update={"agent": "policy", "success": False, "copy_index": 0}) for t in shown]
    batch = encode([*own, *shown], {"progress": 1.0}, {"provenance", "solved", "logp_replay"}).batch
    assert batch.extras["provenance"].tolist() == [0.0, 1.0] and batch.extras["solved"].tolist() == [0.0, 0.0]
    won = encode([*own[:1], shown[0].model_copy(update={"agent": "policy"}), *shown], {"progress": 1.0}, {"solved"})
    assert won.batch.extras["solved"].tolist() == [1.0] * 3, "the demonstration itself does not count"
    assert (sampled(batch) == (batch.mask & torch.tensor([[True], [False]]))).all()
    old = torch.full(batch.mask.shape, -0.7)
    got = follow_trainer(dataclasses.replace(batch, logp_old=old))
    assert got.logp_rollout is not None and batch.logp_rollout is not None
    for found in (got.logp_rollout, got.extras["logp_replay"]):
        assert torch.equal(found[0][batch.mask[0]], batch.logp_rollout[0][batch.mask[0]])
        assert torch.equal(found[1], old[1])


def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: dict[str, Any]) -> tuple[list[Batch], Run]:
    """The batches of a few steps of the toy game, as the update saw them."""
    seen: list[Batch] = []
    update = learner.Learner.update

    def watched(self: learner.Learner, encoded: Any, step: int) -> dict[str, float]:
        seen.append(encoded.batch)
        return update(self, encoded, step)

    monkeypatch.setattr(learner.Learner, "update", watched)
    small = {"rl.steps": 3, "rl.tasks_per_step": 6, "rl.samples_per_task": 4, "rl.experts": 1, "sft.demos": 64,
             "sft.epochs": 4, "eval_tasks": 10}  # fmt: skip
    small = {key if "." in key else f"env.{key}": value for key, value in small.items()}
    trainer.train(override(recipes.load("toy"), small | recipe), tmp_path / "run")
    return seen, Run.open(tmp_path / "run")


def check_experts(batch: Batch, per_group: int = 1) -> None:
    first = batch.trajectories.first_row_M
    shown = batch.extras["provenance"][first] == 1
    assert torch.bincount(batch.trajectories.group_M[shown], minlength=6).tolist() == [per_group] * 6
    assert int((~shown).sum()) == 24
    expert = (batch.extras["provenance"] == 1)[:, None] & batch.mask
    assert (batch.rewards[first][shown] == 1).all(), "the expert wins"
    assert expert.any() and batch.logp_rollout is not None and (batch.logp_rollout[expert] == 0).all()
    assert (batch.logp_rollout[batch.mask & ~expert] < 0).any()


def test_hpt_trains_with_demonstrations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, done = trained(tmp_path, monkeypatch, {"algorithm": "hpt"})
    imitated = 0
    for batch in seen:
        check_experts(batch)
        weights = objective.loss_weights(*table.resolve("hpt", {"length_norm": 96}), batch).policy_BT
        other, lost = batch.extras["provenance"] == 1, batch.extras["solved"] == 0
        imitated += int((other & lost).sum())
        assert (weights[other & ~lost] == 0).all() and (weights[~other & lost] == 0).all()
        assert (weights[other & lost].sum(1) > 0).all() and (weights[~other & ~lost].sum(1) > 0).all()
    assert imitated, "some group failed"
    assert max(gap for _, gap in done.metrics()["gap/max"]) < 1e-3, "the gap does not read what nobody sampled"
    assert len(done.successes(1, "train")) == 6, "records hold the policy's episodes"


def test_chord_trains_in_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = {"params.mu_peak": 0.5, "params.mu_valley": 0.1, "params.mu_decay": 2}
    windowed = {"context.layout": "windowed", "context.history": 0}
    seen, done = trained(tmp_path, monkeypatch, {"algorithm": "chord", **schedule, **windowed})
    for batch in seen:
        check_experts(batch)
        assert len(batch.group) > len(batch.trajectories.group_M), "one row per turn"
    state = trainer.load_state(done.latest()[1])
    assert state["controllers"]["step"] == 3, "the schedule moves on"
    assert max(gap for _, gap in done.metrics()["gap/max"]) < 1e-3


@pytest.mark.parametrize("base", [{"params.behaviour": "tis"}, {"params.ratio_base": "rollout"}])
def test_luffy_trains_on_mixed_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: dict[str, Any]) -> None:
    recipe = {"algorithm": "grpo", "slots.expert": "luffy", "rl.experts": 2, **base}
    seen, done = trained(tmp_path, monkeypatch, recipe)
    row, params = table.resolve("grpo", {}, {"expert": "luffy"})
    for batch in seen:
        check_experts(batch, per_group=2)
        adv = objective.advantages(row, params, batch).adv_BT
        score = adv[torch.arange(len(adv)), batch.mask.to(torch.long).argmax(1)]  # a row is a trajectory here
        total = torch.zeros(6).index_add(0, batch.trajectories.group_M, score)
        assert torch.allclose(total, torch.zeros(6), atol=1e-4), "one mean over both sources"
        assert (score[batch.extras["provenance"] == 1] >= 0).all()
    metrics = done.metrics()
    for name in ("behaviour/mean", "ratio/mean", "ratio/max"):  # zeros read as log-probs would give p instead of 1
        assert all(value == pytest.approx(1.0, abs=1e-3) for _, value in metrics[name]), name


def test_experts_replace_failures_where_all_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = {"algorithm": "ampo", "rl.experts_in": "failed", "rl.experts_replace": True, "rl.steps": 2}
    seen, _ = trained(tmp_path, monkeypatch, recipe)
    for batch in seen:
        assert torch.bincount(batch.group).tolist() == [4] * 6
        other, won = batch.extras["provenance"] == 1, (batch.rewards[:, 0] == 1) & (batch.extras["provenance"] == 0)
        assert other.any() and not set(batch.group[other].tolist()) & set(batch.group[won].tolist())
