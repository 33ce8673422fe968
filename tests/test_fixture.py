"""`turnwise coef`: the numbers of the papers through the JSON door, its defaults, its refusals."""

from __future__ import annotations

import json
import math
import re

import pytest
from turnwise.envs.errors import RequestError, UnknownName
from turnwise.training.algorithms import ALGORITHMS, describe
from turnwise.training.batch import EXTRAS
from turnwise.training.fixture import evaluate


def zeros(B, T):
    """What single rows need beside rewards, blank: extras by shape, log-probs of a reference, entropies."""
    blank = {"[B": [0] * B, "[B, T": [[0] * T] * B, "[B, T, J": [[[0]] * T] * B}
    extras = {name: blank[what.split("]")[0]] for name, what in EXTRAS.items()}
    return {"extras": extras, "logp_ref": blank["[B, T"], "entropy": blank["[B, T"]}


def logs(table):
    return [[math.log(p) for p in row] for row in table]


# ratios [[1.1,.75,1.5],[2/3,1.5,1]]; rewards 2 and 0 without std give A = +1, -1
POLICY = {
    "rewards": [2, 0],
    "mask": [[1, 1, 1], [1, 1, 0]],
    "logp": logs([[0.55, 0.3, 0.3], [0.2, 0.9, 0.5]]),
    "logp_old": logs([[0.5, 0.4, 0.2], [0.3, 0.6, 0.5]]),
}
GROUPS = {"group": [0, 0, 0, 0, 1, 1, 1, 1], "rewards": [1, 0, 0, 1, 1, 1, 1, 0]}


def policy(name, key="loss", **params):
    return evaluate(name, {**POLICY, "params": {"normalize": False, **params}})[key]


def table_close(got, want, tolerance=1e-5):
    assert len(got) == len(want)
    for row, expected in zip(got, want, strict=True):
        assert row == pytest.approx(expected, abs=tolerance)


def column(out):
    return [row[0] for row in out["advantage"]]


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("aggregator", "want"),
    [
        ("token_mean", -0.15),
        ("seq_mean_token_mean", 0.066667),
        ("seq_mean_token_sum", -0.375),
        ("seq_sum_norm", -0.125),
    ],
)
def test_ppo_clip_under_each_aggregator(aggregator, want):
    out = evaluate("grpo", {**POLICY, "params": {"normalize": False, "aggregator": aggregator, "length_norm": 3}})
    assert out["loss"] == pytest.approx(want, abs=1e-5)
    table_close(out["coef"], [[1.1, 0.75, 0], [0, -1.5, 0]])
    assert out["mask"] == [[1, 1, 0], [0, 1, 0]]
    table_close(out["advantage"], [[1, 1, 1], [-1, -1, 0]])


def test_policy_losses():
    assert policy("grpo", clip_low=0.999, clip_high=1e9, aggregator="token_mean") == pytest.approx(-0.236667, abs=1e-5)
    assert policy("dr_grpo") == pytest.approx(-0.125, abs=1e-5)
    assert policy("dapo") == pytest.approx(-0.166, abs=1e-5)
    assert policy("gspo") == pytest.approx(-0.0002, abs=1e-7)
    assert policy("gspo", clip_low=0.2, clip_high=0.2) == pytest.approx(-0.036807, abs=1e-5)
    table_close(policy("gspo", "coef", clip_low=0.2, clip_high=0.2), [[1.073615] * 3, [-1, -1, 0]])
    assert policy("cispo", clip_high=0.28) == pytest.approx(0.378773, abs=1e-5)
    table_close(policy("cispo", "coef", clip_high=0.28), [[1.1, 0.75, 1.28], [-0.666667, -1.28, 0]])


def test_dual_clip():
    fixture = {"rewards": [2, 0], "logp": [[0, 0], [math.log(5), math.log(2.5)]], "logp_old": [[0, 0], [0, 0]]}
    out = evaluate("dapo", {**fixture, "params": {"normalize": False, "dual_clip": 3.0}})
    table_close(out["coef"], [[1, 1], [0, -2.5]])
    assert out["loss"] == pytest.approx((-1 - 1 + 3 + 2.5) / 4, abs=1e-5)


def test_icepop_and_tis():
    rollout = [[0.5 / 0.4, 0.4 / 1.2, 0.2 / 3], [0.3, 0.6 / 6, 0.5]]  # old / rollout = .4 1.2 3 | 1 6 1
    fixture = {**POLICY, "logp_rollout": logs(rollout)}
    base = {"normalize": False, "aggregator": "token_mean", "behaviour_low": 0.5}
    out = evaluate("grpo", {**fixture, "params": {**base, "behaviour": "icepop", "behaviour_high": 5.0}})
    assert out["loss"] == pytest.approx(-0.74, abs=1e-5)
    out = evaluate("grpo", {**fixture, "params": {**base, "behaviour": "tis", "behaviour_high": 2.0}})
    table_close(out["coef"], [[0.44, 0.9, 0], [0, -3.0, 0]])


