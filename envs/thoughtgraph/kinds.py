"""Kinds of problems whose parts can be solved apart: sorting, intersecting two sets, counting words; exact errors."""

from __future__ import annotations

import random
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

Items = tuple[str, ...]
"""What a problem or a thought is made of, as words."""

NONE = "none"
FRUITS = ("apple", "cherry", "fig", "lemon", "melon", "pear")
FILLERS = ("and", "basket", "the", "market", "with", "today", "fresh", "one", "bought", "table", "near", "old")


class Kind(ABC):
    """One kind of problem. A problem is its items, beside what stays the same in all its parts (`given`)."""

    name: ClassVar[str]
    goal: ClassVar[str]
    form: ClassVar[str]
    """How a solution is written."""

    @abstractmethod
    def draw(self, rng: random.Random, size: int) -> tuple[Items, Items]:
        """(given, items) of a problem of `size` items."""

    @abstractmethod
    def truth(self, given: Items, items: Items) -> Items:
        """The solution, in the order that `show` writes."""

    @abstractmethod
    def errors(self, given: Items, items: Items, solution: Items) -> int:
        """How far a solution is from right; 0 just for right ones."""

    @abstractmethod
    def read(self, text: str) -> Items | None:
        """A solution from its text; None where it is none."""

    def read_part(self, text: str) -> Items | None:
        """Some of a problem's items from their text."""
        return words(text)

    def show(self, given: Items, items: Items) -> str:
        """A problem as the agent reads it."""
        return " ".join(items)


class Sorting(Kind):
    """Digits in ascending order; errors as Graph of Thoughts counts them (arXiv 2308.09687, section 5.1)."""

    name = "sorting"
    goal = "Sort the digits in ascending order."
    form = "digits, such as 0 2 2 7"

    def draw(self, rng: random.Random, size: int) -> tuple[Items, Items]:
        return (), tuple(str(rng.randint(0, 9)) for _ in range(size))

    def truth(self, given: Items, items: Items) -> Items:
        return tuple(sorted(items))

    def errors(self, given: Items, items: Items, solution: Items) -> int:
        """Neighbours in the wrong order, plus digits too many or too few."""
        wrong = sum(left > right for left, right in pairwise(solution))
        return wrong + _difference(Counter(items), Counter(solution))

    def read(self, text: str) -> Items | None:
        found = words(text)
        return found if found is not None and all(len(each) == 1 and each in "0123456789" for each in found) else None


class Intersection(Kind):
    """The numbers that two sets share; only the second is taken apart."""

    name = "intersection"
    goal = "Find the numbers that are in both sets."
    form = f"numbers, such as 12 31, or {NONE}"

    def draw(self, rng: random.Random, size: int) -> tuple[Items, Items]:
        shared = rng.randint(size // 4, 3 * size // 4)
        numbers = rng.sample(range(100), 2 * size - shared)
        first, second = numbers[:size], numbers[size - shared :]
        rng.shuffle(second)
        return tuple(map(str, first)), tuple(map(str, second))

    def truth(self, given: Items, items: Items) -> Items:
        return tuple(sorted(set(given) & set(items), key=int))

    def errors(self, given: Items, items: Items, solution: Items) -> int:
        """Numbers missing, wrong or written twice."""
        return _difference(Counter(self.truth(given, items)), Counter(solution))

    def read(self, text: str) -> Items | None:
        found = words(text)
        numbers = found is not None and all(re.fullmatch("[0-9]{1,3}", each) for each in found)
        return tuple(str(int(each)) for each in found or ()) if numbers else None

    def show(self, given: Items, items: Items) -> str:
        return f"{' '.join(given)} & {' '.join(items)}"


class Counting(Kind):
    """How often each fruit occurs in a text."""

    name = "counting"
    goal = f"Count the fruits in the text: {', '.join(FRUITS)}."
    form = f"counts above 0, such as fig=2 pear=1, or {NONE}"

    def draw(self, rng: random.Random, size: int) -> tuple[Items, Items]:
        return (), tuple(rng.choice(FRUITS) if rng.random() < 0.6 else rng.choice(FILLERS) for _ in range(size))

    def truth(self, given: Items, items: Items) -> Items:
        counted = Counter(items)
        return tuple(f"{fruit}={counted[fruit]}" for fruit in FRUITS if counted[fruit])

    def errors(self, given: Items, items: Items, solution: Items) -> int:
        """Sum of the differences of the counts."""
        said = Counter[str]()
        for each in solution:
            fruit, _, count = each.partition("=")
            said[fruit] += int(count)
        return _difference(Counter(word for word in items if word in FRUITS), said)

    def read(self, text: str) -> Items | None:
        found = words(re.sub(r"\s*[=:]\s*", "=", text.lower()))
        if found is None or not all(re.fullmatch(rf"(?:{'|'.join(FRUITS)})=[0-9]{{1,3}}", each) for each in found):
            return None
        return found if len({each.partition("=")[0] for each in found}) == len(found) else None


KINDS: dict[str, Kind] = {kind.name: kind for kind in (Sorting(), Intersection(), Counting())}


def words(text: str) -> Items | None:
    """Words between white space and commas, brackets around them or not; None for an empty text, () for `none`."""
    text = text.strip().strip("[]{}()").strip()
    found = tuple(each for each in re.split(r"[\s,]+", text) if each)
    return () if found == (NONE,) else found or None


def join(parts: Sequence[Items]) -> Items:
    """The items of several problems, one after the other."""
    return tuple(item for part in parts for item in part)


def _difference(left: Counter[str], right: Counter[str]) -> int:
    return sum(abs(left[key] - right[key]) for key in left | right)
