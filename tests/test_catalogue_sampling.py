"""The collect side: the numbers of the papers, exhaustive references, and how a run puts them to use."""

from __future__ import annotations

import asyncio
import itertools
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from turnwise.agents.models import load_policy
from turnwise.envs import RequestError, UnknownName, tasks
from turnwise.envs.pool import EnvPool
from turnwise.training import recipes, sampler, session, trainer
from turnwise.training.catalogue import sampling
from turnwise.training.config import Recipe, RLConfig, override, parse_settings
from turnwise.training.fixture import evaluate
from turnwise.training.run import Run

FEW = settings(max_examples=20, deadline=None, derandomize=True)


def output(name: str, inputs: dict[str, Any], **params: Any) -> Any:
    return evaluate(name, {"inputs": inputs, "params": params})["output"]


# ---------------------------------------------------------------- numbers


def test_mmr1_numbers() -> None:
    got = output(
        "mmr1_vas", {"pass_rate": [0, 0.25, 0.5, 1], "diversity": [0.2, 0.5, 0.4, 0.1]}, vas_alpha=0.8, vas_beta=0.2
    )
    assert got["score"] == pytest.approx([0.04, 0.25, 0.28, 0.02])
    assert got["probability"] == pytest.approx([0.067797, 0.423729, 0.474576, 0.033898], abs=1e-6)
    assert got["learnability"] == [0, 0.75, 1, 0]
    assert got["mixture"] == pytest.approx([0.5 * p + 0.125 for p in got["probability"]])
    nothing = sampling.variance_aware([0, 1], [0, 0])
    assert nothing["probability"] == [0.5, 0.5] and nothing["learnability"] == [0, 0]
    with pytest.raises(RequestError, match="as many diversities"):
        sampling.variance_aware([0.5], [])


def test_distinct_ngrams() -> None:
    # "go north", "north go", "go north": 3 pairs, 2 of them different
    assert sampling.distinct_ngrams(["go north", "north go", "go north"]) == pytest.approx(2 / 3)
    assert sampling.distinct_ngrams(["look"]) == 0


def test_one_shot_numbers() -> None:
    assert output("one_shot", {"tasks": ["a", "b"], "count": 3}, one_shot_index=1) == ["b", "b", "b"]
    with pytest.raises(RequestError, match="one_shot_index below 2"):
        sampling.one_example(["a", "b"], 3, one_shot_index=2)


def test_knapsack_numbers() -> None:
    for (n, p), value in {(4, 0.5): 0.109375, (4, 0.1): 0.027848, (4, 0.9): 0.003094, (8, 0.1): 0.046132}.items():
        assert sampling.knapsack_value(n, p) == pytest.approx(value, abs=1e-6)
    for rates, params, samples, value in (
        ([0.5, 0.1, 0.9], {"budget_total": 12, "budget_high": 8}, [5, 5, 2], 0.151977),
        ([0.5, 0.1, 0.9], {"budget_total": 16, "budget_high": 12}, [6, 8, 2], 0.168846),
    ):
        got = output("knapsack", {"pass_rate": rates}, **params)
        assert got["samples"] == samples and got["value"] == pytest.approx(value, abs=1e-6)
    got = output("knapsack", {"pass_rate": [1, 0, 0.5, 0.1]}, budget_total=32, budget_high=12)
    assert got["samples"] == [2, 6, 12, 12]
    assert sampling.knapsack([0, 0, 1])["samples"] == [11, 11, 2]  # 8 each in all; what is left is shared evenly
    with pytest.raises(RequestError, match="budget_total >= 4 for 2 tasks, got 3"):
        sampling.knapsack([0.5, 0.5], budget_total=3)


def test_hint_numbers() -> None:
    solution = "x" * 80
    assert [len(h) for h in output("ghpo", {"solution": solution, "rewards": [0, 0, 0]})] == [20, 40, 60]
    assert output("ghpo", {"solution": solution, "rewards": [0, 1, 0]}) == []
    for level, rewards, params, want in (
        (1, [0, 0, 0], {}, 2), (1, [1, 1, 0, 0, 0], {}, 0), (1, [1, 0, 0, 0, 0], {}, 1),
        (1, [1, *[0] * 9], {"hint_min": 0.1}, 2), (3, [0], {}, 3), (0, [1], {}, 0),
    ):  # fmt: skip
        assert output("sage", {"level": level, "rewards": rewards}, **params)["level"] == want
    assert output("sage", {"level": 0, "rewards": [0] * 4})["attempts"] == [1, 2, 3]
    assert output("sage", {"level": 0, "rewards": [0, 0, 1, 0]})["attempts"] == []


