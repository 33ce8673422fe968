"""Rows of the table: every algorithm keeps the invariances, refuses contradictions, and can be extended."""

from __future__ import annotations

import dataclasses
import json
import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from turnwise.envs.errors import RequestError, UnknownName
from turnwise.training import algorithms as table
from turnwise.training import credit, objective
from turnwise.training.batch import EXTRAS
from turnwise.training.coefficients import no_ratio, score_function, sequence_ratio
from turnwise.training.fixture import read_batch
from turnwise.training.parameters import MEANING, RANGES, keyword_defaults
from turnwise.training.regularizers import Update

ORDERED = {"riskpo"}
"""Rows that add up the k-th returns of groups of one size, where the order of rows is part of the input."""
NAMES = sorted(set(table.ALGORITHMS) - ORDERED)
SEEDS = st.integers(0, 10**6)
FEW = settings(max_examples=8, deadline=None, derandomize=True)
STATE = {"step": 2, "history": [0.6, 0.8]}
EXTRA = {"epo_lambda": 0.05, "epo_kappa_l": 0.5, "epo_kappa_r": 1.2, "beta": 0.1, "entropy_coef": 0.02}


def play(seed):
    """A random transcript fixture with every input an algorithm may need."""
    rng = random.Random(seed)
    rows = []
    for group in (0, 1):
        for _ in range(rng.randint(2, 3)):
            parts = [[[-1] * rng.randint(1, 2), [t] * rng.randint(1, 3)] for t in range(rng.randint(1, 3))]
            rows.append((group, [t for part in parts for piece in part for t in piece]))
    T = max(len(ids) for _, ids in rows)
    turn = [ids + [-1] * (T - len(ids)) for _, ids in rows]

    def noise(low, high):
        return [[rng.uniform(low, high) for _ in range(T)] for _ in rows]

    return {
        "group": [group for group, _ in rows],
        "trajectory": list(range(len(rows))),
        "turn": turn,
        "turn_rewards": {f"{b},{t}": rng.choice([0, 0.5, 1]) for b, ids in enumerate(turn) for t in set(ids) - {-1}},
        "anchors": [[rng.choice("ab") for _ in set(ids) - {-1}] for ids in turn],
        "truncated": [rng.random() < 0.3 for _ in rows],
        "valid": [[rng.random() < 0.8] * T for _ in rows],
        "logp": noise(-2, -0.1),
        "logp_old": noise(-2, -0.1),
        "logp_rollout": noise(-2, -0.1),
        "logp_ref": noise(-2, -0.1),
        "entropy": noise(0, 2),
        "values": noise(-1, 1),
        "new_values": noise(-1, 1),
        "extras": {name: EXTRA_VALUES[what.split("]")[0]](rng, len(rows), T) for name, what in EXTRAS.items()},
    }


EXTRA_VALUES = {
    "[B": lambda rng, B, T: [rng.randint(0, 2) for _ in range(B)],
    "[B, T": lambda rng, B, T: [[rng.uniform(-2, -0.1) for _ in range(T)] for _ in range(B)],
    "[B, T, J": lambda rng, B, T: [[[rng.randint(0, 1) for _ in range(3)] for _ in range(T)] for _ in range(B)],
}
"""Random entries of `Batch.extras` by their shape: small whole numbers by row, something like log-probs by token."""


def windowed(fixture):
    """The same episodes, one row per turn: each turn's action tokens behind one environment token."""
    keys = ("logp", "logp_old", "logp_rollout", "logp_ref", "entropy", "values", "new_values", "valid")
    rows = {key: [] for key in (*keys, "group", "trajectory", "turn", "truncated", "anchors")}
    extras = {name: [] for name in fixture["extras"]}
    for b, ids in enumerate(fixture["turn"]):
        for t in sorted(set(ids) - {-1}):
            spots = [i for i, x in enumerate(ids) if x == t]
            pad = 3 - len(spots)
            rows["turn"].append([-1] + [t] * len(spots) + [-1] * pad)
            for key in keys:
                rows[key].append([0.0] + [fixture[key][b][i] for i in spots] + [0.0] * pad)
            for key in ("group", "trajectory", "truncated"):
                rows[key].append(fixture[key][b])
            rows["anchors"].append([fixture["anchors"][b][t]])
            for name, values in fixture["extras"].items():
                by_token = isinstance(values[b], list)
                blank = [0] * 3 if by_token and isinstance(values[b][0], list) else 0.0
                extras[name].append([blank, *(values[b][i] for i in spots), *[blank] * pad] if by_token else values[b])
    return {"turn_rewards": fixture["turn_rewards"], **rows, "extras": extras}


