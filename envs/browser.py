"""A real browser for environments: the system's Chromium behind Playwright, actions on elements by number."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from .accessibility import FIELDS, STYLES, Element, PageText, describe
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
KEYS = ("Enter", "Tab", "Escape", "Backspace", "Delete", "Space", "ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight",
        "Home", "End", "PageUp", "PageDown", "Control+A", "Control+C", "Control+V", "Control+X", "Shift+ArrowLeft",
        "Shift+ArrowRight", "Control+ArrowLeft", "Control+ArrowRight", "Control+Shift+ArrowLeft",
        "Control+Shift+ArrowRight")  # fmt: skip
USAGE = (
    "Write click[3], hover[3], type[3][words], select[3][option], press[Enter], press[3][Enter] or scroll[3][down], "
    "where 3 is the number of an element."
)
TICK_MS = 500
"""What an action takes on a virtual clock."""
TIMEOUT_MS = 15_000

_CLOCK = Path(__file__).with_name("virtual_clock.js")
_ACTION = re.compile(r"(click|hover|type|select|press|scroll)\s*\[([^\]]*)\](?:\s*\[(.*)\])?", re.IGNORECASE)
_WATCH = """window.navigation?.addEventListener('navigate', event => {
    if (!event.destination.sameDocument) window.leavesThisPage = true;
})"""
_CLEAN = """async () => {
    try { localStorage.clear(); sessionStorage.clear() } catch { /* a page without an origin has none */ }
    try { for (const {name} of await indexedDB.databases()) indexedDB.deleteDatabase(name) } catch { /* likewise */ }
    window.name = ''
}"""
_LEAVES = "!!window.leavesThisPage || document.readyState !== 'complete'"
"""Another page is on its way, or here but not whole."""
_SETTLE = f"""async () => {{
    for (let i = 0; i < 2; i++) await new Promise(done => setTimeout(done));
    return {_LEAVES};
}}"""
_AIM = """function () {
    const element = this.nodeType === 3 ? this.parentElement : this;
    element.scrollIntoViewIfNeeded?.(true);
    const box = element.getClientRects()[0];
    const x = box ? box.left + box.width / 2 : 0, y = box ? box.top + box.height / 2 : 0;
    const hit = box && document.elementFromPoint(x, y);
    return {x, y, hit: !!hit && (element === hit || element.contains(hit)), tag: element.tagName,
            disabled: !!element.disabled, connected: element.isConnected, type: element.type || ''};
}"""
_CLICK = """function () {
    for (const name of ['pointerdown', 'mousedown', 'pointerup', 'mouseup', 'click']) {
        if (name === 'pointerup') this.focus?.({preventScroll: true});
        this.dispatchEvent(new MouseEvent(name, {bubbles: true, cancelable: true, view: window, detail: 1}));
    }
}"""
_HOVER = """function () {
    for (const name of ['pointerover', 'mouseover', 'mouseenter', 'mousemove'])
        this.dispatchEvent(new MouseEvent(name, {bubbles: name !== 'mouseenter', cancelable: true, view: window}));
}"""
_SCROLL = """function (where) {
    const scrolls = box => box.scrollHeight > box.clientHeight && /auto|scroll/.test(getComputedStyle(box).overflowY);
    let box = this.nodeType === 3 ? this.parentElement : this;
    while (box.parentElement && !scrolls(box)) box = box.parentElement;
    const before = box.scrollTop, page = box.clientHeight, end = box.scrollHeight;
    const places = {up: before - page, down: before + page, top: 0, bottom: end};
    if (!(where in places)) return false;
    const told = new Promise(done => addEventListener('scroll', done, {once: true, capture: true}));
    box.scrollTop = places[where];
    return box.scrollTop === before ? true : told.then(() => true);
}"""
_FOCUS = """function () {
    this.focus();
    if (this.select) this.select(); else getSelection().selectAllChildren(this);
}"""
_SET = """function (value) {
    this.value = value;
    for (const name of ['input', 'change']) this.dispatchEvent(new Event(name, {bubbles: true}));
    return this.value === value;
}"""
_CHOOSE = """function (wanted) {
    const text = option => option.label.trim().replace(/\\s+/g, ' ').toLowerCase();
    const found = [...this.options].find(option => text(option) === wanted && !option.disabled);
    if (!found) return false;
    if (this.multiple) found.selected = !found.selected; else this.value = found.value, found.selected = true;
    for (const name of ['input', 'change']) this.dispatchEvent(new Event(name, {bubbles: true}));
    return true;
}"""


def program() -> str:
    """Chromium: `$TURNWISE_CHROMIUM`, else the first of `PROGRAMS` on the path; empty where there is none."""
    named = os.environ.get("TURNWISE_CHROMIUM")
    if named:
        return shutil.which(named) or ""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), "")


class _Chromium:
    """The browser of this process. It ends with its last page, and with the process however that ends.

    Playwright lives in a thread of its own: in the caller's it would forbid `asyncio.run` there.
    """

    _running: _Chromium | None = None

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
            raise EnvError(f"Chromium ({self.path}) did not start: {_first_line(error)}") from error

    def do(self, call: Callable[[], T]) -> T:
        """What `call` returns or raises in Playwright's thread."""
        if self._ended:
            raise EnvError("The browser has ended; reset() starts another.")
        return self._thread.submit(call).result()

    def connected(self) -> bool:
        return not self._ended and self.owner == os.getpid() and self.do(self.browser.is_connected)

    @classmethod
    def shared(cls) -> _Chromium:
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
        if _Chromium._running is self:
            _Chromium._running = None
        if self.owner == os.getpid() and not self._ended:
            for close in (self.browser.close, self.driver.stop):
                with suppress(self.error):
                    self.do(close)
            self._ended = True
            self._thread.shutdown()


