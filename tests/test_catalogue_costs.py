"""Tool costs, modes, earlier calls: the papers' tables, slow references, the minimum that a run remembers."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from turnwise.agents.trajectory import Owner, Row, Segment, Trajectory, Turn
from turnwise.envs import StopReason
from turnwise.envs.task import Task
from turnwise.training import extract, recipes, trainer
from turnwise.training.catalogue import costs
from turnwise.training.config import override
from turnwise.training.credit import total_rewards
from turnwise.training.fixture import evaluate, read_batch
from turnwise.training.run import Run

SEEDS = st.integers(0, 10**6)
FEW = settings(max_examples=20, deadline=None, derandomize=True)
PLAIN = {"normalize": False, "aggregator": "token_mean"}


def tensor(x: list[float]) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64)


def lone(calls: list[int], history: int | None = None, **params: Any) -> dict[str, Any]:
    """Solved episodes, each a group of its own (so that its advantage is its reward), all of one question."""
    B = len(calls)
    state = {} if history is None else {"fewest_calls": {"q": history}}
    return {
        "group": list(range(B)), "rewards": [1.0] * B, "task": ["q"] * B, "extras": {"tool_calls": calls},
        "params": {**PLAIN, **params}, "state": state,
    }  # fmt: skip


def rewards_of(name: str, fixture: dict[str, Any]) -> list[float]:
    return [row[0] for row in evaluate(name, fixture)["advantage"]]


# ---------------------------------------------------------------- OTC


@pytest.mark.parametrize(
    ("fewest", "want"),
    [
        (0, [1, 0.8660, 0.7071, 0.5878, 0.5]),  # cos(m pi / (2 m + 4))
        (1, [0, 1, 0.8660, 0.7071, 0.5878]),  # m = 2: f = 4/3, sin(2 pi / 3)
        (2, [0, 0.8660, 1, 0.9511, 0.8660]),  # m = 3: f = 2.4, sin(.6 pi)
    ],
)
def test_otc_table(fewest: int, want: list[float]) -> None:
    m = tensor([0, 1, 2, 3, 4])
    assert costs.tool_productivity(m, torch.full_like(m, fewest), 4).tolist() == pytest.approx(want, abs=5e-5)
    reached = list(range(fewest, 5))  # a solved episode never has fewer calls than the fewest
    got = rewards_of("otc", lone(reached, history=fewest))
    assert got == pytest.approx(want[fewest:], abs=5e-5)


def test_otc_ppo_table_and_weight() -> None:
    want = [1, 0.5, 0.3090, 0.2225, 0.1736]  # cos(m pi / (2 m + 1))
    assert costs.call_decay(tensor([0, 1, 2, 3, 4]), 1).tolist() == pytest.approx(want, abs=5e-5)
    ppo = {"otc_variant": "ppo", "otc_max_calls": 1}
    assert rewards_of("otc", lone([0, 1, 2, 3, 4], **ppo)) == pytest.approx(want, abs=5e-5)
    assert rewards_of("otc", lone([0, 1], **ppo, otc_alpha=2.0)) == pytest.approx([2.0, 1.0])


def test_wrong_answers_stay_at_zero_and_the_group_sets_the_fewest() -> None:
    # solved with 2 and 4 calls, wrong with 0: n = 2, so 1 and sin(f pi / 4) at f = 8/3 = .86603; mean .62201
    fixture = {"rewards": [1.0, 1.0, 0.0], "extras": {"tool_calls": [2, 4, 0]}, "params": PLAIN}
    got = rewards_of("otc", fixture)
    mean = (1 + 0.8660254) / 3
    assert got == pytest.approx([1 - mean, 0.8660254 - mean, -mean])
    for penalty in ("exp", "otc", "otc_strict", "linear"):
        raw = evaluate("mash", {**fixture, "rewards": [0.0] * 3, "params": {**PLAIN, "mash_penalty": penalty}})
        assert raw["advantage"] == [[0.0]] * 3


# ---------------------------------------------------------------- MASH


def test_mash_numbers() -> None:
    s = tensor([1, 2, 3])
    assert costs.search_penalty(s, torch.ones_like(s), "exp", 0.5, 5).tolist() == [1, 0.5, 0.25]
    assert rewards_of("mash", lone([1, 2, 3], history=1, mash_lambda=0.5)) == pytest.approx([1, 0.5, 0.25])
    assert rewards_of("mash", lone([3], history=1, mash_lambda=0.8)) == pytest.approx([0.64])
    assert rewards_of("mash", lone([1, 2, 3], history=0, mash_penalty="linear")) == pytest.approx([5 / 6, 4 / 6, 3 / 6])
    assert rewards_of("mash", lone([0, 1, 2], history=0, mash_penalty="otc_strict")) == [1.0, 0.0, 0.0]
    strict = rewards_of("mash", lone([1, 2], history=1, mash_penalty="otc_strict"))
    assert strict == pytest.approx([1.0, math.sin(2 * math.pi / 3)])
    with_otc = rewards_of("mash", lone([0, 5], history=0, mash_penalty="otc"))
    assert with_otc == pytest.approx([1.0, math.cos(5 * math.pi / 15)])


def test_the_past_minimum_only_falls_and_is_kept_by_task() -> None:
    composed = {"slots": {"controllers": ["fewest_calls"]}}
    fixture = {
        "group": [0, 0, 1], "task": ["a", "a", "b"], "rewards": [1.0, 1.0, 0.0],
        "extras": {"tool_calls": [3, 2, 1]}, **composed,
    }  # fmt: skip
    state = evaluate("mash", fixture)["state"]
    assert state["fewest_calls"] == {"a": 2.0} and json.dumps(state)
    later = {**fixture, "state": state, "extras": {"tool_calls": [5, 4, 1]}, "rewards": [1.0, 1.0, 1.0]}
    after = evaluate("mash", {**later, "params": {**PLAIN, "mash_lambda": 0.5}})
    assert after["state"]["fewest_calls"] == {"a": 2.0, "b": 1.0}
    # against the past 2: .5^3 and .5^2, mean .1875
    assert [row[0] for row in after["advantage"][:2]] == pytest.approx([-0.0625, 0.0625])


@FEW
@given(seed=SEEDS)
def test_costs_are_the_plain_loop_in_any_row_order(seed: int) -> None:
    rng = random.Random(seed)
    B = 8
    group, task = [b // 4 for b in range(B)], [f"t{b // 4}" for b in range(B)]
    calls, won = [rng.randint(0, 5) for _ in range(B)], [rng.choice([0.0, 1.0]) for _ in range(B)]
    past = {"t0": rng.randint(0, 5)}
    fixture = {"group": group, "task": task, "rewards": won, "extras": {"tool_calls": calls},
               "state": {"fewest_calls": past}}  # fmt: skip
    batch, _, _ = read_batch(fixture)
    rewards = total_rewards(batch)
    got = costs.pay_per_search(rewards, batch, mash_lambda=0.6)
    tool = costs.optimal_tool_calls(rewards, batch)
    for b in range(B):
        known = [calls[j] for j in range(B) if group[j] == group[b] and won[j]]
        known += [past["t0"]] if group[b] == 0 else []
        n = min(known, default=None)
        want = won[b] * (1.0 if n is None else 0.6 ** max(calls[b] - n, 0))
        assert float(got.trajectory_M[b]) == pytest.approx(want)
        if won[b] and n is not None:
            m = calls[b]
            c = math.cos(m * math.pi / (2 * m + 4)) if n == 0 else math.sin(2 * n * m / (m + n) * math.pi / (2 * n))
            assert float(tool.trajectory_M[b]) == pytest.approx(c)
    assert torch.allclose(got.token_BT.sum(1), got.trajectory_M)
    order = torch.randperm(B, generator=torch.Generator().manual_seed(seed))
    mixed = batch.rows(order)
    again = costs.pay_per_search(total_rewards(mixed), mixed, mash_lambda=0.6)
    assert torch.allclose(again.token_BT, got.token_BT[order])


# ---------------------------------------------------------------- A2FM


@pytest.mark.parametrize(("solved", "want"), [(4, 0.0), (2, 0.75), (0, 1.0)])
def test_a2fm_numbers(solved: int, want: float) -> None:
    # four forced instant rollouts give p = 1, .5, 0; then a free agentic one (1 - p^2), a free instant one, a forced
    # agentic one: both unchanged
    rewards = [float(i < solved) for i in range(4)] + [1.0, 1.0, 1.0]
    fixture = {
        "rewards": rewards, "extras": {"mode": [0, 0, 0, 0, 2, 0, 2], "forced": [1, 1, 1, 1, 0, 0, 1]},
        "params": PLAIN,
    }  # fmt: skip
    got = rewards_of("a2fm_apo", fixture)
    mean = (solved + want + 2) / 7
    assert got == pytest.approx([float(i < solved) - mean for i in range(4)] + [want - mean, 1 - mean, 1 - mean])
    hard = rewards_of("a2fm_apo", {**fixture, "params": {**PLAIN, "easy_at": 1.0}})
    assert (hard[4] == pytest.approx(hard[5])) == (solved < 4)  # only p = 1 is easy


def test_a2fm_pays_nothing_for_a_free_episode_that_names_no_mode() -> None:
    fixture = {"rewards": [0, 1.0, 1.0], "extras": {"mode": [0, -1, -1], "forced": [1, 0, 1]}, "params": PLAIN}
    assert rewards_of("a2fm_apo", fixture) == pytest.approx([-1 / 3, -1 / 3, 2 / 3])


def test_a2fm_gives_each_mode_its_share_of_a_group() -> None:
    def modes(copies: int, **params: int) -> list[str]:
        return evaluate("forced_modes", {"inputs": {"copies": copies}, "params": params})["output"]

    assert modes(12) == ["instant"] * 3 + ["reasoning"] * 3 + ["agentic"] * 3 + [""] * 3
    assert modes(5, forced_per_mode=1) == ["instant", "reasoning", "agentic", "", ""]
    assert modes(2, forced_per_mode=1) == ["instant", "reasoning"]


# ---------------------------------------------------------------- ASPO


def test_aspo_numbers() -> None:
    # p - mean p = [-400, 0, 400], L = 1000: -2 * (-.4) = .8, cut at .7 * .8 = .56 -> [1.36, .8, .24]
    batch, _, _ = read_batch(
        {"rewards": [1.0] * 4, "mask": [[1] * 1000] * 4, "extras": {"first_call": [100, 500, 900, 3]}}
    )
    adv_BT = tensor([0.8, 0.8, 0.8, -2.4])[:, None].expand(4, 1000)
    got = costs.earlier_calls(adv_BT, batch)
    assert got[:, 0].tolist() == pytest.approx([1.36, 0.8, 0.24, -2.4])
    assert (got == got[:, :1]).all()


def test_aspo_fixture() -> None:
    # the same shares at a tenth of a hundredth: L 10, p = 1, 5, 9; rewards 1, 1, 1, -2.2 have mean .2
    fixture = {
        "rewards": [1.0, 1.0, 1.0, -2.2], "mask": [[1] * 10] * 4, "extras": {"first_call": [1, 5, 9, -1]},
        "params": PLAIN,
    }  # fmt: skip
    assert rewards_of("aspo", fixture) == pytest.approx([1.36, 0.8, 0.24, -2.4])
    mild = rewards_of("aspo", {**fixture, "params": {**PLAIN, "aspo_delta": -0.5}})
    assert mild == pytest.approx([1.0, 0.8, 0.6, -2.4])  # -.5 * -.4 = .2, not cut
    silent = rewards_of("aspo", {**fixture, "extras": {"first_call": [-1] * 4}})
    assert silent == pytest.approx([0.8, 0.8, 0.8, -2.4])


@FEW
@given(seed=SEEDS)
def test_aspo_keeps_every_sign_and_wrong_answers(seed: int) -> None:
    rng = random.Random(seed)
    batch, _, _ = read_batch({
        "group": [0] * 4 + [1] * 4, "rewards": [rng.choice([0, 1]) for _ in range(8)],
        "turn": [[0] * 4 + [-1] * (b % 2) + [1] * (2 - b % 2) for b in range(8)],
        "extras": {"first_call": [rng.randint(-1, 5) for _ in range(8)]},
    })  # fmt: skip
    adv_BT = tensor([rng.uniform(-1, 1) for _ in range(8)])[:, None] * batch.mask
    got = costs.earlier_calls(adv_BT, batch)
    assert torch.equal(got.sign(), adv_BT.sign()) and (got[~batch.mask] == 0).all()
    untouched = (adv_BT <= 0) | (batch.extras["first_call"][:, None] < 0)
    assert torch.equal(got[untouched], adv_BT[untouched])
    assert ((got - adv_BT).abs() <= 0.7 * adv_BT.abs() + 1e-12).all()


# ---------------------------------------------------------------- what a run reads from its episodes


def turn(text: str, ids: int, score: float, reward: float, valid: bool = True) -> Turn:
    return Turn(
        observation="o", anchor="o", action=text, reward=reward, score=score, valid=valid, admissible=valid,
        prompt=Segment(owner=Owner.ENVIRONMENT, ids=(1, 2)),
        output=Segment(owner=Owner.POLICY, ids=tuple(range(ids)), logprobs=(0.0,) * ids),
    )  # fmt: skip


def test_readers_by_hand() -> None:
    task = Task(env="turnwise/Toy-v0", seed=0, params={"rooms": 2}, max_turns=3, goal="", split="train")
    turns = (turn("", 2, 0, 0, valid=False), turn("a", 3, 1, 1), turn("b", 1, 1, 0))
    t = Trajectory(task=task, agent="x", turns=turns, stop=StopReason.TURN_LIMIT, score=1, max_score=2)
    (row,) = t.rows()
    assert extract.first_call(t, row) == 4  # two tokens of the unparsed turn, then three: the last of them is index 4
    assert extract.first_call(t.model_copy(update={"turns": turns[:1]}), row) == -1
    assert extract.raised_the_score(t, row) == [0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0]
    marks = extract.milestones(t, row)  # half the score: the first two of four shares
    assert marks[2] == [0, 0, 0, 0] and marks[6] == [1, 1, 0, 0] and marks[11] == [1, 1, 0, 0] and marks[0] == [0] * 4
    long = Row([*row.ids, 9], [*row.action, False], [*row.logprobs, 0.0], [*row.turn, -1], 0)
    found = extract.extract(["tests", "critical", "first_call", "pivot"], [t, t], [(0, row), (1, long)])
    assert found["tests"].shape == (2, 13, 4) and found["critical"].shape == (2, 13)
    assert found["first_call"].tolist() == [4, 4] and found["pivot"].tolist() == [0, 0]


def test_readers_of_environments_that_count() -> None:
    """An answer is no call; tests that the environment counts are VeRPO's, in the order of their names."""
    task = Task(env="turnwise/Toy-v0", seed=0, params={"rooms": 2}, max_turns=3, goal="", split="train")
    counts = (
        {"tool_calls": 0.0, "test_00": 0.0, "test_01": 1.0, "tests": 9.0},
        {"tool_calls": 2.0, "test_01": 1.0, "test_00": 1.0, "tests": 9.0},
    )
    turns = tuple(
        each.model_copy(update={"counts": count})
        for each, count in zip((turn("a", 2, 0, 0), turn("b", 3, 1, 1)), counts, strict=True)
    )
    t = Trajectory(task=task, agent="x", turns=turns, stop=StopReason.TURN_LIMIT, score=1, max_score=2)
    (row,) = t.rows()
    assert extract.first_call(t, row) == 4 and extract.tool_calls(t, row) == 2
    assert extract.first_call(t.model_copy(update={"turns": turns[:1]}), row) == -1
    by_token = extract.verified(t, row)
    assert [by_token[i] for i, at in enumerate(row.turn) if at == 0] == [[0, 1]] * 2
    assert [by_token[i] for i, at in enumerate(row.turn) if at == 1] == [[1, 1]] * 3
    assert {tuple(by_token[i]) for i, at in enumerate(row.turn) if at < 0} == {(0, 0)}
    assert extract.extract(["tests"], [t], [(0, row)])["tests"].tolist() == [by_token]
    more = t.model_copy(
        update={"turns": tuple(u.model_copy(update={"counts": {**u.counts, "test_02": 1.0}}) for u in turns)}
    )
    mixed = extract.extract(["tests"], [t, more], [(0, row), (1, row)])["tests"]
    assert mixed[0, :, :2].tolist() == by_token and (mixed[0, :, 2] == -1).all()  # its task has two tests
    assert mixed[1].tolist() == [[*x, float(at >= 0)] for x, at in zip(by_token, row.turn, strict=True)]


def test_costs_work_in_a_run(tmp_path: Path) -> None:
    small = {
        "rl.steps": 2, "sft.demos": 64, "sft.epochs": 4, "rl.tasks_per_step": 4, "rl.samples_per_task": 4,
        "env.train_tasks": 4, "env.eval_tasks": 4, "env.params.slack": 3, "engine.threads": 1, "checkpoint_every": 1,
        "slots.transforms": ["mash", "pav"], "slots.modulators": ["aspo"], "slots.controllers": ["fewest_calls"],
        "algorithm": "gigpo", "params.beta": 0.0,
    }  # fmt: skip
    trainer.train(override(recipes.load("toy"), small), tmp_path / "run")
    run = Run.open(tmp_path / "run")
    state = json.loads((run.latest()[1] / "state.json").read_text())["controllers"]
    assert state["fewest_calls"], "somebody solved a task, and with how many calls is remembered"
    fewest = {
        task: float(count)
        for task, count in run.db.execute(
            "SELECT task, MIN(turns) FROM episodes WHERE phase = 'train' AND success GROUP BY task"
        )
    }
    assert state["fewest_calls"] == fewest
