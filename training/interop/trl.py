"""Any environment in TRL's GRPOTrainer: as an `environment_factory` of tools, or through our loop as `rollout_func`."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from ...agents.agent import LLMAgent
from ...agents.context import Context, Renderer
from ...agents.engine import Engine
from ...agents.rollout import Episode, Limits, episode_seed, rollout
from ...agents.trajectory import Trajectory
from ...envs import registry
from ...envs.errors import RequestError, TurnwiseError
from ...envs.pool import EnvPool, PlayedEnv
from ...envs.task import Task
from ...envs.tool_calls import Call, render_calls
from ...envs.tools import ToolEnv
from .exports import to_trl

T = TypeVar("T")
GAME_OVER = "The episode is over: answer without a tool."
"""TRL's model ends an episode by an answer without a call; the environment can only say so."""


def dataset(env: str, split: str = "train", count: int | None = None, for_rollout: bool = False, **params: Any) -> Any:
    """A `datasets.Dataset` with one row per task: for `environment_factory`, or with `for_rollout` for `rollout_func`.

    The column `task` is the task as JSON, which `reset` takes. The prompt is an empty user message, to which TRL adds
    what `reset` returns; TRL gives a `rollout_func` nothing but prompts, so there the prompt is the task.
    """
    from datasets import Dataset

    rows = [task.model_dump_json() for task in registry.tasks(env, split, count, **params)]
    empty = [{"role": "user", "content": ""}]
    return Dataset.from_list([{"prompt": row if for_rollout else empty, "task": row} for row in rows])


def environment_factory(env: str, split: str = "train", reward: str = "progress", **params: Any) -> type:
    """A class for TRL's `environment_factory`: its public methods are the environment's tools.

    A game of words has one, `act(action)`. A `ToolEnv` has its own: those of the first task of `split`. The reward is
    the score as a share of its maximum (`progress`) or 1 for success (`outcome`); None where the environment broke.
    """
    found = registry.require(env)
    if reward not in ("progress", "outcome"):
        raise RequestError(f"Expected reward 'progress' or 'outcome', got {reward!r}.")
    members: dict[str, Any] = {"_outcome": reward == "outcome", "__doc__": f"{found.id} for TRL."}
    if issubclass(registry.env_class(env), ToolEnv):
        listed = registry.tasks(env, split, 1, **params)
        if not listed:
            raise RequestError(f"{found.id} has no task in {split!r} to learn its tools from.")
        members |= {tool["name"]: _method(tool) for tool in _tools_of(listed[0])}
    else:
        members["act"] = _act
    return type(found.id.rpartition("/")[2].removesuffix("-v0"), (_Environment,), members)


def rollout_func(
    context: Context,
    *,
    renderer: Renderer | None = None,
    engine: Engine | None = None,
    pool: EnvPool | None = None,
    limits: Limits | None = None,
    temperature: float = 1.0,
    seed: int = 0,
) -> Callable[[Sequence[str], Any], dict[str, list[Any]]]:
    """TRL's `rollout_func` over our rollouts: exact ids, log-probs and masks; `score` and `success` reach the rewards.

    Prompts are tasks (`dataset(…, for_rollout=True)`). Without an `engine` a torch engine holds a copy of the policy,
    and is given its weights before each batch. `context` has to be a transcript.
    """
    if context.layout != "transcript":
        raise RequestError(f"Expected a transcript context, got {context.layout}: TRL has one row per episode.")
    held: dict[str, Any] = {"engine": engine, "renderer": renderer, "version": 0}
    played_in = pool or EnvPool()

    def play(prompts: Sequence[str], trainer: Any) -> dict[str, list[Any]]:
        model = trainer.accelerator.unwrap_model(trainer.model)
        if held["renderer"] is None:
            held["renderer"] = Renderer(trainer.processing_class)
        if held["engine"] is None:
            from ...agents.torch_engine import TorchEngine

            held["engine"] = TorchEngine(model)
        held["version"] += 1
        held["engine"].load_weights(model.named_parameters(remove_duplicate=False), held["version"])
        agent = LLMAgent(held["engine"], held["renderer"], context, temperature)
        episodes = [
            Episode(Task.model_validate_json(prompt), index, 0, episode_seed("trl", seed, held["version"], index))
            for index, prompt in enumerate(prompts)
        ]
        played = asyncio.run(rollout(agent, episodes, played_in, limits))
        found = to_trl([_with_tokens(t, held["renderer"].end_id) for t in played])
        broken = [t.stop.is_error for t in played]
        found["env_mask"] = [[0] * len(m) if b else m for m, b in zip(found["env_mask"], broken, strict=True)]
        return found

    return play


def episode_reward(completions: Sequence[Any], score: Sequence[float | None], **columns: Any) -> list[float | None]:
    """A reward function for `rollout_func`: what the environment said; None where it broke, which TRL takes for 0."""
    return list(score)


def _with_tokens(trajectory: Trajectory, end: int) -> Trajectory:
    """An episode that broke before its first answer, as a row without anything to learn: TRL wants one per prompt."""
    if trajectory.policy_tokens:
        return trajectory
    from ...agents.trajectory import Owner, Segment, Turn

    blank = Turn(
        observation="", anchor="", action="", reward=0.0, score=0.0, valid=False, admissible=False,
        prompt=Segment(owner=Owner.ENVIRONMENT, ids=(end,)),
        output=Segment(owner=Owner.POLICY, ids=(end,), logprobs=(0.0,)),
    )  # fmt: skip
    return trajectory.model_copy(update={"turns": (blank,)})


