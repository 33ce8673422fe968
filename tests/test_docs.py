"""docs/: the generated page equals what the code says, the glossary has every metric, tables are those of the code."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from turnwise.envs import env_class, specs
from turnwise.envs.check import INFO_TYPES, PROMISES
from turnwise.training import recipes, trainer
from turnwise.training.algorithms import describe
from turnwise.training.config import override, parse_settings
from turnwise.training.run import Run

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
TINY = [
    "algorithm=ppo", "params.epo_lambda=0.01", "params.epo_kappa_l=0.5", "params.beta=0.01",
    "params.entropy_coef=0.001",
    "rl.steps=2", "rl.tasks_per_step=3", "rl.samples_per_task=2", "env.train_tasks=20", "env.eval_tasks=4",
    "sft.demos=24", "sft.epochs=1", "engine.threads=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which every additive term is on, at the place that the page's code reads."""
    folder = tmp_path_factory.mktemp("docs") / "runs" / "toy-1"
    trainer.train(override(recipes.load("toy"), parse_settings(TINY)), folder)
    return folder


def generator() -> object:
    found = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert found and found.loader
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def names_in_first_column(text: str) -> list[str]:
    rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row)]


def section(page: str, title: str) -> str:
    return re.split(r"\n## ", (DOCS / page).read_text().split(f"\n## {title}\n")[1])[0]


def test_generated_pages_are_up_to_date() -> None:
    assert not generator().outdated(), "run python docs/generate.py"  # type: ignore[attr-defined]


def test_an_outdated_page_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = generator()
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("<!-- tree -->\nold\n<!-- end -->\n")
    for page in ("algorithms.md", "recipes.md"):
        (tmp_path / "docs" / page).write_text((DOCS / page).read_text())
    for folder in ("envs", "agents", "rewards", "training"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    assert [path.name for path in module.outdated()] == ["README.md"]  # type: ignore[attr-defined]
    assert module.main(check=True) == 1 and "old" in (tmp_path / "README.md").read_text()  # type: ignore[attr-defined]
    assert module.main(check=False) == 0 and module.main(check=True) == 0  # type: ignore[attr-defined]


def test_every_row_has_formula_paper_defaults_and_what_was_left_out() -> None:
    for row in describe():
        text = section("algorithms.md", row["name"])
        assert row["paper"] in text and row["source"] in text and row["left_out"] in text
        assert f"Unit: {row['unit']}" in text and all(f"`{need}`" in text for need in row["needs"])
        assert re.search(r"^    .*A", text, re.MULTILINE), "no formula"
        common = names_in_first_column(section("algorithms.md", "Parameters every row takes"))
        assert set(row["params"]) <= set(names_in_first_column(text)) | set(common)


def test_the_glossary_and_a_run_have_the_same_metrics(run_folder: Path) -> None:
    run = Run.open(run_folder)
    logged = {re.sub(r"^stop/.*", "stop/REASON", name) for name in run.metrics()}
    run.close()
    assert set(names_in_first_column(section("runs.md", "Metrics"))) == logged


def test_the_database_is_described_as_it_is(run_folder: Path) -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", section("runs.md", "The database"), re.MULTILINE))
    run = Run.open(run_folder)
    tables = [name for (name,) in run.db.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")]
    assert sorted(rows) == sorted(name for name in tables if not name.startswith("sqlite_"))
    for table, text in rows.items():
        columns = {row[1] for row in run.db.execute(f"PRAGMA table_info({table})")}
        assert columns <= set(re.findall(r"`(\w+)`", text)), table
    run.close()


def test_the_files_of_a_run_are_described(run_folder: Path) -> None:
    text = (DOCS / "runs.md").read_text()
    suffixes = {".sqlite-wal", ".sqlite-shm"}
    for path in run_folder.iterdir():
        assert path.suffix in suffixes or path.name in text
    assert "step-0" in {path.name for path in (run_folder / "checkpoints").iterdir()}


def test_the_code_of_the_run_page_runs(run_folder: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)\n```", (DOCS / "runs.md").read_text(), re.DOTALL)
    told = code + "\nassert [step for step, _ in curve] == [1, 2]; print(len(lost))"
    done = subprocess.run(
        [sys.executable, "-c", told], cwd=run_folder.parent.parent, capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stderr


def test_environments_and_promises_are_those_of_the_code() -> None:
    text = (DOCS / "environments.md").read_text()
    assert set(re.findall(r"^## (turnwise/\S+)", text, re.MULTILINE)) == set(specs())
    shown = re.findall(r"^\| ([a-z, ]+) \|", section("environments.md", "The conformance kit"), re.MULTILINE)
    assert {name for row in shown for name in row.split(", ")} - {"promise"} == set(PROMISES)
    contract = section("environments.md", "The contract")
    assert set(INFO_TYPES) <= set(names_in_first_column(contract))


@pytest.mark.parametrize("id", ["turnwise/TextWorld-v0", "turnwise/ALFWorld-v0", "turnwise/Toy-v0"])
def test_sizes_of_splits_and_parameters_are_those_of_the_code(id: str) -> None:
    if specs()[id].missing():
        pytest.skip("engine not installed")
    text = section("environments.md", id)
    if id != "turnwise/Toy-v0":
        for name, size in env_class(id).splits().items():
            shown = name.startswith("official_") or re.search(rf"`{name}`\s+{size:,}", text)
            assert shown, f"{name} {size:,}"
    allowed = {
        "turnwise/TextWorld-v0": {"rooms": 3, "objects": 4, "quest": 3, "max_turns": 9, "walkthrough_in_goal": True},
        "turnwise/ALFWorld-v0": {
            "task_types": "pick_two_obj_and_place",
            "receptacles": 5,
            "distractors": 0,
            "max_turns": 9,
        },
        "turnwise/Toy-v0": {"rooms": 4, "slack": 2},
    }[id]
    assert set(allowed) <= set(names_in_first_column(text))
    (task,) = env_class(id).tasks("test", 1, **allowed)
    assert task.max_turns == allowed.get("max_turns", 6)


def test_the_program_of_the_page_on_protocols_runs() -> None:
    from test_endpoint import WORDS, Scripted
    from turnwise.agents.context import Renderer
    from turnwise.agents.models import build_tokenizer
    from turnwise.envs import tasks

    code = re.findall(r"```python\n(.*?)\n```", (DOCS / "protocols.md").read_text(), re.DOTALL)
    page: dict[str, Any] = {}
    exec(code[0], page)
    renderer, task = Renderer(build_tokenizer(["open the red door"], WORDS)), tasks("Toy", "train", 1, rooms=1, slack=9)
    found = asyncio.run(page["collect"](Scripted(renderer, ["open red door"] * 80), renderer, task))
    assert len(found) == 8 and {t.stop.value for t in found} <= {"success", "turn_limit"}
    made: list[dict[str, Any]] = []
    stand_ins = {"GRPOConfig": dict, "GRPOTrainer": lambda **given: made.append(given)}
    exec(code[1].replace("from trl import GRPOConfig, GRPOTrainer\n", ""), stand_ins)
    tools, own = made
    assert callable(tools["environment_factory"]) and len(tools["train_dataset"]) == 500
    assert callable(own["rollout_func"]) and own["train_dataset"][0]["prompt"] == own["train_dataset"][0]["task"]
