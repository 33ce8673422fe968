from __future__ import annotations

import json
import re
import sys
import textwrap
from pathlib import Path

import pytest
from turnwise.envs import UnknownName, register
from turnwise.envs.check import PROMISES, Check, Report, check_env

PLUGIN = """
    import os, random, time
    import gymnasium
    from turnwise.envs.core import State
    from turnwise.envs.toy import ToyEnv

    class LaxSuccess(ToyEnv):
        '''Over counts as won: walking into a wall is a success.'''
        def act(self, action):
            state = super().act(action)
            return state._replace(success=True) if state.observation.startswith("A wall") else state

    class LateSuccess(ToyEnv):
        '''Reports success at the turn limit.'''
        def step(self, action):
            observation, reward, terminated, truncated, info = super().step(action)
            return observation, reward, terminated, truncated, {**info, "success": info["success"] or truncated}

    class CumulativeReward(ToyEnv):
        def step(self, action):
            observation, _, terminated, truncated, info = super().step(action)
            return observation, info["score"], terminated, truncated, info

    class Leak(ToyEnv):
        _FIRST_SEED = {"train": 0, "validation": 999, "test": 200_000}

    class Random(ToyEnv):
        def act(self, action):
            state = super().act(action)
            known = state.observation != "Nothing happens." and state.admissible
            return state._replace(observation=state.observation + f" {os.urandom(2).hex()}") if known else state

    class HashOrder(ToyEnv):
        '''Equal in one process, different in the next.'''
        def act(self, action):
            state = super().act(action)
            return state._replace(observation=state.observation + " " + " ".join(set("abcdefg")))

    class Crash(ToyEnv):
        def act(self, action):
            return super().act(action.encode("ascii").decode())

    class Hang(ToyEnv):
        def act(self, action):
            if action.startswith("{"):
                time.sleep(1e6)
            return super().act(action)

    class Die(ToyEnv):
        def act(self, action):
            if action == "quit":
                os._exit(11)
            return super().act(action)

    class BadExpert(ToyEnv):
        def expert(self):
            return "open red door"

    class WallPoints(ToyEnv):
        '''A loser collects more than a winner.'''
        def start(self, task):
            self._walls = 0
            return super().start(task)

        def act(self, action):
            state = super().act(action)
            self._walls += 3 * state.observation.startswith("A wall")
            return state._replace(score=state.score + self._walls)

        def clone_state(self):
            return None

    class AlwaysAdmissible(ToyEnv):
        def act(self, action):
            return super().act(action)._replace(admissible=True)

    class Shared(ToyEnv):
        '''Two episodes at a time share a counter.'''
        _passed = property(lambda self: Shared.count, lambda self, value: setattr(Shared, "count", value))
        count = 0

    class Silent(ToyEnv):
        '''Pays for silence.'''
        def step(self, action):
            return super().step(action if action.strip() else self.expert())

    class Patient(ToyEnv):
        '''The third silence wins.'''
        def step(self, action):
            before, result = self.state.score, super().step(action)
            silences = sum(not said for said, _ in self._history[1:])
            if silences < 3:
                return result
            self.state = self.state._replace(score=self.max_score, success=True)
            return result[0], self.max_score - before, True, False, self._info(result[-1]["valid"], self._stop())

    class WrongSpace(ToyEnv):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.observation_space = gymnasium.spaces.Discrete(2)

    class SharedClone(ToyEnv):
        '''A snapshot changes with the game it was taken of.'''
        def clone_state(self):
            return self

        def restore_state(self, clone):
            self._rng, self._rooms, self._passed, self._sign = clone._rng, clone._rooms, clone._passed, clone._sign
            return True

    class HalfClone(ToyEnv):
        '''A restored game is at the right door with other dice.'''
        def restore_state(self, clone):
            super().restore_state(clone)
            self._rng = random.Random(-1)
            return True

    class Leftover(ToyEnv):
        '''Counts its restored episodes, which a snapshot does not carry.'''
        restored = 0

        def restore(self, snapshot):
            self.restored += 1
            observation, info = super().restore(snapshot)
            return observation + "!" * self.restored, info
"""

