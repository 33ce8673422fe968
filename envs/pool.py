"""`EnvPool`: environments for asyncio rollouts, each unsafe engine in a process of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from typing import Any, Protocol

from .core import Snapshot, TextEnv
from .errors import EnvError, RequestError, TurnwiseError
from .processes import Worker, Zygote, proportional_mb
from .registry import EnvSpec, env_class, spec
from .task import Task

START_DEADLINE_S = 1800.0
"""Seconds that the first start of a task may take: treasure hunts of high levels are searched for minutes."""
WORKER_DEADLINE_S = 120.0
"""Seconds that a worker may take to start: the first one imports the engine."""

Reset = tuple[str, dict[str, Any]]
Step = tuple[str, float, bool, bool, dict[str, Any]]


class PlayedEnv(Protocol):
    """What a lease gives: one episode of one task. Calls raise `EnvError` when the environment breaks."""

    task: Task
    pid: int | None
    """Process that plays the episode; None where that is the calling one."""

    async def reset(self) -> Reset: ...
    async def step(self, action: str) -> Step: ...
    async def expert(self) -> str: ...
    async def tools(self) -> list[dict[str, Any]]: ...
    async def snapshot(self) -> Snapshot: ...
    async def restore(self, snapshot: Snapshot) -> Reset: ...


async def start_once(tasks: Sequence[Task], workers: int, on_end: Callable[[], None]) -> None:
    """Start every task once in worker processes, so that what is slow the first time (compiling a game) is done.

    Raises the first error after all others are done.
    """
    pool, errors = EnvPool(workers=workers, deadline_s=START_DEADLINE_S, isolate_all=True), list[TurnwiseError]()
    waiting = iter(tasks)

    async def one_after_the_other() -> None:
        for task in waiting:
            try:
                async with pool.lease(task) as env:
                    await env.reset()
            except TurnwiseError as error:
                errors.append(error)
            on_end()

    try:
        await asyncio.gather(*(one_after_the_other() for _ in range(workers)))
    finally:
        await pool.aclose()
    if errors:
        raise errors[0]


class EnvPool:
    """Plays environments: safe ones in the calling process, `isolated` ones in worker processes.

    A worker serves one lease at a time, so one that dies or hangs costs exactly its episode: the
    pending call raises `EnvError` or `DeadlineExceeded` and the worker is replaced. `workers` bounds
    the processes; further leases, at most `max_waiting`, wait in order of arrival. Workers start when first needed.

    `deadline_s` limits each call to a worker and `lease_s` each lease of one, in seconds; what is played in the
    calling process has no limit. `isolate_all` plays safe environments in workers too. `options` go to the class of
    every environment that is made.
    """

    def __init__(
        self,
        workers: int = 16,
        deadline_s: float = 60.0,
        isolate_all: bool = False,
        lease_s: float = 21_600.0,
        max_waiting: int = 4096,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if workers < 1 or deadline_s <= 0 or lease_s <= 0 or max_waiting < 0:
            raise RequestError(
                "Expected workers >= 1, deadline_s > 0, lease_s > 0 and max_waiting >= 0, "
                f"got {workers}, {deadline_s}, {lease_s} and {max_waiting}."
            )
        self.workers, self.deadline_s, self.isolate_all = workers, deadline_s, isolate_all
        self.lease_s, self.max_waiting, self.options = lease_s, max_waiting, dict(options or {})
        self._waiting = 0
        self._leased: set[Worker] = set()
        self._idle: list[Worker] = []
        self._zygote: Zygote | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._free = asyncio.Semaphore(workers)

    @asynccontextmanager
    async def lease(self, task: Task, **env_kwargs: Any) -> AsyncIterator[PlayedEnv]:
        """An environment ready to `reset()` to `task`, constructed with the pool's options and `env_kwargs`."""
        cls, env_kwargs = env_class(task.env), {**self.options, **env_kwargs}
        if not cls.isolated and not self.isolate_all:
            env = cls(**env_kwargs)
            try:
                yield _LocalEnv(env, task)
            finally:
                env.close()
            return
        with await self._slot() as slot:
            worker = await self._take(spec(task.env), env_kwargs)
            self._leased.add(worker)
            end = asyncio.get_running_loop().call_later(self.lease_s, self._expire, worker, slot)
            try:
                yield WorkerEnv(worker, task, self.deadline_s)
            finally:
                end.cancel()
                self._leased.discard(worker)
                self._give_back(worker)

    def capacity(self, task: Task) -> int | None:
        """How many episodes of this environment may be played at once; None: any number."""
        return self.workers if self.isolate_all or env_class(task.env).isolated else None

    def memory(self) -> dict[int, float]:
        """Process id -> MB (10^6 bytes) of each worker, which is one environment.

        Proportional set size: what forked workers share is divided among them. Empty where there is no `/proc`.
        """
        pids = [worker.pid for worker in (*self._leased, *self._idle) if worker.pid]
        return {pid: size for pid in pids if (size := proportional_mb(pid)) is not None}

    def close(self) -> None:
        """End every worker. A later lease starts new ones."""
        for worker in self._idle:
            worker.sock.close()
        self._idle.clear()
        if self._zygote is not None:
            self._zygote.close()
            self._zygote = None

    async def aclose(self) -> None:
        """`close()` off the event loop's thread."""
        await asyncio.to_thread(self.close)

    async def _slot(self) -> ExitStack:
        """Wait until fewer than `workers` are leased; closing what it returns makes room for the next."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # a training loop may call `asyncio.run` once per step
            self._loop, self._free, self._waiting = loop, asyncio.Semaphore(self.workers), 0
        free = self._free
        if free.locked() and self._waiting >= self.max_waiting:
            raise RequestError(
                f"Expected at most {self.max_waiting} episodes to wait for {self.workers} workers, got one more. Play "
                "fewer at once or raise max_waiting."
            )
        self._waiting += 1
        try:
            await free.acquire()
        finally:
            self._waiting -= 1
        slot = ExitStack()
        slot.callback(free.release)
        return slot

    def _expire(self, worker: Worker, slot: ExitStack) -> None:
        """Take a worker from a lease that lasts too long: the holder's next call fails, others get the place."""
        worker.usable, worker.expired = False, f"The lease of worker {worker.pid} ended after {self.lease_s:g} s."
        if worker.pid:  # its socket stays open: a call that waits for it gets an end of file
            worker.zygote.kill(worker.pid)
        slot.close()

    async def _take(self, env: EnvSpec, kwargs: dict[str, Any]) -> Worker:
        """A worker with this environment open: an idle one that has it, any idle one, or a new one."""
        key = (env.entry_point, json.dumps(kwargs, sort_keys=True))
        self._idle.sort(key=lambda worker: worker.key == key)
        while self._idle:
            worker = self._idle.pop()
            try:
                return await self._open(worker, key, kwargs)
            except EnvError:  # it died while idle: that is no episode's fault
                continue
        return await self._open(await self._start(env), key, kwargs)

    async def _open(self, worker: Worker, key: tuple[str, str], kwargs: dict[str, Any]) -> Worker:
        try:
            await worker.call("open", key[0], kwargs, deadline_s=self.deadline_s)
        except BaseException:
            self._kill(worker)
            raise
        worker.key = key
        return worker

    async def _start(self, env: EnvSpec) -> Worker:
        if env.entry_point.startswith("__main__:"):
            raise RequestError(
                f"{env.id} is to be played in a worker process but lives in the script that runs. Move its class to a "
                "module that can be imported."
            )
        if reason := env.reason():
            raise RequestError(f"{env.id} {reason}.")
        zygote = self._living_zygote()
        try:
            return await self._spawn(zygote, env)
        except EnvError:
            await asyncio.sleep(0.1)  # a killed process is not known to have ended at once
            if zygote.alive():
                raise
        return await self._spawn(self._living_zygote(), env)  # it died under the worker: that is no episode's fault

    def _living_zygote(self) -> Zygote:
        if self._zygote is None or not self._zygote.alive():
            self._zygote = Zygote()
        return self._zygote

    async def _spawn(self, zygote: Zygote, env: EnvSpec) -> Worker:
        worker = zygote.spawn(env.requires)
        try:
            worker.pid = int(await worker.receive(f"start a worker for {env.id}", WORKER_DEADLINE_S))
        except BaseException:
            self._kill(worker)
            raise
        return worker

    def _give_back(self, worker: Worker) -> None:
        if worker.usable and worker.zygote is self._zygote:
            self._idle.append(worker)
        else:
            self._kill(worker)

    def _kill(self, worker: Worker) -> None:
        worker.sock.close()
        if worker.pid:
            worker.zygote.kill(worker.pid)


