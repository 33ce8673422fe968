"""The planted bugs themselves: each still applies, and the machinery catches a few end to end."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("turnwise_mutants", Path(__file__).with_name("mutants.py"))
assert _spec is not None and _spec.loader is not None
mutants = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(mutants)


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: mutant.name)
def test_every_bug_can_still_be_planted(mutant):
    source = (mutants.ROOT / mutant.file).read_text()
    assert source.count(mutant.old) == 1
    compile(source.replace(mutant.old, mutant.new), mutant.file, "exec")
    assert all((mutants.ROOT / "tests" / test.split("::")[0]).is_file() for test in mutant.tests)


@pytest.mark.parametrize("name", ["clip bounds swapped", "group mean is the global mean", "epo bonus lowers entropy"])
def test_a_planted_bug_is_caught(name):
    mutant = next(mutant for mutant in mutants.MUTANTS if mutant.name == name)
    code, report = mutants.try_mutant(mutant, mutant.tests)
    assert code == 1 and report.startswith(mutant.tests[0])
