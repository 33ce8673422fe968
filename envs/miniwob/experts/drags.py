"""Experts of pages that ask for a drag: boxes, shapes, lists, a cube, a corner, a selection."""

from __future__ import annotations

import re

from ...page_text import Box
from .clicks import words_of
from .page import Expert, Page, box_of, drag, submit

_WAYS = {"left": (-30, 0), "right": (30, 0), "up": (0, -30), "down": (0, 30)}
_GRID = {"top left": 0, "top center": 1, "top right": 2, "center left": 3, "center": 4, "center right": 5,
         "bottom left": 6, "bottom center": 7, "bottom right": 8}  # fmt: skip


def box_into_box(page: Page) -> str:
    if page.past:
        return submit(page)
    (small,), (large,) = page.named("s"), page.named("L")
    return f"drag[{small.number}][{large.number}]"


def one_way(page: Page) -> str:
    if page.past:
        return submit(page)
    (x, y), (across, down) = box_of(page.find("shape")).centre, _WAYS[page.asked(r"^Drag the \w+ (\w+) then")]
    return drag((x, y), (x + across, y + down))


def shapes_into_boxes(page: Page) -> str:
    """Those that the instruction names into the first box, the others into the second or nowhere."""
    kind = page.asked(r"^Drag all (\w+)").removesuffix("s")
    targets = [box_of(each) for each in page.roles("shape") if " fill=none " in each.look]
    for shape in page.roles("shape"):
        words = words_of(shape) if " fill=none " not in shape.look else set[str]()
        wanted = [target for target, is_here in zip(targets, (True, False), strict=False) if (kind in words) == is_here]
        if words and wanted and not _within(box_of(shape).centre, wanted[0]):
            return drag(box_of(shape).centre, wanted[0].centre)
    return submit(page)


def _within(point: tuple[float, float], box: Box) -> bool:
    x, y = point
    return box.left < x < box.left + box.width and box.top < y < box.top + box.height


def _lines(page: Page) -> list[tuple[str, Box]]:
    """The lines of text below the instruction, and where they are."""
    found = re.findall(r"^(?!\[)(.*) at (-?\d+),(-?\d+) size (\d+)x(\d+)$", page.text, re.MULTILINE)
    boxes = [(text, *(float(number) for number in rest)) for text, *rest in found if text != page.goal]
    return [(text, Box(x - width / 2, y - height / 2, width, height)) for text, x, y, width, height in boxes]


def _onto(line: Box, other: Box, half: int) -> str:
    """Drag a line across, then up or down onto another, into the half that lies further away: they change places.

    half: pixels from the beginning of a line to the further half of what it stands in.
    """
    (x, y), (to_x, to_y) = ((each.left + 5, each.centre[1]) for each in (line, other))
    across, down = to_x - x, to_y - y
    to_x = x if abs(across) < 6 else to_x + (half if across > 0 else -3)
    to_y = y if abs(down) < 6 else to_y + (half if down > 0 else -3)
    return drag((x, y), (to_x, y), (to_x, to_y))


def item_to_place(page: Page) -> str:
    lines = _lines(page)
    name, where = page.asked(r"^Drag (\S+) "), page.asked(r"^Drag \S+ (.*)\.$")
    at = [text for text, _ in lines].index(name)
    number = re.search(r"(\d+)(?:st|nd|rd|th)", where)
    if len(lines) > 5:
        steps = {"up": -3, "down": 3, "left": -1, "right": 1}
        to = at + steps[where.split()[0]] if "by one" in where else _GRID[where.removeprefix("to the ")]
    elif number:
        to = int(number[1]) - 1
    else:
        to = {"up": at - 1, "down": at + 1}.get(where.split()[0], 0 if "top" in where else len(lines) - 1)
    return _onto(lines[at][1], lines[to][1], 18 if len(lines) > 5 else 6)


def sorted_numbers(page: Page) -> str:
    """Bring the lowest number to the top, the next below it, and so on."""
    lines = _lines(page)
    numbers = [int(text) for text, _ in lines]
    for to, number in enumerate(sorted(numbers)):
        if numbers[to] != number:
            return _onto(lines[numbers.index(number, to)][1], lines[to][1], 6)
    return submit(page)


def corner(page: Page) -> str:
    """Pull the corner of a field."""
    if page.past:
        return submit(page)
    x, y = box_of(page.looking("ui-resizable-se")[0]).centre
    step = 20 if "is larger" in page.goal else -20
    return drag((x, y), (x + step, y) if "the width" in page.goal else (x, y + step))


def selected_text(page: Page) -> str:
    """Drag from the beginning of a paragraph to its end."""
    if page.past:
        return submit(page)
    number = re.search(r"the (\d)(?:st|nd|rd) paragraph", page.goal)
    _, box = _lines(page)[int(number[1]) - 1 if number else 0]
    return drag((box.left, box.top + 5), (box.left + box.width + 5, box.top + box.height - 5))


_TILTS, _TURNS = {"6": 88, "1": 264}, {"2": 0, "5": 86, "4": 177, "3": 269}
"""Degrees at which a side faces the user; the sides of the second stand upright at a tilt of 0."""


def cube(page: Page) -> str:
    """Tilt, then turn; twelve degrees are about ten pixels."""
    side = page.quoted()[0]
    turn, tilt, faces = page.peek(_CUBE)
    if faces == side:
        return submit(page)
    down = (tilt - _TILTS.get(side, 0) + 180) % 360 - 180
    right = (_TURNS.get(side, turn) - turn + 180) % 360 - 180
    step = max(-60, min(60, (down if abs(down) > 20 else right) / 1.2))
    x, y = 80, 116
    return drag((x, y), (x, y + step) if abs(down) > 20 else (x + step, y))


_CUBE = """() => [cube.viewport.positionX, cube.viewport.positionY,
    document.querySelector('.active').textContent.trim()]"""


EXPERTS: dict[str, Expert] = {
    "drag-box": box_into_box,
    "drag-circle": one_way,
    "drag-cube": cube,
    "drag-items": item_to_place,
    "drag-items-grid": item_to_place,
    "drag-shapes": shapes_into_boxes,
    "drag-shapes-2": shapes_into_boxes,
    "drag-single-shape": one_way,
    "drag-sort-numbers": sorted_numbers,
    "highlight-text": selected_text,
    "highlight-text-2": selected_text,
    "resize-textarea": corner,
}
