"""SearchQA: the corpus against a slow reference, the questions, the grader on right and wrong answers, its measures."""

from __future__ import annotations

import asyncio
import inspect
import json
import math
import re
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import run
from hypothesis import given
from hypothesis import strategies as st
from pages import section_of
from test_families import SMALL, assert_masks
from turnwise.agents.agent import ScriptedAgent
from turnwise.agents.rollout import Episode, Limits, rollout
from turnwise.agents.trajectory import Trajectory
from turnwise.envs import RequestError, Task, UnknownName, tasks
from turnwise.envs.check import check_env
from turnwise.envs.errors import MissingDependency
from turnwise.envs.pool import EnvPool
from turnwise.envs.search.corpus import ONSETS, RELATIONS, SIZES, Corpus, corpus, keywords
from turnwise.envs.search.env import SIZES as TASKS
from turnwise.envs.search.env import SearchQAEnv
from turnwise.envs.search.grading import (
    abstention,
    exact_match,
    normalise,
    token_f1,
    tool_productivity,
    widesearch,
)
from turnwise.envs.search.index import INDEXES
from turnwise.envs.search.questions import KINDS, make_question
from turnwise.envs.tool_calls import Call, render_calls
from turnwise.training import recipes, trainer
from turnwise.training.collate import Encoded
from turnwise.training.config import override
from turnwise.training.run import Run

ID = "turnwise/SearchQA-v0"


def call(name: str, **arguments: Any) -> str:
    return render_calls([Call(name, arguments)])


def started(task: Task, **kwargs: Any) -> SearchQAEnv:
    env = SearchQAEnv(**kwargs)
    env.reset(options={"task": task})
    return env


# ---- the corpus ------------------------------------------------------------------------------------------


def facts_told(body: str, kind: str, name: str) -> dict[str, str]:
    """A slow reference: the facts that a document's sentences tell, read back by the templates."""
    found = {}
    for sentence in re.findall(r"[^.]+\.", body):
        for key, relation in RELATIONS.items():
            pattern = re.escape(relation.told).replace(r"\{s\}", re.escape(name)).replace(r"\{o\}", "([^.]+)")
            if relation.subject == kind and (match := re.fullmatch(pattern, sentence.strip())):
                found[key] = match[1]
    return found


def test_documents_tell_the_facts_and_no_others() -> None:
    world = corpus("validation", 0)
    told = {
        (name, key): value
        for kind, names in world.kinds.items()
        for name in names
        for key, value in facts_told(world.documents[name].body, kind, name).items()
    }
    assert told == world.facts
    possible = sum(SIZES[relation.subject] for relation in RELATIONS.values())
    assert 0.87 < len(world.facts) / possible < 0.93


def test_a_capital_belongs_to_its_country_so_that_nothing_untold_can_be_derived() -> None:
    world = corpus("train", 0)
    for country in world.kinds["country"]:
        capital = world.facts.get((country, "capital"))
        assert capital is None or world.facts[capital, "country"] == country


def test_the_same_seed_gives_the_same_documents_and_another_seed_others() -> None:
    assert Corpus("test", 3).documents == corpus("test", 3).documents
    assert not set(Corpus("test", 4).kinds["person"]) & set(corpus("test", 3).kinds["person"])


def test_splits_share_no_name() -> None:
    owner: dict[str, str] = {}
    for split in ONSETS:
        world = corpus(split, 0)
        assert len(world.documents) == sum(SIZES.values())
        for name in world.names:
            assert name.isdigit() or owner.setdefault(name, split) == split
    assert set(owner.values()) == set(TASKS)


@pytest.mark.parametrize("index", INDEXES)
@pytest.mark.parametrize("split", ONSETS)
def test_a_name_finds_its_own_document_first(split: str, index: str) -> None:
    if index == "tantivy":
        pytest.importorskip("tantivy")
    world = corpus(split, 0, index)
    for name in list(world.documents)[::7]:
        found = world.search(name)
        assert found[0].title == name and len(found) <= 3


