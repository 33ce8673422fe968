from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from turnwise.envs import DeadlineExceeded, EnvError, RequestError, Task, UnknownName, make, register, tasks
from turnwise.envs.pool import EnvPool, PlayedEnv

PLUGIN = """
    import os, sys, time
    from turnwise.envs.core import State
    from turnwise.envs.errors import RequestError
    from turnwise.envs.toy import ToyEnv

    class Isolated(ToyEnv):
        id = "pooltest/Isolated-v0"
        isolated = True

        def __init__(self, fail_at_start=False, **kwargs):
            super().__init__(**kwargs)
            if fail_at_start:
                raise RuntimeError("no engine here")

        def start(self, task):
            if task.params["rooms"] < 1:
                raise RequestError("Expected rooms >= 1.")
            return super().start(task)

        def act(self, action):
            print("noise on standard output", flush=True)
            if action == "hang":
                time.sleep(1e6)
            if action == "crash":
                raise RuntimeError("boom \\ud800")
            if action == "exit":
                os._exit(3)
            if action == "shout":
                return State("x" * (1 << 26))
            if action == "fill":
                self.ballast = bytearray(os.urandom(1 << 20)) * 50
            if action == "modules":
                return State(" ".join(name for name in ("torch", "vllm", "transformers") if name in sys.modules))
            return super().act(action)

        def expert(self):
            time.sleep(0.01)
            return super().expert()
"""


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "pooltest_plugin.py").write_text(textwrap.dedent(PLUGIN))
    sys.path.insert(0, str(folder))
    register("pooltest/Isolated-v0", "pooltest_plugin:Isolated")
    yield folder
    sys.path.remove(str(folder))


def isolated(count: int, rooms: int = 5) -> list[Task]:
    return [
        task.model_copy(update={"env": "pooltest/Isolated-v0"}) for task in tasks("Toy", "train", count, rooms=rooms)
    ]


async def play(env: PlayedEnv) -> list[object]:
    transcript: list[object] = [await env.reset()]
    while transcript[-1][-1]["stop"] is None:  # type: ignore[index]
        transcript.append(await env.step(await env.expert()))
    return transcript


def play_here(task: Task) -> list[object]:
    env = make(task.env)
    transcript: list[object] = [env.reset(options={"task": task})]
    while transcript[-1][-1]["stop"] is None:  # type: ignore[index]
        transcript.append(env.step(env.expert()))
    return transcript


