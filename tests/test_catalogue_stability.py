"""Stability rules and the off-policy family: the papers' numbers, slow references, invariances, gradients."""

from __future__ import annotations

import itertools
import json
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
from turnwise.training.catalogue import offpolicy, stability
from turnwise.training.fixture import evaluate, read_batch
from turnwise.training.regularizers import Update

NEW = [[0.55, 0.3, 0.3], [0.2, 0.9, 0.5]]
OLD = [[0.5, 0.4, 0.2], [0.3, 0.6, 0.5]]
MASK = [[1, 1, 1], [1, 1, 0]]
RATIO = [[1.1, 0.75, 1.5], [2 / 3, 1.5, 0.0]]
SEEDS = st.integers(0, 10**6)
FEW = settings(max_examples=25, deadline=None, derandomize=True)


def logs(x: list[list[float]]) -> list[list[float]]:
    return [[math.log(value) for value in row] for row in x]


FIXTURE: dict[str, Any] = {"group": [0, 1], "rewards": [1, -1], "mask": MASK, "logp": logs(NEW), "logp_old": logs(OLD)}
"""A = [1, -1]: each row is a group of its own, so its mean is 0."""


def tensor(x: Any) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64)


def close(got: Any, want: Any, tolerance: float = 1e-5) -> None:
    got = torch.as_tensor(got, dtype=torch.float64)
    assert torch.allclose(got, tensor(want), atol=tolerance, rtol=0), got


def run(name: str, **params: Any) -> dict[str, Any]:
    return evaluate(name, FIXTURE | {"params": params})


def masked(x: list[list[float]]) -> torch.Tensor:
    return tensor(x) * tensor(MASK)


ADV = masked([[1, 1, 1], [-1, -1, -1]])
LOGP = masked(logs(NEW))

# ---------------------------------------------------------------- numbers


def test_sapo_numbers() -> None:
    # first token: s = sigmoid(.1) = .524979, 4 * 1.1 * s (1 - s) = 1.097255
    want = [[1.097255, 0.738402, 1.410022], [-0.64666, -1.40121, 0]]
    factor = stability.soft_gate(masked(RATIO), ADV, LOGP)
    close(factor.factor_BT * ADV, want)
    close(run("sapo")["coef"], want)
    assert run("sapo")["mask"] == MASK


def test_topr_numbers() -> None:
    # wins keep 1; of the losses 2/3 stays, 1.5 is cut to 1
    want = [[1, 1, 1], [-2 / 3, -1, 0]]
    close(stability.tapered(masked(RATIO), ADV, LOGP).factor_BT * ADV, want)
    close(run("topr")["coef"], want)
    product = evaluate("topr", FIXTURE | {"slots": {"ratio": "product_ratio"}})["coef"]
    close(product, [[1, 1, 1], [-1, -1, 0]])  # 2/3 * 1.5 = 1 over the answer


def test_dual_clip_numbers() -> None:
    # A = -1, bound 3: at r = 5 the loss stays 3 and the gradient goes; at 2.5 both stay
    for ratio, loss, coef in ((5.0, 3.0, 0.0), (2.5, 2.5, -2.5)):
        fixture = {"rewards": [-1.0], "logp": [[math.log(ratio)]], "logp_old": [[0.0]], "params": {"dual_clip": 3.0}}
        got = evaluate("dapo", fixture)
        assert got["loss"] == pytest.approx(loss, abs=1e-5) and got["coef"] == [[pytest.approx(coef, abs=1e-5)]]


RHO = [[0.4, 1.2, 3.0], [1.0, 6.0, 1.0]]


