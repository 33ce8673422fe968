"""Suites: the files say what the environments list, a change is noticed, training tasks are noticed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_cli import refused, turnwise
from turnwise.envs import registry, tasks
from turnwise.envs.errors import RequestError
from turnwise.training.evaluation import suites
from turnwise.training.run import Run

PARTS = [(name, part) for name in suites.names() for part in suites.load(name).parts]


def test_the_files_are_those_of_the_definitions() -> None:
    assert suites.names() == sorted(suite.name for suite in suites.DEFINED)
    for suite in suites.DEFINED:
        found = suites.load(suite.name)
        bare = tuple(part.model_copy(update={"keys": ()}) for part in found.parts)
        assert found.model_copy(update={"parts": bare}) == suite


@pytest.mark.parametrize(("suite", "part"), PARTS, ids=[f"{suite}, {part.name}" for suite, part in PARTS])
def test_the_environment_lists_the_same_tasks_as_ever(suite: str, part: suites.Part) -> None:
    if reason := registry.spec(part.env).reason():
        pytest.skip(f"{part.env} {reason}")
    found = part.tasks()
    assert len(found) == len(set(part.keys)) == part.count
    trained = tasks(part.env, "train", 200) if "train" in registry.env_class(part.env).splits() else []
    assert part.known_to([t.key for t in trained]) == []


def test_another_task_under_the_same_name_is_refused() -> None:
    part = suites.load("toy").parts[0]
    with pytest.raises(RequestError, match=r"50 tasks .* 1 differ"):
        part.model_copy(update={"keys": ("0" * 16, *part.keys[1:])}).tasks()
    with pytest.raises(RequestError, match="Expected the 49 tasks"):
        part.model_copy(update={"keys": part.keys[1:]}).tasks()


def test_a_suite_is_played_part_by_part(tmp_path: Path) -> None:
    done = turnwise("eval", "expert", "--suite", "toy", "--json", "--out", tmp_path / "kept")
    assert done.code == 0, done.err
    assert (done.json["suite"], done.json["version"]) == ("toy", 1)
    shown = [(p["part"], p["kind"], p["tasks"], p["success"]["mean"], p["contaminated"]) for p in done.json["parts"]]
    assert shown == [
        ("validation", "in distribution", 50, 1.0, 0),
        ("test", "in distribution", 100, 1.0, 0),
        ("six rooms", "unseen families", 100, 1.0, 0),
    ]
    assert sorted(p.name for p in (tmp_path / "kept").iterdir()) == ["six-rooms", "test", "validation"]


def test_a_policy_trained_on_a_part_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from turnwise.training import target

    keys = suites.load("toy").parts[1].keys[:7]
    Run.create(tmp_path / "run", {"train_tasks": list(keys)}).close()
    assert target.trained_on(str(tmp_path / "run")) == list(keys) and target.trained_on("expert") == []
    monkeypatch.setattr(target, "trained_on", lambda _: target.Run.open(tmp_path / "run").card["train_tasks"])
    done = turnwise("eval", "random", "--suite", "toy")
    assert done.out.count("trained on 7 of these tasks") == 1
    found = turnwise("eval", "random", "--suite", "toy", "--json").json["parts"]
    assert [part["contaminated"] for part in found] == [0, 7, 0]


def test_a_part_that_cannot_run_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.EnvSpec, "reason", lambda spec: "needs the moon" if "Toy" in spec.id else "")
    done = turnwise("eval", "expert", "--suite", "toy", "--json")
    assert [part["unavailable"] for part in done.json["parts"]] == ["needs the moon"] * 3
    assert "left out, turnwise/Toy-v0 needs the moon" in done.err


def test_wrong_requests() -> None:
    refused(turnwise("eval", "expert", "--suite", "toyy"), "Unknown suite 'toyy'", "Did you mean 'toy'?")
    refused(turnwise("eval", "expert", "--suite", "toy", "--env", "Toy"), "--suite alone")


def test_files_are_small_and_readable() -> None:
    for path in suites.FOLDER.glob("*.json"):
        assert len(json.loads(path.read_text())["parts"]) >= 1 and path.stat().st_size < 50_000


def test_the_smoke_suite_plays_everywhere_and_its_graders_hold() -> None:
    """Expert wins all, silence and noise nothing, and nothing breaks."""
    for target, won in (("expert", 1.0), ("empty", 0.0), ("malformed", 0.0)):
        parts = turnwise("eval", target, "--suite", "smoke", "--json").json["parts"]
        there = [part for part in parts if "unavailable" not in part]
        assert {part["success"]["mean"] for part in there} == {won}, (target, parts)
        assert sum(part["errors"] for part in there) == 0 and len(there) >= 8
