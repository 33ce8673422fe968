"""Products: the record, a generator of whole catalogues from a seed, and search over them by SQLite's FTS5."""

from __future__ import annotations

import hashlib
import random
import re
import sqlite3
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from ..errors import RequestError
from .words import BRANDS, COLOURS, DEPARTMENTS, FACTS, Department

MAX_RESULTS = 50
"""Products that a search returns at most, as in WebShop."""
SIZES = (100, 20_000)
"""Fewest and most products of a generated catalogue."""

_STOP_WORDS = frozenset(
    [
        "a",
        "am",
        "an",
        "and",
        "are",
        "as",
        "at",
        "buy",
        "by",
        "dollars",
        "find",
        "for",
        "i",
        "in",
        "is",
        "it",
        "less",
        "like",
        "looking",
        "lower",
        "me",
        "need",
        "of",
        "or",
        "pair",
        "please",
        "price",
        "that",
        "than",
        "the",
        "to",
        "want",
        "which",
        "with",
        "would",
    ]
)


class Option(NamedTuple):
    """A choice that a buyer makes, such as the size, and what each value adds to the price in cents."""

    name: str
    values: tuple[str, ...]
    extra: tuple[int, ...]


class Product(NamedTuple):
    """What is sold. `kind` holds the words by which two products are compared in type."""

    id: str
    title: str
    kind: str
    query: str
    category: tuple[str, ...]
    attributes: tuple[str, ...]
    options: tuple[Option, ...]
    cents: int
    description: str
    features: tuple[str, ...]

    def price(self, chosen: dict[str, str]) -> int:
        """Price in cents with these options."""
        extra = {
            (option.name, value): cents for option in self.options for value, cents in zip(*option[1:], strict=True)
        }
        return self.cents + sum(extra.get(choice, 0) for choice in chosen.items())


class Catalogue:
    """Products by id, and full-text search. Safe to use from several threads."""

    def __init__(self, products: Sequence[Product]) -> None:
        self.products = {product.id: product for product in products}
        self._lock = threading.Lock()
        self._index = sqlite3.connect(":memory:", check_same_thread=False)
        self._index.execute("CREATE VIRTUAL TABLE shelf USING fts5(title, body, tokenize = 'porter unicode61')")
        self._ids = list(self.products)
        self._index.executemany(
            "INSERT INTO shelf(rowid, title, body) VALUES (?, ?, ?)",
            ((row, product.title, _body(product)) for row, product in enumerate(self.products.values())),
        )
        self.search = lru_cache(maxsize=4096)(self._search)

    def _search(self, query: str) -> tuple[str, ...]:
        """Ids of the best products, by BM25 of any of the words, ties in the order of the catalogue."""
        words = keywords(query)
        if not words:
            return ()
        match = " OR ".join(f'"{word}"' for word in words)
        order = "SELECT rowid FROM shelf WHERE shelf MATCH ? ORDER BY bm25(shelf, 2.0, 1.0), rowid LIMIT ?"
        with self._lock:
            return tuple(self._ids[row] for (row,) in self._index.execute(order, (match, MAX_RESULTS)))


def keywords(text: str) -> list[str]:
    """The words of a text that search looks for, each once, at most 60."""
    words = re.findall(r"[^\W_]+", text.lower())
    return [word for word in dict.fromkeys(words) if word not in _STOP_WORDS][:60]


def fraction(text: str) -> float:
    """A number in [0, 1) that is a hash of `text`."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) / 2**48


def dollars(cents: int) -> str:
    """`$12.30`"""
    return f"${cents / 100:.2f}"


@lru_cache(maxsize=8)
def generated(seed: int, size: int) -> Catalogue:
    """A catalogue of `size` products that depends on nothing but its seed: kinds in turn, the rest by chance."""
    if not isinstance(size, int) or not SIZES[0] <= size <= SIZES[1]:
        raise RequestError(f"Expected products from {SIZES[0]} to {SIZES[1]:,}, got {size!r}.")
    rng = random.Random(f"shop {seed}")
    kinds = [(department, aisle, kind) for department in DEPARTMENTS for aisle, kinds in department.aisles.items()
             for kind in kinds]  # fmt: skip
    numbers = rng.sample(range(36**6), size)
    return Catalogue([_product(rng, *kinds[i % len(kinds)], _id(number)) for i, number in enumerate(numbers)])


def _product(rng: random.Random, department: Department, aisle: str, kind: str, id: str) -> Product:
    attributes = tuple(rng.sample(department.attributes, 4))
    low, high = department.cents
    cents = rng.randrange(low, high) // 10 * 10 + 9
    options = _options(rng, department, cents)
    title = f"{rng.choice(BRANDS)} {kind.title()}, {attributes[0]}, {attributes[1]}"
    facts = rng.sample(FACTS, 2)
    features = [attribute.capitalize() for attribute in attributes] + facts
    rng.shuffle(features)
    description = f"{with_article(kind).capitalize()} from our {aisle.lower()} aisle. {facts[0]}."
    return Product(
        id, title, kind, kind, (department.name, aisle, kind), attributes, options, cents, description, tuple(features)
    )


def _options(rng: random.Random, department: Department, cents: int) -> tuple[Option, ...]:
    colours = tuple(rng.sample(COLOURS, rng.randint(2, 5)))
    number = rng.randint(2, len(department.sizes))
    first = rng.randint(0, len(department.sizes) - number)
    sizes = department.sizes[first : first + number]
    step = rng.choice((0, cents // 20 // 10 * 10))  # larger ones cost more, in some products
    both = Option("colour", colours, (0,) * len(colours)), Option("size", sizes, tuple(i * step for i in range(number)))
    return both if rng.random() < 0.8 else both[: rng.randint(0, 1)]


def _id(number: int) -> str:
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return "B0" + "".join(digits[number // 36**place % 36] for place in range(6))


def _body(product: Product) -> str:
    values = (value for option in product.options for value in option.values)
    return " ".join((*product.category, *product.attributes, *product.features, *values, product.description))


def with_article(noun: str) -> str:
    """A noun with what stands before it; all plurals sold here are pairs."""
    if noun.endswith("s"):
        return f"a pair of {noun}"
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
