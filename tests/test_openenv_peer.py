"""OpenEnv against the real package, 0.10, in an interpreter of its own: its clients here, our client there."""

from __future__ import annotations

import os
import signal
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import run
from openenv_servers import active, alone, foreign, in_openenv, openenv_python, serving, wait_until
from turnwise.agents.agent import ReplayAgent
from turnwise.agents.rollout import Episode
from turnwise.envs import EnvError, RequestError, make, tasks
from turnwise.training import recipes, trainer
from turnwise.training.config import Recipe, override
from turnwise.training.run import Run

ID = "turnwise/OpenEnv-v0"
DESK = "turnwise/ServiceDesk-v0"

GUESS = """
    from openenv.core.env_server import Action, Environment, Observation, State, create_app

    class Guess(Action):
        number: str

    class Told(Observation):
        hint: str
        tries: int
        solved: bool = False

    class Guessing(Environment):
        SUPPORTS_CONCURRENT_SESSIONS = True

        def __init__(self):
            super().__init__()
            self._state, self._secret = State(), 0

        def reset(self, seed=None, episode_id=None, **kwargs):
            self._secret, self._state = (seed or 0) % 10, State(episode_id=episode_id, step_count=0)
            return Told(hint="Guess a digit.", tries=0)

        def step(self, action, timeout_s=None, **kwargs):
            self._state.step_count += 1
            if action.number == "crash":
                raise RuntimeError("out of order")
            right = action.number == str(self._secret)
            hint = "Right." if right else "Wrong."
            done = right or self._state.step_count == 4
            return Told(hint=hint, tries=self._state.step_count, solved=right, done=done, reward=float(right) - 0.1)

        @property
        def state(self):
            return self._state

    class Listed(Guessing):
        def list_splits(self):
            return ["train", "hard"]

        def list_tasks(self, split):
            return [{"id": f"{split}-{index}"} for index in range(3 if split == "hard" else 5)]

        def num_tasks(self, split):
            return len(self.list_tasks(split))

        def get_task(self, split, index):
            return self.list_tasks(split)[index]

        def reset(self, seed=None, episode_id=None, split="train", index=0, **kwargs):
            return super().reset(seed=index + (7 if split == "hard" else 0))
"""
APPS = """
    from fastapi import FastAPI

    app = FastAPI()
    for name, made in (("guess", Guessing), ("listed", Listed)):
        app.mount(f"/{name}", create_app(made, Guess, Told, env_name="guess", max_concurrent_envs=16))
"""


@pytest.fixture(scope="module")
def theirs() -> Iterator[str]:
    with foreign(GUESS + APPS, "/guess/health") as url:
        yield url


@pytest.fixture
def guessing(theirs: str) -> str:
    return f"{theirs}/guess"


# ---- its clients against our server ----------------------------------------------------------------------

PLAY = """
    import json, sys
    from openenv.core import GenericEnvClient
    url, episodes = json.loads(sys.argv[1]), json.loads(sys.argv[2])
    found = []
    with GenericEnvClient(base_url=url).sync() as env:
        for task, actions in episodes:
            result = env.reset(task=task)
            seen = [[result.observation["text"], result.reward, result.done]]
            for action in actions:
                result = env.step({"action": action})
                seen.append([result.observation["text"], result.reward, result.done])
            found.append([seen, result.metadata["success"], env.state()["step_count"]])
    print(json.dumps(found))
"""


def test_its_generic_client_sees_200_episodes_as_this_process_does() -> None:
    local, episodes, expected = make("Toy"), [], []
    for task in tasks("Toy", "test", rooms=2, slack=1):
        text, info = local.reset(options={"task": task})
        seen, actions = [[text, None, False]], []
        while not info["stop"]:
            actions.append(local.expert() if task.seed % 3 else "open red door")
            text, reward, terminated, truncated, info = local.step(actions[-1])
            seen.append([text, reward, terminated or truncated])
        episodes.append((task.key, actions))
        expected.append([seen, info["success"], len(actions)])
    with serving("Toy", {"rooms": 2, "slack": 1}) as url:
        assert in_openenv(PLAY, url, episodes) == expected
    assert len(expected) == 200 and 0 < sum(not won for _, won, _ in expected) < 67


TOOLS = """
    import json, sys
    from openenv.core.mcp_client import MCPToolClient
    from openenv.core.env_server.mcp_types import CallToolAction, ListToolsAction
    url, name, arguments = map(json.loads, sys.argv[1:4])
    with MCPToolClient(base_url=url).sync() as env:
        names = [tool.name for tool in env.list_tools()]
        over_http = env.call_tool(name, **arguments)
        env.reset(index=0)
        listed = env.step(ListToolsAction()).observation.tools
        result = env.step(CallToolAction(tool_name=name, arguments=arguments))
        wrong = env.step(CallToolAction(tool_name=name, arguments={"no": 1})).observation
    print(json.dumps([names, over_http, [t.name for t in listed], result.observation.result, result.reward,
                      wrong.error.error_type.value]))
"""


def test_its_tool_client_lists_and_calls_tools_both_ways() -> None:
    env = make(DESK)
    env.reset(options={"task": tasks(DESK, "train", 1)[0]})
    call = env.expert_calls()[0]  # type: ignore[attr-defined]
    text, reward, *_ = env.step(env.expert())
    with serving(DESK) as url:
        names, over_http, listed, result, rewarded, wrong = in_openenv(TOOLS, url, call.name, call.arguments)
        assert names == listed == [tool["name"] for tool in env.tool_schemas()]
        assert (result, rewarded, wrong) == (text, reward, "invalid_args")
        assert over_http["content"][0]["text"] == over_http["structuredContent"]["result"]
        wait_until(lambda: active(url) == 0, "its sessions are closed")


