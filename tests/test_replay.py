"""Old episodes in new batches: which are drawn, what the update reads of them, what a checkpoint keeps."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import run as play_all
from helpers import tiny_policy
from hypothesis import given
from hypothesis import strategies as st
from turnwise.agents.agent import Demonstrator
from turnwise.agents.context import Context
from turnwise.agents.models import load_policy
from turnwise.agents.rollout import Episode
from turnwise.envs import registry
from turnwise.envs.errors import RequestError
from turnwise.training import algorithms as table
from turnwise.training import learner, objective, recipes, session, trainer
from turnwise.training.catalogue.offpolicy import mix_policies
from turnwise.training.checkpoint import load_tensors, load_text
from turnwise.training.collate import Encoded
from turnwise.training.config import Recipe, RLConfig, override
from turnwise.training.extract import follow_trainer
from turnwise.training.fixture import evaluate
from turnwise.training.replay import Store
from turnwise.training.run import Run
from turnwise.training.scoring import score_actions

SMALL = {
    "rl.steps": 3, "rl.tasks_per_step": 5, "rl.samples_per_task": 4, "sft.demos": 64, "sft.epochs": 4,
    "env.eval_tasks": 4, "checkpoint_every": 1, "engine.threads": 1,
}  # fmt: skip
OLD: dict[str, Any] = {"algorithm": "remix", "rl.replay": "remix", "rl.collect_params": {"replay_share": 1.0}}


def recipe(settings: dict[str, Any]) -> Recipe:
    return override(recipes.load("toy"), {**SMALL, **settings})


def trained(
    folder: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> tuple[list[Encoded], Run, list[tuple[int, bool]]]:
    """(what each update read, the run, (epochs, whether the reference is the policy) before each update)."""
    seen: list[Encoded] = []
    bodies: list[tuple[int, bool]] = []
    update = learner.Learner.update

    def watched(self: learner.Learner, encoded: Encoded, step: int) -> dict[str, float]:
        seen.append(encoded)
        same = self.reference is not None and all(
            torch.equal(a, b) for a, b in zip(self.reference.parameters(), self.model.parameters(), strict=True)
        )
        bodies.append((self.config.epochs, same))
        return update(self, encoded, step)

    monkeypatch.setattr(learner.Learner, "update", watched)
    trainer.train(recipe(settings), folder)
    return seen, Run.open(folder), bodies


# ---------------------------------------------------------------- what is drawn


def test_slots_are_filled_from_recent_policies() -> None:
    ages = [2, 2, 1, 1, 3, 0]  # the last two: too old, of this very step
    assert mix_policies(ages, 4, "x", replay_share=0.0) == []
    full = mix_policies(ages, 4, "x", replay_share=1.0)
    assert len(full) == len(set(full)) == 3 and set(full) < {0, 1, 2, 3}, "one slot stays fresh"
    assert sorted(mix_policies(ages, 9, "y", replay_share=1.0)) == [0, 1, 2, 3]
    assert mix_policies(ages, 4, "x", replay_share=1.0, replay_back=1) in ([2, 3], [3, 2])
    assert mix_policies([], 4, "x", replay_share=1.0) == []
    # p of all slots but the one that stays fresh where all were drawn; policies evenly, however many groups each has
    draws = [mix_policies([1, 2, 2, 2], 2, str(k)) for k in range(4000)]
    assert sum(map(len, draws)) / 4000 == pytest.approx(1 - 0.6**2, abs=0.03)
    assert sum(0 in chosen for chosen in draws) / sum(map(len, draws)) == pytest.approx(0.5, abs=0.04)
    got = evaluate("mix_policies", {"inputs": {"ages": ages, "slots": 4, "draw": "x"}, "params": {"replay_share": 1.0}})
    assert got == {"output": full}


@given(st.lists(st.integers(0, 4), max_size=12), st.integers(1, 8), st.text(max_size=5), st.integers(1, 4))
def test_a_draw_is_repeatable_and_never_takes_all_slots(ages: list[int], slots: int, draw: str, back: int) -> None:
    chosen = mix_policies(ages, slots, draw, replay_share=0.7, replay_back=back)
    assert chosen == mix_policies(ages, slots, draw, replay_share=0.7, replay_back=back)
    assert len(chosen) < slots and len(set(chosen)) == len(chosen) and all(1 <= ages[i] <= back for i in chosen)


def test_what_is_kept_goes_by_age_and_comes_back_exactly() -> None:
    tasks = registry.tasks("turnwise/Toy-v0", "train", 2, rooms=2, slack=1)
    context = Context(goal="never")
    _, renderer = tiny_policy(tasks, context)
    played = play_all(
        Demonstrator("random", context, renderer), [Episode(tasks[g], g, c) for g in (0, 1) for c in (0, 1)]
    )
    scored = [
        t.model_copy(update={"turns": tuple(turn.model_copy(update={"output": turn.output.model_copy(
            update={"logprobs": tuple(-0.1 / (k + 3) for k in range(len(turn.output.ids)))})})
            for turn in t.turns if turn.output)})
        for t in played
    ]  # fmt: skip
    rl, store = RLConfig(replay="remix"), Store()
    for step in range(4):
        store.keep(rl, step, scored)
    assert sorted(store.recent) == [2, 3] and store.recent[3] == [scored[:2], scored[2:]]
    store.start = scored[:1]
    again = Store.load(store.dump())
    assert (again.recent, again.start) == (store.recent, store.start)
    assert again.dump() == store.dump() and Store.load("").dump() == ""
    assert store.draw(rl, 0, 4, {"reincarnated": True}) == [] and RLConfig().replay == "none"
    plain = Store()
    plain.keep(RLConfig(), 0, scored)
    assert plain.recent == {}


def test_near_mastered_tasks_are_told_apart() -> None:
    got = evaluate("near_mastered", {"inputs": {"pass_rate": [1.0, 0.5, 0.75, 0.0]}})
    assert got == {"output": {"kept": [0, 2], "explored": [1, 3]}}


# ---------------------------------------------------------------- what the update reads


def test_replayed_groups_keep_the_log_probs_of_their_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, run, _ = trained(tmp_path / "run", monkeypatch, OLD)
    replayed = dict(run.metrics()["replayed"])
    assert replayed == {1: 0.0, 2: pytest.approx(0.8), 3: pytest.approx(0.8)}  # one slot stays fresh
    counts = run.db.execute("SELECT step, COUNT(*) FROM episodes WHERE phase = 'train' GROUP BY 1").fetchall()
    assert counts == [(1, 20), (2, 4), (3, 4)], "what is replayed need not be played"
    first, second = seen[0].batch, seen[1].batch
    old = second.extras["provenance"] == 4
    assert torch.bincount(second.group).tolist() == [4] * 5 and int(old.sum()) == 16
    rows = {tuple(ids[:n].tolist()): k for k, (ids, n) in enumerate(zip(seen[0].ids, seen[0].lengths, strict=True))}
    for b in old.nonzero()[:, 0].tolist():
        k = rows[tuple(seen[1].ids[b, : seen[1].lengths[b]].tolist())]
        own = second.mask[b].nonzero()[:, 0]
        was = first.logp_rollout
        assert was is not None and torch.equal(second.extras["logp_replay"][b, own], was[k, own])
    assert max(gap for _, gap in run.metrics()["gap/max"]) < 1e-3, "the gap is read on fresh tokens only"


def test_the_clip_of_a_replayed_token_sits_around_the_shift(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the first update pi = pi_old: fresh tokens have r = s = 1, old ones r = s = pi_old / pi_gen; no clip."""
    settings = {**OLD, "rl.lr": 0.02}  # a policy that moves
    seen, run, _ = trained(tmp_path / "run", monkeypatch, settings)
    opened = 2  # the newest checkpoints but one: what opened the last update
    model = load_policy(str(dict(run.checkpoints())[opened] / "policy"))[0]
    encoded = seen[opened]
    old = (encoded.batch.extras["provenance"] == 4)[:, None] & encoded.batch.mask
    assert old.any()
    with torch.no_grad():
        logp = score_actions(model, encoded.ids, encoded.batch.mask).logp_BT
    batch = follow_trainer(dataclasses.replace(encoded.batch, logp_old=logp))  # as the trainer does
    row, params = table.resolve("remix", {"remix_kl": 0.0})
    adv = torch.ones_like(logp)
    got = objective.coefficient(row, params, batch, adv, logp)
    ratio = (logp - batch.extras["logp_replay"]).exp()
    assert torch.allclose(got.coef_BT[old], ratio[old]) and got.keep_BT[old].all()
    assert (ratio[old] - 1).abs().max() > 0.05, "the policy has moved since"
    fresh = batch.mask & ~old
    assert torch.allclose(got.coef_BT[fresh], torch.ones_like(got.coef_BT[fresh]), atol=1e-3)


