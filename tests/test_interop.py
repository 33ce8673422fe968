"""Other trainers: TRL 1.16 itself trains on our environments both ways; exported records hold the very ids."""

from __future__ import annotations

import inspect
import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from openenv_servers import in_openenv
from turnwise.agents.context import Context
from turnwise.agents.models import ScratchModel, build_model, build_tokenizer, load_policy
from turnwise.agents.trajectory import Owner, Segment, Trajectory, Turn
from turnwise.envs import RequestError, StopReason, Task, make, tasks
from turnwise.training import interop, recipes, trainer
from turnwise.training.config import override

DESK = "turnwise/ServiceDesk-v0"


# ---- records ---------------------------------------------------------------------------------------------


def segment(owner: Owner, *ids: int) -> Segment:
    own = owner is Owner.POLICY
    return Segment(
        owner=owner, ids=ids, logprobs=tuple(-id / 10 for id in ids) if own else None, version=3 if own else None
    )


def turn(prompt: Sequence[int], output: Sequence[int], reward: float = 0.0, restart: bool = False) -> Turn:
    return Turn(
        observation="o", anchor="o", action="a", reward=reward, score=reward, valid=True, admissible=True,
        prompt=segment(Owner.ENVIRONMENT, *prompt), output=segment(Owner.POLICY, *output), restart=restart,
    )  # fmt: skip


def episode(*turns: Turn, copy: int = 0, stop: StopReason = StopReason.SUCCESS, score: float = 2.0) -> Trajectory:
    return Trajectory(
        task=Task(env="x"), agent="policy", copy_index=copy, turns=turns, stop=stop,
        success=stop is StopReason.SUCCESS, score=score, max_score=4.0,
    )  # fmt: skip


WON = episode(turn([1, 2, 3], [4, 5]), turn([6], [7, 8, 9], 2.0))
LOST = episode(turn([1, 2, 3], [10]), copy=1, stop=StopReason.FAILURE, score=0.0)


def test_trl_gets_prompt_completion_mask_and_log_probs() -> None:
    assert interop.to_trl([WON, LOST]) == {
        "prompt_ids": [[1, 2, 3], [1, 2, 3]],
        "completion_ids": [[4, 5, 6, 7, 8, 9], [10]],
        "logprobs": [[-0.4, -0.5, 0.0, -0.7, -0.8, -0.9], [-1.0]],
        "env_mask": [[1, 1, 0, 1, 1, 1], [1]],
        "score": [0.5, 0.0],
        "success": [True, False],
    }
    broken = WON.model_copy(update={"stop": StopReason.ENV_ERROR})
    assert interop.to_trl([broken])["score"] == [None]
    with pytest.raises(RequestError, match="got 2 rows"):
        interop.to_trl([episode(turn([1], [2]), turn([1, 3], [4], restart=True))])
    with pytest.raises(RequestError, match="got 0 rows"):
        interop.to_trl([episode()])


def test_tinker_gets_the_next_token_with_its_log_prob_and_advantage() -> None:
    won, lost = interop.to_tinker([WON, LOST], algorithm="rloo")
    assert won["model_input"] == [1, 2, 3, 4, 5, 6, 7, 8] and lost["model_input"] == [1, 2, 3]
    inputs = won["loss_fn_inputs"]
    assert inputs["target_tokens"] == [2, 3, 4, 5, 6, 7, 8, 9]
    assert inputs["mask"] == [0, 0, 1, 1, 0, 1, 1, 1]
    assert inputs["logprobs"] == pytest.approx([0, 0, -0.4, -0.5, 0, -0.7, -0.8, -0.9])
    # leave one out: each is compared with the other one, 1 - 0 and 0 - 1
    assert inputs["advantages"] == [0, 0, 1, 1, 0, 1, 1, 1]
    assert lost["loss_fn_inputs"] == {
        "target_tokens": [2, 3, 10],
        "logprobs": [0, 0, -1],
        "advantages": [0, 0, -1],
        "mask": [0, 0, 1],
    }
    half, none = interop.to_tinker([WON, LOST], {"progress": 1.0}, "rloo")
    assert half["loss_fn_inputs"]["advantages"][2] == 0.5 and none["loss_fn_inputs"]["advantages"][2] == -0.5
    with pytest.raises(RequestError, match="which needs critic"):
        interop.to_tinker([WON, LOST], algorithm="ppo")


def test_openenv_gets_a_call_per_answer_with_its_whole_context() -> None:
    trace = interop.to_openenv(WON)
    assert [(t["prompt_token_ids"], t["completion_token_ids"], t["per_token_logps"]) for t in trace["turns"]] == [
        ([1, 2, 3], [4, 5], [-0.4, -0.5]),
        ([1, 2, 3, 4, 5, 6], [7, 8, 9], [-0.7, -0.8, -0.9]),
    ]
    assert [t["loss_mask"] for t in trace["turns"]] == [[0, 0, 0, 1, 1], [0] * 6 + [1] * 3]
    assert len({t["node_id"] for t in trace["turns"]}) == 2


