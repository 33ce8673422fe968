"""Experts of small applications: e-mail, social media, contacts, search, flights, food, a calendar, a terminal."""

from __future__ import annotations

import math
import re

from ...errors import EnvError
from ...page_text import Element, PageText
from .clicks import COLOURS
from .forms import picked_date
from .numbers import ticket
from .page import Expert, Page, background, click, press, submit, write

_SENDER = r"(?:\b(?:from|by) (?P<a>[A-Z][\w-]*))|(?:(?P<b>[A-Z][\w-]*) (?:sent|wants his or her))"


def email(page: Page) -> str:
    """Mark, delete, answer or forward somebody's e-mail."""
    name = page.asked(r"the email by (\S+) and")
    if "trash icon" in page.goal or "star icon" in page.goal:
        return click(_icon(page, name, "trash" if "trash icon" in page.goal else "star"))
    if "forward" in page.goal:
        return _send(page, name, "Forward", page.asked(r"to (\S+)\.$"))
    return _send(page, name, "Reply", page.quoted()[0])


def forwarded_email(page: Page) -> str:
    """Forward an e-mail from one of two people to the other, who are named in many ways."""
    found = re.search(_SENDER, page.goal)
    if found is None:
        raise EnvError(f"Expected a sender in {page.goal!r}.")
    sender = found["a"] or found["b"]
    people = (page.past[0][0] if page.past else page.shown).text.splitlines()
    others = [word for word in re.findall(r"[\w-]+", page.goal) if word in people and word != sender]
    return _send(page, sender, "Forward", (others or [sender])[0])


def named_email(page: Page) -> str:
    """As `email`; the page has who sent what to whom, which instructions written by many people may have swapped."""
    asked = page.peek("() => core.currentFields")
    if asked.get("task") in ("delete", "star"):
        return click(_icon(page, asked["by"], {"delete": "trash"}.get(asked["task"], "star")))
    if asked.get("task") == "reply":
        return _send(page, asked["by"], "Reply", asked["message"])
    return _send(page, asked["by"], "Forward", asked["to"])


def _icon(page: Page, name: str, icon: str) -> Element:
    return next(each for each in page.after(lambda line: line == name) if f".{icon}" in each.look.split())


def _send(page: Page, name: str, way: str, text: str) -> str:
    """Open an e-mail, then the answer or what is forwarded, write into its first field and send it."""
    sending = page.looking(f"send-{way.lower()}")
    if sending:
        field = page.roles("textbox")[0]
        return click(sending[0]) if field.value == text else write(field, text)
    opened = page.named(way)
    return click(opened[0] if opened else _above(page, name))


def _above(page: Page, text: str) -> Element:
    """The element that a line of text follows."""
    items = page.items
    found = items[items.index(text) - 1]
    if isinstance(found, str):
        raise EnvError(f"Expected an element above {text!r}, got {found!r}.")
    return found


def post_action(page: Page) -> str:
    """One of the icons below somebody's post, or an item of the menu behind the last."""
    user, action = page.asked(r"the user (\S+),"), page.quoted()[0]
    below = page.after(lambda line: line.endswith(f" {user}"))
    name = f"{action} {user}" if action in ("Mute", "Block") else action
    wanted = [each for each in below if each.name == name or each.look == f".{action.lower()}"]
    return click(wanted[0] if wanted else next(each for each in below if each.look == ".more"))


def posts(page: Page) -> str:
    """The same icon below all posts of somebody, or below some."""
    user, icon = page.asked(r"by (\S+) and then"), f".{page.quoted()[0].lower()}"
    number = re.search(r"on (\d+) posts? by", page.goal)
    below = page.blocks(lambda line: line.endswith(f" {user}"))
    icons = [each for block in below for each in block if icon in each.look.split()]
    for each in icons[: int(number[1]) if number else None]:
        if ".active" not in each.look:
            return click(each)
    return submit(page)


def contact(page: Page) -> str:
    """Turn the pages to somebody, then click what is asked for."""
    name, detail = page.asked(r"^Find (.*) in the contact"), page.asked(r"their (\w+)")
    if name not in page.items:
        return click(page.find("link", ">"))
    return click(page.roles("link")[("phone", "email", "address").index(detail)])


