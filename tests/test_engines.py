"""Token fidelity: the batch holds what the engine saw and sampled, and the trainer reads the same log-probs."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TINY, run, tiny_policy
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM
from turnwise.agents.agent import LLMAgent
from turnwise.agents.context import Context
from turnwise.agents.engine import Completion, EngineError, Request
from turnwise.agents.models import build_model, save_policy
from turnwise.agents.rollout import Episode, rollout
from turnwise.agents.torch_engine import TorchEngine, hashed_uniform, inverse_cdf
from turnwise.envs import StopReason, Task, tasks
from turnwise.envs.pool import EnvPool
from turnwise.training.collate import encode
from turnwise.training.scoring import score_actions

TOY = tasks("Toy", "train", 12, rooms=2, slack=2)
CONTEXT = Context(goal="every", commands=True, max_action_tokens=6, max_tokens=400)


class Witness:
    """An engine that writes down what goes in and out."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.seen = engine, {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    async def generate(self, request: Request) -> Completion:
        done = await self.engine.generate(request)
        self.seen[request.id] = (request.prompt, done)
        return done


@pytest.fixture(scope="module")
def policy() -> Any:
    return tiny_policy(TOY, CONTEXT)


@pytest.fixture(scope="module")
def engines(policy: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Both engines with the same weights; vLLM only where it is installed."""
    from turnwise.agents.vllm_engine import VLLMEngine, is_installed

    model, renderer = policy
    made: dict[str, Any] = {"torch": TorchEngine(model)}
    if is_installed():
        folder = tmp_path_factory.mktemp("policy")
        save_policy(folder, model, renderer.tokenizer)
        made["vllm"] = VLLMEngine(folder, max_model_len=400, max_batch=32)
    yield made
    for engine in made.values():
        engine.close()


def check_fidelity(witness: Witness, model: Any, renderer: Any, context: Context, episodes: list[Episode]) -> float:
    """Byte-for-byte equality of ids in the batch and at the engine; returns the largest log-prob gap."""
    witness.seen.clear()
    played = run(LLMAgent(witness, renderer, context, temperature=0.9), episodes)
    encoded = encode(played, {"outcome": 1.0})
    row = 0
    for index, (episode, t) in enumerate(zip(episodes, played, strict=True)):
        name = f"{index}-{episode.group}-{episode.copy_index}-{episode.seed}"
        calls = [witness.seen[f"{name}/{turn}"] for turn in range(len(t.turns))]
        if context.layout == "transcript":
            prompt, last = calls[-1]
            expected = [(list(prompt) + list(last.ids), [i for call in calls for i in call[1].ids])]
        else:
            expected = [(list(prompt) + list(done.ids), list(done.ids)) for prompt, done in calls]
        for whole, sampled in expected:
            length = encoded.lengths[row]
            assert encoded.ids[row, :length].tolist() == whole
            assert encoded.ids[row][encoded.batch.mask[row]].tolist() == sampled
            row += 1
    assert row == len(encoded.lengths)
    with torch.no_grad():
        logp = score_actions(model, encoded.ids, encoded.batch.mask, temperature=0.9).logp_BT
    return float((logp - encoded.batch.logp_rollout)[encoded.batch.mask].abs().max())


@pytest.mark.parametrize("name", ["torch", "vllm"])
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_ids_in_the_batch_are_those_the_engine_saw(name: str, engines: Any, policy: Any, data: st.DataObject) -> None:
    if name not in engines:
        pytest.skip("vLLM is not installed")
    model, renderer = policy
    context = CONTEXT.model_copy(
        update={
            "layout": data.draw(st.sampled_from(["transcript", "windowed"])),
            "history": data.draw(st.integers(0, 2)),
            "goal": data.draw(st.sampled_from(["never", "first", "every"])),
            "max_action_tokens": data.draw(st.integers(1, 6)),
        }
    )
    chosen = data.draw(st.lists(st.sampled_from(TOY), min_size=1, max_size=6))
    seed = data.draw(st.integers(0, 2**31 - 1))
    gap = check_fidelity(
        Witness(engines[name]), model, renderer, context, [Episode(t, i, 0, seed + i) for i, t in enumerate(chosen)]
    )
    assert gap < 1e-3


@pytest.mark.parametrize("name", ["torch", "vllm"])
def test_a_programs_rows_are_what_the_engine_behind_its_endpoint_saw(name: str, engines: Any, policy: Any) -> None:
    openai = pytest.importorskip("openai")
    pytest.importorskip("uvicorn")
    from turnwise.agents.endpoint import ProgramRun, ServedProgram

    if name not in engines:
        pytest.skip("vLLM is not installed")
    model, renderer = policy
    client, witness = openai.AsyncOpenAI(api_key="none", base_url="http://localhost"), Witness(engines[name])

    async def program(run: ProgramRun) -> None:
        own = client.with_options(base_url=run.base_url)
        observation, info = await run.env.reset()
        messages: list[Any] = []
        while not info["stop"]:
            messages.append({"role": "user", "content": observation})
            answer = (await own.chat.completions.create(model="policy", messages=messages)).choices[0].message.content
            messages.append({"role": "assistant", "content": answer})
            observation, *_, info = await run.env.step(answer)

    agent = ServedProgram(LLMAgent(witness, renderer, CONTEXT, temperature=0.9), program)
    played = run(agent, [Episode(task, group, seed=group) for group, task in enumerate(TOY[:6])])
    encoded = encode(played, {"outcome": 1.0})
    found = {tuple(ids[:length].tolist()) for ids, length in zip(encoded.ids, encoded.lengths, strict=True)}
    calls: dict[str, tuple[int, ...]] = {}
    for id, (prompt, done) in witness.seen.items():
        session = id.split("/")[0]
        calls[session] = max(calls.get(session, ()), (*prompt, *done.ids), key=len)  # each call goes on from the last
    assert len(encoded.lengths) == 6 and found == set(calls.values())
    with torch.no_grad():
        logp = score_actions(model, encoded.ids, encoded.batch.mask, temperature=0.9).logp_BT
    assert float((logp - encoded.batch.logp_rollout)[encoded.batch.mask].abs().max()) < 1e-3


@pytest.mark.parametrize("name", ["torch", "vllm"])
def test_new_weights_arrive_and_forget_the_cache(name: str, engines: Any, policy: Any) -> None:
    if name not in engines:
        pytest.skip("vLLM is not installed")
    model, renderer = policy
    other = build_model(renderer.tokenizer, TINY, seed=9)
    engine, ids = engines[name], list(range(6, 20))
    before = engine.score(ids)
    engine.load_weights(other.named_parameters(remove_duplicate=False), 5)
    try:
        assert engine.version == 5
        mask = torch.ones(1, len(ids), dtype=torch.bool)
        mask[:, 0] = False
        with torch.no_grad():
            expected = score_actions(other, torch.tensor([ids]), mask).logp_BT[0, 1:].tolist()
        assert engine.score(ids) == pytest.approx(expected, abs=1e-4)
        assert engine.score(ids) != pytest.approx(before, abs=1e-2)
        gap = check_fidelity(Witness(engine), other, renderer, CONTEXT, [Episode(TOY[0], 0, c, c) for c in range(4)])
        assert gap < 1e-3
    finally:
        engine.load_weights(model.named_parameters(remove_duplicate=False), 0)


def test_an_episode_samples_the_same_alone_and_in_a_crowd(policy: Any) -> None:
    model, renderer = policy
    agent = LLMAgent(TorchEngine(model), renderer, CONTEXT)
    crowd = run(agent, [Episode(t, i, 0, 100 + i) for i, t in enumerate(TOY)])
    for i in (0, 5, 11):
        (alone,) = run(agent, [Episode(TOY[i], i, 0, 100 + i)])
        assert [u.output.ids for u in alone.turns] == [u.output.ids for u in crowd[i].turns]


def test_small_batches_and_slot_reuse_change_nothing(policy: Any) -> None:
    model, renderer = policy
    episodes = [Episode(t, i, 0, i) for i, t in enumerate(TOY)]
    wide = run(LLMAgent(TorchEngine(model), renderer, CONTEXT), episodes)
    narrow = run(
        LLMAgent(TorchEngine(model, max_batch=3, prefill_tokens=40), renderer, CONTEXT), episodes, concurrency=4
    )
    assert [[u.output.ids for u in t.turns] for t in wide] == [[u.output.ids for u in t.turns] for t in narrow]


class _Slow(EnvPool):
    """Environments that answer after random times."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = random.Random(seed)

    @asynccontextmanager
    async def lease(self, task: Task, **kwargs: Any) -> AsyncIterator[Any]:
        async with super().lease(task, **kwargs) as env:
            act = env.step

            async def step(action: str) -> Any:
                await asyncio.sleep(self.random.random() * 0.003)
                return await act(action)

            env.step = step  # type: ignore[method-assign]
            yield env

    def capacity(self, task: Task) -> int | None:
        return 5


def batches_beside_slow_environments(policy: Any, exact: bool, seed: int) -> tuple[list[Any], list[Any]]:
    """Which requests each step of the engine computed, and every log-prob sampled."""
    model, renderer = policy
    engine, seen = TorchEngine(model, exact=exact), list[Any]()
    work = engine.step

    def step() -> Any:
        ended = work()
        seen.append(sorted([*engine._running, *(name for name, _ in ended)]))
        return ended

    engine.step = step  # type: ignore[method-assign]
    agent = LLMAgent(engine, renderer, CONTEXT)
    played = asyncio.run(rollout(agent, [Episode(t, i, 0, i) for i, t in enumerate(TOY)], _Slow(seed)))
    return seen, [u.output.logprobs for t in played for u in t.turns]


def test_exact_batches_do_not_depend_on_how_fast_environments_answer(policy: Any) -> None:
    first = batches_beside_slow_environments(policy, True, 0)
    assert first == batches_beside_slow_environments(policy, True, 1)
    assert max(map(len, first[0])) == 5
    free = [batches_beside_slow_environments(policy, False, seed)[0] for seed in range(2)]
    assert free[0] != free[1], "the delays changed nothing: the test proves nothing"


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2)])
def test_the_fused_pass_is_the_models_own(heads: int, kv_heads: int) -> None:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=50, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=heads,
        num_key_value_heads=kv_heads, head_dim=32, max_position_embeddings=64,
    )  # fmt: skip
    model, other = Qwen3ForCausalLM(config).eval(), Qwen3ForCausalLM(config).eval()
    for name, parameter in model.named_parameters():  # norms start at one, which would hide a missing weight
        parameter.data += 0.1 * torch.randn_like(parameter) if "norm" in name else 0.0
    engine = TorchEngine(model)
    assert engine.fused is not None
    for weights in (model, other, model):
        engine.load_weights(weights.named_parameters(), 1)
        ids = torch.randint(50, (3, 9))
        expected = weights.base_model(input_ids=ids).last_hidden_state
        engine._slots = 3
        read = [engine._forward(ids[:, a:b], torch.arange(a, b).expand(3, -1), torch.arange(3), True)
                for a, b in ((0, 5), (5, 8), (8, 9))]  # fmt: skip
        torch.testing.assert_close(torch.cat(read, 1), expected, atol=2e-6, rtol=0)


