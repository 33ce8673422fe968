"""Expert rows beside the policy's own: coefficients and mixers; runs with them are in test_catalogue_experts.py."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from turnwise.envs.errors import RequestError
from turnwise.training import algorithms as table
from turnwise.training import objective
from turnwise.training.catalogue import mixing
from turnwise.training.fixture import evaluate, read_batch
from turnwise.training.regularizers import Update

NEW = [[0.55, 0.3, 0.3], [0.2, 0.9, 0.5]]
OLD = [[0.5, 0.4, 0.2], [0.3, 0.6, 0.5]]
EXPERT = [0.9, 0.5, 0.05]
SFT = 1.264747  # -(ln .9 + ln .5 + ln .05) / 3
SEEDS = st.integers(0, 10**6)
FEW = settings(max_examples=20, deadline=None, derandomize=True)


def logs(x: list[list[float]]) -> list[list[float]]:
    return [[math.log(value) for value in row] for row in x]


MIXED: dict[str, Any] = {
    "group": [0, 1, 2], "rewards": [1, -1, 1], "mask": [[1, 1, 1], [1, 1, 0], [1, 1, 1]],
    "logp": logs([*NEW, EXPERT]), "logp_old": logs([*OLD, EXPERT]), "extras": {"provenance": [0, 0, 1]},
}  # fmt: skip
"""Own rows with A = +-1 and a PPO loss of -.15, and an expert's row."""


def run(name: str, solved: int | None = None, **params: Any) -> dict[str, Any]:
    extras = MIXED["extras"] | ({} if solved is None else {"solved": [solved] * 3})
    return evaluate(name, MIXED | {"extras": extras, "params": params})


def one(name: str, p: list[float], reward: float = 1.0, **more: Any) -> dict[str, Any]:
    """An expert's row alone: its group has mean 0, so A = R."""
    return evaluate(name, {"rewards": [reward], "logp": logs([p]), "extras": {"provenance": [1]}, **more})


# ---------------------------------------------------------------- numbers


def test_chord_numbers() -> None:
    # phi = p (1 - p); its loss is -(.09 ln .9 + .25 ln .5 + .0475 ln .05) / 3 = .108356
    got = run("chord")
    assert got["coef"][2] == pytest.approx([0.09, 0.25, 0.0475], abs=1e-5)
    assert got["loss"] == pytest.approx(0.9 * -0.15 + 0.1 * 0.108356, abs=1e-5)
    assert got["loss"] == pytest.approx(-0.124164, abs=1e-5)
    assert run("chord", mu_peak=1.0, mu_valley=1.0)["loss"] == pytest.approx(0.108356, abs=1e-5)
    assert run("chord", mu_peak=1.0, mu_valley=1.0, phi="one")["loss"] == pytest.approx(SFT, abs=1e-5)


def test_chord_schedule() -> None:
    want = {0: 0.0, 100: 0.25, 200: 0.5, 400: 0.26, 600: 0.02, 9999: 0.02}
    for step, mu in want.items():
        assert mixing.chord_mu(step, 0.5, 0.02, 200, 400) == pytest.approx(mu)
        params = {"mu_peak": 0.5, "mu_valley": 0.02, "mu_warmup": 200, "mu_decay": 400}
        got = evaluate("chord", MIXED | {"state": {"step": step}, "params": params})
        assert got["loss"] == pytest.approx((1 - mu) * -0.15 + mu * 0.108356, abs=1e-5)
        assert got["state"]["step"] == step + 1
    assert mixing.chord_mu(0, 0.9, 0.05, 0, 200) == 0.9


@pytest.mark.parametrize(("won", "alpha", "beta"), [(0, 0, 1), (1, 1, 0)])
def test_hpt_gate(won: int, alpha: int, beta: int) -> None:
    # eight own episodes, `won` of them successful; the ninth is the expert's
    fixture = {
        "rewards": [1.0] * won + [0.0] * (8 - won) + [1.0], "logp": [*[[-0.5] * 3] * 8, *logs([EXPERT])],
        "logp_old": [*[[-0.6] * 3] * 8, *logs([EXPERT])], "extras": {"provenance": [0] * 8 + [1]},
    }  # fmt: skip
    got = evaluate("hpt", fixture)
    assert got["coef"][8] == [1.0] * 3
    assert got["loss"] == pytest.approx(beta * SFT, abs=1e-5)  # the own advantages sum to 0 at equal ratios
    batch = read_batch(fixture)[0]
    weights = objective.loss_weights(*table.resolve("hpt"), batch).policy_BT
    assert weights[:8].sum() == pytest.approx(alpha) and weights[8].sum() == pytest.approx(beta)
    gate = objective.loss_weights(*table.resolve("hpt", {"hpt_gate": 2, "sft_weight": 0.3}), batch).policy_BT
    assert float(gate[:8].sum()) == 0.0 and gate[8].sum() == pytest.approx(0.3)


