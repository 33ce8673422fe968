"""A task's repository: which bugs are in which program, which tests are shown and which hidden."""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from ..errors import EnvError, UnknownName
from .bugs import Bug, overlap, plant, possible_bugs, share
from .playing import names, play
from .program import SEEN, TESTS, UNSEEN, Program, UnitTest, as_unittest, draw_tests, passed, program

KINDS = (
    "comparison", "arithmetic", "boolean", "negation", "off_by_one", "arguments", "function", "name", "default",
    "guard", "state",
)  # fmt: skip
PROGRAMS = {"train": SEEN, "validation": SEEN, "test": UNSEEN}
_ATTEMPTS = 8


class Repository(NamedTuple):
    """What an episode starts from, and what its end is judged by."""

    program: Program
    bugs: tuple[Bug, ...]
    files: Mapping[str, str]
    """With the bugs, and the tests that are shown."""
    gold: Mapping[str, str]
    """The same without bugs."""
    hidden: tuple[UnitTest, ...]
    before: tuple[bool, ...]
    """Which hidden tests pass at the start."""


def repository(params: Mapping[str, Any], seed: int) -> Repository:
    """The repository of a task."""
    if params["split"] not in PROGRAMS:
        raise UnknownName("split of a SWE task", str(params["split"]), PROGRAMS)
    if params["program"] not in (*SEEN, *UNSEEN):
        raise UnknownName("program of a SWE task", str(params["program"]), (*SEEN, *UNSEEN))
    return _repository(tuple(sorted(params.items())), seed)


@lru_cache(maxsize=64)
def _repository(items: tuple[tuple[str, Any], ...], seed: int) -> Repository:
    params = dict(items)
    base, split = program(params["program"]), params["split"]
    for attempt in range(_ATTEMPTS):  # a draw of tests may see too few bugs of a kind
        rng = random.Random(f"swe {split} {seed} {attempt}")
        tests = draw_tests(base, rng, params["visible"] + params["hidden"])
        rng.shuffle(tests)
        shown, hidden = tests[: params["visible"]], tests[params["visible"] :]
        bugs = _choose(base, params, rng, shown, hidden)
        if bugs:
            break
    else:
        raise EnvError(
            f"No {params['bugs']} bugs of kind {params['kind']!r} show in tests of {base.name}, seed {seed}."
        )
    others = [each for each in PROGRAMS[split] if each != base.name]
    gold = {TESTS: as_unittest(shown), "tests/__init__.py": ""}
    for name in (base.name, *rng.sample(others, params["distractors"])):
        gold |= program(name).files
    files = plant(gold, bugs)
    came = [play(test.case, names(files)) for test in hidden]
    before = tuple(passed(test, each) for test, each in zip(hidden, came, strict=True))
    return Repository(base, tuple(bugs), files, gold, tuple(hidden), before)


def _choose(
    base: Program, params: Mapping[str, Any], rng: random.Random, shown: list[UnitTest], hidden: list[UnitTest]
) -> list[Bug]:
    """Bugs that are seen one by one in both kinds of tests; empty where there are too few."""
    found = [bug for bug in possible_bugs(base.files) if params["kind"] in ("mixed", bug.kind)]
    if params["split"] != "test":
        found = [bug for bug in found if share(base.name, bug) == params["split"]]
    order = _kinds_in_turn(found, rng)
    chosen = list[Bug]()
    for bug in order:
        if any(overlap(bug, other) for other in chosen) or not _shows(base.files, bug, shown, hidden):
            continue
        chosen.append(bug)
        if len(chosen) == params["bugs"]:
            return chosen
    return []


def _kinds_in_turn(bugs: list[Bug], rng: random.Random) -> list[Bug]:
    """All bugs in a random order in which no kind crowds out the others."""
    piles = [[bug for bug in bugs if bug.kind == kind] for kind in KINDS]
    for pile in piles:
        rng.shuffle(pile)
    rng.shuffle(piles)
    return [pile[i] for i in range(max(map(len, piles))) for pile in piles if i < len(pile)]


def _shows(files: Mapping[str, str], bug: Bug, shown: list[UnitTest], hidden: list[UnitTest]) -> bool:
    """The bug fails a test of both kinds, leaves a third of the hidden ones alone, and never runs on without end."""
    planted, fails = plant(files, [bug]), list[bool]()
    for test in (*shown, *hidden):
        came = play(test.case, names(planted))
        if came and came[-1][1] == "TooLong":
            return False
        fails.append(not passed(test, came))
    of_hidden = sum(fails[len(shown) :])
    return any(fails[: len(shown)]) and 0 < of_hidden <= 2 * len(hidden) // 3