@pytest.mark.parametrize(
    ("settings_", "want"),
    [
        ({"behaviour": "tis", "behaviour_high": 2.0}, [[0.4, 1.2, 2], [1, 2, 1]]),
        ({"behaviour": "icepop", "behaviour_low": 0.5, "behaviour_high": 5.0}, [[0, 1.2, 3], [1, 0, 1]]),
        ({"behaviour": "seq_tis", "behaviour_high": 2.0}, [[1.44] * 3, [2.0] * 3]),
        ({"behaviour": "seq_mis", "behaviour_low": 0.5, "behaviour_high": 2.0}, [[1.44] * 3, [0.0] * 3]),
    ],
)
def test_mismatch_weight_numbers(settings_: dict[str, Any], want: list[list[float]]) -> None:
    # on policy with A = +-1 the coefficient is the weight itself: products 1.44 and 6
    rollout = [[-math.log(rho) for rho in row] for row in RHO]
    fixture = {"group": [0, 1], "rewards": [1, -1], "logp_old": [[0.0] * 3] * 2, "logp_rollout": rollout}
    got = evaluate("grpo", fixture | {"params": {**settings_, "normalize": False}})
    close(got["coef"], [want[0], [-w for w in want[1]]])


def test_icepop_times_ppo() -> None:
    # PPO's losses -1.1 -.75 -1.2 .8 1.5 times 0 1.2 3 1 0, over 5 tokens
    rollout = [[math.log(o / rho) for o, rho in zip(*rows, strict=True)] for rows in zip(OLD, RHO, strict=True)]
    wanted = {"behaviour": "icepop", "behaviour_low": 0.5, "behaviour_high": 5.0, "aggregator": "token_mean"}
    got = evaluate("grpo", FIXTURE | {"logp_rollout": rollout, "params": wanted | {"normalize": False}})
    assert got["loss"] == pytest.approx(-0.74, abs=1e-5)


@pytest.mark.parametrize(("delta", "kept"), [(-0.05, [MASK[0], [0, 0, 0]]), (0.05, MASK)])
def test_offpolicy_mask_numbers(delta: float, kept: list[list[int]]) -> None:
    # mean log(old / new): row 0 -.071031 with A > 0, never dropped; row 1 0 with A < 0, dropped from delta < 0 on
    gap = [sum(a - b for a, b in zip(*rows, strict=True)) for rows in zip(logs(OLD), logs(NEW), strict=True)]
    assert [gap[0] / 3, (gap[1] - 0.0) / 2] == pytest.approx([-0.071031, 0.0], abs=1e-6)
    wide = {"clip_low": 0.9, "clip_high": 9.0}
    assert evaluate("offpolicy_mask", FIXTURE | {"params": {"mask_delta": delta, **wide}})["mask"] == kept
    flipped = FIXTURE | {"rewards": [-1, 1], "params": {"mask_delta": -0.072, **wide}}
    assert evaluate("offpolicy_mask", flipped)["mask"] == [[0, 0, 0], [1, 1, 0]]


@pytest.mark.parametrize(
    ("params", "mask"),
    [
        ({"rec_mask": "one_side"}, [[1, 1, 0], [0, 1, 0]]),
        ({"rec_mask": "two_side"}, [[1, 0, 0], [0, 0, 0]]),
        ({"rec_mask": "ring"}, [[1, 0, 0], [0, 0, 0]]),
        ({"rec_mask": "none"}, MASK),
    ],
)
def test_rec_masks(params: dict[str, Any], mask: list[list[int]]) -> None:
    assert run("rec", **params)["mask"] == mask


def test_rec_ring_and_losses() -> None:
    # r = .3 .9 1.5 3.5 against 1 -+ .2, and below 1 - .6 for wins, above 1 + 2 for losses
    ratio = tensor([[0.3, 0.9, 1.5, 3.5]] * 2)
    adv = tensor([[1.0] * 4, [-1.0] * 4])
    ring = kept(offpolicy.rec(ratio, adv, ratio.log(), rec_mask="ring"))
    assert ring == [[1, 1, 0, 0], [0, 1, 0, 1]]
    # kept tokens: -(ln .55 + ln .3 - ln .9) / 5, with the ratio as weight -(1.1 ln .55 + .75 ln .3 - 1.5 ln .9) / 5
    assert run("rec")["loss"] == pytest.approx(0.33929, abs=1e-5)
    weighted = run("rec", rec_weight="ratio")
    assert weighted["loss"] == pytest.approx(0.280512, abs=1e-5)
    close(weighted["coef"], [[1.1, 0.75, 0], [0, -1.5, 0]])


