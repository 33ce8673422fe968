"""ScienceWorld: official splits without Java, the engine's own text and score, reproducible, no process left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from turnwise.envs import EnvError, RequestError, Task, TextEnv, UnknownName, make, tasks
from turnwise.envs.check import BAD_ACTIONS, check_env
from turnwise.envs.pool import EnvPool
from turnwise.envs.scienceworld import env as scienceworld
from turnwise.envs.scienceworld import jvm
from turnwise.envs.scienceworld.variations import SPLITS, VARIATIONS, default_turns, split_variations
from turnwise.training import doctor

pytest.importorskip("scienceworld")
needs_java = pytest.mark.skipif(shutil.which(jvm.java_program()) is None, reason="Java is not installed")
QUICK = ("lifespan-longest-lived", "find-non-living-thing", "melt")
WITH_CHANCE = "find-animal"


@pytest.fixture(scope="module")
def env() -> Iterator[TextEnv]:
    env = make("ScienceWorld")
    yield env
    env.close()


@pytest.fixture(scope="module")
def simulator() -> Iterator[jvm.Simulator]:
    simulator = jvm.Simulator()
    yield simulator
    simulator.close()


def one(name: str, split: str = "train", **params: Any) -> Task:
    return tasks("ScienceWorld", split, 1, task=name, **params)[0]


def win(env: TextEnv, task: Task) -> list[tuple[str, tuple[Any, ...]]]:
    """The expert's actions with what `step` returned."""
    env.reset(options={"task": task})
    played: list[tuple[str, tuple[Any, ...]]] = []
    while not played or played[-1][1][-1]["stop"] is None:
        action = env.expert()
        played.append((action, env.step(action)))
    return played


def children(pid: int) -> set[int]:
    """Java processes started by `pid`."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, fields = path.read_text().rsplit(")", 1)
            if int(fields.split()[1]) == pid and name.endswith("(java"):
                found.add(int(path.parent.name))
    return found


def runs(pid: int) -> bool:
    """It exists and is not waiting to be collected."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


def is_gone(pid: int, within_s: float = 20.0) -> bool:
    end = time.monotonic() + within_s
    while runs(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not runs(pid)


# ---- tasks, without Java --------------------------------------------------------------------------------


def test_splits_have_the_published_sizes_and_do_not_meet() -> None:
    listed = {split: tasks("ScienceWorld", split) for split in SPLITS}
    assert {split: len(each) for split, each in listed.items()} == {"train": 3592, "validation": 1796, "test": 1819}
    assert len({task.key for each in listed.values() for task in each}) == sum(VARIATIONS.values()) == 7207
    assert scienceworld.ScienceWorldEnv.splits() == {split: len(each) for split, each in listed.items()}


def test_the_first_tasks_cover_every_kind() -> None:
    for split in SPLITS:
        first = tasks("ScienceWorld", split, 60)
        assert [task.params["task"] for task in first[:30]] == list(VARIATIONS)
        assert set(Counter(task.params["task"] for task in first).values()) == {2}
    assert [(t.params["task"], t.seed) for t in tasks("ScienceWorld", "test", 3, task=("melt", "boil"))] == [
        ("melt", 21), ("boil", 21), ("melt", 22),
    ]  # fmt: skip
    assert len(tasks("ScienceWorld", "train", variations=2)) == 60


def test_listing_starts_no_java_and_imports_no_engine() -> None:
    script = (
        "import sys, turnwise.envs as e; e.tasks('ScienceWorld', 'train', 9);"
        "print({'scienceworld', 'py4j'} & set(sys.modules))"
    )
    environment = {**os.environ, "JAVA_HOME": "/nonexistent"}
    assert subprocess.check_output([sys.executable, "-c", script], text=True, env=environment) == "set()\n"


def test_equal_simplifications_have_equal_keys() -> None:
    keys = {one("boil", simplification=text).key for text in ("openDoors,teleportAction", "teleportAction, openDoors")}
    assert len(keys) == 1 and one("boil").key not in keys
    assert one("boil", max_turns=7).max_turns == 7 and one("boil").max_turns == default_turns("boil")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"task": "meltt"}, "Did you mean 'melt'"),
        ({"tasks": "melt"}, "Did you mean 'task'"),
        ({"simplification": "eazy"}, "Did you mean 'easy'"),
        ({"simplification": "noElectricalAction"}, "without a way to win"),
        ({"variations": 0}, "variations >= 1, got 0"),
    ],
)
def test_wrong_parameters_are_refused_with_the_right_ones(params: dict[str, Any], message: str) -> None:
    with pytest.raises((RequestError, UnknownName), match=message):
        tasks("ScienceWorld", "test", 1, **params)


