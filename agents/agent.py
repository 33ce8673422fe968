"""Agents: something that answers observations. The LLM agent, and scripted ones."""

from __future__ import annotations

import inspect
import random
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ..envs.bad_actions import BAD_ACTIONS
from ..envs.core import StopReason
from .context import Context, Renderer
from .engine import Engine, EngineError, Request
from .trajectory import Owner, Segment, Trajectory

if TYPE_CHECKING:
    from .rollout import Episode, Limits, Pool

SHOWN = ("goal", "commands", "turn", "valid", "admissible", "max_score")
"""Entries of `info` that an agent may see while it plays."""


class Answer(NamedTuple):
    """What an agent says to one observation."""

    action: str
    """Empty when nothing could be parsed."""
    prompt: Segment | None = None
    output: Segment | None = None
    restart: bool = False
    mode: str = ""
    """The mode that the answer opens with, of those of the context."""
    counts: Mapping[str, float] = {}
    """What the agent used for it, beside what the environment counts."""


class OutOfRoom(Exception):
    """The agent cannot go on within its limits."""

    def __init__(self, stop: StopReason) -> None:
        super().__init__(stop.value)
        self.stop = stop


class Player(Protocol):
    """An agent within one episode."""

    async def answer(self, observation: str, info: dict[str, Any]) -> Answer:
        """The next action; may raise `OutOfRoom`."""
        ...

    def close(self) -> None:
        """The episode is over."""
        ...


class Agent(Protocol):
    """Makes one `Player` per episode."""

    name: str

    def play(self, episode: str, seed: int, expert: Callable[[], Awaitable[str]]) -> Player:
        """A player for the episode named `episode`; `expert` asks the environment's expert."""
        ...

    def seat(self) -> AbstractContextManager[None]:
        """Held by whoever plays one episode after the other; see `Engine.seat`."""
        return nullcontext()

    def on_duty(self) -> AbstractAsyncContextManager[None]:
        """Held by a rollout, around all its episodes."""
        return nullcontext()


class EpisodeAgent(Agent):
    """An agent that plays whole episodes by itself, environment included."""

    @abstractmethod
    async def episode(self, episode: Episode, pool: Pool, limits: Limits, name: str) -> Trajectory:
        """Play one episode; `name` is its own within a rollout."""


class Dialogue:
    """The context of one episode, kept as ids: what was heard, what was said."""

    def __init__(self, renderer: Renderer, context: Context) -> None:
        self.renderer, self.context = renderer, context
        self.ids: list[int] = []
        self.turn = 0
        self._answered = True
        self._exchanges: list[tuple[str, str]] = []
        self._message = ""
        self._commands: tuple[str, ...] | None = None
        self._given: tuple[int, ...] = ()

    def hear(self, observation: str, info: dict[str, Any]) -> tuple[tuple[int, ...], bool]:
        """Ids that the observation adds, and whether they begin a new context."""
        windowed = self.context.layout == "windowed"
        first = self.turn == 0 or windowed
        self._message = self.context.message(observation, info["goal"], info["commands"], first, self._commands)
        self._commands = info["commands"]
        added = self._open() if first else self.renderer.extend(self._message, self._answered)
        self.ids = [*added] if first else [*self.ids, *added]
        return added, first

    def begin_answer(self, text: str) -> tuple[int, ...]:
        """Ids of an opening that the coming answer is given: part of its text, but not said by the policy."""
        self._given = self.renderer.answer(text)[:-1]
        self.ids.extend(self._given)
        return self._given

    def say(self, ids: tuple[int, ...], answered: bool) -> str:
        """Take in an answer's ids; returns its text."""
        self.ids.extend(ids)
        self.turn += 1
        self._answered = answered
        text = self.renderer.text((*self._given, *ids))
        self._given = ()
        self._exchanges.append((self._message, text))
        return text

    def _open(self) -> tuple[int, ...]:
        context = self.context
        head = (("system", context.system),) if context.system else ()
        past: list[tuple[str, str]] = []
        if context.layout == "windowed" and context.history:
            for user, said in self._exchanges[-context.history :]:
                past += [("user", user), ("assistant", said)]
        return self.renderer.start((*head, *past, ("user", self._message)))


