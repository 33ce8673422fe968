"""The whole RL step, rollout and update, against TRL's GRPOTrainer, on the toy game.

All sides start from the same weights, play the same number of episodes per step with the same limits on turns and
on tokens per answer, and take one update per batch with the same optimiser and learning rate (a small one, so that
the work stays the same from step to step).

* `rollout_func/...`: an own text loop over `generate`, the same format and ids on both sides.
  `4_turns_32_tokens`: a policy with random weights, which all but never ends an answer by itself.
  `4_turns_4_tokens`: "open red door": fixed costs per step weigh most.
  `16_turns_4_tokens`: contexts grow over many turns.
* `environment_factory`: actions are tool calls in the Qwen3 format. `ours` plays that very format: the system prompt
  with the tool's schema, the calls, the `<tool_response>` messages. `ours_plain_text` plays the game as one does here,
  without tools: fewer tokens for the same environment steps, by the same policy, which has learned both formats. TRL
  needs one more answer per episode, because only the model can end an episode there: the policy is taught to answer
  "done" to "The game is over.".

Ours is a full run of `training.trainer.train` with the torch engine: records, weight sync and canary included, without
evaluation and checkpoint. Seconds per step are means over the counted steps; first steps are discarded on both sides.
Tokens are those sampled by the policy.
"""

from __future__ import annotations

import gc
import json
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import trl_side
from measure import interleave, ratio
from policies import demonstration_rows, new_policy, texts
from transformers import PreTrainedTokenizerBase
from trl_side import GAME_OVER, Steps
from turnwise.agents.context import Context, Renderer
from turnwise.agents.models import build_tokenizer, save_policy
from turnwise.agents.trajectory import Row, Trajectory
from turnwise.training.config import Recipe, override
from turnwise.training.recipes import load
from turnwise.training.session import list_tasks
from turnwise.training.trainer import Silent, train

GOALS = {"rollout_func": 1.5, "environment_factory": 3.0}
TASKS, COPIES, ROOMS, SLACK = 8, 4, 3, 1
STEPS = 3
"""Counted steps of one run."""
LR = 1e-6
_SIZES = {"model.hidden": 128, "model.heads": 4, "model.kv_heads": 4, "model.ffn": 256, "model.context": 512,
          "model.tokens": "bytes"}  # fmt: skip
MICRO_TOKENS, MICRO_ROWS = 2_048, 8
"""Both sides accumulate gradients over small micro-batches, which is the faster setting on a CPU for both."""
START, END, FAREWELL = "<|im_start|>", "<|im_end|>", "done"
_CALL = re.compile(r"<tool_call>\s*(\{.*\})\s*</tool_call>", re.DOTALL)


class ToolCalls(Context):
    """The toy game's prompts and answers in the Qwen3 tool format."""

    def message(self, observation: str, goal: str, commands: tuple[str, ...] | None, first: bool) -> str:
        return observation if first else f"<tool_response>\n{observation}\n</tool_response>"

    def render_action(self, action: str, commands: Sequence[str] | None = None) -> str:
        call = json.dumps({"name": "act", "arguments": {"command": action}})
        return f"<tool_call>\n{call}\n</tool_call>"

    def action(self, text: str, commands: Sequence[str] | None = None) -> str:
        found = _CALL.search(text)
        try:
            return str(json.loads(found[1])["arguments"]["command"]) if found else ""
        except (ValueError, KeyError, TypeError):
            return ""