class Outcome:
    """Everything an algorithm does to a batch, gradients included."""

    def __init__(self, name, fixture, params=None, split=None, order=None):
        self.algorithm, self.params = table.resolve(name, {**EXTRA, **(params or {})})
        batch, logp, new_values = read_batch(fixture)
        if order is not None:
            batch, logp, new_values = batch.rows(order), logp[order], new_values[order]
        self.batch, self.credit = batch, objective.advantages(self.algorithm, self.params, batch)
        self.leaves = [x.clone().requires_grad_() for x in (logp, batch.entropy, new_values)]
        whole = objective.coefficient(self.algorithm, self.params, batch, self.credit.adv_BT, logp)
        weights = objective.loss_weights(self.algorithm, self.params, batch, self.credit.weight_BT)
        self.coef, self.loss, self.value = whole.coef_BT, 0.0, 0.0
        for rows in split or [torch.arange(len(batch.group))]:
            returns = None if self.credit.returns_BT is None else self.credit.returns_BT[rows]
            now, entropy, values = (leaf[rows] for leaf in self.leaves)
            update = Update(batch.rows(rows), weights.rows(rows), now, entropy, values, returns, STATE)
            part = whole
            if not {"unit_complete", "whole_minibatch"} & table.needs(self.algorithm, self.params):  # rows stand alone
                adv = self.credit.adv_BT[rows]
                part = objective.coefficient(self.algorithm, self.params, update.batch, adv, now.detach())
            else:
                part = part._replace(coef_BT=part.coef_BT[rows], surrogate_BT=part.surrogate_BT[rows])
            loss, terms = objective.total_loss(self.algorithm, self.params, update, part)
            loss.backward()
            self.loss += loss.item()
            self.value += sum(float(term) for term in terms.values())

    @property
    def grads(self):
        return [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in self.leaves]

    def by_token(self, x):
        """{(trajectory, turn, n-th token of the turn): value}, the same keys in both layouts."""
        found, seen = {}, {}
        for b, i in self.batch.mask.nonzero().tolist():
            key = (int(self.batch.trajectory[b]), int(self.batch.turn[b, i]))
            seen[key] = seen.get(key, -1) + 1
            found[(*key, seen[key])] = x[b, i].item()
        return found


