"""The OpenEnv server of one environment as a FastAPI application: WebSocket sessions, HTTP, MCP, tasks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse, Response

from ..addresses import is_local
from ..errors import RequestError, TurnwiseError, UnknownName
from . import rpc, wire
from .served import Served
from .sessions import Full, Session, Sessions

MAX_MESSAGE_BYTES = 1 << 24


def create_app(
    served: Served, max_sessions: int = 64, lease_s: float = 600.0, host: str = "127.0.0.1", expert: bool = True
) -> FastAPI:
    """An application that serves `served`.

    host: what it listens on; where that is this machine only, requests that name another host are refused. expert:
    whether clients may ask for the expert's action.
    """
    sessions = Sessions(served, max_sessions, lease_s)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        await sessions.aclose()

    app = FastAPI(title=served.spec.id, lifespan=life, docs_url=None, redoc_url=None)
    app.state.sessions = sessions
    app.add_middleware(_OnlyLocal, host=host)
    app.add_exception_handler(TurnwiseError, _as_json)
    _add_about(app, served, sessions)
    _add_http(app, sessions)
    _add_tasks(app, served)

    _add_mcp(app, sessions)
    _add_sockets(app, sessions, expert)
    return app


# ---- connections ------------------------------------------------------------------------------------


def _add_sockets(app: FastAPI, sessions: Sessions, expert: bool) -> None:
    @app.websocket("/mcp")
    async def mcp_socket(socket: WebSocket) -> None:
        async def answer(session: Session, text: str) -> Any:
            return (await rpc.handle(sessions, text, held=session)).body

        await _hold(socket, sessions, answer)

    @app.websocket("/ws")
    async def ws(socket: WebSocket) -> None:
        async def answer(session: Session, text: str) -> Any:
            return await _answer(sessions, session, text, expert)

        await _hold(socket, sessions, answer)


async def _hold(socket: WebSocket, sessions: Sessions, answer: Callable[[Session, str], Awaitable[Any]]) -> None:
    """One connection is one session: answer its messages until it closes, vanishes or is idle for its lease."""
    await socket.accept()
    try:
        session = sessions.begin()
    except Full as full:
        taken = {"active_sessions": len(sessions.open), "max_sessions": sessions.limit}
        await _send(socket, wire.error("CAPACITY_REACHED", str(full), **taken))
        await socket.close(1013)
        return
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(sessions.lease_s) as lease:
            while True:
                text = await socket.receive_text()
                lease.reschedule(None)  # a call under way is no idleness; it has a deadline of its own
                reply = await answer(session, text)
                if reply is _CLOSE:
                    break
                if reply is not None:
                    await _send(socket, reply)
                lease.reschedule(loop.time() + sessions.lease_s)
        await socket.close()
    except TimeoutError:
        message = f"{wire.ENDED}: it was idle for {sessions.lease_s:g} s, its lease. Connect again."
        with suppress(RuntimeError, WebSocketDisconnect):
            await _send(socket, wire.error("SESSION_ERROR", message))
            await socket.close()
    except (WebSocketDisconnect, RuntimeError, KeyError):  # it vanished, or sent bytes where text was expected
        pass
    finally:
        await sessions.end(session)


_CLOSE = object()


async def _answer(sessions: Sessions, session: Session, text: str, expert: bool) -> Any:
    """The reply to one message of a client; what is wrong with it is the reply, not the end of the session."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        return wire.error("INVALID_JSON", f"Expected JSON: {error}.")
    kind = message.get("type") if isinstance(message, dict) else None
    data = message.get("data") if isinstance(message, dict) else None
    if kind == "close":
        return _CLOSE
    try:
        if kind == "reset":
            if not isinstance(data or {}, dict):
                raise RequestError(f"Expected an object of reset parameters, got {str(data)[:200]}.")
            return {"type": "observation", "data": await session.reset(data or {})}
        if kind == "step":
            return {"type": "observation", "data": await session.act(data)}
        if kind == "state":
            return {"type": "state", "data": session.state()}
        if kind == "mcp":
            return {"type": "mcp", "data": (await rpc.handle(sessions, json.dumps(data), held=session)).body or {}}
        if kind == "expert" and expert:
            return {"type": "expert", "data": {"action": await session.expert()}}
    except RequestError as error:
        return wire.error("VALIDATION_ERROR", str(error))
    except TurnwiseError as error:
        return wire.error("EXECUTION_ERROR", str(error))
    return wire.error("UNKNOWN_TYPE", f"Expected a message of type reset, step, state, mcp or close, got {kind!r:.80}.")


async def _send(socket: WebSocket, message: dict[str, Any]) -> None:
    await socket.send_text(json.dumps(message))  # ASCII: a lone surrogate in an action must not break the answer


# ---- HTTP --------------------------------------------------------------------------------------------------


def _add_mcp(app: FastAPI, sessions: Sessions) -> None:
    @app.post("/mcp")
    async def mcp(request: Request) -> Response:
        named = request.headers.get("mcp-session-id", "")
        answer = await rpc.handle(sessions, await request.body(), named=named)
        if answer.body is None:
            return Response(status_code=202)
        return JSONResponse(answer.body, headers={"Mcp-Session-Id": answer.session} if answer.session else None)

    @app.delete("/mcp")
    async def end_mcp(request: Request) -> Response:
        session = sessions.open.get(request.headers.get("mcp-session-id", ""))
        if session is not None:
            await sessions.end(session)
        return Response(status_code=204 if session else 404)


