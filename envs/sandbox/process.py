"""One bubblewrap, the interpreter in it, and the socket between it and us."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from ..errors import EnvError
from .limits import Limits
from .seccomp import seccomp_filter

NOBODY = 65534
START_DEADLINE_S = 30.0
_SOURCE = Path(__file__).with_name("inside.py").read_text()


class Python(NamedTuple):
    """An interpreter that the sandbox can show to its code."""

    prefix: str
    path: str


def program() -> str:
    """bubblewrap: `$TURNWISE_BWRAP`, else the one on the path; empty where there is none."""
    return shutil.which(os.environ.get("TURNWISE_BWRAP") or "bwrap") or ""


def command(python: Python, info: int) -> list[str]:
    """The command line of bubblewrap; nothing of the machine but what an interpreter reads."""
    folders = ["--ro-bind", "/usr", "/usr"]
    if python.prefix != "/usr":
        folders += ["--ro-bind", python.prefix, python.prefix]
    elif os.path.isdir("/usr/local"):
        folders += ["--tmpfs", "/usr/local", "--remount-ro", "/usr/local"]
    for name in ("bin", "lib", "lib64", "lib32"):
        if os.path.islink(f"/{name}"):
            folders += ["--symlink", f"usr/{name}", f"/{name}"]
        elif os.path.isdir(f"/{name}"):
            folders += ["--ro-bind", f"/{name}", f"/{name}"]
    for name in ("ld.so.cache", "localtime"):
        folders += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    devices = [word for name in ("null", "zero", "urandom") for word in ("--dev-bind", f"/dev/{name}", f"/dev/{name}")]
    return [
        program(), "--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts",
        "--unshare-cgroup-try", "--die-with-parent", "--new-session", "--as-pid-1", "--hostname", "sandbox",
        "--clearenv", "--setenv", "PATH", "/usr/bin:/bin", "--setenv", "HOME", "/tmp", "--setenv", "LANG", "C.UTF-8",
        "--setenv", "PYTHONHASHSEED", "0", "--setenv", "TZ", "UTC", "--setenv", "PYTHONDONTWRITEBYTECODE", "1",
        *folders, "--dir", "/tmp", *devices, "--remount-ro", "/", "--chdir", "/", "--info-fd", str(info),
        "--cap-drop", "ALL", "--cap-add", "CAP_SYS_ADMIN", "--cap-add", "CAP_SETPCAP",
        "--", python.path, "-S", "-s", "-c", _SOURCE,
    ]  # fmt: skip


class Process:
    """One bubblewrap and the interpreter in it."""

    def __init__(
        self, python: Python, limits: Limits, files: Mapping[str, str], run: Sequence[str] | None = None
    ) -> None:
        self.inner, self._rest = 0, b""
        self._ends = contextlib.ExitStack()
        self.kill = weakref.finalize(self, self._ends.close)
        """End everything in the sandbox: with its first process the kernel ends all others."""
        self._sock, theirs = socket.socketpair()
        told, tells = os.pipe()
        with open(told, "rb") as info:
            try:
                self._outer = _start(command(python, tells), theirs, tells)
            except BaseException:
                self._sock.close()
                raise
            finally:
                theirs.close()  # else no end of file would come
                os.close(tells)
            self._ends.callback(_end, self._outer)
            self._ends.callback(self._sock.close)
            try:
                self._begin(limits, files, run, info)
            except (OSError, ValueError, KeyError) as error:
                self._sock.close()
                _collect(self._outer)
                text = (self._outer.stderr.read(2000) if self._outer.stderr else b"").decode("utf-8", "replace").strip()
                self.kill()
                raise EnvError(f"The sandbox does not start: {text or f'{type(error).__name__}: {error}'}") from error

    def _begin(self, limits: Limits, files: Mapping[str, str], run: Sequence[str] | None, info: IO[bytes]) -> None:
        self.inner = int(json.loads(info.read() or b"{}")["child-pid"])
        self._pidfd = os.pidfd_open(self.inner)
        self._ends.callback(_kill, self._pidfd)
        order = {
            "limits": limits.order(), "filter": seccomp_filter().hex(), "files": dict(files),
            "program": run and list(run), "room": limits.output_chars,
        }  # fmt: skip
        answer = json.loads(self._exchange(json.dumps(order).encode() + b"\n", START_DEADLINE_S, 1 << 16))
        if "ready" not in answer:
            raise ValueError(answer.get("refused", "no answer"))

    def ask(self, request: bytes, timeout_s: float, room: int) -> bytes:
        """Send a line and return the next one; the process runs only while it is asked."""
        signal.pidfd_send_signal(self._pidfd, signal.SIGCONT)
        line = self._exchange(request, timeout_s, room)
        signal.pidfd_send_signal(self._pidfd, signal.SIGSTOP)
        return line

    def read_all(self, timeout_s: float, room: int) -> tuple[bytes, bool]:
        """Everything until the program closes its output, and whether it did so in time and within `room`."""
        end, data = time.monotonic() + timeout_s, self._rest
        while len(data) < room:
            try:
                chunk = self._receive(end)
            except TimeoutError:
                return data, False
            if not chunk:
                return data, True
            data += chunk
        return data, False

    def wait(self, timeout_s: float) -> int | None:
        """The exit status, None where it goes on."""
        try:
            return self._outer.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def _exchange(self, request: bytes, timeout_s: float, room: int) -> bytes:
        end = time.monotonic() + timeout_s
        self._sock.settimeout(max(timeout_s, 1e-3))
        self._sock.sendall(request)
        data = self._rest
        while b"\n" not in data:
            chunk = self._receive(end)
            if not chunk:
                raise ConnectionError("the sandbox ended")
            data += chunk
            if len(data) > room:
                raise ValueError(f"more than {room:,} bytes")
        line, self._rest = data.split(b"\n", 1)
        return line

    def _receive(self, end: float) -> bytes:
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)
        try:
            return self._sock.recv(1 << 16)
        except ConnectionResetError:
            return b""


def _kill(pidfd: int) -> None:
    with contextlib.suppress(OSError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.close(pidfd)


def _collect(outer: subprocess.Popen[bytes]) -> None:
    """Let bubblewrap collect its child and go: killed first, it would leave a zombie to process 1."""
    try:
        outer.wait(1.0)
    except subprocess.TimeoutExpired:
        outer.kill()
        outer.wait()


def _end(outer: subprocess.Popen[bytes]) -> None:
    _collect(outer)
    if outer.stderr is not None:
        outer.stderr.close()


def _start(words: list[str], channel: socket.socket, info: int) -> subprocess.Popen[bytes]:
    """Start bubblewrap, as `nobody` where the caller is root."""
    setarch = shutil.which("setarch")
    is_root = os.geteuid() == 0
    try:
        return subprocess.Popen(
            [setarch, "-R", *words] if setarch else words,  # addresses that are the same each time
            stdin=channel.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, pass_fds=(info,), cwd="/",
            start_new_session=True, user=NOBODY if is_root else None, group=NOBODY if is_root else None,
            extra_groups=[] if is_root else None,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise EnvError(f"bubblewrap does not start: {error}") from error