def test_luffy_numbers() -> None:
    got = one("luffy", EXPERT)
    assert got["coef"] == [pytest.approx([0.09, 0.138889, 0.222222], abs=1e-5)]
    assert got["loss"] == pytest.approx(-(0.9 + 0.833333 + 0.333333) / 3, abs=1e-5)
    assert one("luffy", EXPERT, reward=-2.0)["coef"] == [pytest.approx([-0.18, -0.277778, -0.444444], abs=1e-5)]
    both = run("luffy", normalize=False)  # own rows keep PPO's coefficients
    assert both["coef"][:2] == [pytest.approx([1.1, 0.75, 0.0]), pytest.approx([0.0, -1.5, 0.0])]


def test_srft_numbers() -> None:
    # .5 e^-.7 = .248293 beside A p; .1 e^.7 = .201375 on own wins, losses stay -1
    entropy = [[0.7] * 3] * 3
    got = one("srft", EXPERT, reward=0.0, entropy=entropy[:1])
    assert got["coef"] == [pytest.approx([0.248293] * 3, abs=1e-5)]
    got = one("srft", EXPERT, entropy=entropy[:1])
    assert got["coef"] == [pytest.approx([0.248293 + p for p in EXPERT], abs=1e-5)]
    assert got["loss"] == pytest.approx(0.248293 * SFT - sum(EXPERT) / 3, abs=1e-5)
    own = evaluate("srft_own", MIXED | {"entropy": entropy, "params": {"normalize": False}})["advantage"]
    assert own == [pytest.approx([0.201375] * 3, abs=1e-5), [-1.0, -1.0, 0.0], [1.0] * 3]
    # H is the mean over the trajectory's action tokens: (.2 + 1.2) / 2
    masked = {"mask": [[1, 1, 0]], "entropy": [[0.2, 1.2, 99.0]]}
    assert one("srft", EXPERT, reward=0.0, **masked)["coef"] == [pytest.approx([0.248293, 0.248293, 0], abs=1e-5)]


def test_ampo_numbers() -> None:
    assert one("ampo", [0.3])["coef"] == [[pytest.approx(0.1875, abs=1e-5)]]  # .1 * .3 / .16; f = .75
    assert one("ampo", [0.3])["loss"] == pytest.approx(-0.75, abs=1e-5)
    group = {"rewards": [0.0] * 6 + [0.9, 0.8], "extras": {"provenance": [0] * 6 + [1, 1]}}
    got = evaluate("ampo", group)["advantage"]  # mean 1.7 / 8
    assert [row[0] for row in got] == pytest.approx([-0.2125] * 6 + [0.6875, 0.5875], abs=1e-5)
    ranked = evaluate("rank_teachers", {"inputs": {"answer_probs": [[0.9, 0.8, 0.7], [0.5, 0.2, 0.4]]}})["output"]
    assert ranked["comprehension"] == pytest.approx([0.8, 0.366667], abs=1e-5) and ranked["chosen"] == [0, 1]
    four = {"answer_probs": [[0.1], [0.6], [0.9], [0.6]]}
    assert evaluate("rank_teachers", {"inputs": four})["output"]["chosen"] == [2, 1]
    assert evaluate("rank_teachers", {"inputs": four, "params": {"teachers": 3}})["output"]["chosen"] == [2, 1, 3]