class LLMAgent(Agent):
    """Renders observations, asks an engine, parses its answer. With `mode`, first answers open with that word."""

    def __init__(
        self,
        engine: Engine,
        renderer: Renderer,
        context: Context,
        temperature: float = 1.0,
        name: str = "policy",
        mode: str = "",
    ) -> None:
        self.engine, self.renderer, self.context = engine, renderer, context
        self.temperature, self.name, self.mode = temperature, name, mode

    def play(self, episode: str, seed: int, expert: Callable[[], Awaitable[str]]) -> LLMPlayer:
        return LLMPlayer(self, episode, seed)

    def seat(self) -> AbstractContextManager[None]:
        return self.engine.seat()


class LLMPlayer:
    """An LLM agent within one episode."""

    def __init__(self, agent: LLMAgent, episode: str, seed: int) -> None:
        self.agent, self.episode, self.seed = agent, episode, seed
        self.dialogue = Dialogue(agent.renderer, agent.context)

    async def answer(self, observation: str, info: dict[str, Any]) -> Answer:
        agent, context, turn = self.agent, self.agent.context, self.dialogue.turn
        prompt, restart = self.dialogue.hear(observation, info)
        if agent.mode and not turn:
            prompt += self.dialogue.begin_answer(agent.mode)
        room = context.max_tokens - len(self.dialogue.ids)
        if room < 1:
            raise OutOfRoom(StopReason.CONTEXT_LIMIT)
        done = await agent.engine.generate(
            Request(
                id=f"{self.episode}/{turn}",
                session=self.episode,
                prompt=tuple(self.dialogue.ids),
                max_tokens=min(context.max_action_tokens, room),
                temperature=agent.temperature,
                seed=(self.seed * 1_000_003 + turn) % (1 << 63),
                stop_ids=(agent.renderer.end_id,),
            )
        )
        text = self.dialogue.say(done.ids, done.stopped)
        mode, text = context.mode(text) if not turn else ("", text)
        return Answer(
            context.action(text, info["commands"]) if done.stopped else "",
            Segment(owner=Owner.ENVIRONMENT, ids=prompt),
            Segment(owner=Owner.POLICY, ids=done.ids, logprobs=done.logprobs, version=done.version),
            restart,
            mode,
        )

    def close(self) -> None:
        self.agent.engine.close_session(self.episode)


class ScriptedAgent(Agent):
    """Plays without a model: `random` over the listed commands, the environment's `expert`, `empty`, or `malformed`:
    what no environment may break on."""

    def __init__(self, name: str) -> None:
        self.name = name

    def play(self, episode: str, seed: int, expert: Callable[[], Awaitable[str]]) -> Player:
        return _ScriptedPlayer(self.name, random.Random(seed), expert)


class _ScriptedPlayer:
    def __init__(self, name: str, rng: random.Random, expert: Callable[[], Awaitable[str]]) -> None:
        self.name, self.rng, self.expert = name, rng, expert

    async def answer(self, observation: str, info: dict[str, Any]) -> Answer:
        if self.name == "expert":
            return Answer(await self.expert())
        if self.name == "random":
            return Answer(self.rng.choice(info["commands"]) if info["commands"] else "look")
        return Answer(self.rng.choice(BAD_ACTIONS) if self.name == "malformed" else "")

    def close(self) -> None:
        pass