def kept(factor: Any) -> list[list[int]]:
    return factor.keep_BT.to(torch.long).tolist()


def test_rec_with_sequence_ratios() -> None:
    # s = (1.073615, 1): both within 1 +- .2, weighted by s
    wanted = {"rec_weight": "ratio", "aggregator": "seq_mean_token_mean"}
    got = evaluate("rec", FIXTURE | {"slots": {"ratio": "sequence_ratio"}, "params": wanted})
    close(got["coef"], [[1.073615] * 3, [-1, -1, 0]])
    narrow = wanted | {"clip_high": 0.05}
    assert evaluate("rec", FIXTURE | {"slots": {"ratio": "sequence_ratio"}, "params": narrow})["mask"][0] == [0, 0, 0]


def test_opmd_numbers() -> None:
    # c = A - .2 ln r: 1 - .2 ln 1.1 = .980938
    want = [[0.980938, 1.057536, 0.918907], [-0.918907, -1.081093, 0]]
    close(run("opmd")["coef"], want)
    assert run("opmd")["loss"] == pytest.approx(0.269898, abs=1e-5)
    close(offpolicy.opmd(tensor(logs(NEW)), ADV, read_batch(FIXTURE)[0]).factor_BT * tensor(MASK), want)
    group = {"rewards": [1, 1, 1, 0], "params": {"opmd_form": "simple", "opmd_tau": 1.0}}
    got = evaluate("opmd", group)["coef"]  # (R - .75) / 2
    assert [row[0] for row in got] == pytest.approx([0.125] * 3 + [-0.375], abs=1e-5)


def test_opmd_soft_baseline() -> None:
    # ln((3 e + 1) / 4) = .827989
    params = {"opmd_baseline": "log_mean_exp", "opmd_baseline_tau": 1.0}
    got = evaluate("opmd", {"rewards": [1, 1, 1, 0], "params": params})["advantage"]
    assert [row[0] for row in got] == pytest.approx([1 - 0.827989] * 3 + [-0.827989], abs=1e-5)
    far = evaluate("opmd", {"rewards": [1e4, 0], "params": params})["advantage"]
    assert [row[0] for row in far] == pytest.approx([math.log(2), math.log(2) - 1e4], abs=1e-5)
    assert evaluate("opmd", {"rewards": [0.1] * 3, "params": params})["advantage"] == [[0.0]] * 3


def test_asymre_numbers() -> None:
    got = evaluate("asymre", {"rewards": [1, 1, 1, 0]})["advantage"]  # baseline .75 - .1
    assert [row[0] for row in got] == pytest.approx([0.35] * 3 + [-0.65], abs=1e-5)
    got = run("asymre")  # -(1.1 ln(.55 .3 .3) - .9 ln(.2 .9)) / 5
    assert got["loss"] == pytest.approx(0.352608, abs=1e-5)
    close(got["coef"], [[1.1] * 3, [-0.9, -0.9, 0]])


def test_red_numbers() -> None:
    got = evaluate("red", {"rewards": [1, 1, 1, 0]})["coef"]  # .25 e^.25, -.75 e^-.75
    assert [row[0] for row in got] == pytest.approx([0.321006] * 3 + [-0.354275], abs=1e-5)
    off = evaluate("red", {"rewards": [1, 1, 1, 0], "params": {"red_temperature": None}})["coef"]
    assert [row[0] for row in off] == pytest.approx([0.25] * 3 + [-0.75], abs=1e-9)
    part = evaluate("red_weight", {"rewards": [1, 1, 1, 0], "params": {"normalize": False}})["advantage"]
    assert [row[0] for row in part] == pytest.approx([0.321006] * 3 + [-0.354275], abs=1e-5)


