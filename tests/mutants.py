"""Planted bugs and the tests that must catch them: `python tests/mutants.py [--only NAME ...]`.

Each mutant replaces one piece of source text in a temporary copy of the package and runs the tests named beside it.
Prints which test caught it; exits 1 if one survives. Add a line when a bug gets through to a user.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from planted import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("envs", "agents", "rewards", "training")


def plant(mutant: Mutant | None, folder: Path) -> None:
    """Copy the package and its tests to `folder`, with the bug in it."""
    package = folder / "turnwise"
    only_python = shutil.ignore_patterns("__pycache__", "*.json", "*.gz", "*.z8")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, package / name, ignore=only_python)
    shutil.copy(ROOT / "__init__.py", package)
    (folder / "tests").mkdir()
    for path in ROOT.glob("tests/*.py"):
        shutil.copy(path, folder)  # on the path of the tests' process: they import each other's helpers
        if path.name.startswith("test_"):
            shutil.copy(path, folder / "tests")
    if mutant is None:
        return
    path = package / mutant.file
    source = path.read_text()
    if source.count(mutant.old) != 1:
        raise SystemExit(f"{mutant.name}: expected its text once in {mutant.file}, found {source.count(mutant.old)}.")
    path.write_text(source.replace(mutant.old, mutant.new))


def run_tests(tests: tuple[str, ...], folder: Path) -> tuple[int, str]:
    """(exit code, first failing test or the last line) of pytest on the planted copy."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    where = subprocess.run(
        [sys.executable, "-c", "import turnwise; print(turnwise.__file__)"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    if not where.startswith(str(folder)):
        raise SystemExit(f"Expected the copy in {folder} to be imported, got {where}.")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-rfE", "--no-header", "--import-mode=importlib"]
    command += ["-p", "no:cacheprovider", *(f"tests/{test}" for test in tests)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    failed = re.search(r"^(?:FAILED|ERROR) tests/(\S+)", done.stdout, re.M)
    return done.returncode, failed.group(1) if failed else done.stdout.strip().splitlines()[-1]


def try_mutant(mutant: Mutant | None, tests: tuple[str, ...]) -> tuple[int, str]:
    """Plant one bug (or none) in a fresh copy and run the tests."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        plant(mutant, folder)
        return run_tests(tests, folder)


def main(argv: list[str] | None = None) -> int:
    """Run the chosen mutants; 1 if the clean copy fails or a mutant survives."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", metavar="NAME", help="names of mutants, default all")
    chosen = parser.parse_args(argv).only
    mutants = [mutant for mutant in MUTANTS if not chosen or mutant.name in chosen]
    if not mutants:
        parser.error("no such mutant")
    code, report = try_mutant(None, tuple(dict.fromkeys(test for mutant in mutants for test in mutant.tests)))
    if code != 0:
        print(f"the clean copy fails: {report}")
        return 1
    caught = 0
    for mutant in mutants:
        code, report = try_mutant(mutant, mutant.tests)
        caught += code == 1
        print(f"{'caught  ' if code == 1 else 'SURVIVED'}  {mutant.name:45}  {report}", flush=True)
    print(f"{caught} of {len(mutants)} caught")
    return 0 if caught == len(mutants) else 1


if __name__ == "__main__":
    raise SystemExit(main())
