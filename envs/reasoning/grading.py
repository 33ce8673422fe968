"""Graders of reasoning-gym made safe and strict: what an answer may look like before the library's own code sees it."""

from __future__ import annotations

import contextlib
import io
import re
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import Any

ROW = "|"
"""Stands for a new line in answers of several rows."""

FORMS: dict[str, re.Pattern[str]] = {
    name: re.compile(form)
    for name, form in {
        # graders that call `eval` on the answer: only brackets, signs and what the answer is made of
        "binary_matrix": r"[-\d\s,\[\]]*",
        "n_queens": r"[_Q\s,'\[\]]*",
        "spiral_matrix": r"[-\d\s,\[\]]*",
        "string_insertion": r"[A-E\s,'\[\]]*",
        # graders that hand it to sympy: sums, products and quotients of whole numbers, no powers
        "countdown": r"(?:[\d\s+\-/()]|(?<!\*)\*(?!\s*\*))*",
        "puzzle24": r"(?:[\d\s+\-/()]|(?<!\*)\*(?!\s*\*))*",
        # graders that take "nan" for any number, and expand "1e999999999"
        "coin_flip": r"(?i:(?!e[-+]?\d{4})[-+\d\s./%e])*",
        "complex_arithmetic": r"[-+\d\s.ij()]*",
        # graders that repeat a move as often as it says
        "rubiks_cube": r"(?:\D|(?<!\d)\d(?!\d))*",
        "rush_hour": r"(?:\D|(?<!\d)\d(?!\d))*",
    }.items()
}
"""Generator -> what an answer has to match as a whole; others are worth 0."""


def read_rows(answer: str, rows: bool) -> str:
    """The answer with new lines for `|`, where it has several rows and is written on one line."""
    if not rows or "\n" in answer:
        return answer
    return "\n".join(row.strip() for row in answer.split(ROW))


def write_rows(answer: str) -> str:
    """The answer on one line, single spaces."""
    return f" {ROW} ".join(" ".join(row.split()) for row in answer.split("\n"))


def grade(dataset: Any, name: str, entry: dict[str, Any], answer: str) -> float:
    """The library's score of an answer, from 0 to 1; 0 where the form is wrong or the library's grader breaks."""
    form = FORMS.get(name)
    if form is not None and not form.fullmatch(answer):
        return 0.0
    if name in STRICTER and not STRICTER[name](answer, entry):
        return 0.0
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            score = float(dataset.score_answer(answer, entry))
    except Exception:  # graders meet answers that their authors did not think of: none of them is right
        return 0.0
    return min(max(score, 0.0), 1.0)


def _makes_24(answer: str, entry: dict[str, Any]) -> bool:
    """Whether the answer uses the given numbers; the library takes any four numbers, and 24.9 for 24."""
    used = Counter(each.lstrip("0") for each in re.findall(r"\d+", answer))
    if used != Counter(map(str, entry["metadata"]["numbers"])):
        return False
    exact = re.sub(r"\d+", lambda match: f"Fraction({match[0]})", answer)
    try:
        return eval(exact, {"__builtins__": {}, "Fraction": Fraction}) == 24  # FORMS lets digits and signs through
    except (ArithmeticError, SyntaxError, TypeError, ValueError):
        return False


def _is_the_gold(answer: str, entry: dict[str, Any]) -> bool:
    """Whether the answer is the gold one; the library takes any text, "False" included, for "True" and for "False"."""
    return answer.strip().lower() == entry["answer"].lower()


STRICTER: dict[str, Callable[[str, dict[str, Any]], bool]] = {
    "game_of_life_halting": _is_the_gold,
    "puzzle24": _makes_24,
}
"""Generator -> what has to hold besides a score of the library, which pays wrong answers too."""