class WorkerEnv:
    """A leased environment in a worker."""

    def __init__(self, worker: Worker, task: Task, deadline_s: float) -> None:
        self._worker, self.task, self._deadline_s = worker, task, deadline_s
        self.pid: int | None = worker.pid

    async def reset(self) -> Reset:
        task = self.task.model_dump(mode="json")
        observation, info = await self._worker.call("reset", task, deadline_s=self._deadline_s)
        return observation, _with_tuples(info)

    async def step(self, action: str) -> Step:
        observation, reward, terminated, truncated, info = await self._worker.call(
            "step", action, deadline_s=self._deadline_s
        )
        return observation, reward, terminated, truncated, _with_tuples(info)

    async def expert(self) -> str:
        return await self._worker.call("expert", deadline_s=self._deadline_s)

    async def tools(self) -> list[dict[str, Any]]:
        return await self._worker.call("tools", deadline_s=self._deadline_s)

    async def snapshot(self) -> Snapshot:
        return Snapshot.model_validate(await self._worker.call("snapshot", deadline_s=self._deadline_s))

    async def restore(self, snapshot: Snapshot) -> Reset:
        data = _of_task(snapshot, self.task).model_dump(mode="json")
        observation, info = await self._worker.call("restore", data, deadline_s=self._deadline_s)
        return observation, _with_tuples(info)

    async def conform(self) -> list[str]:
        """What gymnasium's own checker says against the environment; empty when it is content."""
        return await self._worker.call("conform", deadline_s=10 * self._deadline_s)  # it starts several games