def test_search_ranks_by_bm25_of_any_word_against_a_slow_reference() -> None:
    """BM25 as SQLite defines it (k1 = 1.2, b = 0.75), titles ten times the text, computed by hand."""
    world = corpus("test", 0)
    documents = [[re.findall(r"\w+", part.lower()) for part in document] for document in world.documents.values()]
    average = sum(len(title) + len(body) for title, body in documents) / len(documents)
    name = world.kinds["company"][5]
    scores = [0.0] * len(documents)
    for word in keywords(name):
        holding = sum(word in title or word in body for title, body in documents)
        idf = max(math.log((len(documents) - holding + 0.5) / (holding + 0.5)), 1e-6)
        for i, (title, body) in enumerate(documents):
            f = 10.0 * title.count(word) + body.count(word)
            scores[i] += idf * f * 2.2 / (f + 1.2 * (0.25 + 0.75 * (len(title) + len(body)) / average))
    best = sorted(range(len(documents)), key=lambda i: (-scores[i], i))[:3]
    titles = list(world.documents)
    assert [document.title for document in world.search(name)] == [titles[i] for i in best]


def test_tantivy_ranks_by_bm25_of_title_and_text_against_a_slow_reference() -> None:
    """BM25 as Lucene defines it (idf ln(1 + (N - n + .5) / (n + .5)), k1 = 1.2, b = 0.75), of each field, by hand."""
    pytest.importorskip("tantivy")
    world = corpus("test", 0, "tantivy")
    titles = list(world.documents)
    fields = [[re.findall(r"\w+", document[part].lower()) for document in world.documents.values()] for part in (0, 1)]
    for name in (world.kinds["company"][5], world.kinds["work"][11], world.kinds["person"][17] + " river"):
        scores = [0.0] * len(titles)
        for weight, texts in zip((10.0, 1.0), fields, strict=True):
            average = sum(map(len, texts)) / len(texts)
            for word in keywords(name):
                holding = sum(word in text for text in texts)
                idf = math.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))
                for i, text in enumerate(texts):
                    f = text.count(word)
                    scores[i] += weight * idf * f * 2.2 / (f + 1.2 * (0.25 + 0.75 * len(text) / average))
        best = sorted(range(len(titles)), key=lambda i: (-round(scores[i], 3), i))[:3]  # scores are float32 there
        assert [document.title for document in world.search(name)] == [titles[i] for i in best]


@pytest.mark.parametrize("kind", ["mixed", "table"])
def test_the_expert_wins_by_tantivy_too(kind: str) -> None:
    pytest.importorskip("tantivy")
    env = SearchQAEnv()
    for task in SearchQAEnv.tasks("test", 40, kind=kind, index="tantivy"):
        env.reset(options={"task": task})
        while not (env.state.success or env.state.failure) and env.turn < task.max_turns:
            env.step(env.expert())
        assert env.state.success
    assert not {t.key for t in SearchQAEnv.tasks("test", 40, index="tantivy")} & {
        t.key for t in SearchQAEnv.tasks("test", 40)
    }, "another index makes other tasks"


def test_an_index_that_is_not_there_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tantivy", None)
    with pytest.raises(MissingDependency, match=r"turnwise\[search\]"):
        SearchQAEnv().reset(options={"task": SearchQAEnv.tasks("test", 1, index="tantivy", corpus_seed=77)[0]})
    with pytest.raises(UnknownName, match="'fts5'"):
        SearchQAEnv.tasks("test", 1, index="fts")


@pytest.mark.parametrize("query", ['" OR 1', "NEAR(a b)", "title:*", "'; DROP TABLE documents; --", "-", "的"])
def test_a_query_is_words_never_syntax(query: str) -> None:
    world = corpus("test", 0)
    try:
        world.search(query)
    except sqlite3.Error as error:
        pytest.fail(f"{query!r}: {error}")
    assert world.search(world.kinds["person"][0])


