"""SearchQA's tables: the question and its gold rows against the facts, paging, graded tables, the expert."""

from __future__ import annotations

import json
from typing import Any

import pytest
from helpers import run
from turnwise.agents.agent import ScriptedAgent
from turnwise.agents.rollout import Episode
from turnwise.envs import Task, tasks
from turnwise.envs.check import check_env
from turnwise.envs.search.corpus import TOP, corpus
from turnwise.envs.search.env import SearchQAEnv
from turnwise.envs.search.tables import (
    MAX_ROWS,
    MIN_ROWS,
    SHAPES,
    UNKNOWN,
    everything,
    make_wide,
    read_table,
    write_table,
)

ID = "turnwise/SearchQA-v0"


def started(seed: int = 0) -> SearchQAEnv:
    env = SearchQAEnv()
    task = tasks(ID, "test", seed + 1, kind="table")[seed]
    env.reset(options={"task": task})
    assert env.wide is not None
    return env


def call(name: str, **arguments: Any) -> str:
    return json.dumps({"name": name, "arguments": arguments})


def test_gold_rows_are_the_facts_and_can_be_found() -> None:
    world, shapes = corpus("test", 0), set[str]()
    for seed in range(40):
        wide = make_wide(world, seed)
        shape = next(each for each in SHAPES if each.asked.format(wide.subject) in wide.text)
        shapes.add(shape.row)
        told = {title for (title, relation), value in world.facts.items()
                if relation == shape.relation and value == wide.subject}  # fmt: skip
        assert {row[shape.key] for row in wide.rows} == told and MIN_ROWS <= len(told) <= MAX_ROWS
        assert told <= {document.title for document in everything(world, wide.subject)}
        for row in wide.rows:
            for column, relation in shape.columns.items():
                assert row[column] == world.facts.get((row[shape.key], relation), UNKNOWN)
            document = world.documents[row[shape.key]].body
            assert all(row[column] == UNKNOWN or row[column] in document for column in shape.columns)
    assert shapes == {"person", "work", "company"}


def test_pages_go_on_where_the_one_before_ends() -> None:
    world = corpus("test", 0)
    subject = make_wide(world, 0).subject
    first, second = world.search(subject, 0), world.search(subject, 1)
    assert first == world.search(subject) and len(first) == TOP
    assert second and not set(first) & set(second)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("| A | B |\n|---|:-:|\n| 1 | 2 |", [{"A": "1", "B": "2"}]),
        ("A | B\n1 | 2\n3 |4", [{"A": "1", "B": "2"}, {"A": "3", "B": "4"}]),
        ("Here it is:\n| A |\n| x |", [{"A": "x"}]),
        ("| A | B |\n| 1 |", None),
        ("| A | A |\n| 1 | 2 |", None),
        ("| A | B |", None),
        ("none", None),
    ],
)
def test_tables_are_read(text: str, rows: list[dict[str, str]] | None) -> None:
    assert read_table(text) == rows


def test_a_table_is_written_and_read_back() -> None:
    rows = make_wide(corpus("test", 0), 3).rows
    assert read_table(write_table(rows)) == [dict(row) for row in rows]


def test_tables_are_graded() -> None:
    env = started()
    assert env.wide is not None
    rows, count = env.wide.rows, len(env.wide.rows)
    info = env.step(call("answer_table", table=write_table(rows[::-1])))[-1]
    assert info["success"] and info["score"] == 1.0 and info["item_f1"] == info["row_f1"] == 1.0
    env = started()
    other = next(column for column in rows[0] if column != env.wide.key)  # type: ignore[union-attr]
    wrong = ({**rows[0], other: "nobody"}, *rows[1:])
    info = env.step(call("answer_table", table=write_table(wrong)))[-1]
    item, row = (3 * count - 1) / (3 * count), (count - 1) / count  # one cell of three columns, and its row
    assert info["item_f1"] == pytest.approx(item) and info["row_f1"] == pytest.approx(row)
    assert info["score"] == pytest.approx((item + row) / 2) and info["stop"] == "failure" and not info["success"]
    env = started()
    info = env.step(call("answer_table", table=write_table(rows[:-1])))[-1]
    recall = (count - 1) / count
    assert info["row_f1"] == pytest.approx(2 * recall / (1 + recall)) and info["stop"] == "failure"


def test_what_is_no_table_ends_nothing_and_pages_are_counted() -> None:
    env = started()
    observation, *_, info = env.step(call("answer_table", table="I do not know"))
    assert "expected a Markdown table" in observation and info["stop"] is None
    assert env.wide is not None
    info = env.step(call("search_page", query=env.wide.subject, page=1))[-1]
    assert info["counts"]["tool_calls"] == 1.0 and info["counts"]["tool_cost"] == 1.0 and info["score"] == 0.0
    assert "numbered from 1" in env.step(call("search_page", query="x", page=0))[0]
    assert "nothing found" in env.step(call("search_page", query=env.wide.subject, page=90))[0]


def test_the_expert_wins_and_others_do_not() -> None:
    listed = [Episode(task) for task in tasks(ID, "test", 60, kind="table")]
    assert all(t.success and len(t.turns) <= 6 for t in run(ScriptedAgent("expert"), listed))
    assert not any(t.success or t.score for t in run(ScriptedAgent("random"), listed[:10]))
    assert not any(task.params["kind"] == "table" for task in tasks(ID, "test", 200))
    assert Task.model_validate(listed[0].task.model_dump()).key == listed[0].task.key


def test_table_tasks_keep_every_promise() -> None:
    report = check_env(ID, tasks_per_split=1, kind="table")
    assert report.ok, [check for check in report.checks if not check.ok]