# ---- environments as classes of tools ----------------------------------------------------------------------


class _Host:
    """An event loop in a thread, with the pool that all instances of this process play through."""

    _one: _Host | None = None
    _lock = threading.Lock()

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.pool = EnvPool(workers=256)
        threading.Thread(target=self.loop.run_forever, name="turnwise-trl", daemon=True).start()

    @classmethod
    def get(cls) -> _Host:
        with cls._lock:
            cls._one = cls._one or cls()
            return cls._one

    def wait(self, call: Awaitable[T]) -> T:
        async def awaited() -> T:
            return await call

        return asyncio.run_coroutine_threadsafe(awaited(), self.loop).result()


class _Environment:
    """What TRL needs of an environment; its names with an underscore are no tools."""

    _outcome = False

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self._env: PlayedEnv | None = None
        self._info: dict[str, Any] = {}

    def reset(self, task: str | None = None, **row: Any) -> str:
        """Begin the task of a row of `dataset`; the first observation."""
        if task is None:
            raise RequestError("Expected a column 'task' in the dataset. Make it with interop.dataset.")
        return _Host.get().wait(self._reset(Task.model_validate_json(task)))

    def get_reward(self) -> float | None:
        """What the episode is worth so far."""
        if not self._info:
            return None
        return float(self._info["success"]) if self._outcome else self._info["score"] / self._info["max_score"]

    def _play(self, action: str) -> str:
        """The observation after an action, and that the episode is over where it is."""
        if not self._info or self._info["stop"]:
            return GAME_OVER
        try:
            text, *_, self._info = _Host.get().wait(self._step(action))
        except TurnwiseError as error:
            self._info = {}
            return f"The environment broke ({error}). {GAME_OVER}"
        return f"{text}\n{GAME_OVER}" if self._info["stop"] else text

    async def _reset(self, task: Task) -> str:
        if self._env is None or self._env.task.env != task.env:
            await self._stack.aclose()
            self._env = await self._stack.enter_async_context(_Host.get().pool.lease(task))
        self._env.task = task
        try:
            text, self._info = await self._env.reset()
        except TurnwiseError:
            self._env, self._info = None, {}
            await self._stack.aclose()
            raise
        return text

    async def _step(self, action: str) -> Any:
        assert self._env is not None
        try:
            return await self._env.step(action)
        except TurnwiseError:
            self._env = None
            await self._stack.aclose()
            raise


def _act(self, action: str) -> str:
    """Take one action in the environment.

    Args:
        action: What to do, in the words of the environment.

    Returns:
        What the environment answers.
    """
    return self._play(action)


_act.__name__ = _act.__qualname__ = "act"


def _tools_of(task: Task) -> list[dict[str, Any]]:
    async def ask() -> list[dict[str, Any]]:
        async with _Host.get().pool.lease(task) as env:
            await env.reset()
            return await env.tools()

    return _Host.get().wait(ask())


_TYPES: dict[str, Any] = {"string": str, "integer": int, "number": float, "boolean": bool, "object": dict}


def _method(tool: dict[str, Any]) -> Callable[..., str]:
    """A method with the tool's signature and a docstring in Google's style, from which TRL makes its schema again."""
    schema = tool["parameters"]
    required = set(schema.get("required", ()))
    parameters = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    lines, hints = [], dict[str, Any]()
    for key in sorted(schema.get("properties", {}), key=lambda key: key not in required):
        described = schema["properties"][key]
        hints[key] = _type(described) if key in required else _type(described) | None
        default = inspect.Parameter.empty if key in required else None
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters.append(inspect.Parameter(key, kind, default=default, annotation=hints[key]))
        lines.append(f"    {key}: {_words(described, key)}")

    def method(self: _Environment, *args: Any, **kwargs: Any) -> str:
        given = signature.bind(self, *args, **kwargs).arguments
        arguments = {key: value for key, value in given.items() if key != "self" and value is not None}
        return self._play(render_calls([Call(tool["name"], arguments)]))

    signature = inspect.Signature(parameters, return_annotation=str)
    method.__name__ = method.__qualname__ = tool["name"]
    method.__signature__ = signature  # type: ignore[attr-defined]
    method.__annotations__ = {**hints, "return": str}
    text = " ".join((tool["description"] or tool["name"]).split())
    arguments = "\n\nArgs:\n" + "\n".join(lines) if lines else ""
    method.__doc__ = f"{text}{arguments}\n\nReturns:\n    What the tool says.\n"
    return method


def _type(schema: dict[str, Any]) -> Any:
    if schema.get("type") == "array":
        return list[_type(schema.get("items", {}))]
    if "anyOf" in schema:
        return _type(next((each for each in schema["anyOf"] if each.get("type") != "null"), {}))
    return _TYPES.get(schema.get("type", "string"), str)


def _words(schema: dict[str, Any], key: str) -> str:
    text = " ".join(str(schema.get("description") or key.replace("_", " ")).split())
    if "enum" in schema:
        text += f" One of: {', '.join(map(str, schema['enum']))}."
    return text
