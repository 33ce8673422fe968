"""`OpenAIServer`: chat completions over HTTP from an engine in this process, recorded by session (extra `serve`)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

from ...envs.errors import MissingDependency, RequestError
from ...envs.tool_calls import FORMATS
from ..context import Renderer
from ..engine import Completion, Engine, EngineError, Request
from ..rollout import episode_seed
from . import chat
from .conversation import Conversation, Place

REMEMBERED = 1 << 16
"""Ended sessions whose names are refused: a program that is late must not begin its session again."""


class _Answered(NamedTuple):
    """One choice of a response."""

    message: chat.Message
    done: Completion
    finish: str


class OpenAIServer:
    """Serves `engine` while it is entered, on the event loop that it is entered on.

        async with OpenAIServer(engine, renderer, max_tokens=1000) as server:
            client = openai.AsyncOpenAI(base_url=server.url("task-7"), api_key="none")

    Requests below `url(session)`, or with a header `X-Session`, are recorded under that session: `take` gives them
    with ids, log-probs and versions of the weights. Others are answered and forgotten.

    max_tokens: the context's limit. max_answer: tokens of an answer where a request does not say. temperature: in place
    of what requests say; needed to train programs that ask for 0. tool_format: how calls are written and read. seed:
    of sessions; equal seeds and requests sample equal answers.
    """

    def __init__(
        self,
        engine: Engine,
        renderer: Renderer,
        *,
        model: str = "policy",
        max_tokens: int = 1000,
        max_answer: int = 256,
        temperature: float | None = None,
        tool_format: str = "hermes",
        seed: int = 0,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        if tool_format not in FORMATS:
            raise RequestError(f"Expected a tool_format among {', '.join(FORMATS)}, got {tool_format!r}.")
        self.engine, self.renderer, self.model = engine, renderer, model
        self.max_tokens, self.max_answer, self.temperature = max_tokens, max_answer, temperature
        self.tool_format, self.seed, self.host, self.port = tool_format, seed, host, port
        self.sessions: dict[str, Conversation] = {}
        self.ended: dict[str, None] = {}
        """Names of the sessions that ended last."""
        self.runs = 0
        """Calls of `play_programs`: their sessions have different names."""
        self.root = ""
        self._stack = contextlib.AsyncExitStack()

    def url(self, session: str) -> str:
        """The base URL of an OpenAI client whose requests are recorded under `session`."""
        return f"{self.root}/s/{session}/v1"

    def session(self, name: str) -> Conversation:
        """The record of a session, begun where there is none."""
        if name in self.ended:
            raise RequestError(f"Expected a session that is not over, got {name!r}.")
        if name not in self.sessions:
            self.sessions[name] = Conversation(self.renderer, self.tool_format)
        return self.sessions[name]

    def take(self, name: str) -> Conversation:
        """The record of a session that is over; forgotten here."""
        self.engine.close_session(name)
        self.ended[name] = None
        if len(self.ended) > REMEMBERED:
            del self.ended[next(iter(self.ended))]
        return self.sessions.pop(name, Conversation(self.renderer, self.tool_format))

    async def __aenter__(self) -> OpenAIServer:
        try:
            import uvicorn

            from .http import application
        except ImportError as error:
            raise MissingDependency(str(error.name), "serve", "The OpenAI-compatible endpoint") from error

        class Quiet(uvicorn.Server):
            @contextlib.contextmanager
            def capture_signals(self) -> Iterator[None]:
                yield  # Ctrl-C belongs to the program that serves beside its own work

        listening = socket.create_server((self.host, self.port))
        self.root = f"http://{self.host}:{listening.getsockname()[1]}"
        server = Quiet(uvicorn.Config(application(self), log_level="error", access_log=False))
        task = asyncio.ensure_future(server.serve(sockets=[listening]))

        async def end() -> None:
            server.should_exit = True
            await task

        self._stack.push_async_callback(end)
        while not server.started and not task.done():
            await asyncio.sleep(0.005)
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._stack.aclose()

    # ---- answering --------------------------------------------------------------------------------------

    async def chat(self, data: Any, session: str = "") -> Any:
        """The response to a chat request: an object, or an iterator over server-sent events where it streams."""
        request = chat.read(data)
        messages, tools = chat.messages_of(request), chat.tools_text(request, self.tool_format)
        name = session or f"once-{uuid.uuid4().hex}"
        record = self.session(name)
        try:
            place = record.place(messages, tools)
            answered = await self._answers(record, name, request, place, messages, tools)
        finally:
            if not session:
                self.take(name)
                self.ended.pop(name, None)
        return self._stream(request, place, answered) if request.stream else self._body(request, place, answered)

    async def _answers(
        self, record: Conversation, name: str, request: chat.ChatRequest, place: Place,
        messages: tuple[chat.Message, ...], tools: str,
    ) -> list[_Answered]:  # fmt: skip
        """Sample and record the choices; none is recorded where one fails."""
        places = [place, *(record.beside(place) for _ in range(request.n - 1))]
        room = self.max_tokens - len(place.context)
        try:
            if room < 1:
                record.full = True
                raise ContextFull(
                    f"Expected at most {self.max_tokens - 1} tokens of messages, got {len(place.context)}. Send fewer, "
                    "or raise max_tokens of the endpoint."
                )
            limit = min(request.limit or self.max_answer, room)
            number = record.count
            calls = [self._sample(request, name, place, number, index, limit) for index in range(len(places))]
            sampled = await asyncio.gather(*calls)
        except BaseException as error:
            if isinstance(error, EngineError):
                record.failure = str(error)
            for each in places:
                record.give_up(each)
            raise
        return [
            self._recorded(record, each, request, done, messages, tools)
            for each, done in zip(places, sampled, strict=True)
        ]

    async def _sample(
        self, request: chat.ChatRequest, name: str, place: Place, number: int, index: int, limit: int
    ) -> Completion:
        """One choice. The first one has the session's cache; the others would only take it from each other."""
        temperature = self.temperature if self.temperature is not None else request.temperature
        seed = request.seed if request.seed is not None else episode_seed("endpoint", self.seed, name, number)
        own = name if index == 0 else f"{name}#{index}"
        try:
            return await self.engine.generate(
                Request(
                    id=f"{name}/{number}/{index}/{uuid.uuid4().hex}",
                    session=own,
                    prompt=place.context,
                    max_tokens=limit,
                    temperature=1.0 if temperature is None else temperature,
                    seed=(seed * 1_000_003 + index) % (1 << 63),
                    stop_ids=(self.renderer.end_id,),
                )
            )
        finally:
            if index:
                self.engine.close_session(own)

    def _recorded(
        self, record: Conversation, place: Place, request: chat.ChatRequest, done: Completion,
        messages: tuple[chat.Message, ...], tools: str,
    ) -> _Answered:  # fmt: skip
        done, text, cut = self._cut(done, request.stops)
        message = chat.answer_of(text, bool(tools))
        record.add(place, messages, tools, done, text, message)
        finish = "tool_calls" if message.calls else "stop" if done.stopped or cut else "length"
        return _Answered(message, done, finish)

    def _cut(self, done: Completion, stops: tuple[str, ...]) -> tuple[Completion, str, bool]:
        """The answer up to the first stop text: the fewest ids that hold it, the text without it."""
        text = self.renderer.text(done.ids)
        if not any(stop in text for stop in stops):
            return done, text, False
        for count in range(1, len(done.ids) + 1):
            text = self.renderer.text(done.ids[:count])
            found = [text.index(stop) for stop in stops if stop in text]
            if found:
                whole = count == len(done.ids)
                kept = Completion(done.ids[:count], done.logprobs[:count], done.stopped and whole, done.version)
                return kept, text[: min(found)], True
        raise AssertionError("a text that the whole answer holds is held by one of its beginnings")

    # ---- responses --------------------------------------------------------------------------------------

    def _body(self, request: chat.ChatRequest, place: Place, answered: list[_Answered]) -> dict[str, Any]:
        choices = []
        for index, each in enumerate(answered):
            choice = {"index": index, "message": _message(each), "finish_reason": each.finish}
            choice["logprobs"] = {"content": self._logprobs(each)} if request.logprobs else None
            if request.return_token_ids:
                choice["token_ids"] = list(each.done.ids)
            choices.append(choice)
        ids = {"prompt_token_ids": list(place.context)} if request.return_token_ids else {}
        return {**self._head("chat.completion"), "choices": choices, "usage": _usage(place, answered), **ids}

    async def _stream(self, request: chat.ChatRequest, place: Place, answered: list[_Answered]) -> AsyncIterator[str]:
        """Server-sent events. An answer is one event: it is recorded as a whole or not at all."""
        head = self._head("chat.completion.chunk")
        for index, each in enumerate(answered):
            delta = _message(each)
            for number, call in enumerate(delta.get("tool_calls", [])):
                call["index"] = number
            logprobs = {"content": self._logprobs(each)} if request.logprobs else None
            first = {"index": index, "delta": delta, "finish_reason": None, "logprobs": logprobs}
            yield _event({**head, "choices": [first]})
            last = {"index": index, "delta": {}, "finish_reason": each.finish, "logprobs": None}
            yield _event({**head, "choices": [last]})
        if (request.stream_options or {}).get("include_usage"):
            yield _event({**head, "choices": [], "usage": _usage(place, answered)})
        yield "data: [DONE]\n\n"

    def _head(self, kind: str) -> dict[str, Any]:
        created = int(time.time())
        return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": created, "model": self.model}

    def _logprobs(self, answered: _Answered) -> list[dict[str, Any]]:
        found = []
        for id, logprob in zip(answered.done.ids, answered.done.logprobs, strict=True):
            token = str(self.renderer.tokenizer.decode([id]))
            found.append({"token": token, "logprob": logprob, "bytes": list(token.encode()), "top_logprobs": []})
        return found


class ContextFull(RequestError):
    """The messages leave no room for an answer."""


def _message(answered: _Answered) -> dict[str, Any]:
    message = answered.message
    found: dict[str, Any] = {"role": "assistant", "content": message.content}
    if message.calls:
        found["content"] = message.content or None
        found["tool_calls"] = [
            {
                "id": f"call_{uuid.uuid4().hex[:24]}",
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            }
            for name, arguments in message.calls
        ]
    return found


def _usage(place: Place, answered: list[_Answered]) -> dict[str, int]:
    prompt, sampled = len(place.context), sum(len(each.done.ids) for each in answered)
    return {"prompt_tokens": prompt, "completion_tokens": sampled, "total_tokens": prompt + sampled}


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data)}\n\n"
