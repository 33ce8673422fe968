"""A generated world: people, cities, companies, works and countries, one short document each, searched by words."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from .index import make_index

TOP = 3
"""Documents that a search shows."""
UNRECORDED = 0.1
"""Share of facts that no document tells, here or elsewhere: questions for them have no answer."""
SIZES = {"country": 30, "city": 300, "company": 500, "work": 900, "person": 1500}
"""Kind of entity -> how many a corpus has."""
ONSETS = {"train": "bdfgklhj", "validation": "mnp", "test": "rstv"}
"""Split -> how its invented words begin: no name of one split occurs in another."""

_MIDDLES, _VOWELS, _ENDINGS = "bdfgklmnprstvz", "aeiou", ("", "l", "n", "r", "s", "th")
_SHAPES = ("Silver", "Broken", "Quiet", "Northern", "Hidden", "Last", "Golden", "Winter", "Distant", "Paper")
_COMMON = frozenset((
    "a", "an", "and", "are", "at", "by", "does", "for", "from", "has", "have", "in", "is", "it", "its", "of", "on",
    "or", "s", "that", "the", "to", "under", "was", "were", "what", "where", "which", "who", "whom", "whose", "with",
    "work", "works", "born", "city", "company", "country", "year", "founded",
))  # fmt: skip


class Relation(NamedTuple):
    """A fact that entities of one kind have: how it is told, asked for, and used to name its object."""

    subject: str
    object: str
    """Kind of entity, or `year` or `word` where the object has no document."""
    told: str
    asked: str
    named: str = ""


RELATIONS: dict[str, Relation] = {
    "birthplace": Relation("person", "city", "{s} was born in {o}.", "In which city was {s} born?",
                           "the city where {s} was born"),
    "birth_year": Relation("person", "year", "The year of birth is {o}.", "In which year was {s} born?"),
    "teacher": Relation("person", "person", "In youth {s} was a pupil of {o}.", "Who was the teacher of {s}?",
                        "the teacher of {s}"),
    "employer": Relation("person", "company", "The present employer is {o}.", "Which company employs {s}?",
                         "the employer of {s}"),
    "seat": Relation("company", "city", "{s} has its head office in {o}.",
                     "In which city is the head office of {s}?", "the city with the head office of {s}"),
    "founder": Relation("company", "person", "It was founded by {o}.", "Who founded {s}?", "the founder of {s}"),
    "opened": Relation("company", "year", "It opened in {o}.", "In which year did {s} open?"),
    "author": Relation("work", "person", "{s} is a novel by {o}.", "Who wrote {s}?", "the author of {s}"),
    "publisher": Relation("work", "company", "It was published by {o}.", "Which company published {s}?",
                          "the publisher of {s}"),
    "printed": Relation("work", "year", "It was first printed in {o}.", "In which year was {s} first printed?"),
    "country": Relation("city", "country", "{s} belongs to {o}.", "To which country does {s} belong?",
                        "the country of {s}"),
    "mayor": Relation("city", "person", "The mayor is {o}.", "Who is the mayor of {s}?", "the mayor of {s}"),
    "river": Relation("city", "word", "The river {o} runs through the town.", "Which river runs through {s}?"),
    "capital": Relation("country", "city", "The capital of {s} is {o}.", "What is the capital of {s}?",
                        "the capital of {s}"),
    "currency": Relation("country", "word", "People pay with the {o}.", "What is the currency of {s}?"),
}  # fmt: skip
"""Functional relations: an entity has at most one object of each, so that every question has one answer."""


class Document(NamedTuple):
    """What a search can find."""

    title: str
    body: str


class Corpus:
    """The world of a split and a seed; the same arguments give the same bytes.

    facts: (entity, relation) -> object; what is not in it, no document tells.
    """

    def __init__(self, split: str, seed: int, index: str = "fts5") -> None:
        rng = random.Random(f"search {split} {seed}")
        words = _words(rng, ONSETS[split])
        self.kinds = _entities(rng, words)
        self._capital_of = dict(zip(self.kinds["city"], self.kinds["country"], strict=False))
        self.facts: dict[tuple[str, str], str] = {}
        self.documents = {
            title: Document(title, self._tell(rng, kind, title, words))
            for kind, names in self.kinds.items()
            for title in names
        }
        self.names = frozenset(self.documents) | frozenset(self.facts.values())
        self._titles = list(self.documents)
        self._index = make_index(index, self.documents.values())
        self.search = lru_cache(maxsize=4096)(self._search)

    def _tell(self, rng: random.Random, kind: str, name: str, words: Iterator[str]) -> str:
        """Draw the facts of an entity and write its document."""
        told = []
        for key, relation in RELATIONS.items():
            if relation.subject != kind:
                continue
            value, is_told = _object(rng, relation.object, name, self.kinds, words), rng.random() >= UNRECORDED
            if key == "capital":
                value = next(city for city, country in self._capital_of.items() if country == name)
            elif key == "country" and name in self._capital_of:  # always told: the country's document gives it away
                value, is_told = self._capital_of[name], True
            if is_told:
                self.facts[name, key] = value
                told.append(relation.told.format(s=name, o=value))
        rng.shuffle(told)
        return " ".join([f"{name} is a {kind}.", *told])

    def _search(self, query: str, page: int = 0) -> tuple[Document, ...]:
        words = keywords(query)
        if not words:
            return ()
        rows = self._index.rank(words, TOP, page * TOP)
        return tuple(self.documents[self._titles[row]] for row in rows)


def keywords(text: str) -> list[str]:
    """The words of a text that search looks for, each once, at most 30; common ones only where there are no others."""
    words = list(dict.fromkeys(re.findall(r"[^\W_]+", text.lower())))
    return ([word for word in words if word not in _COMMON] or words)[:30]


@lru_cache(maxsize=4)
def corpus(split: str, seed: int, index: str = "fts5") -> Corpus:
    """The corpus of a split and a seed, shared by all environments of the process."""
    return Corpus(split, seed, index)


def _words(rng: random.Random, onsets: str) -> Iterator[str]:
    """Invented words, capitalised, without end and without repetition."""
    seen = set[str]()
    while True:
        middle = "".join(rng.choice(_VOWELS) + rng.choice(_MIDDLES) for _ in range(rng.choice((1, 1, 2))))
        word = rng.choice(onsets).upper() + middle + rng.choice(_VOWELS) + rng.choice(_ENDINGS)
        if word not in seen:
            seen.add(word)
            yield word


def _entities(rng: random.Random, words: Iterator[str]) -> dict[str, list[str]]:
    """Kind -> distinct names."""
    first = [next(words) for _ in range(60)]
    return {
        "country": [next(words) for _ in range(SIZES["country"])],
        "city": [next(words) for _ in range(SIZES["city"])],
        "company": [f"{next(words)} {rng.choice(('Works', 'Group', 'House'))}" for _ in range(SIZES["company"])],
        "work": [f"The {rng.choice(_SHAPES)} {next(words)}" for _ in range(SIZES["work"])],
        "person": [f"{rng.choice(first)} {next(words)}" for _ in range(SIZES["person"])],
    }


def _object(rng: random.Random, kind: str, name: str, kinds: dict[str, list[str]], words: Iterator[str]) -> str:
    if kind == "year":
        return str(rng.randint(1700, 2020))
    if kind == "word":
        return next(words)
    return rng.choice([other for other in rng.sample(kinds[kind], 2) if other != name])
