"""Everything a run needs, put together from its recipe: tasks, tokenizer, policy, learner, engine."""

from __future__ import annotations

import copy
import inspect
import json
import os
import shutil
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..agents.agent import Agent, Demonstrator, LLMAgent
from ..agents.context import Renderer
from ..agents.engine import Engine, EngineError
from ..agents.models import ScratchModel, build_model, build_tokenizer, load_policy, on_device
from ..agents.rollout import Episode, episode_seed, rollout
from ..agents.seats import SeatedAgent
from ..agents.torch_engine import TorchEngine
from ..agents.trajectory import Row, Trajectory
from ..envs import registry
from ..envs.errors import RequestError, UnknownName
from ..envs.pool import EnvPool
from ..envs.task import Task
from ..rewards.components import check_ordering
from .algorithms import check, needs, resolve
from .catalogue.sampling import soup
from .config import EnvConfig, Recipe, Stage
from .extract import MODES
from .foreign import load_function
from .learner import Learner
from .parameters import call
from .sampler import check_collect
from .scoring import score_actions

LISTENING_EPISODES = 64
"""Episodes listened to for the tokenizer when a recipe has fewer demonstrations."""
CANARY_TOKENS = 64
BF16_GAP = 500.0
"""bfloat16 keeps 8 bits of mantissa, float32 24: its log-prob gap limit is this much wider."""


@dataclass
class Tasks:
    """What a run plays. No held-out task is in a stage."""

    stages: list[list[Task]]
    """Training tasks, one list where there is no curriculum."""
    starts: list[int]
    """RL step at which each stage begins."""
    held_out: list[Task]

    @property
    def train(self) -> list[Task]:
        """Tasks of all stages, taken in turn, each once."""
        mixed = (task for tasks in zip_longest(*self.stages) for task in tasks if task is not None)
        return list({task.key: task for task in mixed}.values())

    def at(self, step: int) -> list[Task]:
        """The stage of an RL step (from 0)."""
        return self.stages[bisect_right(self.starts, step) - 1]


def stage_starts(weights: Sequence[float], steps: int) -> list[int]:
    """First RL step of each stage when `steps` are shared out by `weights`: round(steps * sum_{j<i} w_j / sum w)."""
    before = [sum(weights[:index]) for index in range(len(weights))]
    return [round(steps * part / sum(weights)) for part in before]


def validate(recipe: Recipe) -> None:
    """Refuse a recipe that cannot work, before anything starts."""
    algorithm, params = resolve(recipe.algorithm, recipe.params, recipe.slots)
    needed = needs(algorithm, params)
    check(
        algorithm, params, samples_per_task=recipe.rl.samples_per_task, epochs=recipe.rl.epochs,
        has_reference="ref_logp" in needed, has_critic="critic" in needed,
        layout="windowed" if recipe.env.seats > 1 else recipe.context.layout,  # a seat's turn is a row
    )  # fmt: skip
    check_ordering(recipe.rewards, max_turns=max(t.max_turns for t in list_tasks(recipe).train))
    smallest = min(stage.train_tasks for stage in _stages(recipe.env))
    if recipe.rl.tasks_per_step > smallest:
        raise RequestError(
            f"Expected rl.tasks_per_step <= env.train_tasks, got {recipe.rl.tasks_per_step} > {smallest}."
        )
    check_collect(recipe.rl)
    if recipe.env.seats > 1 and (recipe.rl.augmentor, recipe.rl.replay, recipe.rl.experts) != ("none", "none", 0):
        raise RequestError(
            "Expected rl.augmentor=none, rl.replay=none and rl.experts=0 with env.seats > 1, got "
            f"{recipe.rl.augmentor}, {recipe.rl.replay} and {recipe.rl.experts}: they know one seat only."
        )
    _check_options(recipe.env)
    _check_program(recipe)
    _check_sources(recipe, needed, params)
    passes = recipe.rl.epochs * recipe.rl.minibatches
    if "turn_by_turn" in needed and passes > 1:
        raise RequestError(
            f"Expected rl.epochs = rl.minibatches = 1 for {recipe.algorithm}, got {recipe.rl.epochs} and "
            f"{recipe.rl.minibatches}: it already takes one update per turn."
        )
    second = recipe.rl.reference
    if second != "start" and ("ref_logp" not in needed or not (Path(second) / "config.json").is_file()):
        raise RequestError(
            f"Expected rl.reference as 'start' or the folder of a policy, for an algorithm with a KL term, got "
            f"{second!r} for {recipe.algorithm}. Set params.beta or params.kl_reward_coef, or correct the path."
        )
    device(recipe)


