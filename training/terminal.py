"""What every command prints with: consoles, JSON on stdout, the options that many take."""

from __future__ import annotations

import json
import math
import socket
from typing import Annotated, Any

import typer
from rich.console import Console

from ..envs.errors import RequestError

out, err = Console(highlight=False), Console(stderr=True, highlight=False)

Json = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]
Params = Annotated[
    list[str] | None, typer.Option("--param", help="Task parameter key=value, e.g. rooms=3; repeatable.")
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")]
Host = Annotated[str, typer.Option(help="Address to listen on; another than the default opens it to others.")]
LOCAL = "127.0.0.1"


def fail(message: str, code: int) -> None:
    """Print one message to stderr and exit."""
    err.print("error: ", style="bold red", end="")
    err.print(message, soft_wrap=True, markup=False)
    raise SystemExit(code)


def emit(data: Any) -> None:
    """Print JSON on stdout."""
    print(json.dumps(finite(data), indent=2, allow_nan=False))


def listen(host: str, port: int) -> socket.socket:
    """A socket that a server listens on; raises `RequestError` where the address cannot be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise RequestError(
            f"Cannot listen on {host} port {port}: {error.strerror or error}. Give another --port (0: any) or --host."
        ) from error


def finite(data: Any) -> Any:
    """`data` as JSON can hold it: NaN and infinity become null."""
    if isinstance(data, dict):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
