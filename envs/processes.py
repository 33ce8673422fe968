"""The caller's end of environment workers: the process that forks them, requests with a deadline, their memory."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

from .errors import DeadlineExceeded, EnvError, RequestError

MAX_ANSWER_BYTES = 1 << 26


class Zygote:
    """The process that forks workers; see `worker.py`."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair()
        self._control.settimeout(10.0)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"{__package__}.worker", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=_environment(),
                start_new_session=True,  # Ctrl-C is the caller's to handle
            )
        self.close = weakref.finalize(self, _end, self._control, self._process)

    def alive(self) -> bool:
        return self._process.poll() is None

    def spawn(self, modules: tuple[str, ...]) -> Worker:
        """Order a worker in which `modules` are imported. Its first line is its process id."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        order = json.dumps({"spawn": modules, "path": sys.path}).encode() + b"\n"
        with theirs:
            try:
                socket.send_fds(self._control, [order], [theirs.fileno()])
            except OSError as error:
                ours.close()
                raise EnvError(f"The process that starts environment workers does not answer: {error}.") from error
        return Worker(ours, self)

    def kill(self, pid: int) -> None:
        with suppress(OSError):  # closed: then its workers are gone too
            self._control.sendall(json.dumps({"kill": pid}).encode() + b"\n")


def _environment() -> dict[str, str]:
    """The caller's environment with its import path; one thread per engine, for workers are many."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1"}


def proportional_mb(pid: int) -> float | None:
    """Proportional set size of a process and its children (a Java machine, a browser) in MB (10^6 bytes).

    None when it has ended or the system does not tell.
    """
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        threads = Path(f"/proc/{pid}/task").glob("*/children")  # each lists the processes that it started
        children = [child for thread in threads for child in thread.read_text().split()]
    except OSError:
        return None
    own = next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("Pss:")), None)
    return None if own is None else own + sum(proportional_mb(int(child)) or 0.0 for child in children)


def _end(control: socket.socket, process: subprocess.Popen[bytes]) -> None:
    control.close()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Worker:
    """The caller's end of one worker process. `usable` turns False when it may be out of step."""

    def __init__(self, sock: socket.socket, zygote: Zygote) -> None:
        self.sock, self.zygote = sock, zygote
        self.pid: int | None = None
        self.key: tuple[str, str] | None = None
        self.usable = True
        self.expired: str | None = None

    async def call(self, op: str, *args: Any, deadline_s: float) -> Any:
        """Send one request and return its answer."""
        if not self.usable:
            raise self._broken(f"Worker {self.pid} broke earlier in this episode; lease another.")
        self.usable = False  # until the answer is here: a cancelled call leaves it out of step
        data = json.dumps({"op": op, "args": args}).encode() + b"\n"
        return await self.receive(op, deadline_s, data)

    async def receive(self, what: str, deadline_s: float, request: bytes = b"") -> Any:
        """The next answer, after sending `request`; raises the error it carries."""
        try:
            async with asyncio.timeout(deadline_s):
                await asyncio.get_running_loop().sock_sendall(self.sock, request)
                answer = json.loads(await self._line(what))
        except TimeoutError as error:
            raise DeadlineExceeded(f"Expected an answer to {what!r} within {deadline_s:g} s; none came.") from error
        except OSError as error:
            raise self._broken(f"Worker {self.pid} died during {what!r}: {error}.") from error
        self.usable = not self.expired and ("error" not in answer or "request" in answer)
        if "error" in answer:
            raise (RequestError if "request" in answer else EnvError)(answer["error"])
        return answer["ok"]

    async def _line(self, what: str) -> bytes:
        loop, chunks, size = asyncio.get_running_loop(), list[bytes](), 0
        while not chunks or not chunks[-1].endswith(b"\n"):
            chunks.append(await loop.sock_recv(self.sock, 1 << 18))
            size += len(chunks[-1])
            if not chunks[-1]:
                raise ConnectionError("end of file")
            if size > MAX_ANSWER_BYTES:
                raise EnvError(f"Expected at most {MAX_ANSWER_BYTES:,} bytes in answer to {what!r}, got more.")
        return b"".join(chunks)

    def _broken(self, why: str) -> EnvError:
        return DeadlineExceeded(self.expired) if self.expired else EnvError(why)