# ---------------------------------------------------------------- invariances of every row


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(seed=SEEDS)
def test_both_layouts_give_the_same_numbers(name, seed):
    fixture = play(seed)
    params = {"length_norm": 9, "mask_truncated": seed % 2 == 0 and not all(fixture["truncated"])}
    one, many = Outcome(name, fixture, params), Outcome(name, windowed(fixture), params)
    assert many.by_token(many.credit.adv_BT) == pytest.approx(one.by_token(one.credit.adv_BT), abs=1e-9)
    assert many.by_token(many.coef) == pytest.approx(one.by_token(one.coef), abs=1e-9)
    assert [many.loss, many.value] == pytest.approx([one.loss, one.value], abs=1e-9)
    for here, there in zip(one.grads, many.grads, strict=True):
        assert many.by_token(there) == pytest.approx(one.by_token(here), abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(seed=SEEDS)
def test_row_order_does_not_matter(name, seed):
    fixture = windowed(play(seed)) if seed % 2 else play(seed)
    order = torch.randperm(len(fixture["group"]), generator=torch.Generator().manual_seed(seed))
    plain, mixed = Outcome(name, fixture), Outcome(name, fixture, order=order)
    assert torch.allclose(mixed.credit.adv_BT, plain.credit.adv_BT[order], atol=1e-9)
    assert torch.allclose(mixed.coef, plain.coef[order], atol=1e-9)
    assert mixed.loss == pytest.approx(plain.loss, abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(seed=SEEDS)
def test_micro_batches_add_up(name, seed):
    fixture = windowed(play(seed)) if seed % 2 else play(seed)
    B = len(fixture["group"])
    cut = 1 + seed % (B - 1)
    order = torch.randperm(B, generator=torch.Generator().manual_seed(seed))
    whole, split = Outcome(name, fixture), Outcome(name, fixture, split=[order[:cut], order[cut:]])
    assert [split.loss, split.value] == pytest.approx([whole.loss, whole.value], abs=1e-6)
    for a, b in zip(whole.grads, split.grads, strict=True):
        assert torch.allclose(a, b, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(seed=SEEDS)
def test_masked_tokens_change_nothing_and_get_no_gradient(name, seed):
    fixture = play(seed)
    wild = json.loads(json.dumps(fixture))
    for key in ("logp", "logp_old", "logp_rollout", "logp_ref", "entropy", "values", "new_values"):
        for b, ids in enumerate(wild["turn"]):
            wild[key][b] = [x if t >= 0 else 1e3 * (b + 1) for x, t in zip(wild[key][b], ids, strict=True)]
    for values in wild["extras"].values():
        for b, ids in enumerate(wild["turn"]):
            if isinstance(values[b], list):
                other = [7] * 3 if isinstance(values[b][0], list) else 1e3 * (b + 1)
                values[b] = [x if t >= 0 else other for x, t in zip(values[b], ids, strict=True)]
    params = {"kl_reward_coef": 0.1, "behaviour": "tis"}
    one, other = Outcome(name, fixture, params), Outcome(name, wild, params)
    assert torch.equal(one.coef, other.coef) and one.loss == other.loss
    for grad in (*one.grads, *other.grads):
        assert (grad[~one.batch.mask] == 0).all()
    assert (one.coef[~one.batch.mask] == 0).all() and (one.credit.adv_BT[~one.batch.mask] == 0).all()


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"cispo", "chord"}))
@FEW
@given(seed=SEEDS)
def test_gradient_is_that_of_the_logged_loss(name, seed):
    # cispo's logged value holds a stopped gradient, as phi does in chord's: their finite difference is another thing
    fixture = play(seed)
    wide = {"clip_low": 0.2, "clip_high": 0.3, "beta": 0.0, "epo_lambda": 0.0, "kl_old_coef": 0.0, "remix_kl": 0.0}
    known = table.ALGORITHMS[name].defaults()
    algorithm, params = table.resolve(name, {key: value for key, value in wide.items() if key in known})
    batch, logp, _ = read_batch(fixture)
    adv, returns, *_ = objective.advantages(algorithm, params, batch)
    weights = objective.loss_weights(algorithm, params, batch)

    def surrogate(x):
        result = objective.coefficient(algorithm, params, batch, adv, x)
        return (weights.policy_BT * result.surrogate_BT).sum().item()

    leaf = logp.clone().requires_grad_()
    update = Update(batch, weights, leaf, batch.entropy, batch.values, returns, {})
    objective.total_loss(algorithm, params, update, objective.coefficient(algorithm, params, batch, adv, leaf))[
        0
    ].backward()
    assert leaf.grad is not None
    for b, i in batch.mask.nonzero().tolist()[:: 1 + seed % 3]:
        up, down = logp.clone(), logp.clone()
        up[b, i] += 1e-6
        down[b, i] -= 1e-6
        assert leaf.grad[b, i].item() == pytest.approx((surrogate(up) - surrogate(down)) / 2e-6, abs=1e-5)


NOT_CENTRED = {
    "ppo",
    "ppo_turn",
    "t_ppo",
    "reinforce",
    "asymre",
    "epo_explicit",
    "empg",
}  # empg: the bonus is paid whatever the outcome
"""Rows whose advantage is not against the group: equal rewards still say something about values or returns."""
AIM_AT_RETURNS = {"copg", "flow_of_reasoning", "trpa"}
"""Rows whose advantage is the return itself, which their regression compares with log-ratios."""