# ---- questions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hops", [1, 2, 3])
def test_the_gold_chain_follows_from_the_documents_alone(kind: str, hops: int) -> None:
    world = corpus("test", 0)
    kind_of = {name: kind for kind, names in world.kinds.items() for name in names}
    for seed in range(40):
        question = make_question(world, seed, kind, hops)
        assert len(question.chain) == len(set(question.chain)) == hops
        assert question.chain[0] in question.text and not any(name in question.text for name in question.chain[1:])
        told = [facts_told(world.documents[name].body, kind_of[name], name) for name in question.chain]
        for facts, following in zip(told, question.chain[1:], strict=False):
            assert following in facts.values()
        if kind == "unanswerable":
            assert question.answer is None
        else:
            assert question.answer in told[-1].values()
        assert {document.title for document in question.given} == (set(question.chain) if kind == "given" else set())


def test_a_question_by_hand() -> None:
    """Who wrote it, where was the author born: the chain as the documents word it."""
    world = corpus("train", 0)
    for seed in range(400):
        question = make_question(world, seed, "search", 2)
        if match := re.fullmatch(r"In which city was the author of (.+) born\?", question.text):
            author = world.facts[match[1], "author"]
            assert question.chain == (match[1], author) and question.answer == world.facts[author, "birthplace"]
            return
    raise AssertionError("no such question among 400")


def test_kinds_are_mixed_as_promised_and_splits_share_no_key() -> None:
    keys: dict[str, str] = {}
    for split in TASKS:
        for task in tasks(ID, split):
            assert keys.setdefault(task.key, split) == split
    assert len(keys) == sum(TASKS.values())
    drawn = [task.params["kind"] for task in tasks(ID, "train", 2000)]
    assert [round(drawn.count(kind) / 2000, 1) for kind in KINDS] == [0.6, 0.2, 0.2]


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"hops": 4}, "Expected hops from 1 to 3 or None, got 4"),
        ({"kind": "given up"}, "Unknown kind of question 'given up'"),
        ({"search_cost": -1}, "Expected a search_cost of 0 or more, got -1"),
        ({"hop": 2}, "hop"),
    ],
)
def test_bad_parameters_are_named(params: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=re.escape(says)):
        tasks(ID, "train", 1, **params)


def test_the_page_names_every_parameter_and_the_sizes() -> None:
    text = section_of(ID)
    own = {
        name
        for function in (SearchQAEnv.tasks, SearchQAEnv.__init__)
        for name in inspect.signature(function).parameters
    } - {"self", "split", "count", "params", "render_mode"}
    assert set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE)) == own
    for split, size in SearchQAEnv.splits().items():
        assert re.search(rf"`{split}`\s+{size:,}", text)


def test_a_task_of_no_world_is_refused() -> None:
    task = tasks(ID, "test", 1)[0]
    with pytest.raises(UnknownName, match="world of a SearchQA task"):
        started(task.model_copy(update={"params": task.params | {"world": "tset"}}))


# ---- playing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("params", [{}, {"kind": "search", "hops": 3}])
def test_search_keeps_every_promise(params: dict[str, Any]) -> None:
    report = check_env(ID, **params)
    assert report.ok, [check for check in report.checks if not check.ok]


@pytest.mark.parametrize("split", TASKS)
def test_the_expert_wins_with_at_most_one_search_per_hop(split: str) -> None:
    listed = tasks(ID, split, 150)
    played = run(ScriptedAgent("expert"), [Episode(task) for task in listed])
    assert all(t.success and t.score == t.max_score for t in played)
    for task, trajectory in zip(listed, played, strict=True):
        searches = sum(turn.counts["tool_calls"] for turn in trajectory.turns)
        assert searches == sum(turn.counts["tool_cost"] for turn in trajectory.turns) == len(trajectory.turns) - 1
        assert searches <= task.params["hops"] and (searches == 0) is (task.params["kind"] == "given")


def test_the_empty_agent_wins_nothing() -> None:
    played = run(ScriptedAgent("empty"), [Episode(task) for task in tasks(ID, "test", 100)])
    assert not any(t.success or t.score for t in played)


