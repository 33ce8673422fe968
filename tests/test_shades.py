"""What a run keeps of an update, token by token: the advantages and coefficients that were used, at the right turns."""

from __future__ import annotations

import statistics
from array import array
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from turnwise.envs.errors import UnknownName
from turnwise.training import recipes, session, trainer
from turnwise.training.config import override, parse_settings
from turnwise.training.run import Run

TINY = (
    "rl.steps=1", "rl.tasks_per_step=4", "rl.samples_per_task=4", "env.train_tasks=20", "env.eval_tasks=2", "seed=3",
    "sft.demos=48", "sft.epochs=2", "engine.threads=1", "params.beta=0",
)  # fmt: skip
QUERY = """
SELECT e.id, e.grp, e.score / e.max_score, t.turn, t.output, s.advantage, s.coefficient, s.entropy
FROM episodes e JOIN tokens t ON t.episode = e.id LEFT JOIN shades s ON s.episode = e.id AND s.turn = t.turn
WHERE e.phase = 'train' ORDER BY e.id, t.turn
"""


def shaded(folder: Path, *settings: str) -> tuple[list[tuple[Any, ...]], dict[str, float]]:
    """(episode, group, return, turn, tokens, advantages, coefficients, entropies) per turn, and the step's metrics."""
    trainer.train(override(recipes.load("toy"), parse_settings([*TINY, *settings])), folder)
    run = Run.open(folder)
    beside = "SELECT COUNT(*) FROM shades s LEFT JOIN tokens t USING (episode, turn) WHERE t.turn IS NULL"
    assert run.db.execute(beside).fetchone() == (0,)  # what the environment said has none
    rows = [
        (*row[:4], len(array("i", row[4])), *(list(array("f", blob or b"")) for blob in row[5:]))
        for row in run.db.execute(QUERY)
    ]
    metrics = {name: values[-1][1] for name, values in run.metrics().items()}
    run.close()
    return rows, metrics


def group_advantages(rows: list[tuple[Any, ...]]) -> dict[int, float]:
    """GRPO by hand: `(R - mean) / (standard deviation + 1e-4)` within the group, sample deviation."""
    groups: dict[int, dict[int, float]] = defaultdict(dict)
    for episode, group, score, *_ in rows:
        groups[group][episode] = score
    found = {}
    for members in groups.values():
        mean, deviation = statistics.mean(members.values()), statistics.stdev(members.values())
        found |= {episode: (score - mean) / (deviation + 1e-4) for episode, score in members.items()}
    return found


@pytest.mark.parametrize("layout", ["transcript", "windowed"])
def test_every_token_has_the_advantage_of_its_episode(tmp_path: Path, layout: str) -> None:
    rows, metrics = shaded(tmp_path / "run", "algorithm=grpo", f"context.layout={layout}")
    expected = group_advantages(rows)
    assert len(set(expected.values())) > 2
    entropies = [value for row in rows for value in row[7]]
    for episode, _, _, _, count, advantage, coefficient, entropy in rows:
        assert advantage == pytest.approx([expected[episode]] * count, abs=1e-3)
        assert coefficient == pytest.approx(advantage, abs=1e-5)  # one update per batch: the ratio is 1
        assert len(entropy) == count
    assert statistics.mean(entropies) == pytest.approx(metrics["entropy"], abs=1e-4)


def test_of_several_passes_the_first_is_kept(tmp_path: Path) -> None:
    rows, _ = shaded(tmp_path / "run", "algorithm=grpo", "rl.epochs=2", "rl.minibatches=2")
    ratios = {
        row[0]: [c / a for c, a in zip(row[6], row[5], strict=True)] for row in rows if row[5] and row[5][0]
    }  # fmt: skip
    before = [episode for episode, values in ratios.items() if values == pytest.approx([1.0] * len(values), abs=1e-6)]
    assert 0 < len(before) < len(ratios)  # the second minibatch meets a policy that has moved


def test_updates_turn_by_turn_keep_each_turn_of_its_own(tmp_path: Path) -> None:
    rows, _ = shaded(tmp_path / "run", "algorithm=seeupo")
    assert all(len(row[5]) == len(row[6]) == row[4] for row in rows)
    pairs = [(turn, a, c) for _, _, _, turn, _, adv, coef, _ in rows for a, c in zip(adv, coef, strict=True)]
    assert all(a * c > 0 or c == 0 for _, a, c in pairs)  # clipped, or in the direction of its own advantage
    assert {turn for turn, _, c in pairs if c} == {turn for turn, _, _ in pairs} >= {0, 1}


def test_a_resumed_run_drops_the_shades_of_what_it_plays_again(tmp_path: Path) -> None:
    shaded(tmp_path / "run")
    run = Run.open(tmp_path / "run")
    assert run.db.execute("SELECT COUNT(*) FROM shades").fetchone()[0] > 16
    run.forget_after(0)
    assert run.db.execute("SELECT COUNT(*) FROM shades").fetchone() == (0,)
    run.close()


def test_options_reach_the_class_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    desk = override(
        recipes.load("toy"),
        parse_settings(["env.id=turnwise/ServiceDesk-v0", "env.params={}", 'env.options={"schemas": "none"}']),
    )
    session.validate(desk)
    with pytest.raises(UnknownName, match=r"option of turnwise/ServiceDesk-v0 'schema'. Did you mean 'schemas'\?"):
        session.validate(override(desk, {"env.options": {"schema": "none"}}))
