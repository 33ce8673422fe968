"""The benchmarks measure what they say: equal work on both sides, and a resume that continues."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from turnwise.agents.agent import LLMAgent
from turnwise.agents.context import Context
from turnwise.agents.engine import Request
from turnwise.agents.rollout import Episode
from turnwise.agents.torch_engine import SHARED_PROMPT, TorchEngine
from turnwise.envs.registry import tasks
from turnwise.training.config import override
from turnwise.training.recipes import load

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests")]

import env_speed  # noqa: E402
import eval as evaluation  # noqa: E402
import gpu  # noqa: E402
import measure  # noqa: E402
import rollouts  # noqa: E402
import train_step  # noqa: E402
import whole_step  # noqa: E402
from helpers import run, tiny_policy  # noqa: E402


def test_contenders_take_turns_and_the_first_round_does_not_count() -> None:
    calls: list[str] = []

    def contender(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    found = measure.interleave({"a": lambda: contender("a"), "b": lambda: contender("b")}, repeats=2)
    assert calls == ["a", "b"] * 3
    assert found == {"a": [3.0, 5.0], "b": [4.0, 6.0]}
    assert measure.ratio([4.0, 9.0, 1.0], [2.0, 3.0, 1.0]) == {"median": 2.0, "min": 1.0, "max": 3.0}


@pytest.mark.parametrize("vocabulary", [50, 3000])
def test_both_training_steps_have_one_gradient(vocabulary: int) -> None:
    model = train_step.make_model(vocabulary, layers=2, hidden=32)
    rows = train_step.make_rows(vocabulary, rows=6, turns=(2, 4))
    assert 0.08 < int(rows.action_BT.sum()) / sum(rows.lengths) < 0.13
    difference = train_step.gradient_difference(model, rows)
    assert max(difference.values()) <= train_step.TOLERANCE
    # The loss reaches every parameter, so the comparison is about all of them.
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.parameters())


def test_replayed_requests_sample_the_same_ids() -> None:
    context = Context(goal="never", max_action_tokens=4, max_tokens=200)
    played = tasks("turnwise/Toy-v0", "train", 6)
    model, renderer = tiny_policy(played, context)
    engine = TorchEngine(model)
    recorder = rollouts.Recorder(engine)
    trajectories = run(LLMAgent(recorder, renderer, context), [Episode(t, i, 0, i) for i, t in enumerate(played)])
    again = rollouts.replay(engine, recorder.requests)
    assert len(again) == sum(len(t.turns) for t in trajectories)
    assert {key: done.ids for key, done in again.items()} == {
        key: done.ids for key, done in recorder.completions.items()
    }


def test_equal_prompts_are_computed_once_and_sample_as_if_alone() -> None:
    model, _ = tiny_policy(tasks("turnwise/Toy-v0", "train", 4), Context())
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.config.vocab_size
    prompts = [tuple(torch.randint(vocabulary, (SHARED_PROMPT + 5,), generator=generator).tolist()) for _ in range(2)]
    requests = [Request(f"r{i}", f"s{i}", prompts[i % 2], 6, seed=i) for i in range(6)]
    widths: list[tuple[int, ...]] = []
    together = TorchEngine(model)
    together.model.base_model.embed_tokens.register_forward_pre_hook(
        lambda module, args: widths.append(tuple(args[0].shape))
    )
    found = rollouts.replay(together, {r.session: [r] for r in requests})
    assert widths[:2] == [(2, SHARED_PROMPT + 5), (4, 1)]
    for request in requests:
        alone = rollouts.replay(TorchEngine(model), {request.session: [request]})[request.id]
        assert found[request.id].ids == alone.ids
        assert found[request.id].logprobs == pytest.approx(alone.logprobs, abs=1e-5)


def test_tool_calls_parse_back_and_noise_is_no_action() -> None:
    context = whole_step.ToolCalls()
    assert context.action(context.render_action("open red door")) == "open red door"
    for noise in ("", "done", "<tool_call>\n{}\n</tool_call>", '<tool_call>{"name": 1}</tool_call>', "<tool_call>{,}"):
        assert context.action(noise) == ""


def test_a_killed_run_resumes_and_repeats_its_lost_step(tmp_path: Path) -> None:
    settings = {
        "sft.demos": 32, "sft.epochs": 1, "rl.steps": 4, "rl.tasks_per_step": 4, "rl.samples_per_task": 4,
        "checkpoint_every": 2, "env.eval_tasks": 5,
    }  # fmt: skip
    results = gpu.measure(override(load("toy"), settings), tmp_path, kill_at=3)
    assert results["killed"] == {"signal": 9, "after_step": 3, "resumed_from": 2}
    assert results["steps"] == [1, 2, 3, 4] and results["kept_across_resume"]
    assert results["loss_difference_of_repeated_steps"] == 0.0
    assert max(results["gap_max"].values()) < 1e-4
    assert any("50000000 parameters" in problem for problem in gpu.failures(results))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is at hand")
def test_without_a_gpu_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path / "gpu.json")])
    gpu.main()
    assert "nothing measured" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_all_alfworld_players_do_the_same_work() -> None:
    pytest.importorskip("alfworld")
    (task,) = tasks("ALFWorld", "test", 1, task_types="pick_and_place_simple", receptacles=4, distractors=2)
    (script,) = env_speed.record_scripts([task], env_speed.make("ALFWorld"))
    stock, new, old = env_speed.StockALFWorld(), env_speed.FastALFWorld(False), env_speed.FastALFWorld(True)
    played = env_speed.Played(env_speed.make("ALFWorld"))
    texts = {player.start(script) for player in (stock, new, old, played)}
    assert len(texts) == 1
    for command in script.commands:
        text, commands, won = stock.step(command)
        assert new.step(command) == old.step(command) == (text, tuple(commands), bool(won))
        observation, *_, info = played.step(command)
        assert (observation, info["commands"], info["success"]) == (text, tuple(commands), bool(won))


def test_textworld_is_asked_for_the_same_with_and_without_our_layer() -> None:
    pytest.importorskip("textworld")
    (script,) = env_speed.record_scripts(tasks("TextWorld", "test", 1), env_speed.make("TextWorld"))
    raw, ours = env_speed.RawTextWorld(commands=True), env_speed.Played(env_speed.make("TextWorld"))
    raw.start(script), ours.start(script)
    for command in script.commands:
        state, info = raw.step(command)[0], ours.step(command)[4]
        assert (state.won, state.score) == (info["success"], info["score"])
        assert state.won or tuple(state.admissible_commands) == info["commands"]
    assert 0 < env_speed.layer_share(ours, [script]) < 1
    assert "step" not in vars(ours.env._game)


def test_the_environment_benchmark_measures_every_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("alfworld")
    parts = ["alfworld", "pool", "memory"]
    monkeypatch.setattr(env_speed, "SCRIPT_STEPS", 3)
    monkeypatch.setattr(
        sys, "argv", ["env_speed.py", "--quick", "--parts", ",".join(parts), "--out", str(tmp_path / "x")]
    )
    env_speed.main()
    found = json.loads((tmp_path / "x").read_text())
    assert list(found) == parts and "not measured" not in capsys.readouterr().out
    rates = found["alfworld"]["results"]["steps_per_second"]
    ratio = found["alfworld"]["results"]["engine"]["ratio"]["median"]
    assert ratio == pytest.approx(rates["fast engine"][0] / rates["stock engine"][0], rel=0.05)
    assert all(size > 0 for name, size in found["memory"]["results"]["mb_per_environment"].items() if "worker" in name)
    assert {"load_average_before", "versions", "cores"} <= set(found["pool"]["conditions"])


def test_an_evaluation_is_timed_with_and_without_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[int] = []
    keep = evaluation.play
    monkeypatch.setattr(
        evaluation, "play", lambda chosen, trials, record: recorded.append(record) or keep(chosen, trials, record)
    )
    found = evaluation.measure("Toy", {"count": 5}, 2, 1)
    assert found["episodes"] == 10 and found["episodes_per_s"]["median"] > 0
    assert recorded == [False, True] * 2  # one round warms up
    assert set(found["seconds"]) == {"plain", "recorded"} and found["recording"]["ratio_cpu"]["median"] > 0


def test_a_spread_names_its_goal() -> None:
    found = {"median": 1234.5, "min": 900.0, "max": 2000.0}
    assert env_speed.spread(found, 1000) == "1,234 (900 to 2,000; goal 1,000: met)"
    assert env_speed.spread({"median": 0.85, "min": 0.8, "max": 0.9}, 0.9) == "0.85 (0.80 to 0.90; goal 0.90: missed)"
