"""Reflect, then retry (R3L): back to the turn that an episode went wrong at, and on from there with advice.

A retry is played with the advice as a system message and learned from without it: the engine saw the guided context,
the training row has the same answers, id for id, in the context that the policy meets in play.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any, NamedTuple

from ..agents.agent import Agent, Answer, Dialogue, LLMAgent
from ..agents.context import Context
from ..agents.rollout import Episode, Limits, Pool, RemoteEnv, Start, episode_seed, rollout
from ..agents.trajectory import Owner, Segment, Trajectory, Turn
from ..envs.core import Snapshot, StopReason
from ..envs.task import Task
from .catalogue.agentic import retry_lessons, retry_plan
from .config import RLConfig
from .extract import RETRY
from .parameters import call, keyword_defaults

REFLECT = (
    "You read a finished episode and judge how it was played. Answer with one JSON object and nothing else. Its keys: "
    '"trajectory_summary": what happened, in a sentence; "root_cause_analysis": why it ended as it did; '
    '"trajectory_outcome": "success", "success_but_inefficient" or "failure"; "improvement_suggestion": advice to '
    'whoever plays on from the turn below, without giving away later observations; "retry_from_step": the number of '
    "the first turn that should have been played differently."
)
ADVICE = "Advice for this episode: "

# ---------------------------------------------------------------- moments to go back to


class Moment(NamedTuple):
    """What an episode met at one point, and how to go back there."""

    snapshot: Snapshot
    observation: str
    info: dict[str, Any]


class Moments:
    """A pool that keeps each moment of its episodes, by task and actions so far."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.kept: dict[tuple[str, tuple[str, ...]], Moment] = {}

    @asynccontextmanager
    async def lease(self, task: Task) -> AsyncIterator[RemoteEnv]:
        """The pool's environment, watched."""
        async with self.pool.lease(task) as env:
            yield _Watched(env, task, self.kept)

    def capacity(self, task: Task) -> int | None:
        """That of the pool."""
        return self.pool.capacity(task)

    def before(self, trajectory: Trajectory, turn: int) -> Moment | None:
        """The moment that `turn` answered; None where it was not kept."""
        return self.kept.get((trajectory.task.key, tuple(t.action for t in trajectory.turns[:turn])))


class _Watched:
    def __init__(self, env: RemoteEnv, task: Task, kept: dict[tuple[str, tuple[str, ...]], Moment]) -> None:
        self.env, self.key, self.kept = env, task.key, kept
        self.actions: tuple[str, ...] = ()

    async def reset(self) -> tuple[str, dict[str, Any]]:
        observation, info = await self.env.reset()
        await self._keep(observation, info)
        return observation, info

    async def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = await self.env.step(action)
        self.actions = (*self.actions, action)
        if not info["stop"]:
            await self._keep(observation, info)
        return observation, reward, terminated, truncated, info

    async def expert(self) -> str:
        return await self.env.expert()

    async def snapshot(self) -> Snapshot:
        return await self.env.snapshot()

    async def restore(self, snapshot: Snapshot) -> tuple[str, dict[str, Any]]:
        return await self.env.restore(snapshot)

    async def _keep(self, observation: str, info: dict[str, Any]) -> None:
        place = (self.key, self.actions)
        if place not in self.kept:  # copies of one task pass through the same moments
            self.kept[place] = Moment(await self.env.snapshot(), observation, info)


# ---------------------------------------------------------------- reflecting


def account(t: Trajectory) -> str:
    """An episode as its reflection reads it."""
    turns = [f"Turn {i}\nObservation: {turn.observation}\nAction: {turn.action}" for i, turn in enumerate(t.turns)]
    end = "The goal was reached." if t.success else f"The goal was not reached ({t.stop.value})."
    goal = [f"Goal: {t.task.goal}"] if t.task.goal else []
    score = f"{end} Score: {t.score:g} of {t.max_score:g}."
    return "\n".join([*goal, *turns, f"Final observation: {t.final_observation}", score])