def gone(pid: int, seconds: float = 10) -> bool:
    """The process ended (or is a zombie that waits for its parent)."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def test_pure_python_environments_are_played_here_and_isolated_ones_elsewhere(plugin: Path) -> None:
    async def run() -> None:
        pool = EnvPool(workers=1)
        for task in [tasks("Toy", "train", 1)[0], isolated(1)[0]]:
            async with pool.lease(task) as env:
                assert await play(env) == play_here(task)
                assert (env.pid is None) == (task.env == "turnwise/Toy-v0")
                assert env.pid != os.getpid()
        await pool.aclose()

    asyncio.run(run())


def test_info_and_tuples_survive_the_trip_and_workers_import_no_torch(plugin: Path) -> None:
    async def run() -> None:
        pool = EnvPool(workers=1)
        async with pool.lease(isolated(1)[0]) as env:
            _, info = await env.reset()
            assert info["commands"] == ("open red door", "open green door", "open blue door")
            here = make("pooltest/Isolated-v0")
            assert info == here.reset(options={"task": isolated(1)[0]})[1]
            observation, _, _, _, info = await env.step("modules")
            assert observation == "" and info["commands"] is None
        pool.close()

    asyncio.run(run())


def test_a_killed_worker_costs_exactly_its_episode(plugin: Path) -> None:
    """Nine episodes run; the process of one is killed between two of its steps."""
    episodes = isolated(9, rooms=8)

    async def one(pool: EnvPool, index: int) -> list[object]:
        async with pool.lease(episodes[index]) as env:
            if index == 4:
                await env.reset()
                await env.step(await env.expert())
                assert env.pid is not None
                os.kill(env.pid, signal.SIGKILL)
                await env.step("open red door")
            return await play(env)

    async def run() -> list[object]:
        pool = EnvPool(workers=9)
        results = await asyncio.gather(*(one(pool, i) for i in range(9)), return_exceptions=True)
        async with pool.lease(episodes[4]) as env:  # the pool is whole again
            assert await play(env) == play_here(episodes[4])
        await pool.aclose()
        return results

    results = asyncio.run(run())
    assert [index for index, result in enumerate(results) if isinstance(result, EnvError)] == [4]
    assert [r for i, r in enumerate(results) if i != 4] == [play_here(t) for i, t in enumerate(episodes) if i != 4]


@pytest.mark.parametrize("action", ["hang", "exit", "crash"])
def test_a_broken_call_raises_and_its_worker_is_replaced(plugin: Path, action: str) -> None:
    task = isolated(1)[0]

    async def run() -> None:
        pool = EnvPool(workers=1, deadline_s=1.0 if action == "hang" else 60.0)
        with pytest.raises(DeadlineExceeded if action == "hang" else EnvError, match=r"1 s|died|boom"):
            async with pool.lease(task) as env:
                await env.reset()
                await env.step(action)
        first = env.pid
        assert first is not None and gone(first)
        with pytest.raises(EnvError, match="lease another"):
            await env.step("open red door")
        async with pool.lease(task) as again:
            assert await play(again) == play_here(task)
            assert again.pid != first
        await pool.aclose()

    asyncio.run(run())


def test_a_cancelled_call_does_not_leave_its_answer_to_the_next_lease(plugin: Path) -> None:
    task = isolated(1)[0]

    async def run() -> None:
        pool = EnvPool(workers=1)
        with pytest.raises(TimeoutError):
            async with pool.lease(task) as env:
                await env.reset()
                async with asyncio.timeout(0.2):
                    await env.step("hang")
        async with pool.lease(task) as env:
            assert await play(env) == play_here(task)
        await pool.aclose()

    asyncio.run(run())


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_are_bounded_reused_and_served_in_order(plugin: Path, workers: int) -> None:
    order: list[int] = []
    pids: set[int | None] = set()

    async def one(pool: EnvPool, index: int) -> None:
        async with pool.lease(isolated(1)[0]) as env:
            order.append(index)
            pids.add(env.pid)
            await play(env)

    async def run(pool: EnvPool) -> None:
        await asyncio.gather(*(one(pool, index) for index in range(8)))

    pool = EnvPool(workers=workers)
    asyncio.run(run(pool))
    asyncio.run(run(pool))  # another event loop, the same workers
    pool.close()
    assert sorted(order) == sorted([*range(8), *range(8)])
    assert workers == 2 or order == [*range(8), *range(8)]  # two workers may overtake one another
    assert len(pids) == workers and all(pid is not None and gone(pid) for pid in pids)


def test_a_lease_that_lasts_too_long_ends_and_its_place_is_free(plugin: Path) -> None:
    task = isolated(1)[0]

    async def run() -> None:
        pool = EnvPool(workers=1, lease_s=0.5)
        async with pool.lease(task) as idle:
            await idle.reset()
            async with pool.lease(task) as other:  # waits for the only worker until the first lease has ended
                assert await play(other) == play_here(task)
            assert other.pid != idle.pid and idle.pid is not None and gone(idle.pid)
            with pytest.raises(DeadlineExceeded, match=rf"lease of worker {idle.pid} ended after 0.5 s"):
                await idle.step("open red door")
        with pytest.raises(DeadlineExceeded, match=r"lease of worker \d+ ended after 0.5 s"):
            async with pool.lease(task) as env:
                await env.reset()
                await env.step("hang")
        async with pool.lease(task) as env:
            assert await play(env) == play_here(task)
        await pool.aclose()

    asyncio.run(run())


def test_the_queue_for_workers_is_bounded(plugin: Path) -> None:
    task = isolated(1)[0]

    async def run() -> list[object]:
        pool = EnvPool(workers=1, max_waiting=2)

        async def one() -> list[object]:
            async with pool.lease(task) as env:
                return await play(env)

        results = await asyncio.gather(*(one() for _ in range(4)), return_exceptions=True)
        assert await one() == play_here(task)
        await pool.aclose()
        return results

    results = asyncio.run(run())
    assert results[:3] == [play_here(task)] * 3
    assert isinstance(results[3], RequestError)
    assert str(results[3]).startswith("Expected at most 2 episodes to wait for 1 workers, got one more.")


def test_an_answer_that_is_too_long_costs_its_episode(plugin: Path) -> None:
    task = isolated(1)[0]

    async def run() -> None:
        pool = EnvPool(workers=1)
        with pytest.raises(EnvError, match="Expected at most 67,108,864 bytes in answer to 'step'"):
            async with pool.lease(task) as env:
                await env.reset()
                await env.step("shout")
        async with pool.lease(task) as env:
            assert await play(env) == play_here(task)
        await pool.aclose()

    asyncio.run(run())


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").is_file(), reason="needs Linux's smaps_rollup")
def test_memory_is_told_per_worker_and_grows_with_what_its_environment_holds(plugin: Path) -> None:
    async def run() -> None:
        pool = EnvPool(workers=2)
        assert pool.memory() == {}
        async with pool.lease(isolated(1)[0]) as one, pool.lease(isolated(1)[0]) as other:
            await one.reset()
            before = pool.memory()
            assert set(before) == {one.pid, other.pid} and all(1 < size < 100 for size in before.values())
            await one.step("fill")  # 50 MiB
            after = pool.memory()
            assert 45 < after[one.pid] - before[one.pid] < 70  # type: ignore[index]
            assert abs(after[other.pid] - before[other.pid]) < 5  # type: ignore[index]
        assert set(pool.memory()) == set(before)  # idle workers count as well
        await pool.aclose()
        assert pool.memory() == {}

    asyncio.run(run())


def test_wrong_requests_say_what_was_wrong_and_cost_no_worker(plugin: Path) -> None:
    good = isolated(1)[0]
    bad = good.model_copy(update={"params": {"rooms": 0}})

    async def run() -> None:
        pool = EnvPool(workers=1)
        with pytest.raises(UnknownName, match="pooltest/Isolated-v0"):
            async with pool.lease(good.model_copy(update={"env": "pooltest/Isolate-v0"})):
                pass
        with pytest.raises(RequestError, match="Expected rooms >= 1"):
            async with pool.lease(bad) as env:
                await env.reset()
        async with pool.lease(good) as again:
            assert again.pid == env.pid
        with pytest.raises(EnvError, match="no engine here"):
            async with pool.lease(good, fail_at_start=True):
                pass
        await pool.aclose()

    asyncio.run(run())
    with pytest.raises(RequestError, match="workers >= 1"):
        EnvPool(workers=0)


def test_no_worker_outlives_a_killed_parent(plugin: Path) -> None:
    """The parent is killed with SIGKILL while one worker hangs inside its engine."""
    script = f"""
        import asyncio, sys
        sys.path.insert(0, {str(plugin)!r})
        from turnwise.envs import Task, register
        from turnwise.envs.pool import EnvPool
        register("pooltest/Isolated-v0", "pooltest_plugin:Isolated")
        task = Task(env="pooltest/Isolated-v0", params={{"rooms": 3}})
        async def one(pool, action):
            async with pool.lease(task) as env:
                await env.reset()
                print(env.pid, flush=True)
                await env.step(action)
                await asyncio.sleep(1e6)
        async def run():
            pool = EnvPool()
            await asyncio.gather(one(pool, "hang"), one(pool, "open red door"))
        asyncio.run(run())
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(parent.stdout.readline()) for _ in range(2)]
    zygotes = {int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1]) for pid in pids}
    parent.kill()
    parent.wait()
    assert len(zygotes) == 1 and all(gone(pid) for pid in [*pids, *zygotes])