def test_curriculum_numbers() -> None:
    assert output("craft_gui", {"sizes": [1, 4, 12]}) == [0, 1, 2]
    assert sampling.stages([3, 8, 8.5]) == [0, 1, 2]
    with pytest.raises(RequestError, match="ascending order"):
        sampling.stages([1], stage_bounds=(8, 3))
    # format 1, rule 1, judge .5 with weights .1, .6, .3
    weighted = {"rewards": [[1, 1, 0.5]], "params": {"reward_weights": [0.1, 0.6, 0.3], "baseline": "none"}}
    assert evaluate("reinforce", weighted)["advantage"] == [[pytest.approx(0.85)]]
    steps = (0, 99, 100, 250, 10_000)
    assert [output("scaling_inter", {"step": step}) for step in steps] == [5, 5, 10, 15, 50]


def test_salsa_numbers() -> None:
    assert output("salsa", {"first": {"w": [1, 2]}, "second": {"w": [3, -2]}}) == {"w": [2, 0]}
    mixed = sampling.soup({"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, -2.0])}, soup_share=0.25)
    assert mixed["w"].tolist() == [2.5, -1.0]
    fixture = {
        "rewards": [1], "logp_old": [[-1.0]], "logp_ref": [[-1.3]], "params": {"kl_reward_coef": 0.1},
    }  # fmt: skip
    assert evaluate("reinforce", fixture)["advantage"] == [[pytest.approx(0.97)]]
    with pytest.raises(RequestError, match="the same entries"):
        sampling.soup({"a": [1]}, {"b": [1]})
    with pytest.raises(RequestError, match="one shape"):
        sampling.soup({"a": torch.zeros(2)}, {"a": torch.zeros(3)})


# ---------------------------------------------------------------- references


@given(st.lists(st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.8, 1.0]), min_size=1, max_size=4), st.integers(0, 12))
@FEW
def test_knapsack_against_every_allocation(rates: list[float], spare: int) -> None:
    total = 2 * len(rates) + spare
    got = sampling.knapsack(rates, budget_total=total, budget_high=7)
    assert sum(got["samples"]) <= total and all(2 <= n <= 7 for n in got["samples"])
    every = itertools.product(range(2, 8), repeat=len(rates))
    best = max(
        sum(sampling.knapsack_value(n, p) for n, p in zip(ns, rates, strict=True)) for ns in every if sum(ns) <= total
    )
    assert got["value"] == pytest.approx(best, abs=1e-12)


@given(st.permutations(range(4)))
@FEW
def test_sampler_does_not_mind_the_order_of_tasks(order: list[int]) -> None:
    P, D = [0, 0.25, 0.5, 1], [0.2, 0.5, 0.4, 0.1]
    plain = sampling.variance_aware(P, D)["mixture"]
    mixed = sampling.variance_aware([P[i] for i in order], [D[i] for i in order])["mixture"]
    assert mixed == pytest.approx([plain[i] for i in order]) and sum(mixed) == pytest.approx(1)


# ---------------------------------------------------------------- in a run

SMALL = [
    "sft.demos=96", "sft.epochs=3", "rl.steps=6", "rl.tasks_per_step=3", "rl.samples_per_task=4", "env.train_tasks=6",
    "env.eval_tasks=4", "checkpoint_every=2", "engine.threads=1",
]  # fmt: skip


def small(*changes: str) -> Recipe:
    return override(recipes.load("toy"), parse_settings([*SMALL, *changes]))


def rows(folder: Path, query: str) -> list[tuple[Any, ...]]:
    return sqlite3.connect(folder / "run.sqlite").execute(query).fetchall()


