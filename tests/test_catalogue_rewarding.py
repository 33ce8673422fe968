"""Reward transforms and what belongs to them: the numbers of the papers, loops as references, invariances."""

from __future__ import annotations

import math
import random
import statistics
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from turnwise.training import algorithms as table
from turnwise.training import objective
from turnwise.training.batch import Batch
from turnwise.training.catalogue import rewarding
from turnwise.training.credit import Rewards, total_rewards
from turnwise.training.fixture import evaluate, read_batch
from turnwise.training.regularizers import Update, Weights

FEW = settings(max_examples=20, deadline=None, derandomize=True)
CLUSTERS = {"extras": {"cluster": [0, 0, 1, 2]}}


def advantages(name: str, fixture: dict[str, Any]) -> list[float]:
    return [row[0] for row in evaluate(name, fixture)["advantage"]]


def reading(fixture: dict[str, Any]) -> tuple[Batch, Rewards]:
    batch = read_batch(fixture)[0]
    return batch, total_rewards(batch)


def random_play(seed: int) -> dict[str, Any]:
    """Two groups of one-row trajectories of up to six action tokens, each behind an environment token."""
    rng = random.Random(seed)
    B, T = rng.randint(4, 8), 7
    turn = [[-1] + [t // 2 for t in range(n)] + [-1] * (T - 1 - n) for n in (rng.randint(1, T - 1) for _ in range(B))]
    return {
        "group": [b % 2 for b in range(B)],
        "turn": turn,
        "rewards": [rng.choice([0.0, 0.5, 1.0]) for _ in range(B)],
        "logp_rollout": [[rng.uniform(-3, -0.1) for _ in range(T)] for _ in range(B)],
        "values": [[rng.uniform(-1, 1) for _ in range(T)] for _ in range(B)],
        "truncated": [int(rng.random() < 0.4) for _ in range(B)],
        "valid": [[int(rng.random() < 0.8)] * T for _ in range(B)],
        "extras": {
            "cluster": [rng.randint(0, 2) for _ in range(B)],
            "flawed": [rng.randint(0, 1) for _ in range(B)],
            "budget": [rng.choice([0, 2, 4]) for _ in range(B)],
        },
    }


# ---------------------------------------------------------------- numbers


def test_darling_numbers() -> None:
    # clusters {0, 1}, {2}, {3}: shares that differ 2/4, 2/4, 3/4, 3/4; r = .5, 0, .75, .75, mean .5
    fixture = {"rewards": [1, 0, 1, 1], **CLUSTERS}
    batch, rewards = reading(fixture)
    assert rewarding.diversity(batch).tolist() == [0.5, 0.5, 0.75, 0.75]
    assert rewarding.diverse(rewards, batch).trajectory_M.tolist() == [0.5, 0, 0.75, 0.75]
    assert advantages("darling", fixture) == pytest.approx([0, -0.5, 0.25, 0.25], abs=1e-9)


def test_fapo_numbers() -> None:
    # [good, flawed, wrong, wrong] = [1, 0, -1, -1]: mean -.25, std .957427
    for outcome in ([1, 1, 0, 0], [1, 1, -1, -1]):
        got = advantages("fapo", {"rewards": outcome, "extras": {"flawed": [0, 1, 0, 0]}})
        assert got == pytest.approx([1.305582, 0.261116, -0.783349, -0.783349], abs=2e-6)
    got = advantages("fapo", {"rewards": [1, 1, 1, 1], "extras": {"flawed": [0, 1, 0, 0]}})
    assert got == pytest.approx([0.5, -1.5, 0.5, 0.5], abs=1e-5)
    # lambda 0: a flawed win is a win; a flaw of a lost trajectory changes nothing
    same = {"rewards": [1, 1, 0, 0], "extras": {"flawed": [0, 1, 0, 1]}, "params": {"flaw_penalty": 0.0}}
    assert advantages("fapo", same) == pytest.approx([0.866025, 0.866025, -0.866025, -0.866025], abs=1e-5)


def test_fapo_leaves_the_overlong_penalty() -> None:
    # 3 tokens where 2 is the maximum: -1 more for each; outcomes 1 and -1 -> 0 and -2
    fixture = {"rewards": [1, 0], "mask": [[1, 1, 1]] * 2, "extras": {"flawed": [0, 0]}}
    batch = read_batch(fixture)[0]
    rewards = rewarding.flawed_positives(total_rewards(batch, overlong_max=2, overlong_cache=1), batch)
    assert rewards.trajectory_M.tolist() == [0.0, -2.0]
    assert rewards.token_BT.tolist() == [[0, 0, 0.0], [0, 0, -2.0]]


def test_seed_grpo_numbers() -> None:
    # exp of -1, -1, -2, -3 over their sum, by cluster: .798973, .146963, .054065
    fixture = {"rewards": [1, 0, 1, 0], "logp": [[-1.0], [-1.0], [-2.0], [-3.0]], **CLUSTERS}
    entropy = -sum(p * math.log(p) for p in (0.798973, 0.146963, 0.054065))
    assert entropy == pytest.approx(0.618862, abs=2e-6)
    assert rewarding.semantic_entropy(reading(fixture)[0]).tolist() == pytest.approx([0.618862], abs=1e-6)
    plain = advantages("grpo", {"rewards": [1, 0, 1, 0]})
    for params, scale in (
        ({}, 0.991072),
        ({"seed_form": "inverse", "seed_alpha": 0.0417}, 0.981725),
        ({"seed_form": "exponential"}, math.exp(-0.02 * 0.618862 / math.log(4))),
    ):
        got = advantages("seed_grpo", fixture | {"params": params})
        assert got == pytest.approx([scale * a for a in plain], abs=1e-6)


def test_seed_grpo_reads_the_mean_log_prob_of_the_sampler() -> None:
    # two tokens of -1 each are as likely, per token, as one of -1; the trainer's log-probs are not asked
    fixture = {
        "rewards": [1, 0], "mask": [[1, 1], [1, 0]], "logp_rollout": [[-1.0, -1.0], [-1.0, 9.0]],
        "logp": [[-5.0, -5.0], [-0.1, 0.0]], "extras": {"cluster": [0, 1]},
    }  # fmt: skip
    assert rewarding.semantic_entropy(reading(fixture)[0]).tolist() == pytest.approx([math.log(2)])


def test_ppo_max_numbers() -> None:
    # r = 3, 1, 2, 6: mean 3, population std 1.870829, bound .8; minus .05 * .4 of KL
    fixture: dict[str, Any] = {
        "rewards": [3, 1, 2, 6], "params": {"reward_clip": 0.8, "whiten": False, "kl_reward_coef": 0.0},
    }  # fmt: skip
    got = evaluate("ppo_max", fixture)
    assert [row[0] for row in got["advantage"]] == pytest.approx([0, -0.8, -0.534522, 0.8], abs=1e-6)
    assert got["state"]["reward_moments"] == pytest.approx([4, 3, 14])
    fixture["params"]["kl_reward_coef"] = 0.05
    fixture |= {"logp_old": [[-1.0]] * 4, "logp_ref": [[-1.4]] * 4}
    assert advantages("ppo_max", fixture) == pytest.approx([-0.02, -0.82, -0.554522, 0.78], abs=1e-6)
    # what the released code does instead: r / std
    assert [r / math.sqrt(3.5) for r in (3, 1, 2, 6)] == pytest.approx(
        [1.603567, 0.534522, 1.069045, 3.207135], abs=1e-6
    )


def test_ppo_max_remembers_earlier_rewards() -> None:
    # outcomes so far 0, 0, 0, 1, 2; now 3: mean 1, population variance 8 / 6 -> 2 / 1.154701
    fixture: dict[str, Any] = {
        "rewards": [3], "params": {"whiten": False, "kl_reward_coef": 0.0},
        "state": {"reward_moments": [5, 0.6, 3.2]},
    }  # fmt: skip
    got = evaluate("ppo_max", fixture)
    assert got["advantage"][0][0] == pytest.approx(1.732051, abs=1e-6)
    assert got["state"]["reward_moments"] == pytest.approx([6, 1, 8])


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=12), st.integers(1, 11))
@FEW
def test_moments_do_not_depend_on_the_steps_they_came_in(outcomes: list[float], cut: int) -> None:
    cut = min(cut, len(outcomes) - 1)
    first = rewarding.moments({}, torch.tensor(outcomes[:cut], dtype=torch.float64))
    both = rewarding.moments({"reward_moments": first}, torch.tensor(outcomes[cut:], dtype=torch.float64))
    want = len(outcomes), statistics.mean(outcomes), statistics.pvariance(outcomes) * len(outcomes)
    assert both == pytest.approx(want, abs=1e-9)


