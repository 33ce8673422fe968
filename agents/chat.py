"""An agent behind an OpenAI-compatible endpoint: text in, text out, with tokens counted, retries and a rate limit."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..envs.core import StopReason
from ..envs.errors import MissingDependency, RequestError
from .agent import Agent, Answer, OutOfRoom, Player
from .context import Context
from .engine import EngineError

if TYPE_CHECKING:
    from openai import AsyncOpenAI

KEY_VARIABLES = ("TURNWISE_API_KEY", "OPENAI_API_KEY")


@dataclass(frozen=True)
class Endpoint:
    """Where the model is served, and how much may be asked of it."""

    url: str
    """Base URL, such as `http://localhost:8000/v1`."""
    model: str = ""
    """Name of the model; empty asks the endpoint, which must then serve exactly one."""
    concurrency: int = 16
    """Requests in flight."""
    per_minute: float = 0.0
    """Requests begun per minute; 0: no limit."""
    timeout_s: float = 120.0
    """Of one answer, retries included."""
    retries: int = 5
    """After connection errors, rate limits and server errors; waits grow, and `Retry-After` is heeded."""


class EndpointAgent(Agent):
    """Plays by chat completions. `info["counts"]` of a turn gets `prompt_tokens`, `completion_tokens` and `requests`.

    The endpoint's tokens stay its own: episodes can be evaluated, not trained on. Where it does not answer in time, an
    episode ends as `engine_error`. The key comes from `$TURNWISE_API_KEY` or `$OPENAI_API_KEY`.
    """

    def __init__(self, endpoint: Endpoint, context: Context, temperature: float = 0.0, name: str = "endpoint") -> None:
        self.endpoint, self.context, self.temperature, self.name = endpoint, context, temperature, name
        self.model = endpoint.model
        self._pace = _Pace(endpoint.per_minute)
        self._client: AsyncOpenAI | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._room = asyncio.Semaphore(endpoint.concurrency)

    def play(self, episode: str, seed: int, expert: Callable[[], Awaitable[str]]) -> Player:
        return _EndpointPlayer(self, seed)

    async def ask(self, messages: list[dict[str, str]], seed: int) -> tuple[str, bool, dict[str, float]]:
        """(text, whether it ended by itself, what it used); raises `EngineError`."""
        import openai

        client, used = self._connected(), {"requests": 1.0}
        try:
            async with self._room, asyncio.timeout(self.endpoint.timeout_s):
                await self._pace.wait()
                self.model = self.model or await _only_model(client)
                answer = await client.chat.completions.create(
                    model=self.model, messages=messages, temperature=self.temperature,  # type: ignore[arg-type]
                    max_tokens=self.context.max_action_tokens, seed=seed % (1 << 31),
                )  # fmt: skip
        except TimeoutError as error:
            raise EngineError(f"{self.endpoint.url} gave no answer within {self.endpoint.timeout_s:g} s.") from error
        except openai.OpenAIError as error:
            raise EngineError(f"{self.endpoint.url}: {type(error).__name__}: {error}"[:500]) from error
        if answer.usage is not None:
            used |= {"prompt_tokens": float(answer.usage.prompt_tokens),
                     "completion_tokens": float(answer.usage.completion_tokens)}  # fmt: skip
        if not answer.choices:
            raise EngineError(f"{self.endpoint.url} answered without a choice.")
        choice = answer.choices[0]
        return choice.message.content or "", choice.finish_reason != "length", used

    def _connected(self) -> AsyncOpenAI:
        """The client of the running loop: connections do not outlive theirs."""
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            try:
                from openai import AsyncOpenAI
            except ImportError as error:
                raise MissingDependency("openai", "endpoint", "An endpoint as target") from error
            key = next((os.environ[name] for name in KEY_VARIABLES if os.environ.get(name)), "none")
            self._client = AsyncOpenAI(
                base_url=self.endpoint.url, api_key=key, max_retries=self.endpoint.retries,
                timeout=self.endpoint.timeout_s,
            )  # fmt: skip
            self._loop, self._room = loop, asyncio.Semaphore(self.endpoint.concurrency)
        return self._client


class _EndpointPlayer:
    """One conversation."""

    def __init__(self, agent: EndpointAgent, seed: int) -> None:
        self.agent, self.seed = agent, seed
        system = agent.context.system
        self.messages = [{"role": "system", "content": system}] if system else []
        self.turn = 0
        self.commands: tuple[str, ...] | None = None
        self.spent = 0.0

    async def answer(self, observation: str, info: dict[str, Any]) -> Answer:
        context = self.agent.context
        text = context.message(observation, info["goal"], info["commands"], self.turn == 0, self.commands)
        self.commands = info["commands"]
        self.messages.append({"role": "user", "content": text})
        if self.spent >= context.max_tokens:
            raise OutOfRoom(StopReason.CONTEXT_LIMIT)
        said, whole, used = await self.agent.ask(self.messages, self.seed * 1_000_003 + self.turn)
        self.messages.append({"role": "assistant", "content": said})
        self.turn += 1
        self.spent = used.get("prompt_tokens", 0.0) + used.get("completion_tokens", 0.0)
        return Answer(context.action(said, info["commands"]) if whole else "", counts=used)

    def close(self) -> None:
        pass


@dataclass
class _Pace:
    """At most so many requests begin per minute, evenly spaced."""

    per_minute: float
    _next: float = field(default=0.0)

    async def wait(self) -> None:
        if self.per_minute <= 0:
            return
        now = time.monotonic()
        begin, self._next = max(now, self._next), max(now, self._next) + 60.0 / self.per_minute
        await asyncio.sleep(begin - now)


async def _only_model(client: AsyncOpenAI) -> str:
    found = [model.id async for model in client.models.list()]
    if len(found) != 1:
        raise RequestError(f"Expected --model, for {client.base_url} serves {', '.join(found[:20]) or 'none'}.")
    return found[0]