class Demonstrator(Agent):
    """A scripted agent whose episodes carry the ids that a model would have read and written: data for SFT.

    Without a renderer it only listens: `heard` collects the exact texts, from which a tokenizer is made.
    """

    def __init__(self, name: str, context: Context, renderer: Renderer | None = None) -> None:
        self.name, self.context, self.renderer = name, context, renderer
        self.heard: list[str] = []

    def play(self, episode: str, seed: int, expert: Callable[[], Awaitable[str]]) -> Player:
        script = _ScriptedPlayer(self.name, random.Random(seed), expert)
        return _DemoPlayer(self, script, Dialogue(self.renderer, self.context) if self.renderer else None)


class _DemoPlayer:
    def __init__(self, agent: Demonstrator, script: _ScriptedPlayer, dialogue: Dialogue | None) -> None:
        self.agent, self.script, self.dialogue = agent, script, dialogue
        self._first = True

    async def answer(self, observation: str, info: dict[str, Any]) -> Answer:
        action = (await self.script.answer(observation, info)).action
        said = self.agent.context.render_action(action, info["commands"])
        if self._first and self.agent.context.modes:
            said = f"{self.script.rng.choice(self.agent.context.modes)} {said}"
        self._first = False
        if self.dialogue is None:
            self.agent.heard += [
                self.agent.context.message(observation, info["goal"], info["commands"], first=True),
                said,
                *self.agent.context.modes,
            ]
            return Answer(action)
        prompt, restart = self.dialogue.hear(observation, info)
        ids = self.dialogue.renderer.answer(said)
        if len(self.dialogue.ids) + len(ids) > self.agent.context.max_tokens:
            raise OutOfRoom(StopReason.CONTEXT_LIMIT)
        self.dialogue.say(ids, answered=True)
        return Answer(
            action, Segment(owner=Owner.ENVIRONMENT, ids=prompt), Segment(owner=Owner.POLICY, ids=ids), restart
        )

    def close(self) -> None:
        pass


class ReplayAgent(Agent):
    """Plays given actions, then nothing: replays a recorded episode."""

    name = "replay"

    def __init__(self, actions: Sequence[str]) -> None:
        self.actions = tuple(actions)

    def play(self, episode: str, seed: int, expert: Callable[[], Awaitable[str]]) -> Player:
        return _ReplayPlayer(self.actions)


class _ReplayPlayer:
    def __init__(self, actions: tuple[str, ...]) -> None:
        self._actions = iter(actions)

    async def answer(self, observation: str, info: dict[str, Any]) -> Answer:
        action = next(self._actions, None)
        if action is None:
            raise OutOfRoom(StopReason.ABORTED)
        return Answer(action)

    def close(self) -> None:
        pass


Program = Callable[[str, dict[str, Any]], str | Awaitable[str]]
"""What somebody else's agent is within one episode: observation and info in, action out."""


class ProgramAgent(Agent):
    """Somebody else's agent: `factory()` is called once per episode and returns a function, plain or async.

    It is given the observation and `info` without what only graders know. What it raises ends its episode as
    `engine_error`.
    """

    def __init__(self, factory: Callable[[], Program], name: str) -> None:
        self.factory, self.name = factory, name

    def play(self, episode: str, seed: int, expert: Callable[[], Awaitable[str]]) -> Player:
        return _ProgramPlayer(self)


class _ProgramPlayer:
    def __init__(self, agent: ProgramAgent) -> None:
        self.agent = agent
        self.program: Program | None = None

    async def answer(self, observation: str, info: dict[str, Any]) -> Answer:
        shown = {name: info[name] for name in SHOWN if name in info}
        try:
            self.program = self.program or self.agent.factory()
            said = self.program(observation, shown)
            said = await said if inspect.isawaitable(said) else said
        except Exception as error:  # the boundary to foreign code
            raise EngineError(f"{self.agent.name}: {type(error).__name__}: {error}"[:500]) from error
        if not isinstance(said, str):
            raise EngineError(f"{self.agent.name}: expected an action as text, got {type(said).__name__}.")
        return Answer(said)

    def close(self) -> None:
        pass
