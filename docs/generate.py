"""Writes what documentation repeats from the code: `docs/algorithms.md`, `docs/recipes.md`, README's tree and examples.

python docs/generate.py            # write
python docs/generate.py --check    # exit code 1 where a file is out of date; a test runs this
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("envs", "agents", "rewards", "training")

ALGORITHMS_HEAD = """\
# Algorithms

Written by `docs/generate.py` from the code: the formulas are the docstrings of the parts that run. Do not edit.

An algorithm is a row: which part fills each slot.

    reward transforms -> estimator -> modulators -> selectors -> ratio -> stability rule -> guards -> behaviour weight
    -> aggregator -> terms

Every row reduces to one detached coefficient c per action token,

    L = -sum(weight * c.detach() * logp) + additive terms
    c = factor(ratio, advantage) * advantage * behaviour weight

and the logged loss is the usual surrogate, so that curves compare with other libraries. Environment tokens have
weight 0 everywhere. Methods that do not factor like this (regressions on log-ratios) fill the slot `coef` with the
whole coefficient; rows of experts have a coefficient of their own where the slot `expert` is filled. A recipe puts
further parts into a row with `slots`, for example `--set algorithm=gigpo --set slots.ratio=sequence_ratio`.

`turnwise coef NAME --fixture FILE.json` computes advantages, masks, coefficients and loss of a row on a small batch, to
check it by hand; `training/fixture.py` describes the file. `turnwise train toy --set algorithm=NAME` trains with it,
and `tests/test_learning.py` demands of every on-policy row that it learns the toy game from a fixed seed.

Shapes in the formulas: B rows, T tokens, M trajectories, N turns. A row's unit is what shares one advantage. What a row
needs is checked before a run starts. Status says whether the numbers of the paper or its code were reproduced by a test
("verified") or only a formula from secondary sources could be had ("formula only").
"""


def algorithms_page() -> str:
    """The text of `docs/algorithms.md`."""
    from turnwise.training.algorithms import ALGORITHMS, describe, describe_parts
    from turnwise.training.slots import NEEDS

    rows, extra = describe(), describe_parts()
    shared = _shared_params(rows)
    parts: list[str] = [
        ALGORITHMS_HEAD,
        "## Needs\n",
        _table(("need", "meaning"), ((f"`{k}`", v) for k, v in NEEDS.items())),
    ]
    parts += ["## Rows\n", _table(("name", "unit", "status", "paper"), _index(rows))]
    if extra:
        parts += ["## Parts of papers\n", "Each fills one slot of any row.\n"]
        parts.append(_table(("name", "slot", "unit", "status", "paper"), _part_index(extra)))
    for row in rows:
        algorithm = ALGORITHMS[row["name"]]
        needs = ", ".join(f"`{need}`" for need in row["needs"]) or "nothing"
        parts.append(f"## {row['name']}\n")
        parts.append(f"{row['paper']}. Unit: {row['unit']}. Needs {needs}.\n")
        parts.append(_slots(row))
        parts.append(_formula(algorithm.estimator))
        own = {k: v for k, v in row["params"].items() if k not in shared or shared[k] != v}
        parts.append(_params(own, row["meaning"]))
        parts.append(f"Defaults: {row['source']}\n")
        parts.append(f"Left out: {row['left_out']}\n")
    parts.append("## Parameters every row takes\n")
    parts.append("Where a row's default differs, its own table says so.\n")
    parts.append(_params(shared, rows[0]["meaning"]))
    for row in extra:
        parts.append(_part_section(row))
    parts.append("## Parts\n")
    for part in _shared_parts(list(ALGORITHMS.values())):
        parts.append(f"### {part.__name__}\n")
        parts.append(_formula(part))
    return "\n".join(parts).rstrip() + "\n"


RECIPES_HEAD = """\
# Recipes

Written by `docs/generate.py` from the code. Do not edit.

A recipe is a Python function that returns a frozen `Recipe`: tasks, context, model, rewards, algorithm, budget. Any of
its settings can be changed from the command line, and a recipe of your own is named `package.module:function`, found
from the folder that you are in.

    turnwise train toy --show                                     # every setting with its value
    turnwise train toy --set rl.lr=1e-3 --set algorithm=rloo      # values are read as JSON where they parse
    turnwise train toy --set env.params.rooms=3 --set params.clip_low=0.1

