"""Experts of forms: texts, boxes, lists, dates, times, sliders, log-ins."""

from __future__ import annotations

import re
from collections import deque

from ...page_text import Element
from .clicks import COLOURS
from .page import Expert, Page, click, fill, press, submit, tick, write


def checkboxes(page: Page) -> str:
    listed = re.fullmatch(r"Select (.*) and click Submit\.", page.goal)
    return tick(page, listed[1].split(", ") if listed else [])


def radio(page: Page) -> str:
    option = page.find("radio", page.asked(r"^Select (.*) and click Submit\.$"))
    return submit(page) if "checked" in option.states else click(option)


def choose(page: Page) -> str:
    """Choose from a drop-down or a list, then submit."""
    found = re.fullmatch(r"Select (.*) from the (?:scroll )?list and click Submit\.", page.goal)
    wanted = found[1].split(", ") if found else []
    box = page.roles("combobox", "listbox")[0]
    chosen = box.value.split(", ") if box.role == "listbox" else [box.value]
    for name in wanted:
        if name not in chosen:
            return f"select[{box.number}][{name}]"
    return submit(page)


def quoted_texts(page: Page) -> str:
    return fill(page, page.quoted())


def cased_text(page: Page) -> str:
    word = page.quoted()[0]
    return fill(page, [word.upper() if "upper case" in page.goal else word.lower()])


def password_twice(page: Page) -> str:
    return fill(page, page.quoted() * 2, hidden=(0, 1))


def login(page: Page) -> str:
    return fill(page, page.quoted(), "Login", hidden=(1,))


def login_with_popup(page: Page) -> str:
    """Send away what asks to leave the page, then go on."""
    cancel = page.named("Cancel", "button")
    return click(cancel[0]) if cancel else fill(page, page.quoted(), "OK", hidden=(1,))


def copied_line(page: Page) -> str:
    """Write the line of text that is there."""
    return fill(page, [next(each for each in page.items[1:] if isinstance(each, str))])


def nth_word(page: Page) -> str:
    text = next(each for each in page.items[1:] if isinstance(each, str))
    word = text.split()[int(page.asked(r"the (\d+)(?:st|nd|rd|th) word")) - 1]
    return fill(page, [re.sub("[^a-zA-Z]", "", word)])


def last_word(page: Page) -> str:
    area, field = page.roles("textbox")
    word = area.value.split()[-1].replace(".", "")
    return submit(page) if field.value == word else write(field, word)


def scrolled_text(page: Page) -> str:
    area = page.find("textbox")
    return submit(page) if page.past else f"scroll[{area.number}][{page.asked(r'to the (bottom|top) of')}]"


def agreement(page: Page) -> str:
    """Read to the end, sign, then press the button asked for."""
    if page.goal == "Click the cancel button.":
        return submit(page, "Cancel")
    area, field = page.roles("textbox")
    name, button = page.quoted()
    if "disabled" in field.states:
        return f"scroll[{area.number}][bottom]"
    return submit(page, button) if field.value == name else write(field, name)


def date(page: Page) -> str:
    month, day, year = re.findall(r"\d+", page.goal)
    field = page.roles("Date")[0]
    return submit(page) if field.value == f"{year}-{month}-{day}" else write(field, f"{year}-{month}-{day}")


def clock_time(page: Page) -> str:
    hour, minute = (int(page.asked(pattern)) for pattern in (r"(\d+):\d+ [AP]M", r"\d+:(\d+) [AP]M"))
    time = f"{hour % 12 + 12 * ('PM' in page.goal):02}:{minute:02}"
    field = page.roles("InputTime")[0]
    return submit(page) if field.value == time else write(field, time)


def picked_date(page: Page, field: Element, wanted: str) -> str | None:
    """Pick month/day/year in a calendar that opens below a field; None when the field has it."""
    month, day, year = wanted.split("/")
    if field.value == wanted:
        return None
    heading = re.search(r"^([A-Z][a-z]+) (20\d\d)$", page.text, re.MULTILINE)
    if heading is None:
        return click(field)
    names = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
             "November", "December"]  # fmt: skip
    ahead = 12 * (int(year) - int(heading[2])) + int(month) - 1 - names.index(heading[1])
    return click(page.find("link", str(int(day)) if not ahead else "Next" if ahead > 0 else "Prev"))


def calendar(page: Page) -> str:
    return picked_date(page, page.find("textbox"), page.asked(r"(\d+/\d+/\d+)")) or submit(page)


def focus(page: Page) -> str:
    number = re.search(r"(\d+)(?:st|nd|rd|th)", page.goal)
    return click(page.roles("textbox")[int(number[1]) - 1 if number else 0])


def spinner(page: Page) -> str:
    wanted, field = int(page.asked(r"(-?\d+)")), page.roles("spinbutton")[0]
    if int(field.value or 0) == wanted:
        return submit(page)
    return press(field, "ArrowUp" if int(field.value or 0) < wanted else "ArrowDown")


def copy_text(page: Page) -> str:
    """Write what an area holds into the empty field."""
    fields = page.roles("textbox")
    number = re.search(r"(\d+)(?:st|nd|rd|th)", page.goal)
    if len(fields) == 2:
        source, target = fields[::-1] if not fields[0].value or "focused" in fields[0].states else fields
    else:
        source, target = fields[int(number[1]) - 1 if number else 0], fields[-1]
    return submit(page) if target.value == source.value else write(target, source.value)


def _handles(page: Page) -> list[tuple[Element, int]]:
    """The handles of sliders and the values below them."""
    items = page.items
    return [(each, int(str(items[at + 1]))) for at, each in enumerate(items)
            if isinstance(each, Element) and ".ui-slider-handle" in each.look.split()]  # fmt: skip