def _check_program(recipe: Recipe) -> None:
    """Refuse what needs the built-in agent where a program plays, and a program that is not there."""
    if not recipe.program:
        return
    rl = recipe.rl
    if (rl.augmentor, rl.replay, rl.experts, recipe.env.seats) != ("none", "none", 0, 1):
        raise RequestError(
            "Expected rl.augmentor=none, rl.replay=none, rl.experts=0 and env.seats=1 with a program, got "
            f"{rl.augmentor}, {rl.replay}, {rl.experts} and {recipe.env.seats}: they need the built-in agent."
        )
    if isinstance(recipe.program, str):
        load_function(recipe.program, "a program")
    elif shutil.which(recipe.program[0]) is None:
        raise RequestError(f"Expected a command as program, got {recipe.program[0]!r}, which is not found here.")


def _check_options(env: EnvConfig) -> None:
    """Refuse options that the environment's class does not name: it would ignore them."""
    taken = inspect.signature(registry.env_class(env.id)).parameters.values()
    known = [p.name for p in taken if p.kind is not p.VAR_KEYWORD and p.name not in ("split", "render_mode")]
    for name in env.options:
        if not known:
            raise RequestError(f"Expected no env.options for {env.id}, whose class takes none, got {name!r}.")
        if name not in known:
            raise UnknownName(f"option of {env.id}", name, known)


def _check_sources(recipe: Recipe, needed: frozenset[str], params: Mapping[str, Any]) -> None:
    """Refuse algorithms and parts of the collect side that do not go together."""
    rl = recipe.rl
    corrects = params.get("ratio_base") == "rollout" or params["behaviour"] != "none" or "logp_replay" in needed
    if rl.replay == "remix" and not corrects:
        raise RequestError(
            f"Expected an algorithm that knows which policy sampled a token for rl.replay=remix, got "
            f"{recipe.algorithm}, which would take old episodes for new ones. Set algorithm=remix, "
            "params.ratio_base=rollout or params.behaviour."
        )
    if rl.collect_params.get("reincarnate_at") and not (rl.replay == "remix" and "ref_logp" in needed):
        raise RequestError(
            f"Expected rl.replay=remix and an algorithm with a KL term for reincarnate_at, got rl.replay={rl.replay} "
            f"and {recipe.algorithm}."
        )
    if ("logp_pi0" in needed) != (rl.replay == "dph_rl"):
        raise RequestError(
            f"Expected slots.expert=dph_rl and rl.replay=dph_rl together, got rl.replay={rl.replay} for an algorithm "
            f"that {'holds' if 'logp_pi0' in needed else 'does not hold'} on to episodes from before RL."
        )
    if ("mode" in needed or recipe.context.modes or rl.augmentor == "a2fm") and (
        rl.augmentor != "a2fm" or set(recipe.context.modes) != set(MODES)
    ):
        raise RequestError(
            f"Expected rl.augmentor=a2fm with context.modes={json.dumps(MODES)} for modes, got "
            f"{rl.augmentor} and {json.dumps(recipe.context.modes)}."
        )


def list_tasks(recipe: Recipe) -> Tasks:
    """Training and held-out tasks; refuses lists that share one, and benchmarks."""
    if registry.spec(recipe.env.id).evaluation_only:
        raise RequestError(
            f"Expected an environment to train on, got {recipe.env.id}: its tasks are a benchmark and stay held out. "
            "Train on another one, then `turnwise eval RUN --env ...`."
        )
    env, stages = recipe.env, _stages(recipe.env)
    trained = [_listed(env.id, "train", env.train_split, s.train_tasks, env.params | s.params) for s in stages]
    held_out_params = env.params if env.eval_params is None else env.eval_params
    held_out = _listed(env.id, "eval", env.eval_split, env.eval_tasks, held_out_params)
    shared = {t.key for stage in trained for t in stage} & {t.key for t in held_out}
    if shared:
        raise RequestError(
            f"Training and held-out tasks share {len(shared)} keys ({min(shared)}, ...). Use disjoint splits."
        )
    return Tasks(trained, stage_starts([stage.weight for stage in stages], recipe.rl.steps), held_out)


