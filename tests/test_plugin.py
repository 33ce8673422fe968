"""Plug-ins: the template installs, appears and passes the kit; a broken one is named and breaks nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from turnwise.envs import UnknownName, registry

TEMPLATE = Path(__file__).resolve().parent.parent / "examples" / "plugin"


def command(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python …` with the packages under `path`."""
    found = os.pathsep.join([str(path), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": found}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template as pip installs it, beside a package whose entry point cannot be imported and one that raises."""
    if not TEMPLATE.is_dir():
        pytest.skip("this copy of the tests has no examples")
    source, target = tmp_path_factory.mktemp("source") / "plugin", tmp_path_factory.mktemp("target")
    shutil.copytree(TEMPLATE, source)
    done = command(
        target, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation",
        "--no-index", "--target", str(target), str(source),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name, value in (("gone", "gone_envs:register"), ("raises", "raising_envs:register")):
        about = target / f"{name}_envs-1.5.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-envs\nVersion: 1.5\n")
        (about / "entry_points.txt").write_text(f"[turnwise.envs]\n{name} = {value}\n")
    (target / "raising_envs.py").write_text("def register():\n    raise RuntimeError('no licence')\n")
    return target


def test_an_installed_plugin_is_listed_and_broken_ones_are_named(installed: Path) -> None:
    done = command(installed, "-m", "turnwise.training.cli", "envs", "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["id"]: row for row in json.loads(done.stdout)}
    assert rows["my_envs/Lights-v0"]["available"] and rows["my_envs/Lights-v0"]["splits"] == {"train": 200, "test": 50}
    assert rows["turnwise/Toy-v0"]["available"], "the others are still there"
    assert not rows["gone"]["available"] and not rows["raises"]["available"]
    assert rows["gone"]["reason"] == (
        "the plug-in gone_envs:register of gone-envs 1.5 failed: ModuleNotFoundError: No module named 'gone_envs'"
    )
    assert rows["raises"]["reason"].endswith("RuntimeError: no licence")


def test_the_template_passes_the_kit_and_its_own_tests(installed: Path) -> None:
    done = command(installed, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(TEMPLATE / "tests"), "-c", os.devnull)
    assert done.returncode == 0 and "3 passed" in done.stdout, done.stdout


def test_a_class_that_cannot_be_loaded_is_a_row_too(capsys: pytest.CaptureFixture[str]) -> None:
    from turnwise.training import cli

    registry.register("test/Gone-v0", "turnwise_no_such_module:Env", summary="Gone.")
    row = cli._describe_env(registry.spec("test/Gone-v0"))
    assert row["available"] is False and "No module named 'turnwise_no_such_module'" in row["reason"]


def test_an_unknown_name_tells_of_broken_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.specs()
    loads: list[str] = []

    class Entry:
        name, value, dist = "theirs", "theirs:register", None

        def load(self) -> Any:
            loads.append(self.name)
            raise ImportError("no theirs")

    monkeypatch.setattr(registry, "_plugins_loaded", False)
    monkeypatch.setattr(registry, "_BROKEN", {})
    monkeypatch.setattr(registry, "entry_points", lambda group: [Entry()])
    with pytest.raises(UnknownName, match="theirs: the plug-in theirs:register failed: ImportError: no theirs"):
        registry.spec("theirs/Lamp-v0")
    registry.specs()
    assert loads == ["theirs"], "loaded once"