def test_group_advantages():
    want = {
        "grpo": [0.866024, -0.866024, -0.866024, 0.866024, 0.499999, 0.499999, 0.499999, -1.499997],
        "dr_grpo": [0.5, -0.5, -0.5, 0.5, 0.25, 0.25, 0.25, -0.75],
        "rloo": [0.666667, -0.666667, -0.666667, 0.666667, 0.333333, 0.333333, 0.333333, -1],
    }
    for name, numbers in want.items():
        assert column(evaluate(name, GROUPS)) == pytest.approx(numbers, abs=1e-6)
    assert column(evaluate("rloo", {"rewards": [1, 0]})) == [1, -1]
    baseline = evaluate("reinforce_pp", {**GROUPS, "params": {"baseline": "group"}})
    assert column(baseline) == pytest.approx([1, -1, -1, 1, 0.5, 0.5, 0.5, -1.5], abs=1e-5)
    whitened = evaluate("reinforce_pp", {"rewards": [1, 0], "mask": [[1, 1, 1], [1, 0, 0]]})
    table_close(whitened["advantage"], [[0.5, 0.5, 0.5], [-1.5, 0, 0]])
    assert column(evaluate("reinforce", {"rewards": [3, -1]})) == [3, -1]


def ppo(name="ppo", **fixture):
    params = {"whiten": False, **fixture.pop("params", {})}
    return evaluate(name, {**fixture, "params": params})


def test_gae():
    gap = {"token_rewards": [[0, 0, 0, 0, 1]], "values": [[0.5, 0.6, 9, 0.7, 0.8]], "mask": [[1, 1, 0, 1, 1]]}
    table_close(ppo(**gap, params={"lam": 1.0})["advantage"], [[0.5, 0.4, 0, 0.3, 0.2]])
    table_close(ppo(**gap, params={"lam": 0.5})["advantage"], [[0.2, 0.2, 0, 0.2, 0.2]])
    other = {**gap, "values": [[0.5, 0.6, -77, 0.7, 0.8]]}
    assert ppo(**gap)["advantage"] == ppo(**other)["advantage"]
    table_close(ppo(rewards=[1], values=[[0.5, 0.6, 0.8]])["advantage"], [[0.4705, 0.39, 0.2]])
    table_close(
        ppo(rewards=[1], values=[[0.5, 0.6, 9, 0.8]], mask=[[1, 1, 0, 1]])["advantage"], [[0.4705, 0.39, 0, 0.2]]
    )
    # EGAE on a truncated row
    table_close(ppo(rewards=[0], values=[[0.5, 0.6, 0.7]], truncated=[1])["advantage"], [[0.195, 0.1, 0]])
    turn = {"token_rewards": [[0, 0.2, 0, 0, 1]], "values": [[0.3, 0.4, 0, 0.5, 0.6]], "mask": [[1, 1, 0, 1, 1]]}
    out = ppo("ppo_turn", **turn, params={"gamma_turn": 0.9})
    table_close(out["advantage"], [[0.7479, 0.682, 0, 0.48, 0.4]])


def test_value_loss():
    # lam = 1: returns are the rewards 1 and 0
    out = ppo(rewards=[1, 0], values=[[0.5], [0.5]], new_values=[[0.9], [0.2]], params={"lam": 1.0})
    assert out["terms"]["value_loss"] == pytest.approx(0.045, abs=1e-9)
    assert out["loss"] == pytest.approx(sum(out["terms"].values()))


@pytest.mark.parametrize("windowed", [True, False])
def test_gigpo(windowed):
    rows = {
        "trajectory": [0, 0, 1, 1, 1],
        "turn": [[0], [1], [0], [1], [2]],
        "turn_rewards": {"0,1": 10},
        "anchors": ["s0", "x", "s0", "s0", "y"],
    }
    lines = {**rows, "trajectory": [0, 1], "turn": [[0, 1, -1], [0, 1, 2]]}

    def advantage(**params):
        out = evaluate("gigpo", {**(rows if windowed else lines), "params": params})["advantage"]
        return column({"advantage": out}) if windowed else [*out[0][:2], *out[1]]

    episode, full = advantage(omega=0.0), advantage()
    assert episode == pytest.approx([0.70711] * 2 + [-0.70711] * 3, abs=1e-5)
    step = [a - b for a, b in zip(full, episode, strict=True)]
    assert step == pytest.approx([1.15470, 0, -0.57735, -0.57735, 0], abs=1e-5)
    step = [a - b for a, b in zip(advantage(normalize=False), advantage(normalize=False, omega=0.0), strict=True)]
    assert step == pytest.approx([6.33333, 0, -3.16667, -3.16667, 0], abs=1e-5)
    by_row = advantage(omega=0.0, stats_unit="turn")
    assert by_row == pytest.approx([1.09545] * 2 + [-0.73030] * 3, abs=1e-5)


