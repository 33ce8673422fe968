"""What `turnwise eval` and `play` can be pointed at: a scripted agent, a run folder, a model."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..agents.agent import Agent, ScriptedAgent
from ..agents.context import Context, Renderer
from ..agents.engine import Engine
from ..agents.models import load_policy, save_policy
from ..agents.trajectory import Trajectory
from ..envs import registry
from ..envs.errors import RequestError
from ..envs.pool import EnvPool, start_once
from ..envs.task import Task
from ..envs.tools import ToolEnv
from . import session
from .config import EnvConfig, Recipe, build, override
from .evaluation import Evaluation, evaluate
from .evaluation.store import open_recorder
from .run import Run, task_keys

SCRIPTED = ("expert", "random", "empty")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
DEFAULT_TASKS = 100


def resolve_recipe(target: str, env: str) -> tuple[Recipe, Path | str | None]:
    """The recipe that says how `target` plays, and where its policy lies (None for a scripted agent)."""
    if target in SCRIPTED or target == "human":
        return Recipe(name=target, env=EnvConfig(id=_env_id(env, target))), None
    folder = Path(target)
    if (folder / "card.json").is_file():
        run = Run.open(folder)
        return build(run.card["recipe"]), run.latest()[1] / "policy"
    if folder.exists() or HUB_ID.fullmatch(target):
        id = _env_id(env, target)
        return Recipe(name="model", env=EnvConfig(id=id), model=target, context=_model_context(id)), target
    raise RequestError(
        f"Expected {', '.join(SCRIPTED)}, a run folder, a model folder or a hub id (owner/name), got {target!r}, "
        "where there is nothing."
    )


def trained_on(target: str) -> list[str]:
    """Keys of the tasks that a run was trained on; empty where the target is no run, whose training nobody knows."""
    folder = Path(target)
    return Run.open(folder).card.get("train_tasks", []) if (folder / "card.json").is_file() else []


SYSTEM = "You play a text game. Think briefly, then answer with one action between <action> and </action>."
TOOL_SYSTEM = "You serve a user by calling tools. Think briefly, then write the next call or calls."


def _model_context(id: str) -> Context:
    """How a model that was not trained here plays: models write tool calls in formats of their own."""
    if issubclass(registry.env_class(id), ToolEnv):
        return Context(goal="first", answer="verbatim", max_action_tokens=512, max_tokens=16_384, system=TOOL_SYSTEM)
    return Context(goal="first", commands=True, answer="tags", max_action_tokens=256, max_tokens=8192, system=SYSTEM)


def _env_id(env: str, target: str) -> str:
    if not env:
        raise RequestError(f"Expected --env with the target {target!r}: it belongs to no environment.")
    return registry.spec(env).id


def make_agent(
    recipe: Recipe, policy: Path | str | None, target: str, temperature: float, engine: str
) -> tuple[Agent, Engine | None]:
    """The agent behind a target, and the engine to close after it."""
    if policy is None:
        return ScriptedAgent(target), None
    recipe = override(recipe, {"engine.kind": engine})
    session.set_threads(recipe)
    model, tokenizer = load_policy(str(policy), device=session.device(recipe))
    folder = Path(policy)
    if engine == "vllm" and not folder.is_dir():
        folder = Path(tempfile.mkdtemp(prefix="turnwise-"))
        save_policy(folder, model, tokenizer)
    sampler = session.make_engine(recipe, model, folder)
    return session.make_agent(recipe, sampler, Renderer(tokenizer), temperature), sampler


def choose_tasks(
    recipe: Recipe, scripted: bool, env: str, split: str, count: int | None, params: Mapping[str, Any]
) -> list[Task]:
    """Tasks to evaluate on; what is not given is the run's, where it is the run's environment."""
    own = recipe.env
    id = registry.spec(env).id if env else own.id
    same = id == own.id
    held_out = own.params if own.eval_params is None else own.eval_params
    tasks = registry.tasks(
        id,
        split or (own.eval_split if same else "test"),
        count or (own.eval_tasks if same and not scripted else DEFAULT_TASKS),
        **(params or (held_out if same else {})),
    )
    if not tasks:
        raise RequestError(f"{id} has no task in split {split or own.eval_split!r} here. `turnwise envs` lists sizes.")
    return tasks


def options_for(recipe: Recipe, env: str) -> Mapping[str, Any]:
    """What the environment's class gets: as in training, where it is the environment of the training."""
    return recipe.env.options if env == recipe.env.id else {}


async def evaluate_target(
    target: str, *, env: str, split: str, trials: int, count: int | None, temperature: float, engine: str, seed: int,
    params: Mapping[str, Any], console: Console, out: Path | None = None, tasks: Sequence[Task] = (),
) -> Evaluation:  # fmt: skip
    """Evaluate `target` on `tasks`, or on those that the arguments name; what is not given is the run's, if it is one.

    With `out`, episodes are kept there as they end, and those that are there already are not played again.
    """
    recipe, policy = resolve_recipe(target, env)
    tasks = tasks or choose_tasks(recipe, policy is None, env, split, count, params)
    missing = registry.env_class(tasks[0].env).unprepared(tasks)
    if missing:
        console.print(f"compiling {len(missing)} games")
        await start_once(missing, os.cpu_count() or 1, lambda: None)
    what = {"target": target, "trials": trials, "seed": seed, "temperature": temperature, "engine": engine,
            "tasks": task_keys(tasks), "env": tasks[0].env, "split": tasks[0].split}  # fmt: skip
    recorder = open_recorder(out, what) if out else None
    agent, sampler = make_agent(recipe, policy, target, temperature, engine)
    pool = EnvPool(workers=recipe.engine.env_workers, options=options_for(recipe, tasks[0].env))
    done = recorder.done if recorder else []
    columns = (TextColumn("episodes"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=console, transient=True) as progress, recorder or nullcontext():
            bar = progress.add_task("", total=len(tasks) * trials, completed=len(done))

            def ended(trajectory: Trajectory) -> None:
                progress.advance(bar)
                if recorder:
                    recorder.add(trajectory)

            return await evaluate(
                agent, tasks, pool, trials=trials, seed=seed, limits=recipe.limits, on_end=ended, done=done
            )
    finally:
        if sampler is not None:
            sampler.close()
        await pool.aclose()