def _with_tuples(info: dict[str, Any]) -> dict[str, Any]:
    """JSON has no tuples; `commands` is one."""
    if info.get("commands") is not None:
        info["commands"] = tuple(info["commands"])
    return info


def _of_task(snapshot: Snapshot, task: Task) -> Snapshot:
    if snapshot.task.key != task.key:
        raise RequestError(
            f"Expected a snapshot of the leased task {task.key}, got one of {snapshot.task.key}. Lease its task first."
        )
    return snapshot


class _LocalEnv:
    """A leased environment in the calling process."""

    def __init__(self, env: TextEnv, task: Task) -> None:
        self._env, self.task = env, task
        self.pid: int | None = None

    async def reset(self) -> Reset:
        with _as_env_error():
            return self._env.reset(options={"task": self.task})

    async def step(self, action: str) -> Step:
        with _as_env_error():
            return self._env.step(action)

    async def expert(self) -> str:
        with _as_env_error():
            return self._env.expert()

    async def tools(self) -> list[dict[str, Any]]:
        with _as_env_error():
            return self._env.tool_schemas()

    async def snapshot(self) -> Snapshot:
        with _as_env_error():
            return self._env.snapshot()

    async def restore(self, snapshot: Snapshot) -> Reset:
        with _as_env_error():
            return self._env.restore(_of_task(snapshot, self.task))


class _as_env_error:
    """Turn an environment's own exceptions into `EnvError`, as a worker's answer does."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, TurnwiseError):
            raise EnvError(f"{type(error).__name__}: {error}") from error
