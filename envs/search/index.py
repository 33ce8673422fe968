"""Full-text indexes over short documents: SQLite's FTS5, or tantivy (extra `search`). Any of the words, BM25."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Sequence
from typing import Protocol

from ..errors import MissingDependency, UnknownName

TITLE_WEIGHT = 10.0
"""A word in a title counts as much as so many in the text."""


class Index(Protocol):
    """Ranks documents, which are known by their place."""

    def rank(self, words: Sequence[str], limit: int, offset: int) -> list[int]:
        """Places of the best documents that hold any of the words, of equal ones the first first."""
        ...


class Fts5:
    """In memory; part of Python."""

    def __init__(self, documents: Iterable[tuple[str, str]]) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(":memory:", check_same_thread=False)
        self._db.execute("CREATE VIRTUAL TABLE documents USING fts5(title, body, tokenize = 'unicode61')")
        self._db.executemany(
            "INSERT INTO documents(rowid, title, body) VALUES (?, ?, ?)",
            ((row, *document) for row, document in enumerate(documents)),
        )

    def rank(self, words: Sequence[str], limit: int, offset: int) -> list[int]:
        match = " OR ".join(f'"{word}"' for word in words)
        order = f"WHERE documents MATCH ? ORDER BY bm25(documents, {TITLE_WEIGHT}, 1.0), rowid LIMIT ? OFFSET ?"
        with self._lock:
            return [row for (row,) in self._db.execute(f"SELECT rowid FROM documents {order}", (match, limit, offset))]


class Tantivy:
    """In memory, in Rust. Title and text are fields of their own, each with its own BM25, whose sum ranks."""

    def __init__(self, documents: Iterable[tuple[str, str]]) -> None:
        try:
            import tantivy
        except ImportError as error:
            raise MissingDependency("tantivy", "search", "SearchQA with index=tantivy") from error
        self._query, self._occur = tantivy.Query, tantivy.Occur
        builder = tantivy.SchemaBuilder()
        builder.add_text_field("title")
        builder.add_text_field("body")
        builder.add_unsigned_field("row", stored=True)
        self._schema = builder.build()
        index = tantivy.Index(self._schema)
        writer = index.writer(num_threads=1)  # one segment, so that equal scores come in the order of the documents
        for row, (title, body) in enumerate(documents):
            writer.add_document(tantivy.Document(title=title, body=body, row=row))
        writer.commit()
        index.reload()
        self._searcher = index.searcher()

    def rank(self, words: Sequence[str], limit: int, offset: int) -> list[int]:
        terms = []
        for word in words:
            title, body = (self._query.term_query(self._schema, field, word) for field in ("title", "body"))
            terms += [self._query.boost_query(title, TITLE_WEIGHT), body]
        query = self._query.boolean_query([(self._occur.Should, term) for term in terms])
        hits = self._searcher.search(query, limit, offset=offset).hits
        return [int(self._searcher.doc(address)["row"][0]) for _, address in hits]


INDEXES = {"fts5": Fts5, "tantivy": Tantivy}


def make_index(name: str, documents: Iterable[tuple[str, str]]) -> Index:
    """An index by its name."""
    if name not in INDEXES:
        raise UnknownName("index of SearchQA", name, INDEXES)
    return INDEXES[name](documents)