@pytest.mark.parametrize(
    ("answer", "possible"),
    [
        ("The door is now open.", True),
        ("The door is already open.", False),
        ("You focus on the stove.", True),
        ("No known action matches that input.", False),
        (jvm.UNKNOWN_ACTION, False),
        ("It's not clear how to read that.", False),
        ("The stove is not moveable.", False),
        ("The fridge isn't open, so you can't see inside.", False),
        (
            "Ambiguous request: Please enter the number for the action you intended (or blank to cancel):\n0:\topen",
            True,
        ),
        ("Inside the stove is: \n\tnothing", True),
        ("a cupboard. The cupboard door is closed.", True),
    ],
)
def test_the_engine_s_answers_are_told_apart(answer: str, possible: bool) -> None:
    assert scienceworld.is_possible(answer) is possible


# ---- the game -------------------------------------------------------------------------------------------


@needs_java
def test_the_table_of_variations_is_the_engine_s(simulator: jvm.Simulator) -> None:
    engine = simulator._interface
    assert list(engine.getTaskNames()) == list(VARIATIONS)
    for name, count in VARIATIONS.items():
        assert engine.getTaskMaxVariations(name) == count
        getattr(engine, "taskStr_$eq")(name)  # the sets are those of the task that is set
        sets = (engine.getVariationsTrain(), engine.getVariationsDev(), engine.getVariationsTest())
        assert [list(each) for each in sets] == [list(split_variations(name, split)) for split in SPLITS]


@needs_java
@pytest.mark.parametrize("name", QUICK)
def test_the_expert_wins_at_100_and_the_reward_is_the_score_s_delta(env: TextEnv, name: str) -> None:
    played = win(env, one(name))
    info = played[-1][1][-1]
    assert (info["stop"], info["success"], info["score"]) == ("success", True, 100.0)
    assert sum(step[1] for _, step in played) == 100.0
    assert [step[-1]["success"] for _, step in played] == [False] * (len(played) - 1) + [True]
    assert all(step[-1]["score"] < 100 for _, step in played[:-1])


@needs_java
def test_the_start_tells_the_task_and_what_is_seen(env: TextEnv) -> None:
    observation, info = env.reset(options={"task": one("melt")})
    assert info["goal"].startswith("Your task is to melt ")
    assert observation == f"{info['goal']}\n\n{env._game.describe()[1]}"  # type: ignore[attr-defined]
    assert "hallway" in observation and info["commands"] is None


@needs_java
def test_a_wrong_choice_loses_and_takes_the_points_away(env: TextEnv) -> None:
    env.reset(options={"task": one("melt")})
    score = 0.0
    while not score:
        score = env.step(env.expert())[-1]["score"]
    assert 0 < score < 100
    _, reward, terminated, truncated, info = env.step("focus on agent")
    assert (reward, terminated, truncated) == (-score, True, False)
    assert (info["stop"], info["success"], info["score"]) == ("failure", False, 0.0)
    observation, reward, *_, info = env.step("look around")
    assert (observation, reward, info["admissible"]) == ("The game is over.", 0.0, False)


