"""Rollouts: why an episode ends, how many run at once, in which order they come, who waits for whom."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from itertools import pairwise
from typing import Any

import pytest
from helpers import run
from hypothesis import given, settings
from hypothesis import strategies as st
from turnwise.agents.agent import LLMAgent, ReplayAgent, ScriptedAgent
from turnwise.agents.context import Context, Renderer
from turnwise.agents.engine import Completion, EngineError, Request
from turnwise.agents.models import ScratchModel, build_tokenizer
from turnwise.agents.rollout import Episode, Limits, episode_seed, rollout
from turnwise.agents.trajectory import Trajectory
from turnwise.envs import EnvError, StopReason, Task, tasks
from turnwise.envs.toy import ToyEnv

RENDERER = Renderer(build_tokenizer(["open red green blue door You enter a house. The sign says"], ScratchModel()))


def toy(rooms: int = 3, slack: int = 0, count: int = 1, split: str = "train") -> list[Task]:
    return tasks("Toy", split, count, rooms=rooms, slack=slack)


def play(agent: Any, task: Task, limits: Limits | None = None, seed: int = 0) -> Trajectory:
    return run(agent, [Episode(task, seed=seed)], limits)[0]


class SaidEngine:
    """Answers every request with the same text, as far as `max_tokens` lets it."""

    version = 3

    def __init__(self, text: str = "open red door", wait: Callable[[Request], Awaitable[None]] | None = None) -> None:
        self.ids, self.wait = RENDERER.answer(text), wait
        self.requests: list[Request] = []
        self.closed: list[str] = []

    async def generate(self, request: Request) -> Completion:
        self.requests.append(request)
        if self.wait is not None:
            await self.wait(request)
        ids = self.ids[: request.max_tokens]
        return Completion(ids, (-0.5,) * len(ids), ids[-1] == request.stop_ids[0], self.version)

    def load_weights(self, weights: Iterable[tuple[str, Any]], version: int) -> None:
        raise NotImplementedError

    def score(self, ids: list[int]) -> list[float]:
        raise NotImplementedError

    def close_session(self, session: str) -> None:
        self.closed.append(session)

    def seat(self) -> AbstractContextManager[None]:
        return nullcontext()

    def close(self) -> None:
        raise NotImplementedError


def policy(engine: SaidEngine, **context: Any) -> LLMAgent:
    return LLMAgent(engine, RENDERER, Context(goal="never", **context))


class Game:
    """An environment whose step awaits `moves(turn)`, which says why the game ends, if it does."""

    def __init__(self, moves: Callable[[int], Awaitable[str | None]]) -> None:
        self.moves, self.turn = moves, 0

    async def reset(self) -> tuple[str, dict[str, Any]]:
        return "start", self._info(None)

    async def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.turn += 1
        stop = await self.moves(self.turn)
        return f"after {action}", 0.0, stop is not None, False, self._info(stop)

    async def expert(self) -> str:
        return "win"

    def _info(self, stop: str | None) -> dict[str, Any]:
        won = stop == "success"
        return {
            "score": float(won), "max_score": 1.0, "success": won, "valid": True, "admissible": True, "anchor": "here",
            "commands": None, "goal": "", "turn": self.turn, "task": "", "stop": stop,
        }  # fmt: skip


class Games:
    """A pool of `Game`s; the task's seed says which moves. Counts how many are out at once."""

    def __init__(self, moves: Callable[[int, int], Awaitable[str | None]], workers: int | None = None) -> None:
        self.moves, self.workers = moves, workers
        self.out = self.most = 0

    @asynccontextmanager
    async def lease(self, task: Task) -> AsyncIterator[Game]:
        self.out += 1
        self.most = max(self.most, self.out)
        try:
            yield Game(lambda turn: self.moves(task.seed, turn))
        finally:
            self.out -= 1

    def capacity(self, task: Task) -> int | None:
        return self.workers


def episodes(count: int) -> list[Episode]:
    return [Episode(Task(env="x/Game-v0", seed=index), group=index) for index in range(count)]


