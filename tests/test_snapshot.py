from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from turnwise.envs import EnvError, RequestError, Task, TextEnv, make, tasks
from turnwise.envs.core import Snapshot
from turnwise.envs.pool import EnvPool

BROKEN_OFF = ["", "\x00", "no such words", "x" * 1000]
PARAMS: dict[str, dict[str, Any]] = {
    "Toy": {"rooms": 8, "slack": 8},
    "ALFWorld": {"receptacles": 6, "distractors": 3},
    "TextWorld": {"grid": "w2-o3-q4", "max_turns": 16},
}


def first_task(name: str) -> Task:
    return tasks(name, "train", 1, **PARAMS[name])[0]


def environment(name: str, **kwargs: Any) -> TextEnv:
    for module in {"ALFWorld": ("alfworld", "textworld"), "TextWorld": ("textworld",)}.get(name, ()):
        pytest.importorskip(module)
    return make(name, **kwargs)


def walk(env: TextEnv, info: dict[str, Any], seed: int, turns: int) -> list[Any]:
    """What a random walk meets: listed commands, the expert's, and what is no action at all."""
    rng, met = random.Random(seed), list[Any]()
    while len(met) < turns and info["stop"] is None:
        action = rng.choice([rng.choice(info["commands"] or BROKEN_OFF), env.expert(), rng.choice(BROKEN_OFF)])
        *result, info = env.step(action)
        met.append((action, *result, info))
    return met


def by_json(snapshot: Snapshot) -> Snapshot:
    return Snapshot.model_validate_json(snapshot.model_dump_json())


def as_it_is(snapshot: Snapshot) -> Snapshot:
    return snapshot


def continues_the_same_way(env: TextEnv, task: Task, seed: int, before: int, carry: Callable[[Any], Any]) -> None:
    """The same bytes after the episode went on, and from the same snapshot again, in another instance."""
    _, info = env.reset(options={"task": task})
    prefix = walk(env, info, seed, before)
    seen = (prefix[-1][1], prefix[-1][-1]) if prefix else (env.state.observation, info)
    saved = carry(env.snapshot())
    rest = walk(env, seen[1], seed + 1, 9)
    for instance in (env, env, make(task.env)):
        assert instance.restore(saved) == seen
        assert walk(instance, seen[1], seed + 1, 9) == rest
    assert env.turn == len(prefix) + len(rest)


@pytest.mark.parametrize("carry", [as_it_is, by_json])
@pytest.mark.parametrize("name", ["Toy", "ALFWorld"])
def test_a_walk_continues_from_a_snapshot_with_the_same_bytes(name: str, carry: Callable[[Any], Any]) -> None:
    env, task = environment(name), first_task(name)

    @settings(max_examples=30, deadline=None, derandomize=True)
    @given(seed=st.integers(0, 2**20), before=st.integers(0, 9))
    def holds(seed: int, before: int) -> None:
        continues_the_same_way(env, task, seed, before, carry)

    holds()


def test_textworld_continues_from_a_snapshot_with_the_same_bytes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TURNWISE_CACHE", str(tmp_path))
    env, task = environment("TextWorld"), first_task("TextWorld")

    @settings(max_examples=4, deadline=None, derandomize=True)
    @given(seed=st.integers(0, 2**20), before=st.integers(0, 6))
    def holds(seed: int, before: int) -> None:
        continues_the_same_way(env, task, seed, before, by_json)

    holds()
    assert env.snapshot().clone is None  # its interpreter is not copied: snapshots are replayed
    env.close()


def test_snapshots_are_records_that_do_not_change() -> None:
    env, task = make("Toy"), first_task("Toy")
    env.reset(options={"task": task})
    env.step("open  red\tdoor")
    env.step("")
    saved = env.snapshot()
    text = saved.model_dump_json()
    assert saved.actions == ("open red door", "") and len(set(saved.digests)) == 3
    assert saved.observation == env.state.observation and by_json(saved).clone is None is not saved.clone
    for _ in range(5):
        env.step(env.expert())
    assert saved.model_dump_json() == text
    with pytest.raises(ValueError, match="frozen"):
        saved.task = task  # type: ignore[misc]
    _, info = env.restore(saved)
    assert (info["valid"], info["turn"]) == (False, 2)