def test_reincarnation_resets_the_reference_and_ends_replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {**OLD, "rl.epochs": 2, "rl.steps": 4, "rl.collect_params": {"replay_share": 1.0, "reincarnate_at": 2}}
    _, run, bodies = trained(tmp_path / "run", monkeypatch, settings)
    assert [epochs for epochs, _ in bodies] == [2, 2, 1, 1]
    assert [same for _, same in bodies] == [True, False, True, False]
    replayed = [value for _, value in run.metrics()["replayed"]]
    assert replayed[1] > 0 and replayed[2:] == [0.0, 0.0]
    done, folder = run.latest()
    reference, at = load_tensors(folder, "reference_model"), load_policy(str(run.checkpoints()[0][1] / "policy"))[0]
    assert done == 4 and any(not torch.equal(reference[k], v) for k, v in at.named_parameters())


def test_episodes_from_before_rl_are_held_on_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"algorithm": "grpo", "slots.expert": "dph_rl", "rl.replay": "dph_rl",
                "rl.collect_params": {"mastered_at": 0.25, "start_rows": 6}}  # fmt: skip
    seen, run, _ = trained(tmp_path / "run", monkeypatch, settings)
    start = load_policy(str(run.checkpoints()[0][1] / "policy"))[0]
    for encoded in seen:
        batch = encoded.batch
        held = batch.extras["provenance"] == 5
        assert int(held.sum()) == 6 and (batch.rewards[held] == 1).all(), "wins only"
        with torch.no_grad():
            logp = score_actions(start, encoded.ids, batch.mask).logp_BT
        on = held[:, None] & batch.mask
        assert torch.allclose(batch.extras["logp_pi0"][on], logp[on], atol=1e-4)
        assert len(set(batch.group[held].tolist())) == 6 and (torch.bincount(batch.group)[:5] == 4).all()
    assert len(Store.load(load_text(run.latest()[1], trainer.STORE)).start or []) >= 6
    assert len(run.successes(1, "train")) == 5, "records hold the step's own episodes"