def _stages(env: EnvConfig) -> tuple[Stage, ...]:
    return env.curriculum or (Stage(train_tasks=env.train_tasks),)


def _listed(id: str, name: str, split: str, count: int, params: dict[str, Any]) -> list[Task]:
    found = registry.tasks(id, split, count, **params)
    if len(found) < count:
        raise RequestError(f"Expected env.{name}_tasks <= {len(found)}, all that the split has, got {count}.")
    return found


def device(recipe: Recipe) -> torch.device:
    """The device that the recipe asks for."""
    wanted = recipe.engine.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise RequestError("Expected a CUDA device for engine.device=cuda; torch sees none. Use auto or cpu.")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def set_threads(recipe: Recipe) -> None:
    """Torch threads of this process."""
    torch.set_num_threads(recipe.engine.threads or os.cpu_count() or 1)


def micro_tokens(recipe: Recipe) -> int:
    """Padded tokens per forward pass. On a CPU activations should stay in its caches: 16,384 is 40 % slower there."""
    return recipe.engine.micro_tokens or (16_384 if device(recipe).type == "cuda" else 4_096)


def autocast_dtype(recipe: Recipe) -> torch.dtype | None:
    """dtype of the trainer's matrix products where it is not that of its float32 master weights."""
    return torch.bfloat16 if recipe.engine.dtype == "bfloat16" else None


