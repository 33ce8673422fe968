"""`turnwise/SearchQA-v0`: answer a question of one to three hops by searching, or say that nothing tells."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any, ClassVar

from ..core import State
from ..errors import RequestError, UnknownName
from ..task import Task
from ..tool_calls import Call, render_calls
from ..tools import Tool, ToolEnv, ToolError, function_tool
from .corpus import SIZES as ENTITIES
from .corpus import corpus
from .grading import exact_match, token_f1, widesearch
from .index import INDEXES
from .questions import KINDS, MAX_HOPS, make_question
from .tables import KIND as TABLE
from .tables import Wide, make_wide, read_table, write_table

SIZES = {"train": 10_000, "validation": 500, "test": 1_000}
_FIRST_SEED = {"train": 0, "validation": 100_000, "test": 200_000}
_SHARES = {"search": 0.6, "given": 0.2, "unanswerable": 0.2}
_NAME = re.compile(r"[A-Z]\w+(?: [A-Z]\w+)*|\b\d{4}\b")
MAX_COMMANDS = 60


class SearchQAEnv(ToolEnv):
    """Tools `search`, `answer` and `abstain` over a generated corpus of 3,230 documents.

    Success is the exact answer after SQuAD's normalisation, or abstaining where no document tells. The score is
    (EM + F1) / 2, so that a wrong answer that shares words makes progress and stays below a right one. Only searches
    are counted as tool calls and cost anything. In tasks of the kind `table` the tools are `search_page` and
    `answer_table`, success is WideSearch's, and the score is the mean of its item and row F1.

    commands: list names that were read, as queries and as answers; not for tables.
    """

    id: ClassVar[str] = "turnwise/SearchQA-v0"

    def __init__(
        self, split: str = "train", render_mode: str | None = None, schemas: str = "lines", commands: bool = False,
        **params: Any,
    ) -> None:  # fmt: skip
        super().__init__(split, render_mode, schemas, **params)
        self._lists_commands = commands

    @classmethod
    def splits(cls) -> dict[str, int]:
        return dict(SIZES)

    @classmethod
    def tasks(
        cls, split: str, count: int | None = None, *, kind: str = "mixed", hops: int | None = None,
        corpus_seed: int = 0, search_cost: float = 1.0, max_turns: int = 8, index: str = "fts5",
    ) -> list[Task]:  # fmt: skip
        """The first `count` tasks of `split`.

        kind: `search`, `given` (the documents are in the prompt), `unanswerable`, or 60, 20 and 20 % of them `mixed`;
        or `table`, where the answer is a table.
        hops: facts to follow, by default 1 to 3.
        index: `fts5`, or `tantivy` (extra `search`), which ranks a little otherwise.
        """
        if kind not in (*KINDS, TABLE, "mixed"):
            raise UnknownName("kind of question", kind, (*KINDS, TABLE, "mixed"))
        if hops is not None and (not isinstance(hops, int) or not 1 <= hops <= MAX_HOPS):
            raise RequestError(f"Expected hops from 1 to {MAX_HOPS} or None, got {hops!r}.")
        if index not in INDEXES:
            raise UnknownName("index of SearchQA", index, INDEXES)
        if not isinstance(search_cost, int | float) or not 0 <= search_cost < float("inf"):
            raise RequestError(f"Expected a search_cost of 0 or more, got {search_cost!r}.")
        tasks = []
        for i in range(SIZES[split] if count is None else min(count, SIZES[split])):
            rng = random.Random(f"kind {split} {i}")
            drawn = rng.choices(list(_SHARES), list(_SHARES.values()))[0]
            steps = rng.randint(1, MAX_HOPS)
            params = {
                "world": split, "corpus_seed": corpus_seed, "kind": drawn if kind == "mixed" else kind,
                "hops": hops or steps, "search_cost": float(search_cost),
            }  # fmt: skip
            if index != "fts5":  # keys of tasks are older than the choice
                params["index"] = index
            tasks.append(
                Task(env=cls.id, seed=_FIRST_SEED[split] + i, params=params, max_turns=max_turns, split=split,
                     goal="Answer the question.", difficulty=float(params["hops"]))
            )  # fmt: skip
        return tasks

    def open(self, task: Task) -> tuple[str, Sequence[Tool]]:
        params = task.params
        if params["world"] not in SIZES:
            raise UnknownName("world of a SearchQA task", str(params["world"]), SIZES)
        self.corpus = corpus(params["world"], int(params["corpus_seed"]), params.get("index", "fts5"))
        self.given: str | None = None
        self.abstained = False
        self.wide: Wide | None = None
        self._searches = self._reported = 0
        if params["kind"] == TABLE:
            return self._open_table(task)
        self.question = make_question(self.corpus, task.seed, params["kind"], int(params["hops"]))
        self._read = {document.title for document in self.question.given}
        shown = [f"{document.title}: {document.body}" for document in self.question.given]
        opening = "\n".join(
            [
                f"{sum(ENTITIES.values()):,} documents can be searched; each search costs {params['search_cost']:g}. "
                "Answer in as few words as possible, or abstain where no document tells.",
                *(["Known already:", *shown] if shown else []),
                f"Question: {self.question.text}",
            ]
        )
        self._heard = opening
        cost = float(params["search_cost"])
        return opening, [
            function_tool(self.search, cost=cost),
            function_tool(self.answer, cost=0.0),
            function_tool(self.abstain, cost=0.0),
        ]

    def search(self, query: str) -> str:
        """Show the three best documents for a few words."""
        self._searches += 1
        found = self.corpus.search(query)
        if not found:
            raise ToolError("nothing found. Search for a name.")
        self._read |= {document.title for document in found}
        text = "\n".join(f"{document.title}: {document.body}" for document in found)
        self._heard += f"\n{text}"
        return text

    def answer(self, text: str) -> str:
        """Answer the question, which ends the episode."""
        self.given, self.over = text, True
        return "Answered."

    def abstain(self) -> str:
        """Say that no document tells, which ends the episode."""
        self.abstained = self.over = True
        return "Abstained."

    def _open_table(self, task: Task) -> tuple[str, Sequence[Tool]]:
        self.wide, self._read = make_wide(self.corpus, task.seed), set[str]()
        cost = float(task.params["search_cost"])
        opening = (
            f"{sum(ENTITIES.values()):,} documents can be searched, three on a page; each page costs {cost:g}. Answer "
            f"with a Markdown table.\nQuestion: {self.wide.text}"
        )
        return opening, [function_tool(self.search_page, cost=cost), function_tool(self.answer_table, cost=0.0)]

    def search_page(self, query: str, page: int) -> str:
        """Show one page of the documents for a few words, the best ones on page 1."""
        self._searches += 1
        if not 1 <= page <= 100:
            raise ToolError("pages are numbered from 1 to 100.")
        found = self.corpus.search(query, page - 1)
        if not found:
            raise ToolError("nothing found on this page.")
        self._read |= {document.title for document in found}
        return "\n".join(f"{document.title}: {document.body}" for document in found)

    def answer_table(self, table: str) -> str:
        """Answer the question with a Markdown table, which ends the episode."""
        if read_table(table) is None:
            raise ToolError("expected a Markdown table with a header and as many cells in every row.")
        self.given, self.over = table, True
        return "Answered."

    def _judge_table(self, wide: Wide) -> State:
        score = widesearch(read_table(self.given or "") or (), wide.rows, [wide.key])
        searches, self._reported = self._searches - self._reported, self._searches
        extra = {"item_f1": score.item.f1, "row_f1": score.row.f1, "counts": {"tool_calls": float(searches)}}
        value = (score.item.f1 + score.row.f1) / 2
        return State("", value, score.success, self.over and not score.success, extra=extra)

    def judge(self) -> State:
        if self.wide is not None:
            return self._judge_table(self.wide)
        gold = self.question.answer
        if gold is None or self.given is None:
            exact = self.abstained and gold is None
            f1 = float(exact)
        else:
            exact, f1 = exact_match(self.given, gold), token_f1(self.given, gold)
        searches, self._reported = self._searches - self._reported, self._searches
        return State(
            "", (float(exact) + f1) / 2, exact, self.over and not exact,
            self._commands() if self._lists_commands else None,
            extra={
                "f1": f1, "abstained": self.abstained, "answerable": gold is not None,
                "counts": {"tool_calls": float(searches)},
            },
        )  # fmt: skip

    def expert_calls(self) -> list[Call]:
        """Searches for each title of the gold chain that it has not read, then says what the last one tells."""
        if self.wide is not None:
            if all(row[self.wide.key] in self._read for row in self.wide.rows):
                return [Call("answer_table", {"table": write_table(self.wide.rows)})]
            return [Call("search_page", {"query": self.wide.subject, "page": self._searches + 1})]
        for title in self.question.chain:
            if title not in self._read:
                return [Call("search", {"query": title})]
        if self.question.answer is None:
            return [Call("abstain", {})]
        return [Call("answer", {"text": self.question.answer})]

    def _commands(self) -> tuple[str, ...]:
        """Searches and answers with the names and years read so far, the latest first where they are too many."""
        if self.over:
            return ()
        names = [name for name in dict.fromkeys(_NAME.findall(self._heard)) if name in self.corpus.names]
        names = names[-MAX_COMMANDS // 2 :]
        calls = [Call("abstain", {}), *(Call("search", {"query": name}) for name in names if not name.isdigit())]
        calls += [Call("answer", {"text": name}) for name in names]
        return tuple(render_calls([call]) for call in calls)
