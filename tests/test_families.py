"""Every family of games trains: a few updates, finite losses, masks that cover exactly what the policy said."""

from __future__ import annotations

import importlib.util
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from turnwise.agents.trajectory import Trajectory
from turnwise.training import recipes, trainer
from turnwise.training.collate import Encoded
from turnwise.training.config import override
from turnwise.training.run import Run

SMALL: dict[str, Any] = {
    "sft.demos": 6, "sft.epochs": 1, "rl.steps": 2, "rl.tasks_per_step": 2, "rl.samples_per_task": 2,
    "env.train_tasks": 3, "env.eval_tasks": 1, "env.eval_params": None, "engine.kind": "torch", "engine.threads": 1,
    "context.max_tokens": 1500, "context.goal": "first", "context.commands": False, "model.context": 1500,
    "model.layers": 1, "model.hidden": 32, "model.heads": 1, "model.kv_heads": 1, "model.ffn": 64,
    "model.tokens": "bytes", "model.vocabulary": 400, "limits.invalid_actions": 3,
    "algorithm": "grpo", "rewards": {"outcome": 1.0, "progress": 0.5},
}  # fmt: skip
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "toy": ("turnwise/Toy-v0", {"rooms": 2, "slack": 2}),
    "alfworld": ("turnwise/ALFWorld-v0", {"receptacles": 4, "distractors": 2}),
    "custom": ("turnwise/TextWorld-v0", {"family": "custom", "rooms": 2, "objects": 3, "quest": 2}),
    "coin_collector": ("turnwise/TextWorld-v0", {"family": "coin_collector", "level": 2, "max_turns": 4}),
    "treasure_hunter": ("turnwise/TextWorld-v0", {"family": "treasure_hunter", "level": 2, "max_turns": 6}),
    "cooking": ("turnwise/TextWorld-v0", {"family": "cooking", "max_turns": 12}),
    "simple": ("turnwise/TextWorld-v0", {"family": "simple", "max_turns": 30}),
    "scienceworld": ("turnwise/ScienceWorld-v0", {"task": "find-living-thing", "max_turns": 30}),
}
NEEDS = {
    "turnwise/ALFWorld-v0": "alfworld",
    "turnwise/TextWorld-v0": "textworld",
    "turnwise/ScienceWorld-v0": "scienceworld",
}


def require(id: str) -> None:
    module = NEEDS.get(id)
    if module and importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    if module == "scienceworld" and shutil.which("java") is None:
        pytest.skip("there is no Java")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_trains(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    id, params = FAMILIES[family]
    require(id)
    seen: list[tuple[list[Trajectory], Encoded]] = []

    def spy(played: list[Trajectory], *args: Any) -> Encoded:
        seen.append((played, encode(played, *args)))
        return seen[-1][1]

    encode = trainer.encode
    monkeypatch.setattr(trainer, "encode", spy)
    trainer.train(override(recipes.load("toy"), SMALL | {"env.id": id, "env.params": params}), tmp_path / "run")
    metrics = Run.open(tmp_path / "run").metrics()
    for name in ("loss", "sft/loss", "grad_norm/policy", "entropy", "gap/max"):
        assert metrics[name] and all(math.isfinite(value) for _, value in metrics[name]), name
    assert len(seen) == 2 and all(value > 0 for _, value in metrics["entropy"])
    for played, encoded in seen:
        assert not any(t.stop.is_error for t in played), [t.error for t in played if t.error]
        assert_masks(played, encoded)


def assert_masks(played: list[Trajectory], encoded: Encoded) -> None:
    """Under the mask stand exactly the tokens sampled, elsewhere those of the prompts, turn by turn."""
    batch = encoded.batch
    assert len(encoded.lengths) == len(played)  # transcripts: one row an episode
    for row, trajectory in enumerate(played):
        ids, mask, turn = (x[row, : encoded.lengths[row]].tolist() for x in (encoded.ids, batch.mask, batch.turn))
        assert not batch.mask[row, encoded.lengths[row] :].any()
        expected = [
            (token, said, index if said else -1)
            for index, each in enumerate(trajectory.turns)
            for segment, said in ((each.prompt, False), (each.output, True))
            if segment is not None
            for token in segment.ids
        ]
        assert list(zip(ids, mask, turn, strict=True)) == expected