What runs of these recipes obtained stands in [results.md](results.md), what a run writes in [runs.md](runs.md).
"""


def recipes_page() -> str:
    """The text of `docs/recipes.md`."""
    from turnwise.training.config import Recipe
    from turnwise.training.recipes import RECIPES
    from turnwise.training.settings import as_json, settings

    parts = [RECIPES_HEAD]
    for name, function in sorted(RECIPES.items()):
        made = function()
        parts.append(f"## {name}\n")
        parts.append(f"{made.env.id}, `{made.algorithm}`, held out: {made.env.eval_tasks} tasks.\n")
        parts.append(f"{inspect.getdoc(function)}\n")
    parts.append("## Settings\n")
    parts.append(
        "Parameters of algorithms (`params`) are listed in [algorithms.md](algorithms.md) and by `turnwise\n"
        "algorithms`, those of environments (`env.params`, `env.options`) in [environments.md](environments.md).\n"
    )
    rows = (
        (f"`{s.key}`", _default(as_json(s.default)), s.kind, s.help.replace("<", "&lt;"))
        for s in settings(Recipe.model_validate({"name": "", "env": {"id": ""}}))
    )
    parts.append(_table(("setting", "default", "may be", "what it is for"), rows))
    return "\n".join(parts).rstrip() + "\n"


def _default(text: str) -> str:
    return f"`{text}`" if text not in ("", "null") else ""


def _index(rows: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    for row in rows:
        yield f"[{row['name']}](#{row['name']})", row["unit"], row["status"], row["paper"]


def _part_index(parts: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    for part in parts:
        yield (
            f"[{part['name']}](#{part['name']})",
            next(iter(part["slots"])),
            part["unit"],
            part["status"],
            part["paper"],
        )


def _part_section(row: dict[str, Any]) -> str:
    from turnwise.training.algorithms import PARTS

    slot = next(iter(row["slots"]))
    needs = ", ".join(f"`{need}`" for need in row["needs"]) or "nothing"
    return "\n".join([
        f"## {row['name']}\n",
        f"{row['paper']}. Fills `{slot}`. Unit: {row['unit']}. Needs {needs}.\n",
        _formula(PARTS[slot, row["name"]].function),
        _params(row["params"], row["meaning"]),
        f"Defaults: {row['source']}\n",
        f"Left out: {row['left_out']}\n",
    ])  # fmt: skip


def _slots(row: dict[str, Any]) -> str:
    shared = ("kl_loss", "entropy_bonus", "epo_bonus", "epo_corridor", "none")
    filled = [part for name in row["slots"].values() for part in ([name] if isinstance(name, str) else name)]
    return "Parts: " + ", ".join(f"`{part}`" for part in filled if part not in shared) + ".\n"


def _formula(part: Callable[..., Any]) -> str:
    text = inspect.getdoc(part) or ""
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines()) + "\n"


def _params(params: dict[str, Any], meaning: dict[str, str]) -> str:
    if not params:
        return ""
    return _table(("parameter", "default", "meaning"), ((f"`{k}`", f"`{v}`", meaning[k]) for k, v in params.items()))


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def _shared_params(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Parameters that every row has, with their most frequent default."""
    names = set.intersection(*(set(row["params"]) for row in rows))
    common = {name: Counter(repr(row["params"][name]) for row in rows).most_common(1)[0][0] for name in names}
    return {
        name: next(row["params"][name] for row in rows if repr(row["params"][name]) == common[name])
        for name in sorted(names)
    }


def _shared_parts(algorithms: list[Any]) -> list[Callable[..., Any]]:
    """Every part but the estimators, once, in the order of the slots."""
    from turnwise.training.aggregate import AGGREGATORS, hierarchical_mean
    from turnwise.training.coefficients import behaviour_weight
    from turnwise.training.credit import total_rewards

    def each(slot: Callable[[Any], tuple[Any, ...]]) -> list[Any]:
        return [part for algorithm in algorithms for part in slot(algorithm)]

    found = [
        total_rewards,
        *each(lambda a: a.transforms),
        *each(lambda a: a.modulators),
        *each(lambda a: a.selectors),
        *each(lambda a: (a.ratio, a.stability) if a.coef is None else (a.coef,)),
        *each(lambda a: a.guards),
        *each(lambda a: tuple(part for part in (a.expert, a.mixer) if part)),
        behaviour_weight,
        *AGGREGATORS.values(),
        hierarchical_mean,
        *each(lambda a: a.terms),
        *each(lambda a: a.controllers),
    ]
    return list(dict.fromkeys(found))


def tree() -> str:
    """Every file of the four folders with the first line of its docstring."""
    lines = []
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py"), key=lambda p: (len(p.relative_to(ROOT).parts), p)):
            doc = ast.get_docstring(ast.parse(path.read_text())) or ""
            lines.append(f"{path.relative_to(ROOT).as_posix():30}  {doc.splitlines()[0] if doc else ''}".rstrip())
        lines.append("")
    return "```text\n" + "\n".join(lines).rstrip() + "\n```"


def readme(text: str) -> str:
    """README with its generated blocks renewed: what stands between `<!-- NAME -->` and `<!-- end -->`."""

    def renew(match: re.Match[str]) -> str:
        name = match[1]
        block = tree() if name == "tree" else f"```python\n{(ROOT / name).read_text().rstrip()}\n```"
        return f"<!-- {name} -->\n{block}\n<!-- end -->"

    return re.sub(r"<!-- (tree|examples/\w+\.py) -->.*?<!-- end -->", renew, text, flags=re.DOTALL)


def outdated() -> dict[Path, str]:
    """Generated files whose content differs from what the code says, with what it should be."""
    front = ROOT / "README.md"
    docs = ROOT / "docs"
    wanted = {
        docs / "algorithms.md": algorithms_page(), docs / "recipes.md": recipes_page(),
        front: readme(front.read_text()),
    }  # fmt: skip
    return {path: text for path, text in wanted.items() if not path.exists() or path.read_text() != text}


def main(check: bool) -> int:
    """Write, or with `check` only tell."""
    found = outdated()
    for path, text in found.items():
        print(f"{path.relative_to(ROOT)} {'is out of date: run python docs/generate.py' if check else 'written'}")
        if not check:
            path.write_text(text)
    return 1 if check and found else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
