"""Killed workers and malformed actions: every episode is accounted for, none that broke counts as a loss."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from helpers import TINY
from malformed import survives
from turnwise.agents.agent import Demonstrator, ScriptedAgent
from turnwise.agents.context import Context, Renderer
from turnwise.agents.models import build_tokenizer
from turnwise.agents.rollout import Episode, rollout
from turnwise.agents.trajectory import Trajectory
from turnwise.envs import EnvError, StopReason, register, tasks
from turnwise.envs.pool import EnvPool
from turnwise.envs.processes import Worker
from turnwise.rewards.components import score
from turnwise.training.collate import encode
from turnwise.training.evaluation import summarise

COPIES = 4
EPISODES = [
    Episode(task, group, copy) for group, task in enumerate(tasks("Toy", "train", 125)) for copy in range(COPIES)
]


class Played(NamedTuple):
    trajectories: list[Trajectory]
    costly: int
    """Kills that an episode must not survive."""
    idle: int
    """Kills of workers between two episodes."""
    pids: set[int]
    alive_before_close: set[int]


@pytest.fixture(scope="module")
def played() -> Played:
    """500 episodes of an expert whose words are tokens, one call in ten to a process that has just been killed."""
    context = Context()
    listener = Demonstrator("expert", context)
    asyncio.run(rollout(listener, EPISODES[:: 5 * COPIES], EnvPool()))
    agent = Demonstrator("expert", context, Renderer(build_tokenizer(listener.heard, TINY)))
    with pytest.MonkeyPatch.context() as patch:
        faults = Faults(patch)
        return asyncio.run(faults.play(agent))


class Faults:
    """Kills the worker before every tenth call or so."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        rng, honest = random.Random(7), Worker.call
        self.costly, self.idle, self.pids = 0, 0, set[int]()

        async def call(worker: Worker, op: str, *args: Any, deadline_s: float) -> Any:
            assert worker.pid is not None
            self.pids.add(worker.pid)
            if rng.random() < 0.1:
                os.kill(worker.pid, signal.SIGKILL)
                between = op == "open" and worker.key is not None
                self.idle, self.costly = self.idle + between, self.costly + (not between)
            return await honest(worker, op, *args, deadline_s=deadline_s)

        patch.setattr(Worker, "call", call)

    async def play(self, agent: Demonstrator) -> Played:
        pool = EnvPool(workers=8, isolate_all=True)
        try:
            trajectories = await rollout(agent, EPISODES, pool)
            deadline = time.monotonic() + 10
            while len(alive := {pid for pid in self.pids if state(pid)}) > pool.workers and time.monotonic() < deadline:
                await asyncio.sleep(0.1)
        finally:
            await pool.aclose()
        return Played(trajectories, self.costly, self.idle, self.pids, alive)


