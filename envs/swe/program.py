"""Base programs: modules and templates of tests, read from `programs/*.txt`, and tests drawn from them."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from .playing import names, play, written

FOLDER = Path(__file__).with_name("programs")
SEEN = ("inventory", "library", "rooms", "search", "ledger", "graph")
"""Programs of the splits train and validation."""
UNSEEN = ("parser", "fourinarow", "payroll")
"""Programs of the split test."""
TESTS = "tests/test_repo.py"
_NUMBER = re.compile(r"<(\d+)\.\.(\d+)>")
_MAX_DRAWS = 50

Case = list[list[str]]
Came = list[list[Any]]


class Program(NamedTuple):
    """A program that is right."""

    name: str
    summary: str
    files: Mapping[str, str]
    head: tuple[str, ...]
    """Imports and functions that all tests share."""
    setup: tuple[str, ...]
    """Statements at the start of each test that uses what they make."""
    templates: tuple[tuple[str, tuple[str, ...]], ...]
    """Title and lines; `<2..9>` stands for a number that is drawn."""


class UnitTest(NamedTuple):
    """One test, and what comes out of it on the right program."""

    title: str
    case: Case
    came: Came


@cache
def program(name: str) -> Program:
    """The program called `name`."""
    summary, *parts = re.split(r"^=== ", (FOLDER / f"{name}.txt").read_text(), flags=re.MULTILINE)
    texts = dict(part.split("\n", 1) for part in parts)
    first, *tests = re.split(r"^--- ", texts.pop("tests"), flags=re.MULTILINE)
    lines = first.splitlines()
    shared = [line.startswith(("from ", "def ", " ")) for line in lines]
    templates = [(title, tuple(rest.splitlines())) for title, rest in (test.split("\n", 1) for test in tests)]
    return Program(
        name, summary.strip(), texts, tuple(line for line, is_shared in zip(lines, shared, strict=True) if is_shared),
        tuple(line for line, is_shared in zip(lines, shared, strict=True) if not is_shared), tuple(templates),
    )  # fmt: skip


def draw_tests(program: Program, rng: random.Random, count: int) -> list[UnitTest]:
    """Tests from all templates in turn, no two alike."""
    drawn, known = list[UnitTest](), set[str]()
    order = list(program.templates)
    rng.shuffle(order)
    tries = 0
    while len(drawn) < count and tries < _MAX_DRAWS * count:
        title, lines = order[tries % len(order)]
        tries += 1
        test = _draw(program, title, lines, rng)
        text = json.dumps(test.case)
        if text not in known and all(kind != "broken" for kind, _ in test.came):
            known.add(text)
            drawn.append(test)
    return drawn


def _draw(program: Program, title: str, lines: tuple[str, ...], rng: random.Random) -> UnitTest:
    body = "\n".join(lines)
    made = {line.split(" =")[0] for line in program.setup if " = " in line}
    setup = program.setup if any(re.search(rf"\b{name}\b", body) for name in made) else ()
    steps: Case = [["do", "\n".join(program.head)]]
    for line in (*setup, *lines):
        told = _NUMBER.sub(lambda found: str(rng.randint(int(found[1]), int(found[2]))), line)
        if told.startswith("expect "):
            steps.append(["expect", told.removeprefix("expect ")])
        else:
            steps.append(["do", told])
    return UnitTest(title, steps, play(steps, names(program.files)))


def as_unittest(tests: list[UnitTest]) -> str:
    """The text of a test file: what came out of the right program is what it expects."""
    head = tests[0].case[0][1]
    lines = ["import unittest", "", *head.splitlines(), "", "", "class RepoTest(unittest.TestCase):"]
    for number, test in enumerate(tests, 1):
        lines += ["", f"    def test_{number:02}_{re.sub(r'[^a-z]+', '_', test.title)}(self):"]
        came = iter(test.came)
        for kind, source in test.case[1:]:
            if kind == "do":
                lines.append(f"        {source}")
                continue
            what, value = next(came)
            if what == "value":
                lines.append(f"        self.assertEqual({source}, {written(value)})")
            else:
                lines += [f"        with self.assertRaises({value}):", f"            {source}"]
    return "\n".join([*lines, "", "", 'if __name__ == "__main__":', "    unittest.main()", ""])


def passed(test: UnitTest, came: Any) -> bool:
    """Whether exactly what should came out."""
    return json.dumps(came) == json.dumps(test.came)


def passes(files: Mapping[str, str], tests: list[UnitTest]) -> list[bool]:
    """Which tests a program of ours passes; plays in this process, so never for what an agent wrote."""
    return [passed(test, play(test.case, names(files))) for test in tests]