def test_models_without_a_fused_pass_run_through_the_librarys(policy: Any) -> None:
    _, renderer = policy
    torch.manual_seed(0)
    sizes = {"vocab_size": len(renderer.tokenizer), "hidden_size": 32, "intermediate_size": 64}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=2, num_attention_heads=2)).eval()
    assert TorchEngine(model).fused is None
    assert check_fidelity(Witness(TorchEngine(model)), model, renderer, CONTEXT, [Episode(TOY[0], 0, 0, 0)]) < 1e-3


def test_greedy_takes_the_most_likely_token(policy: Any) -> None:
    model, renderer = policy
    engine = TorchEngine(model)
    prompt = renderer.start((("user", "The sign says red."),))
    request = Request("a", "s", prompt, 4, temperature=0.0, stop_ids=(renderer.end_id,))
    done = asyncio.run(engine.generate(request))
    ids = list(prompt)
    for token in done.ids:
        with torch.no_grad():
            assert int(model(torch.tensor([ids])).logits[0, -1].argmax()) == token
        ids.append(token)


def test_sampling_follows_the_distribution() -> None:
    p = torch.tensor([0.5, 0.3, 0.15, 0.05])
    n = 20_000
    u = torch.from_numpy(hashed_uniform(np.arange(n, dtype=np.uint64), np.zeros(n, dtype=np.uint64)))
    counts = torch.bincount(inverse_cdf(p.log().expand(n, 4), u), minlength=4) / n
    assert counts.tolist() == pytest.approx(p.tolist(), abs=0.012)  # 3.4 standard errors at p = .5
    neighbours = hashed_uniform(np.zeros(n, dtype=np.uint64), np.arange(n, dtype=np.uint64))
    assert abs(np.corrcoef(neighbours[:-1], neighbours[1:])[0, 1]) < 0.025


