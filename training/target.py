"""What `turnwise eval` and `play` can be pointed at: a scripted agent, a run folder, a model."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..agents.agent import Agent, ProgramAgent, ScriptedAgent
from ..agents.chat import Endpoint, EndpointAgent
from ..agents.context import Context, Renderer
from ..agents.engine import Engine
from ..agents.human import DAY_S, HumanAgent
from ..agents.models import load_policy, save_policy
from ..agents.rollout import CONCURRENCY
from ..agents.trajectory import Trajectory
from ..envs import registry
from ..envs.errors import RequestError
from ..envs.pool import EnvPool, start_once
from ..envs.task import Task
from ..envs.tools import ToolEnv
from . import session
from .config import EnvConfig, Recipe, build, override
from .evaluation import Evaluation, evaluate
from .evaluation.store import Recorder, open_recorder
from .foreign import NAME as FUNCTION
from .foreign import load_function
from .run import Run, task_keys

SCRIPTED = ("expert", "random", "empty", "malformed")
TARGETS = (
    "expert, random, empty, malformed, human, a run folder, a model folder, a hub id (owner/name), an endpoint's URL "
    "or your own agent (package.module:function)"
)
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
DEFAULT_TASKS = 100


def resolve_recipe(target: str, env: str) -> tuple[Recipe, Path | str | None]:
    """The recipe that says how `target` plays, and where its policy lies (None for a scripted agent)."""
    if target in SCRIPTED or target == "human" or FUNCTION.fullmatch(target):
        return Recipe(name=target, env=EnvConfig(id=_env_id(env, target))), None
    if is_url(target):
        id = _env_id(env, target)
        return Recipe(name="endpoint", env=EnvConfig(id=id), context=_model_context(id)), None
    folder = Path(target)
    if (folder / "card.json").is_file():
        run = Run.open(folder)
        return build(run.card["recipe"]), run.latest()[1] / "policy"
    if folder.exists() or HUB_ID.fullmatch(target):
        id = _env_id(env, target)
        return Recipe(name="model", env=EnvConfig(id=id), model=target, context=_model_context(id)), target
    raise RequestError(f"Expected {TARGETS} as target, got {target!r}, where there is nothing.")


def is_url(target: str) -> bool:
    """Whether the target is an endpoint."""
    return target.startswith(("http://", "https://"))


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
    recipe: Recipe, policy: Path | str | None, target: str, temperature: float, engine: str,
    served: Mapping[str, Any] | None = None, console: Console | None = None,
) -> tuple[Agent, Engine | None]:  # fmt: skip
    """The agent behind a target, and the engine to close after it. `served`: fields of `Endpoint` for a URL."""
    if policy is None:
        return _without_policy(recipe, target, temperature, served or {}, console), None
    recipe = override(recipe, {"engine.kind": engine})
    session.set_threads(recipe)
    model, tokenizer = load_policy(str(policy), device=session.device(recipe))
    folder = Path(policy)
    if engine == "vllm" and not folder.is_dir():
        folder = Path(tempfile.mkdtemp(prefix="turnwise-"))
        save_policy(folder, model, tokenizer)
    sampler = session.make_engine(recipe, model, folder)
    return session.player(recipe, session.make_agent(recipe, sampler, Renderer(tokenizer), temperature)), sampler


def _without_policy(
    recipe: Recipe, target: str, temperature: float, served: Mapping[str, Any], console: Console | None
) -> Agent:
    """A target whose answers come from elsewhere than a model of ours."""
    if is_url(target):
        return EndpointAgent(Endpoint(target, **served), recipe.context, temperature)
    if target == "human":
        return HumanAgent(console or Console())
    if FUNCTION.fullmatch(target):
        return ProgramAgent(load_function(target, "an agent"), target)
    return ScriptedAgent(target)


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


def at_once(target: str, agent: Agent) -> int:
    """How many episodes are played side by side."""
    if isinstance(agent, EndpointAgent):
        return agent.endpoint.concurrency
    return 1 if target == "human" else CONCURRENCY


def options_for(recipe: Recipe, env: str) -> Mapping[str, Any]:
    """What the environment's class gets: as in training, where it is the environment of the training."""
    return recipe.env.options if env == recipe.env.id else {}


def pool_for(target: str, env: str) -> EnvPool:
    """Where episodes that `target` played can be played again."""
    try:
        recipe, _ = resolve_recipe(target, env)
    except RequestError:  # what played them is gone: its environment was not of a special kind that we would know of
        return EnvPool()
    return EnvPool(workers=recipe.engine.env_workers, options=options_for(recipe, env))


async def evaluate_target(
    target: str, *, env: str, split: str, trials: int, count: int | None, temperature: float, engine: str, seed: int,
    params: Mapping[str, Any], console: Console, out: Path | None = None, tasks: Sequence[Task] = (),
    served: Mapping[str, Any] | None = None,
) -> Evaluation:  # fmt: skip
    """Evaluate `target` on `tasks`, or on those that the arguments name; what is not given is the run's, if it is one.

    With `out`, episodes are kept there as they end, and those that are there already are not played again. `served`:
    fields of `Endpoint` where the target is a URL.
    """
    recipe, policy = resolve_recipe(target, env)
    tasks = tasks or choose_tasks(recipe, policy is None, env, split, count, params)
    missing = registry.env_class(tasks[0].env).unprepared(tasks)
    if missing:
        console.print(f"compiling {len(missing)} games")
        await start_once(missing, os.cpu_count() or 1, lambda: None)
    what = {"target": target, "trials": trials, "seed": seed, "temperature": temperature, "engine": engine,
            "tasks": task_keys(tasks), "env": tasks[0].env, "split": tasks[0].split}  # fmt: skip
    if is_url(target):
        what["model"] = (served or {}).get("model", "")
    recorder = open_recorder(out, what) if out else None
    agent, sampler = make_agent(recipe, policy, target, temperature, engine, served, console)
    limits = recipe.limits.model_copy(update={"seconds": DAY_S}) if target == "human" else recipe.limits
    pool = EnvPool(workers=recipe.engine.env_workers, options=options_for(recipe, tasks[0].env))
    done = recorder.done if recorder else []
    try:
        with _watched(target, console, recorder, len(tasks) * trials) as ended, recorder or nullcontext():
            result = await evaluate(
                agent, tasks, pool, trials=trials, seed=seed, limits=limits, on_end=ended, done=done,
                concurrency=at_once(target, agent),
            )  # fmt: skip
            if recorder:
                recorder.finish(result.to_json())
            return result
    finally:
        if sampler is not None:
            sampler.close()
        await pool.aclose()


@contextmanager
def _watched(
    target: str, console: Console, recorder: Recorder | None, episodes: int
) -> Iterator[Callable[[Trajectory], None]]:
    """What to call when an episode ends: a bar moves on and the episode is kept; a person is told how it ended."""
    columns = (TextColumn("episodes"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=target == "human") as progress:
        bar = progress.add_task("", total=episodes, completed=len(recorder.done) if recorder else 0)

        def ended(trajectory: Trajectory) -> None:
            progress.advance(bar)
            if target == "human":
                console.print(f"\n{trajectory.stop.value} after {len(trajectory.turns)} turns", style="dim")
            if recorder:
                recorder.add(trajectory)

        yield ended
