"""Agentic rows and process rewards: the specs' numbers, slow references, invariances, the update turn by turn."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from turnwise.envs import RequestError
from turnwise.training import algorithms as table
from turnwise.training import objective, recipes, trainer
from turnwise.training.batch import Batch
from turnwise.training.catalogue import agentic, process
from turnwise.training.config import RLConfig, override
from turnwise.training.credit import Rewards, group_in_group, total_rewards
from turnwise.training.fixture import evaluate, read_batch
from turnwise.training.learner import Learner
from turnwise.training.run import Run

SEEDS = st.integers(0, 10**6)
FEW = settings(max_examples=15, deadline=None, derandomize=True)
SMALL = {
    "rl.steps": 2, "sft.demos": 32, "sft.epochs": 1, "rl.tasks_per_step": 2, "rl.samples_per_task": 4,
    "env.train_tasks": 20, "env.eval_tasks": 4, "engine.threads": 1, "checkpoint_every": 1,
}  # fmt: skip


def first(rows: list[list[float]]) -> list[float]:
    return [row[0] for row in rows]


def episodes(seed: int) -> dict[str, Any]:
    """Random transcripts of two groups: one to three turns of one to three tokens, environment tokens between."""
    rng = random.Random(seed)
    turn = []
    for _ in range(6):
        ids: list[int] = []
        for t in range(rng.randint(1, 3)):
            ids += [-1] * rng.randint(1, 2) + [t] * rng.randint(1, 3)
        turn.append(ids)
    T = max(map(len, turn))
    turn = [ids + [-1] * (T - len(ids)) for ids in turn]

    def noise(low: float, high: float) -> list[list[float]]:
        return [[rng.uniform(low, high) for _ in range(T)] for _ in turn]

    return {
        "group": [0, 0, 0, 1, 1, 1], "turn": turn, "rewards": [rng.choice([0.0, 0.5, 1.0]) for _ in turn],
        "logp": noise(-2, -0.1), "logp_old": noise(-2, -0.1), "entropy": noise(0, 2),
        "anchors": [[rng.choice(["a", "b"]) for _ in set(ids) - {-1}] for ids in turn],
        "extras": {"logp_after": noise(-2, -0.1), "process_rewards": noise(-1, 1), "critical": noise(-1, 1)},
    }  # fmt: skip


def by_turn(fixture: dict[str, Any], b: int) -> list[list[int]]:
    """Positions of each turn of a row."""
    ids = fixture["turn"][b]
    return [[i for i, x in enumerate(ids) if x == t] for t in range(max(ids) + 1)]


# ---------------------------------------------------------------- EMPG


def test_empg_numbers() -> None:
    # h = [0, .5, 1]; g = exp(-h) / mean = [1.51944, .92159, .55897]; f = [1, .60653, .36788];
    # A g + .1 f_next = [1.58009, .95838, .55897], mean 1.03248 (the spec's last digit, -.47352, is its own rounding)
    fixture = {"rewards": [1.0], "turn": [[0, 1, 2]], "entropy": [[0.2, 0.6, 1.0]]}
    want = [0.54761, -0.07410, -0.47351]
    assert evaluate("empg", fixture)["advantage"][0] == pytest.approx(want, abs=1e-5)
    batch, _, _ = read_batch(fixture)
    adv_BT = torch.ones(1, 3, dtype=torch.float64)
    assert agentic.entropy_modulated(adv_BT, batch).tolist()[0] == pytest.approx(want, abs=1e-5)
    scaled = agentic.entropy_modulated(adv_BT, batch, empg_zeta=0.0) + 1.0  # the mean of g is 1
    assert scaled.tolist()[0] == pytest.approx([1.51944, 0.92159, 0.55897], abs=1e-5)


def test_empg_with_equal_entropy_only_centres() -> None:
    # g = f = 1: A_mod = [1 + .1, 1] and [-1 + .1, -1], mean .05
    fixture = {"rewards": [1, -1], "turn": [[0, 1]] * 2, "entropy": [[0.3, 0.3]] * 2, "params": {"normalize": False}}
    got = evaluate("empg", fixture)["advantage"]
    assert got == [pytest.approx([1.05, 0.95]), pytest.approx([-0.95, -1.05])]


@FEW
@given(seed=SEEDS)
def test_empg_is_the_plain_loop(seed: int) -> None:
    fixture = episodes(seed)
    batch, _, _ = read_batch(fixture)
    adv_BT = torch.randn(batch.mask.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    adv_BT = adv_BT[:, :1] * batch.mask
    got = agentic.entropy_modulated(adv_BT, batch, empg_k=1.3, empg_k_future=0.7, empg_zeta=0.2)
    spots = {(b, t): at for b in range(6) for t, at in enumerate(by_turn(fixture, b))}
    H = {key: sum(fixture["entropy"][key[0]][i] for i in at) / len(at) for key, at in spots.items()}
    low, high = min(H.values()), max(H.values())
    h = {key: (x - low) / (high - low + 1e-8) for key, x in H.items()}
    norm = sum(math.exp(-1.3 * x) for x in h.values()) / len(h)
    mod = {}
    for b, t in spots:
        bonus = 0.2 * math.exp(-0.7 * h[b, t + 1]) if (b, t + 1) in h else 0.0
        mod[b, t] = float(adv_BT[b].abs().max() * adv_BT[b].sum().sign()) * math.exp(-1.3 * h[b, t]) / norm + bonus
    mean = sum(mod.values()) / len(mod)
    for (b, t), at in spots.items():
        assert [float(got[b, i]) for i in at] == pytest.approx([mod[b, t] - mean] * len(at), abs=1e-9)
    assert (got[~batch.mask] == 0).all()


# ---------------------------------------------------------------- GiGPO with similar anchors


def test_similar_anchors_are_grouped_whatever_the_order() -> None:
    # "go north now" / "go north no" share 11 of 11.5 characters: 2 * 11 / 23 = .9565
    texts = [["go north now"], ["go north no"], ["sleep"], ["go north now"]]
    fixture = {"group": [0, 0, 0, 1], "rewards": [1.0, 0.0, 0.0, 1.0], "anchors": texts}
    batch, _, _ = read_batch(fixture)
    assert difflib.SequenceMatcher(None, "go north no", "go north now").ratio() == pytest.approx(22 / 23)
    merged = agentic.merged_anchors(batch, 0.95)
    assert merged == [["go north no"], ["go north no"], ["sleep"], ["go north now"]]  # other groups stay apart
    assert agentic.merged_anchors(batch.rows([3, 2, 1, 0]), 0.95) == merged[::-1]
    assert agentic.merged_anchors(batch, 0.96) == texts


def test_gigpo_similar_numbers() -> None:
    # spec 6.5: A wins 10 in 2 steps, B fails in 3; s0 at A1, B1, B2 with returns 9.5, 0, 0 -> std mode 1.1547, -.57735;
    # here the three write s0 differently. Episode part (per trajectory): +-.70711
    long = "you are in the middle of a large room"
    fixture = {
        "trajectory": [0, 1], "turn": [[0, 1, -1], [0, 1, 2]], "turn_rewards": {"0,1": 10.0},
        "anchors": [[long, "x"], [long + ".", long + "!", "zzz"]],
    }  # fmt: skip
    got = evaluate("gigpo_similar", fixture)["advantage"]
    assert got[0][:2] == pytest.approx([0.70711 + 1.15470, 0.70711], abs=1e-5)
    assert got[1] == pytest.approx([-0.70711 - 0.57735, -0.70711 - 0.57735, -0.70711], abs=1e-5)
    plain = evaluate("gigpo_similar", {**fixture, "params": {"normalize": False}})["advantage"]
    assert plain[0][0] == pytest.approx(5 + 6.33333, abs=1e-4) and plain[1][0] == pytest.approx(-5 - 3.16667, abs=1e-4)
    exact = evaluate("gigpo_similar", {**fixture, "params": {"anchor_similarity": 1.0}})["advantage"]
    assert exact[0][:2] == pytest.approx([0.70711, 0.70711], abs=1e-5)  # all alone: no step advantage


@FEW
@given(seed=SEEDS)
def test_full_similarity_is_gigpo(seed: int) -> None:
    batch, _, _ = read_batch(episodes(seed))
    rewards = total_rewards(batch)
    similar = agentic.similar_group_in_group(batch, rewards, anchor_similarity=1.0)
    assert torch.equal(similar.adv_BT, group_in_group(batch, rewards).adv_BT)


# ---------------------------------------------------------------- SeeUPO


def after(fixture: dict[str, Any], ratios: list[list[float]]) -> dict[str, Any]:
    """The fixture with log-probs after each update such that turn t of row b has ratio ratios[b][t]."""
    new = [[math.log(ratios[b][t]) if t >= 0 else 9.0 for t in ids] for b, ids in enumerate(fixture["turn"])]
    old = [[0.0] * len(ids) for ids in fixture["turn"]]
    return {**fixture, "logp": old, "logp_old": old, "extras": {"logp_after": new}}


def test_seeupo_carries_later_ratios() -> None:
    # turns 1, 2, 3 with ratios -, .9, 1.1: M_4 = A, M_3 = 1.1 A, M_2 = .99 A at A = .5: [.495, .55, .5]
    batch, _, _ = read_batch(after({"rewards": [0.5], "turn": [[0, 1, 2]]}, [[1.0, 0.9, 1.1]]))
    half = torch.full((1, 3), 0.5, dtype=torch.float64)
    assert agentic.carried_ratio(half, batch).tolist()[0] == pytest.approx([0.495, 0.55, 0.5], abs=1e-9)
    batch, _, _ = read_batch(after({"rewards": [0.5], "turn": [[0, 1, 2]]}, [[1.0, 1.15, 1.15]]))
    assert agentic.carried_ratio(half, batch).tolist()[0] == pytest.approx([0.6, 0.575, 0.5])  # 1.3225 -> 1.2
    free = agentic.carried_ratio(half, batch, carry_clip=None).tolist()[0]
    assert free == pytest.approx([0.5 * 1.3225, 0.575, 0.5])


def test_seeupo_fixture() -> None:
    # R = +-.5 and one more pair at +-.5: mean 0, std of four = .57735; A = +-.86603, times [.99, 1.1, 1]
    fixture = after({"rewards": [0.5, -0.5] * 2, "turn": [[0, 1, 2]] * 4}, [[1.0, 0.9, 1.1]] * 4)
    a = 0.5 / (math.sqrt(1 / 3) + 1e-6)
    got = evaluate("seeupo", fixture)["advantage"]
    assert got[0] == pytest.approx([0.99 * a, 1.1 * a, a], abs=1e-9) and got[1] == [-x for x in got[0]]
    clipped = evaluate("seeupo", {**fixture, "params": {"standard_clip": 0.5}})["advantage"]
    assert clipped[0] == pytest.approx([0.495, 0.55, 0.5], abs=1e-9)  # the spec's numbers
    bare = {key: value for key, value in fixture.items() if key != "extras"}
    assert evaluate("seeupo", bare)["advantage"][0] == pytest.approx([a] * 3)


def test_seeupo_of_one_turn_is_gspo_with_a_mean_baseline() -> None:
    fixture = {
        "rewards": [1.0, 0.0, 0.5], "turn": [[0, 0]] * 3, "logp_old": [[-1.0, -1.2]] * 3,
        "logp": [[-0.9, -1.0], [-1.1, -1.2], [-1.0, -1.3]],
    }  # fmt: skip
    wide = {"clip_low": 0.2, "clip_high": 0.2}
    gspo = evaluate("gspo", {**fixture, "params": {**wide, "normalize": False}})["coef"]
    mine = evaluate("seeupo", {**fixture, "params": wide})["coef"]
    for a, b in zip(mine, gspo, strict=True):  # std over the batch .5
        assert a == pytest.approx([x / 0.500001 for x in b], abs=1e-9)


@FEW
@given(seed=SEEDS)
def test_carried_ratio_is_the_plain_loop_and_keyed_by_trajectory(seed: int) -> None:
    fixture = episodes(seed)
    batch, _, _ = read_batch(fixture)
    ones = batch.mask.double()
    got = agentic.carried_ratio(ones, batch)
    for b in range(6):
        product, turns = 1.0, by_turn(fixture, b)
        for at in reversed(turns):
            assert [float(got[b, i]) for i in at] == pytest.approx([product] * len(at), abs=1e-9)
            gap = sum(fixture["extras"]["logp_after"][b][i] - fixture["logp_old"][b][i] for i in at) / len(at)
            product = min(max(product * min(max(math.exp(gap), 0.8), 1.2), 0.8), 1.2)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(agentic.carried_ratio(ones[order], batch.rows(order)), got[order])


class _Spy(Learner):
    """Records each update of a step."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen: list[tuple[Batch, torch.Tensor]] = []

    def _minibatch(self, ids: Any, batch: Batch, adv: Any, *rest: Any) -> Any:
        self.seen.append((batch, adv.clone()))
        return super()._minibatch(ids, batch, adv, *rest)


