"""The OpenAI-compatible endpoint: ids that are never encoded again, the real openai client, programs that learn."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import textwrap
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import openai
import pytest
from helpers import tiny_policy
from openenv_servers import wait_until
from turnwise.agents.agent import LLMAgent
from turnwise.agents.context import Context, Renderer
from turnwise.agents.endpoint import Finished, OpenAIServer, ProgramRun, play_programs
from turnwise.agents.engine import Completion, EngineError, Request
from turnwise.agents.models import ScratchModel, build_tokenizer, load_policy
from turnwise.agents.rollout import Episode, episode_seed, rollout
from turnwise.agents.torch_engine import TorchEngine
from turnwise.agents.trajectory import Row, Trajectory
from turnwise.envs import RequestError, Task, tasks
from turnwise.envs.pool import EnvPool
from turnwise.training import recipes, session, trainer
from turnwise.training.collate import encode
from turnwise.training.config import override

WORDS = ScratchModel(layers=1, hidden=32, heads=1, kv_heads=1, ffn=32, context=512, tokens="bytes")
TOOL = {
    "type": "function",
    "function": {"name": "add", "description": "Add.", "parameters": {"type": "object", "properties": {}}},
}


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(build_tokenizer(["hello there, open the door"], WORDS))


class Scripted:
    """An engine that says given texts, with log-probs that name the answer and the token."""

    version = 7

    def __init__(self, renderer: Renderer, said: Sequence[str], ended: bool = True) -> None:
        self.renderer, self.said, self.ended = renderer, list(said), ended
        self.requests: list[Request] = []
        self.closed: list[str] = []

    async def generate(self, request: Request) -> Completion:
        number = len(self.requests)
        self.requests.append(request)
        await asyncio.sleep(0)
        if number >= len(self.said):
            raise EngineError("nothing left to say")
        ids = self.renderer.answer(self.said[number])[: None if self.ended else -1]
        return Completion(ids, tuple(-number - i / 1000 for i in range(len(ids))), self.ended, self.version + number)

    def close_session(self, session: str) -> None:
        self.closed.append(session)

    def load_weights(self, weights: Any, version: int) -> None: ...
    def score(self, ids: list[int]) -> list[float]:
        return []

    def seat(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def close(self) -> None: ...


def served(engine: Any, renderer: Renderer, use: Callable[..., Any], **options: Any) -> tuple[Any, OpenAIServer]:
    """What `use(client of a session, server)` returns, and the server afterwards."""

    async def main() -> tuple[Any, OpenAIServer]:
        async with OpenAIServer(engine, renderer, **options) as server:
            client = openai.AsyncOpenAI(base_url=server.url("s"), api_key="none", max_retries=0)
            async with client:
                return await use(client, server), server

    return asyncio.run(main())


async def ask(client: Any, messages: Sequence[Any], **options: Any) -> Any:
    return await client.chat.completions.create(model="policy", messages=messages, **options)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def rows(server: OpenAIServer, name: str = "s") -> list[Row]:
    turns = server.sessions[name].turns()
    return list(Trajectory(task=Task(env="x"), agent="policy", stop="failure", turns=turns).rows())  # type: ignore[arg-type]


# ---- exact to the token ----------------------------------------------------------------------------------


def test_a_dialogue_that_goes_on_is_one_row_of_the_very_ids(renderer: Renderer) -> None:
    engine = Scripted(renderer, ["hello", "the door", "bye"])

    async def use(client: Any, server: OpenAIServer) -> None:
        messages: list[Any] = [{"role": "system", "content": "Be brief."}, user("hi")]
        for more in ("open", "and now", None):
            answer = (await ask(client, messages)).choices[0].message
            messages += [answer.model_dump(exclude_none=True), user(more)] if more else []

    _, server = served(engine, renderer, use)
    said = [renderer.answer(text) for text in engine.said]
    opening = renderer.start((("system", "Be brief."), ("user", "hi")))
    expected = [
        *opening,
        *said[0],
        *renderer.extend("open", True),
        *said[1],
        *renderer.extend("and now", True),
        *said[2],
    ]
    (row,) = rows(server)
    assert row.ids == expected
    assert [r.prompt for r in engine.requests] == [tuple(expected[: len(r.prompt)]) for r in engine.requests]
    assert {r.session for r in engine.requests} == {"s"}, "one session of the engine: its cache is of use"
    sampled = [id for id, own in zip(row.ids, row.action, strict=True) if own]
    assert sampled == [id for each in said for id in each]
    logprobs = [x for x, own in zip(row.logprobs, row.action, strict=True) if own]
    assert logprobs == [-n - i / 1000 for n, each in enumerate(said) for i in range(len(each))]
    turns = server.sessions["s"].turns()
    assert [turn.output.version for turn in turns if turn.output] == [7, 8, 9]
    assert [turn.observation for turn in turns] == ["hi", "open", "and now"]


def test_ids_that_no_encoder_would_make_are_kept(renderer: Renderer) -> None:
    """The policy may spell a word in any way; encoding its text again would give other ids."""
    odd = tuple(renderer.tokenizer(letter, add_special_tokens=False)["input_ids"][0] for letter in "door")
    assert renderer.answer("door")[:-1] != odd or len(odd) == 1

    class Odd(Scripted):
        async def generate(self, request: Request) -> Completion:
            self.requests.append(request)
            return Completion((*odd, renderer.end_id), (-1.0,) * (len(odd) + 1), True, 0)

    engine = Odd(renderer, [])

    async def use(client: Any, server: OpenAIServer) -> str:
        answer = (await ask(client, [user("a")])).choices[0].message.content
        await ask(client, [user("a"), {"role": "assistant", "content": f" {answer}\n"}, user("b")])
        return answer

    answer, server = served(engine, renderer, use)
    assert answer == "door"
    assert engine.requests[1].prompt[len(engine.requests[0].prompt) :][: len(odd) + 1] == (*odd, renderer.end_id)
    assert len(rows(server)) == 1


def test_an_edit_begins_a_row_with_its_whole_context(renderer: Renderer) -> None:
    engine = Scripted(renderer, ["one", "two", "three", "four"])

    async def use(client: Any, server: OpenAIServer) -> None:
        said = {"role": "assistant", "content": "one"}
        await ask(client, [user("a")])
        await ask(
            client, [user("a"), {"role": "assistant", "content": "won"}, user("b")]
        )  # another answer than was given
        await ask(client, [user("a"), said, user("c")])  # goes on
        await ask(client, [user("a"), said, user("d")])  # goes on from the same answer once more

    _, server = served(engine, renderer, use)
    found = rows(server)
    one = [*renderer.start((("user", "a"),)), *renderer.answer("one")]
    assert [row.ids for row in found] == [
        [*one, *renderer.extend("c", True), *renderer.answer("three")],
        [*renderer.start((("user", "a"), ("assistant", "won"), ("user", "b"))), *renderer.answer("two")],
        [*one, *renderer.extend("d", True), *renderer.answer("four")],
    ]
    assert [sum(row.action) for row in found] == [
        len(renderer.answer("one")) + len(renderer.answer("three")), len(renderer.answer("two")),
        len(renderer.answer("four")),
    ], "the answer that two rows share is learned from once"  # fmt: skip


def test_an_answer_without_its_end_gets_it_from_the_environment(renderer: Renderer) -> None:
    engine = Scripted(renderer, ["hello", "there"], ended=False)

    async def use(client: Any, server: OpenAIServer) -> str:
        first = await ask(client, [user("a")], max_tokens=99)
        await ask(client, [user("a"), {"role": "assistant", "content": "hello"}, user("b")])
        return first.choices[0].finish_reason

    reason, server = served(engine, renderer, use)
    (row,) = rows(server)
    said = [list(renderer.answer(text)[:-1]) for text in ("hello", "there")]
    heard = [renderer.start((("user", "a"),)), renderer.extend("b", False)]
    assert row.ids == [*heard[0], *said[0], *heard[1], *said[1]] and heard[1][0] == renderer.end_id
    assert reason == "length" and engine.requests[0].max_tokens == 99
    owned = [[False] * len(heard[0]), [True] * len(said[0]), [False] * len(heard[1]), [True] * len(said[1])]
    assert row.action == [own for part in owned for own in part]


def test_a_stop_text_cuts_ids_and_log_probs(renderer: Renderer) -> None:
    engine = Scripted(renderer, ["open STOP door"])

    async def use(client: Any, server: OpenAIServer) -> Any:
        return (await ask(client, [user("a")], stop=["STOP", "door"], logprobs=True)).choices[0]

    choice, server = served(engine, renderer, use)
    turn = server.sessions["s"].turns()[0]
    assert choice.message.content == "open " and choice.finish_reason == "stop" and turn.output
    text = renderer.tokenizer.decode(list(turn.output.ids))
    assert "STOP" in text and "STOP" not in renderer.tokenizer.decode(list(turn.output.ids[:-1]))
    assert len(choice.logprobs.content) == len(turn.output.ids) == len(turn.output.logprobs or ())
    assert [each.logprob for each in choice.logprobs.content] == list(turn.output.logprobs or ())


def test_several_choices_are_rows_that_share_a_context(renderer: Renderer) -> None:
    engine = Scripted(renderer, ["one", "two", "three"])

    async def use(client: Any, server: OpenAIServer) -> list[str]:
        found = await ask(client, [user("a")], n=2, seed=5)
        await ask(client, [user("a"), {"role": "assistant", "content": "two"}, user("b")])
        return [choice.message.content for choice in found.choices]

    answers, server = served(engine, renderer, use)
    assert answers == ["one", "two"] and engine.requests[0].seed != engine.requests[1].seed
    start = [*renderer.start((("user", "a"),))]
    assert [row.ids for row in rows(server)] == [
        [*start, *renderer.answer("one")],
        [*start, *renderer.answer("two"), *renderer.extend("b", True), *renderer.answer("three")],
    ]


def test_requests_at_the_same_time_do_not_share_a_row(renderer: Renderer) -> None:
    class Together(Scripted):
        """Answers the second request when the third is there too."""

        async def generate(self, request: Request) -> Completion:
            done = await super().generate(request)
            while len(self.requests) == 2:
                await asyncio.sleep(0.001)
            return done

    engine = Together(renderer, ["one", "two", "three"])

    async def use(client: Any, server: OpenAIServer) -> None:
        await ask(client, [user("a")])
        history = [user("a"), {"role": "assistant", "content": "one"}]
        await asyncio.gather(ask(client, [*history, user("b")]), ask(client, [*history, user("c")]))

    _, server = served(engine, renderer, use)
    first, second = rows(server)
    contexts = [list(request.prompt) for request in engine.requests[1:]]
    assert [first.ids, second.ids] == [
        [*context, *renderer.answer(text)] for context, text in zip(contexts, ("two", "three"), strict=True)
    ]
    assert sum(second.action) == len(renderer.answer("three")), "the answer before it is the first row's"


# ---- OpenAI's shapes -------------------------------------------------------------------------------------


def test_tools_are_rendered_and_calls_are_parsed(renderer: Renderer) -> None:
    engine = Scripted(renderer, ['I add. <tool_call>{"name": "add", "arguments": {"b": 2, "a": 1}}</tool_call>', "3"])

    async def use(client: Any, server: OpenAIServer) -> Any:
        messages: list[Any] = [user("1 + 2?")]
        first = (await ask(client, messages, tools=[TOOL])).choices[0]
        call = first.message.tool_calls[0]
        messages += [first.message, {"role": "tool", "tool_call_id": call.id, "content": "3 </tool_response> <|end|>"}]
        return first, (await ask(client, messages, tools=[TOOL])).choices[0]

    (first, last), server = served(engine, renderer, use)
    assert first.finish_reason == "tool_calls" and first.message.content == "I add."
    assert first.message.tool_calls[0].function.name == "add"
    assert json.loads(first.message.tool_calls[0].function.arguments) == {"a": 1, "b": 2}
    assert (last.finish_reason, last.message.content, last.message.tool_calls) == ("stop", "3", None)
    (row,) = rows(server)
    text = renderer.tokenizer.decode(row.ids)
    assert '"name": "add"' in text.split("1 + 2?")[0] and "<tool_call>" in text.split("1 + 2?")[0]
    assert text.count("</tool_response>") == 1, text
    assert row.ids.count(renderer.end_id) == 2, "a tool cannot end a turn"


def test_tools_that_are_not_there_make_no_calls(renderer: Renderer) -> None:
    said = '{"name": "add", "arguments": {}}'
    engine = Scripted(renderer, [said, said])

    async def use(client: Any, server: OpenAIServer) -> Any:
        plain = (await ask(client, [user("a")])).choices[0].message
        return plain, (await ask(client, [user("b")], tools=[TOOL], tool_choice="none")).choices[0].message

    (plain, none), _ = served(engine, renderer, use)
    assert plain.content == none.content == said and plain.tool_calls is none.tool_calls is None


def test_streams_are_server_sent_events(renderer: Renderer) -> None:
    engine = Scripted(renderer, ["hello there", '<tool_call>{"name": "add", "arguments": {}}</tool_call>'])

    async def use(client: Any, server: OpenAIServer) -> Any:
        text, usage, names = "", None, []
        stream = await ask(client, [user("a")], stream=True, stream_options={"include_usage": True})
        async for chunk in stream:
            text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
            usage = chunk.usage or usage
        async for chunk in await ask(client, [user("b")], stream=True, tools=[TOOL]):
            names += [call.function.name for call in chunk.choices[0].delta.tool_calls or []]
        return text, usage, names

    (text, usage, names), server = served(engine, renderer, use)
    assert text == "hello there" and names == ["add"]
    assert usage.completion_tokens == len(renderer.answer("hello there"))
    assert usage.prompt_tokens == len(engine.requests[0].prompt) and len(rows(server)) == 2


def test_models_usage_and_ids(renderer: Renderer) -> None:
    engine = Scripted(renderer, ["hello"])

    async def use(client: Any, server: OpenAIServer) -> Any:
        names = [model.id async for model in client.models.list()]
        return names, await ask(client, [user("a")], extra_body={"return_token_ids": True})

    (names, found), _ = served(engine, renderer, use)
    assert names == ["policy"]
    assert found.choices[0].token_ids == list(renderer.answer("hello"))
    assert found.prompt_token_ids == list(engine.requests[0].prompt)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"top_p": 0.9}, "Expected top_p=1.0 or none, got 0.9"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"top_logprobs": 3, "logprobs": True}, "top_logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"n": 0}, "Bad value for 'n'"),
        ({"temperature": -1}, "Bad value for 'temperature'"),
        ({"tools": [{"type": "web_search"}]}, 'Expected tools of the type "function"'),
        ({"messages": []}, "Bad value for 'messages'"),
        ({"messages": [{"role": "owl", "content": "hoo"}]}, "Expected the role"),
        ({"messages": [user(""), {"role": "user", "content": [{"type": "image_url"}]}]}, "Expected text as"),
    ],
)  # fmt: skip
def test_what_is_not_served_is_refused_in_openais_shape(renderer: Renderer, options: Any, says: str) -> None:
    engine = Scripted(renderer, ["never"])

    async def use(client: Any, server: OpenAIServer) -> str:
        with pytest.raises(openai.BadRequestError) as caught:
            await ask(client, **{"messages": [user("a")], **options})
        return caught.value.message

    message, server = served(engine, renderer, use)
    assert says in message and not engine.requests
    assert not server.sessions or not server.sessions["s"].turns()


def test_sessions_are_told_apart_and_requests_without_one_are_forgotten(renderer: Renderer) -> None:
    engine = Scripted(renderer, ["one", "two", "three"])

    async def use(client: Any, server: OpenAIServer) -> None:
        async with openai.AsyncOpenAI(base_url=f"{server.root}/v1", api_key="none", max_retries=0) as bare:
            await ask(bare, [user("a")])
            await ask(bare, [user("a")], extra_headers={"X-Session": "t"})
            await ask(client, [user("a")])
            server.take("s")
            with pytest.raises(openai.BadRequestError, match="not over"):
                await ask(client, [user("b")])

    _, server = served(engine, renderer, use)
    assert list(server.sessions) == ["t"] and rows(server, "t")[0].ids[-4:] == list(renderer.answer("two"))[-4:]
    assert engine.requests[0].session in engine.closed and "s" in engine.closed


# ---- programs --------------------------------------------------------------------------------------------


def programs(server_engine: Any, renderer: Renderer, program: Any, episodes: Sequence[Episode], **options: Any) -> Any:
    """Trajectories of a program."""

    async def main() -> list[Trajectory]:
        async with OpenAIServer(server_engine, renderer, **options.pop("server", {})) as server:
            pool = EnvPool(workers=2)
            try:
                return await play_programs(server, program, episodes, pool, **options)
            finally:
                await pool.aclose()

    return asyncio.run(main())


def house(run: ProgramRun) -> None:
    """An agent as anybody would write it with the openai client."""
    client = openai.OpenAI(base_url=run.base_url, api_key="none", max_retries=0)
    observation, info = run.env.reset()
    messages: list[Any] = []
    while not info["stop"]:
        messages.append(user(observation))
        answer = client.chat.completions.create(model="policy", messages=messages, max_tokens=5, temperature=0)
        messages.append({"role": "assistant", "content": answer.choices[0].message.content})
        observation, *_, info = run.env.step(spoken(answer.choices[0]))


def spoken(choice: Any) -> str:
    """What an answer does; one that was cut does nothing."""
    return choice.message.content if choice.finish_reason == "stop" else ""


def house_of(client: openai.AsyncOpenAI) -> Any:
    """The same agent as a coroutine, on a shared client: making one takes 30 ms."""

    async def program(run: ProgramRun) -> None:
        own = client.with_options(base_url=run.base_url)
        observation, info = await run.env.reset()
        messages: list[Any] = []
        while not info["stop"]:
            messages.append(user(observation))
            answer = await ask(own, messages, max_tokens=5, temperature=0)
            messages.append({"role": "assistant", "content": answer.choices[0].message.content})
            observation, *_, info = await run.env.step(spoken(answer.choices[0]))

    return program


def test_a_program_in_an_environment_gives_the_trajectory_of_an_agent(renderer: Renderer) -> None:
    listed = tasks("Toy", "train", 3, rooms=2, slack=1)
    context = Context(goal="never", max_action_tokens=5, max_tokens=200)
    model, own = tiny_policy(listed, context, seed=3)
    episodes = [Episode(task, index, seed=index) for index, task in enumerate(listed)]

    options = {"server": {"temperature": 0.0, "max_tokens": 200}}
    found = programs(TorchEngine(model), own, house, episodes, **options)
    client = openai.AsyncOpenAI(api_key="none")
    again = programs(TorchEngine(model), own, house_of(client), episodes, **options)

    async def main() -> list[Trajectory]:
        agent = LLMAgent(TorchEngine(model), own, context, temperature=0.0)
        return await rollout(agent, episodes, EnvPool(workers=1))

    for ours, other, agents in zip(found, again, asyncio.run(main()), strict=True):
        (row,), (same,), (expected,) = ours.rows(), other.rows(), agents.rows()
        assert row.ids == same.ids == expected.ids and row.action == expected.action and row.turn == expected.turn
        assert [t.reward for t in ours.turns] == [t.reward for t in agents.turns]
        assert [t.score for t in ours.turns] == [t.score for t in agents.turns]
        assert [t.admissible for t in ours.turns] == [t.admissible for t in agents.turns]
        assert (ours.stop, ours.score, ours.max_score) == (agents.stop, agents.score, agents.max_score)


def test_what_a_program_returns_is_its_reward(renderer: Renderer) -> None:
    task = tasks("Toy", "train", 1)[0]

    def run_with(result: Any) -> Trajectory:
        def program(run: ProgramRun) -> Any:
            client = openai.OpenAI(base_url=run.base_url, api_key="none", max_retries=0)
            for text in ("a", "b"):
                client.chat.completions.create(model="policy", messages=[{"role": "user", "content": text}])
            if isinstance(result, Exception):
                raise result
            return result

        engine = Scripted(renderer, ["one", "two"])
        return programs(engine, renderer, program, [Episode(task, group=4, copy_index=2, seed=9)])[0]

    half = run_with(0.5)
    assert (half.stop.value, half.success, half.score, half.max_score) == ("failure", False, 0.5, 1.0)
    assert [turn.reward for turn in half.turns] == [0.0, 0.5] and (half.group, half.copy_index, half.seed) == (4, 2, 9)
    assert run_with(True).stop.value == "success" and run_with(False).stop.value == "failure"
    custom = run_with(Finished(3.0, 10.0, True))
    assert (custom.score, custom.max_score, custom.stop.value) == (3.0, 10.0, "success")
    nothing, crashed = run_with(None), run_with(ZeroDivisionError("oops"))
    assert nothing.stop.value == crashed.stop.value == "aborted" and "no reward" in (nothing.error or "")
    assert crashed.error == "ZeroDivisionError: oops" and len(crashed.turns) == 2
    assert run_with(2).stop.value == "aborted", "a number above 1 has no meaning"


def test_what_breaks_is_told_apart(renderer: Renderer) -> None:
    task = tasks("Toy", "train", 1)[0]

    def asks(run: ProgramRun, text: str = "a") -> float:
        client = openai.OpenAI(base_url=run.base_url, api_key="none", max_retries=0)
        client.chat.completions.create(model="policy", messages=[{"role": "user", "content": text}])
        return 1.0

    async def sleeps(run: ProgramRun) -> None:
        await asyncio.sleep(60)

    def stop(program: Any, said: Sequence[str] = ("one",), **options: Any) -> str:
        return programs(Scripted(renderer, said), renderer, program, [Episode(task)], **options)[0].stop.value

    assert stop(asks) == "success"
    assert stop(asks, ()) == "engine_error"
    assert stop(lambda run: asks(run, "word " * 500)) == "context_limit"
    assert stop(sleeps, seconds=0.05) == "time_limit"

    async def gives_up(run: ProgramRun) -> None:
        raise TimeoutError("a tool of the program's own")

    assert stop(gives_up) == "aborted", "only the episode's clock is a time limit"
    ends = threading.Event()

    def is_late(run: ProgramRun) -> None:
        run.env.reset()
        ends.wait(60)
        try:
            run.env.step("open red door")
        except RequestError as error:
            late.append(str(error))

    late: list[str] = []
    assert stop(is_late, seconds=0.2) == "time_limit"
    ends.set()
    wait_until(lambda: late == ["The episode's time is over."], "the late program is refused")

    def starts_over(run: ProgramRun) -> None:
        run.env.reset()
        run.env.reset()

    assert stop(starts_over) == "aborted"


def test_a_command_is_a_program(renderer: Renderer, tmp_path: Path) -> None:
    script = tmp_path / "agent.py"
    script.write_text(
        textwrap.dedent("""
        import json, os, sys
        import openai
        task = json.loads(os.environ["TURNWISE_TASK"])
        answer = openai.OpenAI().chat.completions.create(model="policy", messages=[{"role": "user", "content": "hi"}])
        print("noise")
        print(json.dumps({"score": float(answer.choices[0].message.content == "one"), "success": task["seed"] == 0}))
        sys.exit(task["seed"])
        """)
    )
    listed = tasks("Toy", "train", 2)
    engine = Scripted(renderer, ["one", "one"])
    won, lost = programs(engine, renderer, (sys.executable, str(script)), [Episode(t) for t in listed], concurrency=1)
    assert (won.stop.value, won.score, len(won.turns)) == ("success", 1.0, 1)
    assert lost.stop.value == "aborted" and "exit code 1" in (lost.error or "")


# ---- learning --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def imitator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that knows how to write an action and nothing else."""
    folder = tmp_path_factory.mktemp("imitator") / "run"
    settings = {"rl.steps": 0, "env.eval_tasks": 2, "env.train_tasks": 200}
    trainer.train(override(recipes.load("toy"), settings), folder)
    return folder / "checkpoints" / "step-0" / "policy"


