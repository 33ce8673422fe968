"""`turnwise`: the command line. Exit codes: 0 fine, 1 the thing failed, 2 the request was wrong.

`--json` prints machine-readable output on stdout; everything else goes to stderr.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import sqlite3
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Column, Table

from ..envs import registry
from ..envs.errors import RequestError, TurnwiseError
from . import serve
from .evaluation import commands
from .terminal import Json, Params, emit, err, fail, out
from .viewer import commands as viewer_commands

app = typer.Typer(
    help="Train and evaluate agents on text environments.", no_args_is_help=True, add_completion=False,
    pretty_exceptions_enable=False,
)  # fmt: skip
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Recipe setting key=value, e.g. rl.steps=40; repeatable.")
]


FULL = (errno.ENOSPC, errno.EDQUOT)
NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENOENT, errno.ENAMETOOLONG)
INTERRUPTED = 130
"""The exit code that typer gives to Ctrl-C."""


def main() -> None:
    """Entry point: runs the command, turns this package's errors into one message and an exit code."""
    _prepare_process()
    try:
        app(standalone_mode=True)
    except RequestError as error:
        fail(str(error), 2)
    except TurnwiseError as error:
        fail(str(error), 1)
    except Exception as error:
        message = _disk_trouble(error)
        if message is None:
            raise
        fail(message, 2)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            fail("Interrupted. A training run continues from its last checkpoint with --resume.", 1)
        raise


def _disk_trouble(error: Exception) -> str | None:
    """What to say where the disk is full or a path cannot be used; None where something else is wrong.

    SQLite and safetensors have errors of their own that carry the operating system's only as text.
    """
    number = error.errno if isinstance(error, OSError) else None
    full = number in FULL or (isinstance(error, sqlite3.OperationalError) and "full" in str(error))
    if full or f"os error {errno.ENOSPC}" in str(error):
        return "No space left on the disk. Free some; a training run continues from its last checkpoint with --resume."
    if isinstance(error, OSError) and number in NO_ACCESS and error.filename:
        return f"Cannot use {str(error.filename)!r}: {error.strerror}. Choose another place."
    return None


def _prepare_process() -> None:
    """Quiet libraries that draw on the terminal."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(version("turnwise"))
        raise typer.Exit


@app.callback()
def options(
    show: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train and evaluate agents on text environments."""


@app.command()
def doctor(as_json: Json = False) -> None:
    """What works on this machine, and the command that mends each gap."""
    from .doctor import diagnose

    findings = diagnose()
    if as_json:
        emit([finding._asdict() for finding in findings])
    else:
        table = Table("", "part", "state", "mend it with", box=None)
        for f in findings:
            mark = {"ok": "[green]ok[/]", "missing": "[yellow]--[/]", "broken": "[red]!![/]"}[f.level]
            table.add_row(mark, f.part, escape(f.state), escape(f.cure))
        out.print(table)
    if any(f.level == "broken" for f in findings):
        raise SystemExit(1)


@app.command()
def envs(as_json: Json = False) -> None:
    """Every registered environment: its splits, and whether it can run here."""
    rows = [_describe_env(spec) for spec in registry.specs().values()]
    rows += [_broken(name, how) for name, how in registry.broken_plugins().items()]
    if as_json:
        emit(rows)
        return
    table = Table(Column("id", no_wrap=True), "splits", "here", "what it is", box=None)
    for row in rows:
        splits = ", ".join(f"{name} {size:,}" for name, size in row["splits"].items())
        table.add_row(row["id"], splits, "yes" if row["available"] else escape(row["reason"]), escape(row["summary"]))
    out.print(table)
    for row in rows:
        if row["missing"]:
            out.print(escape(f"{row['id']}: {row['missing']}"))


def _describe_env(spec: registry.EnvSpec) -> dict[str, Any]:
    if reason := spec.reason():
        return _broken(spec.id, reason, spec.summary)
    try:
        cls = spec.load()
        splits, missing = cls.splits(), cls.missing()
    except Exception as error:  # of a plug-in's module: the others are to be seen
        return _broken(spec.id, f"cannot be loaded: {type(error).__name__}: {error}", spec.summary)
    return {
        "id": spec.id, "splits": splits, "available": True, "reason": "", "summary": spec.summary, "missing": missing,
    }  # fmt: skip


def _broken(id: str, reason: str, summary: str = "") -> dict[str, Any]:
    return {"id": id, "splits": {}, "available": False, "reason": reason, "summary": summary, "missing": ""}


@app.command()
def check(
    env: Annotated[str, typer.Argument(help="Environment id, e.g. Toy or turnwise/TextWorld-v0.")],
    tasks: Annotated[int, typer.Option(help="Tasks per split to play.")] = 3,
    param: Params = None,
    as_json: Json = False,
) -> None:
    """The conformance kit on one environment; exit code 1 when a promise is broken."""
    from ..envs.check import check_env
    from .config import parse_settings

    report = check_env(env, tasks_per_split=tasks, **parse_settings(param or []))
    if as_json:
        emit(report.to_json())
    else:
        table = Table("", "promise", "detail", "s", box=None)
        for c in report.checks:
            table.add_row("[green]ok[/]" if c.ok else "[red]!![/]", c.name, escape(c.detail), f"{c.seconds:.1f}")
        out.print(table)
        if report.memory_mb:
            out.print(f"memory of a worker: {report.memory_mb:.0f} MB")
    if not report.ok:
        raise SystemExit(1)