def test_t_ppo_numbers() -> None:
    # unfinished, V = .5, .6, .7: deltas .1, .1, 0 -> 0, .1, .1 + .95 * .1
    fixture: dict[str, Any] = {
        "rewards": [0], "values": [[0.5, 0.6, 0.7]], "truncated": [1], "params": {"whiten": False},
    }  # fmt: skip
    assert evaluate("t_ppo", fixture)["advantage"][0] == pytest.approx([0.195, 0.1, 0.0], abs=1e-9)
    ended = evaluate("t_ppo", fixture | {"truncated": [0]})["advantage"][0]
    assert ended == pytest.approx([-0.43675, -0.565, -0.7], abs=1e-9)
    fixture["params"] = {"whiten": False, "bootstrap": False}
    assert evaluate("t_ppo", fixture)["advantage"][0] == pytest.approx(ended)


def test_t_ppo_critic_learns_from_finished_trajectories_only() -> None:
    # returns are Monte-Carlo (1 on each token of the finished one): .5 ((.5 - 1)^2 + (.6 - 1)^2) / 4 tokens
    fixture = {
        "rewards": [1, 0], "values": [[0.5, 0.6], [0.5, 0.6]], "truncated": [0, 1], "mask": [[1, 1], [1, 1]],
        "params": {"whiten": False, "value_clip": None},
    }  # fmt: skip
    assert evaluate("t_ppo", fixture)["terms"]["finished_value_loss"] == pytest.approx(0.5 * 0.41 / 4)
    batch, _, _ = read_batch(fixture)
    algorithm, params = table.resolve("t_ppo", fixture["params"])
    credit = objective.advantages(algorithm, params, batch)
    assert credit.returns_BT is not None
    assert credit.returns_BT[0].tolist() == [1, 1] and credit.returns_BT[1].isnan().all()
    values = torch.tensor([[0.4, 0.4], [0.3, 0.3]], dtype=torch.float64, requires_grad=True)
    weight_BT = torch.full((2, 2), 0.25, dtype=torch.float64)
    update = Update(batch, Weights(weight_BT, weight_BT, weight_BT), batch.mask * 1.0, None, values, credit.returns_BT)
    loss = rewarding.finished_value_loss(update)
    assert loss is not None
    loss.backward()
    assert values.grad is not None
    assert (values.grad[0] != 0).all() and (values.grad[1] == 0).all()  # not NaN: the optimiser would spread it


