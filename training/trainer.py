"""The run: demonstrations, SFT, then rollout -> update -> weight sync, with checkpoints and held-out evaluation."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from ..agents.context import Renderer
from ..agents.engine import Engine, EngineError
from ..agents.models import load_policy
from ..envs.pool import EnvPool, start_once
from ..envs.registry import env_class
from . import diagnostics, session, shades
from .checkpoint import load_optimizer, load_state, load_tensors, load_text, prune, save_checkpoint
from .collate import encode
from .collect import Collector, play_metrics
from .config import ALARMS, Alarm, Recipe, build
from .evaluation import Evaluation, compare, evaluate
from .evaluation.intervals import Interval, success_interval
from .extract import PROVENANCE
from .learner import Learner
from .replay import Store, reincarnates
from .run import Run, environment_card, task_keys
from .sft import imitate
from .slots import NEEDS

STORE = "replay.jsonl"
"""File of a checkpoint with the episodes that outlive their step, where there are any."""


class Reporter(Protocol):
    """What watches a run; every method may do nothing."""

    def phase(self, name: str, total: int) -> None: ...

    def advance(self, count: int = 1, **shown: float) -> None: ...

    def step(self, step: int, steps: int, metrics: Mapping[str, float]) -> None: ...

    def evaluated(self, step: int, result: Evaluation) -> None: ...


class Silent:
    """Watches nothing."""

    def phase(self, name: str, total: int) -> None:
        pass

    def advance(self, count: int = 1, **shown: float) -> None:
        pass

    def step(self, step: int, steps: int, metrics: Mapping[str, float]) -> None:
        pass

    def evaluated(self, step: int, result: Evaluation) -> None:
        pass


@dataclass
class Outcome:
    """What a run achieved on its held-out tasks."""

    run: Path
    before: Interval
    after: Interval
    difference: Interval

    def results(self) -> dict[str, dict[str, float]]:
        """The three intervals as plain values."""
        parts = {"before": self.before, "after": self.after, "difference": self.difference}
        return {name: part._asdict() for name, part in parts.items()}


@dataclass
class _Running:
    """The moving parts of a run."""

    recipe: Recipe
    run: Run
    tasks: session.Tasks
    pool: EnvPool
    renderer: Renderer
    learner: Learner
    engine: Engine
    canary: list[int]
    collector: Collector
    reporter: Reporter


def train(recipe: Recipe, out: Path, reporter: Reporter | None = None) -> Outcome:
    """Run `recipe` into the new folder `out`."""
    session.validate(recipe)
    tasks = session.list_tasks(recipe)
    card = {
        "recipe": recipe.model_dump(mode="json"),
        "train_tasks": task_keys(tasks.train),
        "held_out_tasks": task_keys(tasks.held_out),
        **environment_card(),
    }
    return asyncio.run(_run(recipe, Run.create(out, card), tasks, reporter or Silent()))


def resume(folder: Path, reporter: Reporter | None = None) -> Outcome:
    """Continue the run in `folder` from its last checkpoint (from its start, if it has none yet)."""
    run = Run.open(folder)
    recipe = build(run.card["recipe"])
    return asyncio.run(_run(recipe, run, session.list_tasks(recipe), reporter or Silent()))


async def _run(recipe: Recipe, run: Run, tasks: session.Tasks, reporter: Reporter) -> Outcome:
    session.set_threads(recipe)
    pool = EnvPool(workers=recipe.engine.env_workers, options=recipe.env.options)
    engine = None
    try:
        await _prepare(recipe, tasks, reporter)
        if not run.checkpoints():
            await _warm_start(recipe, run, tasks, pool, reporter)
        running, first = _restore(recipe, run, tasks, pool, reporter)
        engine = running.engine
        for step in range(first, recipe.rl.steps):
            await _rl_step(running, step)
        if recipe.rl.steps and recipe.rl.steps not in _evaluated(run):
            await _evaluate(running, recipe.rl.steps)
        done = outcome(run, recipe.rl.steps)
        run.finish(done.results())
        return done
    finally:
        if engine is not None:
            engine.close()
        await pool.aclose()
        run.close()


async def _prepare(recipe: Recipe, tasks: session.Tasks, reporter: Reporter) -> None:
    """Compile the games that are not in the cache, as many at once as there are cores."""
    missing = env_class(recipe.env.id).unprepared([*tasks.train, *tasks.held_out])
    if missing:
        reporter.phase("compiling games", len(missing))
        await start_once(missing, os.cpu_count() or 1, reporter.advance)


async def _warm_start(recipe: Recipe, run: Run, tasks: session.Tasks, pool: EnvPool, reporter: Reporter) -> None:
    """Tokenizer, demonstrations, SFT; ends with checkpoint 0."""
    run.forget_after(-(1 << 40))
    reporter.phase("listening", session.LISTENING_EPISODES)
    model, tokenizer = session.new_policy(recipe, await session.listen(recipe, tasks.train, pool))
    renderer = Renderer(tokenizer)
    reporter.phase("demonstrations", max(1, recipe.sft.demos))
    rows = await session.demonstrate(
        recipe, tasks.train, pool, renderer, max(1, recipe.sft.demos), lambda _: reporter.advance()
    )
    if recipe.sft.demos:
        started, curve = time.perf_counter(), []
        for update in imitate(
            model, rows, recipe.sft, session.micro_tokens(recipe), recipe.seed, session.autocast_dtype(recipe)
        ):
            if update.step == 1:
                reporter.phase("SFT", update.steps)
            reporter.advance(loss=update.loss, tokens=update.tokens)
            curve.append(update.loss)
        for index, loss in enumerate(curve):
            run.record(index - len(curve), "sft", {"sft/loss": loss})
        run.record(
            0, "sft", {"time/sft": time.perf_counter() - started, "sft/tokens": float(sum(len(r.ids) for r in rows))}
        )
    learner = session.make_learner(recipe, model)
    _checkpoint(recipe, run, learner, tokenizer, 0, rows[0].ids, Store())


def _restore(recipe: Recipe, run: Run, tasks: session.Tasks, pool: EnvPool, reporter: Reporter) -> tuple[_Running, int]:
    """Everything as it was at the last checkpoint, and the step to go on with."""
    done, folder = run.latest()
    state = load_state(folder)
    run.forget_after(done)
    model, tokenizer = load_policy(str(folder / "policy"), device=session.device(recipe))
    reference = None
    if done:
        reference = load_policy(str(run.checkpoints()[0][1] / "policy"), device=model.device)[0]
    learner = session.make_learner(recipe, model, reference)
    learner.restore(state["controllers"])
    for name, optimizer in learner.optimizers.items():
        load_optimizer(folder, name, optimizer)
    for name in learner.tensors():
        learner.load_tensors(name, load_tensors(folder, name))
    renderer = Renderer(tokenizer)
    if not renderer.is_prefix_preserving():
        warnings.warn(
            "The model's chat template rewrites earlier turns of a growing dialogue. Contexts here only append, so "
            "training stays exact, but the model meets contexts unlike those of its template.",
            stacklevel=2,
        )
    reporter.phase(f"starting {recipe.engine.kind} engine", 0)
    engine = session.make_engine(recipe, model, folder / "policy")
    collector = Collector(recipe, tasks, pool, renderer, engine, learner, Store.load(load_text(folder, STORE)))
    running = _Running(recipe, run, tasks, pool, renderer, learner, engine, state["canary"], collector, reporter)
    session.sync(engine, model, done)
    session.canary_gap(engine, model, running.canary, session.gap_limit(recipe))
    return running, done


async def _rl_step(r: _Running, step: int) -> None:
    """Evaluate if due, collect, update, sync, record; one transaction."""
    recipe, started = r.recipe, time.perf_counter()
    if step not in _evaluated(r.run) and (step == 0 or (recipe.eval.every and step % recipe.eval.every == 0)):
        await _evaluate(r, step)
    began = time.perf_counter()
    if reincarnates(recipe.rl, step):
        r.learner.reincarnate()
    played, learned, told, more = await r.collector.collect(step)
    collected = time.perf_counter()
    if all(t.stop.is_error for t in played):
        raise EngineError(f"Step {step}: every episode failed. The first: {played[0].stop.value}, {played[0].error}")
    extras = r.learner.needs - NEEDS.keys() | {"provenance" for t in learned if t.agent in PROVENANCE}
    encoded = encode(learned, recipe.rewards, extras)
    metrics = r.learner.update(encoded, step)
    updated = time.perf_counter()
    if metrics.get("gap/max", 0.0) > session.gap_limit(recipe):
        raise EngineError(
            f"Step {step}: sampler and trainer disagree by {metrics['gap/max']:.2g} nats on a sampled token "
            f"(limit {session.gap_limit(recipe):.2g}). The run stops before it learns from wrong log-probs."
        )
    session.sync(r.engine, r.learner.model, step + 1)
    metrics["gap/canary"] = session.canary_gap(r.engine, r.learner.model, r.canary, session.gap_limit(recipe))
    ended = time.perf_counter()
    tokens = sum(t.policy_tokens for t in played)
    metrics |= more | play_metrics(played) | diagnostics.of_episodes(played) | {
        "time/rollout": collected - began, "time/update": updated - collected, "time/sync": ended - updated,
        "time/step": ended - began, "speed/episodes": len(played) / (collected - began),
        "speed/tokens": tokens / (collected - began), "speed/row_tokens": sum(encoded.lengths) / (updated - collected),
    }  # fmt: skip
    shaded = partial(shades.of_episodes, r.learner.shades, encoded.trajectories)
    if told:
        r.run.record(step + 1, "retry", {}, told, shaded(told))
    r.run.record(step + 1, "train", metrics, played, shaded(played))
    evaluated = _keeps_best(recipe) and recipe.eval.every and (step + 1) % recipe.eval.every == 0
    if (step + 1) % recipe.checkpoint_every == 0 or evaluated or step + 1 == recipe.rl.steps:
        _checkpoint(recipe, r.run, r.learner, r.renderer.tokenizer, step + 1, r.canary, r.collector.store)
    r.reporter.step(step + 1, recipe.rl.steps, metrics | {"time/total": time.perf_counter() - started})
    _watch(r, step + 1)


async def _evaluate(r: _Running, step: int) -> None:
    options = r.recipe.eval
    r.reporter.phase("held-out evaluation", len(r.tasks.held_out) * options.trials)
    agent = session.player(r.recipe, session.make_agent(r.recipe, r.engine, r.renderer, options.temperature))
    result = await evaluate(
        agent, r.tasks.held_out, r.pool, trials=options.trials, seed=r.recipe.seed, limits=r.recipe.limits,
        on_end=lambda _: r.reporter.advance(),
    )  # fmt: skip
    metrics = {"eval/success": result.success.mean, "eval/low": result.success.low, "eval/high": result.success.high}
    r.run.record(step, "eval", metrics, result.trajectories)
    r.reporter.evaluated(step, result)
    _watch(r, step, "eval/")


def _watch(r: _Running, step: int, prefix: str = "") -> None:
    """Warn, or end the run, where an alarm of the recipe fires at `step`."""
    alarms = [a for a in r.recipe.alarms if a.metric.startswith("eval/") == (prefix == "eval/")]
    if not alarms:
        return
    metrics = r.run.metrics()
    if step == 1 and not prefix:
        _warn_of_unknown(alarms, metrics)
    for found in diagnostics.fired(alarms, metrics, step):
        if found.alarm.action == "warn":
            warnings.warn(f"Alarm: {found}.", stacklevel=2)
            continue
        best, folder, success = best_checkpoint(r.run)
        advice = f"Its best checkpoint is {folder} (held-out success {success:.0%})."
        if found.alarm.action == "restore":
            _go_back(r.run, best)
            advice += " What came after it was dropped: eval, play and --resume start from there."
        raise diagnostics.AlarmStop(f"Alarm: {found}. The run stopped. {advice}")


def _warn_of_unknown(alarms: Sequence[Alarm], metrics: Mapping[str, Any]) -> None:
    unknown = sorted({a.metric for a in alarms} - metrics.keys())
    asked = [name for name in unknown if name not in {a.metric for a in ALARMS}]
    if asked:
        warnings.warn(f"Alarms on {', '.join(asked)} wait for a metric that step 1 did not have.", stacklevel=3)


def _keeps_best(recipe: Recipe) -> bool:
    """Whether an alarm may end the run, so that its best checkpoint must be there."""
    return any(alarm.action != "warn" for alarm in recipe.alarms)


def best_checkpoint(run: Run) -> tuple[int, Path, float]:
    """(step, folder, held-out success) of the checkpoint with the best evaluation; the newest of equals."""
    scored = dict(run.metrics().get("eval/success", []))
    return max(((step, path, scored[step]) for step, path in run.checkpoints() if step in scored),
               key=lambda found: (found[2], found[0]), default=(*run.latest(), 0.0))  # fmt: skip


def _go_back(run: Run, step: int) -> None:
    """Drop checkpoints and records after `step`."""
    for later, folder in run.checkpoints():
        if later > step:
            shutil.rmtree(folder)
    run.forget_after(step)


def _evaluated(run: Run) -> set[int]:
    return {step for step, _ in run.metrics().get("eval/success", [])}


def _checkpoint(
    recipe: Recipe, run: Run, learner: Learner, tokenizer: Any, step: int, canary: Sequence[int], store: Store
) -> None:
    state = {"step": step, "controllers": learner.state, "canary": list(canary)[: session.CANARY_TOKENS]}
    folder = run.folder / "checkpoints"
    save_checkpoint(
        folder / f"step-{step}", learner.model, tokenizer, learner.optimizers, learner.tensors(), state,
        {STORE: text} if (text := store.dump()) else {},
    )  # fmt: skip
    prune(folder, spare=best_checkpoint(run)[0] if _keeps_best(recipe) else None)


def outcome(run: Run, last: int) -> Outcome:
    """Success before and after RL on the held-out tasks, and the paired difference."""
    before, after = run.successes(0, "eval"), run.successes(last, "eval")
    return Outcome(
        run.folder,
        success_interval(list(before.values())),
        success_interval(list(after.values())),
        compare(before, after),
    )