def test_sampler_and_budget_keep_a_record(tmp_path: Path) -> None:
    """That they survive `kill -9` is tested with the other runs."""
    recipe = small("rl.sampler=mmr1_vas", "rl.sampler_every=2", "rl.budget=knapsack", "rl.steps=4")
    trainer.train(recipe, tmp_path / "run")
    sizes = rows(tmp_path / "run", "SELECT step, grp, COUNT(*) FROM episodes WHERE phase = 'train' GROUP BY 1, 2")
    assert len({size for *_, size in sizes}) > 1 and min(size for *_, size in sizes) >= 2
    for step in range(1, 5):
        assert sum(size for at, _, size in sizes if at == step) == 12
    state = json.loads((Run.open(tmp_path / "run").latest()[1] / "state.json").read_text())["controllers"]
    assert state["weighed"] == state["tasks"] and len(state["tasks"]) > 2
    played = rows(
        tmp_path / "run", "SELECT task, AVG(success) FROM episodes WHERE step = 4 AND phase = 'train' GROUP BY 1"
    )
    assert [state["tasks"][task][0] for task, _ in played] == pytest.approx([rate for _, rate in played])


def test_one_shot_plays_one_task(tmp_path: Path) -> None:
    trainer.train(small("rl.sampler=one_shot", "rl.steps=1", "algorithm=one_shot_rlvr"), tmp_path / "run")
    played = rows(tmp_path / "run", "SELECT task, grp, copy, seed FROM episodes WHERE phase = 'train'")
    assert len(played) == 12 and len({task for task, *_ in played}) == 1
    assert len({group for _, group, *_ in played}) == 3 and len({seed for *_, seed in played}) == 12


def test_the_turn_limit_grows(tmp_path: Path) -> None:
    growing = 'rl.collect_params={"horizon_first": 1, "horizon_add": 1, "horizon_every": 2}'
    trainer.train(small("rl.curriculum=scaling_inter", growing), tmp_path / "run")
    played = rows(tmp_path / "run", "SELECT step, MAX(turns) FROM episodes WHERE phase = 'train' GROUP BY 1")
    assert [turns for _, turns in played] == [1, 1, 2, 2, 3, 3]
    stops = rows(tmp_path / "run", "SELECT DISTINCT stop FROM episodes WHERE phase = 'train' AND step = 1")
    assert stops == [("turn_limit",)]
    evaluated = rows(tmp_path / "run", "SELECT MAX(turns) FROM episodes WHERE phase = 'eval' AND step = 0")
    assert evaluated == [(3,)]  # held-out play is never cut


def test_lost_groups_are_played_again_with_a_hint(tmp_path: Path) -> None:
    recipe = small("rl.augmentor=ghpo", "rl.steps=3", "sft.agent=expert", "sft.epochs=1", "rl.samples_per_task=2")
    trainer.train(recipe, tmp_path / "run")
    query = "SELECT e.step, e.grp, e.success, t.observation FROM episodes e JOIN turns t ON t.episode = e.id "
    first = rows(tmp_path / "run", query + "WHERE e.phase = 'train' AND t.turn = 0")
    groups: dict[tuple[int, int], list[tuple[int, str]]] = {}
    for step, group, success, observation in first:
        groups.setdefault((step, group), []).append((success, observation))
    hinted = [group for group in groups.values() if any("Hint: " in seen for _, seen in group)]
    assert hinted
    for group in hinted:
        assert all("\nHint: " in seen for _, seen in group) and any(success for success, _ in group)
    metric = dict(Run.open(tmp_path / "run").metrics()["hinted"])
    assert sum(metric.values()) == pytest.approx(sum(map(len, hinted)) / 6)


def test_hints_come_in_order_until_one_wins() -> None:
    """A scripted policy that wins only once it has read half of the solution."""
    from turnwise.agents.agent import Answer, Demonstrator
    from turnwise.agents.context import Context
    from turnwise.agents.rollout import Limits, rollout

    seen: list[str] = []

    class Reader(Demonstrator):
        def play(self, episode: str, seed: int, expert: Any) -> Any:
            outer = super().play(episode, seed, expert)

            class Half:
                strong = False

                async def answer(self, observation: str, info: dict[str, Any]) -> Any:
                    if "Hint: " in observation:
                        seen.append(observation.split("Hint: ")[1])
                    self.strong |= len(seen) >= 2
                    return await outer.answer(observation, info) if self.strong else Answer("wait")

                def close(self) -> None:
                    outer.close()

            return Half()

    async def go() -> tuple[list[Any], list[Any]]:
        pool, task = EnvPool(workers=1), tasks("turnwise/Toy-v0", "train", 1, rooms=2, slack=1)[0]
        reader, limits = Reader("expert", Context()), Limits()
        try:
            lost = await rollout(reader, [sampler.Episode(task, 0, 0, 1)], pool, limits)
            rl, expert = RLConfig(augmentor="ghpo"), Demonstrator("expert", Context())
            return lost, await sampler.with_hints(reader, lost, pool, limits, rl, 0, 0, expert)
        finally:
            await pool.aclose()

    lost, again = asyncio.run(go())
    assert not lost[0].success and again[0].success and sampler.hinted(again) == 1.0 and sampler.hinted(lost) == 0.0
    assert len(seen) == 2 and seen[1].startswith(seen[0]) and len(seen[1]) == pytest.approx(2 * len(seen[0]), abs=1)