def test_a_failing_engine_ends_episodes_as_data_and_recovers(policy: Any) -> None:
    model, renderer = policy
    engine = TorchEngine(model)
    working, calls = engine.step, [0]

    def failing() -> Any:
        calls[0] += 1
        if calls[0] == 3:
            raise RuntimeError("out of memory")
        return working()

    engine.step = failing  # type: ignore[method-assign]
    agent = LLMAgent(engine, renderer, CONTEXT)
    played = run(agent, [Episode(t, i, 0, i) for i, t in enumerate(TOY[:4])])
    assert {t.stop for t in played} == {StopReason.ENGINE_ERROR}
    assert all("out of memory" in (t.error or "") for t in played)
    again = run(agent, [Episode(t, i, 0, i) for i, t in enumerate(TOY[:4])])
    assert not any(t.stop.is_error for t in again)


def test_the_canary_notices_weights_that_did_not_arrive(policy: Any) -> None:
    from turnwise.training.session import canary_gap

    model, renderer = policy
    engine, ids = TorchEngine(model), list(range(6, 20))
    assert canary_gap(engine, model, ids, 1e-3) < 1e-4
    stale = build_model(renderer.tokenizer, TINY, seed=1)
    with pytest.raises(EngineError, match="does not sample from the policy"):
        canary_gap(engine, stale, ids, 1e-3)