@pytest.mark.parametrize(("estimator", "want"), [("k1", 0.042619), ("k2", 0.058505), ("k3", 0.05777), ("k3+", 0.05777)])
def test_kl_terms(estimator, want):
    params = {"beta": 1.0, "kl_estimator": estimator, "aggregator": "token_mean"}
    out = evaluate("grpo", {**POLICY, "logp_ref": POLICY["logp_old"], "params": params})
    assert out["terms"]["kl_loss"] == pytest.approx(want, abs=1e-5)


EPO = {"rewards": [1], "mask": [[1, 0, 1, 1, 1]], "entropy": [[0.5, 9, 2.5, 1, 1]], "params": {"epo_alpha": 0.05}}


def test_epo_terms_and_state():
    out = evaluate("epo_entropy", {**EPO, "state": {"step": 1, "history": [1.0]}})
    extra = out["terms"]["epo_bonus"] + out["terms"]["epo_corridor"]
    assert extra == pytest.approx(-0.00099183, abs=1e-8)
    assert out["state"]["step"] == 2 and out["state"]["history"] == pytest.approx([1.0, 1.0])
    first = evaluate("epo_entropy", EPO)
    assert "epo_corridor" not in first["terms"]
    assert first["terms"]["epo_bonus"] == pytest.approx(-0.001)
    assert first["state"]["step"] == 1 and first["state"]["history"] == pytest.approx([1.0])
    # the step defaults to the length of the history
    assert evaluate("epo_entropy", {**EPO, "state": {"history": [1.0]}}) == out


@pytest.mark.parametrize(("step", "phase"), [(0, 2.0), (37, 1.22764), (75, 1.04979), (150, 1.00248)])
def test_epo_phase_through_the_corridor(step, phase):
    # lambda = alpha = 1, one token, H = 2.5, history mean 1: penalty .5
    params = {"epo_lambda": 1.0, "epo_alpha": 1.0}
    fixture = {"rewards": [1], "entropy": [[2.5]], "params": params, "state": {"step": step, "history": [0.5, 1.5]}}
    assert evaluate("epo_entropy", fixture)["terms"]["epo_corridor"] == pytest.approx(0.5 * phase, abs=1e-5)


SELECTING = {name for name, row in ALGORITHMS.items() if row.selectors} | {"clpo"}
"""Rows that drop tokens by themselves: here those without a signal."""


def test_any_row_takes_the_corridor():
    for name in sorted(set(ALGORITHMS) - SELECTING):
        params = (
            {"epo_lambda": 0.001, "epo_alpha": 0.05, "whiten": False}
            if name in ("ppo", "ppo_turn")
            else {"epo_lambda": 0.001, "epo_alpha": 0.05}
        )
        blank = zeros(1, len(EPO["entropy"][0]))
        fixture = {**blank, **EPO, "rewards": [1], "params": params, "state": {"step": 1, "history": [1.0]}}
        # twice, because leave-one-out needs two; a mean of equal trajectories is that of one
        fixture = {key: value * 2 if isinstance(value, list) else value for key, value in fixture.items()}
        fixture["extras"] = zeros(2, len(EPO["entropy"][0]))["extras"]
        terms = evaluate(name, fixture)["terms"]
        assert terms["epo_bonus"] + terms["epo_corridor"] == pytest.approx(-0.00099183, abs=1e-8), name


# ---------------------------------------------------------------- defaults


def test_defaults_are_the_documented_ones():
    short = evaluate("grpo", {"rewards": [1, 0], "logp": [[-1, -1, -2], [-1, -1, -2]]})
    spelled = {
        "group": [0, 0],
        "trajectory": [0, 1],
        "mask": [[1, 1, 1]] * 2,
        "turn": [[0, 0, 0]] * 2,
        "rewards": [[1], [0]],
        "logp": [[-1, -1, -2]] * 2,
        "logp_old": [[-1, -1, -2]] * 2,
        "valid": [[1, 1, 1]] * 2,
        "terminated": [0, 0],
        "params": {},
        "state": {},
    }
    assert evaluate("grpo", spelled) == short
    # runs of action tokens are turns, across the rows of a trajectory
    runs = {"trajectory": [5, 5], "mask": [[1, 0, 1], [1, 1, 0]], "turn_rewards": {"5,1": 1.0, "5,2": 2.0}}
    out = evaluate("reinforce", {**runs, "params": {"gamma": 0.5}})
    # tokens in order: turn 0, 1, 2, 2 with rewards 0 1 0 2: 1 + 2/8 ... back to front 2, 1, 1.5, .75
    table_close(out["advantage"], [[0.75, 0, 1.5], [1.0, 2.0, 0]])