def test_red_drop_numbers() -> None:
    # three losses to one win: two go, the mean of (1, 0) is .5
    got = evaluate("red_drop", {"rewards": [1, 0, 0, 0]})
    assert got["advantage"][0] == [0.5]
    assert sorted(row[0] for row in got["advantage"][1:]) == [-0.5, 0.0, 0.0]
    assert sum(row[0] for row in got["mask"]) == 2
    assert got["loss"] == pytest.approx(-(0.5 - 0.5) / 2)
    kept = {i for step in range(30) for i in (1, 2, 3) if evaluate(
        "red_drop", {"rewards": [1, 0, 0, 0], "state": {"step": step}})["mask"][i] == [1]}  # fmt: skip
    assert kept == {1, 2, 3}, "the draw changes with the step"
    assert evaluate("red_drop", {"rewards": [1, 1, 0, 0]})["mask"] == [[1]] * 4


def test_remix_numbers() -> None:
    # generated by .5, opened at .4, now .6: r = 1.2, s = .8, bounds .6 and 1, objective 1 and no gradient
    fixture = {
        "rewards": [1.0], "logp": [[math.log(0.6)]], "logp_old": [[math.log(0.4)]], "logp_ref": [[0.0]],
        "extras": {"logp_replay": [[math.log(0.5)]]}, "params": {"remix_kl": 0.0, "normalize": False},
    }  # fmt: skip
    got = evaluate("remix", fixture)
    assert got["loss"] == pytest.approx(-1.0, abs=1e-9) and got["coef"] == [[0.0]] and got["mask"] == [[0]]
    back = evaluate("remix", fixture | {"logp": [[math.log(0.48)]]})  # r = .96 is inside
    assert back["coef"] == [[pytest.approx(0.96)]]
    assert [offpolicy.base_share(t, 50, 0.5) for t in (50, 51, 61, 100, 200)] == pytest.approx([1, 0.9, 0.8, 0.5, 0.5])


def test_remix_convex_kl() -> None:
    # lambda(75) = 1 - .1 ceil(2.5) = .7; .7 * .3 + .3 * .05 = .225
    fixture = {
        "rewards": [0.0], "logp": [[-0.5]], "logp_ref": [[-0.8]], "state": {"step": 75},
        "extras": {"logp_replay": [[-0.5]], "logp_previous": [[-0.55]]},
        "params": {"remix_kl": 1.0, "kl_estimator": "k1"},
    }  # fmt: skip
    assert evaluate("remix", fixture)["terms"]["kl_convex"] == pytest.approx(0.225, abs=1e-9)
    assert evaluate("remix", fixture)["state"]["step"] == 76
    fixture["extras"] = {"logp_replay": [[-0.5]]}  # previous = old = now
    assert evaluate("remix", fixture)["terms"]["kl_convex"] == pytest.approx(0.21, abs=1e-9)
    with pytest.raises(RequestError, match="logp_ref"):
        evaluate("remix", {key: value for key, value in fixture.items() if key != "logp_ref"})


