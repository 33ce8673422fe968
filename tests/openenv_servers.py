"""Servers for tests: our own in a thread of this process, and scripts for an interpreter that has OpenEnv itself."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from turnwise.envs.openenv import client
from turnwise.envs.openenv.served import Served
from turnwise.envs.openenv.server import create_app
from turnwise.training.terminal import listen

ROOT = Path(__file__).resolve().parent.parent


def wait_until(true: Any, what: str, deadline_s: float = 60.0) -> None:
    """Ask again until it is true; fails long after it should have been."""
    end = time.monotonic() + deadline_s
    while not true():
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_s} s: {what}")
        time.sleep(0.02)


@contextlib.contextmanager
def serving(
    env: str, params: dict[str, Any] | None = None, splits: tuple[str, ...] = (), **options: Any
) -> Iterator[str]:
    """The address of a server of `env`."""
    app = create_app(Served(env, splits, params), **options)
    with listen("127.0.0.1", 0) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False, ws_per_message_deflate=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        wait_until(lambda: server.started, "the server has started")
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)
    assert not thread.is_alive(), "the server did not end"


def active(url: str) -> int:
    """Sessions that the server holds."""
    return client.get(url, "/sessions")["active_sessions"]


def openenv_python() -> str:
    """An interpreter with OpenEnv; skips where there is none."""
    found = os.environ.get("TURNWISE_OPENENV_PYTHON") or str(ROOT / ".venv-openenv" / "bin" / "python")
    if not Path(found).exists():
        pytest.skip("needs OpenEnv in an environment of its own: make peers (or $TURNWISE_OPENENV_PYTHON)")
    return found


def in_openenv(script: str, *arguments: Any) -> Any:
    """What a script prints as JSON, run by that interpreter."""
    command = [openenv_python(), "-c", textwrap.dedent(script), *map(json.dumps, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=alone())
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@contextlib.contextmanager
def foreign(script: str, health: str = "/health") -> Iterator[str]:
    """The address of a server of OpenEnv's own; `script` defines `app`, which answers at `health` once it is up."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    run = f"\nimport uvicorn\nuvicorn.run(app, port={port}, log_level='error')\n"
    command = [openenv_python(), "-c", textwrap.dedent(script) + run]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=alone())
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: process.poll() is not None or _answers(url, health), "OpenEnv's server has started")
        assert process.poll() is None, process.stderr.read()[-3000:] if process.stderr else ""
        yield url
    finally:
        process.kill()
        process.wait()


def _answers(url: str, health: str) -> bool:
    try:
        return client.get(url, health) is not None
    except ValueError:
        return False


def alone() -> dict[str, str]:
    """The environment without this package: the other interpreter is to find its own."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


def vanishing(url: str, python: str = sys.executable) -> subprocess.Popen[str]:
    """A process in the middle of an episode that says nothing more."""
    script = """
        import sys, time
        from websockets.sync.client import connect
        with connect(sys.argv[1].replace("http", "ws") + "/ws", proxy=None) as socket:
            socket.send('{"type": "reset", "data": {"index": 0}}')
            assert '"text"' in socket.recv()
            print("playing", flush=True)
            time.sleep(600)
    """
    process = subprocess.Popen([python, "-c", textwrap.dedent(script), url], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline().strip() == "playing"
    return process
