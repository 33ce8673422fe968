"""Modes in a run (A2FM): given ones are not trained on, chosen ones are read from the policy's own tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from turnwise.agents.context import Context
from turnwise.agents.models import load_policy
from turnwise.training import learner, recipes, trainer
from turnwise.training.catalogue import costs
from turnwise.training.config import override
from turnwise.training.run import Run

MODED = {
    "algorithm": "grpo", "slots.transforms": "a2fm_apo", "rl.augmentor": "a2fm",
    "context.modes": ["instant", "reasoning", "agentic"], "rl.collect_params": {"forced_per_mode": 2},
    "rl.samples_per_task": 10, "engine.threads": 1,
}  # fmt: skip


@pytest.mark.parametrize("layout", ["transcript", "windowed"])
def test_modes_are_given_or_chosen_and_read_in_a_run(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    update = learner.Learner.update

    def watched(self: learner.Learner, encoded: Any, step: int) -> dict[str, float]:
        seen.append(encoded)
        return update(self, encoded, step)

    monkeypatch.setattr(learner.Learner, "update", watched)
    settings = {"rl.steps": 1, "rl.tasks_per_step": 4, "sft.demos": 64, "env.eval_tasks": 4, "context.layout": layout}
    trainer.train(override(recipes.load("toy"), {**MODED, **settings}), tmp_path / "run")
    run = Run.open(tmp_path / "run")
    _, tokenizer = load_policy(str(run.latest()[1] / "policy"))
    (encoded,) = seen
    batch, first = encoded.batch, encoded.batch.trajectories.first_row_M
    assert torch.bincount(batch.trajectories.group_M).tolist() == [10] * 4
    for group in range(4):
        mine = batch.trajectories.group_M == group
        assert batch.extras["forced"][first][mine].tolist() == [1.0] * 6 + [0.0] * 4
        assert batch.extras["mode"][first][mine].tolist()[:6] == [0, 0, 1, 1, 2, 2]
    named = 0
    for row in first.tolist():
        answer = int(batch.mask[row].nonzero()[0, 0])  # the first token that the policy sampled
        mode, forced = int(batch.extras["mode"][row]), bool(batch.extras["forced"][row])
        word = tokenizer.decode(encoded.ids[row, answer - 1 if forced else answer : answer + 1]).split()[0]
        found = costs.MODE_NAMES.index(word) if word in costs.MODE_NAMES else -1
        assert found == mode, "the word is the row's own, and given words are not the policy's tokens"
        named += not forced and mode >= 0
    assert named, "some free episode chose"
    actions = [a for (a,) in run.db.execute("SELECT action FROM turns JOIN episodes ON id = episode WHERE turn = 0")]
    assert not any(action.split()[0] in costs.MODE_NAMES for action in actions if action)
    shares = {name: values[0][1] for name, values in run.metrics().items() if name.startswith("mode/")}
    assert sum(shares.values()) == pytest.approx(1.0)
    if layout == "windowed":  # the word stays in the history that later turns show
        forced_rows = [
            b for b in range(len(batch.group)) if batch.extras["forced"][b] and int(batch.turn[b].max()) == 1
        ]
        texts = [tokenizer.decode(encoded.ids[b, : encoded.lengths[b]]) for b in forced_rows]
        assert texts and all(
            costs.MODE_NAMES[int(batch.extras["mode"][b])] in text for b, text in zip(forced_rows, texts, strict=True)
        )


@pytest.mark.slow
def test_a2fm_learns_to_be_instant_where_that_is_enough(tmp_path: Path) -> None:
    trainer.train(override(recipes.load("toy"), {**MODED, "rl.steps": 40}), tmp_path / "run")
    metrics = Run.open(tmp_path / "run").metrics()
    instant = [value for _, value in metrics["mode/instant"]]
    assert metrics["eval/success"][-1][1] >= 0.9 and sum(instant[-5:]) / 5 > 0.9


def test_the_mode_is_the_first_word_of_an_answer() -> None:
    context = Context(modes=("instant", "agentic"))
    for text, want in (
        ("instant open door", ("instant", "open door")), (" agentic\n look", ("agentic", "look")),
        ("instant", ("instant", "")), ("reasoning look", ("", "reasoning look")), ("", ("", "")),
        ("instantly look", ("", "instantly look")), ("look instant", ("", "look instant")),
    ):  # fmt: skip
        assert context.mode(text) == want
    assert Context().mode("instant look") == ("", "instant look")