def hbpo_reward(budget: int, length: int, won: bool = True) -> float:
    fixture = {"rewards": [int(won)], "mask": [[1] * length], "extras": {"budget": [budget]}}
    batch, rewards = reading(fixture)
    return rewarding.budget_reward(rewards, batch).trajectory_M.item()


def test_hbpo_rewards() -> None:
    # 2.222273 is with a pi of 3.1416, as the authors' number; with pi it is 2.222281
    # f(400) = 3.953 -> 3.95 - 112 / 4096; at 512 the bound f(512) = 3.923141 is above round(f(n), 2) = 3.92
    for budget, length, want in (
        (512, 400, 3.922656), (512, 512, 3.92), (512, 1500, 3.118789), (0, 1500, 3.36), (2560, 1500, 2.222273),
        (512, 4097, 0.0), (0, 4097, 0.0),
    ):  # fmt: skip
        assert hbpo_reward(budget, length) == pytest.approx(want, abs=1e-5), (budget, length)
        # a group of one has z = R; its budget adds R - f(b)
        alone = {"rewards": [1], "mask": [[1] * length], "extras": {"budget": [budget]}}
        extra = want - 4 * math.cos(math.pi * budget / 8192) if budget else 0.0
        assert advantages("hbpo", alone) == pytest.approx([want + extra], abs=2e-5)
    assert hbpo_reward(512, 400, won=False) == 0
    curve = rewarding.budget_curve(torch.tensor([512.0, 1024, 2048, 2560]), 4096)
    assert curve.tolist() == pytest.approx([3.923141, 3.695517, 2.828427, 2.222281], abs=1e-5)


def test_hbpo_numbers() -> None:
    # z over the group of four, plus (subgroup mean - f(b)): 1.95 - 3.923141 and 3 - 3.695517, counted once
    fixture = {
        "rewards": [3.9, 0, 3, 3], "extras": {"budget": [512, 512, 1024, 1024]},
        "slots": {"estimator": "budget_relative"},
    }  # fmt: skip
    got = advantages("grpo", fixture)
    assert got == pytest.approx([-1.136713, -3.425884, -0.387359, -0.387359], abs=1e-5)


def test_hbpo_format_error() -> None:
    # lost with an invalid turn: -1; lost: 0; won with an invalid turn is won
    fixture = {"rewards": [0, 0, 1], "valid": [[0], [1], [0]], "extras": {"budget": [0, 0, 0]}}
    batch, rewards = reading(fixture)
    assert rewarding.budget_reward(rewards, batch).trajectory_M.tolist() == [-1, 0, 4]