def test_terms_without_their_input_are_left_out():
    assert list(evaluate("epo_entropy", {"rewards": [1, 0]})["terms"]) == ["policy"]
    assert list(evaluate("ppo", {"rewards": [1, 0]})["terms"]) == ["policy"]
    assert evaluate("epo_entropy", {"rewards": [1, 0]})["state"] == {"step": 0, "history": []}


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_output_is_json_with_the_promised_keys(name):
    out = evaluate(name, {"rewards": [[1, 0.5], [0, 0.5]], "mask": [[1, 0, 1], [1, 1, 0]], **zeros(2, 3)})
    assert set(out) == {"advantage", "mask", "coef", "loss", "terms", "state"}
    assert json.loads(json.dumps(out)) == out
    assert not re.search(r"-0\.0(?!\d)", json.dumps(out["coef"]))
    for row in (0, 1):
        action = [[True, False, True], [True, True, False]][row]
        kept = [bool(x) for x in out["mask"][row]]
        assert kept == action or (name in SELECTING and all(a or not k for k, a in zip(kept, action, strict=True)))


def test_describe_lists_what_evaluate_takes():
    rows = {row["name"]: row for row in describe()}
    assert set(rows) == set(ALGORITHMS)
    assert rows["dapo"]["params"]["clip_high"] == 0.28
    assert rows["ppo"]["needs"] == ["batch_stats", "critic"] and rows["gigpo"]["unit"] == "turn"
    for name, row in rows.items():
        given = {key: row["params"][key] for key in ("unit", "reward_weights")}
        evaluate(name, {"rewards": [1, 0], "params": given, **zeros(2, 1)})


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logp": [[0, 0]]}, r"Expected logp of shape \[2\]\[2\], got \[1\]\[2\]"),
        ({"logp": [[0, 0], [0]]}, "Expected logp as numbers of shape"),
        ({"mask": [[1, 2], [1, 1]]}, "Expected mask of type 0 or 1"),
        ({"group": [0.5, 0]}, "Expected group of type whole number"),
        ({"rewards": None}, "Expected rewards"),
        ({"rewards": [1]}, r"Expected rewards of shape \[2\], got \[1\]"),
        ({"turn_rewards": {"0,9": 1}}, "which has no action tokens"),
        ({"turn_rewards": {"0-1": 1}}, "trajectory,turn"),
        ({"turn_rewards": {"0,0": 1}, "token_rewards": [[0, 1], [0, 1]]}, "got both"),
        ({"token_rewards": [[0, 1], [0, 1]], "mask": [[1, 0], [1, 1]]}, "on action tokens only"),
        ({"anchors": ["a"]}, "Expected 2 anchors"),
        ({"params": [1]}, "Expected params as an object"),
        ({"state": {"history": "x"}}, "state.history as a list of numbers"),
        ({"params": {"beta": 0.1}}, "Expected logp_ref .* because params set beta=0.1"),
        ({"params": {"epo_lambda": 0.1}}, "Expected entropy"),
        ({"params": {"behaviour": "tis"}}, "Expected logp_rollout"),
        ({"params": {"ratio_base": "rollout"}}, "Expected logp_rollout"),
        ({"mask": [[1, 1], "ab"]}, "Expected mask as a list of B lists"),
    ],
)
def test_wrong_fixtures_are_refused(change, message):
    good = {"mask": [[1, 1], [1, 1]], "rewards": [1, 0]}
    evaluate("grpo", good)
    with pytest.raises(RequestError, match=message):
        evaluate("grpo", {**good, **change})


def test_unknown_keys_and_names():
    with pytest.raises(UnknownName, match=r"fixture key 'reward'\. Did you mean 'rewards'"):
        evaluate("grpo", {"reward": [1]})
    with pytest.raises(UnknownName, match="Did you mean 'gspo'"):
        evaluate("gsop", {"rewards": [1]})
    with pytest.raises(RequestError, match="at least 2 trajectories per group"):
        evaluate("rloo", {"rewards": [1]})
    with pytest.raises(RequestError, match="Expected a JSON object"):
        evaluate("grpo", [1])  # type: ignore[arg-type]
