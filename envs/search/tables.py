"""Wide questions: tables of everything that is in one relation to a thing, to be gathered over several searches."""

from __future__ import annotations

import random
import re
from typing import NamedTuple

from .corpus import TOP, Corpus, Document
from .grading import Row

KIND = "table"
UNKNOWN = "unknown"
MIN_ROWS, MAX_ROWS, MAX_FOUND = 3, 8, 15
"""Rows of a table, and documents that a search for its subject finds in all."""


class Shape(NamedTuple):
    """A kind of table: what its rows are, by which relation they belong to the subject, and what is asked of each."""

    row: str
    relation: str
    subject: str
    asked: str
    key: str
    columns: dict[str, str]
    """Column -> relation."""


SHAPES = (
    Shape("person", "employer", "company", "everybody whom {} employs", "Name",
          {"Place of birth": "birthplace", "Year of birth": "birth_year"}),
    Shape("work", "publisher", "company", "all novels that {} published", "Title",
          {"Author": "author", "Year": "printed"}),
    Shape("company", "seat", "city", "all companies with their head office in {}", "Company",
          {"Founder": "founder", "Opened": "opened"}),
)  # fmt: skip


class Wide(NamedTuple):
    """A question for a table and its gold answer."""

    text: str
    subject: str
    key: str
    rows: tuple[Row, ...]


def make_wide(corpus: Corpus, seed: int) -> Wide:
    """The question of a seed."""
    rng = random.Random(f"table {seed}")
    while True:
        shape = rng.choice(SHAPES)
        subject = rng.choice(corpus.kinds[shape.subject])
        found = [title for title in corpus.kinds[shape.row] if corpus.facts.get((title, shape.relation)) == subject]
        if not MIN_ROWS <= len(found) <= MAX_ROWS:
            continue
        if not set(found) <= {document.title for document in everything(corpus, subject)}:
            continue
        rows = tuple(
            {shape.key: title, **{c: corpus.facts.get((title, r), UNKNOWN) for c, r in shape.columns.items()}}
            for title in found
        )
        columns = ", ".join((shape.key, *shape.columns))
        text = f"List {shape.asked.format(subject)}. Columns: {columns}. Write {UNKNOWN} where no document tells."
        return Wide(text, subject, shape.key, rows)


def everything(corpus: Corpus, subject: str) -> list[Document]:
    """What the pages of a search for a subject show, at most `MAX_FOUND`."""
    pages = (corpus.search(subject, page) for page in range(MAX_FOUND // TOP))
    return [document for page in pages for document in page]


def read_table(text: str) -> list[Row] | None:
    """The rows of a Markdown table; None where it is none."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
    cells = [row for row in cells if not all(re.fullmatch(r":?-+:?", cell) for cell in row)]
    if len(cells) < 2 or len(set(cells[0])) < len(cells[0]) or any(len(row) != len(cells[0]) for row in cells):
        return None
    return [dict(zip(cells[0], row, strict=True)) for row in cells[1:]]


def write_table(rows: tuple[Row, ...]) -> str:
    """Rows as a Markdown table."""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([row[column] for column in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