class _Clock(Silent):
    """Time and counts at the end of every step."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, Mapping[str, float]]] = []

    def step(self, step: int, steps: int, metrics: Mapping[str, float]) -> None:
        self.marks.append((time.perf_counter(), metrics))

    def counted(self) -> Steps:
        """Without the first step, which evaluates, and the last, which saves."""
        marks = self.marks[:-1]
        seen = [metrics for _, metrics in marks[1:]]
        turns = sum(m["turns"] for m in seen) * TASKS * COPIES
        tokens = sum(m["speed/tokens"] * m["time/rollout"] for m in seen)
        return Steps(marks[-1][0] - marks[0][0], round(turns), round(tokens), len(seen))


def measure(repeats: int) -> dict[str, Any]:
    """Per comparison: rates of both sides, their ratios, environment steps and tokens per step."""
    trl_side.quiet()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        found = {
            name: _text_pair(root / name.replace("/", "-"), recipe, repeats) for name, recipe in _text_recipes().items()
        }
        return found | {"environment_factory": _tools(root / "tools", repeats)}


def _text_recipes() -> dict[str, Recipe]:
    long_game = {"env.params.rooms": 12, "env.params.slack": 4, "context.max_tokens": 384, "model.context": 384}
    return {
        "rollout_func/4_turns_32_tokens": _recipe(
            _SIZES | {"context.max_action_tokens": 32, "context.max_tokens": 512, "sft.demos": 0}
        ),
        "rollout_func/4_turns_4_tokens": _recipe({"context.max_tokens": 128, "model.context": 128}),
        "rollout_func/16_turns_4_tokens": _recipe(long_game | {"sft.batch_tokens": 4096}),
    }


def _text_pair(folder: Path, recipe: Recipe, repeats: int) -> dict[str, Any]:
    assert not isinstance(recipe.model, str)
    tokenizer, policy = build_tokenizer(texts(recipe), recipe.model), folder / "policy"
    rows = demonstration_rows(recipe, tokenizer) if recipe.sft.demos else []
    save_policy(policy, new_policy(recipe, tokenizer, rows), tokenizer)
    tasks, options = list_tasks(recipe).train, _trl_options(recipe)
    theirs = _counted(lambda out: trl_side.run_rollout_func(policy, tasks, recipe.context, options, out), folder)
    return _compare(interleave({"trl": theirs, "ours": _ours(recipe, policy, folder)}, repeats))


def _tools(folder: Path, repeats: int) -> dict[str, Any]:
    plain = _recipe(_SIZES | {"context.max_action_tokens": 8, "context.max_tokens": 512, "sft.batch_tokens": 4096})
    assert not isinstance(plain.model, str)
    system = system_prompt(as_qwen3(build_tokenizer(["."], plain.model)))
    context = ToolCalls(goal="never", max_action_tokens=32, max_tokens=512, system=system)
    tools = plain.model_copy(update={"context": context})
    tokenizer = as_qwen3(build_tokenizer([*texts(tools), *texts(plain), f"{GAME_OVER} {FAREWELL}"], plain.model))
    rows = demonstration_rows(tools, tokenizer, lambda t, renderer: with_farewell(t, renderer, context))
    rows += demonstration_rows(plain, tokenizer)
    policy = folder / "policy"
    save_policy(policy, new_policy(plain, tokenizer, rows), tokenizer)
    tasks = list_tasks(tools).train
    options = _trl_options(tools) | {"generation_kwargs": {"max_new_tokens": context.max_action_tokens}}
    theirs = _counted(lambda out: trl_side.run_environment_factory(policy, tasks, ROOMS + SLACK, options, out), folder)
    contenders = {"trl": theirs, "ours": _ours(tools, policy, folder), "ours_plain_text": _ours(plain, policy, folder)}
    return _compare(interleave(contenders, repeats))


def as_qwen3(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer with the special tokens and the chat template of Qwen3."""
    tokenizer.add_special_tokens({"eos_token": END, "additional_special_tokens": [START]})
    tokenizer.add_tokens(["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"])
    tokenizer.chat_template = trl_side.qwen3_template()
    return tokenizer


