"""Bugs in the browser and in MiniWoB++."""

from __future__ import annotations

from .record import Mutant

BROWSER, TREE, MINIWOB = "envs/browser.py", "envs/accessibility.py", "envs/miniwob/env.py"
NAMES, SCRIPTS, TEXT = "envs/miniwob/names.py", "envs/page_scripts.py", "envs/page_text.py"
T_PAGE = ("test_browser.py::test_a_page_as_text",)
T_ACTION = ("test_browser.py::test_an_action_does_what_it_says",)
T_WHOLE = ("test_browser.py::test_a_page_that_is_not_whole_is_waited_for",)
T_WINS = ("test_miniwob.py::test_scripted_experts_win",)
T_LOSES = ("test_miniwob.py::test_answers_to_another_instruction_lose",)
T_PLACES = ("test_browser.py::test_a_page_as_text_with_places",)
T_DRAG = ("test_browser.py::test_a_drag_takes_its_time_from_stop_to_stop",)
T_NEAR = ("test_miniwob.py::test_near_enough_wins_where_a_page_measures",)

MUTANTS = (
    Mutant(
        "what only takes the focus is not shown",
        TREE,
        "(dom.clickable or _focusable(node))",
        "dom.clickable",
        T_PAGE,
    ),
    Mutant(
        "disabled areas cannot be scrolled",
        BROWSER,
        'aim["disabled"] and verb not in ("hover", "scroll")',
        'aim["disabled"] and verb != "hover"',
        T_ACTION,
    ),
    Mutant(
        "the end of a task fails in the page, whose form is then sent",
        MINIWOB,
        "document.getElementById(id)?.style.setProperty('display', 'none', 'important');",
        "document.getElementById(id)?.remove();",
        T_WINS,
    ),
    Mutant(
        "experts remember only the page that is here now",
        MINIWOB,
        "tuple(self._past)",
        "tuple((self._shown, action) for _, action in self._past)",
        T_WINS,
    ),
    Mutant(
        "partial rewards are wins",
        MINIWOB,
        "names.NEAR if self._name in names.GRADED else 1",
        "names.NEAR if self._name in names.GRADED else -1",
        T_LOSES,
    ),
    Mutant(
        "a page that is not whole is read",
        SCRIPTS,
        "!!window.leavesThisPage || document.readyState !== 'complete'",
        "!!window.leavesThisPage",
        T_WHOLE,
    ),
    Mutant(
        "icons are fetched when the mouse is there",
        BROWSER,
        "        if self._virtual:\n            self.evaluate(page_scripts.FETCH_PICTURES)\n",
        "",
        ("test_browser.py::test_an_icon_that_changes_below_the_mouse_is_hit",),
    ),
    Mutant(
        "an empty attribute is the page's last word",
        TREE,
        '[*snapshot["strings"], ""]',
        '[*snapshot["strings"]]',
        T_PLACES,
    ),
    Mutant(
        "the background of a text is a box of its own",
        TREE,
        'nodes["nodeType"][dom.index] == 1 and self._is_seen(dom)',
        "self._is_seen(dom)",
        T_PLACES,
    ),
    Mutant(
        "a list has one name and one place",
        TREE,
        "whole = whole and len(blocks) < 2",
        "whole = whole and len(blocks) > 0",
        T_PLACES,
    ),
    Mutant(
        "places are corners",
        TEXT,
        "return self.left + self.width / 2, self.top + self.height / 2",
        "return self.left, self.top",
        T_PLACES,
    ),
    Mutant(
        "a drag takes no time before it ends",
        BROWSER,
        "            self._advance(part)\n            if not index:",
        "            if not index:",
        T_DRAG,
    ),
    Mutant(
        "a drag jumps",
        BROWSER,
        "steps=MOVES if index else 1",
        "steps=1",
        T_DRAG,
    ),
    Mutant(
        "a drag begins before the mouse is there",
        BROWSER,
        "            self._point_at(*self._place(stop), steps=MOVES if index else 1)\n            self._advance(part)\n"
        "            if not index:\n                self.page.mouse.down()",
        "            if not index:\n                self.page.mouse.down()\n"
        "            self._point_at(*self._place(stop), steps=MOVES if index else 1)\n            self._advance(part)",
        T_DRAG,
    ),
    Mutant(
        "what moves away below the mouse is told when Chromium gets to it",
        BROWSER,
        "if self._virtual and self.page.evaluate(page_scripts.ADVANCE, [ms, *self._mouse]):",
        "if self._virtual and self.page.evaluate(page_scripts.ADVANCE, [ms, *self._mouse]) is None:",
        ("test_miniwob.py::test_what_moves_away_below_the_mouse_is_told_in_the_same_action",),
    ),
    Mutant(
        "only a perfect point wins",
        NAMES,
        "NEAR = 0.9",
        "NEAR = 1",
        T_NEAR,
    ),
    Mutant(
        "any point wins",
        NAMES,
        "NEAR = 0.9",
        "NEAR = 0.1",
        T_NEAR,
    ),
    Mutant(
        "buttons blink faster than is seen",
        NAMES,
        '"simon-says": 250, "stock-market"',
        '"stock-market"',
        T_WINS,
    ),
    Mutant(
        "an expert throws the page's dice",
        "envs/miniwob/experts/pictures.py",
        "[gameState, Math.random] = saved;",
        "gameState = saved[0];",
        ("test_miniwob.py::test_dice_are_looked_at_without_being_thrown",),
    ),
)