async def reflections(
    agent: LLMAgent, played: Sequence[Trajectory], limits: Limits, seed: int, step: int
) -> list[Trajectory]:
    """What the policy writes about each episode, as episodes of one turn: observation its account, action the text."""
    desk = _Desk({_question(t).key: account(t) for t in played})
    room = agent.context.max_tokens
    context = Context(system=REFLECT, goal="never", max_action_tokens=room, max_tokens=room)
    writer = LLMAgent(agent.engine, agent.renderer, context, agent.temperature, agent.name)
    asked = [
        Episode(_question(t), t.group, t.copy_index, episode_seed("reflect", seed, step, t.group, t.copy_index))
        for t in played
    ]
    return await rollout(writer, asked, desk, limits)


def _question(t: Trajectory) -> Task:
    """A task of its own for the reflection on an episode."""
    return Task(env=t.task.env, params={"reflect_on": [t.group, t.copy_index]}, max_turns=1)


class _Desk:
    """A pool of questions: the observation is a text, the first action ends the episode."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.texts = texts

    @asynccontextmanager
    async def lease(self, task: Task) -> AsyncIterator[RemoteEnv]:
        yield _Question(self.texts[task.key])

    def capacity(self, task: Task) -> int | None:
        return None


class _Question:
    def __init__(self, text: str) -> None:
        self.text = text

    async def reset(self) -> tuple[str, dict[str, Any]]:
        return self.text, self._info(None)

    async def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return "", 0.0, True, False, self._info(StopReason.FAILURE.value)

    async def expert(self) -> str:
        raise NotImplementedError

    async def snapshot(self) -> Snapshot:
        raise NotImplementedError

    async def restore(self, snapshot: Snapshot) -> tuple[str, dict[str, Any]]:
        raise NotImplementedError

    def _info(self, stop: str | None) -> dict[str, Any]:
        return {
            "score": 0.0, "max_score": 1.0, "success": False, "valid": True, "admissible": True, "anchor": self.text,
            "commands": None, "goal": "", "stop": stop,
        }  # fmt: skip


# ---------------------------------------------------------------- retrying


class Plan(NamedTuple):
    """One retry: which episode, from where, with what advice."""

    base: Trajectory
    pivot: int
    advice: str
    moments: tuple[Moment, ...]
    """Those of turns 0 to pivot."""


class Retrier(Agent):
    """The policy playing on from the plans' pivots, plans by the seeds of episodes; notes contexts without advice."""

    name = RETRY

    def __init__(self, agent: LLMAgent, plans: Mapping[int, Plan]) -> None:
        self.agent, self.plans = agent, plans
        self.guided: dict[int, list[tuple[int, ...]]] = {}
        """By seed, ids that each turn before the pivot added to the context with advice."""
        self.plain: dict[int, list[tuple[int, ...]]] = {}
        """By seed, ids that each later turn added to the context without."""

    def play(self, episode: str, seed: int, expert: Callable[[], Awaitable[str]]) -> _Retry:
        return _Retry(self, episode, seed, expert)

    def seat(self) -> AbstractContextManager[None]:
        return self.agent.seat()


class _Retry:
    def __init__(self, retrier: Retrier, episode: str, seed: int, expert: Callable[[], Awaitable[str]]) -> None:
        plan, agent = retrier.plans[seed], retrier.agent
        advised = "\n".join(filter(None, (agent.context.system, plan.advice and f"{ADVICE}{plan.advice}")))
        context = agent.context.model_copy(update={"system": advised})
        self.player = LLMAgent(agent.engine, agent.renderer, context, agent.temperature).play(episode, seed, expert)
        self.plain = Dialogue(agent.renderer, agent.context)
        retrier.guided[seed] = _retell(self.player.dialogue, plan)
        _retell(self.plain, plan)
        self.added = retrier.plain.setdefault(seed, [])

    async def answer(self, observation: str, info: dict[str, Any]) -> Answer:
        added, _ = self.plain.hear(observation, info)
        answer = await self.player.answer(observation, info)
        assert answer.output is not None
        _say(self.plain, answer.output.ids)
        self.added.append(added)
        return answer

    def close(self) -> None:
        self.player.close()