@pytest.mark.slow
def test_openenvs_own_model_takes_the_trace() -> None:
    trace = interop.to_openenv(WON)
    script = """
        import json, sys
        from openenv.core.harness.training import TrainingTrace
        print(TrainingTrace.model_validate_json(sys.argv[1]).model_dump_json(exclude_defaults=True))
    """
    theirs = in_openenv(script, trace)
    assert theirs["turns"] == trace["turns"]


# ---- environments as classes -----------------------------------------------------------------------------


def test_a_game_of_words_is_one_tool() -> None:
    cls = interop.environment_factory("Toy", rooms=2, slack=1)
    task = tasks("Toy", "train", 1, rooms=2, slack=1)[0]
    local, env = make("Toy"), cls()
    assert cls.__name__ == "Toy" and [n for n, _ in inspect.getmembers(cls, inspect.isfunction) if n[0] != "_"] == [
        "act", "get_reward", "reset",
    ]  # fmt: skip
    assert env.get_reward() is None
    assert env.reset(prompt=[], task=task.model_dump_json()) == local.reset(options={"task": task})[0]
    first = local.expert()
    assert env.act(first) == local.step(first)[0] and env.get_reward() == 0.5
    last = local.expert()
    assert env.act(action=last) == f"{local.step(last)[0]}\n{interop.trl.GAME_OVER}" and env.get_reward() == 1.0
    assert env.act("open red door") == interop.trl.GAME_OVER and env.get_reward() == 1.0
    env.reset(task=task.model_dump_json())
    assert env.get_reward() == 0.0
    strict = interop.environment_factory("Toy", reward="outcome", rooms=2, slack=1)()
    strict.reset(task=task.model_dump_json())
    strict.act(first)
    assert strict.get_reward() == 0.0
    with pytest.raises(RequestError, match="column 'task'"):
        env.reset(prompt=[])
    with pytest.raises(RequestError, match="'progress' or 'outcome'"):
        interop.environment_factory("Toy", reward="sum")


def test_a_tool_environment_has_its_tools_as_typed_methods() -> None:
    from transformers.utils import get_json_schema

    cls = interop.environment_factory(DESK)
    task = tasks(DESK, "train", 1)[0]
    local, env = make(DESK), cls()
    text, info = local.reset(options={"task": task})
    assert env.reset(task=task.model_dump_json()) == text
    for tool in local.tool_schemas():
        schema = get_json_schema(getattr(env, tool["name"]))["function"]
        assert schema["name"] == tool["name"] and schema["description"] == " ".join(tool["description"].split())
        assert set(schema["parameters"]["properties"]) == set(tool["parameters"].get("properties", {}))
        assert set(schema["parameters"].get("required", ())) == set(tool["parameters"].get("required", ()))
        for key, described in tool["parameters"].get("properties", {}).items():
            assert schema["parameters"]["properties"][key]["description"], key
            kind = described.get("type")
            assert kind is None or schema["parameters"]["properties"][key]["type"] == kind
    while not info["stop"]:
        call = local.expert_calls()[0]  # type: ignore[attr-defined]
        told = getattr(env, call.name)(**call.arguments)
        text, *_, info = local.step(local.expert())
        assert told.startswith(text)
    assert info["success"] and env.get_reward() == 1.0


def test_an_environment_that_breaks_has_no_reward() -> None:
    env = interop.environment_factory("turnwise/TextWorld-v0", family="simple")()
    env.reset(task=tasks("turnwise/TextWorld-v0", "train", 1, family="simple")[0].model_dump_json())
    os.kill(env._env.pid, signal.SIGKILL)
    assert "The environment broke" in env.act("look") and env.get_reward() is None
    assert env.act("look") == interop.trl.GAME_OVER


# ---- TRL itself ------------------------------------------------------------------------------------------


def train_with_trl(model: Any, tokenizer: Any, rows: Any, out: Path, patch: Any = None, **arguments: Any) -> list[Any]:
    """Two steps of TRL's GRPOTrainer; what it logged."""
    from trl import GRPOConfig, GRPOTrainer

    config = GRPOConfig(
        output_dir=str(out), use_cpu=True, bf16=False, gradient_checkpointing=False, beta=0.0, save_strategy="no",
        report_to="none", disable_tqdm=True, logging_steps=1, max_steps=2, per_device_train_batch_size=8,
        num_generations=4, learning_rate=1e-3, max_completion_length=64, shuffle_dataset=False,
        **arguments.pop("options", {}),
    )  # fmt: skip
    own = GRPOTrainer(model=model, processing_class=tokenizer, train_dataset=rows, args=config, **arguments)
    if patch:
        patch(own)
    own.train()
    return [entry for entry in own.state.log_history if "reward" in entry]