def test_nothing_mastered_before_rl_is_reported(tmp_path: Path) -> None:
    settings = {"slots.expert": "dph_rl", "rl.replay": "dph_rl", "sft.epochs": 1, "sft.demos": 8}
    with pytest.raises(RequestError, match=r"nearly masters before RL for rl\.replay=dph_rl"):
        trainer.train(recipe(settings), tmp_path / "run")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rl.replay": "remix"}, "knows which policy sampled a token for rl.replay=remix, got grpo"),
        ({"rl.replay": "dph_rl"}, "slots.expert=dph_rl and rl.replay=dph_rl together"),
        ({"slots.expert": "dph_rl"}, "slots.expert=dph_rl and rl.replay=dph_rl together"),
        ({"rl.collect_params": {"reincarnate_at": 5}}, "for reincarnate_at, got rl.replay=none"),
        ({**OLD, "rl.collect_params": {"replay_share": 1.5}}, "replay_share in"),
        ({"rl.replay": "old"}, "rl.replay"),
        ({"rl.augmentor": "reflect_retry", "rl.dynamic_sampling": 1}, "lost groups get retries"),
        (
            {"rl.augmentor": "reflect_retry", "rl.samples_per_task": 1, "algorithm": "reinforce"},
            ">= 2 with rl",
        ),
        ({"rl.augmentor": "reflect_retry", "rl.collect_params": {"retry_by": "me"}}, "retry_by to be one of"),
        ({"rl.augmentor": "a2fm", "rl.samples_per_task": 10}, "context.modes"),
        ({"context.modes": ["instant"]}, "context.modes"),
        ({"slots.transforms": "a2fm_apo"}, "rl.augmentor=a2fm with context.modes"),
        (
            {"rl.augmentor": "a2fm", "context.modes": ["instant", "reasoning", "agentic"]},
            "Lower rl.collect_params",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message.replace("(", r"\(")):
        session.validate(recipe(settings))


def test_remix_goes_with_any_ratio_to_the_sampling_policy() -> None:
    for settings in ({"params.ratio_base": "rollout"}, {"params.behaviour": "tis"}, {"algorithm": "remix"}):
        session.validate(recipe({"rl.replay": "remix", **settings}))
    assert json.loads(recipe(OLD).model_dump_json())["rl"]["replay"] == "remix"
