"""Scripted experts: the next action of a MiniWoB++ task from its instruction and what the page shows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from ..accessibility import Element, PageText
from ..errors import EnvError

Expert = Callable[[str, PageText], str]


def _click(element: Element) -> str:
    return f"click[{element.number}]"


def _quoted(goal: str) -> list[str]:
    return re.findall(r'"([^"]*)"', goal)


def _roles(shown: PageText, *roles: str) -> list[Element]:
    return [element for element in shown.elements if element.role in roles]


def _fill(shown: PageText, texts: Iterable[str], then: str = "Submit", roles: tuple[str, ...] = ("textbox",)) -> str:
    """Write the texts into the fields one after the other, then click a button."""
    for field, text in zip(_roles(shown, *roles), texts, strict=False):
        if field.value != text:
            return f"type[{field.number}][{text}]"
    return _click(shown.find("button", then))


def only_button(goal: str, shown: PageText) -> str:
    return _click(shown.find("button"))


def named_button(goal: str, shown: PageText) -> str:
    """Click the button that the instruction quotes, or writes in capitals."""
    name = (_quoted(goal) or re.findall(r"button (\w+)", goal))[-1]
    return _click(shown.find("button", name))


def buttons_in_turn(goal: str, shown: PageText) -> str:
    pressed = any("focused" in element.states and element.name == "ONE" for element in shown.elements)
    return _click(shown.find("button", "TWO" if pressed else "ONE"))


def checkboxes(goal: str, shown: PageText) -> str:
    listed = re.fullmatch(r"Select (.*) and click Submit\.", goal)
    wanted = listed[1].split(", ") if listed else []
    for box in _roles(shown, "checkbox"):
        if (box.name in wanted) != ("checked" in box.states):
            return _click(box)
    return _click(shown.find("button", "Submit"))


def radio(goal: str, shown: PageText) -> str:
    option = shown.find("radio", goal.removeprefix("Select ").removesuffix(" and click Submit."))
    return _click(shown.find("button", "Submit") if "checked" in option.states else option)


def close_dialog(goal: str, shown: PageText) -> str:
    return _click(shown.find("button", "Close"))


def dialog_button(goal: str, shown: PageText) -> str:
    name = _quoted(goal)[0]
    return _click(shown.find("button", "Close" if name == "x" else name))


def link(goal: str, shown: PageText) -> str:
    return _click(shown.find("clickable", _quoted(goal)[0]))


def tab(goal: str, shown: PageText) -> str:
    return _click(shown.find("link", goal.removeprefix("Click on ").removesuffix(".")))


def link_in_tabs(goal: str, shown: PageText) -> str:
    """Look into one tab after the other."""
    wanted = _quoted(goal)[0]
    for element in _roles(shown, "clickable"):
        if element.name == wanted:
            return _click(element)
    tabs = _roles(shown, "tab")
    open_one = next(index for index, each in enumerate(tabs) if "selected" in each.states)
    return _click(shown.find("link", tabs[(open_one + 1) % len(tabs)].name))


def choose(goal: str, shown: PageText) -> str:
    """Choose from a drop-down or a list, then submit."""
    found = re.fullmatch(r"Select (.*) from the (?:scroll )?list and click Submit\.", goal)
    wanted = found[1].split(", ") if found else []
    box = _roles(shown, "combobox", "listbox")[0]
    chosen = box.value.split(", ") if box.role == "listbox" else [box.value]
    for name in wanted:
        if name not in chosen:
            return f"select[{box.number}][{name}]"
    return _click(shown.find("button", "Submit"))


def quoted_texts(goal: str, shown: PageText) -> str:
    return _fill(shown, _quoted(goal))


def cased_text(goal: str, shown: PageText) -> str:
    word = _quoted(goal)[0]
    return _fill(shown, [word.upper() if "upper case" in goal else word.lower()])


def password_twice(goal: str, shown: PageText) -> str:
    return _secret(shown, [_quoted(goal)[0]] * 2, "Submit", hidden=(0, 1))


def login(goal: str, shown: PageText) -> str:
    return _secret(shown, _quoted(goal), "Login", hidden=(1,))


def _secret(shown: PageText, texts: list[str], then: str, hidden: tuple[int, ...]) -> str:
    """As `_fill`, where a field shows a bullet for each character."""
    fields = _roles(shown, "textbox")
    for index, (field, text) in enumerate(zip(fields, texts, strict=False)):
        if field.value != ("•" * len(text) if index in hidden else text):
            return f"type[{field.number}][{text}]"
    return _click(shown.find("button", then))


def date(goal: str, shown: PageText) -> str:
    month, day, year = re.findall(r"\d+", goal)
    field = _roles(shown, "Date")[0]
    if field.value == f"{year}-{month}-{day}":
        return _click(shown.find("button", "Submit"))
    return f"type[{field.number}][{year}-{month}-{day}]"


def clock_time(goal: str, shown: PageText) -> str:
    found = re.search(r"(\d+):(\d+) ([AP])M", goal)
    if found is None:
        raise EnvError(f"Expected a time in {goal!r}.")
    hour = int(found[1]) % 12 + 12 * (found[3] == "P")
    field = _roles(shown, "InputTime")[0]
    if field.value == f"{hour:02}:{found[2]}":
        return _click(shown.find("button", "Submit"))
    return f"type[{field.number}][{hour:02}:{found[2]}]"


def focus(goal: str, shown: PageText) -> str:
    number = re.search(r"(\d+)(?:st|nd|rd|th)", goal)
    return _click(_roles(shown, "textbox")[int(number[1]) - 1 if number else 0])


def read_table(goal: str, shown: PageText) -> str:
    rows = dict(line.split(" | ", 1) for line in shown.text.splitlines() if " | " in line and not line.startswith("["))
    asked = re.findall(r"^(.+):$", shown.text, re.MULTILINE) or re.findall(r"value of (.*) into", goal)
    return _fill(shown, [rows[label] for label in asked])


def arithmetic(goal: str, shown: PageText) -> str:
    found = re.search(r"^(-?\d+) ([-+*x]) (-?\d+) =$", shown.text, re.MULTILINE)
    if found is None:
        raise EnvError(f"Expected a sum, got:\n{shown.text}")
    left, right = int(found[1]), int(found[3])
    results = {"+": left + right, "-": left - right, "*": left * right, "x": left * right}
    return _fill(shown, [str(results[found[2]])])


def algebra(goal: str, shown: PageText) -> str:
    """Solve `a + x = c`, `x - b = c` and their like."""
    found = re.search(r"^(-?\d+|x) ([-+]) (-?\d+|x) = (-?\d+)$", shown.text, re.MULTILINE)
    if found is None:
        raise EnvError(f"Expected an equation, got:\n{shown.text}")
    left, sign, right, result = found.groups()
    if right == "x":
        solution = int(result) - int(left) if sign == "+" else int(left) - int(result)
    else:
        solution = int(result) - int(right) if sign == "+" else int(result) + int(right)
    return _fill(shown, [str(solution)])


def ticket(goal: str, shown: PageText) -> str:
    """The cheapest, dearest, shortest or longest flight."""
    minutes = [60 * int(h) + int(m) for h, m in re.findall(r"^(\d+)h (\d+)m$", shown.text, re.MULTILINE)]
    buttons = _roles(shown, "button")
    prices = [int(button.name.rsplit("$", 1)[1]) for button in buttons]
    values = minutes if "duration" in goal else prices
    best = max if "most expensive" in goal or "longest" in goal else min
    return _click(buttons[values.index(best(values))])


def grid(goal: str, shown: PageText) -> str:
    """The point (x, y) of a grid of five by five."""
    x, y = (int(number) for number in re.findall(r"-?\d+", goal))
    return _click(next(e for e in shown.elements if f" cx={75 + 30 * x} cy={75 - 30 * y} " in f"{e.look} "))


def spinner(goal: str, shown: PageText) -> str:
    wanted, field = int(re.findall(r"-?\d+", goal)[0]), _roles(shown, "spinbutton")[0]
    if int(field.value or 0) == wanted:
        return _click(shown.find("button", "Submit"))
    return f"press[{field.number}][{'ArrowUp' if int(field.value or 0) < wanted else 'ArrowDown'}]"


def copy_text(goal: str, shown: PageText) -> str:
    """Write what an area holds into the empty field."""
    fields = _roles(shown, "textbox")
    number = re.search(r"(\d+)(?:st|nd|rd|th)", goal)
    if len(fields) == 2:
        source, target = fields[::-1] if not fields[0].value or "focused" in fields[0].states else fields
    else:
        source, target = fields[int(number[1]) - 1 if number else 0], fields[-1]
    if target.value != source.value:
        return f"type[{target.number}][{source.value}]"
    return _click(shown.find("button", "Submit"))


EXPERTS: dict[str, Expert] = {
    "buy-ticket": ticket,
    "choose-list": choose,
    "click-button": named_button,
    "click-button-sequence": buttons_in_turn,
    "click-checkboxes": checkboxes,
    "click-checkboxes-large": checkboxes,
    "click-checkboxes-transfer": checkboxes,
    "click-dialog": close_dialog,
    "click-dialog-2": dialog_button,
    "click-link": link,
    "click-option": radio,
    "click-scroll-list": choose,
    "click-tab": tab,
    "click-tab-2": link_in_tabs,
    "click-tab-2-hard": link_in_tabs,
    "click-test": only_button,
    "click-test-2": named_button,
    "click-test-transfer": named_button,
    "copy-paste": copy_text,
    "copy-paste-2": copy_text,
    "enter-date": date,
    "enter-password": password_twice,
    "enter-text": quoted_texts,
    "enter-text-2": cased_text,
    "enter-text-dynamic": quoted_texts,
    "enter-time": clock_time,
    "focus-text": focus,
    "focus-text-2": focus,
    "grid-coordinate": grid,
    "login-user": login,
    "read-table": read_table,
    "read-table-2": read_table,
    "simple-algebra": algebra,
    "simple-arithmetic": arithmetic,
    "unicode-test": named_button,
    "use-spinner": spinner,
}
"""Task name -> its expert; of every other task none is known."""