def new_policy(recipe: Recipe, texts: Sequence[str]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The policy before any training, float32 master weights."""
    if isinstance(recipe.model, ScratchModel):
        tokenizer = build_tokenizer(texts, recipe.model)
        return on_device(build_model(tokenizer, recipe.model, recipe.seed), device(recipe)), tokenizer
    return load_policy(recipe.model, device=device(recipe))


def demo_episodes(recipe: Recipe, tasks: Sequence[Task], count: int) -> list[Episode]:
    """`count` demonstrations over the training tasks, each task once before any twice."""
    return [
        Episode(tasks[i % len(tasks)], i, 0, episode_seed("demo", recipe.seed, i)) for i in range(count)
    ]  # fmt: skip


async def listen(recipe: Recipe, tasks: Sequence[Task], pool: EnvPool) -> list[str]:
    """The exact texts that a policy will read and write, for the tokenizer."""
    agent = Demonstrator(recipe.sft.agent, recipe.context)
    episodes = demo_episodes(recipe, tasks, max(recipe.sft.demos, LISTENING_EPISODES))
    await rollout(seated(recipe, agent), episodes, pool, recipe.limits)
    return [text for text in (*sorted(agent.heard), recipe.context.system) if text]


async def demonstrate(
    recipe: Recipe, tasks: Sequence[Task], pool: EnvPool, renderer: Renderer, count: int,
    on_end: Callable[[Trajectory], None] | None = None,
) -> list[Row]:  # fmt: skip
    """Training rows of `count` demonstrations; an expert's lost episodes are left out."""
    agent = Demonstrator(recipe.sft.agent, recipe.context, renderer)
    episodes = demo_episodes(recipe, tasks, count)
    played = await rollout(seated(recipe, agent), episodes, pool, recipe.limits, on_end=on_end)
    kept = [t for t in played if not t.stop.is_error and (t.success or recipe.sft.agent == "random")]
    if not kept:
        raise RequestError(
            f"The {recipe.sft.agent} won none of {count} demonstrations; see `turnwise check {recipe.env.id}`."
        )
    return [row for t in kept for row in t.rows()]


def make_learner(recipe: Recipe, model: PreTrainedModel, reference: PreTrainedModel | None = None) -> Learner:
    """The learner of a recipe; `reference` defaults to a frozen copy of the policy where one is needed.

    Two parameters follow the recipe unless it sets them: EPO's horizon is the run's number of steps, and
    Dr. GRPO's constant length divisor the context limit.
    """
    follows = {"epo_steps": max(1, recipe.rl.steps), "length_norm": recipe.context.max_tokens}
    algorithm, params = resolve(recipe.algorithm, follows | recipe.params, recipe.slots)
    if "ref_logp" in needs(algorithm, params):
        reference = (reference or copy.deepcopy(model)).eval().requires_grad_(False)
        if recipe.rl.reference != "start":
            _mix_in(reference, recipe)
    return Learner(
        model, algorithm, params, recipe.rl,
        micro_tokens=micro_tokens(recipe), autocast=autocast_dtype(recipe), reference=reference,
    )  # fmt: skip


def _mix_in(reference: PreTrainedModel, recipe: Recipe) -> None:
    """Average the reference with the second policy that `rl.reference` names (SALSA's soup)."""
    other, _ = load_policy(recipe.rl.reference, device=reference.device)
    first, second = dict(reference.named_parameters()), dict(other.named_parameters())
    mixed = call(soup, first, second, params=recipe.rl.collect_params)
    with torch.no_grad():
        for name, value in reference.named_parameters():
            value.copy_(mixed[name])


def make_engine(recipe: Recipe, model: PreTrainedModel, policy_folder: Path) -> Engine:
    """The sampler, holding the policy's weights as they are now."""
    options = recipe.engine
    if options.kind == "torch":
        dtype = getattr(torch, options.dtype)
        held = model if model.dtype == dtype else copy.deepcopy(model).to(dtype)
        return TorchEngine(held, options.max_batch, exact=model.device.type == "cpu")
    from ..agents.vllm_engine import VLLMEngine

    threads = torch.get_num_threads()
    engine = VLLMEngine(
        policy_folder, dtype=options.dtype, max_model_len=recipe.context.max_tokens, max_batch=options.max_batch,
        kv_cache_gib=options.kv_cache_gib, seed=recipe.seed,
    )  # fmt: skip
    torch.set_num_threads(threads)
    return engine


def make_agent(recipe: Recipe, engine: Engine, renderer: Renderer, temperature: float) -> LLMAgent:
    """The LLM agent of a recipe."""
    return LLMAgent(engine, renderer, recipe.context, temperature)


def player(recipe: Recipe, agent: LLMAgent) -> Agent:
    """The agent as the recipe has it play: by itself, in every seat, or through the recipe's program."""
    if not recipe.program:
        return seated(recipe, agent)
    from ..agents.endpoint import ServedProgram

    program = recipe.program
    return ServedProgram(agent, load_function(program, "a program") if isinstance(program, str) else program)


def seated(recipe: Recipe, agent: Agent) -> Agent:
    """The agent in every seat of the game, where the recipe asks for self-play."""
    return SeatedAgent(agent, name=agent.name) if recipe.env.seats > 1 else agent


def sync(engine: Engine, model: PreTrainedModel, version: int) -> None:
    """Give the engine the policy's weights."""
    with torch.no_grad():
        engine.load_weights(model.named_parameters(remove_duplicate=False), version)


def canary_gap(engine: Engine, model: PreTrainedModel, ids: Sequence[int], limit: float) -> float:
    """Largest log-prob difference, engine against trainer, on a fixed prompt; raises `EngineError` above `limit`.

    Catches weights that did not arrive: seen in the field as a packed output head left stale by a
    reload, which trains like a bad learning rate.
    """
    tokens = torch.tensor([list(ids)[:CANARY_TOKENS]], device=model.device)
    action = torch.ones_like(tokens, dtype=torch.bool)
    action[:, 0] = False
    with torch.no_grad():
        expected = score_actions(model, tokens, action).logp_BT[0, 1:].tolist()
    found = engine.score(tokens[0].tolist())
    gap = max(abs(a - b) for a, b in zip(expected, found, strict=True))
    if not gap <= limit:
        raise EngineError(
            f"After the weight sync the engine disagrees with the trainer by {gap:.2g} nats on the canary prompt "
            f"(limit {limit:.2g}): it does not sample from the policy that is trained."
        )
    return gap


def gap_limit(recipe: Recipe) -> float:
    """Largest log-prob difference between sampler and trainer that a run goes on with, in nats."""
    return recipe.rl.max_gap * (BF16_GAP if recipe.engine.dtype == "bfloat16" else 1.0)