@pytest.fixture(scope="module")
def imitator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imitator") / "run"
    settings = {"rl.steps": 0, "env.eval_tasks": 2, "env.train_tasks": 200}
    trainer.train(override(recipes.load("toy"), settings), folder)
    return folder / "checkpoints" / "step-0" / "policy"


def moved(before: dict[str, torch.Tensor], model: Any) -> bool:
    return any(not torch.equal(before[name], value) for name, value in model.named_parameters())


@pytest.mark.filterwarnings("ignore")
def test_trl_trains_through_our_rollouts(imitator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trl")
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    recipe = recipes.load("toy")
    model, tokenizer = load_policy(str(imitator))
    play = interop.rollout_func(recipe.context)
    given: list[dict[str, Any]] = []

    def recorded(prompts: Sequence[str], own: Any) -> dict[str, Any]:
        output = play(prompts, own)
        first = output["prompt_ids"][0] + output["completion_ids"][0]
        with torch.no_grad():
            logp = own.model(torch.tensor([first])).logits.log_softmax(-1)[0]
        start = len(output["prompt_ids"][0])
        expected = [float(logp[start + i - 1, id]) for i, id in enumerate(output["completion_ids"][0])]
        mask = output["env_mask"][0]
        told = [x for x, own_ in zip(output["logprobs"][0], mask, strict=True) if own_]
        assert told == pytest.approx([x for x, own_ in zip(expected, mask, strict=True) if own_], abs=1e-4)
        given.append({**output, "prompts": list(prompts)})
        return output

    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    rows = interop.dataset("Toy", "train", 16, for_rollout=True, **recipe.env.params)
    logged = train_with_trl(
        model, tokenizer, rows, tmp_path, rollout_func=recorded, reward_funcs=interop.episode_reward
    )  # fmt: skip
    assert len(given) == len(logged) == 2 and moved(before, model)
    for output, entry in zip(given, logged, strict=True):
        assert len(output["score"]) == 8 and len(set(output["prompts"])) == 2
        assert entry["reward"] == pytest.approx(sum(output["score"]) / 8)
        lengths = [sum(mask) for mask in output["env_mask"]]
        assert entry["completions/mean_length"] == pytest.approx(sum(lengths) / 8), (
            "TRL counts our tokens, not the game's"
        )
    assert given[0]["completion_ids"] != given[1]["completion_ids"]


@pytest.mark.filterwarnings("ignore")
def test_trl_trains_on_an_environment_of_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trl")
    from trl.chat_template_utils import qwen3_chat_template

    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    size = ScratchModel(layers=1, hidden=32, heads=1, kv_heads=1, ffn=32, context=2048, tokens="bytes")
    tokenizer = build_tokenizer(["the sign says red, open green door"], size)
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]})
    tokenizer.add_tokens(["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"])
    tokenizer.chat_template = qwen3_chat_template
    model = build_model(tokenizer, size, 0)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    factory = interop.environment_factory("Toy", "train", rooms=1, slack=0)
    listed = tasks("Toy", "train", 16, rooms=1, slack=0)

    def scripted(own: Any) -> None:
        """The policy is random: it is given answers, colours in turn, then a farewell; all else is TRL's."""

        def generate(prompt_ids: Sequence[Any], *rest: Any, **more: Any) -> tuple[list[list[int]], None]:
            fresh = "tool_response" not in tokenizer.decode(prompt_ids[0])
            texts = []
            for index in range(len(prompt_ids)):
                action = f"open {('red', 'green', 'blue')[index % 3]} door"
                call = json.dumps({"name": "act", "arguments": {"action": action}})
                texts.append(f"<tool_call>\n{call}\n</tool_call><|im_end|>" if fresh else "done<|im_end|>")
            return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts], None  # type: ignore[misc]

        own._generate_single_turn = generate

    logged = train_with_trl(
        model, tokenizer, interop.dataset("Toy", "train", 16, rooms=1, slack=0), tmp_path, scripted,
        environment_factory=factory, options={"max_tool_calling_iterations": 3},
    )  # fmt: skip
    assert moved(before, model)
    for step, entry in enumerate(logged):
        signs = [make("Toy").reset(options={"task": listed[2 * step + half]})[0].split()[-1][:-1] for half in (0, 1)]
        won = [("red", "green", "blue")[i % 3] == signs[i // 4] for i in range(8)]
        assert entry["reward"] == pytest.approx(sum(won) / 8) and 0 < sum(won) < 8
        assert entry["tools/call_frequency"] == 1.0 and entry["tools/failure_frequency"] == 0.0


def test_windowed_contexts_are_refused() -> None:
    with pytest.raises(RequestError, match="Expected a transcript context"):
        interop.rollout_func(Context(layout="windowed"))