@needs_java
def test_what_is_admissible_and_menus_are_playable(env: TextEnv) -> None:
    env.reset(options={"task": one("melt")})
    for action, expected in (
        ("frobnicate the picture", False), ("open door to kitchen", True), ("open door to kitchen", False),
        ("eat picture", False), ("look around", True), ("help", True), ("objects", True), ("task", True),
    ):  # fmt: skip
        assert env.step(action)[-1]["admissible"] is expected, action
    menu, *_, info = env.step("open door")
    assert menu.startswith("Ambiguous request: ") and "\n1:\topen" in menu and info["admissible"]
    chosen = menu.partition("\n1:\t")[2].splitlines()[0]
    assert env.step("1")[0] in ("The door is now open.", "The door is already open."), chosen
    env.step("open door")
    answer, *_, info = env.step("no number")
    assert (answer, info["admissible"]) == (jvm.UNKNOWN_ACTION, False)


@needs_java
def test_asking_for_help_changes_no_score(env: TextEnv) -> None:
    env.reset(options={"task": one("melt")})
    score = 0.0
    while not score:
        score = env.step(env.expert())[-1]["score"]
    assert [env.step(action)[-1]["score"] for action in ("task", "help", "objects", "look")] == [score] * 4


@needs_java
def test_idle_actions_keep_the_expert_and_others_are_refused(env: TextEnv) -> None:
    env.reset(options={"task": one("melt")})
    first = env.expert()
    for action in ("inventory", "", "no such action", "look around"):
        env.step(action)
        assert env.expert() == first
    env.step(first)
    assert env.expert() != first
    env.step("wait")
    with pytest.raises(RequestError, match="got 'wait'"):
        env.expert()


# ---- the same as the engine, reproducible, apart from its neighbours --------------------------------------


def walk(simulator: jvm.Simulator, steps: int) -> list[str]:
    """Random listed actions, every fourth one not known, with a menu's number now and then."""
    rng, actions = random.Random(0), list[str]()
    for index in range(steps):
        actions.append("dance" if index % 4 == 3 else rng.choice(simulator.commands()))
        simulator.step(actions[-1])
    return actions


@needs_java
@pytest.mark.parametrize(("name", "simplification"), [("boil", ""), (WITH_CHANCE, "easy"), ("power-component", "")])
def test_every_answer_is_the_outer_layer_s(simulator: jvm.Simulator, name: str, simplification: str) -> None:
    """The inner layer is called for speed; `PythonInterface.step` says and scores the same, byte for byte."""
    load = (name, 3, simplification)
    simulator.load(*load)
    actions = walk(simulator, 8)
    simulator.load(*load)
    ours = [simulator.step(action) for action in actions]
    simulator.load(*load)
    engine = simulator._interface
    theirs = [(engine.step(action), engine.getScore(), engine.getCompleted()) for action in actions]
    assert [tuple(answer) for answer in ours] == theirs


def chance(simulator: jvm.Simulator) -> int:
    """State of the engine's random numbers, of which every tick of the world draws some."""
    return simulator._seed_field.get(simulator._random)


@needs_java
def test_listing_commands_changes_nothing(simulator: jvm.Simulator) -> None:
    """The engine draws random numbers while it names things; the world goes on with the same numbers."""
    simulator.load(WITH_CHANCE, 3, "")
    before = chance(simulator)
    first = simulator.commands()
    assert len(first) > 50 and chance(simulator) == before
    assert simulator.commands() == first
    simulator._interface.getValidActionObjectCombinations()
    assert chance(simulator) != before


@needs_java
def test_listed_commands_are_sorted_and_change_with_the_state(env: TextEnv) -> None:
    listing = make("ScienceWorld", commands=True)
    played, texts = [], []
    for each in (env, listing):
        observation, info = each.reset(options={"task": one("melt")})
        texts.append([observation])
        for action in ("open door to kitchen", "go to kitchen", "open fridge"):
            played.append(info["commands"])
            observation, *_, info = each.step(action)
            texts[-1].append(observation)
    _, info = listing.reset(options={"task": one("melt")})
    for action in random.Random(0).sample(info["commands"], 4):
        listing.reset(options={"task": one("melt")})
        assert listing.step(action)[-1]["admissible"], action
    listing.close()
    assert texts[0] == texts[1] and played[:3] == [None] * 3
    assert "open door to kitchen" in played[3] and "open door to kitchen" not in played[4]
    assert "open fridge" in played[5] and list(played[5]) == sorted(set(played[5]))


