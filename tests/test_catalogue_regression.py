"""Regression losses: the numbers of the papers, gradients against finite differences, reference implementations."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import pytest
import torch
from turnwise.training import algorithms as table
from turnwise.training import objective
from turnwise.training.catalogue import regression
from turnwise.training.fixture import evaluate, read_batch
from turnwise.training.regularizers import Update

NEW = [[0.55, 0.3, 0.3], [0.2, 0.9, 0.5]]
OLD = [[0.5, 0.4, 0.2], [0.3, 0.6, 0.5]]
MASK = [[1, 1, 1], [1, 1, 0]]


def logs(x: list[list[float]]) -> list[list[float]]:
    return [[math.log(value) for value in row] for row in x]


# ---------------------------------------------------------------- numbers


def test_rover_numbers() -> None:
    # q = new - old = [.1, -.1]; means move by [.2, -.1], so the target is 1 + (-.1) at the first token, 1 at the last
    fixture = {
        "rewards": [1.0], "logp": [[-0.6, -1.0]], "logp_old": [[-0.7, -0.9]],
        "extras": {"mean_logp": [[-3.0, -2.5]], "mean_logp_old": [[-3.2, -2.4]]},
    }  # fmt: skip
    got = evaluate("rover", fixture)  # a group of one has A = R = 1
    assert got["advantage"] == [[pytest.approx(1.0, abs=1e-5)] * 2]
    assert got["coef"] == [pytest.approx([1.6, 2.2], abs=1e-5)]
    assert got["loss"] == pytest.approx(0.925, abs=1e-5)  # (.8^2 + 1.1^2) / 2
    mean = float(torch.log_softmax(torch.tensor([2.0, 0.0, 1.0]), -1).mean())
    assert mean == pytest.approx(-1.407606, abs=1e-6)


def test_rover_looks_one_action_token_ahead() -> None:
    # A = 0 (equal rewards), ratios 1: the target is the move of the next action token of the same trajectory, else 0
    fixture = {
        "rewards": [1.0, 1.0], "turn": [[0, -1, 1, 1], [0, 1, -1, -1]], "logp": [[-1.0] * 4] * 2,
        "extras": {"mean_logp": [[0.1, 9.0, 0.2, 0.4], [0.8, 1.6, 9.0, 9.0]], "mean_logp_old": [[0.0] * 4] * 2},
    }  # fmt: skip
    got = evaluate("rover", fixture)["coef"]
    assert got[0] == pytest.approx([0.4, 0.0, 0.8, 0.0], abs=1e-9)  # 2 rho (.2), 2 rho (.4), the last has none
    assert got[1] == pytest.approx([3.2, 0.0, 0.0, 0.0], abs=1e-9)


@pytest.mark.parametrize(
    ("params", "coef", "loss"),
    # s = [-4, -4, -2.5], mean -3.5: c = -2 (s - mean) = [1, 1, -2], loss mean(.25, .25, 1); TB at log Z 5: s + 5
    [({}, [1.0, 1.0, -2.0], 0.5), ({"log_z": 5.0}, [-2.0, -2.0, -5.0], 2.75)],
)
def test_flow_numbers(params: dict[str, Any], coef: list[float], loss: float) -> None:
    fixture = {
        "group": [0, 0, 0], "rewards": [math.exp(1.0), 1.0, math.exp(0.5)],
        "logp": [[-1.0, -2.0], [-4.0, 0.0], [-0.5, -1.5]],
        "params": params,
    }  # fmt: skip
    got = evaluate("flow_of_reasoning", fixture)
    assert [row[0] for row in got["coef"]] == pytest.approx(coef, abs=1e-5)
    assert [row[1] for row in got["coef"]] == pytest.approx(coef, abs=1e-5)
    assert got["loss"] == pytest.approx(loss, abs=1e-5)


def test_copg_numbers() -> None:
    pair = {"rewards": [1.0, 0.2], "logp": [[0.3], [-0.1]], "logp_ref": [[0.0], [0.0]], "params": {"copg_beta": 0.5}}
    got = evaluate("copg", pair)  # R_b = [.85, .25]: c = +-.6; l = (.925 - .225) .4 = .28, the loss is -l / 2
    assert [row[0] for row in got["coef"]] == pytest.approx([0.6, -0.6], abs=1e-5)
    assert got["loss"] == pytest.approx(-0.14, abs=1e-5)
    three = pair | {"rewards": [1.0, 0.2, 0.5], "logp": [[0.3], [-0.1], [0.0]], "logp_ref": [[0.0]] * 3}
    got = evaluate("copg", three)
    assert [row[0] for row in got["coef"]] == pytest.approx([0.475, -0.425, -0.05], abs=1e-5)


def test_direct_advantage_numbers() -> None:
    fixture = {
        "rewards": [0.8, 0.5, 0.2], "logp": [[2.0, 3.0], [0.0, 0.0], [-4.0, -6.0]], "logp_ref": [[0.0, 0.0]] * 3,
        "turn": [[0, 0]] * 3, "anchors": ["s", "s", "s"],
    }  # fmt: skip
    got = evaluate("direct_advantage", fixture)  # targets [15, 0, -15] against u = [5, 0, -10]
    assert [row[0] for row in got["advantage"]] == pytest.approx([0.3, 0.0, -0.3], abs=1e-5)
    assert [row[0] for row in got["coef"]] == pytest.approx([10.0, 0.0, -5.0], abs=1e-4)
    assert got["loss"] == pytest.approx(20.833333, abs=1e-5)


def test_trpa_numbers() -> None:
    fixture = {
        "rewards": [1.0, 0.0, 0.0], "logp": [[0.2, 0.2], [-0.1, -0.1], [0.05, 0.05]], "logp_ref": [[0.0, 0.0]] * 3,
        "extras": {"level": [1, 2, 4]},
    }  # fmt: skip
    got = evaluate("trpa", fixture)  # h = [.075, .0375, -.015]; c / 3 trajectories is the gradient per mean log-ratio
    assert [row[0] / 3 for row in got["coef"]] == pytest.approx([0.08099, -0.023313, -0.057677], abs=1e-5)
    assert got["terms"]["policy"] == pytest.approx(0.677199, abs=1e-5)
    batch, logp, _ = read_batch({"rewards": [0.0, 0.0], "mask": MASK, "logp": logs(NEW), "logp_old": logs(OLD)})
    weights = objective.loss_weights(*table.resolve("grpo"), batch)
    kl = regression.kl_to_old(Update(batch, weights, logp))
    assert kl is not None and float(kl) == pytest.approx(0.001 * 0.05777, abs=1e-8)


def test_trpa_without_pairs() -> None:
    # both of level 1, l = [.5, -.5], beta .1: -log sigmoid(+-.05) -> mean; c = 2 * .1 sigmoid(-+.05) / 2
    fixture = {
        "rewards": [1.0, 1.0], "logp": [[0.5], [-0.5]], "logp_ref": [[0.0], [0.0]], "extras": {"level": [1, 1]},
    }  # fmt: skip
    got = evaluate("trpa", fixture)
    sigmoid = [1 / (1 + math.exp(0.05)), 1 / (1 + math.exp(-0.05))]
    assert [row[0] for row in got["coef"]] == pytest.approx([0.1 * s for s in sigmoid], abs=1e-6)
    assert got["terms"]["policy"] == pytest.approx((math.log1p(math.exp(-0.05)) + math.log1p(math.exp(0.05))) / 2)
    worse = evaluate("trpa", fixture | {"extras": {"level": [2, 2]}})
    assert all(row[0] < 0 for row in worse["coef"])


@pytest.mark.parametrize(
    ("divergence", "value", "coef"),
    [
        ("forward", [0.072132, 0.306853], [0.333333, -1.0]),
        ("js", [0.033559, 0.169899], [0.148762, -0.575364]),
        ("alpha", [0.064701, 0.368118], None),
    ],
)
def test_dph_numbers(divergence: str, value: list[float], coef: list[float] | None) -> None:
    fixture = {
        "rewards": [0.0, 0.0], "logp": [[math.log(2 / 3)], [math.log(2)]],
        "extras": {"provenance": [1, 1], "logp_pi0": [[0.0], [0.0]]},
        "params": {"divergence": divergence, "dph_eta": 1.0},
    }  # fmt: skip
    got = evaluate("dph_rl", fixture)
    assert got["loss"] == pytest.approx(sum(value) / 2, abs=1e-5)
    if coef is not None:
        assert [row[0] for row in got["coef"]] == pytest.approx(coef, abs=1e-5)
    fixture = {
        "rewards": [0.0, 0.0], "mask": MASK, "logp": logs(NEW),
        "extras": {"provenance": [1, 0], "logp_pi0": logs(OLD)}, "params": {"divergence": "alpha", "dph_eta": 1.0},
    }  # fmt: skip
    got = evaluate("dph_rl", fixture)  # row 1 is the policy's own: all-equal rewards give it 0
    assert got["coef"][0] == pytest.approx([-0.103848, 0.222089, -0.584191], abs=1e-5)
    assert got["coef"][1] == [0.0, 0.0, 0.0]


# ---------------------------------------------------------------- random batches


def random_fixture(seed: int) -> dict[str, Any]:
    """Four trajectories in two groups, two of them in two rows, gaps in the mask."""
    rng = random.Random(seed)
    B, T = 6, 5
    turn = [
        [0, 0, -1, 1, 1],
        [0, -1, 1, 1, 1],
        [0, 0, 0, -1, -1],
        [1, 1, -1, -1, -1],
        [0, -1, 0, 0, -1],
        [1, 1, 1, -1, -1],
    ]
    made = [[[rng.uniform(-2, 0) for _ in range(T)] for _ in range(B)] for _ in range(6)]
    logp, ref, pi0, mean, mean_old, old = made
    score = {t: rng.uniform(0.1, 1.0) for t in range(4)}
    trajectory = [0, 1, 2, 2, 3, 3]
    return {
        "group": [0, 0, 1, 1, 1, 1], "trajectory": trajectory, "turn": turn, "rewards": [score[t] for t in trajectory],
        "logp": logp, "logp_ref": ref, "logp_old": old,
        "anchors": ["a", "b", "a", "c", "a", "b", "a", "b"],
        "extras": {"provenance": [1] * B, "logp_pi0": pi0, "mean_logp": mean, "mean_logp_old": mean_old,
                   "level": [{0: 1, 1: 3, 2: 2, 3: 4}[t] for t in trajectory]},
    }  # fmt: skip


NAMES = ("rover", "flow_of_reasoning", "copg", "direct_advantage", "trpa", "dph_rl")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(3))
def test_the_coefficient_is_the_gradient_of_the_loss(name: str, seed: int) -> None:
    fixture, step = random_fixture(seed), 1e-6
    base = evaluate(name, fixture)

    def loss(b: int, t: int, by: float) -> float:
        moved = [list(row) for row in fixture["logp"]]
        moved[b][t] += by
        return evaluate(name, fixture | {"logp": moved})["terms"]["policy"]

    part = table.part_of(name)
    row, params = table.resolve("grpo" if part else name, None, {part.slot: name} if part else None)
    batch, _, _ = read_batch(fixture)
    weights = objective.loss_weights(row, params, batch).policy_BT
    for b, t in itertools.product(range(6), range(5)):
        slope = (loss(b, t, step) - loss(b, t, -step)) / (2 * step)
        assert -float(weights[b, t]) * base["coef"][b][t] == pytest.approx(slope, abs=1e-5), (b, t)


@pytest.mark.parametrize("name", NAMES)
def test_rows_in_another_order_get_the_same_coefficients(name: str) -> None:
    fixture, order = random_fixture(7), [3, 0, 5, 2, 1, 4]
    one = evaluate(name, fixture)["coef"]
    anchors, turns = iter(fixture["anchors"]), [len(set(row) - {-1}) for row in fixture["turn"]]
    by_row = [[next(anchors) for _ in range(count)] for count in turns]
    shuffled = {key: [value[i] for i in order] for key, value in fixture.items() if key not in ("extras", "anchors")}
    shuffled["extras"] = {key: [value[i] for i in order] for key, value in fixture["extras"].items()}
    shuffled["anchors"] = [by_row[i] for i in order]
    other = evaluate(name, shuffled)["coef"]
    for place, row in enumerate(order):
        assert other[place] == pytest.approx(one[row], abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_trpa_against_a_loop_over_pairs(seed: int) -> None:
    fixture = random_fixture(seed)
    mean: dict[int, list[float]] = {}
    for b, t in itertools.product(range(6), range(5)):
        if fixture["turn"][b][t] >= 0:
            mean.setdefault(fixture["trajectory"][b], []).append(fixture["logp"][b][t] - fixture["logp_ref"][b][t])
    length = {k: sum(v) / len(v) for k, v in mean.items()}
    group, level = {0: 0, 1: 0, 2: 1, 3: 1}, {0: 1, 1: 3, 2: 2, 3: 4}
    pairs = [(w, v) for w in range(4) for v in range(4) if group[w] == group[v] and level[w] < level[v]]
    push = dict.fromkeys(range(4), 0.0)
    for w, v in pairs:
        a = 2.5 if level[w] == 1 else 1.0
        g = a * 0.1 / (1 + math.exp(a * 0.1 * (length[w] - length[v]))) / len(pairs)
        push[w] += g
        push[v] -= g
    coef = evaluate("trpa", fixture)["coef"]
    for b, owner in enumerate(fixture["trajectory"]):
        first = next(t for t in range(5) if fixture["turn"][b][t] >= 0)
        assert coef[b][first] == pytest.approx(4 * push[owner], abs=1e-9)


def test_flow_ignores_a_shift_of_the_log_rewards_of_a_group() -> None:
    # VarGrad needs no log Z: multiplying every reward of a group by a constant changes nothing
    fixture = random_fixture(11)
    other = fixture | {
        "rewards": [r * (3.0 if g == 0 else 1.0) for r, g in zip(fixture["rewards"], fixture["group"], strict=True)]
    }
    for a, b in zip(
        evaluate("flow_of_reasoning", fixture)["coef"], evaluate("flow_of_reasoning", other)["coef"], strict=True
    ):
        assert a == pytest.approx(b, abs=1e-9)


def test_flow_samples_in_proportion_to_reward() -> None:
    """Its own purpose: a softmax policy over four answers ends at p = R / sum R, where a maximiser would pick one."""
    algorithm, params = table.resolve("flow_of_reasoning")
    reward, z = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        logp = torch.log_softmax(z, -1)
        drawn = torch.multinomial(logp.exp(), 16, replacement=True, generator=generator)
        batch, now, _ = read_batch({"rewards": reward[drawn].tolist(), "logp": logp[drawn][:, None].tolist()})
        adv = objective.advantages(algorithm, params, batch).adv_BT
        coef = objective.coefficient(algorithm, params, batch, adv, now).coef_BT[:, 0]
        onehot = torch.nn.functional.one_hot(drawn, 4).to(z.dtype)
        z = z + 0.1 * (coef[:, None] * (onehot - logp.exp())).mean(0)  # ascent along c grad log p
    assert torch.softmax(z, -1).tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4], abs=0.02)
