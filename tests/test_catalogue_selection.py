"""Selection: the numbers of the papers, exhaustive search and loops as references, invariances."""

from __future__ import annotations

import itertools
import random
import statistics
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from turnwise.envs import RequestError
from turnwise.training import algorithms as table
from turnwise.training import objective
from turnwise.training.catalogue import selection
from turnwise.training.fixture import evaluate, read_batch

FEW = settings(max_examples=20, deadline=None, derandomize=True)
A = [1.5, -0.5, -0.5, -0.5, 0.866, 0.866, -0.866, -0.866, 0.0, 0.0, 0.0, 0.0]


def test_largest_variance_numbers() -> None:
    chosen = selection.spread_most(A, 4)
    assert chosen == [0, 5, 6, 7]  # 4 is as good as 5
    assert statistics.pvariance(A[i] for i in chosen) == pytest.approx(1.099845, abs=1e-6)
    assert selection.spread_most(A, 99) == list(range(12)) and selection.spread_most([2.0], 1) == [0]


def test_d3s_samples() -> None:
    """The same advantages as trajectories: 4 of 12 learn, the others weigh nothing and are in no denominator."""
    adv_BT = torch.tensor(A, dtype=torch.float64)[:, None]
    batch = read_batch({"rewards": A, "entropy": [[1.0]] * 12})[0]
    got = selection.down_sampled(adv_BT, batch, d3s_samples_first=1 / 3, d3s_tokens_first=1.0)
    assert got.flatten().nonzero().flatten().tolist() == [0, 5, 6, 7]


def test_d3s_tokens() -> None:
    # |A| H = .1, 1.2, .5, .05, 1, .15: the top 2 of 6 are 1 and 4
    size, entropy = [[1.0, 1, 1], [1, 0.5, 0.5]], [[0.1, 1.2, 0.5], [0.05, 2, 0.3]]
    score = torch.tensor(size) * torch.tensor(entropy)
    kept = selection.top_tokens(score, torch.ones(2, 3, dtype=torch.bool), 1 / 3)
    assert kept.flatten().nonzero().flatten().tolist() == [1, 4]
    # through the row: two of one group, A = +-.7071; of 6 tokens with H as below the top third are the second and fifth
    fixture: dict[str, Any] = {
        "rewards": [1, 0], "entropy": [[0.1, 1.2, 0.5], [0.05, 2, 0.3]],
        "params": {"d3s_samples_first": 1.0, "d3s_tokens_first": 1 / 3},
    }  # fmt: skip
    assert evaluate("d3s", fixture)["mask"] == [[0, 1, 0], [0, 1, 0]]


def test_d3s_schedule() -> None:
    assert selection.schedule(0.25, 4, 16) == 7 and selection.schedule(0.25, 0.2, 1) == pytest.approx(0.4)
    assert selection.schedule(2.0, 4, 16) == 16
    # 12 trajectories of one token, from 4 to all over 8 steps; at step 2: p = .25, 6 of 12; it counts its steps
    fixture: dict[str, Any] = {
        "group": [0] * 6 + [1] * 6, "rewards": [1, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0], "entropy": [[1.0]] * 12,
        "params": {"d3s_samples_first": 1 / 3, "d3s_tokens_first": 1.0, "d3s_steps": 8}, "state": {"step": 2},
    }  # fmt: skip
    got = evaluate("d3s", fixture)
    assert sum(row[0] for row in got["mask"]) == 6 and got["state"]["step"] == 3
    assert sum(row[0] for row in evaluate("d3s", fixture | {"state": {"step": 8}})["mask"]) == 12


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=8), st.integers(1, 8))
@FEW
def test_no_other_subset_has_more_variance(values: list[int], size: int) -> None:
    size = min(size, len(values))
    best = max(statistics.pvariance(subset) for subset in itertools.combinations(values, size))
    chosen = selection.spread_most([float(v) for v in values], size)
    assert len(chosen) == size and statistics.pvariance([values[i] for i in chosen]) == pytest.approx(best)


