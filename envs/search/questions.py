"""Questions over a corpus: a chain of facts, put into words from the inside out."""

from __future__ import annotations

import random
from typing import NamedTuple

from .corpus import RELATIONS, Corpus, Document

KINDS = ("search", "given", "unanswerable")
MAX_HOPS = 3
_BY_SUBJECT = {
    kind: [key for key, relation in RELATIONS.items() if relation.subject == kind]
    for kind in ("country", "city", "company", "work", "person")
}


class Question(NamedTuple):
    """A question, its gold chain and its answer."""

    text: str
    chain: tuple[str, ...]
    """Titles of the documents that lead to the answer, in order: the first is named in the question."""
    answer: str | None
    """None: no document tells."""
    given: tuple[Document, ...]
    """Documents that are shown with the question."""


def make_question(corpus: Corpus, seed: int, kind: str, hops: int) -> Question:
    """The question of a seed: `hops` facts follow from each other; where it is unanswerable, the last is untold."""
    rng = random.Random(f"question {seed} {kind} {hops}")
    while True:
        start = rng.choice(corpus.kinds[rng.choice(list(_BY_SUBJECT))])
        walked = _walk(corpus, rng, start, hops)
        if walked is None:
            continue
        chain, relations, answer = walked
        if (answer is None) is (kind == "unanswerable"):
            given = tuple(corpus.documents[title] for title in chain) if kind == "given" else ()
            shuffled = tuple(rng.sample(given, len(given)))
            return Question(_ask(start, relations), chain, answer, shuffled)


def _walk(
    corpus: Corpus, rng: random.Random, start: str, hops: int
) -> tuple[tuple[str, ...], tuple[str, ...], str | None] | None:
    """Titles, relations and the last object (None: untold) of a walk that meets nothing twice; None where it ends."""
    chain, relations = [start], list[str]()
    kind = next(kind for kind, names in corpus.kinds.items() if start in names)
    while True:
        last = len(chain) == hops
        possible = [key for key in _BY_SUBJECT[kind] if last or RELATIONS[key].named]
        relations.append(rng.choice(possible))
        value = corpus.facts.get((chain[-1], relations[-1]))
        if last:
            return None if value in chain else (tuple(chain), tuple(relations), value)
        if value is None or value in chain:
            return None
        chain.append(value)
        kind = RELATIONS[relations[-1]].object


def _ask(start: str, relations: tuple[str, ...]) -> str:
    phrase = start
    for key in relations[:-1]:
        phrase = RELATIONS[key].named.format(s=phrase)
    return RELATIONS[relations[-1]].asked.format(s=phrase)
