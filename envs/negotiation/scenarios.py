"""What is negotiated: deals, the private utility of either seat, the Pareto frontier, Nash's solution; exact."""

from __future__ import annotations

import random
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import cached_property
from itertools import product
from typing import ClassVar

Deal = tuple[int, ...]
"""The items that seat 0 takes, or the price."""
ITEMS = ("book", "hat", "ball")
TOTAL = 10
"""What all items together are worth to either seat."""
_PART = re.compile(r"(?:([a-z]+?)s?=)?(\d{1,9})")


class Scenario(ABC):
    """The deals of one task and what each is worth to either seat."""

    form: ClassVar[str]

    @property
    @abstractmethod
    def deals(self) -> tuple[Deal, ...]:
        """Every possible deal, in a fixed order."""

    @abstractmethod
    def utility(self, deal: Deal, seat: int) -> int:
        """What a deal is worth to a seat; no deal is worth 0."""

    @abstractmethod
    def top(self, seat: int) -> int:
        """The utility that a seat asks for at first."""

    @abstractmethod
    def private(self, seat: int) -> str:
        """What a seat knows, in one line."""

    @abstractmethod
    def read(self, parts: list[tuple[str, int]], seat: int) -> Deal | None:
        """The deal that a seat proposes in `parts` (name or nothing, number); None where there is no such deal."""

    @abstractmethod
    def write(self, deal: Deal, seat: int) -> str:
        """How a seat proposes a deal, as the agent writes it."""

    @abstractmethod
    def say(self, deal: Deal, speaker: int) -> str:
        """How a seat proposes a deal, as the other reads it."""

    @cached_property
    def frontier(self) -> frozenset[Deal]:
        """Deals worth at least 0 to both, such that no deal is worth more to one seat and no less to the other."""
        worth = {deal: self.both(deal) for deal in self.deals if min(self.both(deal)) >= 0}
        pairs = set(worth.values())
        return frozenset(
            deal for deal, (u, v) in worth.items()
            if not any(a >= u and b >= v and (a, b) != (u, v) for a, b in pairs)
        )  # fmt: skip

    @cached_property
    def nash(self) -> frozenset[Deal]:
        """Deals of the largest product of utilities (Nash 1950), those worth less than 0 left out."""
        worth = {deal: self.both(deal) for deal in self.deals if min(self.both(deal)) >= 0}
        best = max(u * v for u, v in worth.values())
        return frozenset(deal for deal, (u, v) in worth.items() if u * v == best)

    def both(self, deal: Deal) -> tuple[int, int]:
        """The utilities of seat 0 and seat 1."""
        return self.utility(deal, 0), self.utility(deal, 1)

    def fair(self, seat: int) -> int:
        """A seat's share: the least that a Nash solution gives it."""
        return min(self.utility(deal, seat) for deal in self.nash)

    def wins(self, deal: Deal, seat: int) -> bool:
        """Whether a deal is on the frontier and worth a seat's fair share."""
        return deal in self.frontier and self.utility(deal, seat) >= self.fair(seat)


class Division(Scenario):
    """Some books, hats and balls to be shared, each seat with values of its own (Lewis et al. 2017)."""

    form = "division"

    def __init__(self, counts: Deal, values: tuple[Deal, Deal]) -> None:
        self.counts, self.values = counts, values

    @cached_property
    def deals(self) -> tuple[Deal, ...]:
        return tuple(product(*(range(count + 1) for count in self.counts)))

    def utility(self, deal: Deal, seat: int) -> int:
        taken = deal if seat == 0 else self._rest(deal)
        return sum(count * value for count, value in zip(taken, self.values[seat], strict=True))

    def top(self, seat: int) -> int:
        return TOTAL

    def private(self, seat: int) -> str:
        worth = ", ".join(f"a {name} {value}" for name, value in zip(ITEMS, self.values[seat], strict=True))
        return f"To share: {_listed(self.counts)}. Worth to you: {worth}."

    def read(self, parts: list[tuple[str, int]], seat: int) -> Deal | None:
        named = dict(parts)
        if len(named) < len(parts) or not set(named) <= set(ITEMS):
            return None
        taken = tuple(named.get(name, 0) for name in ITEMS)
        if any(count > most for count, most in zip(taken, self.counts, strict=True)):
            return None
        return taken if seat == 0 else self._rest(taken)

    def write(self, deal: Deal, seat: int) -> str:
        return _listed(deal if seat == 0 else self._rest(deal))

    def say(self, deal: Deal, speaker: int) -> str:
        mine, other = self.write(deal, speaker), self.write(deal, 1 - speaker)
        return f"I take {mine}; you get {other}."

    def _rest(self, deal: Deal) -> Deal:
        return tuple(most - count for most, count in zip(self.counts, deal, strict=True))