@pytest.mark.parametrize("name", sorted(set(NAMES) - NOT_CENTRED - AIM_AT_RETURNS))
def test_equal_rewards_teach_nothing(name):
    fixture = {"rewards": [0.1] * 3, "mask": [[1, 1]] * 3, "anchors": [["s"]] * 3, "logp_ref": [[0.0, 0.0]] * 3}
    fixture["entropy"] = [[0.5, 0.5]] * 3
    blank = {"[B": [0] * 3, "[B, T": [[0.0, 0.0]] * 3, "[B, T, J": [[[0], [0]]] * 3}
    fixture["extras"] = {name: blank[what.split("]")[0]] for name, what in EXTRAS.items()}
    algorithm, params = table.resolve(name)
    for dtype in (torch.float32, torch.float64):
        batch, logp, _ = read_batch(fixture)
        batch = dataclasses.replace(batch, rewards=batch.rewards.to(dtype))
        credit_ = objective.advantages(algorithm, params, batch)
        assert (credit_.adv_BT == 0).all() and credit_.metrics["adv/zero"] == 1.0
        zero = torch.zeros_like(logp, dtype=dtype)
        batch = dataclasses.replace(batch, logp_old=zero, logp_ref=zero)
        assert (objective.coefficient(algorithm, params, batch, credit_.adv_BT, zero).coef_BT == 0).all()


# ---------------------------------------------------------------- relations between rows


@FEW
@given(seed=SEEDS)
def test_special_cases_equal_simpler_rows(seed):
    fixture = play(seed)
    fixture["turn"] = [[0] + [-1] * (len(ids) - 1) for ids in fixture["turn"]]  # one action token per episode
    fixture["turn_rewards"] = {f"{b},0": (seed + b) % 3 for b in range(len(fixture["turn"]))}
    fixture["anchors"] = [[str(b)] for b in range(len(fixture["turn"]))]
    plain = {"clip_low": 0.2, "clip_high": 0.2, "beta": 0.1, "epo_lambda": 0.05, "dual_clip": None}
    grpo = Outcome("grpo", fixture, plain)
    for name in ("gspo", "dapo", "epo_entropy"):
        other = Outcome(name, fixture, plain)
        assert torch.allclose(other.coef, grpo.coef, atol=1e-9), name
        assert other.loss == pytest.approx(grpo.loss, abs=1e-9), name
    lone_steps = Outcome("gigpo", fixture, {**plain, "invalid_penalty": 0.0})
    assert torch.allclose(lone_steps.coef, grpo.coef, atol=1e-9)
    n = torch.bincount(grpo.batch.group)[grpo.batch.group][:, None]
    dr, rloo = (objective.advantages(*table.resolve(name), grpo.batch).adv_BT for name in ("dr_grpo", "rloo"))
    assert torch.allclose(dr, rloo * (n - 1) / n, atol=1e-9)


def test_on_policy_coefficient_is_the_advantage():
    fixture = play(3)
    fixture["logp"] = fixture["logp_old"]
    for name in NAMES:
        row = table.ALGORITHMS[name]
        if row.coef is not None or row.guards or row.expert is not None:
            continue  # regressions, masks and imitation have other fixed points, tested with them
        outcome = Outcome(name, fixture)
        assert torch.allclose(outcome.coef, outcome.credit.adv_BT, atol=1e-12), name


def test_kl_in_reward_reaches_group_methods():
    fixture = {"rewards": [1, 0], "logp_old": [[-1.0], [-1.0]], "logp_ref": [[-2.0], [-1.0]]}
    batch = read_batch(fixture)[0]
    adv = objective.advantages(*table.resolve("rloo", {"kl_reward_coef": 0.5}), batch).adv_BT
    assert adv.flatten().tolist() == [0.5, -0.5]  # returns 1 - .5 and 0


def test_bypass_mode_takes_the_engine_as_base():
    fixture = {
        "rewards": [1, 0],
        "logp": [[-1.0], [-1.0]],
        "logp_old": [[-1.1], [-1.0]],
        "logp_rollout": [[-1.15], [-1.0]],
    }
    batch, logp, _ = read_batch(fixture)
    algorithm, params = table.resolve("rloo", {"ratio_base": "rollout"})
    coef = objective.coefficient(algorithm, params, batch, torch.ones(2, 1, dtype=torch.float64), logp).coef_BT
    assert coef.flatten().tolist() == pytest.approx([math.exp(0.15), 1.0])


