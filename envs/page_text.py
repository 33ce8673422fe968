"""What a page shows, as text: its elements, their places, and the lines that tell of them."""

from __future__ import annotations

from typing import NamedTuple

from .errors import EnvError

MAX_NAME_CHARS, MAX_VALUE_CHARS = 300, 3000


class Box(NamedTuple):
    """A place in the window, in pixels from its upper left corner."""

    left: float
    top: float
    width: float
    height: float

    @property
    def centre(self) -> tuple[float, float]:
        return self.left + self.width / 2, self.top + self.height / 2

    def words(self) -> str:
        """`at 80,115 size 154x30`, where the place is that of the centre."""
        return "at {:.0f},{:.0f} size {:.0f}x{:.0f}".format(*self.centre, self.width, self.height)

    def around(self, other: Box) -> Box:
        """The smallest box around both."""
        left, top = min(self.left, other.left), min(self.top, other.top)
        right = max(self.left + self.width, other.left + other.width)
        return Box(left, top, right - left, max(self.top + self.height, other.top + other.height) - top)


class Element(NamedTuple):
    """Something on a page that can be acted upon."""

    number: int
    role: str
    """Chromium's role, `clickable` for others that listen to clicks or take focus, `shape` for parts of drawings, `box`
    for what is seen and has no words."""
    name: str
    value: str
    node: int
    """Chromium's id of the DOM node."""
    states: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    """What a drop-down offers."""
    look: str = ""
    """What tells it from others where it has no name: the shape of a drawing's part, a class, a colour."""
    box: Box | None = None
    """Where it is, if places are asked for."""

    def line(self) -> str:
        """`[3] button "Buy Now" (disabled)`"""
        parts = [f"[{self.number}]", self.look if self.role == "shape" else f"{self.role} {self.look}".strip()]
        parts += [quoted(self.name)] if self.name else []
        parts += [f"value={quoted(self.value, MAX_VALUE_CHARS)}"] if self.value else []
        parts += [f"({', '.join(self.states)})"] if self.states else []
        parts += ["options: " + " | ".join(quoted(option) for option in self.options)] if self.options else []
        parts += [self.box.words()] if self.box else []
        return " ".join(parts)


class PageText(NamedTuple):
    """What a page shows now."""

    text: str
    elements: tuple[Element, ...]

    def find(self, role: str, name: str | None = None) -> Element:
        """The first element of a role, and of a name where one is given; raises `EnvError` where there is none."""
        for element in self.elements:
            if element.role == role and name in (None, element.name):
                return element
        raise EnvError(f"Expected {role} {name or ''!r} on the page, got:\n{self.text}")


def quoted(text: str, limit: int = MAX_NAME_CHARS) -> str:
    """In double quotes, on one line, at most `limit` characters."""
    text = " ".join(text.split())
    return '"' + (text if len(text) <= limit else text[: limit - 1] + "…") + '"'
