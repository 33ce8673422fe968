"""Bugs in the browser and in MiniWoB++."""

from __future__ import annotations

from .record import Mutant

BROWSER, TREE, MINIWOB = "envs/browser.py", "envs/accessibility.py", "envs/miniwob/env.py"
NAMES = "envs/miniwob/names.py"
T_PAGE = ("test_browser.py::test_a_page_as_text",)
T_ACTION = ("test_browser.py::test_an_action_does_what_it_says",)
T_WHOLE = ("test_browser.py::test_a_page_that_is_not_whole_is_waited_for",)
T_WINS = ("test_miniwob.py::test_scripted_experts_win",)
T_LOSES = ("test_miniwob.py::test_answers_to_another_instruction_lose",)
T_SPLITS = ("test_miniwob.py::test_every_page_of_the_wheel_is_in_one_kind_of_split",)

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
        "State(OVER, float(raw == 1), raw == 1, raw != 1, (), not problem)",
        "State(OVER, float(raw >= -1), raw >= -1, raw < -1, (), not problem)",
        T_LOSES,
    ),
    Mutant(
        "names with an expert come anywhere",
        NAMES,
        "key=lambda name: (name not in EXPERTS, name)",
        "key=lambda name: name",
        T_SPLITS,
    ),
    Mutant(
        "a page that is not whole is read",
        BROWSER,
        "!!window.leavesThisPage || document.readyState !== 'complete'",
        "!!window.leavesThisPage",
        T_WHOLE,
    ),
)
