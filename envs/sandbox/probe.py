"""Whether this machine can hold a sandbox: starts one and tries what must not work. There is no unsafe mode."""

from __future__ import annotations

import functools
import json
import os
import sys
from pathlib import Path

from ..errors import EnvError, RequestError
from .limits import Limits
from .process import START_DEADLINE_S, Process, Python, program
from .seccomp import seccomp_filter

CURE = "apt-get install -y --no-install-recommends bubblewrap python3"


def problem() -> str:
    """Why no sandbox can be had on this machine and what to do; empty where one can.

    Starts one, once per process, and tries what must not work.
    """
    found = ready()
    return found if isinstance(found, str) else ""


def require() -> None:
    """Raise `RequestError` where no sandbox can be had: there is no unsafe mode."""
    if why := problem():
        raise RequestError(why)


@functools.cache
def ready() -> Python | str:
    """The interpreter with which everything that has to be refused is refused, or what is wrong."""
    if sys.platform != "linux":
        return f"Expected Linux for the sandbox, got {sys.platform}: bubblewrap is built on its namespaces."
    if not program():
        return f"Expected bubblewrap for the sandbox, found no bwrap. On Debian: {CURE}"
    if not seccomp_filter():
        return f"Expected an x86-64 or ARM64 processor for the sandbox, got {os.uname().machine}."
    wrong = {}
    for python in _pythons():
        wrong[python.path] = _refused(python)
        if not wrong[python.path]:
            return python
    why = "; ".join(f"{path}: {text}" for path, text in wrong.items()) or "no Python 3 is installed"
    return (
        f"Expected a sandbox that holds its limits, got one that does not ({why}). It needs unprivileged user "
        "namespaces (sysctl user.max_user_namespaces > 0, in containers a seccomp profile that allows them), "
        f"bubblewrap without the setuid bit and a Python that everybody may read. On Debian: {CURE}"
    )


def _pythons() -> list[Python]:
    """The system's own, then the one under the virtual environment."""
    base = Python(sys.base_prefix, os.path.join(sys.base_prefix, "bin", f"python3.{sys.version_info.minor}"))
    return [each for each in (Python("/usr", "/usr/bin/python3"), base) if os.path.exists(each.path)]


_PROBE = """
import os, resource, socket
found = []
def must_fail(name, attempt):
    try:
        attempt()
        found.append(name)
    except (OSError, MemoryError):
        pass
def fork():
    if os.fork() == 0:
        os._exit(0)
def fill():
    for i in range(2000):
        open(f"/tmp/probe{i}", "w").close()
def big():
    with open("/tmp/big", "wb") as file:
        for _ in range(64):
            file.write(bytes(1 << 20))
must_fail("processes", fork)
must_fail("memory", lambda: bytearray(1 << 30))
must_fail("files", fill)
must_fail("disk", big)
must_fail("network", lambda: socket.socket().connect(("127.0.0.1", 9)))
must_fail("read-only system", lambda: open("/usr/probe", "w"))
must_fail("read-only root", lambda: open("/probe", "w"))
must_fail("devices", lambda: open("/dev/probe", "w"))
if {"home", "root", "proc", "sys", "var", "run", "mnt"} & set(os.listdir("/")):
    found.append("files of the machine")
print("holds" if not found else "does not hold: " + ", ".join(found))
"""


def _refused(python: Python) -> str:
    """What a sandbox with this interpreter does not refuse; empty where it refuses all."""
    try:
        process = Process(python, Limits(memory_mb=256, files=256), {})
    except EnvError as error:
        return str(error)
    try:
        request = json.dumps({"id": 1, "code": _PROBE}).encode() + b"\n"
        said = str(json.loads(process.ask(request, START_DEADLINE_S, 1 << 16))["text"]).strip()
        held = _held(process.inner)
    except (OSError, ValueError, KeyError) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        process.kill()
    return held if said == "holds" else said


def _held(pid: int) -> str:
    """What `/proc` says of a confined process that it should not."""
    lines = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    wanted = {"CapPrm": 0, "CapEff": 0, "CapBnd": 0, "CapAmb": 0}
    for name, value in wanted.items():
        if int(lines[name], 16) != value:
            return f"{name} is {lines[name]}"
    for name in ("user", "pid", "net", "mnt", "ipc", "uts"):
        if os.readlink(f"/proc/{pid}/ns/{name}") == os.readlink(f"/proc/self/ns/{name}"):
            return f"it shares the {name} namespace"
    if lines["NoNewPrivs"] != "1" or lines["Seccomp"] != "2" or lines["Uid"].split()[0] == "0":
        return f"NoNewPrivs {lines['NoNewPrivs']}, Seccomp {lines['Seccomp']}, Uid {lines['Uid']}"
    return ""
