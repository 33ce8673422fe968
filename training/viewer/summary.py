"""What the list of runs and a run's page say: held-out success with its interval, curves, alarms that fired."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError

from ..config import Alarm
from ..diagnostics import fired
from ..evaluation.intervals import Interval, success_interval
from ..evaluation.store import PHASE
from ..report import CHARTS
from ..run import Run
from . import folders

Series = dict[str, list[tuple[int, float]]]
LIVE_SECONDS = 600.0
"""A run that wrote nothing for so long has ended or waits for something; its page asks less often."""
HELD_OUT = ("eval/success", "eval/low", "eval/high")


class Line(NamedTuple):
    """One run in the list."""

    name: str
    kind: str
    env: str
    algorithm: str
    step: int | None
    held_out: str
    tasks: int | None
    live: bool
    trouble: str


def describe(card: Mapping[str, Any]) -> dict[str, str]:
    """Kind, environment, algorithm and seed of a run or evaluation, empty where its card does not say."""
    recipe, evaluation = card.get("recipe"), card.get("evaluation")
    if isinstance(recipe, dict):
        env = recipe.get("env")
        found = (env.get("id") if isinstance(env, dict) else "", recipe.get("algorithm"), recipe.get("seed"))
        return dict(zip(("kind", "env", "algorithm", "seed"), ("training", *map(_text, found)), strict=True))
    e = evaluation if isinstance(evaluation, dict) else {}
    target = f"evaluation of {_text(e.get('target'))}"
    return {"kind": "evaluation", "env": _text(e.get("env")), "algorithm": target, "seed": _text(e.get("seed"))}


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def line(found: folders.Found) -> Line:
    """The run's line in the list; one that cannot be read says why and hides no other."""
    try:
        about = describe(folders.card(found))
        with folders.reading(found) as run:
            stamp = newest(run)
            held_out = held_out_series(run)
    except folders.Unreadable as error:
        return Line(found.name, "", "", "", None, "", None, False, str(error))
    last = held_out[-1] if held_out else None
    return Line(
        found.name, about["kind"], about["env"], about["algorithm"], stamp[0], str(last[1]) if last else "",
        last[1].tasks if last and last[1].tasks else None, is_live(stamp), "",
    )  # fmt: skip


def newest(run: Run) -> tuple[int | None, float]:
    """Last step and when anything was written last: changes with every record."""
    step, ended = run.db.execute("SELECT MAX(step), MAX(ended) FROM steps").fetchone()
    return step, ended or 0.0


def is_live(stamp: tuple[int | None, float]) -> bool:
    """Whether the run was written to a short while ago."""
    return time.time() - stamp[1] < LIVE_SECONDS


def held_out_series(run: Run) -> list[tuple[int, Interval]]:
    """(step, success with its interval) of every held-out evaluation.

    A training run recorded them; an evaluation is reckoned from its episodes, whose number of tasks is then known.
    """
    query = "SELECT step, name, value FROM metrics WHERE name IN (?, ?, ?) AND value IS NOT NULL ORDER BY step"
    recorded: dict[int, dict[str, float]] = {}
    for step, name, value in run.db.execute(query, HELD_OUT):
        recorded.setdefault(step, {})[name] = value
    if recorded:
        whole = [(step, at) for step, at in recorded.items() if len(at) == len(HELD_OUT)]
        return [(step, Interval(*(at[name] for name in HELD_OUT), tasks=0)) for step, at in whole]
    steps = run.db.execute("SELECT DISTINCT step FROM episodes WHERE phase = ? ORDER BY step", (PHASE,)).fetchall()
    return [(step, success_interval(list(run.successes(step, PHASE).values()))) for (step,) in steps]


def alarms(card: Mapping[str, Any], metrics: Series) -> list[str]:
    """What the recipe's alarms said at each step, oldest first, reckoned from what was recorded."""
    recipe = card.get("recipe")
    try:
        watched = [Alarm.model_validate(a) for a in (recipe.get("alarms") or () if isinstance(recipe, dict) else ())]
    except ValidationError:  # a card of another version
        return []
    steps = sorted({step for a in watched for step, _ in metrics.get(a.metric, ()) if step >= 0})
    return [f"{found} ({found.alarm.action})" for step in steps for found in fired(watched, metrics, step)]


def charts(metrics: Series, held_out: Sequence[tuple[int, Interval]], chosen: Sequence[str]) -> list[dict[str, Any]]:
    """Charts as titles, units and lines: success with held-out intervals, those of the report, then chosen metrics."""
    first: list[dict[str, Any]] = [_line("training", metrics["success"])] if "success" in metrics else []
    if held_out:
        first.append(with_bars("held-out", held_out))
    found = [{"title": "Success, held-out with 95 % interval over tasks", "unit": "share", "lines": first}]
    found += [
        {"title": title, "unit": unit, "lines": [_line(name, metrics[name]) for name in names if name in metrics]}
        for title, names, unit in CHARTS[1:]
    ]
    found += [{"title": n, "unit": "", "lines": [_line(n, metrics[n])]} for n in chosen if n in metrics]
    return [chart for chart in found if chart["lines"]]


def comparison(
    runs: Sequence[tuple[str, Series, Sequence[tuple[int, Interval]]]], chosen: Sequence[str]
) -> list[dict[str, Any]]:
    """The same charts with a line per run, named after it; a run keeps its colour in charts that the other lacks."""
    held_out = [with_bars(name, series) | {"colour": i} for i, (name, _, series) in enumerate(runs) if series]
    found = [{"title": "Held-out success, 95 % interval over tasks", "unit": "share", "lines": held_out}]
    titles = {name: (title, unit) for title, names, unit in CHARTS for name in names[:1]}
    for metric in dict.fromkeys(["success", "entropy", "turns", *chosen]):
        lines = [
            _line(name, metrics[metric]) | {"colour": i}
            for i, (name, metrics, _) in enumerate(runs)
            if metric in metrics
        ]
        title, unit = titles.get(metric, (metric, ""))
        found.append({"title": title, "unit": unit, "lines": lines})
    return [chart for chart in found if chart["lines"]]


def _line(name: str, series: Sequence[tuple[int, float]]) -> dict[str, Any]:
    return {"name": name, "x": [step for step, _ in series], "y": [finite(value) for _, value in series]}


def with_bars(name: str, series: Sequence[tuple[int, Interval]]) -> dict[str, Any]:
    """A line of a chart whose points have intervals."""
    return {
        **_line(name, [(step, i.mean) for step, i in series]),
        "up": [finite(i.high - i.mean) for _, i in series],
        "down": [finite(i.mean - i.low) for _, i in series],
    }


def finite(value: float | None) -> float | None:
    """The number; None where JSON has none for it."""
    return value if value is not None and math.isfinite(value) else None
