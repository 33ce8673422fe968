"""Processes that play environments for `EnvPool`: a zygote that imports engines once and forks workers.

`python -m turnwise.envs.worker FD` starts the zygote. It reads JSON lines on the control socket FD:
`{"spawn": [modules], "path": [folders]}` with the worker's socket attached, or `{"kill": pid}`. A worker
says `{"ok": pid}` and then answers one JSON line per request until its socket closes. Standard output
is not part of the protocol, so engines may print.

No process outlives the caller: the zygote ends when its control socket closes or its parent is gone,
and it kills its workers; where Linux offers it, workers are killed by the kernel when the zygote dies.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import warnings
from typing import Any

from .core import Snapshot, TextEnv
from .errors import RequestError

_PR_SET_PDEATHSIG = 1
_PARENT_POLL_S = 1.0


def main(control_fd: int) -> None:
    """Serve spawn and kill orders until the parent or its control socket is gone."""
    control = socket.socket(fileno=control_fd)
    parent, children = os.getppid(), set[int]()
    buffer, sockets = b"", list[int]()
    while os.getppid() == parent:
        ready, _, _ = select.select([control], [], [], _PARENT_POLL_S)
        _reap(children)
        if not ready:
            continue
        data, received, _, _ = socket.recv_fds(control, 1 << 16, 64)
        if not data:
            break
        sockets += received
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            order = json.loads(line)
            if "spawn" in order:
                children.add(_spawn(order, sockets.pop(0), control))
            elif order["kill"] in children:  # not reaped yet, so the id cannot belong to another process
                os.kill(order["kill"], signal.SIGKILL)
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    for pid in children:  # else they stay behind as zombies where process 1 does not collect orphans
        os.waitpid(pid, 0)


def _reap(children: set[int]) -> None:
    """Collect ended workers."""
    while children:
        pid, _ = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        children.discard(pid)


def _spawn(order: dict[str, Any], fd: int, control: socket.socket) -> int:
    """Fork a worker that serves `fd`; returns its process id."""
    sys.path[:] = order["path"]
    for module in order["spawn"]:
        with contextlib.suppress(Exception):  # the worker meets the same error and reports it
            importlib.import_module(module)
    gc.freeze()  # collections in the workers then leave the shared pages alone
    zygote = os.getpid()
    pid = os.fork()
    if pid:
        os.close(fd)
        return pid
    try:
        control.close()
        _die_with(zygote)
        serve(socket.socket(fileno=fd))
    finally:
        os._exit(0)


def _die_with(parent: int) -> None:
    """Ask Linux to kill this process when its parent dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def serve(sock: socket.socket) -> None:
    """Answer the requests of one caller until it closes the socket."""
    player = _Player()
    with sock.makefile("rwb") as stream:
        _send(stream, {"ok": os.getpid()})
        for line in stream:
            request = json.loads(line)
            try:
                answer = {"ok": getattr(player, request["op"])(*request["args"])}
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
                if isinstance(error, RequestError):
                    answer = {"error": str(error), "request": True}
            _send(stream, answer)


def _send(stream: Any, answer: dict[str, Any]) -> None:
    try:
        data = json.dumps(answer)
    except (TypeError, ValueError) as error:
        data = json.dumps({"error": f"The environment returned a value that is not JSON: {error}"})
    stream.write(data.encode() + b"\n")
    stream.flush()


class _Player:
    """The environment of one worker; kept between leases that ask for the same one."""

    def __init__(self) -> None:
        self._key: tuple[str, str] | None = None
        self._env: TextEnv | None = None

    def open(self, entry_point: str, kwargs: dict[str, Any]) -> None:
        key = (entry_point, json.dumps(kwargs, sort_keys=True))
        if key == self._key:
            return
        if self._env is not None:
            self._env.close()
        module, _, name = entry_point.partition(":")
        self._env, self._key = getattr(importlib.import_module(module), name)(**kwargs), key

    def reset(self, task: dict[str, Any]) -> Any:
        assert self._env is not None
        return self._env.reset(options={"task": task})

    def step(self, action: str) -> Any:
        assert self._env is not None
        return self._env.step(action)

    def expert(self) -> str:
        assert self._env is not None
        return self._env.expert()

    def tools(self) -> list[dict[str, Any]]:
        assert self._env is not None
        return self._env.tool_schemas()

    def snapshot(self) -> Any:
        assert self._env is not None
        return self._env.snapshot().model_dump(mode="json")

    def restore(self, snapshot: dict[str, Any]) -> Any:
        assert self._env is not None
        return self._env.restore(Snapshot.model_validate(snapshot))

    def conform(self) -> list[str]:
        """Complaints of gymnasium's environment checker."""
        from gymnasium.utils.env_checker import check_env

        assert self._env is not None
        with warnings.catch_warnings(record=True) as complaints:
            warnings.simplefilter("always")
            try:
                check_env(self._env, skip_render_check=True)
            except AssertionError as error:
                return [str(error)]
        return [str(complaint.message) for complaint in complaints if complaint.category is UserWarning]


if __name__ == "__main__":
    main(int(sys.argv[1]))