def system_prompt(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the template writes for the tool, so that both sides read the same."""
    user = [{"role": "user", "content": ""}]
    text = str(tokenizer.apply_chat_template(user, tools=[trl_side.tool_schema()], tokenize=False))
    head = f"{START}system\n"
    return text[text.index(head) + len(head) : text.index(END)]


def with_farewell(trajectory: Trajectory, renderer: Renderer, context: Context) -> Row:
    """A demonstration that goes on to the answer which ends an episode of TRL."""
    row = next(trajectory.rows())
    message = context.message(f"{trajectory.final_observation} {GAME_OVER}", "", None, first=False)
    heard, said = renderer.extend(message, answered=True), renderer.answer(FAREWELL)
    count = len(heard) + len(said)
    return Row(
        [*row.ids, *heard, *said], [*row.action, *[False] * len(heard), *[True] * len(said)],
        [*row.logprobs, *[0.0] * count], [*row.turn, *[-1] * count], row.version,
    )  # fmt: skip


def _recipe(settings: dict[str, Any]) -> Recipe:
    return override(load("toy"), {
        "env.params.rooms": ROOMS, "env.params.slack": SLACK, "env.eval_tasks": 1, "algorithm": "grpo",
        "rl.tasks_per_step": TASKS, "rl.samples_per_task": COPIES, "rl.steps": STEPS + 2, "rl.lr": LR,
        "checkpoint_every": STEPS + 2, "engine.micro_tokens": MICRO_TOKENS, **settings,
    })  # fmt: skip


def _trl_options(recipe: Recipe) -> dict[str, Any]:
    return {
        "per_device_train_batch_size": MICRO_ROWS, "gradient_accumulation_steps": TASKS * COPIES // MICRO_ROWS,
        "num_generations": COPIES, "max_steps": STEPS + 1,
        "max_completion_length": recipe.context.max_tokens, "learning_rate": LR, "temperature": recipe.rl.temperature,
        "adam_beta2": 0.95, "max_grad_norm": recipe.rl.grad_clip, "seed": recipe.seed,
    }  # fmt: skip


def _ours(recipe: Recipe, policy: Path, folder: Path) -> Callable[[], Steps]:
    settings = {"model": str(policy), "sft": recipe.sft.model_copy(update={"demos": 0})}
    engine = recipe.engine.model_copy(update={"threads": torch.get_num_threads()})
    recipe = recipe.model_copy(update=settings | {"engine": engine})

    def run(out: Path) -> Steps:
        clock = _Clock()
        train(recipe, out, clock)
        return clock.counted()

    return _counted(run, folder)


def _counted(run: Callable[[Path], Steps], folder: Path) -> Callable[[], Steps]:
    def once() -> Steps:
        gc.collect()  # neither side cleans up after the other
        with tempfile.TemporaryDirectory(dir=folder) as out:
            return run(Path(out) / "run")

    return once


def _compare(runs: Mapping[str, Sequence[Steps]]) -> dict[str, Any]:
    """Ratios are a side's rate / TRL's: above 1, it does more per second."""
    found: dict[str, Any] = {"episodes_per_step": TASKS * COPIES, "counted_steps": STEPS}
    rates = {side: [_rates(run) for run in of_side] for side, of_side in runs.items()}
    for side, of_side in runs.items():
        found[side] = {
            "seconds_per_step": [round(s.seconds / s.steps, 4) for s in of_side],
            "env_steps_per_step": round(sum(s.env_steps for s in of_side) / sum(s.steps for s in of_side), 1),
            "tokens_per_step": round(sum(s.tokens for s in of_side) / sum(s.steps for s in of_side), 1),
        }
        if side != "trl":
            for key in rates[side][0]:
                found[side][f"ratio_{key}"] = ratio([r[key] for r in rates[side]], [r[key] for r in rates["trl"]])
    return found


def _rates(run: Steps) -> dict[str, float]:
    return {
        "env_steps_per_second": run.env_steps / run.seconds,
        "steps_per_second": run.steps / run.seconds,
        "tokens_per_second": run.tokens / run.seconds,
    }


def summary(results: dict[str, Any]) -> list[str]:
    """Lines to print."""
    lines = []
    for name, found in results.items():
        for side in ("ours", "ours_plain_text"):
            if side in found:
                lines.append(_line(f"{name}, {side}", found[side], found["trl"], GOALS[name.partition("/")[0]]))
    return lines


def _line(name: str, ours: dict[str, Any], trl: dict[str, Any], goal: float) -> str:
    env, steps, tokens = (ours[f"ratio_{key}_per_second"] for key in ("env_steps", "steps", "tokens"))
    return (
        f"{name}: ours / TRL = {env['median']:.2f} in env steps/s ({env['min']:.2f} to {env['max']:.2f})"
        f", goal {goal}; {steps['median']:.2f} in steps/s, {tokens['median']:.2f} in tokens/s; "
        f"tokens per step {ours['tokens_per_step']:.0f} / {trl['tokens_per_step']:.0f}, "
        f"env steps {ours['env_steps_per_step']:.0f} / {trl['env_steps_per_step']:.0f}"
    )