class Price(Scenario):
    """A buyer and a seller, each with a limit that the other does not know (after CraigslistBargain)."""

    form = "price"

    def __init__(self, seller: int, lowest: int, highest: int, target: int, listed: int) -> None:
        self.seller, self.lowest, self.highest, self.target, self.listed = seller, lowest, highest, target, listed

    @cached_property
    def deals(self) -> tuple[Deal, ...]:
        return tuple((price,) for price in range(1, self.listed + 1))

    def utility(self, deal: Deal, seat: int) -> int:
        return deal[0] - self.lowest if seat == self.seller else self.highest - deal[0]

    def top(self, seat: int) -> int:
        return self.listed - self.lowest if seat == self.seller else self.highest - self.target

    def private(self, seat: int) -> str:
        if seat == self.seller:
            return f"You sell. The list price is {self.listed}, you must get at least {self.lowest}."
        return (
            f"You buy. The list price is {self.listed}, you hope for {self.target} and must pay at most {self.highest}."
        )

    def read(self, parts: list[tuple[str, int]], seat: int) -> Deal | None:
        fits = len(parts) == 1 and parts[0][0] in ("", "price") and 1 <= parts[0][1] <= self.listed
        return (parts[0][1],) if fits else None

    def write(self, deal: Deal, seat: int) -> str:
        return str(deal[0])

    def say(self, deal: Deal, speaker: int) -> str:
        return f"I offer to {'sell' if speaker == self.seller else 'buy'} for {deal[0]}."

    def sale_to_list(self, deal: Deal) -> float:
        """SL of a deal: 0 at the list price, 1 at the buyer's target."""
        return sale_to_list(deal[0], self.target, self.listed)


def sale_to_list(price: float, buyer: float, seller: float) -> float:
    """(price - seller's price) / (buyer's price - seller's price) (PPDPP, arXiv 2311.00262).

    >>> sale_to_list(80, buyer=60, seller=100)
    0.5
    """
    return (price - seller) / (buyer - seller)


def read_parts(text: str) -> list[tuple[str, int]] | None:
    """`book=1, hat=2` or `80` as (name or nothing, number); None where the text is not that."""
    text = " ".join(text.lower().replace(",", " ").replace(";", " ").split())
    text = re.sub(r" ?= ?", "=", text)
    found = [_PART.fullmatch(each) for each in text.split()]
    read = [(match[1] or "", int(match[2])) for match in found if match]
    return read if read and len(read) == len(found) else None


def draw_scenario(form: str, rng: random.Random) -> Scenario:
    """A scenario in which both seats have something to win and something to give."""
    return _draw_division(rng) if form == "division" else _draw_price(rng)


def _draw_division(rng: random.Random) -> Division:
    while True:
        counts = tuple(rng.randint(1, 3) for _ in ITEMS)
        possible = [
            values for values in product(range(TOTAL + 1), repeat=len(ITEMS))
            if sum(count * value for count, value in zip(counts, values, strict=True)) == TOTAL
        ]  # fmt: skip
        if len(possible) < 2:
            continue
        made = Division(counts, (rng.choice(possible), rng.choice(possible)))
        contested = made.fair(0) < TOTAL and made.fair(1) < TOTAL
        if len({made.both(deal) for deal in made.frontier}) > 2 and contested:
            return made


def _draw_price(rng: random.Random) -> Price:
    lowest = rng.randint(20, 60)
    highest = lowest + rng.randint(10, 40)
    return Price(rng.randrange(2), lowest, highest, lowest - rng.randint(1, 10), highest + rng.randint(1, 20))


def _listed(counts: Iterable[int]) -> str:
    return " ".join(f"{name}={count}" for name, count in zip(ITEMS, counts, strict=True))