def toy_step(monkeypatch: pytest.MonkeyPatch, folder: Path, **more: Any) -> list[tuple[Batch, torch.Tensor]]:
    from turnwise.training import session

    made: list[_Spy] = []

    def spy(*args: Any, **kwargs: Any) -> _Spy:
        made.append(_Spy(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(session, "Learner", spy)
    trainer.train(
        override(recipes.load("toy"), {**SMALL, "rl.steps": 1, "algorithm": "seeupo", "sft.demos": 128, **more}), folder
    )
    return made[-1].seen


def test_seeupo_updates_turns_in_reverse_on_whole_steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = toy_step(monkeypatch, tmp_path / "run", **{"rl.lr": 0.02, "params.carry_clip": None, "sft.epochs": 6})
    turns = [sorted(set(batch.turn[batch.mask].tolist())) for batch, _ in seen]
    assert turns == [[2], [1], [0]] or turns == [[1], [0]]
    last, before = seen[0], seen[1]
    carried = before[0].extras["logp_after"]
    assert last[0].extras["logp_after"].shape[1] == carried.shape[1]
    moved = (carried - before[0].logp_old).abs().max()  # type: ignore[operator]
    assert moved > 1e-3, "the second update must know what the first did"
    scale = before[1][before[0].mask].abs().unique()
    assert len(scale) > 1, "the advantage of earlier turns carries ratios that differ"


def test_seeupo_runs_windowed_and_refuses_several_updates(tmp_path: Path) -> None:
    run = tmp_path / "run"
    trainer.train(override(recipes.load("toy"), {**SMALL, "algorithm": "seeupo", "context.layout": "windowed"}), run)
    assert Run.open(run).latest()[0] == 2
    with pytest.raises(RequestError, match=r"rl.epochs=1 and rl.minibatches=1 for seeupo, got 2 and 1"):
        toy = override(recipes.load("toy"), {"algorithm": "seeupo"})
        row, params = table.resolve(toy.algorithm)
        Learner(torch.nn.Linear(1, 1), row, params, RLConfig(epochs=2), micro_tokens=64)  # type: ignore[arg-type]


# ---------------------------------------------------------------- R3L


def test_r3l_numbers() -> None:
    # mean .35; paper: the best gets 3, .05 * 3 = .15; code: 1 instead of 3
    fixture = {"rewards": [1, 0.4, 0, 0], "extras": {"pivot": [0] * 4}}
    assert first(evaluate("r3l", fixture)["advantage"]) == pytest.approx([3, 0.15, -0.35, -0.35], abs=1e-5)
    code = evaluate("r3l", {**fixture, "params": {"amplify_rule": "code"}})["advantage"]
    assert first(code) == pytest.approx([1.0, 0.15, -0.35, -0.35], abs=1e-5)
    for rewards in ([0.4] * 4, [0.0] * 4):
        assert first(evaluate("r3l", {**fixture, "rewards": rewards})["advantage"]) == [0.0] * 4
    assert first(evaluate("r3l", {**fixture, "rewards": [1] * 4})["advantage"]) == [3.0] * 4  # imitation


def test_r3l_trains_from_the_pivot_on_and_divides_by_all_tokens() -> None:
    fixture = {
        "rewards": [1, 0], "turn": [[0, 1, 2, 3], [0, 1, 2, -1]], "extras": {"pivot": [2, 2]},
        "logp": [[-1.0] * 4, [-2.0] * 4],
    }  # fmt: skip
    got = evaluate("r3l", fixture)
    assert got["mask"] == [[0, 0, 1, 1], [0, 0, 1, 0]]
    assert got["coef"] == [[0, 0, 3, 3], [0, 0, -0.5, 0]]
    # (2 * 3 * 1 / 4 - .5 * 2 / 3) / 2 with |tau| the whole trajectory
    assert got["loss"] == pytest.approx((6 / 4 - 0.5 * 2 / 3) / 2)


def planned(reflection: str, rewards: list[float], success: bool = False, **params: Any) -> dict[str, Any]:
    inputs = {"reflection": reflection, "turn_rewards": rewards, "success": success}
    return evaluate("reflect_retry", {"inputs": inputs, "params": params})["output"]


def test_a_reflection_says_from_where_to_retry() -> None:
    said = {"trajectory_outcome": "failure", "retry_from_step": 2, "improvement_suggestion": " look\n first "}
    want = {"outcome": "failure", "pivot": 2, "advice": "look first"}
    for text in (json.dumps(said), f"Well. {{not json}} {json.dumps(said)} and {{}}", json.dumps({**said, "x": {}})):
        assert planned(text, [0.0] * 3) == want
    slow = planned(json.dumps({**said, "trajectory_outcome": "success_but_inefficient"}), [0.0] * 3, success=True)
    assert slow == {**want, "outcome": "success_but_inefficient"}
    assert planned(json.dumps({**said, "trajectory_outcome": "success"}), [0.0] * 3)["pivot"] is None
    nothing = {"outcome": None, "pivot": None, "advice": ""}
    for wrong in ({"retry_from_step": 3}, {"retry_from_step": -1}, {"retry_from_step": 1.0}, {"retry_from_step": "1"},
                  {"retry_from_step": True}, {"improvement_suggestion": ""}, {"improvement_suggestion": 3},
                  {"trajectory_outcome": "FAILURE"}, {"trajectory_outcome": ["failure"]}):  # fmt: skip
        assert planned(json.dumps({**said, **wrong}), [0.0] * 3) == nothing, wrong
    for text in ("", "[]", "{", '{"a":' * 5000, "[" * 100_000):
        assert planned(text, [0.0]) == nothing


def test_the_rule_names_the_first_turn_without_a_reward() -> None:
    for rewards, pivot in (([1, 0, 0], 1), ([0, 1, 0], 0), ([1, -1, 1], 1), ([1, 1], 0), ([0], 0)):
        got = planned("", [float(r) for r in rewards], retry_by="rule")
        assert got == {"outcome": "failure", "pivot": pivot, "advice": ""}
    assert planned("", [1.0], success=True, retry_by="rule") == {"outcome": "success", "pivot": None, "advice": ""}


@pytest.mark.parametrize(
    ("base", "retry", "outcome", "want"),
    [
        ([0, 5], [1, 9], "failure", ["reflection", "retry"]),
        ([0, 5], [0, 3], "failure", []),
        ([1, 5], [1, 4], "success_but_inefficient", ["reflection", "retry"]),
        ([1, 5], [1, 5], "success_but_inefficient", []),
        ([1, 5], [0, 2], "success_but_inefficient", []),
        ([1, 5], None, "success", ["reflection"]),
        ([0, 5], None, "success", []),
        ([0, 5], None, None, []),
    ],
)
def test_what_is_imitated(base: list[int], retry: list[int] | None, outcome: str | None, want: list[str]) -> None:
    assert agentic.retry_lessons(base, retry, outcome) == want
    assert agentic.retry_lessons(base, retry, outcome, imitate_lessons=False) == []


# ---------------------------------------------------------------- PRIME


PRIME = {
    "rewards": [0.0, 0.0], "mask": [[1, 1]] * 2, "extras": {"process_rewards": [[0.2, 0.4], [0.1, 0.1]]},
    "params": {"process_weight": 1.0, "process_norm": False, "whiten": False},
}  # fmt: skip


def test_prime_numbers() -> None:
    # means .3, .1; n = 2: 2 q - .4 = [[0, .4], [-.2, -.2]]; to the end [[.4, .4], [-.4, -.2]]
    want = [[0.4, 0.4], [-0.4, -0.2]]
    for row, expected in zip(evaluate("prime", PRIME)["advantage"], want, strict=True):
        assert row == pytest.approx(expected, abs=1e-9)
    # largest |sum to the end| .6: everything over .6; weight 5
    normed = evaluate("prime", {**PRIME, "params": {"whiten": False, "process_weight": 5.0}})["advantage"]
    assert normed[0] == pytest.approx([5 * 0.4 / 0.6] * 2) and normed[1] == pytest.approx([-5 * 0.4 / 0.6, -1 / 0.6])
    # and the outcome's leave-one-out: R = 1, 0 -> +1, -1
    won = evaluate("prime", {**PRIME, "rewards": [1.0, 0.0]})["advantage"]
    assert won[0] == pytest.approx([1.4, 1.4]) and won[1] == pytest.approx([-1.4, -1.2])


def test_prime_process_model_starts_at_ln2() -> None:
    zero = {**PRIME, "rewards": [1.0, 0.0], "extras": {"process_rewards": [[0.0, 0.0]] * 2}}
    assert evaluate("prime", zero)["state"]["process"]["cross_entropy"] == pytest.approx(math.log(2))


@FEW
@given(seed=SEEDS)
def test_prime_is_the_plain_loop(seed: int) -> None:
    fixture = {**episodes(seed), "params": PRIME["params"]}
    got = evaluate("prime", fixture)["advantage"]
    q = [[x for at in by_turn(fixture, b) for x in (fixture["extras"]["process_rewards"][b][i] for i in at)]
         for b in range(6)]  # fmt: skip
    for b in range(6):
        mates = range(3) if b < 3 else range(3, 6)
        outcome = fixture["rewards"][b] - sum(fixture["rewards"][j] for j in mates if j != b) / 2
        base = sum(sum(q[j]) / len(q[j]) for j in mates)
        own = [(3 * x - base) / 2 for x in q[b]]
        spots = [i for at in by_turn(fixture, b) for i in at]
        for k, i in enumerate(spots):
            assert got[b][i] == pytest.approx(outcome + sum(own[k:]), abs=1e-9)


def test_process_pull_is_the_gradient_of_the_cross_entropy() -> None:
    fixture = episodes(4)
    batch, _, _ = read_batch(fixture)
    rewards = total_rewards(batch)
    pull = process.outcome_pull(batch, rewards, process_beta=0.7, correct_at=0.5)

    def loss(q: torch.Tensor) -> float:
        moved = dataclasses.replace(batch, extras={**batch.extras, "process_rewards": q})
        return process.process_fit({}, moved, rewards, process_beta=0.7, correct_at=0.5)["process"]["cross_entropy"]

    q = batch.extras["process_rewards"]
    for b, i in batch.mask.nonzero().tolist()[::3]:
        up, down = q.clone(), q.clone()
        up[b, i] += 1e-6
        down[b, i] -= 1e-6
        assert float(pull[b, i]) == pytest.approx((loss(up) - loss(down)) / 2e-6, abs=1e-7)
    assert (pull[~batch.mask] == 0).all()


def test_prime_trains_its_process_model_and_resumes(tmp_path: Path) -> None:
    settings_ = {**SMALL, "algorithm": "prime", "rl.steps": 3, "rl.critic_lr": 0.01}
    trainer.train(override(recipes.load("toy"), settings_), tmp_path / "whole")
    run = Run.open(tmp_path / "whole")
    errors = [value for _, value in run.metrics()["process/cross_entropy"]]
    assert errors[0] == pytest.approx(math.log(2), abs=1e-5) and errors[-1] != pytest.approx(math.log(2), abs=1e-4)
    for _, folder in run.checkpoints():
        assert (folder / "process_model.safetensors").is_file() and (folder / "process.safetensors").is_file()
    half = copy.deepcopy(settings_)
    trainer.train(override(recipes.load("toy"), {**half, "rl.steps": 3}), tmp_path / "cut")
    cut = Run.open(tmp_path / "cut")
    trainer._go_back(cut, 2)
    cut.close()
    trainer.resume(tmp_path / "cut")
    assert Run.open(tmp_path / "cut").metrics()["process/cross_entropy"] == run.metrics()["process/cross_entropy"]


# ---------------------------------------------------------------- PAV


def test_pav_numbers() -> None:
    value = process.best_of_k(torch.tensor([0.2, 0.5], dtype=torch.float64), 4)
    assert value.tolist() == pytest.approx([0.5904, 0.9375])
    # Q before the turns .2, .5, .5 (a turn that changes nothing), then success: A = [.3471, 0, .0625] on top of r = 1
    fixture = {
        "rewards": [1.0], "turn": [[0, 0, 1, 2]], "extras": {"success_values": [[0.2, 0.2, 0.5, 0.5]]},
        "slots": {"estimator": "return_to_go"}, "params": {"gamma": 0.0},
    }  # fmt: skip
    got = evaluate("pav", fixture)["advantage"][0]  # gamma 0: each token's own reward
    assert got == pytest.approx([0.0, 0.3471, 0.0, 1.0625], abs=1e-9)
    whole = evaluate("pav", {**fixture, "params": {"gamma": 1.0}})["advantage"][0]
    assert whole[0] == pytest.approx(1 + (1 - 0.5904), abs=1e-9)  # telescopes to Q_end - Q_start


def test_pav_reads_values_from_the_group() -> None:
    # s0 is met by both (mean outcome .5), "good" by the winner only, "bad" by the loser only; K = 1 keeps Q = Q
    fixture = {
        "rewards": [1.0, 0.0], "turn": [[0, 1]] * 2, "anchors": [["s0", "good"], ["s0", "bad"]],
        "slots": {"estimator": "return_to_go"}, "params": {"prover_k": 1.0, "gamma": 0.0},
    }  # fmt: skip
    assert evaluate("pav", fixture)["advantage"] == [[0.5, 1.0], [-0.5, 0.0]]


@FEW
@given(seed=SEEDS)
def test_pav_telescopes_and_both_views_agree(seed: int) -> None:
    batch, _, _ = read_batch(episodes(seed))
    rewards = total_rewards(batch)
    got = process.prover_progress(rewards, batch, pav_alpha=0.5)
    assert torch.allclose(got.token_BT.sum(1), got.trajectory_M)  # one row per trajectory here
    start = process.best_of_k(process._met_outcome(batch, rewards.trajectory_M), 4)
    for m in range(6):
        q0 = start[(batch.turns.trajectory_N == m).nonzero()[0, 0]]
        gain = 0.5 * (process.best_of_k(rewards.trajectory_M[m], 4) - q0)
        assert float(got.trajectory_M[m]) == pytest.approx(float(rewards.trajectory_M[m] + gain))


# ---------------------------------------------------------------- VeRPO


def test_verpo_weights() -> None:
    rates = torch.tensor([[1.0, 1.0, 0.9, 0.1]], dtype=torch.float64)
    got = process.rarity_weights(rates, alpha=1.0, sigma=0.1, delta=0.0)
    # crowds 1 + 1 + exp(-.5) + 0 = 2.60653, 1 + 2 exp(-.5) = 2.21306, 1; exp(-rho) / crowd
    assert got.tolist()[0] == pytest.approx([0.14114, 0.14114, 0.18371, 0.90484], abs=1e-5)
    assert got[0, 3] > got[0, :3].sum(), "easier tests never outweigh a rare one"


def test_verpo_weights_of_a_task_with_fewer_tests() -> None:
    rates = torch.tensor([[1.0, 0.9, -1.0], [1.0, 0.9, 0.1]], dtype=torch.float64)
    got = process.rarity_weights(rates, alpha=1.0, sigma=0.1, delta=0.0)
    # exp(-1) / 1.60653 and exp(-.9) / 1.60653; delta 0 with a crowd of none must not divide by it
    assert got.tolist()[0] == pytest.approx([0.22899, 0.25307, 0.0], abs=1e-5)
    alone = process.rarity_weights(torch.tensor([[0.0, -1.0]]), alpha=1.0, sigma=1.0, delta=0.0)
    assert alone.tolist() == [[1.0, 0.0]], "no other crowds a test that never passes"


def test_verpo_fixture() -> None:
    # ten one-turn episodes; tests 1, 2 always pass, 3 in nine, 4 in one: the weights above
    tests = [[[1, 1, int(b > 0), int(b == 0)]] for b in range(10)]
    fixture = {"rewards": [0.0] * 10, "turn": [[0]] * 10, "extras": {"tests": tests}}
    got = first(evaluate("verpo", fixture)["advantage"])
    turn = [0.28228 + (0.90484 if b == 0 else 0.18371) for b in range(10)]
    mean = sum(turn) / 10
    assert got == pytest.approx([x - mean for x in turn], abs=1e-4)
    with_outcome = {**fixture, "rewards": [1.0] + [0.0] * 9, "params": {"verpo_gamma": 0.5, "verpo_beta": 0.0}}
    assert first(evaluate("verpo", with_outcome)["advantage"]) == pytest.approx([0.45] + [-0.05] * 9)  # R gamma^1


@FEW
@given(seed=SEEDS)
def test_verpo_is_the_plain_loop(seed: int) -> None:
    fixture, rng = episodes(seed), random.Random(seed)
    passed = {(b, t): [rng.randint(0, 1) for _ in range(3)] for b in range(6) for t in range(3)}
    tests = [[passed[b, max(t, 0)] for t in ids] for b, ids in enumerate(fixture["turn"])]
    got = evaluate("verpo", {**fixture, "extras": {"tests": tests}, "params": {"verpo_beta": 0.5}})["advantage"]
    for group in (range(3), range(3, 6)):
        keys = [(b, t) for b in group for t in range(len(by_turn(fixture, b)))]
        rate = [sum(passed[key][j] for key in keys) / len(keys) for j in range(3)]
        weight = [math.exp(-rate[j]) / sum(math.exp(-((rate[j] - r) ** 2) / 0.02) for r in rate) for j in range(3)]
        value = {key: sum(w * p for w, p in zip(weight, passed[key], strict=True)) for key in keys}
        mean, whole = sum(value.values()) / len(keys), [fixture["rewards"][b] for b in group]
        for b, t in keys:
            want = fixture["rewards"][b] - sum(whole) / 3 + 0.5 * (value[b, t] - mean)
            assert got[b][by_turn(fixture, b)[t][0]] == pytest.approx(want, abs=1e-9)


# ---------------------------------------------------------------- EPO, the explicit one


def test_epo_explicit_numbers() -> None:
    # scores [0, 1, .7], gamma .99: returns [1.67607, 1.693, .7], over the largest [.99, 1, .41347]
    fixture = {"rewards": [0.7], "turn": [[0, 1, 2]], "extras": {"critical": [[0, 1, 0]]}, "logp": [[-1.0, -2.0, -3.0]]}
    got = evaluate("epo_explicit", fixture)
    assert got["advantage"][0] == pytest.approx([0.99, 1.0, 0.41347], abs=1e-5)
    assert got["loss"] == pytest.approx((0.99 + 2.0 + 3 * 0.413467) / 3, abs=1e-5)  # mean over turns
    raw = evaluate("epo_explicit", {**fixture, "params": {"gamma": 0.0}})["advantage"][0]
    assert raw == pytest.approx([0.0, 1.0, 0.7])
    silent = {"rewards": [0.0], "turn": [[0, 1]], "extras": {"critical": [[0, 0]]}}
    assert evaluate("epo_explicit", silent)["advantage"] == [[0.0, 0.0]]


@FEW
@given(seed=SEEDS)
def test_epo_explicit_weights_are_shares_of_the_best_turn(seed: int) -> None:
    fixture = episodes(seed)
    batch, _, _ = read_batch(fixture)
    got = process.critical_turns(batch, total_rewards(batch)).adv_BT
    for b in range(6):
        turns = by_turn(fixture, b)
        score = [float(sum(fixture["extras"]["critical"][b][i] for i in at) > 0) for at in turns]
        score[-1] = fixture["rewards"][b]
        returns = [sum(0.99 ** (k - t) * score[k] for k in range(t, len(turns))) for t in range(len(turns))]
        top = max(returns) or 1.0
        for at, value in zip(turns, returns, strict=True):
            assert [float(got[b, i]) for i in at] == pytest.approx([value / top] * len(at), abs=1e-9)


# ---------------------------------------------------------------- EPO with a flat mean


def test_epo_flat_mean_is_the_token_mean() -> None:
    # turns [.5] and [2.5, 1, 1]: hierarchical 1.0, flat 1.25
    fixture = {"rewards": [1.0], "turn": [[0, 1, 1, 1]], "entropy": [[0.5, 2.5, 1.0, 1.0]]}
    base = {"epo_lambda": 1.0, "epo_kappa_l": 0.0, "epo_kappa_r": 2.0, "epo_alpha": 0.05, "epo_steps": 150}
    for mean, bonus in (("hierarchical", 1.0), ("flat", 1.25)):
        got = evaluate("epo_entropy", {**fixture, "params": {**base, "epo_mean": mean}})
        assert got["terms"]["epo_bonus"] == pytest.approx(-bonus)
    state = {"step": 1, "history": [1.0], "history_flat": [0.5]}
    flat = evaluate("epo_entropy", {**fixture, "state": state, "params": {**base, "epo_mean": "flat"}})
    # ceiling 2 * .5: penalty relu(2.5 - 1) = 1.5 on one of four tokens; beta_1 = 1.96079
    assert flat["terms"]["epo_corridor"] == pytest.approx(1.96079 * 0.05 * 1.5 / 4, abs=1e-6)
    assert flat["state"]["history_flat"] == pytest.approx([0.5, 1.25]) and json.dumps(flat["state"])
    hier = evaluate("epo_entropy", {**fixture, "state": state, "params": base})
    assert hier["terms"]["epo_corridor"] == pytest.approx(1.96079 * 0.05 * (0.5 / 3) / 2, abs=1e-6)


def test_rewards_have_both_views() -> None:
    batch, _, _ = read_batch(episodes(1))
    rewards = total_rewards(batch)
    assert isinstance(process.prover_progress(rewards, batch), Rewards)
    assert objective.reward(*table.resolve("grpo", {}, {"transforms": "pav"}), batch).trajectory_M.shape == (6,)


def test_epo_explicit_gains_by_imitating_its_better_turns(tmp_path: Path) -> None:
    # no negative signal, no baseline: slower than a policy gradient, so the bar of tests/test_learning.py is not asked
    outcome = trainer.train(
        override(recipes.load("toy"), {"algorithm": "epo_explicit", "rl.steps": 35}), tmp_path / "run"
    )
    assert outcome.difference.low > 0.1
