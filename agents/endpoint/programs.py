"""Agent programs: functions or commands that talk to an OpenAI endpoint, played as episodes.

A program gets the address of its own session and its task. What it is worth comes from the environment, where it plays
`run.env`, or from what it returns.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any, NamedTuple

from ...envs.core import StopReason
from ...envs.errors import EnvError, RequestError
from ...envs.task import Task
from ..rollout import Episode, Pool, RemoteEnv
from ..trajectory import Trajectory, Turn
from .conversation import Conversation
from .server import OpenAIServer

TOO_LATE = "The episode's time is over."


class Finished(NamedTuple):
    """What a program's episode was worth."""

    score: float
    max_score: float = 1.0
    success: bool = False


class ProgramEnv:
    """The environment of a program's task; every step counts for the answer that came before it.

    In a coroutine the methods return awaitables, in a function they wait.
    """

    def __init__(self, lend: Callable[[], Awaitable[RemoteEnv]], record: Conversation, loop: Any, waits: bool) -> None:
        self._lend, self._record, self._loop, self._waits = lend, record, loop, waits
        self._env: RemoteEnv | None = None
        self.start_score = 0.0
        self.info: dict[str, Any] = {}
        """Of the last reset or step."""
        self.steps: list[tuple[int, float, dict[str, Any]]] = []
        """(number of the answer, reward, info)"""
        self._pending = set[asyncio.Task[Any]]()
        self._closed = False

    def reset(self) -> Any:
        """Begin the task: `(observation, info)`. An environment is reset once; a program that starts over is one more
        way to cheat."""
        return self._run(self._reset)

    def step(self, action: str) -> Any:
        """Gymnasium's five values."""
        return self._run(self._step, action)

    async def close(self) -> None:
        """The episode is over: what a late program still waits for is cancelled, so that its worker serves others."""
        self._closed = True
        pending = list(self._pending)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)

    def _run(self, call: Callable[..., Coroutine[Any, Any, Any]], *arguments: Any) -> Any:
        if not self._waits:
            return call(*arguments)
        if self._closed:  # before a coroutine is made for a loop that may be closed too
            raise RequestError(TOO_LATE)
        return asyncio.run_coroutine_threadsafe(self._tracked(call(*arguments)), self._loop).result()

    async def _tracked(self, call: Coroutine[Any, Any, Any]) -> Any:
        task = asyncio.current_task()
        assert task is not None
        self._pending.add(task)
        try:
            return await call
        finally:
            self._pending.discard(task)

    async def _reset(self) -> tuple[str, dict[str, Any]]:
        if self._closed:
            raise RequestError(TOO_LATE)
        if self._env is not None:
            raise RequestError("Expected one reset in an episode, got another. End the program instead.")
        self._env = await self._lend()
        observation, self.info = await self._env.reset()
        self.start_score = self.info["score"]
        return observation, self.info

    async def _step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if self._closed:
            raise RequestError(TOO_LATE)
        if self._env is None:
            raise RequestError("step() came before reset(). Call reset() first.")
        if self.info["stop"]:
            raise RequestError("The episode is over: end the program.")
        found = await self._env.step(action)
        self.info = found[-1]
        self.steps.append((max(self._record.count - 1, 0), found[1], self.info))
        return found


class ProgramRun(NamedTuple):
    """What a program is given."""

    base_url: str
    """For an OpenAI client; any key will do."""
    task: Task
    env: ProgramEnv


Program = Callable[[ProgramRun], Any] | Sequence[str]
"""A function, a coroutine function, or a command, which reads OPENAI_BASE_URL, OPENAI_API_KEY and TURNWISE_TASK (JSON).

A function returns, and a command prints as JSON on its last line, what the episode was worth: a `Finished` (in JSON an
object of its fields), a number up to 1 with success at 1, true or false; or nothing where it played `run.env`.
"""


async def play_programs(
    server: OpenAIServer,
    program: Program,
    episodes: Sequence[Episode],
    pool: Pool,
    *,
    concurrency: int = 64,
    seconds: float = 600.0,
) -> list[Trajectory]:
    """Run the program once per episode; trajectories come in the order of `episodes`.

    `seconds` is the wall clock of an episode. A function that is late keeps its thread until it ends, but its session
    and its environment are closed; a command is killed.
    """
    if any(episode.start is not None for episode in episodes):
        raise RequestError("Expected episodes from the start of their task: a program cannot be put into the middle.")
    played, waiting = dict[int, Trajectory](), iter(enumerate(episodes))
    server.runs += 1

    async def one_after_the_other() -> None:
        for index, episode in waiting:
            name = f"{server.runs}-{index}-{episode.group}-{episode.copy_index}-{episode.seed}"
            played[index] = await play_program(server, program, episode, pool, name, seconds)

    await asyncio.gather(*(one_after_the_other() for _ in range(min(concurrency, len(episodes)))))
    return [played[index] for index in range(len(episodes))]


