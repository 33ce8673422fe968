"""Reflect, then retry: real rollouts of a scripted engine, exact to the token in both layouts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Literal

import pytest
from helpers import TINY
from turnwise.agents.agent import LLMAgent
from turnwise.agents.context import Context, Renderer
from turnwise.agents.engine import Completion, EngineError, Request
from turnwise.agents.models import build_tokenizer
from turnwise.agents.rollout import Episode, Limits, rollout
from turnwise.agents.trajectory import Trajectory
from turnwise.envs import registry
from turnwise.envs.core import State
from turnwise.envs.pool import EnvPool
from turnwise.envs.task import Task
from turnwise.envs.toy import COLOURS, ToyEnv
from turnwise.training import algorithms as table
from turnwise.training import objective
from turnwise.training.collate import encode
from turnwise.training.config import RLConfig
from turnwise.training.extract import RETRY
from turnwise.training.retry import ADVICE, REFLECT, Moments, Retried, account, reflect_and_retry

TASK = registry.tasks("turnwise/Toy-v0", "train", 1, rooms=3, slack=0)[0]
TIP = "open the door that the sign names"
LOST = {"trajectory_outcome": "failure", "retry_from_step": 1, "improvement_suggestion": TIP}
Layout = Literal["transcript", "windowed"]


class Scripted:
    """Writes `reflection` where it is asked to judge; plays by the sign with advice, wrongly after turn 0 without."""

    version = 7

    def __init__(self, renderer: Renderer, reflection: str) -> None:
        self.renderer, self.reflection = renderer, reflection
        self.seen: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    async def generate(self, request: Request) -> Completion:
        text = str(self.renderer.tokenizer.decode(list(request.prompt)))
        if REFLECT in text:
            said = self.reflection
        else:
            sign = next(c for c in COLOURS if f"says {c}." in text.rsplit("The sign", 1)[1])
            first = "You enter" in text.rsplit("<|user|>", 1)[1]
            said = f"open {sign if first or ADVICE in text else 'no'} door"
        if said == "break":
            raise EngineError("out of memory")
        ids = self.renderer.answer(said)
        self.seen.append((request.prompt, ids))
        return Completion(ids, tuple(-0.01 * (k + 1) for k in range(len(ids))), True, self.version)

    def load_weights(self, weights: Iterable[tuple[str, Any]], version: int) -> None: ...

    def score(self, ids: list[int]) -> list[float]:
        return [0.0] * (len(ids) - 1)

    def close_session(self, session: str) -> None: ...

    def seat(self) -> AbstractContextManager[None]:
        return nullcontext()

    def close(self) -> None: ...


def renderer() -> Renderer:
    bytes_only = TINY.model_copy(update={"tokens": "bytes", "vocabulary": 400})
    return Renderer(build_tokenizer(["open the red green blue door", REFLECT], bytes_only))


def play(
    reflection: str, layout: Layout = "transcript", copies: int = 1, isolate: bool = False, task: Task = TASK,
    change: Callable[[Moments], None] | None = None, **params: Any,
) -> tuple[list[Trajectory], Retried, Scripted]:  # fmt: skip
    """First attempts, what reflecting and retrying made of them, and the engine with all it saw."""
    context = Context(layout=layout, history=2, system="Play.", max_tokens=4096, max_action_tokens=64)

    async def go() -> tuple[list[Trajectory], Retried, Scripted]:
        pool, engine = EnvPool(workers=2, isolate_all=isolate), Scripted(renderer(), reflection)
        agent, limits = LLMAgent(engine, engine.renderer, context), Limits()
        moments = Moments(pool)
        try:
            base = await rollout(agent, [Episode(task, 4, c, 10 + c) for c in range(copies)], moments, limits)
            if change is not None:
                change(moments)
            rl = RLConfig(augmentor="reflect_retry", collect_params=params)
            return base, await reflect_and_retry(agent, base, moments, limits, rl, seed=0, step=3), engine
        finally:
            await pool.aclose()

    return asyncio.run(go())


def text_of(engine: Scripted, ids: Iterable[int]) -> str:
    return str(engine.renderer.tokenizer.decode(list(ids)))


@pytest.mark.parametrize("layout", ["transcript", "windowed"])
@pytest.mark.parametrize("isolate", [False, True])
def test_a_lost_episode_is_won_from_the_pivot_on(layout: Layout, isolate: bool) -> None:
    (base,), got, _ = play(json.dumps(LOST), layout, isolate=isolate)
    assert not base.success and base.score == 1
    (retry,) = got.retries
    assert retry.success and (retry.agent, retry.pivot, retry.group, retry.copy_index) == (RETRY, 1, 4, 1)
    assert got.played == [base.model_copy(update={"pivot": 1})]
    assert retry.turns[0] == base.turns[0] and retry.turns[1].observation == base.turns[1].observation
    assert [turn.action for turn in base.turns] != [turn.action for turn in retry.turns]
    assert got.metrics == {
        "retry/share": 1.0, "retry/unread": 0.0, "retry/lessons": 2.0, "retry/success": 1.0, "retry/improved": 1.0,
    }  # fmt: skip


@pytest.mark.parametrize("layout", ["transcript", "windowed"])
def test_rows_are_what_the_engine_saw_and_what_it_would_have_seen_without_advice(layout: Layout) -> None:
    (base,), got, engine = play(json.dumps(LOST), layout)
    asked = {prompt + ids for prompt, ids in engine.seen}
    (retry,), (lesson, guided) = got.retries, got.lessons
    own, plain, told = list(base.rows()), list(retry.rows()), list(guided.rows())
    assert len(own) == len(plain) == len(told) == (1 if layout == "transcript" else 3)
    # what was played with advice: rows that hold a turn after the pivot are, id for id, requests and their answers
    assert all(tuple(row.ids) in asked for row in told[-2:])
    assert all(ADVICE + TIP in text_of(engine, row.ids) for row in told)
    # what is learned from: no row has the advice, and the answers are the same ids
    assert not any(ADVICE in text_of(engine, row.ids) or TIP in text_of(engine, row.ids) for row in plain)
    for with_advice, without in zip(guided.turns, retry.turns, strict=True):
        assert with_advice.output is not None and without.output is not None
        assert with_advice.output.ids == without.output.ids
    assert [turn.output.logprobs is None for turn in retry.turns if turn.output] == [False, True, True]
    assert [turn.output.logprobs is None for turn in guided.turns if turn.output] == [True, False, False]
    # the contexts without advice are those of the base up to the pivot, and beyond it those of a plain dialogue
    cut = sum(len(t.prompt.ids) + len(t.output.ids) for t in base.turns[:1] if t.prompt and t.output)
    assert plain[0].ids[:cut] == own[0].ids[:cut]
    at_pivot = retry.turns[1].prompt
    assert at_pivot is not None and at_pivot == base.turns[1].prompt
    for turn in (1, 2):
        before = retry.turns[turn - 1]
        row = plain[turn if layout == "windowed" else 0]
        seen = text_of(engine, row.ids)
        assert retry.turns[turn].observation in seen and before.action in seen
    # the reflection: its own context, its own log-probs, worth the best score
    (row,) = lesson.rows()
    assert tuple(row.ids) in asked and lesson.success and lesson.score == base.max_score and row.logprobs[-1] < 0
    assert {guided.group, lesson.group} == {5, 6}


def test_gradients_begin_at_the_pivot_in_base_and_retry() -> None:
    _, got, _ = play(json.dumps(LOST), "transcript")
    batch = encode([*got.played, *got.retries], {"progress": 1.0}, {"pivot", "provenance"}).batch
    assert batch.extras["pivot"].tolist() == [1.0, 1.0] and batch.extras["provenance"].tolist() == [0.0, 3.0]
    row, params = table.resolve("r3l")
    credit = objective.advantages(row, params, batch)
    c = objective.coefficient(row, params, batch, credit.adv_BT, batch.mask.float() * -0.5)
    for b, a in enumerate((-1 / 3, 3.0)):  # base 1/3, retry 1: mean 2/3; the best gets 3
        assert (c.coef_BT[b][batch.turn[b] == 0] == 0).all()
        assert c.coef_BT[b][batch.turn[b] >= 1].tolist() == pytest.approx([a] * int((batch.turn[b] >= 1).sum()))


def test_copies_of_one_task_are_retried_each_from_its_own_turn() -> None:
    base, got, _ = play(json.dumps({**LOST, "retry_from_step": 2}), copies=3)
    assert [t.copy_index for t in got.retries] == [3, 4, 5] and {t.pivot for t in got.retries} == {2}
    assert all(t.turns[:2] == b.turns[:2] for t, b in zip(got.retries, base, strict=True))
    assert [t.score for t in got.retries] == [2.0] * 3 and got.metrics["retry/improved"] == 1.0
    assert got.lessons == [] and len({t.seed for t in got.retries}) == 3


@pytest.mark.parametrize(
    "reflection",
    ["no idea", "{}", "break", json.dumps({**LOST, "retry_from_step": 3}), json.dumps({**LOST, "retry_from_step": -1}),
     json.dumps({**LOST, "retry_from_step": True}), json.dumps({**LOST, "improvement_suggestion": " "}),
     json.dumps({**LOST, "trajectory_outcome": "lost"}), json.dumps(LOST)[:-1]],
)  # fmt: skip
def test_without_a_usable_reflection_the_first_attempt_stands(reflection: str) -> None:
    base, got, _ = play(reflection)
    assert got.played == base and got.retries == [] and got.lessons == []
    assert got.metrics == {"retry/share": 0.0, "retry/unread": 1.0, "retry/lessons": 0.0}


def test_a_claim_of_success_is_imitated_only_where_it_is_true() -> None:
    says = json.dumps({"trajectory_outcome": "success"})
    base, got, _ = play(says)
    assert got.played == base and got.retries == [] and got.lessons == [] and got.metrics["retry/unread"] == 0.0
    (easy,) = registry.tasks("turnwise/Toy-v0", "train", 1, rooms=1, slack=0)
    (won,), got, _ = play(says, task=easy)
    assert won.success and got.retries == [] and [t.success for t in got.lessons] == [True]
    assert play(says, task=easy, imitate_lessons=False)[1].lessons == []


def test_the_rule_goes_back_to_the_first_turn_without_a_reward_and_gives_no_advice() -> None:
    (base,), got, engine = play("never asked", retry_by="rule")
    (retry,) = got.retries
    assert retry.pivot == 1 and retry.agent == "policy" and got.lessons == []
    assert [turn.output.logprobs for turn in retry.turns if turn.output] == [
        turn.output.logprobs for turn in base.turns if turn.output
    ], "its log-probs are those of its own context"
    assert not any(ADVICE in text_of(engine, ids) or REFLECT in text_of(engine, ids) for ids, _ in engine.seen)


class Fickle(ToyEnv):
    """Says something else each time."""

    id: ClassVar[str] = "retrytest/Fickle-v0"
    count: ClassVar[int] = 0

    def clone_state(self) -> Any:
        return None

    def _look(self, event: str, admissible: bool = True) -> State:
        Fickle.count += 1
        state = super()._look(event, admissible)
        return state._replace(observation=f"[{Fickle.count}] {state.observation}")


def test_a_prefix_that_does_not_replay_leaves_the_first_attempt() -> None:
    registry.register(Fickle.id, f"{__name__}:Fickle")
    task = registry.tasks(Fickle.id, "train", 1, rooms=3, slack=0)[0]
    (base,), got, _ = play(json.dumps(LOST), task=task)
    assert got.played == [base] and got.retries == [] and got.lessons == []
    assert [t.stop.value for t in got.told] == ["failure", "env_error"]
    assert "not deterministic" in (got.told[1].error or "")


def test_a_moment_that_was_not_kept_is_not_gone_back_to() -> None:
    _, got, _ = play(json.dumps(LOST), change=lambda moments: moments.kept.clear())
    assert got.retries == [] and got.played[0].pivot == 0


def test_the_account_tells_what_was_seen_done_and_reached() -> None:
    (base,), _, _ = play("{}")
    text = account(base)
    for turn in base.turns:
        assert f"Observation: {turn.observation}\nAction: {turn.action}" in text
    assert text.endswith("The goal was not reached (turn_limit). Score: 1 of 3.") and base.task.goal in text
