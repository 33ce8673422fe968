"""A page of a real browser for environments: actions on elements by number and on places, as a person does them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from . import page_scripts
from .accessibility import FIELDS, STYLES, describe
from .chromium import Chromium, first_line
from .errors import EnvError
from .page_text import Element, PageText

T = TypeVar("T")
KEYS = ("Enter", "Tab", "Escape", "Backspace", "Delete", "Space", "ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight",
        "Home", "End", "PageUp", "PageDown", "Control+A", "Control+C", "Control+V", "Control+X", "Shift+ArrowLeft",
        "Shift+ArrowRight", "Control+ArrowLeft", "Control+ArrowRight", "Control+Shift+ArrowLeft",
        "Control+Shift+ArrowRight")  # fmt: skip
USAGE = (
    "Write click[3], hover[3], drag[3][4], type[3][words], select[3][option], press[Enter], press[3][Enter] or "
    "scroll[3][down], where 3 and 4 are numbers of elements. Places x,y do for click, hover and drag: drag[3][80,95]."
)
WIDTH, HEIGHT = 800, 600
"""Of the window, in pixels."""
TICK_MS = 500
"""What an action takes on a virtual clock."""
MAX_STOPS = 64
MOVES = 4
"""Mouse events from one stop of a drag to the next."""
TIMEOUT_MS = 15_000

_CLOCK = Path(__file__).with_name("virtual_clock.js")
_ACTION = re.compile(r"(click|hover|drag|type|select|press|scroll)\s*\[([^\]]*)\](?:\s*\[(.*)\])?", re.IGNORECASE)
_PLACE = re.compile(r"(\d{1,4}(?:\.\d{1,3})?)\s*,\s*(\d{1,4}(?:\.\d{1,3})?)", re.ASCII)


class BrowserPage:
    """One page in a context of its own, cleaned before every episode: cookies, storage, history, other windows.

    `virtual_clock`: dates, timers and animations of the page stand still but for half a second per action, so a slow
    policy meets what a fast one does and a replay what was there before. `keystrokes`: text comes key by key, as pages
    that listen to keys need it, else at once, which is faster. Raises `EnvError` when the browser fails;
    the next `open` then starts anew.
    """

    def __init__(self, virtual_clock: bool = False, keystrokes: bool = True) -> None:
        self._virtual, self._keystrokes = virtual_clock, keystrokes
        self._tick_ms, self._mouse = TICK_MS, (0.0, 0.0)
        self._chromium: Chromium | None = None
        self.page: Any = None
        self._context: Any = None
        self._cdp: Any = None

    def open(self, url: str, tick_ms: int = TICK_MS) -> None:
        """Begin an episode at `url` with nothing left of the one before.

        tick_ms: an action's time on a virtual clock.
        """
        self._tick_ms, self._mouse = tick_ms, (WIDTH - 1.0, HEIGHT - 1.0)
        if self.page is None or self._chromium is None or not self._chromium.connected():
            self.close()
            self._start()
        else:
            self._guard(self._clean)
        self._guard(lambda: self._point_at(*self._mouse))  # the mouse of the episode before stands somewhere
        self._guard(lambda: self.page.goto(url, wait_until="load"))
        if self._virtual:
            self.evaluate(page_scripts.FETCH_PICTURES)

    def read(self, places: bool = False) -> PageText:
        """What the page shows now. places: and where, and what is seen but has no words (`accessibility.describe`)."""
        styles = {"computedStyles": STYLES}

        def read() -> PageText:
            tree = self._cdp.send("Accessibility.getFullAXTree")
            return describe(tree, self._cdp.send("DOMSnapshot.captureSnapshot", styles), places)

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
        if verb == "drag" or (verb in ("click", "hover") and "," in first):
            return self._point(verb, [first, *re.split(r"\]\s*\[", second or "")][: MAX_STOPS + 1], shown)
        element = _element(first, shown)
        if element is None:
            return f"There is no element [{first[:20]}]. {USAGE}"
        if (second is None) != (verb in ("click", "hover")):
            return USAGE
        return self._guard(lambda: self._do(verb, element, second or ""))

    def close(self) -> None:
        """Close the page; the browser ends with its last one."""
        chromium, self._chromium, self.page = self._chromium, None, None
        if chromium is not None and chromium.owner == os.getpid():
            with suppress(chromium.error, EnvError):
                chromium.do(self._context.close)
            chromium.leave()

    def _start(self) -> None:
        self._chromium = chromium = Chromium.shared()
        chromium.users += 1

        def start() -> None:
            self._context = chromium.browser.new_context(
                viewport={"width": WIDTH, "height": HEIGHT}, reduced_motion="reduce", locale="en-US", timezone_id="UTC",
                accept_downloads=False,
            )  # fmt: skip
            self._context.set_default_timeout(TIMEOUT_MS)
            self._context.add_init_script(page_scripts.WATCH)
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
        self.page.evaluate(page_scripts.CLEAN)
        self._context.clear_cookies()
        self._context.clear_permissions()
        if origin not in ("null", "file://"):
            self._cdp.send("Storage.clearDataForOrigin", {"origin": origin, "storageTypes": "all"})
        self._cdp.send("Page.resetNavigationHistory")

    def _point(self, verb: str, texts: list[str], shown: PageText) -> str:
        """Click at a place, move the mouse there, or drag from one stop to the next, which are elements or places."""
        if (verb == "drag") != bool(texts[1]) or len(texts) > MAX_STOPS:
            return f"drag takes two to {MAX_STOPS} stops, click and hover one. {USAGE}"
        stops: list[Element | tuple[float, float]] = []
        for text in filter(None, texts):
            place, element = _PLACE.fullmatch(text.strip()), _element(text.strip(), shown)
            x, y = (float(place[1]), float(place[2])) if place else (0.0, 0.0)
            if not place and element is None:
                return f"There is no element [{text[:20]}]. {USAGE}"
            if x >= WIDTH or y >= HEIGHT:
                return f"[{text[:20]}] is outside of the window of {WIDTH}x{HEIGHT}."
            stops.append(element or (x, y))
        return self._guard(lambda: self._move(verb, stops))

    def _move(self, verb: str, stops: list[Element | tuple[float, float]]) -> str:
        for stop in stops:
            if isinstance(stop, Element) and not self._aim(stop)[1]["seen"]:
                return f"Element [{stop.number}] is gone or not seen."
        if verb != "drag":
            self._point_at(*self._place(stops[0]), click=verb == "click")
            return self._settle(self._tick_ms)
        part = self._tick_ms / (len(stops) + 1)
        for index, stop in enumerate(stops):
            self._point_at(*self._place(stop), steps=MOVES if index else 1)
            self._advance(part)
            if not index:
                self.page.mouse.down()
        self.page.mouse.up()
        return self._settle(part)

    def _place(self, stop: Element | tuple[float, float]) -> tuple[float, float]:
        """Where a stop is now: an element is scrolled to, which may move others."""
        if not isinstance(stop, Element):
            return stop
        aim = self._aim(stop)[1]
        return aim["x"], aim["y"]

    def _point_at(self, x: float, y: float, steps: int = 1, click: bool = False) -> None:
        self._mouse = x, y
        if click:
            self.page.mouse.click(x, y)
        else:
            self.page.mouse.move(x, y, steps=steps)

    def _aim(self, element: Element) -> tuple[str, dict[str, Any]]:
        """A handle to an element, and where it is and what it is like."""
        handle = self._cdp.send("DOM.resolveNode", {"backendNodeId": element.node})["object"]["objectId"]
        return handle, self._call(handle, page_scripts.AIM)

    def _do(self, verb: str, element: Element, text: str) -> str:
        handle, aim = self._aim(element)
        if (aim["disabled"] and verb not in ("hover", "scroll")) or not aim["connected"]:
            return f"Element [{element.number}] is disabled or gone."
        if verb == "type" and (element.role not in FIELDS or aim["tag"] == "SELECT"):
            return f"Element [{element.number}] is a {element.role}, which takes no text."
        if verb == "select" and aim["tag"] != "SELECT":
            return f"Element [{element.number}] is a {element.role}, which has no options to select."
        doing = {"click": self._click, "hover": self._hover, "type": self._type, "select": self._select,
                 "press": self._press_on, "scroll": self._scroll}  # fmt: skip
        return doing[verb](handle, aim, text) or self._settle(self._tick_ms)

    def _click(self, handle: str, aim: dict[str, Any], text: str) -> str:
        if aim["tag"] == "SELECT":  # its list would open in a window that is not part of the page
            self._call(handle, "function () { this.focus() }")
        elif aim["hit"]:
            self._point_at(aim["x"], aim["y"], click=True)
        else:  # covered by something else, as buttons of some tasks are, or without a box
            self._call(handle, page_scripts.CLICK)
        return ""

    def _hover(self, handle: str, aim: dict[str, Any], text: str) -> str:
        if aim["seen"]:
            self._point_at(aim["x"], aim["y"])
        if not aim["hit"]:
            self._call(handle, page_scripts.HOVER)
        return ""

    def _scroll(self, handle: str, aim: dict[str, Any], text: str) -> str:
        """Scroll the element, or what it lies in, and wait until the page has been told."""
        done = self._call(handle, page_scripts.SCROLL, text.strip().lower())
        return "" if done else f"Expected up, down, top or bottom, got {text[:80]!r}."

    def _type(self, handle: str, aim: dict[str, Any], text: str) -> str:
        if aim["type"] in ("date", "time", "month", "week", "datetime-local", "color", "range"):
            done = self._call(handle, page_scripts.SET, text)
            return "" if done else f"{text[:80]!r} is no value for a field of type {aim['type']}."
        if aim["hit"]:
            self._point_at(aim["x"], aim["y"], click=True)
        self._call(handle, page_scripts.FOCUS)
        if not text:
            self.page.keyboard.press("Delete")
        elif self._keystrokes:
            self.page.keyboard.type(text)
        else:
            self.page.keyboard.insert_text(text)
        return ""

    def _select(self, handle: str, aim: dict[str, Any], text: str) -> str:
        done = self._call(handle, page_scripts.CHOOSE, " ".join(text.lower().split()))
        return "" if done else f"There is no option {text[:80]!r}."

    def _press_on(self, handle: str, aim: dict[str, Any], text: str) -> str:
        self._call(handle, "function () { this.focus() }")
        return self._strike(text)

    def _press(self, key: str) -> str:
        return self._strike(key) or self._settle(self._tick_ms)

    def _strike(self, key: str) -> str:
        named = next((name for name in KEYS if name.lower() == key.lower()), key if len(key) == 1 else "")
        if not named:
            return f"There is no key {key[:20]!r}. Keys are single characters and {', '.join(KEYS)}."
        self.page.keyboard.press(named)
        return ""

    def _advance(self, ms: float) -> None:
        """Let a virtual clock run, then tell what has moved below the mouse that it is there.

        Chromium tells that by itself some time later, by its own clock: too late for an episode that can be replayed.
        """
        if self._virtual and self.page.evaluate(page_scripts.ADVANCE, [ms, *self._mouse]):
            self._point_at(*self._mouse)

    def _settle(self, ms: float) -> str:
        """Let a virtual clock run, and wait until the page that the action leads to is here."""
        self._advance(ms)
        try:
            leaves = self.page.evaluate(page_scripts.SETTLE)
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
                if not self.page.evaluate(page_scripts.LEAVES):
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
            raise EnvError(f"The browser failed: {first_line(error)}") from error


def _element(number: str, shown: PageText) -> Element | None:
    """The element with a number; None where there is none."""
    at = int(number) if number.isascii() and number.isdigit() and len(number) < 6 else 0
    return shown.elements[at - 1] if 1 <= at <= len(shown.elements) else None