def test_curvature_numbers() -> None:
    # v = (-.5, .7, -.2), |h|^2 = 5, u = 5 v; v.u = 3.9; u'(diag - pp')u = 7 - .16: .39 + .005 * 8.37, .005 * 15.21
    given_ = (tensor([[1.0, 2.0]]), tensor([[0.5, 0.3, 0.2]]), torch.tensor([1]), tensor([1.0]), 0.1)
    hessian, fisher = stability.curvature(*given_)
    close(hessian, [0.43185])
    close(fisher, [0.07605])
    # with moments: b1 .5, b2 .75, the second update, first moment 0, second 3 everywhere
    #   g = [-.5 -1; .7 1.4; -.2 -.4]; m = .5 g / .75, v = (.75 * 3 + .25 g^2) / .4375, g^ = m / sqrt(v), u = g^ h
    g = [[-0.5, -1.0], [0.7, 1.4], [-0.2, -0.4]]
    u = [sum(h * (x / 1.5) / math.sqrt((2.25 + x * x / 4) / 0.4375) for h, x in zip((1.0, 2.0), row, strict=True))
         for row in g]  # fmt: skip
    state = stability.Moments(tensor([[[0.0] * 2] * 3]), tensor([[[3.0] * 2] * 3]), (0.5, 0.75), 1.0, 0.0)
    along = -0.5 * u[0] + 0.7 * u[1] - 0.2 * u[2]
    want = 0.1 * along + 0.005 * (along**2 - (0.5 * u[0] ** 2 + 0.3 * u[1] ** 2 + 0.2 * u[2] ** 2
                                              - (0.5 * u[0] + 0.3 * u[1] + 0.2 * u[2]) ** 2))  # fmt: skip
    close(torch.cat(stability.curvature(*given_, moments=state)), [want, 0.005 * along**2])
    one = stability.Moments(tensor([[[0.2]]]), tensor([[[0.09]]]), (0.9, 0.99), 3.0, 1e-8)
    close(
        one.direction(tensor([[[1.0]]])), [[[(0.18 + 0.1) / (1 - 0.9**4) / math.sqrt((0.0891 + 0.01) / (1 - 0.99**4))]]]
    )
    for (m_h, m_f), kept in (((0.0099, 9e-5), 1), ((-0.0101, 9e-5), 0), ((0.0, 1.1e-4), 0)):
        extras = {"m_H": [[m_h]], "m_F": [[m_f]]}
        assert evaluate("capo", {"rewards": [1.0], "extras": extras})["mask"] == [[kept]]
    at = {"rewards": [1.0], "extras": {"m_H": [hessian.tolist()], "m_F": [fisher.tolist()]}}
    assert evaluate("capo", at | {"params": {"capo_hessian": 0.4319, "capo_fisher": 0.0761}})["mask"] == [[1]]
    assert evaluate("capo", at | {"params": {"capo_hessian": 0.4318, "capo_fisher": 0.0761}})["mask"] == [[0]]


def test_curvature_is_the_expansion_of_an_optimiser_step() -> None:
    # the log-prob of the token after W + lr g: first order lr <g, g>, second that of log softmax along u
    torch.manual_seed(0)
    weight, h, a = torch.randn(5, 3, dtype=torch.float64), torch.randn(3, dtype=torch.float64), 2
    prob = torch.softmax(weight @ h, 0)
    step = torch.outer(torch.eye(5, dtype=torch.float64)[a] - prob, h)
    for lr in (1e-2, 1e-3):
        moved = torch.softmax((weight + lr * step) @ h, 0)
        gain = moved[a] / prob[a] - 1  # the importance-weighted objective, A = 1
        hessian, _ = stability.curvature(h[None], prob[None], torch.tensor([a]), tensor([1.0]), lr)
        assert abs(float(gain - hessian)) < 300 * lr**3


BAPO = (tensor([[1.1, 1.5, 0.5, 0.7, 1.0]]), tensor([[1.0, 1.0, -1.0, -1.0, -1.0]]))


@pytest.mark.parametrize(
    ("low", "high", "share"),
    # wins at 1.2: 1.1, at 1.6: 1.1 + 1.5; losses from .6: .7 + 1, from .9: 1. So 1.1 / 2.8, 1.1 / 2.1, 2.6 / 3.6
    [(0.6, 1.2, 0.392857), (0.9, 1.2, 0.52381), (0.9, 1.6, 0.722222)],
)
def test_bapo_shares(low: float, high: float, share: float) -> None:
    assert stability.balanced_bounds(*BAPO, [low], [high, 9.0], share - 1e-5, 3.0) == (low, high)
    assert stability.balanced_bounds(*BAPO, [low], [high, 9.0], share + 1e-5, 3.0) == (low, 9.0)