def state(pid: int) -> str | None:
    """Its letter in /proc (`Z` is a zombie); None once nothing is left of the process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return None


def test_every_episode_is_accounted_for(played: Played) -> None:
    assert [(t.task, t.group, t.copy_index) for t in played.trajectories] == [e[:3] for e in EPISODES]
    failed = [t for t in played.trajectories if t.stop is StopReason.ENV_ERROR]
    assert played.costly > 150 and played.idle > 5
    assert len(failed) == played.costly  # not one more: a worker that died between episodes costs none
    for t in failed:
        assert t.error is not None and "EnvError: Worker" in t.error and "died during" in t.error
        assert not t.success
    assert {t.stop for t in played.trajectories} == {StopReason.SUCCESS, StopReason.ENV_ERROR}
    assert all(t.error is None for t in played.trajectories if t.stop is StopReason.SUCCESS)


def test_no_broken_episode_is_trained_on_or_scored(played: Played) -> None:
    whole = [t for t in played.trajectories if not t.stop.is_error]
    broken = [t for t in played.trajectories if t.stop.is_error]
    assert any(t.policy_tokens for t in broken)  # they do have tokens: it is their end that leaves them out
    batch = encode(played.trajectories, {"outcome": 1.0}).batch
    assert sorted(set(batch.trajectory.tolist())) == list(range(len(whole)))
    assert batch.task == [whole[i].task.key for i in batch.trajectory.tolist()]
    assert batch.rewards.tolist() == [[1.0]] * len(batch.trajectory)
    assert int(batch.mask.sum()) == sum(t.policy_tokens for t in whole)
    assert all(set(score(t, {"outcome": 1.0}).values()) == {None} for t in broken)


def test_evaluation_leaves_broken_episodes_out_and_says_how_many(played: Played) -> None:
    """Every episode that was played to its end is a win, so one that counted as 0 would show in the mean."""
    found = summarise(played.trajectories, COPIES)
    assert found.by_stop_reason == {"env_error": played.costly, "success": len(EPISODES) - played.costly}
    assert (found.success.mean, found.success.high) == (1.0, 1.0)
    assert sum(map(len, found.successes.values())) == len(EPISODES) - played.costly
    assert found.success.tasks == len({t.task.key for t in played.trajectories if not t.stop.is_error})


def test_no_process_is_left(played: Played) -> None:
    assert len(played.pids) > played.costly  # each was replaced
    assert len(played.alive_before_close) <= 8  # the dead were reaped while the pool lived
    assert not [pid for pid in played.pids if state(pid)]
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    assert not [pid for pid in children if state(int(pid)) == "Z"]


def test_a_killed_zygote_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that forks the workers dies with all of them: the episodes under way end, the next are played."""
    honest, calls, zygotes = Worker.call, itertools.count(1), list[int]()

    async def call(worker: Worker, op: str, *args: Any, deadline_s: float) -> Any:
        if next(calls) == 100:
            zygotes.append(int(Path(f"/proc/{worker.pid}/stat").read_text().rsplit(")", 1)[1].split()[1]))
            os.kill(zygotes[0], signal.SIGKILL)
        return await honest(worker, op, *args, deadline_s=deadline_s)

    async def main() -> tuple[list[Trajectory], list[Trajectory]]:
        pool = EnvPool(workers=4, isolate_all=True)
        try:
            first = await rollout(ScriptedAgent("expert"), EPISODES[:40], pool)
            return first, await rollout(ScriptedAgent("expert"), EPISODES[:40], pool)
        finally:
            await pool.aclose()

    monkeypatch.setattr(Worker, "call", call)
    first, second = asyncio.run(main())
    stops = [t.stop for t in first]
    assert set(stops) == {StopReason.SUCCESS, StopReason.ENV_ERROR}
    assert stops.count(StopReason.ENV_ERROR) <= 4  # one for each worker under way: starting another costs none
    assert {t.stop for t in second} == {StopReason.SUCCESS}


MALFORMED: dict[str, dict[str, Any]] = {"Toy": {"rooms": 8, "slack": 20}, "ALFWorld": {"receptacles": 6}}


@pytest.mark.parametrize("actions", [300, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_actions_get_an_answer(name: str, actions: int) -> None:
    if name == "ALFWorld":
        pytest.importorskip("alfworld")
    pool = EnvPool(workers=1, deadline_s=20, isolate_all=True)
    try:
        survives(pool, tasks(name, "test", 1, **MALFORMED[name])[0], actions)
    finally:
        pool.close()


def test_a_game_that_breaks_on_one_of_them_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fragiletest_plugin.py").write_text(
        "from turnwise.envs.toy import ToyEnv\n"
        "class Fragile(ToyEnv):\n"
        "    id = 'fragiletest/Fragile-v0'\n"
        "    def act(self, action):\n"
        "        return super().act(action.encode('latin-1').decode('latin-1'))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    register("fragiletest/Fragile-v0", "fragiletest_plugin:Fragile")
    task = tasks("Toy", "test", 1, slack=20)[0].model_copy(update={"env": "fragiletest/Fragile-v0"})
    pool = EnvPool(workers=1, isolate_all=True)
    try:
        with pytest.raises(EnvError, match="UnicodeEncodeError"):
            survives(pool, task, 300)
    finally:
        pool.close()