@needs_java
def test_neighbours_in_one_machine_do_not_meet(simulator: jvm.Simulator) -> None:
    """Random numbers, object numbers and simplifications are global variables of the engine's classes."""
    other = jvm.Simulator()
    assert other.pid == simulator.pid
    games = {
        simulator: ((WITH_CHANCE, 3, "easy"), ["teleport to outside", "wait", "look around", "wait", "look around"]),
        other: (("grow-plant", 1, ""), ["teleport to kitchen", "wait", "look around", "inventory", "wait"]),
    }
    alone, together = {}, {game: list[tuple[jvm.Answer, int]]() for game in games}
    for game, (load, script) in games.items():
        game.load(*load)
        alone[game] = [(game.step(action), chance(game)) for action in script]
    for game, (load, _) in games.items():
        game.load(*load)
    for turn in range(5):
        for game, (_, script) in games.items():
            together[game].append((game.step(script[turn]), chance(game)))
    other.close()
    assert together == alone
    assert [alone[game][0][0].text for game in (simulator, other)] == [
        "You teleport to the outside.", scienceworld.NOT_AN_ACTION,
    ]  # fmt: skip
    assert len({state for each in alone.values() for _, state in each}) > 4
    assert runs(simulator.pid) and simulator.step("look around").text


SCRIPT = """
import hashlib, json, sys
from turnwise.envs.scienceworld.jvm import Simulator
from turnwise.envs.scienceworld.jvm import _Machine
game, found = Simulator(), {}
for name, variation in json.loads(sys.argv[1]):
    texts = set()
    for _ in range(3):
        game.load(name, variation, "")
        said = [game.describe(), *(game.step(action) for action in ("look around", "inventory", "wait", "look around"))]
        texts.add(hashlib.sha256(json.dumps(said).encode()).hexdigest())
    found[name] = sorted(texts)
process = game._machine.process
game.close()
assert process.poll() is not None and _Machine._running is None
print(json.dumps(found))
"""


@needs_java
def test_texts_are_equal_at_every_load_and_in_another_process(tmp_path: Path) -> None:
    """`melt` 1 begins beside cups that the engine, left alone, lists in another order at each load."""
    asked = json.dumps([("melt", 1), (WITH_CHANCE, 7)])
    command = [sys.executable, "-c", SCRIPT, asked]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) for _ in range(2)]
    first, second = (json.loads(each.communicate(timeout=240)[0]) for each in running)
    assert {name: len(texts) for name, texts in first.items()} == {"melt": 1, WITH_CHANCE: 1}
    assert first == second
    assert not list(tmp_path.iterdir())  # the engine writes files where it is started


@needs_java
def test_a_java_that_scatters_objects_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jvm._Machine, "_running", None)
    monkeypatch.setattr(jvm, "JAVA_OPTIONS", tuple(o for o in jvm.JAVA_OPTIONS if "hashCode" not in o))
    with pytest.raises(RequestError, match="would not be reproducible"):
        jvm.Simulator()


# ---- processes ------------------------------------------------------------------------------------------


def test_without_java_there_is_one_message_and_a_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jvm._Machine, "_running", None)
    monkeypatch.setenv("JAVA_HOME", "/nonexistent")
    with pytest.raises(RequestError, match=r"Java was not found.*apt-get install"):
        jvm.Simulator()


def test_doctor_names_a_missing_java_and_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", "/nonexistent")
    (found,) = doctor._java()
    assert (found.level, found.part, found.cure) == ("missing", "Java", jvm.JAVA_CURE)