def test_bapo_search() -> None:
    lows, highs = stability._grid(0.6, 0.9, 0.05), stability._grid(1.2, 3.0, 0.05)
    assert len(lows) == 7 and len(highs) == 37
    assert stability.balanced_bounds(*BAPO, lows, highs, 0.5, 3.0) == pytest.approx((0.75, 1.2))
    assert stability.balanced_bounds(*BAPO, lows, highs, 0.6, 3.0) == pytest.approx((0.9, 1.5))  # 2.6 / 3.6 = .72
    assert stability.balanced_bounds(*BAPO, lows, highs, 0.99, 3.0) == pytest.approx((0.9, 3.0))
    ratio, adv = BAPO
    for off in (ratio.float(), ratio * (1 - 1e-9)):
        found = stability.balanced_bounds(off, adv.to(off.dtype), lows, highs, 0.5, 3.0)
        assert found == pytest.approx((0.75, 1.2)), "0.7 less a rounding error is on the bound 0.7"
    fixture = {
        "rewards": [1.0, -1.0], "group": [0, 1], "mask": [[1, 1, 0], [1, 1, 1]],
        "logp": [[math.log(1.1), math.log(1.5), 0], [math.log(0.5), math.log(0.7), 0]],
        "logp_old": [[0.0] * 3] * 2, "params": {"normalize": False},
    }  # fmt: skip
    got = evaluate("bapo", fixture)  # bounds (.75, 1.2)
    close(got["coef"], [[1.1, 0, 0], [0, 0, -1]])
    assert got["mask"] == [[1, 0, 0], [0, 0, 1]]
    assert evaluate("bapo", fixture | {"params": {"bapo_share": 0.3, "normalize": False}})["mask"] == [
        [1, 0, 0],
        [0, 1, 1],
    ]


def test_unclipped_ppo() -> None:
    # -(1.1 + .75 + 1.5 - 2/3 - 1.5) / 5
    got = evaluate("rloo", FIXTURE | {"group": [0, 0], "slots": {"stability": "unclipped"}})
    half = 2.0  # leave-one-out of (1, -1) is +-2
    assert got["loss"] == pytest.approx(half * -0.236667, abs=1e-5)
    close(got["coef"], (half * masked([RATIO[0], [-2 / 3, -1.5, 0]])).tolist())


def test_sequence_clipping_per_turn_and_per_trajectory() -> None:
    # one trajectory, turns (1.1, .75) and (1.5): s = sqrt(.825) and 1.5 by turn, 1.073615 as a whole
    fixture = {"rewards": [1.0], "turn": [[0, 0, 1]], "logp": logs(NEW[:1]), "logp_old": logs(OLD[:1])}
    wide = {"clip_low": 0.2, "clip_high": 0.2}
    by_turn = evaluate("gspo", fixture | {"params": {"unit": "turn", **wide}})
    close(by_turn["coef"], [[math.sqrt(0.825)] * 2 + [0]])
    assert by_turn["mask"] == [[1, 1, 0]]
    close(evaluate("gspo", fixture | {"params": wide})["coef"], [[1.073615] * 3])
    stable = {
        "slots": {"ratio": "sequence_ratio", "guards": ["offpolicy_mask"]}, "anchors": ["a", "b"], "rewards": [-1.0],
        "params": {"unit": "turn", "mask_delta": 0.09, "aggregator": "seq_mean_token_mean", "clip_low": 0.5},
    }  # fmt: skip
    got = evaluate("gigpo", fixture | stable)["mask"]  # turn 0: mean log-ratio ln(.825) / 2 = -.096
    assert got == [[0, 0, 1]]
    assert evaluate("gigpo", fixture | stable | {"params": {**stable["params"], "unit": "trajectory"}})["mask"] == [
        [1, 1, 1]
    ]


# ---------------------------------------------------------------- slow references