def test_a_killed_client_of_theirs_frees_its_session() -> None:
    script = """
        import sys, time
        from openenv.core import GenericEnvClient
        env = GenericEnvClient(base_url=sys.argv[1]).sync()
        env.reset(index=0)
        try:
            GenericEnvClient(base_url=sys.argv[1]).sync().reset()
        except RuntimeError as error:
            print(error, flush=True)
        time.sleep(600)
    """
    with serving("Toy", max_sessions=1) as url:
        command = [openenv_python(), "-c", textwrap.dedent(script), url]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=alone())
        assert process.stdout is not None
        refused = process.stdout.readline()
        assert "CAPACITY_REACHED" in refused and "--max-sessions" in refused and active(url) == 1
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        wait_until(lambda: active(url) == 0, "the killed client's session is freed")


# ---- our client against its server -----------------------------------------------------------------------


def play(url: str, actions: list[str], seed: int = 3, **params: Any) -> Any:
    task = tasks(ID, "train", url=url, **params)[seed]
    return run(ReplayAgent(actions), [Episode(task)])[0]


def test_a_foreign_server_is_played_and_its_success_is_the_declared_one(guessing: str) -> None:
    won = play(guessing, ["1", "2", "3"], success_at=0.6)
    assert [turn.observation for turn in won.turns] == [
        "hint: Guess a digit.\ntries: 0\nsolved: false", "hint: Wrong.\ntries: 1\nsolved: false",
        "hint: Wrong.\ntries: 2\nsolved: false",
    ]  # fmt: skip
    assert (won.stop.value, won.success, round(won.score, 6)) == ("success", True, 0.7)
    assert [round(turn.reward, 6) for turn in won.turns] == [-0.1, -0.1, 0.9]
    assert play(guessing, ["1", "2", "3"], success_at=0.8).stop.value == "failure", "0.7 is below the declared return"
    assert play(guessing, ["1", "3"], success_key="solved", observation="hint").success
    lost = play(guessing, ["1", "2", "4", "5"], success_key="solved", observation="hint")
    assert (lost.stop.value, lost.turns[3].observation) == ("failure", "Wrong.")
    assert play(guessing, ["1", "2"], success_key="solved", max_turns=2).stop.value == "turn_limit"


def test_what_a_foreign_server_does_not_say_is_asked_for(guessing: str) -> None:
    with pytest.raises(RequestError, match="do not say who has won"):
        tasks(ID, "train", url=guessing)
    with pytest.raises(RequestError, match="got both"):
        tasks(ID, "train", url=guessing, success_at=1.0, success_key="solved")
    env, task = make(ID), tasks(ID, "train", url=guessing, success_key="victory")[3]
    env.reset(options={"task": task})
    with pytest.raises(EnvError, match="true or false under success_key='victory'"):
        env.step("3")
    with pytest.raises(RequestError, match="No expert is known"):
        env.expert()
    env.close()


def test_its_errors_end_an_episode_or_are_answers(guessing: str) -> None:
    broken = play(guessing, ["1", "crash"], success_at=0.6)
    assert broken.stop.value == "env_error" and "out of order" in (broken.error or "")
    env, task = make(ID), tasks(ID, "train", url=guessing, success_at=0.6, action="*")[3]
    env.reset(options={"task": task})
    for action in ("three", '{"digit": "3"}', '{"number": 3}'):
        _, reward, *_, info = env.step(action)
        assert (info["valid"], info["admissible"], reward) == (False, False, 0.0), action
    assert env.step('{"number": "3"}')[-1]["success"], "what was refused cost the server no turn"
    assert env.step('{"number": "3"}')[0] == "The episode is over."
    env.close()


def test_the_task_list_of_a_foreign_server_gives_the_splits(theirs: str) -> None:
    listed = {split: tasks(ID, split, url=f"{theirs}/listed", success_key="solved") for split in ("train", "hard")}
    assert {split: len(each) for split, each in listed.items()} == {"train": 5, "hard": 3}
    assert listed["hard"][2].params["reset"] == {"split": "hard", "index": 2}
    env = make(ID)
    env.reset(options={"task": listed["hard"][2]})
    assert env.step("9")[-1]["success"]
    env.close()


def recipe(url: str, **params: Any) -> Recipe:
    """The toy recipe on a server, two steps."""
    small = {
        "env.id": ID, "env.params": {"url": url, **params}, "env.train_tasks": 8, "env.eval_split": "validation",
        "env.eval_tasks": 4, "rl.steps": 2, "rl.tasks_per_step": 3, "rl.samples_per_task": 4, "engine.env_workers": 4,
        "sft.demos": 12, "sft.epochs": 2,
    }  # fmt: skip
    return override(recipes.load("toy"), small)


def test_a_policy_is_trained_on_a_server_of_ours_and_of_theirs(guessing: str, tmp_path: Path) -> None:
    with serving("Toy", {"rooms": 2, "slack": 1}) as url:
        ours = trainer.train(recipe(url), tmp_path / "ours")
    theirs = trainer.train(recipe(guessing, success_key="solved", max_turns=3), tmp_path / "theirs")
    for outcome in (ours, theirs):
        run_ = Run.open(outcome.run)
        stops = {row[0] for row in run_.db.execute("SELECT DISTINCT stop FROM episodes")}
        assert outcome.after.tasks == 4 and stops <= {"success", "failure", "turn_limit", "invalid_limit"}
        assert len(run_.metrics()["grad_norm/policy"]) == 2
