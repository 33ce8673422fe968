"""OpenEnv: the server and the client, both against each other; every observation as in this process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from helpers import run
from openenv_servers import active, serving, vanishing, wait_until
from turnwise.agents.agent import ScriptedAgent
from turnwise.agents.rollout import Episode
from turnwise.envs import EnvError, RequestError, Task, UnknownName, env_class, make, registry, tasks
from turnwise.envs.check import check_env
from turnwise.envs.openenv import remote, wire
from turnwise.envs.openenv.client import Connection, ServerError, get
from turnwise.envs.openenv.env import OpenEnvEnv
from turnwise.envs.openenv.served import Served
from turnwise.envs.openenv.sessions import Full, Sessions
from turnwise.envs.pool import EnvPool
from turnwise.training.serve import serve
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

ID = "turnwise/OpenEnv-v0"
DESK = "turnwise/ServiceDesk-v0"


@pytest.fixture(scope="module")
def toy() -> Iterator[str]:
    with serving("Toy", {"rooms": 2, "slack": 1}, max_sessions=8) as url:
        yield url


@pytest.fixture(scope="module")
def desk() -> Iterator[str]:
    with serving(DESK) as url:
        yield url


def played(env: Any, task: Task, actions: list[str] | None) -> list[tuple[Any, ...]]:
    """Everything that an episode says; the expert plays where no actions are given. Keys of tasks are left out."""
    text, info = env.reset(options={"task": task})
    seen = [(text, 0.0, False, False, info)]
    for turn in range(len(actions) if actions else 10**6):
        if info["stop"]:
            break
        seen.append(env.step(actions[turn] if actions else env.expert()))
        info = seen[-1][-1]
    return [(*each[:4], {key: value for key, value in each[4].items() if key != "task"}) for each in seen]


def same(url: str, inner: list[Task], split: str, actions: list[str] | None = None) -> int:
    """Plays the same tasks here and through the wire, compares all of it; returns the number of steps."""
    outer, local, wired, steps = tasks(ID, split, url=url), make(inner[0].env), make(ID), 0
    by_key = {task.params["reset"]["task"]: task for task in outer}
    assert len(outer) == len(by_key)
    for task in inner:
        expected, found = played(local, task, actions), played(wired, by_key[task.key], actions)
        assert json.dumps(found) == json.dumps(expected)
        steps += len(expected) - 1
    local.close()
    wired.close()
    return steps


# ---- both ways -------------------------------------------------------------------------------------------


def test_200_episodes_through_the_wire_equal_those_in_process(toy: str, desk: str) -> None:
    inner = tasks("Toy", "test", rooms=2, slack=1)
    noise = ["open red door", "", "open blue door", "x" * 600, "open green door", "\ud800", "open red door"]
    assert same(toy, inner[:60], "test") == 120
    assert same(toy, inner[60:130], "test", noise) > 140
    assert same(desk, tasks(DESK, "test", 50), "test") > 150
    wrong = ['{"name": "nothing", "arguments": {}}', "hello", '{"name": "reply", "arguments": {"text": 3}}']
    assert same(desk, tasks(DESK, "train", 20), "train", wrong) == 60


def test_the_kit_passes_against_our_own_server(toy: str) -> None:
    report = check_env(ID, tasks_per_split=1, url=toy)
    assert report.ok, [check for check in report.checks if not check.ok]
    assert {check.name for check in report.checks} >= {"determinism", "expert", "snapshot", "robustness"}


def test_rollouts_play_it_in_worker_processes(toy: str) -> None:
    listed = tasks(ID, "validation", 6, url=toy)
    found = run(ScriptedAgent("expert"), [Episode(task, group) for group, task in enumerate(listed)])
    assert [t.stop.value for t in found] == ["success"] * 6 and {len(t.turns) for t in found} == {2}
    wait_until(lambda: active(toy) == 0, "the pool's workers have left")


def test_tasks_have_the_limits_and_the_identity_of_the_servers(toy: str) -> None:
    listed, inner = tasks(ID, "train", 5, url=toy), tasks("Toy", "train", 5, rooms=2, slack=1)
    assert [(t.max_turns, t.goal, t.difficulty) for t in listed] == [(t.max_turns, t.goal, t.difficulty) for t in inner]
    assert [t.params for t in listed] == [{"server": "turnwise/Toy-v0", "reset": {"task": task.key}} for task in inner]
    moved = listed[0].model_copy(update={"meta": {**listed[0].meta, "url": "http://127.0.0.1:1"}})
    assert moved.key == listed[0].key, "the same task behind another port is the same task"
    assert registry.splits(ID, url=toy) == {"train": 1000, "validation": 100, "test": 200}


def test_a_seed_draws_the_task_that_it_draws_in_process(toy: str) -> None:
    local, session = make("Toy", split="train", rooms=2, slack=1), Connection(toy)
    drawn = []
    for seed in (0, 1, 2, 7, 123):
        text, info = local.reset(seed=seed)
        data = session.ask("reset", {"seed": seed})
        assert (data["observation"]["text"], data["metadata"]["task"]) == (text, info["task"])
        drawn.append(info["task"])
    assert len(set(drawn)) > 3
    by_index = session.ask("reset", {"split": "test", "index": 7})
    assert by_index["metadata"]["task"] == tasks("Toy", "test", rooms=2, slack=1)[7].key
    session.close()


# ---- the messages ----------------------------------------------------------------------------------------


def test_an_episode_message_by_message(toy: str) -> None:
    task = tasks("Toy", "train", 1, rooms=2, slack=1)[0]
    env = make("Toy")
    text, _ = env.reset(options={"task": task})
    session = Connection(toy)
    assert session.ask("state") == wire.state(None, None, {})
    data = session.ask("reset", {"task": task.key, "episode_id": "mine"})
    assert data["observation"]["text"] == text and data["reward"] is None and data["done"] is False
    assert data["observation"]["commands"] == ["open red door", "open green door", "open blue door"]
    assert data["metadata"] == data["observation"]["metadata"] and data["metadata"]["truncated"] is False
    first = session.ask("step", {"action": env.expert()})
    env.step(env.expert())
    assert (first["reward"], first["done"], first["metadata"]["score"]) == (1.0, False, 1.0)
    assert session.ask("expert") == {"action": env.expert()}
    last = session.ask("step", {"action": env.expert()})
    assert (last["reward"], last["done"], last["metadata"]["success"]) == (1.0, True, True)
    assert last["metadata"]["truncated"] is False
    assert session.ask("state") == {
        "episode_id": "mine", "step_count": 2, "task": task.key, "score": 2.0, "max_score": 2.0, "success": True,
        "done": True,
    }  # fmt: skip
    session.ask("reset", {"task": task.key})
    for _ in range(3):
        last = session.ask("step", {"action": "wait"})
    assert last["done"] and last["metadata"]["truncated"] is True and last["metadata"]["success"] is False
    session.close()


@pytest.mark.parametrize(
    ("kind", "data", "code", "says"),
    [
        ("step", {"action": "open red door"}, "VALIDATION_ERROR", "Send a reset first"),
        ("step", {"move": 1}, "VALIDATION_ERROR", 'Expected an action {"action": "text"}'),
        ("step", {"action": "x", "other": 1}, "VALIDATION_ERROR", "Expected an action"),
        ("step", {"type": "list_tools"}, "VALIDATION_ERROR", "Send a reset first"),
        ("reset", {"level": 3}, "VALIDATION_ERROR", "got level"),
        ("reset", {"seed": -1}, "VALIDATION_ERROR", "a seed of 0 or more"),
        ("reset", {"split": "tests"}, "VALIDATION_ERROR", "Did you mean 'test'"),
        ("reset", {"index": 1000}, "VALIDATION_ERROR", "from 0 to 999"),
        ("reset", {"task": "nothing"}, "VALIDATION_ERROR", "Expected the key of a task"),
        ("reset", [1], "VALIDATION_ERROR", "an object of reset parameters"),
        ("dance", None, "UNKNOWN_TYPE", "got 'dance'"),
    ],
)  # fmt: skip
def test_a_wrong_message_gets_one_clear_answer_and_the_session_goes_on(
    toy: str, kind: str, data: Any, code: str, says: str
) -> None:
    session = Connection(toy)
    with pytest.raises(ServerError) as caught:
        session.ask(kind, data)
    assert caught.value.code == code and says in caught.value.message and "Traceback" not in caught.value.message
    assert session.ask("reset", {"index": 0})["done"] is False
    session.close()


def test_what_is_no_message_gets_an_answer_too(toy: str) -> None:
    session = Connection(toy)
    for text, code in (("{", "INVALID_JSON"), ("[" * 100_000, "INVALID_JSON"), ("[1]", "UNKNOWN_TYPE")):
        session._socket.send(text)
        assert json.loads(session._socket.recv(timeout=30))["data"]["code"] == code
    session.close()


def test_the_expert_can_be_kept_back() -> None:
    with serving("Toy", expert=False) as url:
        session = Connection(url)
        session.ask("reset", {"index": 0})
        with pytest.raises(ServerError, match="UNKNOWN_TYPE"):
            session.ask("expert")
        session.close()


def test_http_has_openenvs_endpoints(toy: str) -> None:
    key = tasks("Toy", "train", 1, rooms=2, slack=1)[0].key
    assert get(toy, "/health") == {"status": "healthy"}
    assert get(toy, "/metadata")["name"] == "turnwise/Toy-v0"
    assert set(get(toy, "/schema")) == {"action", "observation", "state"}
    assert get(toy, "/state") == wire.state(None, None, {})
    before = active(toy)
    opening = get(toy, "/reset", {"task": key})
    assert opening["metadata"]["task"] == key and active(toy) == before, "a reset without a name keeps nothing"
    assert get(toy, "/reset", {"task": key, "episode_id": "a"}) == opening and active(toy) == before + 1
    stepped = get(toy, "/step", {"episode_id": "a", "action": {"action": "open red door"}})
    assert stepped["metadata"]["turn"] == 1 and get(toy, "/state?episode_id=a")["step_count"] == 1
    for path, body, says in (
        ("/step", {"action": {"action": "x"}}, "Expected the episode_id"),
        ("/step", {"episode_id": "a", "action": {"x": 1}}, "Expected an action"),
        ("/reset", {"index": -1}, "Expected an index"),
    ):
        answer = httpx.post(toy + path, json=body)
        assert answer.status_code == 422 and says in answer.json()["detail"]


def test_the_task_api_lists_what_is_served(toy: str) -> None:
    assert get(toy, "/list_environments") == ["Toy-v0"]
    assert [each["name"] for each in get(toy, "/toy-v0/splits")] == ["train", "validation", "test"]
    assert get(toy, "/Toy-v0/num_tasks", {"split": "test"}) == {"num_tasks": 200}
    keys = [task.key for task in tasks("Toy", "test", rooms=2, slack=1)]
    assert [each["id"] for each in get(toy, "/Toy-v0/tasks", {"split": "test"})["tasks"]] == keys
    assert [e["id"] for e in get(toy, "/Toy-v0/task_range", {"split": "test", "start": 3, "stop": 5})["tasks"]] == keys[
        3:5
    ]
    assert get(toy, "/Toy-v0/task", {"split": "test", "index": 9})["task"]["id"] == keys[9]
    assert httpx.post(f"{toy}/Toy-v0/task", json={"split": "test", "index": 200}).status_code == 422


def test_only_the_named_splits_are_served() -> None:
    served = Served("Toy", ("test",))
    assert served.choose({"seed": 3}).split == "test"
    with pytest.raises(UnknownName, match="split that is served"):
        served.choose({"split": "train", "index": 0})
    with pytest.raises(RequestError, match="Expected the key of a task in the split"):
        served.choose({"task": tasks("Toy", "train", 1)[0].key})
    with pytest.raises(UnknownName, match="Did you mean 'test'"):
        Served("Toy", ("tests",))
    with pytest.raises(RequestError, match="roms"):
        Served("Toy", params={"roms": 3})


def test_pages_of_other_sites_cannot_play(toy: str) -> None:
    assert httpx.get(f"{toy}/health", headers={"Host": "evil.example"}).status_code == 403
    assert httpx.get(f"{toy}/health", headers={"Origin": "https://evil.example"}).status_code == 403
    assert httpx.get(f"{toy}/health", headers={"Origin": toy}).status_code == 200
    address, page = f"ws{toy.removeprefix('http')}/ws", Origin("https://evil.example")
    with pytest.raises(InvalidStatus), connect(address, origin=page, proxy=None):
        pass


# ---- sessions --------------------------------------------------------------------------------------------


def test_a_client_that_vanishes_frees_its_session_and_its_worker() -> None:
    with serving("turnwise/TextWorld-v0", {"family": "simple"}, max_sessions=1, lease_s=120.0) as url:
        process = vanishing(url)
        assert active(url) == 1
        with pytest.raises(ServerError, match="at most 1 sessions, and all are taken"):
            Connection(url).ask("reset", {"index": 0})
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        wait_until(lambda: active(url) == 0, "the killed client's session is freed")
        second = Connection(url)
        assert second.ask("reset", {"index": 0})["done"] is False, "the only worker serves the next client"
        second.close()


def test_a_client_that_says_nothing_loses_its_session_after_the_lease() -> None:
    with serving("Toy", max_sessions=2, lease_s=1.0) as url:
        process = vanishing(url)
        os.kill(process.pid, signal.SIGSTOP)
        get(url, "/reset", {"index": 0, "episode_id": "quiet"})
        wait_until(lambda: active(url) == 0, "the silent sessions end")
        process.kill()
        process.wait()
        session = Connection(url)
        session.ask("reset", {"index": 0})
        with pytest.raises(ServerError, match=r"idle for 1 s, its lease"):
            _read_error(session)
        env = make(ID)
        task = tasks(ID, "test", 1, url=url)[0]
        env.reset(options={"task": task})
        wait_until(lambda: active(url) == 0, "the session of the environment ends")
        assert env.reset(options={"task": task})[1]["turn"] == 0, "a new episode connects again"
        wait_until(lambda: active(url) == 0, "the session of the environment ends again")
        with pytest.raises(EnvError, match="lease"):
            env.step("open red door")


def _read_error(session: Connection) -> None:
    data = json.loads(session._socket.recv(timeout=30))["data"]
    raise ServerError(data["code"], data["message"])


def test_activity_renews_the_lease() -> None:
    with serving("Toy", lease_s=2.0) as url:
        session = Connection(url)
        session.ask("reset", {"index": 0})
        for _ in range(5):
            time.sleep(0.5)
            session.ask("state")
        assert session.ask("state")["step_count"] == 0 and active(url) == 1
        session.close()
        wait_until(lambda: active(url) == 0, "a closed session is freed")


def test_an_environment_that_breaks_costs_an_episode_not_the_session() -> None:
    async def main() -> None:
        sessions = Sessions(Served("Toy"), 1, 120.0)
        sessions._pool = EnvPool(workers=1, isolate_all=True)
        try:
            session = sessions.begin()
            await session.reset({"index": 0})
            assert session._env is not None and session._env.pid is not None
            os.kill(session._env.pid, signal.SIGKILL)
            with pytest.raises(EnvError):
                await session.step("look")
            assert session.state()["done"] is True
            with pytest.raises(RequestError, match="Send a reset first"):
                await session.step("look")
            assert (await session.reset({"index": 0}))["metadata"]["turn"] == 0
            with pytest.raises(Full, match="--max-sessions"):
                sessions.begin()
        finally:
            await sessions.aclose()

    asyncio.run(main())


# ---- tools -----------------------------------------------------------------------------------------------


def test_tools_are_listed_and_called_as_actions(desk: str) -> None:
    task = tasks(DESK, "test", 1)[0]
    env = make(DESK)
    env.reset(options={"task": task})
    session = Connection(desk)
    session.ask("reset", {"task": task.key})
    listed = session.ask("step", {"type": "list_tools"})
    assert [t["name"] for t in listed["observation"]["tools"]] == [t["name"] for t in env.tool_schemas()]
    assert listed["observation"]["tools"][0]["input_schema"] == env.tool_schemas()[0]["parameters"]
    assert session.ask("state")["step_count"] == 0, "a list is no turn"
    call = env.expert_calls()[0]
    text, reward, *_ = env.step(env.expert())
    told = session.ask("step", {"type": "call_tool", "tool_name": call.name, "arguments": call.arguments})
    seen = told["observation"]
    assert (seen["tool_name"], seen["result"], seen["error"], told["reward"]) == (call.name, text, None, reward)
    wrong = session.ask("step", {"type": "call_tool", "tool_name": "nothing", "arguments": {}})
    assert wrong["observation"]["error"]["error_type"] == "execution_error"
    session.close()


def test_mcp_clients_call_the_tools(desk: str) -> None:
    from mcp import Client

    task = tasks(DESK, "train", 1)[0]
    env = make(DESK)
    env.reset(options={"task": task})
    call = env.expert_calls()[0]

    async def main() -> Any:
        async with Client(f"{desk}/mcp") as client:
            names = [tool.name for tool in (await client.list_tools()).tools]
            answer = await client.call_tool(call.name, call.arguments)
            wrong = await client.call_tool("nothing", {})
            return names, answer, wrong

    names, answer, wrong = asyncio.run(main())
    assert names == [t["name"] for t in env.tool_schemas()]
    assert answer.content[0].text and answer.structured_content["result"] == answer.content[0].text
    assert wrong.is_error and "Unknown tool" in wrong.content[0].text
    wait_until(lambda: active(desk) == 0, "the session of the MCP client is freed")


def test_json_rpc_answers_what_is_wrong(desk: str) -> None:
    def ask(body: Any) -> Any:
        return httpx.post(f"{desk}/mcp", content=body if isinstance(body, str) else json.dumps(body)).json()

    assert ask("{")["error"]["code"] == -32700
    assert ask({"method": "tools/list"})["error"]["code"] == -32600
    assert ask({"jsonrpc": "2.0", "id": 1, "method": "dance"})["error"]["code"] == -32601
    unknown = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"session_id": "no"}}
    assert ask(unknown)["error"]["code"] == -32602 and ask(unknown)["id"] == 1
    before = active(desk)
    assert ask({"jsonrpc": "2.0", "id": 2, "method": "tools/list"})["result"]["tools"] and active(desk) == before
    made = ask({"jsonrpc": "2.0", "id": 3, "method": "openenv/session/create"})["result"]["session_id"]
    assert active(desk) == before + 1
    closing = {"jsonrpc": "2.0", "id": 4, "method": "openenv/session/close", "params": {"session_id": made}}
    assert ask(closing)["result"] == {"session_id": made, "closed": True} and active(desk) == before


# ---- the client alone ------------------------------------------------------------------------------------


def test_without_a_server_it_says_what_to_do() -> None:
    with pytest.raises(RequestError, match="give its address, url="):
        tasks(ID, "train")
    with pytest.raises(RequestError, match="such as http://127"):
        tasks(ID, "train", url="localhost:8000")
    with pytest.raises(RequestError, match="turnwise serve ENV"):
        tasks(ID, "train", url="http://127.0.0.1:9")
    assert env_class(ID).splits() == {} and "url=" in env_class(ID).missing()


SCHEMA = {"properties": {"code": {"type": "string"}, "metadata": {"type": "object"}}, "required": ["code"]}


def described(action: dict[str, Any]) -> remote.Remote:
    return remote.Remote("http://x", "Foreign", False, action, {}, "", ("train",))


def test_the_field_of_the_text_is_found_or_asked_for() -> None:
    assert remote.action_field(described(SCHEMA)) == "code"
    two = {"properties": {"a": {"type": "string"}, "b": {"type": "string"}}, "required": ["a"]}
    assert remote.action_field(described(two)) == "a"
    with pytest.raises(RequestError, match="action=FIELD"):
        remote.action_field(described({**two, "required": ["a", "b"]}))
    with pytest.raises(RequestError, match=r"action=\*"):
        remote.action_field(described({"properties": {"value": {"type": "integer"}}, "required": ["value"]}))
    assert remote.action_field(described(two), "b") == "b" and remote.action_field(described(two), "*") == "*"
    with pytest.raises(UnknownName, match="Did you mean 'code'"):
        remote.action_field(described(SCHEMA), "cod")


def test_actions_and_observations_as_text() -> None:
    assert remote.action_of("print(1)", "code") == {"code": "print(1)"}
    assert remote.action_of('{"value": 3}', "*") == {"value": 3}
    for wrong in ("three", "[1]"):
        with pytest.raises(ValueError):
            remote.action_of(wrong, "*")
    seen = {"prompt": "Guess.", "tries": 3, "metadata": {"x": 1}}
    assert remote.text_of(seen) == "prompt: Guess.\ntries: 3"
    assert (
        remote.text_of(seen, "prompt") == "Guess." and remote.text_of({"prompt": "Guess.", "done": False}) == "Guess."
    )
    with pytest.raises(RequestError, match="with the field 'words'"):
        remote.text_of(seen, "words")


def ended(reward: float, rule: dict[str, Any], **told: Any) -> Any:
    """The state that a foreign server's last answer means, 0.5 scored before."""
    env = OpenEnvEnv()
    params = {"observation": "", "success_at": None, "success_key": "", **rule}
    env.task = Task(env=ID, params=params)
    data = {"observation": {"text": "Over."}, "reward": reward, "done": True, "metadata": told}
    env.state = env._state(data, 0.5)
    return env.state.success, env.state.failure, env.state.score, env._stop()