def test_truncated_rows_leave_the_loss_and_its_denominator():
    fixture = {"rewards": [1, 0, 0], "truncated": [0, 1, 0], "mask": [[1, 1], [1, 1], [1, 0]]}
    batch = read_batch(fixture)[0]
    weights = objective.loss_weights(*table.resolve("grpo", {"mask_truncated": True}), batch)
    assert weights.policy_BT.tolist() == [[0.25, 0.25], [0, 0], [0.5, 0]]
    assert weights.token_BT.sum().item() == weights.hierarchy_BT.sum().item() == 1.0
    assert objective.loss_weights(*table.resolve("grpo"), batch).policy_BT[1, 0].item() == pytest.approx(1 / 6)


def test_metrics_numbers():
    old = [[0.5, 0.4, 0.2], [0.3, 0.6, 0.5]]
    new = [[0.55, 0.3, 0.3], [0.2, 0.9, 0.5]]
    table_ = {key: [[math.log(p) for p in row] for row in rows] for key, rows in {"logp": new, "logp_old": old}.items()}
    batch, logp, _ = read_batch({"rewards": [1, 0], "mask": [[1, 1, 1], [1, 1, 0]], **table_})
    algorithm, params = table.resolve("rloo")
    metrics = objective.coefficient(
        algorithm, params, batch, credit.spread(batch, torch.tensor([1.0, -1.0])), logp
    ).metrics
    assert metrics["clip_fraction"] == pytest.approx(0.4)  # 1.5 with A > 0 and 2/3 with A < 0, of 5
    assert metrics["ratio/max"] == pytest.approx(1.5)
    assert metrics["ratio/mean"] == pytest.approx((1.1 + 0.75 + 1.5 + 2 / 3 + 1.5) / 5)
    want = sum(r - 1 - math.log(r) for r in (1.1, 0.75, 1.5, 2 / 3, 1.5)) / 5
    assert metrics["approx_kl"] == pytest.approx(want)


# ---------------------------------------------------------------- requests


def test_unknown_names_are_guessed():
    with pytest.raises(UnknownName, match="Did you mean 'dr_grpo'"):
        table.resolve("drgrpo")
    with pytest.raises(UnknownName, match=r"parameter of grpo 'clip_hihg'\. Did you mean 'clip_high'"):
        table.resolve("grpo", {"clip_hihg": 0.3})
    with pytest.raises(UnknownName, match="parameter of grpo 'lam'"):
        table.resolve("grpo", {"lam": 0.9})


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("grpo", {"clip_low": 1.0}, r"clip_low in \[0, 1\)"),
        ("grpo", {"clip_high": -0.1}, "clip_high in"),
        ("ppo", {"gamma": 1.5}, r"gamma in \[0, 1\]"),
        ("ppo", {"whiten": 1}, "whiten to be true or false"),
        ("ppo", {"lam": "0.9"}, "lam to be a finite number"),
        ("ppo", {"lam": float("nan")}, "lam to be a finite number"),
        ("grpo", {"aggregator": "mean"}, "one of 'token_mean', 'seq_mean_token_mean'"),
        ("dr_grpo", {"length_norm": 1.5}, "length_norm to be a whole number or None"),
        ("grpo", {"reward_weights": "success"}, "reward_weights to be"),
        ("grpo", {"behaviour": "tis", "ratio_base": "rollout"}, "behaviour=none with ratio_base=rollout"),
        ("gspo", {"aggregator": "token_mean"}, "aggregator=seq_mean_token_mean for gspo"),
        ("grpo", {"epo_kappa_l": 3.0}, "epo_kappa_l <= epo_kappa_r"),
        ("grpo", {"behaviour_low": 3.0}, "behaviour_low <= behaviour_high"),
    ],
)
def test_wrong_settings_are_refused(name, params, message):
    with pytest.raises(RequestError, match=message):
        table.resolve(name, params)