def noise(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = random.Random(seed)
    shape = (rng.randint(1, 4), rng.randint(1, 5))
    ratio, adv, logp = (
        tensor([[f() for _ in range(shape[1])] for _ in range(shape[0])])
        for f in (lambda: rng.uniform(0.05, 4), lambda: rng.choice([-1, 0, 1]) * rng.random(), lambda: -rng.random())
    )
    return ratio, adv, logp


def slow_rec(r: float, a: float, kind: str) -> int:
    inside = 0.8 <= r <= 1.2
    if kind == "none":
        return 1
    if kind == "one_side":
        return int((a >= 0 and r <= 1.2) or (a <= 0 and r >= 0.8))
    return int(inside or (kind == "ring" and ((a >= 0 and r <= 0.4) or (a <= 0 and r >= 3))))


@FEW
@given(seed=SEEDS)
def test_rules_match_their_definitions(seed: int) -> None:
    ratio, adv, logp = noise(seed)
    for kind in ("one_side", "two_side", "ring", "none"):
        factor = offpolicy.rec(ratio, adv, logp, rec_mask=kind)
        want = [[slow_rec(r, a, kind) for r, a in zip(*rows, strict=True)] for rows in
                zip(ratio.tolist(), adv.tolist(), strict=True)]  # fmt: skip
        assert kept(factor) == want
    soft, taper = stability.soft_gate(ratio, adv, logp), stability.tapered(ratio, adv, logp)
    for b, t in itertools.product(range(ratio.shape[0]), range(ratio.shape[1])):
        r, a = float(ratio[b, t]), float(adv[b, t])
        tau = 1.05 if a < 0 else 1.0
        s = 1 / (1 + math.exp(-tau * (r - 1)))
        assert float(soft.factor_BT[b, t]) == pytest.approx(4 * r * s * (1 - s), abs=1e-12)
        assert float(taper.factor_BT[b, t]) == pytest.approx(min(r, 1) if a < 0 else 1.0, abs=1e-12)


def slow_bounds(ratio: list[float], adv: list[float], lows: list[float], highs: list[float], share: float) -> Any:
    def part(low: float, high: float) -> float:
        pos = sum(r * a for r, a in zip(ratio, adv, strict=True) if a > 0 and r <= high + 1e-6)
        neg = sum(-r * a for r, a in zip(ratio, adv, strict=True) if a < 0 and low - 1e-6 <= r <= 3.0)
        return pos - share * (pos + neg)

    for low in lows:
        if part(low, highs[0]) >= -1e-12:
            return low, highs[0]
    for high in highs:
        if part(lows[-1], high) >= -1e-12:
            return lows[-1], high
    return lows[-1], highs[-1]


@FEW
@given(seed=SEEDS)
def test_bapo_search_matches_its_definition(seed: int) -> None:
    ratio, adv, _ = noise(seed)
    lows, highs = stability._grid(0.6, 0.9, 0.05), stability._grid(1.2, 3.0, 0.05)
    share = random.Random(seed).uniform(0.2, 0.8)
    got = stability.balanced_bounds(ratio, adv, lows, highs, share, 3.0)
    assert got == slow_bounds(ratio.flatten().tolist(), adv.flatten().tolist(), lows, highs, share)


@FEW
@given(seed=SEEDS)
def test_red_drop_balances_every_group_and_ignores_row_order(seed: int) -> None:
    rng = random.Random(seed)
    groups = sorted(rng.choices(range(3), k=9))
    rewards = [float(rng.random() < 0.3) for _ in groups]
    fixture = {"group": groups, "rewards": rewards, "trajectory": list(range(9)), "state": {"step": seed}}
    got = evaluate("red_drop", fixture)
    for group in set(groups):
        rows = [i for i in range(9) if groups[i] == group]
        mean = sum(rewards[i] for i in rows) / len(rows)
        wins = [i for i in rows if rewards[i] >= mean]
        kept = [i for i in rows if got["mask"][i] == [1]]
        assert set(wins) <= set(kept) and len(kept) - len(wins) == min(len(wins), len(rows) - len(wins))
        if len(kept) > 1:
            assert sum(got["advantage"][i][0] for i in kept) == pytest.approx(0, abs=1e-9)
    order = list(range(9))
    rng.shuffle(order)
    mixed = evaluate("red_drop", fixture | {
        "group": [groups[i] for i in order], "rewards": [rewards[i] for i in order], "trajectory": order,
    })  # fmt: skip
    assert [mixed["advantage"][order.index(i)] for i in range(9)] == got["advantage"]


# ---------------------------------------------------------------- relations and gradients


@FEW
@given(seed=SEEDS)
def test_special_cases_equal_simpler_rules(seed: int) -> None:
    ratio, adv, logp = noise(seed)
    plain = stability.unclipped(ratio, adv, logp)
    assert torch.equal(offpolicy.rec(ratio, adv, logp, rec_mask="none", rec_weight="ratio").factor_BT, plain.factor_BT)
    one = offpolicy.rec(ratio, adv, logp, rec_weight="ratio").factor_BT * adv
    assert torch.allclose(one, stability.ppo_clip(ratio, adv, logp).factor_BT * adv)
    fixed = stability.balanced_clip(ratio, adv, logp, bapo_low=0.8, bapo_low_max=0.8, bapo_high=1.2, bapo_high_max=1.2)
    ppo = stability.ppo_clip(ratio, adv, logp, dual_clip=3.0)
    assert torch.allclose(fixed.factor_BT * adv, ppo.factor_BT * adv)
    fresh = {"rewards": [1.0, -1.0], "group": [0, 1], "logp": [[-0.1, -0.9, -0.6], [-0.7, -0.3, -1.2]],
             "logp_old": [[-0.6] * 3] * 2, "logp_ref": [[0.0] * 3] * 2, "params": {}}  # fmt: skip
    want = evaluate("grpo", fresh | {"params": {"aggregator": "token_mean"}})
    got = evaluate("remix", fresh | {"extras": {"logp_replay": [[-0.6] * 3] * 2}, "params": {"remix_kl": 0.0}})
    close(got["coef"], want["coef"], 1e-12)
    assert got["loss"] == pytest.approx(want["loss"], abs=1e-12)


@pytest.mark.parametrize("name", ["sapo", "topr", "bapo", "opmd", "remix"])
def test_gradient_is_that_of_the_loss(name: str) -> None:
    fixture = FIXTURE | {"logp_ref": logs(OLD), "extras": {"logp_replay": logs([[0.45] * 3] * 2)}}
    for seed in range(5):
        shift = torch.rand(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 0.4
        batch, logp, _ = read_batch(fixture | {"logp": (tensor(logs(OLD)) + shift - 0.2).tolist()})
        algorithm, params = table.resolve(name)
        credit = objective.advantages(algorithm, params, batch)
        weights = objective.loss_weights(algorithm, params, batch)

        def loss(x: torch.Tensor, parts: Any = (algorithm, params, batch, credit, weights)) -> torch.Tensor:
            algorithm, params, batch, credit, weights = parts
            update = Update(batch, weights, x, state={})
            result = objective.coefficient(algorithm, params, batch, credit.adv_BT, x)
            return torch.stack(list(objective.total_loss(algorithm, params, update, result)[1].values())).sum()

        leaf = logp.clone().requires_grad_()
        update = Update(batch, weights, leaf, state={})
        result = objective.coefficient(algorithm, params, batch, credit.adv_BT, leaf)
        objective.total_loss(algorithm, params, update, result)[0].backward()
        assert leaf.grad is not None and float(leaf.grad[1, 2]) == 0.0
        for b, t in batch.mask.nonzero().tolist():
            up, down = logp.clone(), logp.clone()
            up[b, t] += 1e-6
            down[b, t] -= 1e-6
            assert float(leaf.grad[b, t]) == pytest.approx(float(loss(up) - loss(down)) / 2e-6, abs=1e-5)


def test_masked_tokens_may_hold_anything() -> None:
    for name in ("sapo", "topr", "bapo", "rec", "opmd", "asymre", "red", "offpolicy_mask"):
        wild = json.loads(json.dumps(FIXTURE))
        wild["logp"][1][2], wild["logp_old"][1][2] = 500.0, -500.0
        one, other = evaluate(name, FIXTURE), evaluate(name, wild)
        assert one["coef"] == other["coef"] and one["loss"] == other["loss"], name
        assert math.isfinite(one["loss"])
