"""Experts of pages of numbers: sums, tables, prices, grids, guesses."""

from __future__ import annotations

import re

from ...errors import EnvError
from .page import Expert, Page, click, fill, submit, write


def _line(page: Page, pattern: str) -> re.Match[str]:
    found = re.search(pattern, page.text, re.MULTILINE)
    if found is None:
        raise EnvError(f"Expected a line like {pattern!r}, got:\n{page.text}")
    return found


def read_table(page: Page) -> str:
    rows = dict(line.split(" | ", 1) for line in page.items if isinstance(line, str) and " | " in line)
    asked = re.findall(r"^(.+):$", page.text, re.MULTILINE) or re.findall(r"value of (.*) into", page.goal)
    return fill(page, [rows[label] for label in asked])


def arithmetic(page: Page) -> str:
    found = _line(page, r"^(-?\d+) ([-+*x]) (-?\d+) =$")
    left, right = int(found[1]), int(found[3])
    results = {"+": left + right, "-": left - right, "*": left * right, "x": left * right}
    return fill(page, [str(results[found[2]])])


def algebra(page: Page) -> str:
    """Solve `a + x = c`, `x - b = c` and their like."""
    left, sign, right, result = _line(page, r"^(-?\d+|x) ([-+]) (-?\d+|x) = (-?\d+)$").groups()
    if right == "x":
        solution = int(result) - int(left) if sign == "+" else int(left) - int(result)
    else:
        solution = int(result) - int(right) if sign == "+" else int(result) + int(right)
    return fill(page, [str(solution)])


def ticket(page: Page) -> str:
    """The cheapest, dearest, shortest or longest flight."""
    minutes = [60 * int(h) + int(m) for h, m in re.findall(r"^(\d+)h (\d+)m$", page.text, re.MULTILINE)]
    buttons = [button for button in page.roles("button") if "$" in button.name]
    prices = [int(button.name.rsplit("$", 1)[1]) for button in buttons]
    values = minutes if re.search("duration|shortest|longest", page.goal) else prices
    best = max if "most expensive" in page.goal or "longest" in page.goal else min
    return click(buttons[values.index(best(values))])


def grid(page: Page) -> str:
    """The point (x, y) of a grid of five by five."""
    x, y = (int(number) for number in re.findall(r"-?\d+", page.goal))
    return click(next(e for e in page.shown.elements if f" cx={75 + 30 * x} cy={75 - 30 * y} " in f"{e.look} "))


def guess(page: Page) -> str:
    """From the middle upwards or downwards, as the page says."""
    hint = re.search(r"^The number is (lower|higher) than (\d+)\.$", page.text, re.MULTILINE)
    number = str(int(hint[2]) + (1 if hint[1] == "higher" else -1) if hint else 5)
    field = page.find("spinbutton")
    return submit(page) if field.value == number else write(field, number)


def generate(page: Page) -> str:
    """Draw until the number is as it should be."""
    limit = int((re.findall(r"\d+", page.goal) or ["0"])[0])
    number = re.search(r"^\d+$", page.text, re.MULTILINE)
    drawn = int(number[0]) if number else None
    if drawn is None:
        return submit(page, "Generate")
    fits = {"less": drawn < limit, "greater": drawn > limit, "odd": drawn % 2 == 1, "even": drawn % 2 == 0}
    return submit(page, "Submit" if all(fits[word] for word in page.goal.split() if word in fits) else "Generate")


def odd_or_even(page: Page) -> str:
    done = len(page.clicked())
    numbers = re.findall(r"^-?\d+$", page.text, re.MULTILINE)
    if done == len(numbers):
        return submit(page)
    return click(page.named("Odd" if int(numbers[done]) % 2 else "Even", "button")[done])


def ascending(page: Page) -> str:
    """After the first click the numbers are hidden: remember which was where, from left to right."""
    numbers = page.named("1", "shape")
    if numbers:
        return click(numbers[0])
    places = {int(each.name): _across(each.look) for each in page.past[0][0].elements if each.role == "shape"}
    hidden = sorted(page.roles("shape"), key=lambda each: _across(each.look))
    left = sorted(sorted(places)[-len(hidden) :], key=lambda number: places[number])
    return click(hidden[left.index(min(left))])


def _across(look: str) -> float:
    return float(look.split(" x=")[1].split()[0])


def greatest(page: Page) -> str:
    card = max(page.roles("clickable"), key=lambda each: int(each.name))
    return submit(page) if card.name in [each.name for each in page.clicked()] else click(card)


EXPERTS: dict[str, Expert] = {
    "ascending-numbers": ascending,
    "buy-ticket": ticket,
    "find-greatest": greatest,
    "generate-number": generate,
    "grid-coordinate": grid,
    "guess-number": guess,
    "odd-or-even": odd_or_even,
    "read-table": read_table,
    "read-table-2": read_table,
    "simple-algebra": algebra,
    "simple-arithmetic": arithmetic,
}