def _retell(dialogue: Dialogue, plan: Plan) -> list[tuple[int, ...]]:
    """Lead a dialogue to the plan's pivot by what was observed and the ids that were said; returns the ids heard."""
    heard = []
    for moment, turn in zip(plan.moments, plan.base.turns[: plan.pivot], strict=False):
        heard.append(dialogue.hear(moment.observation, moment.info)[0])
        assert turn.output is not None
        _say(dialogue, turn.output.ids)
    return heard


def _say(dialogue: Dialogue, ids: tuple[int, ...]) -> None:
    dialogue.say(ids, bool(ids) and ids[-1] == dialogue.renderer.end_id)


# ---------------------------------------------------------------- a step


class Retried(NamedTuple):
    """What reflecting and retrying makes of the episodes of a step."""

    played: list[Trajectory]
    """The first attempts; those that were retried begin to be learned from at the pivot."""
    retries: list[Trajectory]
    """The retries as they are learned from: without the advice."""
    lessons: list[Trajectory]
    """Guided retries and reflections to be imitated, each a group of its own."""
    told: list[Trajectory]
    """Reflections and retries as the engine saw them, for the records."""
    metrics: dict[str, float]


async def reflect_and_retry(
    agent: LLMAgent, played: Sequence[Trajectory], moments: Moments, limits: Limits, rl: RLConfig, seed: int, step: int
) -> Retried:
    """Reflect on each sound episode and retry those that a plan says to; a retry that breaks is as if never made."""
    sound = [t for t in played if t.turns and not t.stop.is_error]
    defaults = keyword_defaults(retry_plan)
    by_policy = rl.collect_params.get("retry_by", defaults["retry_by"]) == "policy"
    written = await reflections(agent, sound, limits, seed, step) if by_policy and sound else []
    texts = [t.turns[0].action if t.turns else "" for t in written] or [""] * len(sound)
    ideas = [
        call(retry_plan, text, [turn.reward for turn in t.turns], t.success, params=rl.collect_params)
        for t, text in zip(sound, texts, strict=True)
    ]
    first_copy = {t.group: 0 for t in played}
    for t in played:
        first_copy[t.group] = max(first_copy[t.group], t.copy_index + 1)
    plans: dict[int, Plan] = {}
    episodes: list[Episode] = []
    for t, idea in zip(sound, ideas, strict=True):
        plan = _plan(t, idea, moments)
        own = episode_seed("retry", seed, step, t.group, t.copy_index)
        if plan is not None and own not in plans:
            plans[own] = plan
            start = Start(plan.moments[-1].snapshot, t.turns[: plan.pivot])
            episodes.append(Episode(t.task, t.group, first_copy[t.group] + t.copy_index, own, start))
    retrier = Retrier(agent, plans)
    tried = await rollout(retrier, episodes, moments.pool, limits) if episodes else []
    return _sorted_out(played, sound, ideas, written, tried, retrier, rl)


def _plan(t: Trajectory, idea: Mapping[str, Any], moments: Moments) -> Plan | None:
    if idea["pivot"] is None or any(turn.output is None for turn in t.turns):
        return None
    way = [moments.before(t, turn) for turn in range(idea["pivot"] + 1)]
    found = tuple(moment for moment in way if moment is not None)
    return Plan(t, idea["pivot"], idea["advice"], found) if len(found) == len(way) else None