def test_budgets_are_told_and_read(tmp_path: Path) -> None:
    told = ["rl.augmentor=hbpo", "algorithm=hbpo", "rl.steps=1", "params.hbpo_longest=32"]
    trainer.train(small(*told), tmp_path / "run")
    query = "SELECT e.copy, t.observation FROM episodes e JOIN turns t ON t.episode = e.id WHERE e.phase = 'train' "
    for copy, observation in rows(tmp_path / "run", query + "AND t.turn = 0"):
        assert f"Use about {(4, 8, 16, 20)[copy]} tokens" in observation  # 512, 1024, 2048, 2560 of 4,096


def test_the_reference_is_the_soup(tmp_path: Path) -> None:
    trainer.train(small("rl.steps=1"), tmp_path / "run")
    one, two = (str(tmp_path / "run" / "checkpoints" / f"step-{step}" / "policy") for step in (0, 1))
    recipe = small("algorithm=ppo", "params.kl_reward_coef=0.1", f"rl.reference={two}")
    learner = session.make_learner(recipe, load_policy(one)[0])
    assert learner.reference is not None
    second = dict(load_policy(two)[0].named_parameters())
    for name, weight in learner.reference.named_parameters():
        own = dict(learner.model.named_parameters())[name]
        assert torch.allclose(weight, (own + second[name]) / 2) and not weight.requires_grad
    trainer.train(recipe, tmp_path / "soup")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (['rl.collect_params={"vas_alfa": 1}'], UnknownName, "Did you mean 'vas_alpha'"),
        (["rl.budget=knapsack", "rl.samples_per_task=1", "algorithm=reinforce"], RequestError, ">= budget_low"),
        (['rl.collect_params={"budget_total": 9}'], RequestError, "no budget_total"),
        (["rl.sampler=one_shot", "rl.dynamic_sampling=1"], RequestError, "no other task to draw"),
        (['rl.collect_params={"vas_alpha": -1}'], RequestError, "vas_alpha in"),
        (["rl.augmentor=ghpo", "rl.dynamic_sampling=1"], RequestError, "not a successor"),
        (["rl.reference=/nowhere", "params.beta=0.1"], RequestError, "rl.reference as 'start' or the folder"),
        (["rl.sampler=best"], RequestError, "rl.sampler"),
    ],
)
def test_wrong_settings_are_refused(changes: list[str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        session.validate(small(*changes))


def test_what_is_drawn_follows_the_record() -> None:
    all_tasks = tasks("turnwise/Toy-v0", "train", 4, rooms=2, slack=1)
    record = {task.key: [p, 0.0] for task, p in zip(all_tasks, (0.0, 1.0, 0.5, 0.0), strict=True)}
    sure = RLConfig(sampler="mmr1_vas", tasks_per_step=1, collect_params={"vas_share": 1.0})
    drawn = {sampler.task_order(sure, 0, step, all_tasks, {"weighed": record})[0] for step in range(20)}
    assert drawn == {2}  # the only one with any variance
    unknown = [sampler.task_order(sure, 0, step, all_tasks, {})[0] for step in range(40)]
    assert set(unknown) == {0, 1, 2, 3}
    plain = sampler.task_order(RLConfig(), 0, 5, all_tasks, {})
    assert sorted(plain) == [0, 1, 2, 3] and plain == sampler.task_order(
        RLConfig(), 0, 5, all_tasks, {"weighed": record}
    )
    assert sampler.group_sizes(RLConfig(samples_per_task=4), all_tasks, {"tasks": record}) == [4] * 4
    ragged = RLConfig(samples_per_task=4, budget="knapsack")
    assert sampler.group_sizes(ragged, all_tasks, {"tasks": record}) == [2, 2, 10, 2]
