"""Slots: parts put into a row do what their slot promises, and nothing else."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from turnwise.envs import RequestError, UnknownName
from turnwise.training import algorithms as table
from turnwise.training import objective
from turnwise.training.batch import EXTRAS
from turnwise.training.coefficients import Factor
from turnwise.training.fixture import evaluate, read_batch
from turnwise.training.slots import Part

FIXTURE: dict[str, Any] = {
    "group": [0, 0, 0], "rewards": [1.0, 0.0, 0.5], "mask": [[1, 1], [1, 0], [1, 1]],
    "logp": [[-1.0, -2.0], [-0.5, 0.0], [-1.5, -0.1]], "params": {"normalize": False, "aggregator": "token_mean"},
}  # fmt: skip


@pytest.fixture(autouse=True)
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "PARTS", dict(table.PARTS))
    monkeypatch.setitem(EXTRAS, "marked", "[B] 1 for rows that a test marked")


def put(slot: str, function: Any, **kwargs: Any) -> dict[str, Any]:
    table.register_part(Part("mine", slot, function, "A test", **kwargs))
    return evaluate("mine", FIXTURE | {"extras": {"provenance": [0, 1, 0], "marked": [0, 0, 1]}})


def test_a_transform_changes_the_rewards() -> None:
    got = put("transforms", lambda rewards, batch: rewards._replace(trajectory_M=rewards.trajectory_M * 2))
    assert got["advantage"] == [[1.0, 1.0], [-1.0, 0.0], [0.0, 0.0]]  # twice (.5, -.5, 0)


def test_a_selector_drops_and_doubles_tokens_and_denominators_follow() -> None:
    # row 0 counts twice, row 1 goes: 4 of 5 tokens remain in the mean
    def twice(adv_BT: torch.Tensor, batch: Any) -> torch.Tensor:
        return torch.tensor([2.0, 0.0, 1.0], dtype=adv_BT.dtype)[:, None].expand_as(adv_BT)

    got = put("selectors", twice)
    assert got["mask"] == [[1, 1], [0, 0], [1, 1]] and got["coef"] == [[0.5, 0.5], [0.0, 0.0], [0.0, 0.0]]
    assert got["loss"] == pytest.approx(-(2 * 0.5 + 2 * 0.5) / 4)


def test_a_guard_takes_the_gradient_away() -> None:
    got = put("guards", lambda ratio_BT, adv_BT, logp_BT, batch: (logp_BT > -1.5).to(ratio_BT.dtype))
    assert got["coef"] == [[0.5, 0.0], [-0.5, 0.0], [0.0, 0.0]] and got["mask"] == [[1, 0], [1, 0], [0, 1]]
    assert got["loss"] == pytest.approx(-(0.5 - 0.5) / 5)


def test_a_coef_is_the_whole_coefficient() -> None:
    def constant(logp_BT: torch.Tensor, adv_BT: torch.Tensor, batch: Any, *, height: float = 3.0) -> Factor:
        return Factor(torch.full_like(logp_BT, height), torch.ones_like(batch.mask), -height * logp_BT)

    got = put("coef", constant)
    assert got["coef"] == [[3.0, 3.0], [3.0, 0.0], [3.0, 3.0]]
    assert got["loss"] == pytest.approx(3 * (1 + 2 + 0.5 + 1.5 + 0.1) / 5)


def test_an_expert_coefficient_holds_for_expert_rows_only() -> None:
    def imitate(logp_BT: torch.Tensor, adv_BT: torch.Tensor, batch: Any) -> Factor:
        return Factor(torch.ones_like(logp_BT), torch.ones_like(batch.mask), -logp_BT)

    assert put("expert", imitate)["coef"] == [[0.5, 0.5], [1.0, 0.0], [0.0, 0.0]]
    for provenance, own in ((2, True), (4, True), (1, False), (3, False), (5, False)):  # 2, 4: the policy's, if old
        got = evaluate("mine", FIXTURE | {"extras": {"provenance": [0, provenance, 0]}})
        assert got["coef"][1] == ([-0.5, 0.0] if own else [1.0, 0.0]), provenance


def test_a_mixer_averages_each_source_over_itself() -> None:
    table.register_part(Part("mine", "mixer", lambda batch: 1.0 - 0.75 * batch.extra("provenance"), "A test"))
    batch, _, _ = read_batch(FIXTURE | {"extras": {"provenance": [0, 1, 0]}})
    row, params = table.resolve("grpo", FIXTURE["params"], {"mixer": "mine"})
    weights = objective.loss_weights(row, params, batch).policy_BT
    assert weights.tolist() == [[0.25, 0.25], [0.25, 0.0], [0.25, 0.25]]  # 1/4 of 4 tokens; 0.25 * 1/1


def test_a_controller_writes_the_next_state() -> None:
    def tracker(state: dict[str, Any], batch: Any, rewards: Any, *, rate: float = 0.5) -> dict[str, Any]:
        return {"level": state.get("level", 0.0) + rate * float(rewards.trajectory_M.mean())}

    assert put("controllers", tracker)["state"] == {"history": [], "step": 1, "level": 0.25}


def test_collect_side_parts_answer_to_inputs() -> None:
    def shared_out(share: list[float], total: int, *, least: int = 1) -> list[int]:
        return [max(least, int(s * total)) for s in share]

    table.register_part(Part("mine", "budget", shared_out, "A test"))
    inputs = {"share": [0.5, 0.0], "total": 8}
    assert evaluate("mine", {"inputs": inputs, "params": {"least": 2}}) == {"output": [4, 2]}
    with pytest.raises(RequestError, match="Expected inputs share, total for mine, got share"):
        evaluate("mine", {"inputs": {"share": [1.0]}})
    with pytest.raises(UnknownName, match="Did you mean 'least'"):
        evaluate("mine", {"inputs": inputs, "params": {"leest": 2}})
    with pytest.raises(RequestError, match=r"set rl.budget"):
        table.resolve("grpo", {}, {"budget": "mine"})


def test_what_cannot_be_composed_is_refused() -> None:
    for slots, error, message in (
        ({"ratios": "token_ratio"}, UnknownName, "Did you mean 'ratio'"),
        ({"ratio": "sequence"}, UnknownName, "sequence_ratio"),
        ({"ratio": ["token_ratio", "no_ratio"]}, RequestError, "one part for slot ratio, got 2"),
    ):
        with pytest.raises(error, match=message):
            table.resolve("grpo", {}, slots)
    with pytest.raises(UnknownName, match="slot"):
        table.register_part(Part("x", "stabilty", lambda: None))
    with pytest.raises(RequestError, match="which exists"):
        table.register_part(dataclasses.replace(table.PARTS["ratio", "token_ratio"]))
    with pytest.raises(UnknownName, match="Did you mean 'marked'"):
        read_batch(FIXTURE | {"extras": {"market": [0, 0, 0]}})


def test_a_composition_needs_what_its_parts_need() -> None:
    settings = {"epo_lambda": 0.01, "behaviour": "tis", "beta": 0.0, "aggregator": "seq_mean_token_mean"}
    row, params = table.resolve("gigpo", settings, {"ratio": "sequence_ratio"})
    assert table.needs(row, params) == {"group_complete", "anchors", "unit_complete", "entropy", "rollout_logp"}