def play_games(moves: Callable[[int, int], Awaitable[str | None]], count: int = 1, **kwargs: Any) -> list[Trajectory]:
    agent = kwargs.pop("agent", ReplayAgent(["go"] * 50))

    async def main() -> list[Trajectory]:
        return await asyncio.wait_for(rollout(agent, episodes(count), Games(moves), **kwargs), timeout=30)

    return asyncio.run(main())


# ---- why an episode ends ------------------------------------------------------------------------------


def test_success() -> None:
    won = play(ScriptedAgent("expert"), toy(rooms=3)[0])
    assert (won.stop, won.success, won.score, len(won.turns)) == (StopReason.SUCCESS, True, 3.0, 3)
    assert won.final_observation == "You walk on. You are out." and [t.reward for t in won.turns] == [1.0, 1.0, 1.0]


def test_failure_is_neither_an_error_nor_a_limit() -> None:
    async def lose_in_the_second_turn(_: int, turn: int) -> str | None:
        return "failure" if turn == 2 else None

    (lost,) = play_games(lose_in_the_second_turn)
    assert (lost.stop, lost.success, len(lost.turns)) == (StopReason.FAILURE, False, 2)
    assert not lost.stop.is_error and not lost.stop.is_truncated


def test_turn_limit() -> None:
    engine = SaidEngine("open the wall")
    late = play(policy(engine), toy(rooms=2, slack=1)[0])
    assert (late.stop, late.success, len(late.turns)) == (StopReason.TURN_LIMIT, False, 3)
    assert late.stop.is_truncated


def test_invalid_limit_counts_in_a_row() -> None:
    (task,) = toy(rooms=4, slack=20)
    silent = play(ScriptedAgent("empty"), task, Limits(invalid_actions=5))
    assert (silent.stop, len(silent.turns)) == (StopReason.INVALID_LIMIT, 5)
    assert not any(turn.valid or turn.admissible for turn in silent.turns)
    possible = "open red door"
    mixed = play(ReplayAgent(["dance"] * 4 + [possible] + ["dance"] * 9), task, Limits(invalid_actions=5))
    assert (mixed.stop, len(mixed.turns)) == (StopReason.INVALID_LIMIT, 10)
    assert [turn.valid for turn in mixed.turns] == [True] * 10, "parsable, though not possible"


def test_a_win_counts_though_a_limit_is_reached_with_it() -> None:
    (task,) = toy(rooms=1)
    (turn,) = play(ScriptedAgent("expert"), task).turns
    won = play(policy(SaidEngine(turn.action)), task, Limits(policy_tokens=1))
    assert won.stop is StopReason.SUCCESS and won.policy_tokens == 4


def test_token_limit_counts_what_the_policy_sampled() -> None:
    engine = SaidEngine("open the wall")  # unknown words and the end token: 4 ids
    assert len(engine.ids) == 4
    cut = play(policy(engine), toy(rooms=5, slack=20)[0], Limits(policy_tokens=9, invalid_actions=99))
    assert (cut.stop, len(cut.turns), cut.policy_tokens) == (StopReason.TOKEN_LIMIT, 3, 12)


def test_context_limit_and_the_last_answer_fits_into_it() -> None:
    engine = SaidEngine("open the wall")
    agent = policy(engine, max_tokens=40, max_action_tokens=8)
    cut = play(agent, toy(rooms=5, slack=20)[0], Limits(invalid_actions=99))
    assert cut.stop is StopReason.CONTEXT_LIMIT and cut.stop.is_truncated and cut.turns
    (row,) = cut.rows()
    assert len(row.ids) <= 40
    assert all(len(request.prompt) + request.max_tokens <= 40 for request in engine.requests)
    assert engine.requests[0].max_tokens == 8
    assert engine.requests[-1].max_tokens == min(8, 40 - len(engine.requests[-1].prompt))


