"""`turnwise report`: one HTML file that needs no network. Curves with intervals, episodes turn by turn, the card."""

from __future__ import annotations

import json
import math
from array import array
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..envs.errors import RequestError
from .evaluation import compare
from .evaluation.intervals import Interval, success_interval
from .run import Run

EPISODES_SHOWN = 6
COLOURS = ("#2f6fb3", "#c7672e", "#3c8d5a", "#8a5fb0")
SHADE_NATS = 3.0
"""Log-prob at which a token is shaded fully."""
CHARTS = (
    ("Training success", ("success",), "share of episodes"),
    ("Policy entropy", ("entropy",), "nats per action token"),
    ("Turns per episode", ("turns",), "turns"),
    ("Valid and admissible actions", ("valid", "admissible"), "share of turns"),
    ("Groups without a signal", ("zero_signal_groups",), "share of groups"),
    ("Log-prob gap, sampler to trainer", ("gap/max", "gap/canary"), "nats"),
    ("Gradient norm", ("grad_norm/policy", "grad_norm/critic"), ""),
    ("Seconds per step", ("time/rollout", "time/update", "time/sync"), "s"),
    ("SFT loss", ("sft/loss",), "nats per action token"),
)


def write_report(folder: Path) -> Path:
    """Write `report.html` into the run folder; returns its path."""
    from jinja2 import Environment, FileSystemLoader
    from plotly.offline import get_plotlyjs

    run = Run.open(folder)
    try:
        card, metrics = run.card, run.metrics()
        if not metrics:
            raise RequestError(f"The run {str(folder)!r} has recorded nothing yet. Report on it after its first step.")
        pages = Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True)
        recipe = card["recipe"]
        html = pages.get_template("report.html.jinja").render(
            name=recipe["name"], env=recipe["env"]["id"], algorithm=recipe["algorithm"], seed=recipe["seed"],
            engine=recipe["engine"]["kind"], steps=max((s for s, _ in metrics.get("success", [])), default=0),
            plotly_js=_markup(get_plotlyjs()), cards=_cards(run), evaluations=_evaluations(run),
            charts=[_markup(chart) for chart in _charts(run, metrics)], episodes=_episodes(run),
            card_json=json.dumps(card, indent=2),
        )  # fmt: skip
    finally:
        run.close()
    path = folder / "report.html"
    path.write_text(html)
    return path


def _markup(text: str) -> Any:
    from markupsafe import Markup

    return Markup(text)


def _evaluated_steps(run: Run) -> list[int]:
    return [row[0] for row in run.db.execute("SELECT DISTINCT step FROM episodes WHERE phase = 'eval' ORDER BY step")]


def _interval(run: Run, step: int) -> Interval:
    return success_interval(list(run.successes(step, "eval").values()))


def _cards(run: Run) -> list[dict[str, str]]:
    steps = _evaluated_steps(run)
    cards = []
    for title, step in [("before RL", steps[0]), ("after RL", steps[-1])] if len(steps) > 1 else []:
        i = _interval(run, step)
        note = f"95 %: {100 * i.low:.1f} to {100 * i.high:.1f}"
        cards.append({"title": f"held-out success {title}", "value": f"{100 * i.mean:.1f} %", "note": note, "tone": ""})
    if cards:
        d = compare(run.successes(steps[0], "eval"), run.successes(steps[-1], "eval"))
        tone = "good" if d.low > 0 else "bad" if d.high < 0 else ""
        note = f"95 %: {100 * d.low:+.1f} to {100 * d.high:+.1f}, {d.tasks} tasks"
        cards.append({"title": "paired difference", "value": f"{100 * d.mean:+.1f} points", "note": note, "tone": tone})
    return cards


def _evaluations(run: Run) -> list[dict[str, Any]]:
    found = []
    for step in _evaluated_steps(run):
        i = _interval(run, step)
        reasons = Counter(
            row[0] for row in run.db.execute("SELECT stop FROM episodes WHERE phase = 'eval' AND step = ?", (step,))
        )
        found.append({
            "step": step, "mean": f"{100 * i.mean:.1f} %", "interval": f"{100 * i.low:.1f} to {100 * i.high:.1f} %",
            "tasks": i.tasks, "reasons": ", ".join(f"{k} {v}" for k, v in reasons.most_common()),
        })  # fmt: skip
    return found


