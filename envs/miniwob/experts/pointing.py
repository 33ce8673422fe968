"""Experts of pages that ask for a place of the mouse: points, angles, what moves, what is hot, what is drawn."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np

from ...errors import EnvError
from .page import Expert, Page, box_of, click, drag, facts_of, place, submit

Point = tuple[float, float]
_DOWN = 50
"""Where these pages take their drawing to begin, below the upper edge of the window."""


def _circles(page: Page, colour: str = "") -> list[Point]:
    """Centres, within the drawing."""
    found = [facts_of(each) for each in page.roles("shape") if each.look.startswith("circle ")]
    return [(float(each["cx"]), float(each["cy"])) for each in found if colour in ("", each["fill"])]


def _best_point(page: Page, score: Callable[[Point], float]) -> str:
    """Click the pixel of the drawing with the best score, then submit."""
    if page.past:
        return submit(page)
    best = max(((x, y) for x in range(4, 150) for y in range(4, 126)), key=score)
    return f"click[{place((best[0], best[1] + _DOWN))}]"


def _angle(one: Point, corner: Point, other: Point) -> float:
    """Between the ways from a corner to two points, in degrees."""
    left, right, across = math.dist(one, corner), math.dist(other, corner), math.dist(one, other)
    if not left or not right:
        return 180.0
    cosine = (left**2 + right**2 - across**2) / (2 * left * right)
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))


def bisected_angle(page: Page) -> str:
    one, other = _circles(page, "black")[:2]
    corner = _circles(page, "blue")[0]
    return _best_point(page, lambda point: -max(_angle(one, corner, point), _angle(other, corner, point)))


def right_angle(page: Page) -> str:
    one, corner = _circles(page, "black")[0], _circles(page, "blue")[0]
    return _best_point(page, lambda point: -abs(90 - _angle(one, corner, point)))


def circle_centre(page: Page) -> str:
    return _best_point(page, lambda point: -math.dist(point, _circles(page)[0]))


def midpoint(page: Page) -> str:
    (a, b), (c, d) = _circles(page, "black")
    return _best_point(page, lambda point: -math.dist(point, ((a + c) / 2, (b + d) / 2)))


def followed_circle(page: Page) -> str:
    """Half way to where it will be after this action, if it goes on as it did during the last."""
    x, y = box_of(page.find("shape")).centre
    before = next((each for each in page.past[-1][0].elements if each.role == "shape"), None) if page.past else None
    was_x, was_y = box_of(before).centre if before else (x, y)
    return f"hover[{place((x + (x - was_x) / 2, y + (y - was_y) / 2))}]"


def moving_circles(page: Page) -> str:
    """Click at the nearest place within the drawing: a circle counts from three pixels around it."""
    edge, circles = box_of(next(each for each in page.roles("box") if each.look.startswith("svg"))), page.roles("shape")
    if not circles:
        return "press[Tab]"
    x, y = box_of(circles[0]).centre
    nearest = (min(max(x, edge.left + 3), edge.left + edge.width - 3),
               min(max(y, edge.top + 3), edge.top + edge.height - 3))  # fmt: skip
    return f"click[{place(nearest)}]"


_HEAT = {"HOT": 5, "WARM": 10, "COLD": 40, "ICE COLD": 1000}
"""What the page says -> the distance below which it says so."""


def hot_place(page: Page) -> str:
    """Ask where the answer tells most: where the places that fit all answers so far would differ in theirs."""
    heard = _heard(page)
    if heard and heard[-1][1] == "HOT":
        return f"click[{place(heard[-1][0])}]"
    x, y = np.meshgrid(np.arange(5, 155), np.arange(5 + _DOWN, 120 + _DOWN))
    spots = np.stack([x.ravel(), y.ravel()], axis=1)
    limits = list(_HEAT.values())[:-1]
    for point, word in heard:
        far = np.digitize(np.hypot(*(spots - point).T), limits)
        spots = spots[far == list(_HEAT).index(word)]
    if not len(spots):
        raise EnvError(f"Expected a place that fits what the page said, got {heard}.")
    asked = spots[:: max(1, len(spots) // 300)]
    answers = np.digitize(np.hypot(*(spots[None] - asked[:, None]).transpose(2, 0, 1)), limits)
    left = sum((answers == each).sum(axis=1, dtype=float) ** 2 for each in range(len(_HEAT)))
    return f"hover[{place(tuple(asked[int(np.argmin(left))].tolist()))}]"


def _heard(page: Page) -> list[tuple[Point, str]]:
    """Where the mouse was, and what the page said."""
    found: list[tuple[Point, str]] = []
    after = [*(shown.text for shown, _ in page.past[1:]), page.text]
    for (_, action), text in zip(page.past, after, strict=False):
        at = re.fullmatch(r"hover\[(\d+),(\d+)\]", action)
        said = re.search(r'"(HOT|WARM|COLD|ICE COLD)" at ', text)
        if at and said:
            found.append(((float(at[1]), float(at[2])), said[1]))
    return found


def drawn_line(page: Page) -> str:
    """Through the dot, twenty-five pixels to either side."""
    if page.past:
        return submit(page)
    x, y = box_of(page.find("shape")).centre
    across, down = (25, 0) if "horizontal" in page.goal else (0, 25)
    return drag((x - across, y - down), (x, y), (x + across, y + down))


def drawn_circle(page: Page) -> str:
    if page.past:
        return submit(page)
    x, y = box_of(page.find("shape")).centre
    turns = [2 * math.pi * step / 24 for step in range(25)]
    return drag(*((x + 20 * math.cos(turn), y + 20 * math.sin(turn)) for turn in turns))


def sides(page: Page) -> str:
    """Of a regular polygon, by its area within the outer edge of a line three pixels wide around corners 35 away."""
    drawn = sum(page.peek(_ROWS))
    areas = {n: n * math.tan(math.pi / n) * (35 * math.cos(math.pi / n) + 1.5) ** 2 for n in range(3, 8)}
    return click(page.find("button", str(min(areas, key=lambda n: abs(areas[n] - drawn)))))


_ROWS = """() => {
    const canvas = document.querySelector('canvas'), {width, height} = canvas;
    const ink = canvas.getContext('2d').getImageData(0, 0, width, height).data;
    const across = y => [...Array(width).keys()].filter(x => ink[4 * (y * width + x) + 3] > 127);
    return [...Array(height).keys()].map(across).map(at => at.length ? at.at(-1) - at[0] + 1 : 0);
}"""
"""How many pixels each row of a picture has from the first inked one to the last."""


EXPERTS: dict[str, Expert] = {
    "bisect-angle": bisected_angle,
    "chase-circle": followed_circle,
    "circle-center": circle_centre,
    "count-sides": sides,
    "draw-circle": drawn_circle,
    "draw-line": drawn_line,
    "find-midpoint": midpoint,
    "hot-cold": hot_place,
    "moving-items": moving_circles,
    "right-angle": right_angle,
}