def test_an_answer_without_an_end_is_no_action() -> None:
    engine = SaidEngine("open red door")
    (turn, *_) = play(policy(engine, max_action_tokens=2), toy()[0]).turns
    assert turn.action == "" and not turn.valid
    assert turn.output is not None and turn.output.ids == engine.ids[:2], "what was sampled is kept all the same"


def test_time_limit_costs_one_episode() -> None:
    async def hang_in_episode_1(index: int, turn: int) -> str | None:
        if index == 1:
            await asyncio.Event().wait()
        return "success"

    engine = SaidEngine()
    first, second, third = play_games(hang_in_episode_1, 3, agent=policy(engine), limits=Limits(seconds=0.3))
    assert second.stop is StopReason.TIME_LIMIT and not second.turns and second.stop.is_truncated
    assert first.success and third.success
    assert len(engine.closed) == 3, "the engine forgets the session of an episode that was given up, too"


def test_a_broken_environment_ends_its_episode_as_data() -> None:
    async def break_in_episode_1(index: int, turn: int) -> str | None:
        if index == 1 and turn == 2:
            raise EnvError("the interpreter died")
        return "success" if turn == 3 else None

    first, second, third = play_games(break_in_episode_1, 3)
    assert (second.stop, second.error, len(second.turns)) == (StopReason.ENV_ERROR, "EnvError: the interpreter died", 1)
    assert second.stop.is_error and not second.success
    assert first.success and third.success


def test_a_broken_engine_ends_its_episodes_as_data() -> None:
    async def fail(request: Request) -> None:
        raise EngineError("out of memory")

    engine = SaidEngine(wait=fail)
    (broken,) = run(policy(engine), [Episode(toy()[0])])
    assert (broken.stop, broken.error) == (StopReason.ENGINE_ERROR, "EngineError: out of memory")
    assert broken.stop.is_error and engine.closed == [engine.requests[0].session]


def test_an_agent_that_has_nothing_more_to_say_aborts() -> None:
    given_up = play(ReplayAgent(["open red door"]), toy(rooms=4, slack=4)[0])
    assert (given_up.stop, len(given_up.turns)) == (StopReason.ABORTED, 1) and given_up.stop.is_error


# ---- concurrency, order, no lock step -----------------------------------------------------------------


@pytest.mark.parametrize(("concurrency", "workers", "bound"), [(1, None, 1), (3, None, 3), (100, None, 12), (9, 5, 5)])
def test_at_most_so_many_at_once(concurrency: int, workers: int | None, bound: int) -> None:
    async def win_after_some_turns(index: int, turn: int) -> str | None:
        await asyncio.sleep(0)
        return "success" if turn > index % 4 else None

    pool = Games(win_after_some_turns, workers)
    played = asyncio.run(rollout(ReplayAgent(["go"] * 9), episodes(12), pool, concurrency=concurrency))
    assert pool.most == bound and pool.out == 0
    assert all(t.success for t in played)


def test_trajectories_come_in_the_order_of_episodes_whatever_ends_first() -> None:
    ended: list[int] = []

    async def the_last_win_first(index: int, turn: int) -> str | None:
        await asyncio.sleep(0)
        return "success" if turn == 10 - index else None

    played = play_games(the_last_win_first, 8, on_end=lambda t: ended.append(t.group))
    assert [t.group for t in played] == list(range(8))
    assert [len(t.turns) for t in played] == [10, 9, 8, 7, 6, 5, 4, 3]
    assert ended == list(reversed(range(8)))


def test_a_slow_environment_delays_no_other() -> None:
    """Episode 0 ends only after all others have: in lock step, or with its slot taken for two, this would hang."""
    others_done = asyncio.Event()
    ended: list[int] = []

    async def wait_for_the_others(index: int, turn: int) -> str | None:
        if index == 0:
            await others_done.wait()
        return "success" if turn == 2 else None

    def note(t: Trajectory) -> None:
        ended.append(t.group)
        if len(ended) == 9:
            others_done.set()

    played = play_games(wait_for_the_others, 10, concurrency=2, on_end=note)
    assert ended[-1] == 0 and all(t.success for t in played)


