"""Experts of pages to click on: buttons, links, dialogs, tabs, sections, menus, trees, colours and shapes."""

from __future__ import annotations

import re

from ...page_text import Element
from .page import Expert, Page, background, click, facts_of, submit

COLOURS = {
    "aqua": "00FFFF", "black": "000000", "blue": "0000FF", "cyan": "00FFFF", "gold": "FFD700", "gray": "808080",
    "green": "008000", "grey": "808080", "lime": "00FF00", "magenta": "FF00FF", "maroon": "800000", "navy": "000080",
    "olive": "808000", "orange": "FFA500", "pink": "FFC0CB", "purple": "800080", "red": "FF0000", "silver": "C0C0C0",
    "teal": "008080", "white": "FFFFFF", "yellow": "FFFF00",
}  # fmt: skip
"""Red, green and blue of the web's colours."""
_SHAPES = {"rect": "rectangle", "polygon": "triangle", "circle": "circle"}
_KINDS = ("rectangle", "circle", "triangle", "letter", "digit")


def only_button(page: Page) -> str:
    return click(page.find("button"))


def named_button(page: Page) -> str:
    """Click the button that the instruction quotes, or writes in capitals."""
    return submit(page, (page.quoted() or re.findall(r"button (\w+)", page.goal))[-1])


def buttons_in_turn(page: Page) -> str:
    return submit(page, "TWO" if page.clicked() else "ONE")


def buttons_with_a_pause(page: Page) -> str:
    """An action takes half a second; the second button is clicked at its beginning."""
    pause = 2 * int(page.asked(r"wait (\d+) second"))
    if page.past and len(page.past) < pause:
        return "press[Tab]"
    return buttons_in_turn(page)


def close_dialog(page: Page) -> str:
    return submit(page, "Close")


def dialog_button(page: Page) -> str:
    name = page.quoted()[0]
    return submit(page, "Close" if name == "x" else name)


def link(page: Page) -> str:
    return click(page.find("clickable", page.quoted()[0]))


def tab(page: Page) -> str:
    return click(page.find("link", page.asked(r"^Click on (.*)\.$")))


def link_in_tabs(page: Page) -> str:
    """Look into one tab or section after the other."""
    found = page.named(page.quoted()[0])
    if found:
        return click(found[0])
    tabs = page.roles("tab")
    open_one = next((index for index, each in enumerate(tabs) if "selected" in each.states), -1)
    following = tabs[(open_one + 1) % len(tabs)]
    links = page.named(following.name, "link")
    return click(links[0] if links else following)


def section(page: Page) -> str:
    closed = page.roles("tab")[0]
    return submit(page) if "expanded" in closed.states else click(closed)


def menu(page: Page) -> str:
    """Point at the menus on the way to an item, then click the item."""
    way = page.asked(r"^Select (.*)$").split(">")
    for name in reversed(way):
        for item in page.named(name, "menuitem"):
            return click(item) if name == way[-1] else f"hover[{item.number}]"
    return "press[Tab]"


def tree(page: Page) -> str:
    found = page.named(page.quoted()[0])
    return click(found[0] if found else page.looking("hitarea", "expandable-hitarea")[0])


def pie(page: Page) -> str:
    """Open the menu, whose middle then shows a minus, and click a slice, which is drawn two before its label."""
    *parts, middle = page.roles("shape")
    labels = [each.name for each in parts]
    return click(middle if middle.name == "+" else parts[labels.index(page.quoted()[0]) - 2])


def widget(page: Page) -> str:
    kind = page.quoted()[0]
    role = "textbox" if kind.startswith("text") else kind
    return click(next(e for e in page.roles(role) if ("multiline" in e.states) == (kind == "textarea")))


def colour(page: Page) -> str:
    wanted = COLOURS[page.asked(r"the (\w+) colored")]
    boxes = [each for each in page.looking("color") if "".join(f"{part:02X}" for part in background(each)) == wanted]
    return click(boxes[-1])  # the instruction may have a box too


def shades(page: Page) -> str:
    wanted = ("red", "green", "blue").index(page.asked(r"shades of (\w+)"))
    for box in page.roles("clickable"):
        mixed = background(box)
        if mixed.index(max(mixed)) == wanted and ".selected" not in box.look:
            return click(box)
    return submit(page)


def words_of(shape: Element) -> set[str]:
    """The words that may describe a shape."""
    kind, said = shape.look.split()[0], facts_of(shape)
    size = max(float(said.get(name, "0").removesuffix("px")) * times
               for name, times in (("font-size", 1), ("r", 2), ("width", 1)))  # fmt: skip
    if kind == "polygon":
        across = [float(point.split(",")[0]) for point in shape.look.split("points=")[1].split()]
        size = max(across) - min(across)
    letter = "digit" if shape.name.isdigit() else "letter"
    names = {shape.name, letter} if kind == "text" else {_SHAPES[kind], "shape"}
    return {"item", "large" if size > 15 else "small", said.get("fill", ""), *names}


def shape(page: Page) -> str:
    wanted = set(page.asked(r"^Click on an? (.*)$").split())
    return click(next(each for each in page.roles("shape") if wanted <= words_of(each)))


def count_shapes(page: Page) -> str:
    *words, last = page.asked(r"How many (.*)s are there").split()
    return submit(page, str(sum({*words, last} <= words_of(each) for each in page.roles("shape"))))


def kind_of_shape(page: Page) -> str:
    kind = next(word for word in _KINDS if word in words_of(page.find("shape")))
    return submit(page, "Number" if kind == "digit" else kind.capitalize())


EXPERTS: dict[str, Expert] = {
    "button-delay": buttons_with_a_pause,
    "click-button": named_button,
    "click-button-sequence": buttons_in_turn,
    "click-collapsible": section,
    "click-collapsible-2": link_in_tabs,
    "click-collapsible-2-nodelay": link_in_tabs,
    "click-collapsible-nodelay": section,
    "click-color": colour,
    "click-dialog": close_dialog,
    "click-dialog-2": dialog_button,
    "click-link": link,
    "click-menu": menu,
    "click-pie": pie,
    "click-pie-nodelay": pie,
    "click-shades": shades,
    "click-shape": shape,
    "click-tab": tab,
    "click-tab-2": link_in_tabs,
    "click-tab-2-easy": link_in_tabs,
    "click-tab-2-hard": link_in_tabs,
    "click-tab-2-medium": link_in_tabs,
    "click-test": only_button,
    "click-test-2": named_button,
    "click-test-transfer": named_button,
    "click-widget": widget,
    "count-shape": count_shapes,
    "identify-shape": kind_of_shape,
    "navigate-tree": tree,
    "unicode-test": named_button,
}
