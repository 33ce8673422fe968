"""Experts of pages that show pictures in place of words, or hide what decides: colours, icons, blinks, prices, dice."""

from __future__ import annotations

import re

from ...errors import EnvError
from .page import Expert, Page, background, click, fill, submit, tick


def picked_colour(page: Page) -> str:
    """Write the colour of the box in the instruction."""
    return fill(page, ["{:02X}{:02X}{:02X}".format(*background(page.looking("cc")[0]))])


def counted_blocks(page: Page) -> str:
    return fill(page, [str(len(page.looking("addition-block")))])


def pushed_buttons(page: Page) -> str:
    """Wait until every button has blinked, then push them in turn: five blinks take twelve actions."""
    seen = [shown for shown, _ in page.past[:13]]
    if len(seen) < 13:
        return "press[Tab]"
    blinks = [each.number for shown in seen for each in shown.elements if ".push" in each.look.split()]
    return f"click[{blinks[len(page.clicked())]}]"


def cheap_stock(page: Page) -> str:
    price = re.search(r"^Stock price: \$([\d.]+)$", page.text, re.MULTILINE)
    limit = float(page.asked(r"less than \$([\d.]+?)\.?$"))
    return submit(page, "Buy") if price and float(price[1]) <= limit else "press[Tab]"


def drawn_number(page: Page) -> str:
    """The picture beside the boxes is a file; the page has what it shows as rows of 0 and 1."""
    pattern = [cell for row in page.peek(f"() => PATTERNS[{int(page.quoted()[0])}]") for cell in row]
    for box, cell in zip(page.roles("checkbox"), pattern, strict=False):
        if ("checked" in box.states) != bool(cell):
            return click(box)
    return submit(page)


def similar_words(page: Page) -> str:
    """Words in one row of the page's list are alike."""
    wanted = page.asked(r"^Select words similar to (.*) and click Submit\.$").split(", ")
    alike = {word for row in page.peek("() => SYNONYMS") if set(row) & set(wanted) for word in row}
    return tick(page, alike)


def menu_item(page: Page) -> str:
    """Open the menu, and the one in it; the instruction has the item's name or its icon."""
    name = next((each for each in page.quoted() if each != "Menu"), "") or page.peek(_ICON)
    for item in (name, "Playback") if page.roles("menuitem") else ():
        for found in page.named(item, "menuitem"):
            return click(found) if item == name else f"hover[{found.number}]"
    return submit(page, "Menu")


_ICON = "() => Object.keys(PROBLEM_SET).find(name => document.querySelector(`#query .${PROBLEM_SET[name]}`))"


def tic_tac_toe(page: Page) -> str:
    """Try all games against the dice that the page will draw, and take the first move of one that is won."""
    move = page.peek(_GAME)
    found = page.looking(f"ttt-{move}")
    if not found:
        raise EnvError(f"Expected a free field {move}, got:\n{page.text}")
    return click(found[0])


_GAME = """() => {
    const saved = [gameState, Math.random];
    const open = board => [...board.keys()].filter(place => !board[place]);
    const wins = (board, mark) => { gameState = board; return checkWinner(mark) };
    const answer = board => {
        gameState = board;
        const free = open(board);
        const place = core.randi(0, 100) < RANDOM_CHANCE || free.length === 9 ? false : determineSpace(-1, 1);
        return place === undefined || place === false ? core.sample(free) : place;
    };
    const search = (board, dice) => {
        for (const move of open(board)) {
            const mine = board.with(move, 1);
            if (wins(mine, 1)) return move;
            if (!open(mine).length) continue;
            Math.random = new Math.seedrandom('', {state: dice, global: false});
            const both = mine.with(answer(mine), -1);
            if (wins(both, -1) || !open(both).length) continue;
            if (search(both, Math.random.state()) !== null) return move;
        }
        return null;
    };
    const move = search(gameState.slice(), Math.random.state());
    [gameState, Math.random] = saved;
    return move ?? open(gameState)[0];
}"""


EXPERTS: dict[str, Expert] = {
    "click-checkboxes-soft": similar_words,
    "click-menu-2": menu_item,
    "number-checkboxes": drawn_number,
    "simon-says": pushed_buttons,
    "stock-market": cheap_stock,
    "tic-tac-toe": tic_tac_toe,
    "use-colorwheel-2": picked_colour,
    "visual-addition": counted_blocks,
}