async def play_program(
    server: OpenAIServer, program: Program, episode: Episode, pool: Pool, name: str, seconds: float
) -> Trajectory:
    """Run the program for one episode, as the session `name`. What breaks ends the episode as data."""
    record, started = server.session(name), time.perf_counter()
    stop, error, finished = None, None, None
    async with AsyncExitStack() as stack:

        async def lend() -> RemoteEnv:
            lent = await stack.enter_async_context(pool.lease(episode.task))
            stack.push_async_callback(env.close)
            return lent

        env = ProgramEnv(lend, record, asyncio.get_running_loop(), not inspect.iscoroutinefunction(program))
        clock = asyncio.timeout(seconds)
        try:
            async with clock:
                finished = _worth(await _result(program, ProgramRun(server.url(name), episode.task, env)))
        except EnvError as broken:
            stop, error = StopReason.ENV_ERROR, _told(broken)
        except Exception as broken:  # the boundary to a user's program: becomes `aborted`, or what it comes from
            stop, error = StopReason.ABORTED, _told(broken)
            if clock.expired() and isinstance(broken, TimeoutError):
                stop, error = StopReason.TIME_LIMIT, None
        await env.close()
    server.take(name)
    if record.failure:
        stop, error = StopReason.ENGINE_ERROR, record.failure
    elif record.full and stop in (None, StopReason.ABORTED) and not env.info.get("success"):
        stop, error = StopReason.CONTEXT_LIMIT, None
    return _trajectory(server.model, episode, record, env, finished, stop, error, time.perf_counter() - started)


async def _result(program: Program, run: ProgramRun) -> Any:
    if not callable(program):
        return await _command(program, run)
    if inspect.iscoroutinefunction(program):
        return await program(run)
    return await _in_thread(program, run)


async def _in_thread(program: Callable[[ProgramRun], Any], run: ProgramRun) -> Any:
    """The function's result, from a thread that nobody waits for when it is late."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def tell(method: Callable[[Any], None], value: Any) -> None:
        if not future.done():
            method(value)

    def work() -> None:
        try:
            method, value = future.set_result, program(run)
        except BaseException as error:  # of a user's program; a future takes no StopIteration
            method, value = future.set_exception, error if isinstance(error, Exception) else RuntimeError(repr(error))
            if isinstance(error, StopIteration):
                value = RuntimeError(repr(error))
        with suppress(RuntimeError):  # the loop is closed: nobody is interested any more
            loop.call_soon_threadsafe(tell, method, value)

    threading.Thread(target=work, name="program", daemon=True).start()
    return await future


async def _command(command: Sequence[str], run: ProgramRun) -> Any:
    task = run.task.model_dump_json()
    told = {"OPENAI_BASE_URL": run.base_url, "OPENAI_API_KEY": "none", "TURNWISE_TASK": task}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, env={**os.environ, **told})
    try:
        out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}: {err.decode('utf-8', 'replace')[-500:]}")
    lines = out.decode("utf-8", "replace").strip().splitlines()
    try:
        return json.loads(lines[-1])
    except (IndexError, ValueError) as error:
        raise RequestError(
            f"Expected what the episode was worth in JSON as the last line, got {lines[-1:]}."
        ) from error


def _worth(value: Any) -> Finished | None:
    if isinstance(value, dict) and set(value) <= set(Finished._fields) and "score" in value:
        value = Finished(**value)
    if value is None or isinstance(value, Finished):
        return value
    if isinstance(value, (bool, int, float)) and value <= 1:
        return Finished(float(value), 1.0, value >= 1)
    raise RequestError(
        f"Expected a Finished, a number up to 1, true, false or nothing from the program, got {value!r}."
    )


def _trajectory(
    agent: str, episode: Episode, record: Conversation, env: ProgramEnv, finished: Finished | None,
    stop: StopReason | None, error: str | None, seconds: float,
) -> Trajectory:  # fmt: skip
    """The record of an episode; with nothing returned and nothing played it says nothing about the policy."""
    info = env.info
    score, max_score, success = finished or (
        info.get("score", 0.0), info.get("max_score", 1.0), info.get("success", False)
    )  # fmt: skip
    if stop is None and finished is None and not info:
        stop, error = StopReason.ABORTED, "The program returned nothing and played nothing: there is no reward."
    if stop is None:
        ended = StopReason(info["stop"]) if info.get("stop") and finished is None else None
        stop = ended or (StopReason.SUCCESS if success else StopReason.FAILURE)
    return Trajectory(
        task=episode.task, agent=agent, group=episode.group, copy_index=episode.copy_index, seed=episode.seed,
        turns=record.turns(_rewards(record.count, env, finished)), stop=stop,
        success=bool(success) and not stop.is_error,
        score=float(score), max_score=float(max_score), error=error, seconds=round(seconds, 4),
    )  # fmt: skip


def _rewards(count: int, env: ProgramEnv, finished: Finished | None) -> dict[int, Turn]:
    """By number of the answer, a turn with its reward and what the environment said of its actions."""
    found, score = dict[int, Turn](), env.start_score
    for number in range(count):
        steps = [(reward, info) for at, reward, info in env.steps if at == number]
        reward = sum(reward for reward, _ in steps)
        score += reward
        counts = dict[str, float]()
        for _, info in steps:
            for key, value in info.get("counts", {}).items():
                counts[key] = counts.get(key, 0.0) + value
        found[number] = Turn(
            observation="", anchor="", action="", reward=reward, score=score, counts=counts,
            valid=all(info["valid"] for _, info in steps), admissible=all(info["admissible"] for _, info in steps),
        )  # fmt: skip
    if finished is not None and count:
        found = {number: turn.model_copy(update={"reward": 0.0, "score": 0.0}) for number, turn in found.items()}
        found[count - 1] = found[count - 1].model_copy(update={"reward": finished.score, "score": finished.score})
    return found


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error)[:500]}"
