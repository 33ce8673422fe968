"""`turnwise eval`, `compare` and `gate`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any
from xml.etree import ElementTree

import typer
from rich.markup import escape
from rich.table import Table

from ...agents.chat import Endpoint, EndpointAgent
from ...agents.context import Context
from ...agents.trajectory import Trajectory
from ...envs import registry
from ...envs.errors import RequestError
from ..terminal import Json, Params, emit, err, out
from . import suites
from .episodes import Evaluation
from .gate import Decision, Rule, decide, symptoms
from .intervals import Interval
from .judge import agreement_of, by_judge, load_rubric
from .power import detectable_in, plans
from .store import outcomes, symptoms_of

Base = Annotated[Path, typer.Argument(help="Run or evaluation folder of the policy as it is.")]
Candidate = Annotated[Path, typer.Argument(help="Folder of the policy that may replace it.")]
Target = Annotated[
    str,
    typer.Argument(
        help="expert, random, empty, malformed, human, a run folder, a model folder, a hub id, the URL of an "
        "OpenAI-compatible endpoint, or your own agent (package.module:function)."
    ),
]
Model = Annotated[str, typer.Option(help="Endpoint: name of the model; default: the only one that it serves.")]
Concurrency = Annotated[int, typer.Option(min=1, help="Endpoint: requests in flight.")]
PerMinute = Annotated[float, typer.Option(min=0.0, help="Endpoint: requests begun per minute; 0: no limit.")]
Timeout = Annotated[float, typer.Option(min=0.1, help="Endpoint: seconds for one answer, retries included.")]
Price = Annotated[
    tuple[float, float], typer.Option(help="Price of a million prompt tokens and of a million answer tokens.")
]
Rescore = Annotated[
    str,
    typer.Option(
        help="Play nothing: grade the episodes that the target's folder holds anew, by `replay` in the environment as "
        "it is now, by your own grader (package.module:function) or by a judge (a rubric's JSON file)."
    ),
]
Env = Annotated[str, typer.Option(help="Environment id; default: the run's.")]
Split = Annotated[str, typer.Option(help="Split; default: the run's held-out split, else test.")]
Trials = Annotated[int, typer.Option(min=1, help="Episodes per task.")]
Count = Annotated[int | None, typer.Option(min=1, help="Tasks of the split; default: the run's, else 100.")]
Temperature = Annotated[float, typer.Option(min=0.0, help="0 is greedy.")]
EngineName = Annotated[str, typer.Option(help="torch or vllm.")]
Seed = Annotated[int, typer.Option(help="Seed of the episodes.")]
Out = Annotated[
    Path | None, typer.Option("--out", help="Keep episodes in this folder; the same command again goes on.")
]
SuiteName = Annotated[
    str, typer.Option(help="Play a named suite, part by part, instead of one split: " + ", ".join(suites.names()))
]
Planned = Annotated[
    float | None,
    typer.Option(min=0.001, max=0.999, help="Play nothing: say how many tasks and trials show this difference."),
]
Rate = Annotated[float, typer.Option(min=0.01, max=0.99, help="With --plan: success expected of the base.")]
Agreement = Annotated[float, typer.Option(min=0.0, max=1.0, help="With --plan: share of variance that is the task's.")]
Likeness = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="With --plan: how alike tasks are hard for both policies.")
]
KEYS_SHOWN = 10


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("eval")(evaluate)
    app.command()(compare)
    app.command()(gate)


def evaluate(
    target: Target = "", env: Env = "", split: Split = "", trials: Trials = 1, tasks: Count = None,
    temperature: Temperature = 0.0, engine: EngineName = "torch", seed: Seed = 0, folder: Out = None,
    suite: SuiteName = "", plan: Planned = None, rate: Rate = 0.5, agreement: Agreement = 0.5, likeness: Likeness = 0.7,
    model: Model = "", concurrency: Concurrency = Endpoint.concurrency, per_minute: PerMinute = Endpoint.per_minute,
    timeout: Timeout = Endpoint.timeout_s, price: Price = (0.0, 0.0), rescore: Rescore = "",
    param: Params = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Held-out evaluation: success with a 95 % interval over tasks, why episodes ended, what they cost."""
    if plan is not None:
        _print_plans(plan, rate, agreement, likeness, tasks, as_json)
        return
    from ..target import TARGETS, evaluate_target

    if not target:
        raise RequestError(f"Expected a target to evaluate: {TARGETS}.")
    if rescore:
        _rescore(Path(target), rescore, folder, as_json)
        return
    served = {"model": model, "concurrency": concurrency, "per_minute": per_minute, "timeout_s": timeout}
    how = {"trials": trials, "temperature": temperature, "engine": engine, "seed": seed, "console": err,
           "served": served}  # fmt: skip
    if suite:
        if env or split or tasks or param:
            raise RequestError("Expected --suite alone: it says which environments, splits and tasks are played.")
        _evaluate_suite(target, suites.load(suite), folder, how, price, as_json)
        return
    from ..config import parse_settings

    params = parse_settings(param or [])
    result = asyncio.run(
        evaluate_target(target, env=env, split=split, count=tasks, params=params, out=folder, **how)
    )  # fmt: skip
    result = result.priced(*price)
    if as_json:
        emit(result.to_json())
    else:
        _print_evaluation(result)