@app.command()
def play(
    env: Annotated[str, typer.Argument(help="Environment id.")],
    agent: Annotated[str, typer.Option(help="human, expert, random, empty, or a run or model folder.")] = "human",
    task: Annotated[str, typer.Option(help="Task key; default: the first of the split.")] = "",
    split: Annotated[str, typer.Option(help="Split of the task.")] = "train",
    param: Params = None,
    as_json: Json = False,
) -> None:
    """Play one episode in the terminal."""
    from .config import parse_settings
    from .play import play_in_terminal

    console = err if as_json else out
    trajectory = asyncio.run(play_in_terminal(env, agent, task, split, parse_settings(param or []), console))
    if as_json:
        emit(trajectory.model_dump(mode="json"))


@app.command()
def algorithms(as_json: Json = False) -> None:
    """Every algorithm: what fills its slots, its paper, what it needs, its parameters."""
    from .algorithms import describe, describe_parts

    rows = [*describe(), *describe_parts()]
    if as_json:
        emit(rows)
        return
    for row in rows:
        filled = [part for slot, part in row["slots"].items() if slot not in ("behaviour", "additive")]
        parts = [name for part in filled for name in ([part] if isinstance(part, str) else part)]
        kind = "" if row["kind"] == "algorithm" else f" [dim](part: {next(iter(row['slots']))})[/]"
        out.print(f"[bold]{row['name']:18}[/] {escape(row['paper'])}{kind}", soft_wrap=True)
        needs = f"; needs {', '.join(row['needs'])}" if row["needs"] else ""
        out.print(f"                   per {row['unit']}: {' · '.join(parts)}{needs}", style="dim", soft_wrap=True)
    out.print("Parameters with defaults and meaning: turnwise algorithms --json")


@app.command()
def coef(
    algorithm: Annotated[str, typer.Argument(help="Algorithm name; `turnwise algorithms` lists them.")],
    fixture: Annotated[Path, typer.Option(help="JSON file with a small batch.")],
    as_json: Annotated[bool, typer.Option("--json", help="Taken for uniformity: the output is JSON anyway.")] = True,
) -> None:
    """Advantages, masks, coefficients and loss of an algorithm on a batch given as JSON."""
    from .fixture import evaluate

    try:
        data = json.loads(fixture.read_text())
    except OSError as error:
        raise RequestError(f"Cannot read the fixture {str(fixture)!r}: {error.strerror}.") from error
    except ValueError as error:  # not JSON, or not even text
        raise RequestError(f"Expected JSON in {str(fixture)!r}: {error}.") from error
    emit(evaluate(algorithm, data))


@app.command()
def train(
    recipe: Annotated[
        str, typer.Argument(help="Recipe name or package.module:function; leave out with --resume.")
    ] = "",
    settings: Settings = None,
    folder: Annotated[Path | None, typer.Option("--out", help="New folder of the run; default runs/RECIPE-N.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue the run in this folder.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Print every setting of the recipe, and train nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Train: demonstrations, SFT, multi-turn RL, held-out evaluation before and after."""
    from . import recipes, trainer
    from .config import override, parse_settings
    from .progress import Display

    if show:
        _show(override(recipes.load(recipe), parse_settings(settings or [])), as_json)
        return
    if bool(recipe) == bool(resume):
        raise RequestError("Expected a recipe or --resume DIR, " + ("got both." if recipe else "got neither."))
    if resume and settings:
        raise RequestError("--set cannot change a run that has begun; its card fixes it. Start another with --out.")
    with Display(err) as display:
        if resume:
            done = trainer.resume(resume, display)
        else:
            chosen = override(recipes.load(recipe), parse_settings(settings or []))
            done = trainer.train(chosen, folder or _new_folder(chosen.name), display)
    if as_json:
        emit({"run": str(done.run), **done.results()})
    else:
        out.print(summary(done), markup=False, soft_wrap=True)


def _show(recipe: Any, as_json: bool) -> None:
    """A recipe, setting by setting; bold is what differs from the defaults."""
    from . import settings

    if as_json:
        emit(recipe.model_dump(mode="json"))
        return
    table = Table(Column("setting", no_wrap=True), "value", "may be", "what it is for", box=None)
    for each in settings.settings(recipe):
        value = escape(settings.as_json(each.value))
        shown = value if each.value == each.default else f"[bold]{value}[/bold]"
        table.add_row(each.key, shown, escape(each.kind), escape(each.help))
    out.print(table)


def summary(done: Any) -> str:
    """The lines a run ends with."""
    d = done.difference
    if not d.tasks:
        return f"no held-out evaluation before and after RL\nrun folder                  {done.run}"
    verdict = "better" if d.low > 0 else "worse" if d.high < 0 else "no difference shown"
    interval = f"{100 * d.mean:+.1f} points [{100 * d.low:+.1f}, {100 * d.high:+.1f}]"
    return (
        f"held-out success before RL  {done.before}  ({done.before.tasks} tasks)\n"
        f"held-out success after RL   {done.after}\n"
        f"paired difference           {interval}, 95 %: {verdict}\n"
        f"run folder                  {done.run}"
    )


def _new_folder(name: str) -> Path:
    number = 1
    while (folder := Path("runs") / f"{name}-{number}").exists():
        number += 1
    return folder


@app.command()
def report(run: Annotated[Path, typer.Argument(help="Run folder.")], as_json: Json = False) -> None:
    """Write the run's report: one HTML file that needs no network."""
    from .report import write_report

    path = write_report(run)
    if as_json:
        emit({"report": str(path)})
    else:
        print(path)


commands.add_to(app)
viewer_commands.add_to(app)
serve.add_to(app)

if __name__ == "__main__":
    sys.exit(main())