def sliders(page: Page, wanted: list[int]) -> str | None:
    """Move the handles one after the other; None when all are where they should be.

    Every slider of a page has the range of the first, which End and Home show.
    """
    ends: dict[str, int] = {}
    handles = _handles(page)
    for (shown, action), after in zip(page.past, [*(each for each, _ in page.past[1:]), page.shown], strict=False):
        for key in ("End", "Home"):
            if action == press(_handles(Page(page.goal, shown))[0][0], key):
                ends[key] = _handles(Page(page.goal, after))[0][1]
    for (handle, value), goal in zip(handles, wanted, strict=True):
        if value != goal:
            for key in ("End", "Home"):
                if key not in ends:
                    return press(handles[0][0], key)
            return press(handle, _key(value, goal, ends["Home"], ends["End"]))
    return None


def _key(value: int, goal: int, low: int, high: int) -> str:
    """The first key of a shortest way to `goal`; a page is a fifth of the range."""
    page, whole = (high - low) // 5, high - low
    steps = {"ArrowUp": 1, "ArrowDown": -1, "PageUp": page, "PageDown": -page, "End": whole, "Home": -whole}
    reached, waiting = {value: ""}, deque([value])
    while goal not in reached:
        at = waiting.popleft()
        for key, step in steps.items():
            place = min(max(at + step, low), high)
            if place not in reached:
                reached[place] = reached[at] or key
                waiting.append(place)
    return reached[goal]


def slider(page: Page) -> str:
    return sliders(page, [int(page.asked(r"Select (-?\d+)"))]) or submit(page)


def three_sliders(page: Page) -> str:
    return sliders(page, [int(each) for each in re.findall(r"\d+", page.goal)]) or submit(page)


def slider_and_box(page: Page) -> str:
    box = page.roles("checkbox")[int(page.asked(r"the (\d)(?:st|nd|rd) checkbox")) - 1]
    moved = sliders(page, [int(page.asked(r"Select (-?\d+)"))])
    return moved or (submit(page) if "checked" in box.states else click(box))


def radio_and_number(page: Page) -> str:
    option = page.roles("radio")[int(page.asked(r"the (\d)(?:st|nd|rd) radio")) - 1]
    field = page.roles("textbox")[int(page.asked(r"the (\d)(?:st|nd|rd) textbox")) - 1]
    if "checked" not in option.states:
        return click(option)
    return submit(page) if field.value == page.quoted()[0] else write(field, page.quoted()[0])


def dropdown_and_button(page: Page) -> str:
    box, wanted = page.find("combobox"), page.asked(r"^Choose (.*) from the dropdown")
    return submit(page, page.quoted()[0]) if box.value == wanted else f"select[{box.number}][{wanted}]"


def autocomplete(page: Page) -> str:
    """Write the beginning, then click the suggestion that has the end."""
    first, last = (*page.quoted(), "")[:2]
    field = page.find("textbox")
    if any(each.role == "clickable" for each in page.clicked()):
        return submit(page)
    found = [e for e in page.roles("clickable") if e.name.startswith(first) and e.name.endswith(last)]
    return click(found[0]) if found else write(field, first)


def colour_code(page: Page) -> str:
    return fill(page, [COLOURS[page.asked(r"^Select (\w+)")]])


def search_form(page: Page) -> str:
    """Fields by their labels, in any order."""
    wanted = {"genre": page.asked(r"for (\w+) movies"), "director": page.asked(r"directed by (.+) from"),
              "year": page.asked(r"year (\d+)"), "date": page.asked(r"year (\d+)")}  # fmt: skip
    items = page.items[1:]
    step = -1 if isinstance(items[0], str) else 1  # labels stand above the fields, or below
    for at, item in enumerate(items):
        if isinstance(item, Element) and item.role == "textbox":
            label = item.name or str(items[at + step])
            text = next(each for word, each in wanted.items() if word in label.lower())
            if item.value != text:
                return write(item, text)
    return click(page.roles("button", "clickable")[-1])


EXPERTS: dict[str, Expert] = {
    "choose-date": calendar,
    "choose-date-easy": calendar,
    "choose-date-medium": calendar,
    "choose-date-nodelay": calendar,
    "choose-list": choose,
    "click-checkboxes": checkboxes,
    "click-checkboxes-large": checkboxes,
    "click-checkboxes-transfer": checkboxes,
    "click-option": radio,
    "click-scroll-list": choose,
    "copy-paste": copy_text,
    "copy-paste-2": copy_text,
    "enter-date": date,
    "enter-password": password_twice,
    "enter-text": quoted_texts,
    "enter-text-2": cased_text,
    "enter-text-dynamic": quoted_texts,
    "enter-time": clock_time,
    "find-word": nth_word,
    "focus-text": focus,
    "focus-text-2": focus,
    "form-sequence": slider_and_box,
    "form-sequence-2": radio_and_number,
    "form-sequence-3": dropdown_and_button,
    "login-user": login,
    "login-user-popup": login_with_popup,
    "multi-layouts": search_form,
    "multi-orderings": search_form,
    "scroll-text": last_word,
    "scroll-text-2": scrolled_text,
    "sign-agreement": agreement,
    "text-transform": copied_line,
    "use-autocomplete": autocomplete,
    "use-autocomplete-nodelay": autocomplete,
    "use-colorwheel": colour_code,
    "use-slider": slider,
    "use-slider-2": three_sliders,
    "use-spinner": spinner,
}