def search_result(page: Page) -> str:
    """Three results are on a page."""
    words, place = page.quoted()[0], int(page.asked(r"the (\d)(?:st|nd|rd|th) search result")) - 1
    field, wanted = page.find("textbox"), str(place // 3 + 1)
    if field.value != words:
        return write(field, words)
    if not page.clicked():
        return submit(page, "Search")
    shown = page.clicked()[-1].name
    if (shown if shown.isdigit() else "1") != wanted:
        return click(page.find("link", wanted))
    return click(page.roles("link")[place % 3])


def flight(page: Page) -> str:
    """Fill the form by its suggestions and calendar, then take the cheapest or the shortest flight."""
    if not page.named("Search", "button"):
        return ticket(page)
    fields = page.roles("textbox")
    for field, place in zip(fields, (page.asked(r"from: (.*) to: "), page.asked(r"to: (.*) on ")), strict=False):
        if not _is_airport(field.value, place):
            found = [each for each in page.roles("clickable") if _is_airport(each.name, place)]
            return click(found[0]) if found else write(field, place)
    return picked_date(page, fields[2], page.asked(r"on (\d+/\d+/\d+)")) or submit(page, "Search")


def _is_airport(name: str, place: str) -> bool:
    return name.startswith(f"{place} (") or name.endswith(f"({place})")


def food(page: Page) -> str:
    """One of each that is named, or some of a kind."""
    wanted = re.fullmatch(r"Order (\d+) items that are (.*)", page.goal)
    names = [] if wanted else page.asked(r"each item: (.*)$").split(", ")
    texts: list[str] = []
    for item in page.items:
        if isinstance(item, str):
            texts.append(item)
        elif item.name == "+":
            have = int(texts.pop()) if texts[-1].isdigit() else 0
            kinds, other = ([each for each in texts if each.startswith("image ") == image] for image in (True, False))
            need = int(wanted[1]) * (f'image "{wanted[2]}"' in kinds) if wanted else int(other[-1] in names)
            if have < need:
                return click(item)
            if wanted and need:
                break
            texts = []
    return submit(page, "Order!")


def event(page: Page) -> str:
    """Press at the first half hour of an event, go to its last, let go over what was drawn, name it.

    No single drag: what is drawn lies forty pixels above the half hours, and only there letting go counts.
    """
    if page.named("Create", "button"):
        field = page.find("textbox")
        return submit(page, "Create") if field.value == page.quoted()[0] else write(field, page.quoted()[0])
    amount, unit = float(page.asked(r"Create a ([\d.]+)")), page.asked(r"Create a [\d.]+ (min|hour)")
    halves = round(amount / 30 if unit == "min" else amount * 2)
    hour, half_day = int(page.asked(r"between (\d+)")), page.asked(r"between \d+([AP]M)")
    first = 2 * (hour % 12 + 12 * (half_day == "PM"))
    hours = page.looking("half-hour")
    steps = (click(hours[first]), f"hover[{hours[first + halves - 1].number}]")
    return steps[len(page.past)] if len(page.past) < len(steps) else click(page.find("clickable", "New event"))


def terminal(page: Page) -> str:
    """List the files, then remove one with the extension asked for."""
    field, lines = page.find("textbox"), page.text.splitlines()
    command = "ls"
    if "user$ ls" in lines:
        files = lines[lines.index("user$ ls") + 1].split()
        ending = re.search(r"extension (\.\S+)$", page.goal)
        fitting = [f for f in files if (f.endswith(ending[1]) if ending else "." not in f)]
        fitting.sort(key=lambda name: ending is not None and ending[1][1:] in name.removesuffix(ending[1]))
        command = f"rm {fitting[0]}"
    done = bool(page.past) and page.past[-1][1] == write(field, command)
    return press(field, "Enter") if done else write(field, command)


def editor(page: Page) -> str:
    """Select a word or everything by keys, then click a style or a colour, then submit."""
    first = page.past[0][0] if page.past else page.shown
    (area,) = page.looking("ql-editor")
    word = re.search(r"give the text (\S+) the", page.goal)
    keys = ["Control+A"] if word is None else _to_word(_longest(first), word[1])
    rest = page.past[len(keys) :]
    if len(page.past) < len(keys):
        return press(area, keys[len(page.past)])
    style = re.search(r"the style (\w+)", page.goal)
    if style:
        button = {"bold": "ql-bold", "italics": "ql-italic", "underlined": "ql-underline"}[style[1]]
        return submit(page) if rest else click(page.looking(button)[0])
    if len(rest) == 1:
        wanted = [int(COLOURS[page.asked(r"the color (\w+)")][at : at + 2], 16) for at in (0, 2, 4)]
        return click(min(page.looking("ql-primary"), key=lambda each: math.dist(background(each), wanted)))
    return submit(page) if rest else click(page.looking("ql-picker-label")[0])


def _longest(shown: PageText) -> str:
    return max((each.name for each in shown.elements if each.role == "clickable"), key=len)


def _to_word(text: str, word: str) -> list[str]:
    """Keys that select a word. Words and what is between them are single steps of the caret."""
    before = text.split()[: text.split().index(word)]
    steps, width = (len(re.findall(r"\w+|[^\w\s]+", part)) for part in (" ".join(before), word))
    return ["Home"] + ["Control+ArrowRight"] * steps + ["Control+Shift+ArrowRight"] * width


EXPERTS: dict[str, Expert] = {
    "book-flight": flight,
    "book-flight-nodelay": flight,
    "daily-calendar": event,
    "email-inbox": email,
    "email-inbox-delete": email,
    "email-inbox-forward": email,
    "email-inbox-forward-nl": forwarded_email,
    "email-inbox-forward-nl-turk": named_email,
    "email-inbox-important": email,
    "email-inbox-nl-turk": named_email,
    "email-inbox-noscroll": email,
    "email-inbox-reply": email,
    "email-inbox-star-reply": email,
    "order-food": food,
    "phone-book": contact,
    "search-engine": search_result,
    "social-media": post_action,
    "social-media-all": posts,
    "social-media-some": posts,
    "terminal": terminal,
    "text-editor": editor,
}