def _add_about(app: FastAPI, served: Served, sessions: Sessions) -> None:
    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "healthy"}

    @app.get("/schema")
    async def schema() -> dict[str, Any]:
        return {"action": wire.ACTION_SCHEMA, "observation": wire.OBSERVATION_SCHEMA, "state": wire.STATE_SCHEMA}

    @app.get("/metadata")
    async def metadata() -> dict[str, Any]:
        return {"name": served.spec.id, "description": served.spec.summary, "version": _version(), "author": "turnwise"}

    @app.get("/sessions")
    async def held() -> dict[str, Any]:
        return {"active_sessions": len(sessions.open), "max_sessions": sessions.limit, "lease_s": sessions.lease_s}


def _add_http(app: FastAPI, sessions: Sessions) -> None:
    """Episodes without a connection, named by `episode_id`; without one a reset shows the opening and keeps nothing."""

    @app.post("/reset")
    async def reset(request: Request) -> Response:
        data = await _body(request)
        episode = data.get("episode_id")
        known = sessions.open.get(_http(episode)) if episode else None
        session = known or sessions.begin(_http(episode) if episode else "")
        try:
            answer = await session.reset(data)
        except TurnwiseError:
            if known is None:
                await sessions.end(session)
            raise
        if episode:
            sessions.touch(session)
        else:
            await sessions.end(session)
        return _json(answer)

    @app.post("/step")
    async def step(request: Request) -> Response:
        data = await _body(request)
        session = _named(sessions, data.get("episode_id"))
        sessions.touch(session)
        answer = await session.act(data.get("action"))
        sessions.touch(session)
        return _json(answer)

    @app.get("/state")
    async def state(episode_id: str = "") -> dict[str, Any]:
        return _named(sessions, episode_id).state() if episode_id else wire.state(None, None, {})


def _add_tasks(app: FastAPI, served: Served) -> None:
    """OpenEnv's task API."""

    def checked(name: str) -> None:
        if name.lower() != served.name.lower():
            raise UnknownName("environment of this server", name, [served.name])

    @app.get("/list_environments")
    async def environments() -> list[str]:
        return [served.name]

    @app.get("/{name}/splits")
    async def splits(name: str) -> list[dict[str, str]]:
        checked(name)
        kinds = {split: split if split in ("train", "validation", "test") else "validation" for split in served.splits}
        return [{"name": split, "type": kind} for split, kind in kinds.items()]

    @app.post("/{name}/{what}")
    async def listed(name: str, what: str, request: Request) -> dict[str, Any]:
        checked(name)
        data = await _body(request)
        found = served.described(str(data.get("split")))
        if what == "tasks":
            return {"tasks": found, "env_name": served.name}
        if what == "num_tasks":
            return {"num_tasks": len(found)}
        if what == "task_range":
            return {"tasks": found[data.get("start") : data.get("stop")]}
        if what != "task":
            raise UnknownName("question of the task API", what, ("tasks", "num_tasks", "task", "task_range"))
        index = data.get("index")
        if not isinstance(index, int) or not 0 <= index < len(found):
            raise RequestError(f"Expected an index from 0 to {len(found) - 1}, got {index!r}.")
        return {"task": found[index]}


def _http(episode: Any) -> str:
    """The id of an episode's session: no client can name that of another's connection."""
    return f"http:{episode}"


def _named(sessions: Sessions, episode: Any) -> Session:
    session = sessions.open.get(_http(episode))
    if session is None:
        raise RequestError(
            f"Expected the episode_id that a /reset was made with, got {episode!r}. Over HTTP an episode lives under "
            "its episode_id; over the WebSocket /ws it needs none."
        )
    return session


async def _body(request: Request) -> dict[str, Any]:
    raw = await request.body()
    try:
        data = json.loads(raw or "{}")
    except (ValueError, RecursionError) as error:
        raise RequestError(f"Expected JSON: {error}.") from None
    if not isinstance(data, dict):
        raise RequestError(f"Expected an object, got {type(data).__name__}.")
    return data


def _json(data: Any) -> Response:
    return Response(json.dumps(data), media_type="application/json")


def _as_json(request: Request, error: Exception) -> Response:
    code = 503 if isinstance(error, Full) else 422 if isinstance(error, RequestError) else 500
    return JSONResponse({"detail": str(error)}, code)


def _version() -> str:
    try:
        return version("turnwise")
    except PackageNotFoundError:  # run from a source tree
        return "0"


class _OnlyLocal:
    """Refuses requests under another name, and of another site's pages, where only this machine is listened to."""

    def __init__(self, app: Any, host: str) -> None:
        self.app, self.local = app, is_local(host)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self.local and scope["type"] in ("http", "websocket"):
            headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
            named = [f"//{headers.get('host', '')}", *([headers["origin"]] if "origin" in headers else [])]
            if not all(is_local(_hostname(each)) for each in named):
                if scope["type"] == "websocket":
                    await send({"type": "websocket.close", "code": 1008})
                else:
                    await JSONResponse({"detail": "This server answers to localhost only."}, 403)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _hostname(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""