def test_one_shot_rlvr_numbers() -> None:
    # policy -.15, k3 .02, entropy of (.7, .2, .1): -.15 + .001 * .02 - .001 * .801819
    entropy = -sum(p * math.log(p) for p in (0.7, 0.2, 0.1))
    assert entropy == pytest.approx(0.801819, abs=1e-6)
    ratio = 1 + 0.3 / math.sqrt(0.5)  # -(.707107 r - .707107) / 2 = -.15
    low, high = 0.0, 1.0
    for _ in range(60):  # exp(x) - 1 - x = .02
        x = (low + high) / 2
        low, high = (x, high) if math.exp(x) - 1 - x < 0.02 else (low, x)
    fixture = {
        "rewards": [1, 0], "logp": [[math.log(ratio) - 2], [-2.0]], "logp_old": [[-2.0], [-2.0]],
        "logp_ref": [[math.log(ratio) - 2 + low], [-2.0 + low]], "entropy": [[entropy], [entropy]],
        "params": {"clip_high": 1.0},
    }  # fmt: skip
    got = evaluate("one_shot_rlvr", fixture)
    assert got["terms"]["policy"] == pytest.approx(-0.15, abs=1e-6)
    assert got["loss"] == pytest.approx(-0.150782, abs=1e-6)
    alone = evaluate("one_shot_rlvr", fixture | {"params": {"policy_coef": 0.0}})
    assert alone["loss"] == pytest.approx(-0.000782, abs=1e-6) and alone["coef"] == [[0.0], [0.0]]


# ---------------------------------------------------------------- Policy Cliff


def soft_policy(rewards: list[float], alpha: float) -> list[float]:
    """The optimum of E[R] + alpha H at gamma 0: softmax(R / alpha)."""
    return torch.softmax(torch.tensor(rewards, dtype=torch.float64) / alpha, -1).tolist()


def distance(one: list[float], two: list[float], alpha: float) -> float:
    """Total variation of the two soft-optimal policies."""
    return sum(abs(p - q) for p, q in zip(soft_policy(one, alpha), soft_policy(two, alpha), strict=True)) / 2


def test_policy_cliff_numbers() -> None:
    for alpha, found, bound in ((1.0, 0.002442, 0.005), (0.1, 0.024979, 0.05), (0.01, 0.231059, 0.5)):
        assert distance([1, 1, 0], [1.01, 1, 0], alpha) == pytest.approx(found, abs=1e-6)
        assert found <= 0.01 / (2 * alpha) == pytest.approx(bound)
    assert distance([1, 1, 0], [1.01, 1, 0], 1e-4) == pytest.approx(0.5, abs=1e-6)  # without entropy: a cliff


@given(st.lists(st.tuples(st.floats(-2, 2), st.floats(-2, 2)), min_size=2, max_size=6), st.floats(0.05, 5))
@FEW
def test_entropy_keeps_the_policy_from_falling_off_a_cliff(pairs: list[tuple[float, float]], alpha: float) -> None:
    """TV(pi_1, pi_2) <= max |R_1 - R_2| / (2 alpha (1 - gamma)) at gamma 0."""
    one, two = [a for a, _ in pairs], [b for _, b in pairs]
    assert distance(one, two, alpha) <= max(abs(a - b) for a, b in pairs) / (2 * alpha) + 1e-12


# ---------------------------------------------------------------- loops as references


@given(st.integers(0, 10**6))
@FEW
def test_against_loops(seed: int) -> None:
    fixture = random_play(seed)
    batch, rewards = reading(fixture)
    B, group, extras = len(fixture["group"]), fixture["group"], fixture["extras"]
    length = [sum(t >= 0 for t in row) for row in fixture["turn"]]
    own = [[j for j in range(B) if group[j] == group[i]] for i in range(B)]
    same = [[j for j in own[i] if extras["cluster"][j] == extras["cluster"][i]] for i in range(B)]
    diverse = [fixture["rewards"][i] * (len(own[i]) - len(same[i])) / len(own[i]) for i in range(B)]
    got = rewarding.diverse(rewards, batch)
    assert got.trajectory_M.tolist() == pytest.approx(diverse)
    assert got.token_BT.sum(1).tolist() == pytest.approx(diverse)
    flawed = [
        (0.75 if f else 1.0) if r == 1 else -1.0 for r, f in zip(fixture["rewards"], extras["flawed"], strict=True)
    ]
    got = rewarding.flawed_positives(rewards, batch, flaw_penalty=0.25)
    assert got.trajectory_M.tolist() == pytest.approx(flawed) and got.token_BT.sum(1).tolist() == pytest.approx(flawed)
    for g, entropy in enumerate(rewarding.semantic_entropy(batch).tolist()):
        mass: dict[int, float] = {}
        for i in (i for i in range(B) if group[i] == g):
            tokens = [x for x, t in zip(fixture["logp_rollout"][i], fixture["turn"][i], strict=True) if t >= 0]
            cluster = extras["cluster"][i]
            mass[cluster] = mass.get(cluster, 0.0) + math.exp(sum(tokens) / len(tokens))
        p = [m / sum(mass.values()) for m in mass.values()]
        assert entropy == pytest.approx(-sum(x * math.log(x) for x in p), abs=1e-9)
    want = []
    for i in range(B):
        n, b = length[i], extras["budget"][i]
        free = round(4 * math.cos(math.pi * n / 10) * 100) / 100
        best = free if b == 0 else min(free - abs(b - n) / 5, 4 * math.cos(math.pi * b / 10))
        wrong = any(not fixture["valid"][i][t] for t in range(7) if fixture["turn"][i][t] >= 0)
        want.append((best if n <= 5 else 0.0) if fixture["rewards"][i] == 1 else -1.0 if wrong else 0.0)
    assert rewarding.budget_reward(rewards, batch, hbpo_longest=5).trajectory_M.tolist() == pytest.approx(
        want, abs=1e-6
    )