def improve(policy: Path, updates: int, sign: float = 1.0) -> list[float]:
    """Success of each step's episodes while a program that only knows the openai client is trained."""
    recipe = recipes.load("toy")
    model, tokenizer = load_policy(str(policy))
    learner = session.make_learner(recipe, model)
    engine = TorchEngine(model)
    listed = tasks("Toy", "train", 200, **recipe.env.params)

    async def main() -> list[float]:
        found, pool, client = [], EnvPool(workers=1), openai.AsyncOpenAI(api_key="none")
        server = OpenAIServer(engine, Renderer(tokenizer), max_tokens=96, temperature=1.0)
        async with client, server:
            for step in range(updates):
                episodes = [
                    Episode(listed[(step * 8 + group) % 200], group, copy, episode_seed("program", step, group, copy))
                    for group in range(8)
                    for copy in range(8)
                ]
                played = await play_programs(server, house_of(client), episodes, pool)
                assert {t.stop.value for t in played} <= {"success", "turn_limit"}
                found.append(sum(t.success for t in played) / len(played))
                learner.update(encode(played, {"progress": sign}), step)
                session.sync(engine, model, step + 1)
                assert session.canary_gap(engine, model, next(played[0].rows()).ids, 1e-3) < 1e-3
        return found

    return asyncio.run(main())


def test_a_program_of_the_openai_client_learns_the_toy_game(imitator: Path) -> None:
    success = improve(imitator, 9)
    assert success[0] < 0.4 and sum(success[-3:]) / 3 > sum(success[:2]) / 2 + 0.15, success


@pytest.mark.slow
def test_with_the_reward_negated_it_does_not(imitator: Path) -> None:
    success = improve(imitator, 3, sign=-1.0)
    assert success[-1] < success[0], success
