"""The routes of `OpenAIServer`, with errors in OpenAI's shape."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from ...envs.errors import RequestError
from ..engine import EngineError

if TYPE_CHECKING:
    from .server import OpenAIServer


def application(server: OpenAIServer) -> FastAPI:
    """The endpoint of `server`; sessions are named in the path or in the header `X-Session`."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(RequestError, _refused)
    app.add_exception_handler(EngineError, _failed)

    async def models() -> Any:
        listed = {"id": server.model, "object": "model", "created": 0, "owned_by": "turnwise"}
        return {"object": "list", "data": [listed]}

    async def chat(request: Request, session: str = "") -> Response:
        try:
            data = json.loads(await request.body())
        except (ValueError, RecursionError) as error:
            raise RequestError(f"Expected JSON: {error}.") from None
        answer = await server.chat(data, session or request.headers.get("x-session", ""))
        if isinstance(answer, dict):
            return JSONResponse(answer)
        return StreamingResponse(answer, media_type="text/event-stream")

    for prefix in ("", "/s/{session}"):
        app.add_api_route(f"{prefix}/v1/models", models)
        app.add_api_route(f"{prefix}/v1/chat/completions", chat, methods=["POST"])
    return app


def _refused(request: Request, error: Exception) -> Response:
    from .server import ContextFull

    code = "context_length_exceeded" if isinstance(error, ContextFull) else None
    return _error(400, str(error), "invalid_request_error", code)


def _failed(request: Request, error: Exception) -> Response:
    return _error(500, str(error), "server_error", None)


def _error(status: int, message: str, kind: str, code: str | None) -> Response:
    return JSONResponse({"error": {"message": message, "type": kind, "param": None, "code": code}}, status)