@given(st.integers(0, 10**6))
@FEW
def test_extended_gae_against_a_loop(seed: int) -> None:
    fixture = random_play(seed)
    batch, rewards = reading(fixture)
    credit = rewarding.extended_gae(batch, rewards, gamma=0.9, lam=0.8)
    assert credit.returns_BT is not None
    for b, turn in enumerate(fixture["turn"]):
        spots = [i for i, t in enumerate(turn) if t >= 0]
        V, R = [fixture["values"][b][i] for i in spots], fixture["rewards"][b]
        after = V[-1] if fixture["truncated"][b] else 0.0
        running, found = 0.0, []
        for k in reversed(range(len(V))):
            reward, following = (R, after) if k == len(V) - 1 else (0.0, V[k + 1])
            running = reward + 0.9 * following - V[k] + 0.9 * 0.8 * running
            found.insert(0, running)
        assert credit.adv_BT[b][spots].tolist() == pytest.approx(found)
        returns = [R * 0.9 ** (len(V) - 1 - k) for k in range(len(V))]
        assert credit.returns_BT[b][spots].tolist() == pytest.approx(
            [math.nan] * len(V) if fixture["truncated"][b] else returns, nan_ok=True
        )


# ---------------------------------------------------------------- invariances


@given(st.integers(0, 10**6))
@FEW
def test_group_methods_do_not_mind_names_of_clusters(seed: int) -> None:
    fixture = random_play(seed)
    other = fixture | {"extras": fixture["extras"] | {"cluster": [7 - c for c in fixture["extras"]["cluster"]]}}
    for name in ("darling", "seed_grpo"):
        assert advantages(name, other) == pytest.approx(advantages(name, fixture), abs=1e-12)


def test_special_cases_equal_grpo() -> None:
    fixture = {"rewards": [1, 0, 1, 1], "extras": {"cluster": [0, 1, 2, 3], "flawed": [0] * 4, "budget": [0] * 4}}
    plain = advantages("grpo", fixture)
    assert advantages("fapo", fixture) == pytest.approx(plain, abs=1e-5)  # no flaws
    assert advantages("hbpo", fixture) == pytest.approx(plain, abs=1e-5)  # no budgets, answers of one length
    assert advantages("seed_grpo", fixture | {"params": {"seed_alpha": 0.0}}) == pytest.approx(plain)
    centred = advantages("dr_grpo", fixture)  # all answers differ: every reward times 3/4
    assert advantages("darling", fixture) == pytest.approx([0.75 * a for a in centred])


def test_readers_of_flaws_and_budgets() -> None:
    from turnwise.training.extract import BUDGET, READERS

    class Turn:
        def __init__(self, admissible: bool, observation: str = "A room.") -> None:
            self.admissible, self.observation = admissible, observation

    class Episode:
        def __init__(self, success: bool, *turns: Turn) -> None:
            self.success, self.turns = success, turns

    flawed, budget = READERS["flawed"], READERS["budget"]
    row: Any = None
    for success, admissible, want in ((True, False, 1.0), (True, True, 0.0), (False, False, 0.0)):
        episode: Any = Episode(success, Turn(True), Turn(admissible))
        assert flawed(episode, row) == want
    told: Any = Episode(True, Turn(True, "A room.\n" + BUDGET.format(2048)))
    free: Any = Episode(True, Turn(True))
    assert [budget(told, row), budget(free, row)] == [2048.0, 0.0]