def _charts(run: Run, metrics: dict[str, list[tuple[int, float]]]) -> list[str]:
    """HTML of each chart that has data; held-out success comes first, with its intervals."""
    import plotly.graph_objects as go

    charts = []
    steps = _evaluated_steps(run)
    if steps:
        intervals = [_interval(run, s) for s in steps]
        bars = {
            "type": "data", "symmetric": False, "array": [i.high - i.mean for i in intervals],
            "arrayminus": [i.mean - i.low for i in intervals],
        }  # fmt: skip
        held_out = go.Scatter(
            x=steps,
            y=[i.mean for i in intervals],
            error_y=bars,
            mode="lines+markers",
            name="held-out",
            line={"color": COLOURS[0]},
        )
        charts.append(_figure("Held-out success, 95 % interval over tasks", [held_out], "share of tasks"))
    for title, names, unit in CHARTS:
        lines = []
        for name, colour in zip([name for name in names if name in metrics], COLOURS, strict=False):
            x, y = zip(*metrics[name], strict=True)
            mode = "lines" if len(x) > 1 else "markers"
            lines.append(go.Scatter(x=x, y=y, mode=mode, name=name, line={"color": colour}))
        if lines:
            charts.append(
                _figure(title, lines, unit, x_title="SFT update, counted back from 0" if "SFT" in title else "step")
            )
    return charts


def _figure(title: str, lines: Sequence[Any], unit: str, x_title: str = "step") -> str:
    """HTML of one chart; shares run from 0 to 100 %, gaps are drawn on a logarithmic axis."""
    import plotly.graph_objects as go

    y_axis: dict[str, Any] = {"title": unit}
    if unit.startswith("share"):
        y_axis |= {"range": [-0.02, 1.04], "tickformat": ".0%"}
    elif "gap" in title:
        y_axis |= {"type": "log", "exponentformat": "e"}
    figure = go.Figure(list(lines))
    figure.update_layout(
        title={"text": title, "font": {"size": 15}}, font={"family": "system-ui, sans-serif"}, template="plotly_white",
        margin={"l": 64, "r": 12, "t": 42, "b": 42}, height=290, showlegend=len(lines) > 1,
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 1.0, "xanchor": "right"},
        xaxis={"title": x_title, "tickformat": "d"}, yaxis=y_axis,
    )  # fmt: skip
    return figure.to_html(full_html=False, include_plotlyjs=False, config={"displayModeBar": False, "responsive": True})


def _episodes(run: Run) -> list[dict[str, Any]]:
    """Some held-out episodes of the last evaluation (of the last step where there is none), won and lost."""
    row = run.db.execute(
        "SELECT step, phase FROM episodes ORDER BY phase = 'eval' DESC, step DESC, id DESC LIMIT 1"
    ).fetchone()
    if row is None:
        return []
    query = (
        "SELECT id, task, stop, score, max_score, turns, final FROM episodes "
        "WHERE step = ? AND phase = ? AND success = ? ORDER BY id LIMIT ?"
    )
    chosen = [e for won in (1, 0) for e in run.db.execute(query, (*row, won, EPISODES_SHOWN // 2))]
    text = _token_text(run)
    stops = [episode[2] for episode in chosen]
    shown = {stops.index(stop) for stop in stops}  # open: the first of each outcome
    return [
        {
            "title": f"task {task}", "stop": stop, "final": final,
            "turns": _turns(run, key, text), "open": index in shown,
            "note": f"{turns} turns, score {score:g} of {top:g}, after step {row[0]}",
        }
        for index, (key, task, stop, score, top, turns, final) in enumerate(chosen)
    ]  # fmt: skip


def _turns(run: Run, episode: int, text: Any) -> list[dict[str, Any]]:
    tokens = {
        turn: (array("i", output), array("f", logprobs))
        for turn, output, logprobs in run.db.execute(
            "SELECT turn, output, logprobs FROM tokens WHERE episode = ?", (episode,)
        )
    }
    found = []
    query = "SELECT turn, observation, action, reward, admissible FROM turns WHERE episode = ? ORDER BY turn"
    for turn, observation, action, reward, admissible in run.db.execute(query, (episode,)):
        notes = [f"reward {reward:+g}"] if reward else []
        notes += [] if admissible else ["not admissible"]
        ids, logprobs = tokens.get(turn, (array("i"), array("f")))
        shown = [
            {
                "text": text(token), "shade": f"{min(1.0, -logp / SHADE_NATS) * 0.55:.3f}",
                "title": f"log-prob {logp:.3f}, p {math.exp(logp):.3f}",
            }
            for token, logp in zip(ids, logprobs, strict=False)
        ]  # fmt: skip
        found.append({"observation": observation, "action": action, "tokens": shown, "note": ", ".join(notes)})
    return found


def _token_text(run: Run) -> Any:
    """A function from token id to its text."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(run.latest()[1] / "policy")
    return lambda token: str(tokenizer.decode([token]))
