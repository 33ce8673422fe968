"""The command `turnwise serve`: an environment over the OpenEnv protocol."""

from __future__ import annotations

import socket
import sys
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

from ..envs.addresses import address, is_local
from ..envs.errors import RequestError
from .terminal import LOCAL, Host, Json, Params, Port, emit, err, listen, out

if TYPE_CHECKING:
    from fastapi import FastAPI

NEEDS = ("fastapi", "uvicorn", "websockets")


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(serve)


def serve(
    env: Annotated[str, typer.Argument(help="Environment id.")],
    port: Port = 8000,
    host: Host = LOCAL,
    max_sessions: Annotated[int, typer.Option(min=1, help="Clients at once, each with its own environment.")] = 64,
    lease: Annotated[float, typer.Option(help="Seconds after which an idle session is freed.")] = 600.0,
    split: Annotated[list[str] | None, typer.Option(help="Split to serve; repeatable. Default: all.")] = None,
    expert: Annotated[bool, typer.Option(help="Whether clients may ask for the expert's action.")] = True,
    param: Params = None,
    as_json: Json = False,
) -> None:
    """Serve an environment over the OpenEnv protocol (WebSocket, HTTP, MCP); ends with Ctrl-C."""
    missing = [name for name in NEEDS if find_spec(name) is None]
    if missing:
        raise RequestError(f"The server needs {', '.join(missing)}: pip install 'turnwise[serve]'.")
    from ..envs.openenv.served import Served
    from ..envs.openenv.server import create_app
    from .config import parse_settings

    served = Served(env, tuple(split or ()), parse_settings(param or []))
    app = create_app(served, max_sessions, lease, host, expert)
    with listen(host, port) as listening:
        url = address(host, listening)
        if not is_local(host):
            err.print(f"warning: whoever can reach {host} can play {served.spec.id} here", markup=False)
        if as_json:
            emit({"url": url, "env": served.spec.id, "splits": {s: len(served.tasks(s)) for s in served.splits}})
        else:
            out.print(f"{served.spec.id} at {url}", markup=False)
        _run(app, listening)


def _run(app: FastAPI, listening: socket.socket) -> None:
    import uvicorn

    from ..envs.openenv.server import MAX_MESSAGE_BYTES

    sys.stdout.flush()  # whoever waits for the address reads it through a pipe
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, ws_max_size=MAX_MESSAGE_BYTES, ws_per_message_deflate=False
    )
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])
