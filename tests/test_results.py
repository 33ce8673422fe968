"""docs/results.md: made from cards alone, up to date, and every number is the card's."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest
from test_cli import settings, turnwise

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.fixture
def results() -> ModuleType:
    found = importlib.util.spec_from_file_location("results", DOCS / "results.py")
    assert found and found.loader
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(results: ModuleType) -> None:
    assert results.PAGE.read_text() == results.page(), "run python docs/results.py"


def test_a_finished_run_and_an_evaluation_come_into_the_page_by_their_cards(
    results: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "CARDS", tmp_path / "cards")
    done = turnwise("train", "toy", *settings(), "--out", tmp_path / "run", "--json").json
    played = turnwise("eval", "random", "--env", "Toy", "--tasks", "7", "--out", tmp_path / "e", "--json").json
    for folder in (tmp_path / "run", tmp_path / "e"):
        card = json.loads(results.add(folder).read_text())
    assert card["evaluation"]["tasks"]["count"] == 7 and len(card["evaluation"]["tasks"]["sha256"]) == 64
    page = results.page()
    trained, evaluated = (
        next(line for line in page.splitlines() if line.startswith(f"| {name} |")) for name in ("`toy`", "random")
    )
    gain = done["difference"]
    assert f"{100 * gain['mean']:+.1f} [{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}] points" in trained
    assert [float(x) for x in re.findall(r"([\d.]+) % \[", trained)] == pytest.approx(
        [100 * done["before"]["mean"], 100 * done["after"]["mean"]], abs=0.05
    )
    assert f"| 7 | 1 | {100 * played['success']['mean']:.1f} %" in evaluated
    assert "* `run`: " in page and "turnwise/Toy-v0" in trained


def test_a_run_without_results_is_refused(results: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text("{}")
    with pytest.raises(SystemExit, match="finished run"):
        results.add(tmp_path)
