"""The system's Chromium behind Playwright: finding it, one for each process, its end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from .errors import EnvError, RequestError

T = TypeVar("T")
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
CURE = "apt-get install -y --no-install-recommends chromium"
FLAGS = (
    "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run", "--disable-quic", "--disable-extensions", "--disable-breakpad",
    "--disable-crash-reporter", "--mute-audio",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip
"""The last one keeps every page from reaching beyond this machine."""


def program() -> str:
    """Chromium: `$TURNWISE_CHROMIUM`, else the first of `PROGRAMS` on the path; empty where there is none."""
    named = os.environ.get("TURNWISE_CHROMIUM")
    if named:
        return shutil.which(named) or ""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), "")


class Chromium:
    """The browser of this process. It ends with its last page, and with the process however that ends.

    Playwright lives in a thread of its own: in the caller's it would forbid `asyncio.run` there.
    """

    _running: Chromium | None = None

    def __init__(self) -> None:
        from playwright.sync_api import Error, sync_playwright

        self.path, self.owner, self.users, self.error = program(), os.getpid(), 0, Error
        if not self.path:
            raise RequestError(f"Expected a Chromium, found none of {', '.join(PROGRAMS)}. On Debian: {CURE}")
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        self._ended = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="browser")
        self.driver = self.do(lambda: sync_playwright().start())
        try:
            self.browser = self.do(lambda: self.driver.chromium.launch(executable_path=self.path, args=[*FLAGS, *root]))
        except Error as error:
            self.do(self.driver.stop)
            raise EnvError(f"Chromium ({self.path}) did not start: {first_line(error)}") from error

    def do(self, call: Callable[[], T]) -> T:
        """What `call` returns or raises in Playwright's thread."""
        if self._ended:
            raise EnvError("The browser has ended; reset() starts another.")
        return self._thread.submit(call).result()

    def connected(self) -> bool:
        return not self._ended and self.owner == os.getpid() and self.do(self.browser.is_connected)

    @classmethod
    def shared(cls) -> Chromium:
        """The one of this process, started when there is none; a forked process does not use its parent's."""
        found = cls._running
        if found is None or not found.connected():
            if found is not None:
                found.end()
            found = cls._running = cls()
        return found

    def leave(self) -> None:
        self.users -= 1
        if self.users <= 0:
            self.end()

    def end(self) -> None:
        if Chromium._running is self:
            Chromium._running = None
        if self.owner == os.getpid() and not self._ended:
            for close in (self.browser.close, self.driver.stop):
                with suppress(self.error):
                    self.do(close)
            self._ended = True
            self._thread.shutdown()


def first_line(error: Exception) -> str:
    """Of what an error says, 500 characters at most."""
    return (str(error).strip().splitlines() or [""])[0][:500]
