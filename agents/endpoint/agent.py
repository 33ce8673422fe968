"""An agent program as an `Agent`: rollouts, training and evaluation take it like any other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from ...envs.errors import RequestError
from ..agent import EpisodeAgent, LLMAgent, Player
from ..rollout import Episode, Limits, Pool
from ..trajectory import Trajectory
from .programs import Program, play_program
from .server import OpenAIServer


class ServedProgram(EpisodeAgent):
    """Plays episodes by a program, whose tokens come from the policy of `agent` behind an OpenAI endpoint.

    The context's `max_tokens` bounds a dialogue, `max_action_tokens` an answer where a request does not say; the
    agent's temperature stands in for that of requests. Of `Limits` only `seconds` holds: a program decides for itself
    what it does about actions that are not possible.
    """

    def __init__(self, agent: LLMAgent, program: Program) -> None:
        self.agent, self.program, self.name = agent, program, agent.name
        self._server: OpenAIServer | None = None

    def play(self, episode: str, seed: int, expert: Callable[[], Awaitable[str]]) -> Player:
        raise RequestError("Expected whole episodes for an agent program, which plays its environment by itself.")

    @asynccontextmanager
    async def on_duty(self) -> AsyncIterator[None]:
        agent, context = self.agent, self.agent.context
        async with OpenAIServer(
            agent.engine, agent.renderer, model=agent.name, max_tokens=context.max_tokens,
            max_answer=context.max_action_tokens, temperature=agent.temperature,
        ) as self._server:  # fmt: skip
            yield

    async def episode(self, episode: Episode, pool: Pool, limits: Limits, name: str) -> Trajectory:
        assert self._server is not None, "played within on_duty()"
        return await play_program(self._server, self.program, episode, pool, name, limits.seconds)