@pytest.mark.parametrize(
    ("name", "params", "setting", "message"),
    [
        ("rloo", {}, {"samples_per_task": 1}, "samples_per_task >= 2 for rloo"),
        ("gigpo", {"beta": 0.0}, {"samples_per_task": 1}, "samples_per_task >= 2 for gigpo"),
        ("reinforce_pp", {"baseline": "group"}, {"samples_per_task": 1}, "samples_per_task >= 2 for reinforce_pp"),
        ("ppo", {}, {}, "a critic for ppo"),
        ("rloo", {"kl_reward_coef": 0.01}, {}, "a reference model for rloo"),
        ("gigpo", {}, {}, "a reference model for gigpo"),
        ("grpo", {"behaviour": "tis"}, {"has_rollout_logp": False}, "log-probs from the sampling engine"),
        ("reinforce", {}, {"epochs": 2}, "epochs=1 for reinforce"),
        ("grpo", {}, {"layout": "rows"}, "layout 'transcript' or 'windowed'"),
    ],
)
def test_contradictory_recipes_are_refused(name, params, setting, message):
    algorithm, resolved = table.resolve(name, params)
    fine = {"samples_per_task": 8, "has_reference": True, "has_critic": True}
    table.check(algorithm, resolved, **fine)
    with pytest.raises(RequestError, match=message):
        table.check(algorithm, resolved, **{"samples_per_task": 8, **setting})


def test_inert_entropy_floor_is_reported():
    algorithm, params = table.resolve("epo_entropy")
    with pytest.warns(UserWarning, match="epo_kappa_l=0"):
        table.check(algorithm, params, samples_per_task=8, has_reference=True)


def test_needs_follow_the_settings():
    assert table.needs(*table.resolve("grpo")) == {"group_complete"}
    assert table.needs(*table.resolve("grpo", {"epo_lambda": 0.1})) == {"group_complete", "entropy"}
    assert table.needs(*table.resolve("grpo", {"behaviour": "seq_tis"})) == {
        "group_complete",
        "rollout_logp",
        "unit_complete",
    }
    assert table.needs(*table.resolve("epo_entropy")) == {"group_complete", "entropy", "ref_logp"}
    assert "unit_complete" in table.needs(*table.resolve("gspo"))


# ---------------------------------------------------------------- the table itself


def test_parts_that_share_a_parameter_agree_on_its_default():
    for row in table.ALGORITHMS.values():
        seen = {}
        for part in row.parts():
            for name, default in keyword_defaults(part).items():
                assert name in row.params or seen.setdefault(name, default) == default, (row.name, name)


def test_every_parameter_is_explained_and_every_row_sourced():
    rows = [*table.describe(), *table.describe_parts()]
    used = {name for row in rows for name in row["params"]}
    assert used == set(MEANING)
    assert set(RANGES) <= used
    for row in rows:
        assert row["source"] and row["left_out"] and row["paper"], row["name"]
    for row in table.describe():
        for name, value in row["params"].items():
            table.resolve(row["name"], {name: value})
    assert json.loads(json.dumps(table.describe())) == table.describe()


def test_sequence_ratio_rows_declare_that_units_stay_whole():
    for row in table.ALGORITHMS.values():
        if row.coef is None and row.ratio is sequence_ratio:
            assert "unit_complete" in row.needs


def best_of_group(batch, rewards, *, margin: float = 0.0):
    """1 for trajectories within `margin` of the batch's best return, else 0."""
    best = rewards.trajectory_M.max()
    return credit.Credit(credit.spread(batch, (rewards.trajectory_M >= best - margin).to(rewards.trajectory_M.dtype)))


def test_a_new_algorithm_is_one_function_and_one_row(monkeypatch):
    monkeypatch.setattr(table, "ALGORITHMS", dict(table.ALGORITHMS))
    row = table.Algorithm("best_of", "ours", "trajectory", best_of_group, ratio=no_ratio, stability=score_function)
    table.register_algorithm(row)
    batch = read_batch({"rewards": [3, 2, 0]})[0]
    got = objective.advantages(*table.resolve("best_of", {"margin": 1.5}), batch)
    assert got.adv_BT.flatten().tolist() == [1, 1, 0]
    with pytest.raises(RequestError, match="exists; pass replace=True"):
        table.register_algorithm(row)
    with pytest.raises(RequestError, match=r"got \['marign'\]"):
        table.register_algorithm(dataclasses.replace(row, name="typo", params={"marign": 1.0}))
    assert "typo" not in table.ALGORITHMS