def test_pf_ppo_numbers() -> None:
    assert selection.filter_weights(5, "bon") == [1, 0, 0, 0, 0]
    assert selection.filter_weights(5, "br") == [0.5, 0.125, 0.125, 0.125, 0.125]
    assert selection.filter_weights(5, "bw") == [0.5, 0, 0, 0, 0.5]
    assert selection.r_squared([0.9, 0.4, 0.1], [1, 0.5, 0], [1, 1, 1]) == pytest.approx(0.979592, abs=1e-6)
    got = evaluate("pf_ppo_choice", {"inputs": {"rewards": [[0.9, 0.4, 0.1]], "scores": [[1, 0.5, 0]]}})["output"]
    assert got["r_squared"]["all"] == pytest.approx(0.979592, abs=1e-6)
    assert got["r_squared"]["bw"] == 1 and got["best"] == "bw"  # two points are always on a line
    with pytest.raises(RequestError, match="groups of the same sizes"):
        selection.choose_filter([[1.0]], [[1.0, 0.0]])


@pytest.mark.parametrize(("name", "weights"), [
    ("bon", [0, 0, 1, 0, 0]), ("br", [0.125, 0.125, 0.5, 0.125, 0.125]), ("bw", [0, 0, 0.5, 0.5, 0]),
])  # fmt: skip
def test_pf_ppo_takes_the_expectation_of_sampling(name: str, weights: list[float]) -> None:
    """sum_i w_i A_i over the group is what the mean over kept trajectories comes to, whatever their number."""
    fixture = {"rewards": [3, 2, 5, 1, 4], "params": {"pf_filter": name, "aggregator": "seq_mean_token_mean"}}
    got = evaluate("pf_ppo", fixture)
    assert [row[0] > 0 for row in got["mask"]] == [w > 0 for w in weights]
    plain = [row[0] for row in evaluate("grpo", {"rewards": [3, 2, 5, 1, 4]})["advantage"]]
    expected = sum(w * a for w, a in zip(weights, plain, strict=True))
    assert got["terms"]["policy"] == pytest.approx(-expected, abs=1e-9)


def test_equal_rewards_share_their_places() -> None:
    batch = read_batch({"group": [0, 0, 0, 1, 1], "rewards": [1, 1, 0, 2, 2]})[0]
    adv_BT = torch.zeros(5, 1, dtype=torch.float64)
    # bon: the two best of group 0 have half a chance each, kept 2; group 1: half each
    assert selection.policy_filter(adv_BT, batch, pf_filter="bon").flatten().tolist() == [1, 1, 0, 1, 1]
    # bw: best two share .5 (.25 each), the worst .5; all 3 kept
    got = selection.policy_filter(adv_BT, batch, pf_filter="bw").flatten().tolist()
    assert got == pytest.approx([0.75, 0.75, 1.5, 1, 1])


@given(st.integers(0, 10**6))
@FEW
def test_selection_does_not_mind_the_order_of_rows(seed: int) -> None:
    rng = random.Random(seed)
    B = rng.randint(3, 8)
    fixture = {
        "group": [b % 2 for b in range(B)], "rewards": [rng.choice([0.0, 0.5, 1.0]) for _ in range(B)],
        "entropy": [[rng.uniform(0, 2) for _ in range(3)] for _ in range(B)], "mask": [[0, 1, 1]] * B,
    }  # fmt: skip
    batch = read_batch(fixture)[0]
    order = torch.randperm(B, generator=torch.Generator().manual_seed(seed))
    for name, slots in (("d3s", {}), ("grpo", {"selectors": ["pf_ppo"]})):
        algorithm, params = table.resolve(name, slots=slots)
        plain = objective.advantages(algorithm, params, batch)
        mixed = objective.advantages(algorithm, params, batch.rows(order))
        assert torch.allclose(mixed.weight_BT, plain.weight_BT[order])
        assert (plain.weight_BT[:, 0] == 0).all() and (plain.weight_BT > 0).any()