def test_a_snapshot_at_the_end_stays_at_the_end() -> None:
    env, task = make("Toy"), tasks("Toy", "train", 1, rooms=2)[0]
    env.reset(options={"task": task})
    for _ in range(2):
        *_, info = env.step(env.expert())
    for carry in (as_it_is, by_json):
        saved = carry(env.snapshot())
        env.reset(options={"task": task})
        assert env.restore(saved)[1] == info and info["stop"] == "success"


def test_alfworld_s_stock_engine_replays_what_the_fast_one_cloned() -> None:
    env = environment("ALFWorld")
    env.reset(options={"task": first_task("ALFWorld")})
    env.step(env.expert())
    saved, action = env.snapshot(), env.expert()
    stock = make("ALFWorld", backend="stock")
    assert saved.clone is not None and stock.restore(saved)[0] == saved.observation
    assert stock.snapshot().clone is None
    assert stock.expert() == action and stock.step(action) == env.step(action)


def test_an_episode_is_continued_by_another_process_from_json(tmp_path: Path) -> None:
    env, task = make("Toy"), first_task("Toy")
    env.reset(options={"task": task})
    for _ in range(3):
        env.step(env.expert())
    (tmp_path / "snapshot.json").write_text(env.snapshot().model_dump_json())
    script = (
        "import sys; from turnwise.envs import make; from turnwise.envs.core import Snapshot; env = make('Toy');"
        "print(env.restore(Snapshot.model_validate_json(open(sys.argv[1]).read()))); print(env.step(env.expert()))"
    )
    told = subprocess.check_output([sys.executable, "-c", script, str(tmp_path / "snapshot.json")], text=True)
    here = env.restore(env.snapshot())
    assert told == f"{here}\n{env.step(env.expert())}\n"


class Forgetful(TextEnv):
    """Another game after each reset, as if its generator was not seeded."""

    id = "snapshottest/Forgetful-v0"
    count = 0

    def start(self, task: Task) -> Any:
        Forgetful.count += 1
        return self.state._replace(observation="You enter a house.")

    def act(self, action: str) -> Any:
        return self.state._replace(
            observation=f"You {action}{' in the dark' if self.count > 1 and self.turn > 2 else ''}"
        )

    def expert(self) -> str:
        return "wait"

    @classmethod
    def tasks(cls, split: str, count: int | None = None, **params: Any) -> list[Task]:
        return [Task(env=cls.id)]

    @classmethod
    def splits(cls) -> dict[str, int]:
        return {"train": 1}


def test_a_game_that_answers_otherwise_is_caught_at_the_turn_where_it_does() -> None:
    env = Forgetful()
    env.reset()
    for _ in range(4):
        env.step("wait")
    with pytest.raises(EnvError, match=r"Expected turn 3 of task \w{16} .* got 'You wait in the dark'.*deterministic"):
        env.restore(env.snapshot())


def test_wrong_requests_are_refused() -> None:
    env = make("Toy")
    with pytest.raises(RequestError, match=r"before reset\(\)"):
        env.snapshot()
    env.reset(options={"task": first_task("Toy")})
    foreign = env.snapshot().model_copy(update={"task": Task(env="other/Game-v0")})
    with pytest.raises(RequestError, match="Expected a task of 'turnwise/Toy-v0'"):
        env.restore(foreign)


@pytest.mark.parametrize("isolate", [False, True])
def test_leases_take_snapshots_and_workers_exchange_them(isolate: bool) -> None:
    """One worker's snapshot is continued by another, and in the calling process."""
    task, other = tasks("Toy", "train", 2, rooms=6, slack=4)

    async def rest(env: Any) -> list[Any]:
        return [await env.step(action) for action in ("open red door", "", "open green door", "open blue door")]

    async def main() -> None:
        pool = EnvPool(workers=2, isolate_all=isolate)
        try:
            async with pool.lease(task) as env, pool.lease(task) as second, EnvPool().lease(task) as here:
                assert (env.pid != second.pid) == isolate
                await env.reset()
                seen = [await env.step(action) for action in ("open red door", "open blue door", "open green door")][-1]
                saved = await env.snapshot()
                expected = await rest(env)
                for each in (env, second, here, env):
                    assert await each.restore(saved) == (seen[0], seen[-1])
                    assert await rest(each) == expected
            async with pool.lease(other) as wrong:
                with pytest.raises(RequestError, match=f"leased task {other.key}, got one of {task.key}"):
                    await wrong.restore(saved)
        finally:
            await pool.aclose()

    asyncio.run(main())