def _rescore(folder: Path, grader: str, out_folder: Path | None, as_json: bool) -> None:
    from ..foreign import load_function
    from ..target import pool_for
    from .rescore import REPLAY, by_grader, by_replay, rescored, stored

    played, about = stored(folder)
    agrees = None
    if grader == REPLAY:
        pool = pool_for(str(about["target"]), played[0].task.env)
        with err.status(f"replaying {len(played)} episodes"):
            after = asyncio.run(by_replay(played, pool))
        pool.close()
    elif grader.endswith(".json"):
        with err.status(f"asking the judge about {len(played)} episodes"):
            after = asyncio.run(_judged(played, Path(grader)))
        agrees = agreement_of(played, after)
    else:
        after = by_grader(played, load_function(grader, "a grader"))
    result, changed = rescored(played, after, {**about, "rescored": grader, "of": str(folder)}, out_folder)
    if as_json:
        judge = {"judge": agrees._asdict()} if agrees else {}
        emit({**result.to_json(), "changed": changed, **judge})
        return
    _print_evaluation(result)
    out.print(f"  {'judged otherwise':18} {len(changed)} tasks: {', '.join(changed[:KEYS_SHOWN])}".rstrip(": "))
    if agrees:
        kappa = f"{agrees.kappa:.2f} [{agrees.low:.2f}, {agrees.high:.2f}]"
        said = f"{agrees.agree:.1%} of {agrees.episodes} episodes as the environment, Cohen's kappa {kappa}"
        out.print(f"  {'the judge says':18} {said}; passes {agrees.false_passes:.1%} of lost ones", soft_wrap=True)


async def _judged(played: list[Trajectory], path: Path) -> list[Trajectory]:
    """The episodes as the rubric's judge grades them."""
    rubric = load_rubric(path)
    agent = EndpointAgent(Endpoint(rubric.endpoint, rubric.model), Context(max_action_tokens=1024))

    async def ask(messages: list[dict[str, str]]) -> str:
        return (await agent.ask(messages, seed=0))[0]

    return await by_judge(played, rubric, ask)


def _evaluate_suite(
    target: str,
    suite: suites.Suite,
    folder: Path | None,
    how: dict[str, Any],
    price: tuple[float, float],
    as_json: bool,
) -> None:
    """Every part that can run here; a part that the policy was trained on says so."""
    from ..target import evaluate_target, trained_on

    keys, found = trained_on(target), list[dict[str, Any]]()
    for part in suite.parts:
        head = {"part": part.name, "kind": part.kind, "env": part.env, "contaminated": len(part.known_to(keys))}
        if reason := registry.spec(part.env).reason():
            found.append({**head, "unavailable": reason})
            err.print(f"{part.name}: left out, {part.env} {reason}", markup=False, soft_wrap=True)
            continue
        out_folder = folder / part.name.replace(" ", "-") if folder else None
        result = asyncio.run(
            evaluate_target(
                target, env=part.env, split=part.split, count=part.count, params={}, out=out_folder,
                tasks=part.tasks(), **how,
            )
        ).priced(*price)  # fmt: skip
        found.append({**result.to_json(), **head})
        if not as_json:
            out.print(f"{part.name} ({part.kind})", style="bold")
            if head["contaminated"]:
                out.print(
                    f"  trained on {head['contaminated']} of these tasks: this number is not held out", style="red"
                )
            _print_evaluation(result)
    if as_json:
        emit({"suite": suite.name, "version": suite.version, "parts": found})


