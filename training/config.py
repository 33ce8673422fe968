"""`Recipe`: everything a run depends on, frozen. Recipes are Python functions that return one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..agents.context import Context
from ..agents.models import ScratchModel
from ..agents.rollout import Limits
from ..envs.errors import RequestError, UnknownName


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Stage(_Part):
    """A part of a curriculum."""

    params: dict[str, Any] = Field(default_factory=dict, description="over those of the environment")
    train_tasks: int = Field(default=1000, ge=1)
    weight: float = Field(default=1.0, gt=0, description="share of the RL steps, relative to the other stages'")


class EnvConfig(_Part):
    """Which tasks are trained on and which are held out."""

    id: str = Field(description="as `turnwise envs` lists it")
    params: dict[str, Any] = Field(default_factory=dict, description="passed to `tasks`: sizes, families, ...")
    train_split: str = Field(default="train", description="split of the training tasks")
    train_tasks: int = Field(default=1000, ge=1, description="training tasks to draw from")
    curriculum: tuple[Stage, ...] = Field(
        default=(), description="RL plays these stages in order instead, demonstrations come from all of them"
    )
    eval_split: str = Field(default="test", description="split of the held-out tasks")
    eval_tasks: int = Field(default=100, ge=1, description="held-out tasks, each played before and after RL")
    eval_params: dict[str, Any] | None = Field(default=None, description="of the held-out tasks; null: as `env.params`")
    seats: int = Field(
        default=1,
        ge=1,
        description="self-play: seats that the policy plays, each learned from as an episode",
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="passed to the environment's class: what it lists and shows, ..."
    )


class SFTConfig(_Part):
    """Imitation before RL: cross-entropy on the action tokens of demonstrations."""

    demos: int = Field(default=0, ge=0, description="demonstrations played; 0 skips SFT")
    agent: Literal["expert", "random"] = Field(default="expert", description="whose play is imitated")
    epochs: int = Field(default=1, ge=1, description="passes over the demonstrations")
    lr: float = Field(default=2e-3, gt=0, description="learning rate")
    batch_tokens: int = Field(default=8192, ge=64, description="tokens per update")


class RLConfig(_Part):
    """The multi-turn loop."""

    steps: int = Field(default=20, ge=0, description="rollout, update, weight sync; 0: imitation alone")
    tasks_per_step: int = Field(default=8, ge=1, description="groups of a step: one task each")
    samples_per_task: int = Field(default=8, ge=1, description="episodes of a group")
    epochs: int = Field(default=1, ge=1, description="passes over each batch")
    minibatches: int = Field(default=1, ge=1, description="updates per pass")
    lr: float = Field(default=1e-4, gt=0, description="learning rate of the policy")
    critic_lr: float = Field(default=1e-3, gt=0, description="learning rate of a critic or process model")
    warmup: int = Field(default=0, ge=0, description="steps of linear learning-rate warm-up")
    dynamic_sampling: int = Field(
        default=0, ge=0, description="further draws to replace groups without a signal (DAPO)"
    )
    experts: int = Field(
        default=0, ge=0, description="expert demonstrations put into each group, as further rows of provenance 1"
    )
    experts_in: Literal["every", "failed"] = Field(
        default="every", description="which groups get them: every one, or those without a success"
    )
    experts_replace: bool = Field(default=False, description="in place of failed episodes instead of beside all")
    sampler: Literal["uniform", "mmr1_vas", "one_shot"] = Field(
        default="uniform", description="how a step's tasks are drawn from the stage"
    )
    sampler_every: int = Field(
        default=28, ge=1, description="steps between refreshes of what mmr1_vas weighs tasks by (MMR1: 28)"
    )
    budget: Literal["uniform", "knapsack"] = Field(
        default="uniform",
        description="how tasks_per_step x samples_per_task episodes are shared out; knapsack: by pass rate, so that "
        "groups differ in size",
    )
    augmentor: Literal["none", "ghpo", "hbpo", "reflect_retry", "a2fm"] = Field(
        default="none",
        description="help: ghpo plays lost groups again with the start of the expert's solution, hbpo gives each "
        "quarter of a group a budget of tokens, reflect_retry plays half of a group and retries it from where it went "
        "wrong (R3L), a2fm gives some episodes of a group their mode (context.modes)",
    )
    replay: Literal["none", "remix", "dph_rl"] = Field(
        default="none",
        description="episodes learned from beside a step's own: remix, groups of recent policies in the place of fresh "
        "ones; dph_rl, episodes won before RL on tasks that were nearly mastered",
    )
    curriculum: Literal["none", "scaling_inter"] = Field(
        default="none", description="scaling_inter: the turn limit grows with the RL steps"
    )
    reference: str = Field(
        default="start",
        description="the frozen reference: start, the policy before RL, or the folder of another fine-tuned policy, "
        "whose weights are averaged with it (SALSA); it has to stay for a resume",
    )
    collect_params: dict[str, Any] = Field(
        default_factory=dict, description="overrides of the parameters of these parts"
    )
    critic_warmup: int = Field(default=0, ge=0, description="first steps that train the critic only")
    grad_clip: float = Field(default=1.0, gt=0, description="largest gradient norm; what is above is scaled down")
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW's")
    temperature: float = Field(default=1.0, gt=0, description="of sampling in training")
    max_gap: float = Field(default=1e-3, gt=0, description="largest |log-prob, sampler minus trainer| allowed")


class BudgetConfig(_Part):
    """One budget for demonstrations and RL episodes, split as in A Practitioner's Guide (arXiv 2510.01132).

    A demonstration costs `demo_cost` units, an RL episode one. With `total` set, the numbers of
    demonstrations and RL steps follow from `sft_share` and replace `sft.demos` and `rl.steps`.
    """

    total: int | None = Field(default=None, ge=1, description="units in all; sets sft.demos and rl.steps")
    sft_share: float = Field(default=0.6, ge=0, le=1, description="share of the units for demonstrations")
    demo_cost: int = Field(default=10, ge=1, description="units of a demonstration; an RL episode costs one")


class EvalConfig(_Part):
    """Held-out evaluation."""

    every: int = Field(default=0, ge=0, description="RL steps between evaluations; 0: only before and after")
    trials: int = Field(default=1, ge=1, description="episodes of each held-out task")
    temperature: float = Field(default=0.0, ge=0, description="0: greedy")


class EngineConfig(_Part):
    """Where tokens come from and where the model lives."""

    kind: Literal["torch", "vllm"] = Field(default="torch", description="what samples: the embedded engine, or vLLM")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto: a GPU where torch sees one")
    dtype: Literal["float32", "bfloat16"] = Field(default="float32", description="of the sampler and the forward pass")
    max_batch: int = Field(default=256, ge=1, description="sequences sampled at once")
    kv_cache_gib: float = Field(default=1.0, gt=0, description="vLLM's key-value cache")
    threads: int = Field(default=0, ge=0, description="torch threads; 0: as many as cores")
    micro_tokens: int = Field(
        default=0, ge=0, description="padded tokens per forward pass of the trainer; 0: 4,096 on a CPU, 16,384 on a GPU"
    )
    env_workers: int = Field(default=16, ge=1, description="worker processes, for environments that need their own")


class Alarm(_Part):
    """A bound on a metric of the run, and what to do once it was beyond it for some steps on end."""

    metric: str = Field(description="as in the glossary of runs; a value that is no number is beyond every bound")
    above: float | None = None
    below: float | None = None
    steps: int = Field(default=1, ge=1, description="values in a row")
    action: Literal["warn", "stop", "restore"] = Field(
        default="warn",
        description="stop: end the run, exit code 1; restore: end it and go back to the checkpoint with the best "
        "held-out success, dropping what came after",
    )

    @model_validator(mode="after")
    def _one_bound(self) -> Alarm:
        if (self.above is None) == (self.below is None):
            raise ValueError(f"expected above or below for the alarm on {self.metric!r}, got both or neither")
        return self


ALARMS = (
    Alarm(metric="approx_kl", above=1.0, steps=3),
    Alarm(metric="valid", below=0.5, steps=10),
    Alarm(metric="repeat/ngrams", above=0.5, steps=3),
)
"""Warnings only: signs of collapse that are beyond dispute in any environment."""


class Recipe(_Part):
    """A whole run: tasks, agent, rewards, algorithm, budget."""

    name: str = Field(description="names run folders")
    env: EnvConfig
    context: Context = Context()
    limits: Limits = Limits()
    model: ScratchModel | str = Field(
        default=ScratchModel(), description="sizes of a policy from scratch, or a checkpoint"
    )
    rewards: dict[str, float] = Field(default={"outcome": 1.0}, description="component -> weight")
    algorithm: str = Field(default="grpo", description="a row of `turnwise algorithms`")
    params: dict[str, Any] = Field(default_factory=dict, description="overrides of the algorithm's parameters")
    slots: dict[str, str | list[str]] = Field(
        default_factory=dict, description="parts put into the algorithm: slot -> part, or several"
    )
    sft: SFTConfig = SFTConfig()
    rl: RLConfig = RLConfig()
    budget: BudgetConfig = BudgetConfig()
    eval: EvalConfig = EvalConfig()
    engine: EngineConfig = EngineConfig()
    checkpoint_every: int = Field(default=5, ge=1, description="RL steps between checkpoints")
    alarms: tuple[Alarm, ...] = Field(default=ALARMS, description="signs of collapse to watch for; [] for none")
    program: str | tuple[str, ...] = Field(
        default="",
        description="an agent program that plays in place of the built-in agent, its tokens from the policy behind an "
        "OpenAI endpoint: package.module:function, or a command as a list",
    )
    seed: int = Field(default=0, ge=0, description="of tasks, dice, weights")

    @model_validator(mode="after")
    def _split_budget(self) -> Recipe:
        if self.budget.total is None:
            return self
        demos = int(self.budget.total * self.budget.sft_share / self.budget.demo_cost)
        episodes = self.budget.total - demos * self.budget.demo_cost
        steps = episodes // (self.rl.tasks_per_step * self.rl.samples_per_task)
        # Frozen for users; here the resolved numbers take their place, so that the card shows them.
        object.__setattr__(self, "sft", self.sft.model_copy(update={"demos": demos}))
        object.__setattr__(self, "rl", self.rl.model_copy(update={"steps": steps}))
        return self


def override(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """The recipe with dotted keys replaced (`rl.lr`, `env.params.rooms`, `params.clip_low`).

    Unknown keys raise `UnknownName` with the nearest one, bad values `RequestError`.
    """
    data = recipe.model_dump()
    for key, value in settings.items():
        _set(data, key, value)
    return build(data)


def build(data: Mapping[str, Any]) -> Recipe:
    """A recipe from plain data, with one readable message for the first thing wrong."""
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise RequestError(_complaint(error.errors(), data)) from error


def _complaint(errors: Sequence[Any], data: Mapping[str, Any]) -> str:
    """What is wrong with the first wrong setting; where it may be of several types, with each of them."""
    found = [(_path(error["loc"], data), error) for error in errors]
    key, first = found[0]
    ways = dict.fromkeys(error["msg"] for path, error in found if path == key)
    return f"Bad value for {key!r}: {'; or '.join(ways)}. Got {first['input']!r}."


def _path(loc: Sequence[int | str], data: Any) -> str:
    """A place in the data, without what pydantic puts in between for the alternatives of a type."""
    path = []
    for part in loc:
        try:
            data = data[part]
        except (TypeError, LookupError):
            continue
        path.append(str(part))
    return ".".join(path)


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """`["rl.lr=1e-4", "algorithm=rloo"]` -> a dict; values are read as JSON where they parse."""
    settings = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise RequestError(f"Expected --set key=value, got {pair!r}.")
        try:
            settings[key] = json.loads(text)
        except json.JSONDecodeError:
            settings[key] = text
    return settings


OPEN = ("params", "slots", "rl.collect_params", "env.params", "env.eval_params", "env.options", "rewards")
"""Dictionaries that take any key here; whoever reads them checks."""


def _set(data: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    place = data
    for depth, part in enumerate(path):
        inner = place.get(part)
        if inner is None and ".".join(path[: depth + 1]) in OPEN:
            inner = place[part] = {}
        if not isinstance(inner, dict):
            raise UnknownName("recipe key", key, _keys(data))
        place = inner
    if last not in place and ".".join(path) not in OPEN:
        raise UnknownName("recipe key", key, _keys(data))
    place[last] = value


def _keys(data: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in data.items():
        yield prefix + name
        if isinstance(value, dict) and prefix + name not in OPEN:
            yield from _keys(value, f"{prefix}{name}.")
