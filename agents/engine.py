"""`Engine`: token ids in, sampled ids and log-probs out. Implementations: `torch_engine`, `vllm_engine`."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple, Protocol

from ..envs.errors import TurnwiseError


class EngineError(TurnwiseError):
    """The engine failed or sampled from other weights than it should; the episode ends as `engine_error`."""


class Request(NamedTuple):
    """One continuation to sample."""

    id: str
    """Unique among requests in flight."""
    session: str
    """Requests of one session extend one another: their common prefix need not be computed again."""
    prompt: tuple[int, ...]
    """The whole context."""
    max_tokens: int
    temperature: float = 1.0
    """0 is greedy."""
    seed: int = 0
    """Equal seed and equal prompt sample equal tokens, whatever else is in the batch."""
    stop_ids: tuple[int, ...] = ()
    """The token that ends the action; it is returned as part of `ids`."""


class Completion(NamedTuple):
    """What was sampled."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Log-probs under the distribution sampled from (after temperature)."""
    stopped: bool
    """A stop token ended it; False when `max_tokens` did."""
    version: int
    """Version of the weights."""


class Engine(Protocol):
    """The seam between agents and whatever samples tokens."""

    version: int

    async def generate(self, request: Request) -> Completion:
        """Sample one continuation; concurrent calls share batches."""
        ...

    def load_weights(self, weights: Iterable[tuple[str, Any]], version: int) -> None:
        """Replace the weights in place by (checkpoint name, tensor) pairs; forgets every cached prefix."""
        ...

    def score(self, ids: list[int]) -> list[float]:
        """Log-prob of each id but the first given those before it, temperature 1: the canary's reading."""
        ...

    def close_session(self, session: str) -> None:
        """No more requests of this session will come."""
        ...

    def seat(self) -> AbstractContextManager[None]:
        """Held by whoever plays one episode after the other: at most one request of it is in flight."""
        ...

    def close(self) -> None:
        """Free the engine."""
        ...


class SteppedEngine(ABC):
    """An engine in this process that advances all running requests by one token per `step`.

    `generate` calls of many coroutines meet in one batch; the event loop runs between two steps, so
    environments act while other episodes generate.

    An `exact` engine waits with each step until every seat has a request. Which requests meet in a batch, and with it
    the rounding of every log-prob, then depends on the episodes alone and not on how fast environments answered.
    """

    version: int = 0

    def __init__(self, exact: bool = False) -> None:
        self.exact = exact
        self._seats = 0
        self._stirred = asyncio.Event()
        self._futures: dict[str, asyncio.Future[Completion]] = {}
        self._pump: asyncio.Task[None] | None = None

    @abstractmethod
    def submit(self, request: Request) -> None:
        """Queue a request."""

    @abstractmethod
    def step(self) -> list[tuple[str, Completion]]:
        """Advance; returns the requests that ended, by id."""

    @abstractmethod
    def abort(self, request_id: str) -> None:
        """Drop a request in flight."""

    @contextmanager
    def seat(self) -> Iterator[None]:
        self._seats += 1
        try:
            yield
        finally:
            self._seats -= 1
            self._stirred.set()

    async def generate(self, request: Request) -> Completion:
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._futures[request.id] = future
        self.submit(request)
        self._stirred.set()
        if self._pump is None or self._pump.done():
            self._pump = asyncio.ensure_future(self._drive())
        try:
            return await future
        except asyncio.CancelledError:
            if self._futures.pop(request.id, None) is not None:
                self.abort(request.id)
                self._stirred.set()
            raise

    async def _drive(self) -> None:
        """Step while anything runs; a failing step fails the requests in flight, not the program."""
        self._stirred = asyncio.Event()  # of the running loop: a training loop may call `asyncio.run` once per step
        while await self._batch_is_ready():
            try:
                ended = self.step()
            except Exception as error:  # the boundary to foreign code: becomes `engine_error`
                failed, self._futures = self._futures, {}
                for request_id, future in failed.items():
                    self.abort(request_id)
                    if not future.done():
                        future.set_exception(EngineError(f"{type(error).__name__}: {error}"))
                return
            for request_id, completion in ended:
                future = self._futures.pop(request_id, None)
                if future is not None and not future.done():
                    future.set_result(completion)

    async def _batch_is_ready(self) -> bool:
        """Wait for the requests that belong in the next step; False when none is left."""
        # Two passes of the loop: the first wakes the episodes that just got their tokens, the
        # second takes in the requests they answer with, so that these join this very step.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        while self.exact and 0 < len(self._futures) < self._seats:
            self._stirred.clear()
            await self._stirred.wait()
        return bool(self._futures)