def _print_evaluation(result: Evaluation) -> None:
    each = f", {result.trials} trials each" if result.trials > 1 else ""
    out.print(
        f"{result.env} {result.split}: success {result.success} over {result.success.tasks} tasks{each}", soft_wrap=True
    )
    if result.score.mean not in (result.success.mean, 0.0):
        out.print(f"  {'score':18} {result.score}")
    if result.detectable == result.detectable:
        shows = f"differences of {100 * result.detectable:.1f} points and more, in 4 of 5 comparisons on these tasks"
        out.print(f"  {'shows':18} {shows}", soft_wrap=True)
    if result.repeats:
        r = result.repeats
        for k in (k for k in r.pass_at if k > 1):
            out.print(f"  {f'{k} runs':18} any succeeds {r.pass_at[k]:.1%}, all succeed {r.pass_hat[k]:.1%}")
        spread = f"{min(r.by_run):.1%} to {max(r.by_run):.1%}, standard deviation {100 * r.deviation:.1f} points"
        out.print(f"  {'one run':18} {spread}")
    for reason, count in result.by_stop_reason.items():
        out.print(f"  {reason:18} {count:,}")
    for name, value in [*result.cost.items(), *result.process._asdict().items()]:
        if value == value:
            whole = float(value).is_integer()
            out.print(f"  {name:18} {value:,.0f}" if whole else f"  {name:18} {value:,.2f}")


def _print_plans(
    difference: float, rate: float, agreement: float, likeness: float, available: int | None, as_json: bool
) -> None:
    found = plans(difference, rate, agreement, likeness, available=available)
    if as_json:
        emit([plan._asdict() for plan in found])
        return
    out.print(
        f"To see {100 * difference:g} points around {100 * rate:g} % in 4 of 5 evaluations (two-sided 5 %), "
        "each of two policies plays",
        soft_wrap=True,
    )
    table = Table("trials a task", "tasks", "episodes", "shows", box=None)
    for plan in found:
        shows = f"{100 * plan.detectable:.1f} points"
        table.add_row(str(plan.runs), f"{plan.tasks:,}", f"{plan.episodes:,}", shows)
    out.print(table)


def compare(base: Base, candidate: Candidate, as_json: Json = False) -> None:
    """Two evaluations on the same tasks: paired difference with its interval, and which tasks flipped."""
    decision = _decide(base, candidate, Rule(), [])
    if as_json:
        emit(_decision_json(decision))
    else:
        _print_difference(decision)
        _print_flips(decision)


def gate(
    base: Base,
    candidate: Candidate,
    max_regression: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Largest share of passing tasks that may fail now.")
    ] = Rule().max_regression,
    min_fixes: Annotated[int, typer.Option(min=0, help="Fewest tasks that must be mended.")] = Rule().min_fixes,
    alpha: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Largest chance that so many fixes are luck (exact McNemar).")
    ] = Rule().alpha,
    critical: Annotated[
        Path | None, typer.Option(help="File of task keys, one a line, none of which may start to fail.")
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Write the result as JUnit XML.")] = None,
    github: Annotated[bool, typer.Option("--github", help="Print GitHub annotations.")] = False,
    as_json: Json = False,
) -> None:
    """Whether the candidate may be released: exit code 0 if so, 1 if not, 2 if the two cannot be compared."""
    keys = _read_keys(critical) if critical else []
    decision = _decide(base, candidate, Rule(max_regression, min_fixes, alpha), keys)
    ended = symptoms(symptoms_of(candidate), decision.flips.p2f)
    if junit:
        write_junit(junit, decision)
    if as_json:
        emit({**_decision_json(decision), "symptoms": ended})
    else:
        _print_difference(decision)
        _print_flips(decision)
        for symptom, count in ended.items():
            out.print(f"  now fails by {symptom}: {count}")
        word, style = ("accepted", "bold green") if decision.accepted else ("refused", "bold red")
        out.print(word, style=style)
        for reason in decision.reasons:
            out.print(f"  {reason}", markup=False, soft_wrap=True)
    if github:
        for line in github_lines(decision):
            print(line)
    if not decision.accepted:
        raise SystemExit(1)


