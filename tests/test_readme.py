"""README: its Python runs, its examples are the files, its tree and its commands are those of the code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from turnwise.training.algorithms import ALGORITHMS
from turnwise.training.cli import app
from turnwise.training.recipes import RECIPES

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
SAYS = {
    "new_environment.py": "Guess my number, 1 to 9.\nLower.\n('Yes!', 1.0, True)\n",
    # the median of 0, 1, 5 is 1
    "new_algorithm.py": "[[-1.0], [0.0], [4.0]]\n",
}


def block(name: str) -> str:
    """What README shows between `<!-- name -->` and `<!-- end -->`, without the fence."""
    found = re.findall(rf"<!-- {re.escape(name)} -->\n```\w+\n(.*?)\n```\n<!-- end -->", README, re.DOTALL)
    assert len(found) == 1, f"{name} appears {len(found)} times"
    return found[0]


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_shown_verbatim_and_runs(name: str) -> None:
    text = (ROOT / "examples" / name).read_text()
    assert block(f"examples/{name}") == text.rstrip()
    done = subprocess.run([sys.executable, name], cwd=ROOT / "examples", capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    if name in SAYS:
        assert done.stdout == SAYS[name]
    lines = [line for line in text.splitlines() if line.strip()]
    assert len(lines) <= 28, "an example is read at a glance"


def test_the_reward_example_scores_stalled_turns() -> None:
    done = subprocess.run(
        [sys.executable, "new_reward.py"], cwd=ROOT / "examples", capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    for line in lines:
        stop, outcome, stall = re.fullmatch(r"(\w+) \{'outcome': \[(.*)\], 'stall_penalty': \[(.*)\]\}", line).groups()  # type: ignore[union-attr]
        wins = [float(x) for x in outcome.split(", ")]
        stalls = [float(x) for x in stall.split(", ")]
        assert wins[-1] == (stop == "success") and not any(wins[:-1])
        assert len(stalls) == len(wins) and set(stalls) <= {0.0, -0.1}
        # 3 rooms, 2 turns to spare: a win takes 3 turns that rise, a loss fewer
        assert (stalls.count(0.0) == 3) is (stop == "success")


def test_the_example_environment_keeps_every_promise() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'examples')!r}); import new_environment\n"
        "from turnwise.envs.check import check_env\n"
        "report = check_env('demo/Guess-v0', tasks_per_split=3)\n"
        "print([(c.name, c.detail) for c in report.checks if not c.ok])"
    )
    assert run(code).splitlines()[-1] == "[]"


def test_the_example_algorithm_passes_the_checks_of_a_recipe() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'examples')!r}); import new_algorithm\n"
        "from turnwise.training.algorithms import resolve, describe\n"
        "print(resolve('median_grpo', {'shrink': 0.5, 'epo_lambda': 0.01, 'epo_kappa_l': 0.5})[1]['shrink'])\n"
        "print([row['needs'] for row in describe() if row['name'] == 'median_grpo'])"
    )
    assert run(code).splitlines()[-2:] == ["0.5", "[['group_complete']]"]


def test_every_other_python_block_runs() -> None:
    shown = {block(f"examples/{name}") for name in EXAMPLES}
    rest = [code for code in re.findall(r"```python\n(.*?)\n```", README, re.DOTALL) if code not in shown]
    assert rest
    for code in rest:
        assert run(code)


def test_the_tree_has_every_file_once_with_a_line() -> None:
    entries = [line.split(maxsplit=1) for line in block("tree").splitlines() if line]
    files = [
        path.relative_to(ROOT).as_posix()
        for folder in ("envs", "agents", "rewards", "training")
        for path in (ROOT / folder).rglob("*.py")
    ]
    assert sorted(entry[0] for entry in entries) == sorted(files)
    assert all(len(entry) == 2 and entry[1].endswith(".") for entry in entries)


def test_the_table_of_commands_is_that_of_the_command_line() -> None:
    shown = re.findall(r"^\| `turnwise (\w+)", README, re.MULTILINE)
    assert sorted(shown) == sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def test_recipes_and_number_of_algorithms_are_those_of_the_code() -> None:
    listed = re.search(r"^Recipes: (.*?), or", README, re.MULTILINE | re.DOTALL)
    assert listed and set(re.findall(r"`(\w+)`", listed[1])) == set(RECIPES)
    assert f"one of {len(ALGORITHMS)} algorithms" in " ".join(README.split())


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