def test_critique_grpo_numbers() -> None:
    pair = {"rewards": [0, 1], "logp": logs([[1.0] * 3, EXPERT]), "extras": {"provenance": [0, 3]}}
    got = evaluate("critique_grpo", pair)  # A = +-.5
    assert got["coef"][1] == pytest.approx([0.045, 0.069444, 0.111111], abs=1e-5)
    rewards = [0, 0, 1, 0, 0, 0, 0, 1]
    got = evaluate("critique_grpo", {"rewards": rewards, "extras": {"provenance": [0] * 7 + [3]}})
    assert [row[0] for row in got["advantage"]] == pytest.approx([-0.25, -0.25, 0.75, *[-0.25] * 4, 0.75], abs=1e-5)
    far = {"rewards": [1, 0], "logp": [[math.log(3.0)], [0.0]], "logp_old": [[0.0], [0.0]]}
    assert evaluate("critique_grpo", far | {"extras": {"provenance": [0, 0]}})["coef"][0] == [pytest.approx(1.5)]


@pytest.mark.parametrize(("won", "loss"), [(0, 1.114747), (1, -0.15), (3, -0.15)])
def test_ahpo_numbers(won: int, loss: float) -> None:
    assert run("ahpo", solved=won)["loss"] == pytest.approx(loss, abs=1e-5)
    assert run("ahpo", solved=won, ahpo_least=4)["loss"] == pytest.approx(1.114747, abs=1e-5)


def test_expo_numbers() -> None:
    # -.15 + .1 * 1.264747; nothing where the group has a success; beta falls to 0 over expo_anneal steps
    assert run("expo")["loss"] == pytest.approx(-0.023525, abs=1e-5)
    assert run("expo", solved=1)["loss"] == pytest.approx(-0.15, abs=1e-5)
    for step, left in ((0, 1.0), (5, 0.5), (20, 0.0)):
        got = evaluate("expo", MIXED | {"state": {"step": step}, "params": {"expo_anneal": 10}})
        assert got["loss"] == pytest.approx(-0.15 + 0.1 * left * SFT, abs=1e-5)


def test_the_unified_table() -> None:
    # c = keep * pi / pi_ref * A, row by row of the table, at A = 1
    p, old, length = [0.55, 0.3, 0.3], [0.5, 0.4, 0.2], 3
    product = math.prod(o / n for o, n in zip(old, p, strict=True))
    fixture = {"rewards": [1.0], "logp": logs([p]), "logp_old": logs([old])}
    wide = {"normalize": False, "clip_low": 0.9, "clip_high": 9.0}
    for name, params, ref in (
        ("reinforce", {}, p),
        ("grpo", wide, old),
        ("gspo", wide, [x * product ** (1 / length) for x in p]),
        ("cispo", {"normalize": False, "clip_high": 0.2}, [max(o, n / 1.2) for o, n in zip(old, p, strict=True)]),
    ):
        want = [x / r for x, r in zip(p, ref, strict=True)]
        assert evaluate(name, fixture | {"params": params})["coef"] == [pytest.approx(want)], name
    assert one("hpt", p)["coef"] == [[1.0] * 3]  # SFT: pi_ref = pi
    slope = [0.1 / (x + 0.1) ** 2 for x in p]  # LUFFY: pi_ref = 1 and f'(pi)
    got = one("luffy", p, params={"normalize": False})["coef"]
    assert got == [pytest.approx([x * s for x, s in zip(p, slope, strict=True)])]


# ---------------------------------------------------------------- references, invariances, gradients


def mixed_batch(seed: int) -> dict[str, Any]:
    rng = random.Random(seed)
    groups = sorted(rng.choices(range(3), k=8))
    provenance = [int(rng.random() < 0.3) for _ in groups]
    lengths = [rng.randint(1, 3) for _ in groups]
    return {
        "group": groups, "rewards": [rng.choice([0.0, 1.0]) for _ in groups], "trajectory": list(range(8)),
        "mask": [[int(t < n) for t in range(3)] for n in lengths],
        "logp": [[-rng.random() - 0.05 for _ in range(3)] for _ in groups],
        "logp_old": [[-rng.random() - 0.05 for _ in range(3)] for _ in groups],
        "entropy": [[rng.random() for _ in range(3)] for _ in groups], "extras": {"provenance": provenance},
    }  # fmt: skip