@needs_java
def test_doctor_starts_java_with_the_engine_s_options(monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = doctor._java()
    assert found.level == "ok" and "version" in found.state
    monkeypatch.setattr(doctor, "JAVA_OPTIONS", ("-XX:NoSuchOption=1",))
    (found,) = doctor._java()
    assert (found.level, found.cure) == ("broken", jvm.JAVA_CURE) and "NoSuchOption" in found.state


@needs_java
def test_no_java_outlives_a_worker() -> None:
    """After the pool closes, and after a worker is killed in the middle of an episode."""
    task = one("lifespan-longest-lived")

    async def play(pool: EnvPool) -> tuple[int, set[int]]:
        async with pool.lease(task) as played:
            await played.reset()
            assert played.pid is not None
            return played.pid, children(played.pid)

    async def be_killed(pool: EnvPool) -> set[int]:
        async with pool.lease(task) as played:
            await played.reset()
            assert played.pid is not None
            machines = children(played.pid)
            os.kill(played.pid, signal.SIGKILL)
            with pytest.raises(EnvError):
                await played.step("look around")
            return machines

    pool = EnvPool(workers=1)
    (killed,) = asyncio.run(be_killed(pool))
    assert is_gone(killed)
    worker, (machine,) = asyncio.run(play(pool))
    assert runs(machine) and machine != killed
    pool.close()
    assert is_gone(worker) and is_gone(machine)


@needs_java
def test_a_dead_machine_costs_one_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jvm._Machine, "_running", None)
    env, task = make("ScienceWorld"), one("lifespan-longest-lived")
    try:
        first, _ = env.reset(options={"task": task})
        os.kill(env._game.pid, signal.SIGKILL)  # type: ignore[attr-defined]
        with pytest.raises(EnvError, match="failed to act"):
            env.step("look around")
        assert env.reset(options={"task": task})[0] == first
        assert env.step("look around")[-1]["admissible"]
    finally:
        env.close()


# ---- bad actions ----------------------------------------------------------------------------------------

WORDS = (
    "open", "door", "to", "kitchen", "pick", "up", "focus", "on", "look", "in", "the", "agent", "0", "1", "reset",
    "task", "wait", "use", "connect", "terminal", "wood cup", "move", "pour", "objects", "-1", "9999999999",
)  # fmt: skip
ACTIONS = st.one_of(
    st.text(max_size=60),
    st.text(alphabet=st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=499),
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=9).map(" ".join),
    st.sampled_from(BAD_ACTIONS),
)


def survives(env: TextEnv) -> Callable[[str], None]:
    """A step that returns five sane values whatever the action; the game goes on over many of them."""
    task = one("melt").model_copy(update={"max_turns": 10**9})
    env.reset(options={"task": task})

    def act(action: str) -> None:
        before = env.state.score
        observation, reward, terminated, truncated, info = env.step(action)
        assert isinstance(observation, str) and observation and 0 <= info["score"] <= 100 and not truncated
        assert reward == info["score"] - before
        if terminated:
            env.reset(options={"task": task})

    return act


@needs_java
@pytest.mark.parametrize("examples", [300, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_malformed_actions_get_an_observation(env: TextEnv, examples: int) -> None:
    act = survives(env)
    limits = settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    limits(given(ACTIONS)(act))()


# ---- long ones ------------------------------------------------------------------------------------------


@needs_java
@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_expert_wins_every_kind_in_every_split(env: TextEnv) -> None:
    lost = []
    for task in [task for split in SPLITS for task in tasks("ScienceWorld", split, variations=2)]:
        info = win(env, task)[-1][1][-1]
        lost += [] if info["success"] else [(task.params["task"], task.seed, info["stop"], info["turn"])]
    assert not lost


@needs_java
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("simplification", ["", "easy"])
def test_every_promise_is_kept(simplification: str) -> None:
    report = check_env("ScienceWorld", tasks_per_split=2, deadline_s=300, simplification=simplification)
    assert report.ok, [check for check in report.checks if not check.ok]