def test_a_slow_answer_delays_no_other() -> None:
    others_done = asyncio.Event()
    ended: list[int] = []

    async def wait(request: Request) -> None:
        if request.session.startswith("0-"):
            await others_done.wait()

    async def three_turns(index: int, turn: int) -> str | None:
        return "success" if turn == 3 else None

    def note(t: Trajectory) -> None:
        ended.append(t.group)
        if len(ended) == 5:
            others_done.set()

    play_games(three_turns, 6, agent=policy(SaidEngine(wait=wait)), on_end=note)
    assert ended[-1] == 0 and len(ended) == 6


def test_requests_are_told_apart_and_extend_one_another() -> None:
    engine = SaidEngine("open the wall")
    group = [Episode(toy(rooms=3)[0], 0, copy, seed=copy) for copy in range(3)]
    played = run(policy(engine), group)
    assert len({request.id for request in engine.requests}) == len(engine.requests) == 9
    assert len({request.seed for request in engine.requests}) == 9
    assert len({request.session for request in engine.requests}) == 3 == len(set(engine.closed))
    for session in engine.closed:
        prompts = [request.prompt for request in engine.requests if request.session == session]
        for shorter, longer in pairwise(prompts):
            assert longer[: len(shorter) + len(engine.ids)] == (*shorter, *engine.ids)
    for t in played:
        (row,) = t.rows()
        assert row.version == engine.version
        assert [i for i, own in zip(row.ids, row.action, strict=True) if own] == [*engine.ids] * 3
        assert [p for p, own in zip(row.logprobs, row.action, strict=True) if own] == [-0.5] * 12


# ---- replay -------------------------------------------------------------------------------------------


def met(t: Trajectory) -> str:
    """Everything that the environment said and was told, as text."""
    turns = [turn.model_dump_json(exclude={"prompt", "output", "restart"}) for turn in t.turns]
    return "\n".join([*turns, t.final_observation, t.stop.value, repr((t.success, t.score, t.max_score))])


@given(seed=st.integers(0, 2**31 - 1), rooms=st.integers(1, 5), slack=st.integers(0, 3), index=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_replay_is_byte_for_byte(seed: int, rooms: int, slack: int, index: int) -> None:
    task = ToyEnv.tasks("validation", rooms=rooms, slack=slack)[index]
    played = play(ScriptedAgent("random"), task, seed=seed)
    again = play(ReplayAgent([turn.action for turn in played.turns]), task)
    assert met(again) == met(played)


@pytest.mark.parametrize("id", ["turnwise/ALFWorld-v0", "turnwise/TextWorld-v0"])
def test_replay_is_byte_for_byte_in_the_engines(id: str) -> None:
    pytest.importorskip(id.removeprefix("turnwise/").removesuffix("-v0").lower())
    size: dict[str, Any] = {"receptacles": 5, "distractors": 3} if "ALF" in id else {"grid": "w2-o2-q2"}
    (task,) = tasks(id, "train", 1, **size)
    for agent, seed in (("expert", 0), ("random", 4)):
        played = play(ScriptedAgent(agent), task, seed=seed)
        assert not played.stop.is_error and len(played.turns) >= 2
        again = play(ReplayAgent([turn.action for turn in played.turns]), task)
        assert met(again) == met(played)


def test_the_same_seed_is_the_same_episode_and_another_is_another() -> None:
    (task,) = toy(rooms=5, slack=5)
    once, twice, other = (play(ScriptedAgent("random"), task, seed=seed) for seed in (1, 1, 2))
    assert met(once) == met(twice) != met(other)


def test_episode_seeds_name_episodes() -> None:
    # printf 'eval/0/abc/1' | sha256sum begins with b074a25d; the upper 31 of these 32 bits are the seed
    assert episode_seed("eval", 0, "abc", 1) == 0xB074A25D >> 1
    drawn = {episode_seed("train", 0, step, task, c) for step in range(10) for task in range(20) for c in range(8)}
    assert len(drawn) == 1600 and all(0 <= seed < 2**31 for seed in drawn)
