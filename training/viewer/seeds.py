"""Runs of one recipe that differ in their seed: a curve each, and their mean with an interval over runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..evaluation.intervals import Interval, mean_interval
from . import folders, summary

Runs = Sequence[tuple[str, summary.Series, Sequence[tuple[int, Interval]]]]
"""(name, metrics, held-out successes) of each run."""
MEAN = "mean, 95 % over seeds"


def recipe_but_seed(card: Mapping[str, Any]) -> str:
    """What runs of one recipe have in common, as text; empty for what is no training run."""
    recipe = card.get("recipe")
    if not isinstance(recipe, dict):
        return ""
    return json.dumps({key: value for key, value in recipe.items() if key != "seed"}, sort_keys=True)


def groups(runs: Mapping[str, folders.Found]) -> dict[str, list[str]]:
    """Name of a run -> names of the runs of its recipe, itself included; cards that cannot be read are left out."""
    by_recipe: dict[str, list[str]] = {}
    for name, found in runs.items():
        try:
            recipe = recipe_but_seed(folders.card(found))
        except folders.Unreadable:
            continue
        by_recipe.setdefault(recipe or f"no recipe: {name}", []).append(name)
    return {name: names for names in by_recipe.values() for name in names}


def across(series: Sequence[Sequence[tuple[int, float]]]) -> list[tuple[int, Interval]]:
    """Mean over runs at each step that two or more of them have: `mean ± t_{.975, n-1} sd / sqrt(n)`, n runs."""
    at: dict[int, list[float]] = {}
    for points in series:
        for step, value in dict(points).items():
            if summary.finite(value) is not None:
                at.setdefault(step, []).append(value)
    return [(step, mean_interval([[v] for v in values])) for step, values in sorted(at.items()) if len(values) > 1]


def charts(runs: Runs, chosen: Sequence[str]) -> list[dict[str, Any]]:
    """The charts of a comparison, runs as thin lines, with their mean."""
    found = summary.comparison(runs, chosen)
    for chart in found:
        lines = chart["lines"]
        chart["title"] = chart["title"].removesuffix(", 95 % interval over tasks")
        mean = across([list(zip(line["x"], line["y"], strict=True)) for line in lines])
        chart["lines"] = [{k: line[k] for k in ("name", "x", "y", "colour")} | {"thin": True} for line in lines]
        if mean:
            chart["lines"].append(summary.with_bars(MEAN, mean) | {"colour": len(runs), "wide": True})
    return found