class Listing:
    """A pool whose environments list commands."""

    def __init__(self, pool: EnvPool) -> None:
        self.pool = pool

    def lease(self, task: Task) -> Any:
        return self.pool.lease(task, commands=True)

    def capacity(self, task: Task) -> int | None:
        return self.pool.capacity(task)


def test_listed_commands_can_be_played_and_playing_them_at_random_rarely_wins() -> None:
    listed = [Episode(task, seed=i) for i, task in enumerate(tasks(ID, "test", 100))]
    played = asyncio.run(rollout(ScriptedAgent("random"), listed, Listing(EnvPool()), Limits(invalid_actions=50)))
    assert all(turn.admissible for t in played for turn in t.turns)
    assert 0 < len([t for t in played if t.success]) <= 20
    assert all(t.score < t.max_score and not t.stop.is_error for t in played if not t.success)


# ---- the grader on wrong answers -------------------------------------------------------------------------


def one(kind: str) -> Task:
    """A task whose answer, where there is one, has two words."""
    for task in tasks(ID, "test", 100, kind=kind):
        answer = started(task).question.answer
        if answer is None or (len(answer.split()) == 2 and not answer.startswith("The")):
            return task
    raise AssertionError("none")


def test_right_answers_win_in_any_case_and_punctuation() -> None:
    env = started(one("search"))
    info = env.step(call("answer", text=f" the {str(env.question.answer).upper()}. "))[-1]
    assert info["success"] and info["score"] == 1.0 and info["f1"] == 1.0


def test_wrong_answers_never_win_and_score_half_their_f1() -> None:
    task = one("search")
    first, second = str(started(task).question.answer).split()
    for text, f1 in {
        first: 2 / 3,
        f"{second} {first}": 1.0,
        f"It is {first} {second}": 2 / 3,
        "Nobody": 0.0,
        "": 0.0,
    }.items():
        info = started(task).step(call("answer", text=text))[-1]
        assert info["stop"] == "failure" and not info["success"], text
        assert info["f1"] == pytest.approx(f1) and info["score"] == pytest.approx(f1 / 2), text


def test_abstaining_is_right_where_nothing_tells_and_wrong_elsewhere() -> None:
    for kind, wins in (("search", False), ("given", False), ("unanswerable", True)):
        info = started(one(kind)).step(call("abstain"))[-1]
        assert info["success"] is wins and info["stop"] == ("success" if wins else "failure")
    env = started(one("unanswerable"))
    info = env.step(call("answer", text=env.question.chain[-1]))[-1]
    assert info["stop"] == "failure" and info["score"] == 0.0


def test_only_searches_cost_and_count() -> None:
    env = started(tasks(ID, "test", 1, kind="search", search_cost=0.25)[0])
    both = json.dumps([{"name": "search", "arguments": {"query": env.question.chain[0]}}] * 2)
    info = env.step(both)[-1]
    assert info["counts"] == {"tool_calls": 2.0, "tool_cost": 0.5}
    info = env.step(call("search", query="?!"))[-1]
    assert info["counts"] == {"tool_calls": 1.0, "tool_cost": 0.25} and not info["admissible"]
    assert env.step(call("answer", text="x"))[-1]["counts"] == {"tool_calls": 0.0, "tool_cost": 0.0}


# ---- measures --------------------------------------------------------------------------------------------


def test_normalisation_and_f1_by_hand() -> None:
    assert normalise("The  Quick, brown-fox of AN Hour.") == "quick brownfox of hour"
    assert exact_match("An Oslo!", "oslo") and not exact_match("Oslo, Norway", "Oslo") and not exact_match("the", "a")
    assert token_f1("red red house", "red house") == pytest.approx(0.8)  # P = 2/3, R = 1
    assert token_f1("blue", "red house") == token_f1("", "") == 0.0


@given(st.lists(st.sampled_from(["red", "old", "house", "hill"]), max_size=5), st.randoms())
def test_f1_is_symmetric_and_knows_no_order(words: list[str], rng: Any) -> None:
    other = rng.sample(["red", "old", "house", "hill", "red"], 3)
    shuffled = rng.sample(words, len(words))
    f1 = token_f1(" ".join(words), " ".join(other))
    assert f1 == pytest.approx(token_f1(" ".join(other), " ".join(shuffled)))


