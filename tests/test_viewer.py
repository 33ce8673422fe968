"""The viewer: what its pages say is what was recorded, whatever a model wrote is text, nothing outside is read."""

from __future__ import annotations

import json
import re
import shutil
import socket
import sqlite3
import threading
import time
from array import array
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_cli import settings, turnwise
from turnwise.agents.trajectory import Trajectory, Turn
from turnwise.envs.chromium import program
from turnwise.envs.core import StopReason
from turnwise.envs.errors import RequestError
from turnwise.envs.task import Task
from turnwise.training.evaluation.store import outcomes
from turnwise.training.run import Run

fastapi = pytest.importorskip("fastapi")
from fastapi.testclient import TestClient  # noqa: E402
from turnwise.training.viewer import commands, episodes, folders, guard, seeds, summary, tree  # noqa: E402
from turnwise.training.viewer.app import create_app  # noqa: E402

EVIL = "<script>window.hacked = 1</script><img src=x onerror='window.hacked=1'>"
MANY = 100_000


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two real runs, one of them in a deeper folder."""
    folder = tmp_path_factory.mktemp("viewed")
    alarm = 'alarms=[{"metric": "entropy", "above": 0.0, "steps": 2}]'
    assert turnwise("train", "toy", *settings(alarm), "--out", folder / "one").code == 0
    assert turnwise("train", "toy", *settings("seed=7"), "--out", folder / "deep" / "two").code == 0
    return folder


def client(folder: Path, host: str = "127.0.0.1") -> TestClient:
    return TestClient(create_app(folder, host), base_url="http://127.0.0.1:8765", raise_server_exceptions=True)


def played(key: str, won: bool, text: str = "look", copy: int = 0) -> Trajectory:
    turn = Turn(observation=f"see {text}", anchor="see", action=text, reward=float(won), score=float(won), valid=True,
                admissible=True, counts={"violations": 2.0})  # fmt: skip
    task = Task(env="turnwise/Toy-v0", seed=1, max_turns=3, split="test", params={"name": key})
    stop = StopReason.SUCCESS if won else StopReason.TURN_LIMIT
    return Trajectory(task=task, agent="x", turns=(turn,), final_observation=text, stop=stop, success=won,
                      score=float(won), copy_index=copy)  # fmt: skip


def small_run(folder: Path, wins: dict[str, bool], text: str = "look", metrics: dict[str, float] | None = None) -> Run:
    run = Run.create(folder, {"recipe": {"name": "r", "env": {"id": "E"}, "algorithm": text, "seed": 1}})
    run.record(1, "eval", metrics or {}, [played(key, won, text) for key, won in wins.items()])
    return run


# ---------------------------------------------------------------- what the pages say


def test_the_list_has_each_run_with_its_last_evaluation(root: Path) -> None:
    page = client(root).get("/").text
    for name in ("one", "deep/two"):
        run = Run.open(root / name)
        at = {metric: values[-1][1] for metric, values in run.metrics().items() if metric.startswith("eval/")}
        run.close()
        expected = f"{100 * at['eval/success']:.1f} % [{100 * at['eval/low']:.1f}, {100 * at['eval/high']:.1f}]"
        row = next(r for r in page.split("<tr") if f">{name}</a>" in r)
        assert "turnwise/Toy-v0" in row and "grpo" in row and expected in row
        assert re.search(r'class="number">2</td>', row)


def test_curves_are_the_recorded_numbers(root: Path) -> None:
    data = client(root).get("/api/run", params={"run": "one", "metric": "loss/policy"}).json()
    run = Run.open(root / "one")
    metrics = run.metrics()
    run.close()
    charts = {chart["title"]: {line["name"]: line for line in chart["lines"]} for chart in data["charts"]}
    success = charts["Success, held-out with 95 % interval over tasks"]
    assert list(zip(success["training"]["x"], success["training"]["y"], strict=True)) == metrics["success"]
    held = success["held-out"]
    assert list(zip(held["x"], held["y"], strict=True)) == metrics["eval/success"]
    assert [y + up for y, up in zip(held["y"], held["up"], strict=True)] == pytest.approx(
        [v for _, v in metrics["eval/high"]]
    )
    assert [y - down for y, down in zip(held["y"], held["down"], strict=True)] == pytest.approx(
        [v for _, v in metrics["eval/low"]]
    )
    assert charts["loss/policy"]["loss/policy"]["y"] == [v for _, v in metrics["loss/policy"]]
    assert charts["Policy entropy"]["entropy"]["y"] == [v for _, v in metrics["entropy"]]
    assert [a.split(" was")[0] for a in data["alarms"]] == ["entropy"] and "(step 2) (warn)" in data["alarms"][0]


def test_numbers_that_json_lacks_become_gaps(tmp_path: Path) -> None:
    small_run(tmp_path / "r", {}, metrics={"entropy": float("inf"), "turns": float("nan"), "score": 1.5}).close()
    charts = client(tmp_path).get("/api/run", params={"run": "r", "metric": "score"}).json()["charts"]
    assert {chart["title"]: chart["lines"][0]["y"] for chart in charts} == {
        "Policy entropy": [None], "Turns per episode": [None], "score": [1.5],
    }  # fmt: skip


def test_an_evaluation_folder_is_shown_without_metrics(tmp_path: Path) -> None:
    assert turnwise("eval", "random", "--env", "Toy", "--tasks", 5, "--out", tmp_path / "e").code == 0
    page = client(tmp_path).get("/").text
    assert "evaluation of random" in page and "5 tasks" in page
    charts = client(tmp_path).get("/api/run", params={"run": "e"}).json()["charts"]
    wins = [any(trials) for trials in outcomes(tmp_path / "e").values()]
    assert [line["y"] for chart in charts for line in chart["lines"]] == [[sum(wins) / 5]]


def test_a_live_run_shows_each_new_step(tmp_path: Path) -> None:
    run = small_run(tmp_path / "r", {"a": True}, metrics={"success": 0.25})
    asking = client(tmp_path)
    first = asking.get("/api/run", params={"run": "r"}).json()
    assert first["live"] and first["step"] == 1
    assert asking.get("/api/run", params={"run": "r", "stamp": first["stamp"]}).status_code == 204
    run.record(2, "train", {"success": 0.75}, [played("b", True)])
    second = asking.get("/api/run", params={"run": "r", "stamp": first["stamp"]}).json()
    assert second["step"] == 2 and second["charts"][0]["lines"][0]["y"] == [0.25, 0.75]
    assert len(re.findall('<tr class="row">', asking.get("/episodes", params={"run": "r"}).text)) == 2
    run.close()


def test_a_run_is_opened_for_reading_only(root: Path) -> None:
    with folders.reading(folders.find(root)["one"]) as run, pytest.raises(sqlite3.OperationalError, match="readonly"):
        run.db.execute("DELETE FROM steps")


def test_the_reader_shows_the_tokens_of_the_episode(root: Path) -> None:
    page = client(root).get("/episode", params={"run": "one", "id": 1}).text
    db = sqlite3.connect(root / "one" / "run.sqlite")
    stored = [row[0] for row in db.execute("SELECT logprobs FROM tokens WHERE episode = 1 ORDER BY turn")]
    observations = [row[0] for row in db.execute("SELECT observation FROM turns WHERE episode = 1 ORDER BY turn")]
    db.close()
    expected = [value for blob in stored for value in array("f", blob)]
    shown = [float(value) for value in re.findall(r'data-logp="([^"]*)"', page)]
    assert shown == pytest.approx(expected) and len(shown) > 2
    assert all(text.strip() in unescape(page) for text in observations)
    tokenless = re.findall(r'class="token"[^>]*>#\d+<', page)
    assert not tokenless and "data-shade" in page and "entropy" not in page


def test_tokens_without_a_tokenizer_are_shown_by_id(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "one", tmp_path / "bare", ignore=shutil.ignore_patterns("checkpoints"))
    page = client(tmp_path).get("/episode", params={"run": "bare", "id": 1}).text
    assert re.search(r'class="token"[^>]*>#\d+<', page) and "shown by id" in page


def test_shades_are_offered_only_where_tokens_were_recorded(tmp_path: Path) -> None:
    small_run(tmp_path / "r", {"a": True}).close()
    page = client(tmp_path).get("/episode", params={"run": "r", "id": 1}).text
    assert "data-shade" not in page and "violations 2.0" in page and "reward +1" in page


def test_training_episodes_can_be_shaded_by_what_the_update_made_of_them(root: Path) -> None:
    db = sqlite3.connect(root / "one" / "run.sqlite")
    (id,) = db.execute("SELECT id FROM episodes WHERE phase = 'train' AND step = 1 ORDER BY id LIMIT 1").fetchone()
    rows = db.execute("SELECT output, advantage, coefficient, entropy FROM tokens JOIN shades USING (episode, turn) "
                      "WHERE episode = ? ORDER BY turn", (id,)).fetchall()  # fmt: skip
    db.close()
    page = client(root).get("/episode", params={"run": "one", "id": id}).text
    assert re.findall(r'data-shade="(\w+)"', page) == ["logp", "p", "entropy", "advantage", "coefficient"]
    for column, name in enumerate(("advantage", "coefficient", "entropy"), 1):
        expected = [value for row in rows for value in array("f", row[column])]
        shown = [float(value) for value in re.findall(f' data-{name}="([^"]*)"', page)]
        assert shown == pytest.approx(expected) and len(shown) == sum(len(array("i", row[0])) for row in rows) > 2
    assert all(value > 0 for value in array("f", rows[0][3]))  # nats of a policy that is not sure


def test_a_run_of_another_version_says_so_and_hides_no_other(tmp_path: Path) -> None:
    for name in ("old", "good"):
        run = small_run(tmp_path / name, {"a": True})
        if name == "old":
            run.db.execute("PRAGMA user_version=0")
        run.close()
    page = client(tmp_path).get("/").text
    assert ">good</a>" in page and page.count("another version of turnwise wrote it") == 1
    assert client(tmp_path).get("/episode", params={"run": "good", "id": 1}).status_code == 200
    with pytest.raises(RequestError, match=r"format 1 in .*old, got 0"):
        Run.open(tmp_path / "old")


def test_reward_parts_stand_at_their_turn(tmp_path: Path) -> None:
    rewards = {"outcome": 2.0, "step_cost": 0.25, "of_my_own": 1.0}
    run = Run.create(tmp_path / "r", {"recipe": {"name": "r", "rewards": rewards}})
    won = played("a", True)
    first = won.turns[0].model_copy(update={"reward": 0.0})
    run.record(1, "train", {}, [won.model_copy(update={"turns": (first, *won.turns)})])
    run.close()
    page = client(tmp_path).get("/episode", params={"run": "r", "id": 1}).text
    shown = [re.findall(r"(outcome|step_cost|of_my_own) ([+-][\d.]+)", text) for text in page.split('id="turn-')[1:]]
    assert shown == [[("step_cost", "-0.25")], [("outcome", "+2"), ("step_cost", "-0.25")]]


@pytest.mark.parametrize(
    ("part", "expected"),
    [("outcome", [1]), ("progress", [1, 3]), ("invalid_penalty", [2]), ("inadmissible_penalty", [3]),
     ("violation_penalty", [1, 3])],
)  # fmt: skip
def test_episodes_are_found_by_reward_part(tmp_path: Path, part: str, expected: list[int]) -> None:
    run = Run.create(tmp_path / "r", {"recipe": {"name": "r"}})
    lost = played("b", False)
    still = lost.turns[0].model_copy(update={"valid": False, "counts": {}})
    wrong = lost.turns[0].model_copy(update={"reward": 0.5, "admissible": False})
    lost_ones = [lost.model_copy(update={"turns": (turn,)}) for turn in (still, wrong)]
    run.record(1, "train", {}, [played("a", True), *lost_ones])
    assert [row["id"] for row in episodes.page(run.db, episodes.Filter(part=part)).rows] == expected
    run.close()
    site = client(tmp_path)
    assert site.get("/episodes", params={"run": "r", "part": part}).text.count('class="row"') == len(expected)
    assert site.get("/episodes", params={"run": "r", "part": "1; DROP TABLE turns"}).status_code == 400


def branch(id: int, actions: str, won: bool = False, score: float = 0.0) -> tree.Branch:
    return tree.Branch(id, tuple(actions), won, score, "success" if won else "failure")


def test_a_tree_merges_equal_beginnings() -> None:
    root = tree.tree([branch(1, "abc", True, 1.0), branch(2, "abd", False, 0.5), branch(3, "x"), branch(4, "ab")])
    assert (root.visits, root.wins, root.score) == (4, 1, 0.375)
    ab, x = root.children
    assert (ab.actions, ab.visits, ab.wins, ab.score, [b.id for b in ab.ends]) == (("a", "b"), 3, 1, 0.5, [4])
    assert [(n.actions, [b.id for b in n.ends]) for n in ab.children] == [(("c",), [1]), (("d",), [2])]
    assert (x.actions, [b.id for b in x.ends], x.children) == (("x",), [3], [])


@given(st.lists(st.text("ab", max_size=4), min_size=1, max_size=12))
def test_every_episode_is_found_in_the_tree_by_its_actions(words: list[str]) -> None:
    def ends(node: tree.Node, above: tuple[str, ...]) -> Iterator[tuple[int, tuple[str, ...]]]:
        here = above + node.actions
        yield from ((b.id, here) for b in node.ends)
        assert node.visits == len(node.ends) + sum(child.visits for child in node.children)
        for child in node.children:
            yield from ends(child, here)

    assert sorted(ends(tree.tree([branch(i, word) for i, word in enumerate(words)]), ())) == [
        (i, tuple(word)) for i, word in enumerate(words)
    ]


def test_the_tree_page_joins_retries_to_their_base(tmp_path: Path) -> None:
    run = small_run(tmp_path / "r", {"a": True})
    base = played("a", False)
    run.record(2, "train", {}, [base])
    run.record(2, "retry", {}, [base.model_copy(update={"turns": (*base.turns, *played("a", True, "<b>x</b>").turns)})])
    run.close()
    page = client(tmp_path).get("/tree", params={"run": "r", "id": 3}).text
    assert "2 episodes, 0 won" in page and re.findall(r'id=(\d+)">\d+</a> <span class="badge', page) == ["3", "2"]
    assert "<b>x" not in page and "&lt;b&gt;x&lt;/b&gt;" in page
    assert client(tmp_path).get("/tree", params={"run": "r", "id": 99}).status_code == 404


def test_a_group_has_every_episode_of_the_task_and_no_other(tmp_path: Path) -> None:
    run = small_run(tmp_path / "r", {"a": True, "b": False})
    run.record(2, "train", {}, [played("a", won, copy=i) for i, won in enumerate((True, False, True))])
    run.close()
    page = client(tmp_path).get("/group", params={"run": "r", "id": 4}).text
    assert re.findall(r'id=(\d+)">\d+</a>', page) == ["3", "4", "5"] and "3 episodes, 2 won" in page


def test_flips_are_linked_to_both_episodes(tmp_path: Path) -> None:
    small_run(tmp_path / "a", {"x": True, "y": False, "z": True}).close()
    small_run(tmp_path / "b", {"y": True, "x": False, "z": True}).close()
    keys = {name: played(name, True).task.key for name in "xyz"}
    page = client(tmp_path).get("/compare", params={"run": ["a", "b"]}).text
    tables = dict(re.findall(r'<table class="flips" id="(\w+)">(.*?)</table>', page, re.DOTALL))
    found = {
        kind: re.findall(r'mono">(\w+)</td>.*?id=(\d+)".*?id=(\d+)"', rows, re.DOTALL) for kind, rows in tables.items()
    }
    assert found == {"f2p": [(keys["y"], "2", "1")], "p2f": [(keys["x"], "1", "2")], "p2p": [(keys["z"], "3", "3")]}


def test_compared_curves_keep_the_colour_of_their_run(root: Path, tmp_path: Path) -> None:
    charts = client(root).get("/api/compare", params={"run": ["one", "deep/two"], "metric": "loss"}).json()["charts"]
    assert [chart["title"] for chart in charts][-1] == "loss"
    assert all([(line["name"], line["colour"]) for line in c["lines"]] == [("one", 0), ("deep/two", 1)] for c in charts)
    small_run(tmp_path / "a", {"x": True}).close()
    small_run(tmp_path / "b", {"q": True}, metrics={"entropy": 1.0}).close()
    assert "share no task" in client(tmp_path).get("/compare", params={"run": ["a", "b"]}).text
    charts = client(tmp_path).get("/api/compare", params={"run": ["a", "b"]}).json()["charts"]
    assert [line["colour"] for line in charts[-1]["lines"]] == [1]
    for runs in (["a"], ["a", "b", "a"]):
        answer = client(tmp_path).get("/compare", params={"run": runs})
        assert answer.status_code == 400 and f"got {len(runs)}" in answer.text


# ---------------------------------------------------------------- seeds


def seeded(folder: Path, seed: int, held_out: float, steps: int = 2, algorithm: str = "a") -> None:
    run = Run.create(folder, {"recipe": {"name": "r", "env": {"id": "E"}, "algorithm": algorithm, "seed": seed}})
    for step in range(1, steps + 1):
        run.record(step, "train", {"success": 0.1 * step, "entropy": 1.0})
        found = held_out if step == steps else 0.0
        run.record(step, "eval", {"eval/success": found, "eval/low": found / 2, "eval/high": 1.0})
    run.close()


def test_the_mean_over_seeds_has_the_interval_of_few_runs() -> None:
    found = seeds.across([[(1, 0.2), (2, 0.5)], [(1, 0.4), (2, 0.5), (3, 9.0)], [(1, 0.6), (4, 7.0)]])
    assert [step for step, _ in found] == [1, 2]  # one run is no mean
    (_, first), (_, second) = found
    # mean .4, sd .2, t(.975, 2) = 4.30265: half width .2 * 4.30265 / sqrt(3) = .49683; two equal ones: 0
    assert (first.mean, first.low, first.high) == pytest.approx((0.4, -0.09683, 0.89683), abs=1e-5)
    assert (second.mean, second.low, second.high, second.tasks) == (0.5, 0.5, 0.5, 2)


@given(st.permutations([[(1, 0.2)], [(1, 0.4)], [(1, 0.9), (2, 0.1)], [(2, 0.3)]]))
def test_the_order_of_seeds_does_not_matter(series: list[list[tuple[int, float]]]) -> None:
    expected = seeds.across([[(1, 0.2)], [(1, 0.4)], [(1, 0.9), (2, 0.1)], [(2, 0.3)]])
    for (step, found), (at, wanted) in zip(seeds.across(series), expected, strict=True):
        assert step == at and found == pytest.approx(wanted)


def test_runs_of_one_recipe_are_shown_over_each_other(tmp_path: Path) -> None:
    for seed, held_out in enumerate((0.2, 0.4, 0.6)):
        seeded(tmp_path / f"s{seed}", seed, held_out)
    seeded(tmp_path / "longer", 3, 0.9, steps=3)
    seeded(tmp_path / "other", 0, 0.9, algorithm=EVIL)
    small_run(tmp_path / "alone", {"a": True}).close()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "card.json").write_text("{")
    (tmp_path / "bad" / "run.sqlite").write_bytes(b"")
    site = client(tmp_path)
    assert site.get("/").text.count(">4 seeds</a>") == 4 and ">4 seeds</a>" in site.get("/run?run=s1").text
    assert "seeds</a>" not in site.get("/run?run=other").text + site.get("/run?run=alone").text
    page = unescape(site.get("/seeds?run=s1").text)
    assert "of 3 runs after step 2" not in page and "of 4 runs after step 2" in page  # step 3 has one run alone
    assert "30.0 % [-11.1, 71.1]" in page  # of 0, .2, .4, .6: sd .25820, t(.975, 3) = 3.18245
    assert page.count('class="row"') == 4
    charts = {chart["title"]: chart for chart in site.get("/api/seeds?run=s1").json()["charts"]}
    lines = charts["Held-out success"]["lines"]
    assert [line["name"] for line in lines] == ["longer", "s0", "s1", "s2", seeds.MEAN]
    assert lines[-1]["x"] == [1, 2] and lines[-1]["y"] == pytest.approx([0.0, 0.3]) and "up" not in lines[0]
    seeded(tmp_path / "twin", 9, 0.9, algorithm=EVIL)
    assert "90.0 %, no spread among them" in site.get("/seeds?run=other").text  # no interval of no width
    assert site.get("/seeds?run=other").status_code == 200 and EVIL not in site.get("/seeds?run=other").text
    assert site.get("/seeds?run=nowhere").status_code == 404


# ---------------------------------------------------------------- many episodes


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    run = Run.create(folder / "big", {"recipe": {"name": "big", "env": {"id": "E"}, "algorithm": "a", "seed": 0}})
    rows = (
        (i // 1000 + 1, "eval" if i % 10 == 0 else "train", f"task{i % 500}", i // 8, i % 8, i,
         "success" if i % 3 == 0 else "turn_limit", int(i % 3 == 0), 1.0, 1.0, 1, i % 5, 0.1, None, "end", "{}")
        for i in range(MANY)
    )  # fmt: skip
    with run.db:
        run.db.executemany(f"INSERT INTO episodes VALUES (NULL{', ?' * 16})", rows)
        run.db.executemany("INSERT INTO steps VALUES (?, 'train', ?)", [(s, time.time()) for s in range(1, 101)])
    run.close()
    return folder


@pytest.mark.parametrize(
    "chosen",
    [
        episodes.Filter(),
        episodes.Filter(step=3, phase="eval"),
        episodes.Filter(stop="success", success=1),
        episodes.Filter(task="task499"),
        episodes.Filter(part="inadmissible_penalty"),
        episodes.Filter(step=100, phase="train", task="task7", stop="turn_limit", success=0),
    ],
)
def test_pages_walk_through_exactly_what_the_filter_lets_through(many: Path, chosen: episodes.Filter) -> None:
    where = (
        [
            f"{column} = {value!r}"
            for column, value in chosen._asdict().items()
            if column not in ("task", "part") and value not in ("", None)
        ]
        + ([f"task LIKE '%{chosen.task}%'"] if chosen.task else [])
        + (["parts = 4"] if chosen.part else [])
    )
    with folders.reading(folders.find(many)["big"]) as run:
        query = f"SELECT id FROM episodes WHERE {' AND '.join(where) or 1} ORDER BY id"
        expected = [row[0] for row in run.db.execute(query)]
        first = episodes.page(run.db, chosen)
        second = episodes.page(run.db, chosen, after=first.rows[-1]["id"])
        back = episodes.page(run.db, chosen, before=second.rows[0]["id"]) if second.rows else first
        last = episodes.page(run.db, chosen, before=2**63 - 1)
    assert [row["id"] for row in first.rows + second.rows] == expected[:100]
    assert [row["id"] for row in last.rows] == expected[-50:]
    assert back.rows == first.rows and not back.earlier
    assert (first.later, last.later, last.earlier) == (len(expected) > 50, False, len(expected) > 50)


@pytest.mark.parametrize("forward", [True, False])
@pytest.mark.parametrize("chosen", [episodes.Filter(), episodes.Filter(step=3), episodes.Filter(step=3, phase="eval")])
def test_a_page_is_found_by_an_index(many: Path, chosen: episodes.Filter, forward: bool) -> None:
    query, values = episodes.page_query(chosen, forward=forward)
    with folders.reading(folders.find(many)["big"]) as run:
        plan = [row[3] for row in run.db.execute(f"EXPLAIN QUERY PLAN {query}", (*values, 500, 51))]
        assert run.db.execute("SELECT COUNT(*) FROM episodes").fetchone() == (MANY,)
    assert plan[0].startswith("SEARCH episodes USING")
    assert "PRIMARY KEY" in plan[0] or "episodes_by_step (step=?" in plan[0]


def test_only_one_page_of_rows_is_fetched(many: Path) -> None:
    counted = []
    with folders.reading(folders.find(many)["big"]) as run:
        run.db.row_factory = lambda cursor, row: counted.append(1) or row
        page = episodes.page(run.db, episodes.Filter(), after=50_000)
    assert len(page.rows) == episodes.PAGE and len(counted) <= episodes.PAGE + 2
    answer = client(many).get("/episodes", params={"run": "big", "after": 50_000}).text
    assert re.findall(r'<td class="number"><a href="[^"]*id=(\d+)"', answer) == [str(i) for i in range(50_001, 50_051)]


# ---------------------------------------------------------------- what must not happen


def test_markup_of_models_games_and_folders_stays_text(tmp_path: Path) -> None:
    name = "<b onmouseover=alert(1)>&'\" x"
    run = small_run(tmp_path / name, {"a": True}, EVIL)
    run.db.execute("UPDATE episodes SET task = ?, error = ?", (EVIL, EVIL))
    run.db.commit()
    run.close()
    asking = client(tmp_path)
    pages = [
        asking.get("/"), asking.get("/run", params={"run": name}),
        asking.get("/episodes", params={"run": name, "task": "<"}),
        asking.get("/episode", params={"run": name, "id": 1}), asking.get("/group", params={"run": name, "id": 1}),
        asking.get("/compare", params={"run": [name, name]}), asking.get("/run", params={"run": EVIL}),
    ]  # fmt: skip
    for page in pages:
        assert "<script>" not in page.text and "<img" not in page.text and "<b onmouse" not in page.text
        assert "script-src 'self';" in page.headers["content-security-policy"]
    assert [page.status_code for page in pages] == [200] * 6 + [404]
    assert EVIL in unescape(pages[3].text)
    (target,) = re.findall(r'<td><a href="(/run\?[^"]*)"', pages[0].text)
    assert asking.get(unescape(target)).status_code == 200


@pytest.mark.parametrize("name", ["../outside", "..", "/", "one/../../outside", "", "one/", "%2e%2e/outside", "linked"])
def test_only_found_runs_can_be_named(tmp_path: Path, name: str) -> None:
    small_run(tmp_path / "outside", {"secret": True}).close()
    small_run(tmp_path / "in" / "one", {"a": True}).close()
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "outside")
    halfway = tmp_path / "in" / "half"
    halfway.mkdir()
    for file in ("card.json", "run.sqlite"):
        (halfway / file).symlink_to(tmp_path / "outside" / file)
    assert list(folders.find(tmp_path / "in")) == ["one"]
    asking = client(tmp_path / "in")
    for path in ("/run", "/api/run", "/episodes", "/episode", "/group"):
        assert asking.get(path, params={"run": name, "id": 1}).status_code == 404
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static//etc/passwd"):
        assert asking.get(path).status_code == 404


def test_wrong_requests_get_an_answer(root: Path) -> None:
    asking = client(root)
    assert asking.get("/episode", params={"run": "one", "id": 10**9}).status_code == 404
    assert asking.get("/episode", params={"run": "one", "id": 2**70}).status_code == 422
    for query in ({"step": "x"}, {"success": "no"}, {"step": "9" * 30}):
        assert asking.get("/episodes", params={"run": "one", **query}).status_code == 400
    answer = asking.get("/episodes", params={"run": "one", "task": "' OR 1 --", "phase": "\x00", "stop": "%"})
    assert answer.status_code == 200 and "No episode" in answer.text


def test_a_broken_run_hides_no_other(tmp_path: Path) -> None:
    small_run(tmp_path / "good", {"a": True}).close()
    for name, card, data in (("card", "{", None), ("db", "{}", b"no database at all" * 100), ("list", "[]", None)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "card.json").write_text(card)
        (tmp_path / name / "run.sqlite").write_bytes(data or b"")
    page = client(tmp_path).get("/")
    assert page.status_code == 200 and ">good</a>" in page.text
    assert page.text.count("cannot be read") == 2 and "expected a JSON object" in page.text
    assert client(tmp_path).get("/run", params={"run": "db"}).status_code == 500


def test_an_empty_folder_says_what_to_do(tmp_path: Path) -> None:
    assert "turnwise train" in client(tmp_path).get("/").text


@pytest.mark.parametrize(
    ("header", "bound", "allowed"),
    [
        ("127.0.0.1:8765", "127.0.0.1", True), ("localhost", "127.0.0.1", True), ("[::1]:80", "127.0.0.1", True),
        ("evil.example:8765", "127.0.0.1", False), ("127.0.0.1.evil.example", "127.0.0.1", False),
        ("", "127.0.0.1", False),
        ("10.0.0.5:8765", "127.0.0.1", False), ("10.0.0.5:8765", "0.0.0.0", True), ("evil.example", "0.0.0.0", False),
        (socket.gethostname(), "0.0.0.0", True), ("[", "127.0.0.1", False), ("gym.lan", "gym.lan", True),
    ],
)  # fmt: skip
def test_names_of_other_sites_are_refused(header: str, bound: str, allowed: bool) -> None:
    assert guard.allowed_host(header, bound) is allowed


def test_a_rebound_name_gets_nothing(root: Path) -> None:
    answer = client(root).get("/", headers={"host": "evil.example"})
    assert answer.status_code == 400 and "one" not in answer.text.split()


def test_the_command_refuses_what_it_cannot_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = turnwise("view", tmp_path / "none")
    assert done.code == 2 and "Expected a folder with runs" in done.err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = turnwise("view", tmp_path, "--port", port)
    assert done.code == 2 and f"port {port}" in done.err and "--port" in done.err
    monkeypatch.setattr(commands, "find_spec", lambda name: None if name == "fastapi" else object())
    done = turnwise("view", tmp_path)
    assert done.code == 2 and "needs fastapi: pip install 'turnwise[train,web]'" in done.err


def test_the_command_says_where_and_warns_when_open_to_others(tmp_path: Path) -> None:
    with mock.patch("uvicorn.Server.run", side_effect=KeyboardInterrupt) as run:
        done = turnwise("view", tmp_path, "--port", 0, "--host", "0.0.0.0", "--json")
    assert run.called and done.code == 0 and "whoever can reach 0.0.0.0" in done.err
    assert re.fullmatch(r"http://0\.0\.0\.0:\d+/", json.loads(done.out)["url"])


def test_series_of_a_run_without_intervals_are_left_out(tmp_path: Path) -> None:
    run = small_run(tmp_path / "r", {"a": True}, metrics={"eval/success": 1.0})
    assert summary.held_out_series(run) == []
    run.close()


# ---------------------------------------------------------------- in a browser


@pytest.fixture
def served(root: Path) -> Iterator[str]:
    import uvicorn

    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(create_app(root), log_level="error", access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        server.should_exit = True
        thread.join(10)


@pytest.mark.skipif(not program(), reason="needs Chromium")
def test_a_user_opens_filters_reads_with_keys_and_compares(served: str, root: Path) -> None:
    sync = pytest.importorskip("playwright.sync_api")
    trouble: list[Any] = []
    with sync.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program(), args=["--no-sandbox"])
        page = browser.new_page()
        page.on("console", lambda m: trouble.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.goto(served)
        page.get_by_role("link", name="one", exact=True).click()
        page.wait_for_selector(".chart .scatterlayer .errorbar")
        page.get_by_text("Other metrics").click()
        page.get_by_label("approx_kl").check()
        page.wait_for_selector('.chart[data-title="approx_kl"] .scatterlayer .trace', state="attached")
        page.get_by_role("link", name="episodes").click()
        page.wait_for_selector("#episodes")
        page.wait_for_load_state()
        page.keyboard.press("/")
        assert page.evaluate("document.activeElement.id") == "filter"
        page.select_option("select[name=phase]", "train")
        page.get_by_role("button", name="Filter").click()
        page.wait_for_url("**phase=train**")
        assert set(page.locator("#episodes tr.row td:nth-child(3)").all_inner_texts()) == {"train"}
        ids = page.locator("#episodes tr.row td:first-child").all_inner_texts()
        for key in ("j", "j", "k", "Enter"):
            page.keyboard.press(key)
        page.wait_for_selector(".turn .token")
        page.wait_for_load_state()
        assert page.locator("h1").inner_text().split()[1] == ids[0]
        page.keyboard.press("n")
        assert page.locator(".turn.chosen").get_attribute("id") == "turn-0"
        page.keyboard.press("n")
        page.keyboard.press("p")
        assert page.locator(".turn.chosen").get_attribute("id") == "turn-0"
        by_logp = page.locator(".token").first.evaluate("t => t.style.background")
        page.get_by_role("button", name="probability").click()
        assert page.locator(".token").first.evaluate("t => t.style.background") != by_logp
        with page.expect_navigation():
            page.keyboard.press("j")
        assert page.locator("h1").inner_text().split()[1] == ids[1]
        page.keyboard.press("?")
        assert page.locator("#help").is_visible()
        page.keyboard.press("Escape")
        assert not page.locator("#help").is_visible()
        page.goto(served)
        for name in ("deep/two", "one"):
            page.get_by_label(f"compare {name}", exact=True).check()
        page.get_by_role("button", name="Compare two").click()
        page.wait_for_selector(".chart .legendtext")
        assert page.locator("h1").inner_text() == "deep/two → one"
        assert page.locator(".chart").first.locator(".legendtext").all_text_contents() == ["deep/two", "one"]
        browser.close()
    assert not trouble
