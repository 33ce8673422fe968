"""`Sandbox`: a Python that stays between calls, and `run_program`, both in bubblewrap without network, files or rights.

    python in its own user, process, network, mount, IPC and UTS namespaces, read-only /usr, nothing else of the machine
    ├── one writable place: /tmp, a tmpfs of bounded size and number of files
    ├── limits: memory, processes, open files, file size, processor time: rlimits, set inside, which cannot be raised
    └── system calls: no new namespaces, mounts, tracing, kernel rings, sockets other than Unix ones

RLIMIT_NPROC never binds the superuser. A caller who is root therefore becomes `nobody` before bubblewrap starts, which
makes the sandbox the same thing for everybody. What the kernel counts per address space (RLIMIT_AS) is divided by the
number of processes, and memory outside of address spaces cannot be had, so that the sum is bounded too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..errors import RequestError
from .limits import Limits
from .probe import ready
from .process import Process, Python

_GRACE_BYTES = 1 << 16
_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]{6,}")
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class Output(NamedTuple):
    """What came of a call or of a program."""

    text: str
    """What it printed, cut after `output_chars`; the same on every run of code that is the same on every run."""
    ok: bool
    """It ended by itself and without an error."""
    lost: bool = False
    """It was stopped or ended the interpreter: variables and files of earlier calls are gone."""


class Sandbox:
    """A Python whose variables and files last until `close` or until a call does not end in time.

    Starts at the first call. Not for two threads at once.
    """

    def __init__(self, limits: Limits | None = None, files: Mapping[str, str] | None = None) -> None:
        self.limits, self.files = limits or Limits(), dict(files or {})
        self._process: Process | None = None
        self._calls = 0

    @property
    def pid(self) -> int | None:
        """Process id of the interpreter as this machine sees it; None where none runs."""
        return None if self._process is None else self._process.inner

    def run(self, code: str, timeout_s: float = 10.0) -> Output:
        """Execute `code`; the value of a last expression is printed. Raises `EnvError` where no sandbox starts."""
        if self._process is None:
            self._process = Process(_python(), self.limits, self.files)
        self._calls += 1
        request = json.dumps({"id": self._calls, "code": code}).encode() + b"\n"
        room = 12 * self.limits.output_chars + _GRACE_BYTES  # JSON writes a character in up to twelve bytes
        try:
            answer = json.loads(self._process.ask(request, timeout_s, room))
            text, ok, full = str(answer["text"]), answer["ok"] is True, answer["full"] is True
            if answer["id"] != self._calls:
                raise ValueError("an answer to another question")
        except TimeoutError:
            return self._lost(f"Stopped: it did not end within {timeout_s:g} s.")
        except (ConnectionError, ValueError, TypeError, KeyError, RecursionError):
            # Agents' code can reach the channel: what comes of it is a fault of theirs and costs them their state.
            return self._lost("The interpreter ended.")
        note = f"… (cut after {self.limits.output_chars:,} characters, and stopped)" if full else ""
        return Output(_same(text[: self.limits.output_chars]) + note, ok)

    def close(self) -> None:
        """End the interpreter and all that it started."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def _lost(self, why: str) -> Output:
        self.close()
        return Output(f"{why} The next call has a new interpreter: variables and files are gone.", False, True)


def run_program(
    program: Sequence[str], files: Mapping[str, str], limits: Limits | None = None, timeout_s: float = 20.0
) -> Output:
    """Run a script (`main.py`) or a module (`unittest`) with its arguments in a sandbox of its own, files beside it."""
    limits = limits or Limits()
    process = Process(_python(), limits, files, program)
    try:
        data, ended = process.read_all(timeout_s, 4 * limits.output_chars)
        code = process.wait(1.0) if ended else None
    finally:
        process.kill()
    text = _same(data.decode("utf-8", "replace"))
    if len(text) > limits.output_chars or (not ended and len(data) >= 4 * limits.output_chars):
        return Output(
            f"{text[: limits.output_chars]}… (cut after {limits.output_chars:,} characters, and stopped)", False
        )
    if not ended:
        return Output(f"{text}\nStopped: it did not end within {timeout_s:g} s.".lstrip(), False, True)
    return Output(text, code == 0)


def _python() -> Python:
    found = ready()
    if isinstance(found, str):
        raise RequestError(found)
    return found


def _same(text: str) -> str:
    """The text without addresses of memory, which differ from run to run, and with control characters spelled out."""
    spelled = _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    return _ADDRESS.sub("at 0x…", spelled)