def _sorted_out(
    played: Sequence[Trajectory], sound: Sequence[Trajectory], ideas: Sequence[Mapping[str, Any]],
    written: Sequence[Trajectory], tried: Sequence[Trajectory], retrier: Retrier, rl: RLConfig,
) -> Retried:  # fmt: skip
    retries: dict[tuple[int, int], Trajectory] = {}
    for t in tried:
        if not t.stop.is_error and len(t.turns) > retrier.plans[t.seed].pivot:
            base = retrier.plans[t.seed].base
            retries[base.group, base.copy_index] = t
    lessons: list[Trajectory] = []
    group = 1 + max((t.group for t in played), default=-1)
    for k, (t, idea) in enumerate(zip(sound, ideas, strict=True)):
        retry = retries.get((t.group, t.copy_index))
        facts = None if retry is None else (float(retry.success), len(retry.turns))
        kinds = call(retry_lessons, (float(t.success), len(t.turns)), facts, idea["outcome"], params=rl.collect_params)
        if "reflection" in kinds and written and written[k].turns:
            lessons.append(_as_won(written[k], t))
        if "retry" in kinds and retry is not None and idea["advice"]:
            lessons.append(guided(retry, retrier))
    pivots = {place: retrier.plans[t.seed].pivot for place, t in retries.items()}
    return Retried(
        [t.model_copy(update={"pivot": pivots.get((t.group, t.copy_index), 0)}) for t in played],
        [distilled(t, retrier) for t in retries.values()],
        [t.model_copy(update={"group": group + k, "copy_index": 0}) for k, t in enumerate(lessons)],
        [*(_recorded(r, t) for r, t in zip(written, sound, strict=False)), *tried],
        _metrics(sound, ideas, retries, len(lessons)),
    )


def distilled(t: Trajectory, retrier: Retrier) -> Trajectory:
    """A retry in the contexts without advice: the same answers, without log-probs, which belong to the others."""
    plan = retrier.plans[t.seed]
    later = [
        turn.model_copy(update={"prompt": _environment(ids), "output": _unscored(turn, plan.advice)})
        for turn, ids in zip(t.turns[plan.pivot :], retrier.plain[t.seed], strict=False)
    ]
    agent = RETRY if plan.advice else retrier.agent.name  # without advice it is the policy's own play
    return t.model_copy(update={"turns": (*t.turns[: plan.pivot], *later), "pivot": plan.pivot, "agent": agent})


def guided(t: Trajectory, retrier: Retrier) -> Trajectory:
    """A retry as it was played, the advice in every context."""
    plan = retrier.plans[t.seed]
    before = [
        turn.model_copy(update={"prompt": _environment(ids), "output": _unscored(turn, plan.advice)})
        for turn, ids in zip(t.turns, retrier.guided[t.seed], strict=False)
    ]
    return t.model_copy(update={"turns": (*before, *t.turns[plan.pivot :]), "pivot": plan.pivot})


def _environment(ids: tuple[int, ...]) -> Segment:
    return Segment(owner=Owner.ENVIRONMENT, ids=ids)


def _unscored(turn: Turn, advice: str) -> Segment | None:
    """An answer without the log-probs of a context that it is no longer in."""
    if turn.output is None or not advice:
        return turn.output
    return turn.output.model_copy(update={"logprobs": None})


def _as_won(reflection: Trajectory, base: Trajectory) -> Trajectory:
    """A reflection as an episode of the base's task that reached the best score."""
    turn = reflection.turns[0].model_copy(update={"reward": base.max_score, "score": base.max_score})
    won = {"success": True, "stop": StopReason.SUCCESS, "score": base.max_score, "max_score": base.max_score}
    return reflection.model_copy(update={**won, "task": base.task, "turns": (turn,)})


def _recorded(reflection: Trajectory, base: Trajectory) -> Trajectory:
    return reflection.model_copy(update={"agent": "reflection", "task": base.task})


def _metrics(
    sound: Sequence[Trajectory], ideas: Sequence[Mapping[str, Any]], retries: Mapping[tuple[int, int], Trajectory],
    lessons: int,
) -> dict[str, float]:  # fmt: skip
    count = max(1, len(sound))
    found = {
        "retry/share": len(retries) / count,
        "retry/unread": sum(idea["outcome"] is None for idea in ideas) / count,
        "retry/lessons": float(lessons),
    }
    if retries:
        before = {(t.group, t.copy_index): t for t in sound}
        pairs = [(before[place], t) for place, t in retries.items()]
        found["retry/success"] = sum(t.success for _, t in pairs) / len(pairs)
        found["retry/improved"] = sum(t.score > base.score for base, t in pairs) / len(pairs)
    return found