class BrowserPage:
    """One page in a context of its own, cleaned before every episode: cookies, storage, history, other windows.

    `virtual_clock`: dates, timers and animations of the page stand still but for `TICK_MS` per action, so a slow
    policy meets what a fast one does and a replay what was there before. `keystrokes`: text comes key by key, as pages
    that listen to keys need it, else at once, which is faster. Raises `EnvError` when the browser fails;
    the next `open` then starts anew.
    """

    def __init__(self, virtual_clock: bool = False, keystrokes: bool = True) -> None:
        self._virtual, self._keystrokes = virtual_clock, keystrokes
        self._chromium: _Chromium | None = None
        self.page: Any = None
        self._context: Any = None
        self._cdp: Any = None

    def open(self, url: str) -> None:
        """Begin an episode at `url` with nothing left of the one before."""
        if self.page is None or self._chromium is None or not self._chromium.connected():
            self.close()
            self._start()
        else:
            self._guard(self._clean)
        self._guard(lambda: self.page.goto(url, wait_until="load"))

    def read(self) -> PageText:
        """What the page shows now."""
        styles = {"computedStyles": STYLES}

        def read() -> PageText:
            tree = self._cdp.send("Accessibility.getFullAXTree")
            return describe(tree, self._cdp.send("DOMSnapshot.captureSnapshot", styles))

        return self._guard(read)

    @property
    def url(self) -> str:
        """The page's address."""
        return self._guard(lambda: self.page.url)

    def evaluate(self, script: str, argument: Any = None) -> Any:
        """The value of a script in the page."""
        return self._guard(lambda: self.page.evaluate(script, argument))

    def act(self, action: str, shown: PageText) -> str:
        """Do what `action` says to what was `shown`. Returns why it could not be done; empty when it was done."""
        found = _ACTION.fullmatch(action)
        if found is None:
            return f"That is no action here. {USAGE}"
        verb, first, second = found[1].lower(), found[2].strip(), found[3]
        if verb == "press" and second is None:
            return self._guard(lambda: self._press(first))
        number = int(first) if first.isascii() and first.isdigit() and len(first) < 6 else 0
        if not 1 <= number <= len(shown.elements):
            return f"There is no element [{first[:20]}]. {USAGE}"
        if (second is None) != (verb in ("click", "hover")):
            return USAGE
        return self._guard(lambda: self._do(verb, shown.elements[number - 1], second or ""))

    def close(self) -> None:
        """Close the page; the browser ends with its last one."""
        chromium, self._chromium, self.page = self._chromium, None, None
        if chromium is not None and chromium.owner == os.getpid():
            with suppress(chromium.error, EnvError):
                chromium.do(self._context.close)
            chromium.leave()

    def _start(self) -> None:
        self._chromium = chromium = _Chromium.shared()
        chromium.users += 1

        def start() -> None:
            self._context = chromium.browser.new_context(
                viewport={"width": 800, "height": 600}, reduced_motion="reduce", locale="en-US", timezone_id="UTC",
                accept_downloads=False,
            )  # fmt: skip
            self._context.set_default_timeout(TIMEOUT_MS)
            self._context.add_init_script(_WATCH)
            if self._virtual:
                self._context.add_init_script(path=_CLOCK)
            self.page = self._context.new_page()
            self._cdp = self._context.new_cdp_session(self.page)
            self._cdp.send("DOM.enable")
            self._cdp.send("Accessibility.enable")

        self._guard(start)

    def _clean(self) -> None:
        for other in self._context.pages:
            if other is not self.page:
                other.close()
        origin = self.page.evaluate("origin")
        self.page.evaluate(_CLEAN)
        self._context.clear_cookies()
        self._context.clear_permissions()
        if origin not in ("null", "file://"):
            self._cdp.send("Storage.clearDataForOrigin", {"origin": origin, "storageTypes": "all"})
        self._cdp.send("Page.resetNavigationHistory")

    def _do(self, verb: str, element: Element, text: str) -> str:
        handle = self._cdp.send("DOM.resolveNode", {"backendNodeId": element.node})["object"]["objectId"]
        aim = self._call(handle, _AIM)
        if (aim["disabled"] and verb not in ("hover", "scroll")) or not aim["connected"]:
            return f"Element [{element.number}] is disabled or gone."
        if verb == "type" and (element.role not in FIELDS or aim["tag"] == "SELECT"):
            return f"Element [{element.number}] is a {element.role}, which takes no text."
        if verb == "select" and aim["tag"] != "SELECT":
            return f"Element [{element.number}] is a {element.role}, which has no options to select."
        doing = {"click": self._click, "hover": self._hover, "type": self._type, "select": self._select,
                 "press": self._press_on, "scroll": self._scroll}  # fmt: skip
        return doing[verb](handle, aim, text) or self._settle()

    def _click(self, handle: str, aim: dict[str, Any], text: str) -> str:
        if aim["tag"] == "SELECT":  # its list would open in a window that is not part of the page
            self._call(handle, "function () { this.focus() }")
        elif aim["hit"]:
            self.page.mouse.click(aim["x"], aim["y"])
        else:  # covered by something else, as buttons of some tasks are, or without a box
            self._call(handle, _CLICK)
        return ""

    def _hover(self, handle: str, aim: dict[str, Any], text: str) -> str:
        if aim["hit"]:
            self.page.mouse.move(aim["x"], aim["y"])
        else:
            self._call(handle, _HOVER)
        return ""

    def _scroll(self, handle: str, aim: dict[str, Any], text: str) -> str:
        """Scroll the element, or what it lies in, and wait until the page has been told."""
        done = self._call(handle, _SCROLL, text.strip().lower())
        return "" if done else f"Expected up, down, top or bottom, got {text[:80]!r}."

    def _type(self, handle: str, aim: dict[str, Any], text: str) -> str:
        if aim["type"] in ("date", "time", "month", "week", "datetime-local", "color", "range"):
            done = self._call(handle, _SET, text)
            return "" if done else f"{text[:80]!r} is no value for a field of type {aim['type']}."
        if aim["hit"]:
            self.page.mouse.click(aim["x"], aim["y"])
        self._call(handle, _FOCUS)
        if not text:
            self.page.keyboard.press("Delete")
        elif self._keystrokes:
            self.page.keyboard.type(text)
        else:
            self.page.keyboard.insert_text(text)
        return ""

    def _select(self, handle: str, aim: dict[str, Any], text: str) -> str:
        return (
            "" if self._call(handle, _CHOOSE, " ".join(text.lower().split())) else f"There is no option {text[:80]!r}."
        )

    def _press_on(self, handle: str, aim: dict[str, Any], text: str) -> str:
        self._call(handle, "function () { this.focus() }")
        return self._strike(text)

    def _press(self, key: str) -> str:
        return self._strike(key) or self._settle()

    def _strike(self, key: str) -> str:
        named = next((name for name in KEYS if name.lower() == key.lower()), key if len(key) == 1 else "")
        if not named:
            return f"There is no key {key[:20]!r}. Keys are single characters and {', '.join(KEYS)}."
        self.page.keyboard.press(named)
        return ""

    def _settle(self) -> str:
        """Wait until the page that the action leads to is here, or let the virtual clock run."""
        if self._virtual:
            self.page.evaluate("ms => window.advanceVirtualClock?.(ms)", TICK_MS)
        try:
            leaves = self.page.evaluate(_LEAVES if self._virtual else _SETTLE)
        except self._error as error:
            if "context was destroyed" not in str(error):
                raise
            leaves = True
        if leaves:
            self._await_next_page()
        return ""

    def _await_next_page(self) -> None:
        """Wait for the page after this one. Asked again and again: a page's own rules may forbid scripts that wait."""
        end = time.monotonic() + TIMEOUT_MS / 1000
        while time.monotonic() < end:
            try:
                if not self.page.evaluate(_LEAVES):
                    return
            except self._error as error:
                if "context was destroyed" not in str(error):
                    raise
            self.page.wait_for_timeout(2)
        raise EnvError(f"Expected another page within {TIMEOUT_MS / 1000:g} s, none came after {self.page.url}.")

    def _call(self, handle: str, function: str, *arguments: Any) -> Any:
        answer = self._cdp.send("Runtime.callFunctionOn", {
            "objectId": handle, "functionDeclaration": function, "returnByValue": True, "awaitPromise": True,
            "arguments": [{"value": value} for value in arguments],
        })  # fmt: skip
        if "exceptionDetails" in answer:
            raise EnvError(f"A page failed: {answer['exceptionDetails'].get('text', '')}")
        return answer["result"].get("value")

    @property
    def _error(self) -> type[Exception]:
        assert self._chromium is not None
        return self._chromium.error

    def _guard(self, call: Callable[[], T]) -> T:
        """What `call` returns; what Playwright raises becomes `EnvError`, and the page is not used again."""
        if self._chromium is None:
            raise EnvError("The browser failed earlier in this episode; reset() starts another.")
        failure = self._chromium.error
        try:
            return self._chromium.do(call)
        except failure as error:
            self.close()
            raise EnvError(f"The browser failed: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:500]