@FEW
@given(seed=SEEDS)
def test_mixers_match_their_definitions(seed: int) -> None:
    fixture = mixed_batch(seed)
    batch, other = read_batch(fixture)[0], fixture["extras"]["provenance"]
    won = [
        sum(fixture["rewards"][j] == 1 and not other[j] for j in range(8) if fixture["group"][j] == group)
        for group in fixture["group"]
    ]
    assert mixing.solved(batch, 1.0).tolist() == won
    wanted = {
        "chord": [0.3 if x else 0.7 for x in other],
        "hpt": [float((w <= 1) == bool(x)) for w, x in zip(won, other, strict=True)],
        "ahpo": [0.5 * (w < 2) if x else 1.0 for w, x in zip(won, other, strict=True)],
        "expo": [0.2 * (w == 0) if x else 1.0 for w, x in zip(won, other, strict=True)],
    }
    got = {
        "chord": mixing.chord_mix(batch, mu_valley=0.3), "hpt": mixing.hpt_mix(batch, hpt_gate=1),
        "ahpo": mixing.ahpo_mix(batch, ahpo_least=2, sft_weight=0.5), "expo": mixing.expo_mix(batch, expo_beta=0.2),
    }  # fmt: skip
    for name, want in wanted.items():
        assert got[name].tolist() == pytest.approx(want, abs=1e-12), name
    weights = objective.loss_weights(*table.resolve("chord", {"mu_valley": 0.3}), batch).policy_BT
    for source, share in ((0, 0.7), (1, 0.3)):
        rows = torch.tensor([x == source for x in other])
        if rows.any():  # each source is averaged over itself
            assert float(weights[rows].sum()) == pytest.approx(share)


@FEW
@given(seed=SEEDS)
def test_own_statistics_do_not_see_other_rows(seed: int) -> None:
    fixture = mixed_batch(seed)
    other = fixture["extras"]["provenance"]
    own = [i for i in range(8) if not other[i]]
    got = evaluate("chord", fixture)["advantage"]
    assert all(got[i] == [0.0] * 3 for i in range(8) if other[i])
    if own:
        alone = {key: [value[i] for i in own] for key, value in fixture.items() if key != "extras"}
        want = evaluate("grpo", alone)["advantage"]
        assert [got[i] for i in own] == [pytest.approx(row, abs=1e-12) for row in want]
    changed = fixture | {"rewards": [r + 5.0 * x for r, x in zip(fixture["rewards"], other, strict=True)]}
    assert evaluate("chord", changed)["advantage"] == got


ROWS = ["hpt", "ahpo", "expo", "ampo", "critique_grpo", "chord"]
PARTS: list[dict[str, Any]] = [{"expert": "luffy"}, {"expert": "srft", "modulators": "srft_own"}]


@pytest.mark.parametrize(("name", "slots"), [*((name, {}) for name in ROWS), *(("grpo", part) for part in PARTS)])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_gradient_is_that_of_the_loss(name: str, slots: dict[str, Any], seed: int) -> None:
    params: dict[str, Any] = {"phi": "one"} if name == "chord" else {}  # phi = p (1 - p) is a constant in the loss
    algorithm, values = table.resolve(name, params, slots)
    batch, logp, _ = read_batch(mixed_batch(seed))
    adv = objective.advantages(algorithm, values, batch).adv_BT
    weights = objective.loss_weights(algorithm, values, batch)

    def loss(x: torch.Tensor) -> float:
        result = objective.coefficient(algorithm, values, batch, adv, x)
        return float((weights.policy_BT * result.surrogate_BT).sum())

    leaf = logp.clone().requires_grad_()
    result = objective.coefficient(algorithm, values, batch, adv, leaf)
    objective.total_loss(algorithm, values, Update(batch, weights, leaf, state={}), result)[0].backward()
    assert leaf.grad is not None and (leaf.grad[~batch.mask] == 0).all()
    for b, t in batch.mask.nonzero().tolist():
        up, down = logp.clone(), logp.clone()
        up[b, t] += 1e-6
        down[b, t] -= 1e-6
        assert float(leaf.grad[b, t]) == pytest.approx((loss(up) - loss(down)) / 2e-6, abs=1e-5)


def test_all_own_or_all_expert_batches_are_fine() -> None:
    for name in (*ROWS, "luffy"):
        for source in (0, 1):
            fixture = mixed_batch(4) | {"extras": {"provenance": [source] * 8}}
            got = evaluate(name, fixture)
            assert math.isfinite(got["loss"]), name
            if source == 0 and name != "chord":
                assert evaluate(name, fixture | {"rewards": [1.0] * 8})["coef"] == [[0.0] * 3] * 8, name
    with pytest.raises(RequestError, match="provenance"):
        evaluate("chord", {"rewards": [1, 0]})