def test_abstention_and_productivity_by_hand() -> None:
    """Three abstentions, two of them right, of four unanswerable questions: P 2/3, R 2/4, F1 4/7."""
    rates = abstention([True, True, True, False, False, False], [False, False, True, False, False, True])
    assert rates == pytest.approx((2 / 3, 1 / 2, 4 / 7))
    assert abstention([False], [True]) == (0.0, 0.0, 0.0)
    assert tool_productivity([True, False, True], [2, 1, 1]) == 0.5
    assert tool_productivity([True], [0]) == math.inf and tool_productivity([False], [0]) == 0.0


GOLD = [{"Name": n, "Year": y, "City": c} for n, y, c in (("a", "1", "x"), ("b", "2", "y"), ("c", "3", "z"))]


def test_widesearch_by_hand() -> None:
    """Two keys of four rows match, one with a wrong cell: 3 + 2 of 12 cells predicted and of 9 in the gold table."""
    predicted = [GOLD[0], GOLD[1] | {"City": "?"}, GOLD[2] | {"Name": "d"}, GOLD[2] | {"Name": "e"}]
    score = widesearch(predicted, GOLD, ["name"])
    assert score.item == pytest.approx((0.416667, 0.555556, 0.476190), abs=1e-6)
    assert score.row == pytest.approx((0.25, 0.333333, 0.285714), abs=1e-6)
    assert not score.success and widesearch(GOLD[::-1], GOLD, ["Name"]).success


def test_widesearch_drops_double_keys_and_refuses_other_columns() -> None:
    assert widesearch([*GOLD, GOLD[0] | {"Year": "9"}], GOLD, ["Name"]).success
    assert widesearch([{"Name": "a", "Year": "1"}], GOLD, ["Name"]) == ((0, 0, 0), (0, 0, 0), False)
    assert not widesearch([], GOLD, ["Name"]).success
    with pytest.raises(ValueError, match="Expected gold rows, key columns among"):
        widesearch(GOLD, GOLD, ["Nam"])


@pytest.mark.parametrize(
    ("metric", "gold", "near", "far"),
    [
        ("number_near", "1,000", "1050", "1051"),
        ("number_near", "50%", "0.52", "53%"),
        ("number_near", "-20", "-19.0", "20"),
        ("date_near", "2024-03-01", "2024-04-01", "2024-04-02"),
        ("url", "https://A.org/x", "see http://a.org/y", "https://b.org/x"),
        ("contains", "Oslo", "in oslo today", "Osl"),
        ("exact", "New  York", " new york", "york"),
    ],
)
def test_cells_are_compared_by_the_metric_of_their_column(metric: str, gold: str, near: str, far: str) -> None:
    for cell, right in ((near, True), (far, False)):
        score = widesearch([{"k": "1", "v": cell}], [{"k": "1", "v": gold}], ["k"], {"v": metric})
        assert score.success is right, cell


# ---- training --------------------------------------------------------------------------------------------


def test_search_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[list[Trajectory], Encoded]] = []

    def spy(played: list[Trajectory], *args: Any) -> Encoded:
        seen.append((played, encode(played, *args)))
        return seen[-1][1]

    encode = trainer.encode
    monkeypatch.setattr(trainer, "encode", spy)
    settings = {"env.id": ID, "env.params": {"kind": "given", "hops": 1, "max_turns": 3}}
    trainer.train(override(recipes.load("toy"), SMALL | settings), tmp_path / "run")
    metrics = Run.open(tmp_path / "run").metrics()
    for name in ("loss", "sft/loss", "grad_norm/policy", "entropy", "gap/max"):
        assert metrics[name] and all(math.isfinite(value) for _, value in metrics[name]), name
    assert len(seen) == 2
    for played, encoded in seen:
        assert not any(t.stop.is_error for t in played), [t.error for t in played if t.error]
        assert_masks(played, encoded)
