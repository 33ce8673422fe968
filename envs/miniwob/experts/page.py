"""What an expert may know: the instruction, what the page shows, what it saw and did before, the page's variables."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable
from typing import Any, NamedTuple

from ...errors import EnvError
from ...page_text import Box, Element, PageText


def _blind(script: str) -> Any:
    raise EnvError(f"Expected a page to look into, got none for {script[:40]!r}.")


class Page(NamedTuple):
    """A task as its agent sees it."""

    goal: str
    shown: PageText
    past: tuple[tuple[PageText, str], ...] = ()
    """What was shown before each action of this episode, and the action."""
    peek: Callable[[str], Any] = _blind
    """The value of a script in the page. It reads what a text does not show: a picture, a word list, a page's dice."""

    @property
    def text(self) -> str:
        return self.shown.text

    @property
    def items(self) -> list[str | Element]:
        """The lines in turn, those of elements as elements."""
        found: list[str | Element] = []
        elements = list(self.shown.elements)
        for line in self.text.splitlines():
            found.append(elements.pop(0) if elements and line.startswith(f"[{elements[0].number}] ") else line)
        return found

    def quoted(self) -> list[str]:
        """What the instruction has in double quotes."""
        return re.findall(r'"([^"]*)"', self.goal)

    def asked(self, pattern: str) -> str:
        """The first group of a pattern in the instruction."""
        found = re.search(pattern, self.goal)
        if found is None:
            raise EnvError(f"Expected {pattern!r} in the instruction, got {self.goal!r}.")
        return found[1]

    def find(self, role: str, name: str | None = None) -> Element:
        return self.shown.find(role, name)

    def roles(self, *roles: str) -> list[Element]:
        return [element for element in self.shown.elements if element.role in roles]

    def named(self, name: str, role: str = "clickable") -> list[Element]:
        return [element for element in self.shown.elements if (element.role, element.name) == (role, name)]

    def looking(self, *classes: str) -> list[Element]:
        """The elements that have all of these classes."""
        return [e for e in self.shown.elements if {f".{name}" for name in classes} <= set(e.look.split())]

    def blocks(self, wanted: Callable[[str], bool]) -> list[list[Element]]:
        """For each line of text that is `wanted`: the elements between it and the next line of text after elements."""
        found: list[list[Element]] = []
        inside = False
        for each in self.items:
            if isinstance(each, Element):
                found[-1:] = [[*found[-1], each]] if inside else found[-1:]
            elif wanted(each):
                found.append([])
                inside = True
            elif inside and found[-1]:
                inside = False
        return found

    def after(self, wanted: Callable[[str], bool]) -> list[Element]:
        """The first of `blocks`; empty where there is none."""
        return next(iter(self.blocks(wanted)), [])

    def clicked(self) -> list[Element]:
        """What was clicked so far."""
        found: list[Element] = []
        for shown, action in self.past:
            number = re.fullmatch(r"click\[(\d+)\]", action)
            found += [shown.elements[int(number[1]) - 1]] if number else []
        return found


Expert = Callable[[Page], str]
"""The next action of an episode."""


def click(element: Element) -> str:
    return f"click[{element.number}]"


def write(element: Element, text: str) -> str:
    return f"type[{element.number}][{text}]"


def press(element: Element, key: str) -> str:
    return f"press[{element.number}][{key}]"


def tick(page: Page, wanted: Container[str]) -> str:
    """Make the boxes with the names that are wanted checked and no others, then submit."""
    for box in page.roles("checkbox"):
        if (box.name in wanted) != ("checked" in box.states):
            return click(box)
    return submit(page)


def facts_of(shape: Element) -> dict[str, str]:
    """What the look of a drawing's part says: `fill`, `cx` and their like, in single words."""
    return dict(fact.split("=", 1) for fact in shape.look.split() if "=" in fact)


def box_of(element: Element) -> Box:
    """Where an element is."""
    if element.box is None:
        raise EnvError(f"Expected an element with a place, got {element.line()}.")
    return element.box


def place(point: tuple[float, float]) -> str:
    """`80,95`, or `80.5,95`"""
    return ",".join(f"{round(each, 1):g}" for each in point)


def drag(*points: tuple[float, float]) -> str:
    """From point to point."""
    return "drag" + "".join(f"[{place(point)}]" for point in points)


def submit(page: Page, name: str = "Submit") -> str:
    return click(page.find("button", name))


def fill(page: Page, texts: Iterable[str], then: str = "Submit", hidden: tuple[int, ...] = ()) -> str:
    """Write the texts into the fields one after the other, then click a button; `hidden`: fields that show bullets."""
    for index, (field, text) in enumerate(zip(page.roles("textbox"), texts, strict=False)):
        if field.value != ("•" * len(text) if index in hidden else text):
            return write(field, text)
    return submit(page, then)


def background(element: Element) -> tuple[int, int, int]:
    """Red, green and blue of what lies behind an element."""
    found = re.search(r"background=rgb\((\d+),(\d+),(\d+)\)", element.look)
    if found is None:
        raise EnvError(f"Expected an element with a background, got {element.line()}.")
    red, green, blue = (int(each) for each in found.groups())
    return red, green, blue
