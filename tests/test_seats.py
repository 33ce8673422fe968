"""Seats: each hears only its own observations, rows are whole contexts, and credit goes seat by seat."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from helpers import run, tiny_policy
from turnwise.agents.agent import Agent, Demonstrator, LLMAgent, ScriptedAgent
from turnwise.agents.context import Context
from turnwise.agents.rollout import Episode, Limits
from turnwise.agents.seats import SeatedAgent, by_seat
from turnwise.agents.torch_engine import TorchEngine
from turnwise.agents.trajectory import Trajectory, Turn
from turnwise.envs import RequestError, StopReason, Task, tasks
from turnwise.training import recipes, session, trainer
from turnwise.training.collate import encode
from turnwise.training.config import override, parse_settings

NEGOTIATION = "turnwise/Negotiation-v0"


def turn(seat: int, **counts: float) -> Turn:
    return Turn(observation=f"to {seat}", anchor="", action="x", reward=0.25, score=0.5, valid=True, admissible=True,
                counts={"seat": float(seat), **counts})  # fmt: skip


def episode(*turns: Turn, stop: StopReason = StopReason.SUCCESS, group: int = 3) -> Trajectory:
    return Trajectory(task=Task(env=NEGOTIATION), agent="self_play", group=group, turns=turns, stop=stop, success=True,
                      score=1.0)  # fmt: skip


def test_credit_by_hand() -> None:
    ends = {"seat_score_0": 0.25, "seat_score_1": 1.0, "seat_success_0": 0.0, "seat_success_1": 1.0}
    first, second = by_seat(episode(turn(0), turn(1), turn(0), turn(1), turn(0, **ends)), seats=2)
    assert [t.reward for t in first.turns] == [0.0, 0.0, 0.25] and [t.reward for t in second.turns] == [0.0, 1.0]
    assert {t.observation for t in first.turns} == {"to 0"} and {t.observation for t in second.turns} == {"to 1"}
    assert (first.group, second.group) == (6, 7)
    assert (first.score, first.success, first.stop) == (0.25, False, StopReason.FAILURE)
    assert (second.score, second.success, second.stop) == (1.0, True, StopReason.SUCCESS)


def test_an_episode_that_was_cut_pays_no_seat_and_keeps_its_reason() -> None:
    first, second = by_seat(episode(turn(0), turn(1), stop=StopReason.TOKEN_LIMIT), seats=2)
    assert first.stop is second.stop is StopReason.TOKEN_LIMIT and first.score == second.score == 0.0
    assert not first.success and not second.success


def test_a_seat_that_never_moved_has_no_trajectory() -> None:
    assert [t.group for t in by_seat(episode(turn(2), group=1), seats=7)] == [9]


def test_seats_are_needed() -> None:
    with pytest.raises(RequestError, match="turns that count their seat"):
        by_seat(run(ScriptedAgent("expert"), [Episode(tasks("Toy", "test", 1)[0])])[0], seats=2)
    with pytest.raises(RequestError, match="at least one agent"):
        SeatedAgent()
    with pytest.raises(RequestError, match="names the seat to move"):
        run(SeatedAgent(*[ScriptedAgent("expert")] * 2), [Episode(tasks("Toy", "test", 1)[0])])


@pytest.mark.parametrize("layout", ["transcript", "windowed"])
@pytest.mark.parametrize("sampled", [False, True])
def test_a_seat_reads_and_learns_from_its_own_dialogue_only(
    layout: Literal["transcript", "windowed"], sampled: bool
) -> None:
    context = Context(layout=layout, max_tokens=4000, max_action_tokens=12)
    listed = tasks(NEGOTIATION, "self_play", 6, form="price", rounds=6)
    model, renderer = tiny_policy(listed, context)
    agent: Agent = Demonstrator("random", context, renderer)
    if sampled:  # random weights say nothing that is a message: its first seat speaks until the end
        agent = LLMAgent(TorchEngine(model, max_batch=8), renderer, context)
    played = run(
        SeatedAgent(agent), [Episode(task, i, seed=i) for i, task in enumerate(listed)], Limits(invalid_actions=9)
    )
    assert {each.counts["seat"] for t in played for each in t.turns} == ({0.0} if sampled else {0.0, 1.0})
    assert max(len(t.turns) for t in played) >= 5
    for trajectory in played:
        rows = list(trajectory.rows())
        assert len(rows) == len(trajectory.turns)
        heard: dict[float, list[int]] = {}
        for row, each in zip(rows, trajectory.turns, strict=True):
            text, seat = renderer.text(tuple(row.ids)), each.counts["seat"]
            assert f"you are {('ann', 'bob')[int(seat)]}" in text and f"you are {('bob', 'ann')[int(seat)]}" not in text
            if layout == "transcript":  # a row is all that its seat has heard and said so far
                before = heard.get(seat, [])
                assert row.ids[: len(before)] == before
            heard[seat] = row.ids
            assert sum(row.action) == len(each.output.ids if each.output else ())


def test_the_trainer_reads_each_seat_as_an_episode_of_its_own() -> None:
    context = Context(max_tokens=4000, max_action_tokens=12)
    listed = tasks(NEGOTIATION, "self_play", 2, form="price")
    _, renderer = tiny_policy(listed, context)
    copies = [Episode(task, group, copy, seed=copy) for group, task in enumerate(listed) for copy in range(20)]
    whole = run(SeatedAgent(Demonstrator("random", context, renderer)), copies)
    parts = [part for trajectory in whole for part in by_seat(trajectory, seats=2)]
    batch = encode(parts, {"progress": 1.0}).batch
    assert set(batch.group.tolist()) == {0, 1, 2, 3} and len(batch.group) == sum(len(t.turns) for t in whole)
    for index, part in enumerate(parts):
        rows = batch.trajectory == index
        assert batch.token_rewards is not None and set(batch.group[rows].tolist()) == {part.group}
        assert batch.token_rewards[rows].sum().item() == pytest.approx(part.score)
        assert batch.token_rewards[rows][:-1].abs().sum().item() == 0.0  # all of it on the seat's last turn
    assert any(part.score and len(part.turns) > 1 for part in parts)


def test_a_recipe_trains_both_seats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(trainer, "encode", lambda *args: seen.append(encode(*args)) or seen[-1])
    settings = [
        "env.id=turnwise/Negotiation-v0", 'env.params={"form": "price", "rounds": 4}', "env.train_split=self_play",
        "env.train_tasks=8", "env.eval_tasks=8", "env.seats=2", "rl.steps=1",
        "rl.tasks_per_step=3", "rl.samples_per_task=4", "sft.demos=24", "sft.agent=random", "sft.epochs=1",
        'context={"goal": "never", "commands": true, "answer": "number", "max_action_tokens": 3, "max_tokens": 2048}',
        "model.context=2048", "model.vocabulary=400", "engine.threads=1", "algorithm=rloo",
    ]  # fmt: skip
    recipe = override(recipes.load("toy"), parse_settings(settings))
    done = trainer.train(recipe, tmp_path / "run")
    (encoded,) = seen
    assert len(encoded.trajectories) == 2 * 12 and done.after.tasks == 8
    of_group: dict[int, set[float]] = {}
    for t in encoded.trajectories:
        of_group.setdefault(t.group, set()).update(turn.counts["seat"] for turn in t.turns)
    assert sorted(of_group) == list(range(6)) and all(seats == {float(g % 2)} for g, seats in of_group.items())
    with pytest.raises(RequestError, match=r"env.seats > 1, got reflect_retry"):
        session.validate(override(recipe, {"rl.augmentor": "reflect_retry"}))
