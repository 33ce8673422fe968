"""MCP over JSON-RPC: tools of a session's episode, for OpenEnv's clients and for those of the MCP SDK.

Sessions are named by `params.session_id` (OpenEnv) or by the header `Mcp-Session-Id` (MCP's streamable HTTP). An
episode begins by itself with the first list or call of tools.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from ..errors import RequestError, TurnwiseError
from ..tool_calls import Call, render_calls
from .sessions import Full, Session, Sessions

PARSE, INVALID, METHOD, PARAMS, INTERNAL, SERVER = -32700, -32600, -32601, -32602, -32603, -32000
PROTOCOL = "2025-06-18"
"""The version of MCP that is spoken with clients that shake hands."""


class Answer(NamedTuple):
    """What goes back; no body for a notification."""

    body: dict[str, Any] | None
    session: str = ""
    """The session that the client is to name from now on."""


class _Refused(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


async def handle(sessions: Sessions, text: str | bytes, held: Session | None = None, named: str = "") -> Answer:
    """Answer one JSON-RPC message; `held` is the session of the connection, `named` the one in the header."""
    id: Any = None
    try:
        message = _parse(text)
        id = message.get("id")
        if "id" not in message:  # a notification: MCP says that it is initialized, or cancels
            return Answer(None)
        result, session = await _dispatch(sessions, message["method"], message.get("params") or {}, held, named)
        return Answer({"jsonrpc": "2.0", "id": id, "result": result}, session)
    except _Refused as refused:
        return _error(id, refused.code, str(refused))
    except Full as full:
        return _error(id, SERVER, str(full))
    except RequestError as error:
        return _error(id, PARAMS, str(error))
    except TurnwiseError as error:
        return _error(id, INTERNAL, str(error))


def _parse(text: str | bytes) -> dict[str, Any]:
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _Refused(PARSE, f"Expected JSON: {error}.") from None
    if (
        not isinstance(message, dict)
        or message.get("jsonrpc") != "2.0"
        or not isinstance(message.get("method"), str)
        or not isinstance(message.get("params") or {}, dict)
    ):
        raise _Refused(INVALID, 'Expected {"jsonrpc": "2.0", "id": 1, "method": "...", "params": {...}}.')
    return message


def _error(id: Any, code: int, message: str) -> Answer:
    return Answer({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}})


async def _dispatch(
    sessions: Sessions, method: str, params: dict[str, Any], held: Session | None, named: str
) -> tuple[dict[str, Any], str]:
    if method == "initialize":
        session = _begin(sessions)
        served = sessions.served.spec
        about = {"name": served.id, "version": "0"}
        return {"protocolVersion": PROTOCOL, "capabilities": {"tools": {}}, "serverInfo": about}, session.id
    if method == "ping":
        return {}, ""
    if method == "openenv/session/create":
        return {"session_id": (held or _begin(sessions)).id}, ""
    if method == "openenv/session/close":
        if held is not None and params.get("session_id") in (held.id, None):
            raise _Refused(INVALID, "This session ends with its connection. Close the connection.")
        session = _find(sessions, params.get("session_id"))
        await sessions.end(session)
        return {"session_id": session.id, "closed": True}, ""
    if method not in ("tools/list", "tools/call"):
        raise _Refused(METHOD, f"Expected tools/list or tools/call, got {method!r}.")
    name = params.get("session_id") or named
    session = held or (_find(sessions, name) if name else _begin(sessions))
    try:
        return await (_list(session) if method == "tools/list" else _call(session, params)), ""
    finally:
        if held is None and name:
            sessions.touch(session)
        elif held is None:  # nobody can name it again
            await sessions.end(session)


def _begin(sessions: Sessions) -> Session:
    session = sessions.begin()
    sessions.touch(session)
    return session


def _find(sessions: Sessions, name: Any) -> Session:
    session = sessions.open.get(name) if isinstance(name, str) else None
    if session is None:
        raise RequestError(f"Expected the id of an open session, got {name!r}. Create one: openenv/session/create.")
    return session


async def _list(session: Session) -> dict[str, Any]:
    await _started(session)
    return {
        "tools": [
            {"name": t["name"], "description": t["description"], "inputSchema": t["parameters"]}
            for t in await session.tools()
        ]
    }


async def _call(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    """The tool's answer as MCP has it; reward and end of the episode are structured content."""
    name, arguments = params.get("name"), params.get("arguments") or {}
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise _Refused(PARAMS, f"Expected a name and an object of arguments, got {str(params)[:200]}.")
    await _started(session)
    answer = await session.step(render_calls([Call(name, arguments)]))
    text, info = answer["observation"]["text"], session.info
    told = {"reward": answer["reward"], "done": answer["done"], "success": info["success"], "score": info["score"]}
    return {
        "content": [{"type": "text", "text": text}],
        "structuredContent": {"result": text, **told},
        "isError": not info["admissible"],
    }


async def _started(session: Session) -> None:
    if session.task is None:
        await session.reset({})
