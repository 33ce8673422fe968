"""`turnwise/Game24-v0`: make 24 from four numbers, merging two at a time, in exact arithmetic."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from itertools import combinations, combinations_with_replacement
from typing import ClassVar, NamedTuple

from .core import State, TextEnv
from .errors import RequestError
from .task import Task

TARGET = Fraction(24)
SIZES = {"train": 1000, "validation": 162, "test": 200}
_NUMBER = r"-?\d{1,12}(?:/\d{1,12})?"
_STEP = re.compile(
    rf"\(?({_NUMBER})\)?\s*([-+*/x×÷−])\s*\(?({_NUMBER})\)?\s*=\s*({_NUMBER})(?:\s*\(left:\s*([^()]*)\))?"
)
_OPERATORS = {"x": "*", "×": "*", "÷": "/", "−": "-"}

Numbers = tuple[Fraction, ...]
"""The numbers left, in ascending order."""


class Merge(NamedTuple):
    """`left op right`, one step."""

    left: Fraction
    operator: str
    right: Fraction

    @property
    def value(self) -> Fraction:
        """Exact; raises ZeroDivisionError."""
        return _compute(self.left, self.operator, self.right)

    @property
    def text(self) -> str:
        """As the agent writes it."""
        return f"{self.left} {self.operator} {self.right} = {self.value}"


def merges(numbers: Numbers) -> Iterator[Merge]:
    """Every step that two of the numbers allow; sums and products in one order only."""
    seen = set[tuple[Fraction, Fraction]]()
    for low, high in combinations(numbers, 2):
        if (low, high) in seen:
            continue
        seen.add((low, high))
        yield from (Merge(high, operator, low) for operator in "+-*")
        if low:
            yield Merge(high, "/", low)
        if low != high:
            yield Merge(low, "-", high)
            if high:
                yield Merge(low, "/", high)


def after(numbers: Numbers, merge: Merge) -> Numbers:
    """The numbers left after a step; raises ValueError where they do not hold its operands."""
    left = list(numbers)
    left.remove(merge.left)
    left.remove(merge.right)
    return tuple(sorted([*left, merge.value]))


@lru_cache(maxsize=1 << 16)
def solve(numbers: Numbers) -> tuple[Merge, ...] | None:
    """Steps that make 24 of all the numbers, or None."""
    if len(numbers) == 1:
        return () if numbers[0] == TARGET else None
    for merge in merges(numbers):
        rest = solve(after(numbers, merge))
        if rest is not None:
            return (merge, *rest)
    return None


# ---- which puzzles there are -----------------------------------------------------------------------------


@lru_cache(maxsize=1 << 12)
def _values(numbers: Numbers) -> frozenset[Fraction]:
    """Everything that all of the numbers can make."""
    if len(numbers) == 1:
        return frozenset(numbers)
    made = set[Fraction]()
    for left, right in _halves(numbers):
        for a in _values(left):
            for b in _values(right):
                made |= {a + b, a - b, b - a, a * b}
                made |= {a / b} if b else set()
                made |= {b / a} if a else set()
    return frozenset(made)


def _halves(numbers: Numbers) -> set[tuple[Numbers, Numbers]]:
    """The ways to split the numbers in two parts, the larger first."""
    found = set[tuple[Numbers, Numbers]]()
    for size in range((len(numbers) + 1) // 2, len(numbers)):
        for chosen in combinations(range(len(numbers)), size):
            rest = tuple(numbers[i] for i in range(len(numbers)) if i not in chosen)
            found.add((tuple(numbers[i] for i in chosen), rest))
    return found


def _makes_24(left: frozenset[Fraction], right: frozenset[Fraction]) -> bool:
    """Whether a value of each makes 24, by looking for the partner that each value of the right part needs."""
    for b in right:
        needed = {TARGET - b, TARGET + b, b - TARGET}  # a + b, a - b, b - a
        if b:
            needed |= {b * TARGET, TARGET / b, b / TARGET}  # a / b, a * b, b / a
        if needed & left:
            return True
    return False


@lru_cache(maxsize=1)
def puzzles() -> tuple[tuple[int, int, int, int], ...]:
    """All quadruples of 1 to 13 that make 24, ascending: 1,362."""
    found = []
    for quadruple in combinations_with_replacement(range(1, 14), 4):
        numbers = tuple(map(Fraction, quadruple))
        if any(_makes_24(_values(left), _values(right)) for left, right in _halves(numbers)):
            found.append(quadruple)
    return tuple(found)


@lru_cache(maxsize=1)
def _shuffled() -> dict[str, list[tuple[int, int, int, int]]]:
    """Split -> its puzzles, in an order that does not follow the numbers."""
    listed, split = list(puzzles()), dict[str, list[tuple[int, int, int, int]]]()
    random.Random("game24").shuffle(listed)
    for name, size in SIZES.items():
        split[name], listed = listed[:size], listed[size:]
    return split


# ---- how many solutions a puzzle has ---------------------------------------------------------------------

_PRIME = 2**61 - 1
_RESIDUES = dict(enumerate(random.Random("game24").sample(range(10**6, _PRIME), 100)))


@lru_cache(maxsize=1 << 12)
def solutions(numbers: Numbers) -> int:
    """How many different solutions whole numbers below 100 have.

    Two are the same where one formula turns into the other by the laws of arithmetic: where they agree whatever the
    numbers are, equal ones staying equal. That is tested at one random point modulo 2^61 - 1 (Schwartz 1980).
    """
    return sum(value == TARGET for value, _ in _formulas(numbers))


@lru_cache(maxsize=1 << 12)
def _formulas(numbers: Numbers) -> frozenset[tuple[Fraction, int]]:
    """(value, value at the random point) of every formula of all the numbers."""
    if len(numbers) == 1:
        return frozenset({(numbers[0], _RESIDUES[int(numbers[0])])})
    found = set[tuple[Fraction, int]]()
    for left, right in _halves(numbers):
        for a, x in _formulas(left):
            for b, y in _formulas(right):
                found |= {(a + b, (x + y) % _PRIME), (a - b, (x - y) % _PRIME), (b - a, (y - x) % _PRIME)}
                found.add((a * b, x * y % _PRIME))
                if b:
                    found.add((a / b, x * pow(y, -1, _PRIME) % _PRIME))
                if a:
                    found.add((b / a, y * pow(x, -1, _PRIME) % _PRIME))
    return frozenset(found)


# ---- the environment -------------------------------------------------------------------------------------


class Game24Env(TextEnv):
    """Steps `a op b = c` on the numbers left; success is a single number left, and that it is 24.

    The result has to be right, and so has `(left: …)` where it is written; a wrong step changes nothing and costs a
    turn. The score is 0 or 1. `info["solutions"]` is the number of different solutions.
    """

    id: ClassVar[str] = "turnwise/Game24-v0"
    unknown_action: ClassVar[str] = "999 + 998 = 1997"

    @classmethod
    def splits(cls) -> dict[str, int]:
        return dict(SIZES)

    @classmethod
    def tasks(cls, split: str, count: int | None = None, *, slack: int = 1) -> list[Task]:
        """Puzzles in a fixed random order, to be solved in `3 + slack` turns."""
        if not isinstance(slack, int) or slack < 0:
            raise RequestError(f"Expected a slack of 0 or more, got {slack!r}.")
        return [
            Task(env=cls.id, params={"numbers": list(numbers)}, max_turns=3 + slack, split=split,
                 goal=f"Make 24 of {' '.join(map(str, numbers))}.")
            for numbers in _shuffled()[split][:count]
        ]  # fmt: skip

    def start(self, task: Task) -> State:
        given = task.params["numbers"]
        if len(given) != 4 or not all(isinstance(each, int) and 1 <= each <= 99 for each in given):
            raise RequestError(f"Expected four whole numbers from 1 to 99, got {given!r}.")
        self.numbers: Numbers = tuple(sorted(map(Fraction, given)))
        self._solutions = solutions(self.numbers)
        return self._look("Make 24: merge two numbers at a time with + - * /, as in 6 * 4 = 24, until one is left.")

    def act(self, action: str) -> State:
        if len(self.numbers) == 1:
            return self._look("The game is over.", admissible=False)
        match = _STEP.fullmatch(action)
        if match is None:
            return self._look("Write one step such as 6 * 4 = 24.", admissible=False, valid=False)
        try:
            merge, said, left = _read(match)
            remaining = after(self.numbers, merge)
        except ZeroDivisionError:
            return self._look("Nothing can be divided by 0.", admissible=False)
        except ValueError:
            return self._look("Only the numbers left can be merged, each once.", admissible=False)
        if merge.value != said:
            return self._look(f"{merge.left} {merge.operator} {merge.right} is not {said}.", admissible=False)
        if left is not None and Counter(left) != Counter(remaining):
            return self._look("Those are not the numbers that would be left.", admissible=False)
        self.numbers = remaining
        return self._look(f"{merge.text}.")

    def expert(self) -> str:
        steps = solve(self.numbers)
        return (steps[0] if steps else next(merges(self.numbers))).text

    def clone_state(self) -> tuple[Numbers, int]:
        return self.numbers, self._solutions

    def restore_state(self, clone: tuple[Numbers, int]) -> bool:
        self.numbers, self._solutions = clone
        return True

    def _look(self, event: str, admissible: bool = True, valid: bool = True) -> State:
        over, won = len(self.numbers) == 1, self.numbers == (TARGET,)
        text = f"{event}\nLeft: {' '.join(map(str, self.numbers))}"
        commands = () if over else tuple(merge.text for merge in merges(self.numbers))
        extra = {"solutions": self._solutions}
        return State(text, float(won), won, over and not won, commands, admissible, valid, extra)


def _compute(left: Fraction, operator: str, right: Fraction) -> Fraction:
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    return left * right if operator == "*" else left / right


def _read(match: re.Match[str]) -> tuple[Merge, Fraction, list[Fraction] | None]:
    """The step, the result that was written, and the numbers written as left; raises ValueError, ZeroDivisionError."""
    operator = _OPERATORS.get(match[2], match[2])
    left = None if match[5] is None else [Fraction(each) for each in re.split(r"[\s,]+", match[5].strip()) if each]
    return Merge(Fraction(match[1]), operator, Fraction(match[3])), Fraction(match[4]), left