def _decide(base: Path, candidate: Path, rule: Rule, critical: list[str]) -> Decision:
    before, after = outcomes(base), outcomes(candidate)
    if not set(before) & set(after):
        raise RequestError(
            f"Expected evaluations of the same tasks, but {base} and {candidate} share none. "
            "Evaluate both on the same split."
        )
    unknown = sorted(set(critical) - set(before))
    if unknown:
        raise RequestError(f"Expected critical tasks that {base} played, got {unknown[0]!r}.")
    return decide(before, after, rule, critical)


def _read_keys(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError as error:
        raise RequestError(f"Cannot read the task keys in {str(path)!r}: {error.strerror}.") from error


def _decision_json(d: Decision) -> dict[str, Any]:
    return {
        "accepted": d.accepted, "reasons": d.reasons, "regression_rate": d.regression_rate, "fix_rate": d.fix_rate,
        "p_value": d.p_value, "difference": d.difference._asdict(), "detectable": detectable_in(d.difference),
        "flips": d.flips._asdict(),
    }  # fmt: skip


def _print_difference(d: Decision) -> None:
    i = d.difference
    out.print(f"paired difference  {points(i)}, {i.tasks} tasks: {direction(i)}", markup=False, soft_wrap=True)
    shown = detectable_in(i)
    if shown == shown:
        out.print(f"finds              {100 * shown:.1f} points and more, in 4 of 5 such comparisons", soft_wrap=True)
    f = d.flips
    out.print(
        f"flips              {len(f.f2p)} mended, {len(f.p2f)} broken (exact McNemar p = {d.p_value:.3g}), "
        f"{len(f.p2p)} pass and {len(f.f2f)} fail in both"
        + (f", {len(f.undecided)} undecided" if f.undecided else ""),
        markup=False, soft_wrap=True,
    )  # fmt: skip


def _print_flips(d: Decision) -> None:
    for name, keys in (("broken", d.flips.p2f), ("mended", d.flips.f2p)):
        if keys:
            more = f" and {len(keys) - KEYS_SHOWN} more" if len(keys) > KEYS_SHOWN else ""
            out.print(f"  {name}: {escape(', '.join(keys[:KEYS_SHOWN]))}{more}", soft_wrap=True)


def points(i: Interval) -> str:
    """A difference in points with its interval."""
    return f"{100 * i.mean:+.1f} points [{100 * i.low:+.1f}, {100 * i.high:+.1f}]"


def direction(i: Interval) -> str:
    """What a difference's interval says."""
    return "better" if i.low > 0 else "worse" if i.high < 0 else "no difference shown"


def write_junit(path: Path, decision: Decision) -> None:
    """One test case per task: a failure where it broke, skipped where nothing was decided."""
    f = decision.flips
    suite = ElementTree.Element(
        "testsuite", name="turnwise gate", tests=str(sum(map(len, f))), failures=str(len(f.p2f)),
        skipped=str(len(f.undecided)),
    )  # fmt: skip
    for kind, keys in f._asdict().items():
        for key in keys:
            case = ElementTree.SubElement(suite, "testcase", classname=kind, name=key)
            if kind == "p2f":
                ElementTree.SubElement(case, "failure", message="passed before, fails now")
            elif kind == "undecided":
                ElementTree.SubElement(case, "skipped", message="no majority in both evaluations")
    path.write_text(ElementTree.tostring(suite, encoding="unicode") + "\n")


def github_lines(decision: Decision) -> list[str]:
    """GitHub workflow commands: one error per reason, or a notice."""
    if decision.accepted:
        return [f"::notice title=turnwise gate::accepted, {points(decision.difference)}"]
    return [f"::error title=turnwise gate::{_one_line(reason)}" for reason in decision.reasons]


def _one_line(text: str) -> str:
    """Escaped as workflow commands ask: a task's name must not begin another command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
