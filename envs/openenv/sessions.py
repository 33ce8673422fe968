"""Sessions of a server: one environment instance each, through `EnvPool`, freed when idle for its lease."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import AsyncExitStack
from typing import Any

from ..core import StopReason
from ..errors import RequestError, TurnwiseError
from ..pool import EnvPool, PlayedEnv
from ..task import Task
from ..tool_calls import Call, render_calls
from . import wire
from .served import Served

CALL_DEADLINE_S = 60.0
"""Seconds that one call of a worker may take, where the lease is longer."""


class Full(TurnwiseError):
    """All sessions are taken."""


class Session:
    """One client's environment. Calls are made one after the other."""

    def __init__(self, id: str, served: Served, pool: EnvPool) -> None:
        self.id, self.episode_id = id, id
        self._served, self._pool = served, pool
        self._stack = AsyncExitStack()
        self._env: PlayedEnv | None = None
        self._busy = asyncio.Lock()
        self._closed = False
        self.task: Task | None = None
        self.info: dict[str, Any] = {}
        self.timer: asyncio.TimerHandle | None = None

    async def reset(self, data: dict[str, Any]) -> dict[str, Any]:
        """Begin an episode; the data of its first observation."""
        task = self._served.choose(data)
        async with self._busy:
            if self._closed:
                raise RequestError(f"{wire.ENDED} while it was being reset.")
            if self._env is None:
                self._env = await self._stack.enter_async_context(self._pool.lease(task))
            self._env.task = task
            text, self.info = await self._guard(self._env.reset())
        self.task, self.episode_id = task, data.get("episode_id") or uuid.uuid4().hex
        return wire.observation(text, None, self.info)

    async def step(self, action: str) -> dict[str, Any]:
        """The data of the observation after one action."""
        async with self._busy:
            text, reward, _, _, self.info = await self._guard(self._playing().step(action))
        return wire.observation(text, reward, self.info)

    async def act(self, data: Any) -> dict[str, Any]:
        """The data of the observation after an action as clients send it: text, or a call of a tool."""
        kind = data.get("type") if isinstance(data, dict) else None
        if kind == "list_tools":
            tools = [
                {"name": t["name"], "description": t["description"], "input_schema": t["parameters"]}
                for t in await self.tools()
            ]
            return {"observation": {"tools": tools, "metadata": {}}, "reward": None, "done": self.done}
        if kind == "call_tool":
            return await self._call(data)
        if not isinstance(data, dict) or not isinstance(data.get("action"), str) or set(data) - {"action", "metadata"}:
            raise RequestError(f'Expected an action {{"action": "text"}}, got {str(data)[:200]}.')
        return await self.step(data["action"])

    async def tools(self) -> list[dict[str, Any]]:
        """Name, description and parameters of each tool; raises where the environment has none."""
        async with self._busy:
            found = await self._guard(self._playing().tools())
        if not found:
            raise RequestError(f'{self._served.spec.id} has no tools. Send {{"action": "text"}}.')
        return found

    async def expert(self) -> str:
        """The next action of the environment's expert."""
        async with self._busy:
            return await self._guard(self._playing().expert())

    def state(self) -> dict[str, Any]:
        """Where the episode stands."""
        return wire.state(self.task.key if self.task else None, self.episode_id if self.task else None, self.info)

    @property
    def done(self) -> bool:
        """The episode is over, or a limit ended it."""
        return bool(self.info.get("stop"))

    async def close(self) -> None:
        """Give the environment back; waits for a call under way, which has a deadline."""
        self._closed = True
        async with self._busy:
            self._env = None
            await self._stack.aclose()

    async def _call(self, data: dict[str, Any]) -> dict[str, Any]:
        name, arguments = data.get("tool_name"), data.get("arguments", {})
        if not isinstance(name, str) or not isinstance(arguments, dict):
            raise RequestError(f"Expected a tool_name and an object of arguments, got {str(data)[:200]}.")
        answer = await self.step(render_calls([Call(name, arguments)]))
        seen, info = answer["observation"], self.info
        kind = "execution_error" if info["valid"] else "invalid_args"
        error = None if info["admissible"] else {"error_type": kind, "message": seen["text"]}
        seen = {"tool_name": name, "result": seen["text"], "error": error, "metadata": seen["metadata"]}
        return {**answer, "observation": seen}

    def _playing(self) -> PlayedEnv:
        if self._env is None:
            raise RequestError("No episode has begun in this session. Send a reset first.")
        return self._env

    async def _guard(self, call: Any) -> Any:
        """The answer; what breaks costs the session its environment, and the next reset leases another."""
        try:
            return await call
        except RequestError:
            raise
        except TurnwiseError:
            self._env, self.info = None, {"stop": StopReason.ENV_ERROR.value}
            await self._stack.aclose()
            raise


class Sessions:
    """All sessions of a server, at most `limit`; those not held by a connection end when idle for `lease_s`."""

    def __init__(self, served: Served, limit: int, lease_s: float) -> None:
        if limit < 1 or lease_s <= 0:
            raise RequestError(f"Expected at least 1 session and a lease above 0 s, got {limit} and {lease_s:g}.")
        self.served, self.limit, self.lease_s = served, limit, lease_s
        self.open: dict[str, Session] = {}
        self._pool = EnvPool(workers=limit, deadline_s=min(CALL_DEADLINE_S, lease_s))
        self._ending = set[asyncio.Task[None]]()

    def begin(self, id: str = "") -> Session:
        """A new session; raises `Full`."""
        if len(self.open) >= self.limit:
            raise Full(
                f"Expected at most {self.limit} sessions, and all are taken. Close one, wait until an idle one ends "
                f"({self.lease_s:g} s), or start the server with a larger --max-sessions."
            )
        session = Session(id or uuid.uuid4().hex, self.served, self._pool)
        self.open[session.id] = session
        return session

    def touch(self, session: Session) -> None:
        """Begin the lease anew, for a session that no connection holds."""
        if session.timer is not None:
            session.timer.cancel()
        session.timer = asyncio.get_running_loop().call_later(self.lease_s, self._expire, session)

    async def end(self, session: Session) -> None:
        """Free a session. Its place is free at once, its environment after a call under way."""
        self.open.pop(session.id, None)
        if session.timer is not None:
            session.timer.cancel()
        await session.close()

    async def aclose(self) -> None:
        """Free everything."""
        for session in list(self.open.values()):
            await self.end(session)
        await self._pool.aclose()

    def _expire(self, session: Session) -> None:
        ending = asyncio.ensure_future(self.end(session))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