def test_a_foreign_episode_is_won_by_the_declared_rule_alone() -> None:
    assert ended(0.5, {"success_at": 1.0}) == (True, False, 1.0, "success")
    assert ended(0.4, {"success_at": 1.0}) == (False, True, 0.9, "failure")
    assert ended(0.4, {"success_at": 1.0}, success=True)[0] is False, "what is not declared is not read"
    assert ended(0.0, {"success_key": "goal"}, goal=True) == (True, False, 0.5, "success")
    assert ended(9.0, {"success_key": "goal"}, goal=False) == (False, True, 9.5, "failure")
    assert ended(0.0, {"success_at": 1.0}, truncated=True) == (False, False, 0.5, "turn_limit")
    with pytest.raises(EnvError, match="true or false under success_key='goal'"):
        ended(1.0, {"success_key": "goal"}, goal="yes")


def test_the_command_serves_until_it_is_interrupted() -> None:
    command = [
        sys.executable,
        "-m",
        "turnwise.training.cli",
        "serve",
        "Toy",
        "--json",
        "--split",
        "test",
        "--port",
        "0",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    told = json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")
    assert told["splits"] == {"test": 200} and told["env"] == "turnwise/Toy-v0"
    wait_until(lambda: _is_up(told["url"]), "the command serves")
    assert registry.splits(ID, url=told["url"]) == {"test": 200}
    port = int(told["url"].rpartition(":")[2])
    with pytest.raises(RequestError, match=f"Cannot listen on 127.0.0.1 port {port}"):
        serve("Toy", port=port)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    process.stdout.close()


def _is_up(url: str) -> bool:
    try:
        return get(url, "/health") == {"status": "healthy"}
    except RequestError:
        return False