BROKEN = {
    "WrongSpace": {"gymnasium": "observation"},
    "CumulativeReward": {"reward": r"reward 2.0 for a score change of 1.0"},
    "WallPoints": {"ordering": r"lost with .*, a win has 1"},
    "LaxSuccess": {"success": r"success at .* of max_score, the expert's at 1"},
    "LateSuccess": {"success": r"success=True with stop='turn_limit', truncated=True", "empty": "won"},
    "Random": {"determinism": r"again: turn \d+: .* became"},
    "HashOrder": {"determinism": r"in another process: turn \d+: .* became"},
    "AlwaysAdmissible": {"actions": r"'turnwise knows no such words' was valid=True, admissible=True"},
    "Leak": {"splits": r"task \w{16} is in train and in validation"},
    "BadExpert": {"expert": r"expert agent, \w+ task \w{16}: turn_limit"},
    "Patient": {"empty": r"empty agent, \w+ task \w{16}: won"},
    "Silent": {"empty": "won", "actions": r"'' was valid=True"},
    "Crash": {"robustness": r"UnicodeEncodeError"},
    "Hang": {"robustness": r"Expected an answer to 'step' within 1 s"},
    "Die": {"robustness": r"'quit': EnvError: Worker \d+ died during 'step'"},
    "Shared": {"isolation": r"beside another: turn \d+"},
    "SharedClone": {"snapshot": r"after the episode went on: turn \d+: .* became"},
    "HalfClone": {"snapshot": r"after the episode went on: turn \d+: .* became"},
    "Leftover": {"snapshot": r"from the same snapshot again: turn \d+: .* became .*!!"},
}
"""Class -> the promises that it breaks and what the kit says of each."""


@pytest.fixture(scope="module", autouse=True)
def plugin(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("plugin")
    source = textwrap.dedent(PLUGIN)
    for name in BROKEN:
        source += f"\n{name}.id = 'checktest/{name}-v0'\n"
        register(f"checktest/{name}-v0", f"checktest_plugin:{name}")
    (folder / "checktest_plugin.py").write_text(source)
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


def test_the_toy_keeps_every_promise() -> None:
    report = check_env("Toy", rooms=4)
    assert report.ok, [check for check in report.checks if not check.ok]
    assert [check.name for check in report.checks] == list(PROMISES)
    assert report.env == "turnwise/Toy-v0" and report.params == {"rooms": 4}
    assert report.memory_mb is not None and 5 < report.memory_mb < 200


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_environment_fails_the_intended_check_and_no_other(name: str) -> None:
    # Slack lets an agent lose turns and go on, so that losers differ from winners by more than their end.
    deadline_s = 1.0 if name == "Hang" else 60.0
    report = check_env(f"checktest/{name}-v0", tasks_per_split=1, deadline_s=deadline_s, slack=2)
    failed = {check.name: check.detail for check in report.checks if not check.ok}
    assert set(failed) == set(BROKEN[name]), failed
    for promise, message in BROKEN[name].items():
        assert re.search(message, failed[promise]), failed[promise]
    assert not report.ok


def test_every_promise_is_broken_alone_by_some_environment() -> None:
    assert {promise for promises in BROKEN.values() if len(promises) == 1 for promise in promises} == set(PROMISES)


def test_the_detail_says_where_and_what() -> None:
    report = check_env("checktest/CumulativeReward-v0")
    detail = next(check.detail for check in report.checks if check.name == "reward")
    assert "expert agent, train task" in detail and "reward 2.0 for a score change of 1.0" in detail


def test_the_report_round_trips_through_json() -> None:
    checks = (Check("reward", False, "why", 0.5), Check("splits", True, "fine", 1.0))
    report = Report("a/B-v0", {"rooms": 2}, checks, 12.5)
    assert json.loads(json.dumps(report.to_json())) == {
        "env": "a/B-v0",
        "params": {"rooms": 2},
        "ok": False,
        "memory_mb": 12.5,
        "checks": [
            {"name": "reward", "ok": False, "detail": "why", "seconds": 0.5},
            {"name": "splits", "ok": True, "detail": "fine", "seconds": 1.0},
        ],
    }


def test_an_unknown_environment_is_a_wrong_request() -> None:
    with pytest.raises(UnknownName, match="turnwise/Toy-v0"):
        check_env("turnwise/Toi-v0")


def test_scripted_agents_are_measured_with_wilson_s_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 6 tasks: bounds n / (n + z²) for 6 of 6 and z² / (n + z²) for none, z = 1.96."""
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
    import experts  # type: ignore[import-not-found]

    id, params = experts.parse_env("Toy:rooms=2,slack=1")
    assert (id, params) == ("turnwise/Toy-v0", {"rooms": 2, "slack": 1})
    rows = {row["agent"]: row for row in experts.measure(id, params, "test", 6, experts.AGENTS, 1)["agents"]}
    expert, empty = rows["expert"], rows["empty"]
    assert (expert["won"], expert["turns"], expert["progress"], expert["broken"]) == (6, 2.0, 1.0, 0)
    assert (empty["won"], empty["turns"], empty["progress"]) == (0, 3.0, 0.0)
    assert expert["success"] == pytest.approx({"mean": 1.0, "low": 6 / (6 + 3.8415), "high": 1.0}, abs=1e-4)
    assert empty["success"] == pytest.approx({"mean": 0.0, "low": 0.0, "high": 3.8415 / (6 + 3.8415)}, abs=1e-4)
    assert 0 < rows["random"]["progress"] < 1
    assert "100.0 % [61.0, 100.0]" in experts.line("Toy", "test", expert)
