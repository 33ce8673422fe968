"""`turnwise/ALFWorld-v0`: generator, splits, experts, contract."""

from __future__ import annotations

import copy
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("alfworld")

import turnwise.envs as envs
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from turnwise.envs import RequestError, Task, UnknownName
from turnwise.envs.alfworld import official, tables
from turnwise.envs.alfworld.engine import World
from turnwise.envs.alfworld.env import SIZES, ALFWorldEnv, load_game
from turnwise.envs.alfworld.experts import Explorer, oracle
from turnwise.envs.alfworld.game import parse_game
from turnwise.envs.alfworld.generator import Level, generate, write_game
from turnwise.envs.alfworld.goals import TASK_TYPES, Goal

GENERATED = tuple(SIZES)
LEVEL = Level(5, "pick_heat_then_place_in_recep", 12, 8, 8)


def play(task: Task, expert: str = "exploring") -> dict[str, Any]:
    env = ALFWorldEnv(expert=expert)
    _, info = env.reset(options={"task": task})
    while info["stop"] is None:
        info = env.step(env.expert())[4]
        assert info["admissible"]
    return info


# ---- generator ------------------------------------------------------------------------------------


def test_equal_arguments_give_equal_bytes_in_another_process() -> None:
    script = (
        "import json; from turnwise.envs.alfworld.generator import Level, generate\n"
        f"print(json.dumps(generate(Level{tuple(vars(LEVEL).values())!r})))"
    )
    fresh = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert fresh == json.dumps(generate(LEVEL)) + "\n"


def test_any_argument_changes_the_game() -> None:
    base = generate(LEVEL)["pddl_problem"]
    for field, value in {"seed": 6, "room": 13, "receptacles": 9, "distractors": 9}.items():
        assert generate(Level(**{**vars(LEVEL), field: value}))["pddl_problem"] != base


@pytest.mark.parametrize("split", GENERATED)
def test_every_floor_plan_has_every_task_it_lists(split: str) -> None:
    for task_type in TASK_TYPES:
        for room in tables.rooms(split, task_type):
            world = World(parse_game(generate(Level(room, task_type, room, 4, 3))))
            assert world.game.goal.task_type == task_type and len(world.game.location) <= 4 and not world.won


def test_the_sizes_are_kept() -> None:
    for receptacles, distractors in ((4, 0), (9, 5), (14, 20)):
        game = parse_game(generate(Level(1, "pick_two_obj_and_place", 8, receptacles, distractors)))
        assert len(game.location) == receptacles
        assert len(game.object_type) == 2 + distractors
        assert sum(kind == game.goal.object for kind in game.object_type.values()) == 2
        assert len(set(game.location.values())) == receptacles  # no two share a location


def test_objects_start_where_they_fit_and_never_at_the_goal() -> None:
    for task in ALFWorldEnv.tasks("train", 60):
        game = load_game(task)
        for thing, place in game.start["inreceptacle"]:
            kind, spot = game.object_type[thing], game.receptacle_type[place]
            assert (spot, kind) in game.static["cancontain"] or kind == game.goal.lamp
            assert (kind, spot) != (game.goal.object, game.goal.receptacle)


@pytest.mark.parametrize("change", [{"receptacles": 3}, {"receptacles": 61}, {"distractors": -1}, {"task_type": "x"}])
def test_arguments_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="Expected"):
        Level(**{**vars(LEVEL), **change})


def test_a_written_game_is_the_generated_one(tmp_path: Path) -> None:
    path = write_game(LEVEL, tmp_path)
    assert json.loads(path.read_text()) == generate(LEVEL)
    about = json.loads(path.with_name("traj_data.json").read_text())
    assert about["task_type"] == LEVEL.task_type and about["scene"]["scene_num"] == LEVEL.room
    assert path.parent.parent.name.split("-")[1] == about["pddl_params"]["object_target"] != ""


def test_without_the_wheel_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(envs.MissingDependency, match=r"turnwise\[alfworld\]"):
        tables.wheel.__wrapped__()


# ---- splits ---------------------------------------------------------------------------------------


def test_splits_share_neither_floor_plans_nor_games() -> None:
    listed = {split: ALFWorldEnv.tasks(split) for split in GENERATED}
    assert {split: len(found) for split, found in listed.items()} == SIZES
    rooms = {split: {task.params["room"] for task in found} for split, found in listed.items()}
    keys = [task.key for found in listed.values() for task in found]
    assert len(keys) == len(set(keys)) == sum(SIZES.values())
    assert [len(rooms[split]) for split in GENERATED] == [96, 12, 12]
    assert len(set.union(*rooms.values())) == 120
    assert listed["train"][:7] == ALFWorldEnv.tasks("train", 7)


def test_listing_imports_neither_alfworld_nor_textworld() -> None:
    script = (
        "import sys, turnwise.envs as e; e.tasks('ALFWorld', 'test'); e.env_class('ALFWorld').splits()\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('alfworld', 'textworld', '_alfworld_constants')])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "[]"


def test_task_types_take_turns_and_wrong_names_are_refused() -> None:
    listed = ALFWorldEnv.tasks("train", 12)
    assert [task.meta["task_type"] for task in listed] == [*TASK_TYPES, *TASK_TYPES]
    two = ALFWorldEnv.tasks("train", 3, task_types=TASK_TYPES[3])
    assert {task.params["task_type"] for task in two} == {TASK_TYPES[3]}
    for wrong in ({"task_types": "pick_and_plase_simple"}, {"receptacle": 5}):
        with pytest.raises(UnknownName, match="Did you mean"):
            ALFWorldEnv.tasks("train", 1, **wrong)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="task parameter"):
        load_game(Task(env=ALFWorldEnv.id, params={"room": 3}))


def test_official_games_from_a_folder_and_from_an_archive_are_the_same_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tarfile

    for seed, task_type in enumerate(TASK_TYPES):
        room = 301 if "light" in task_type else 1
        write_game(Level(seed, task_type, room, 6, 5), tmp_path / "json_2.1.1" / "valid_unseen")
    with tarfile.open(tmp_path / "alfworld_valid_unseen.tar.xz", "w:xz") as tar:
        tar.add(tmp_path / "json_2.1.1", "json_2.1.1")
    listings = []
    for variable, other in (("ALFWORLD_DATA", "TURNWISE_DATA"), ("TURNWISE_DATA", "ALFWORLD_DATA")):
        monkeypatch.setenv(variable, str(tmp_path))
        monkeypatch.delenv(other, raising=False)
        assert official.splits() == {"official_valid_unseen": 6}
        assert ALFWorldEnv.splits() == {**SIZES, "official_valid_unseen": 6}
        listings.append(ALFWorldEnv.tasks("valid_unseen", source="official"))
        assert [play(task)["success"] for task in listings[-1]] == [True] * 6
    assert listings[0] == listings[1]
    wrong = listings[0][0].model_copy(update={"game": "0" * 64})
    with pytest.raises(RequestError, match="SHA-256"):
        ALFWorldEnv().reset(options={"task": wrong})
    monkeypatch.delenv("TURNWISE_DATA")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert official.splits() == {}


def test_games_are_found_where_alfworld_download_leaves_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the default folder, with what its own loader leaves out left out."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ALFWORLD_DATA", raising=False)
    monkeypatch.delenv("TURNWISE_DATA", raising=False)
    with pytest.raises(UnknownName, match="alfworld-download"):
        ALFWorldEnv.tasks("official_train")
    split = tmp_path / ".cache" / "alfworld" / "json_2.1.1" / "train"
    paths = [write_game(Level(seed, "pick_and_place_simple", 301 + seed, 5, 3), split) for seed in range(4)]
    unsolvable = json.loads(paths[0].read_text())
    paths[0].write_text(json.dumps({**unsolvable, "solvable": False}))
    sliced = split / "pick_and_place_simple-AppleSliced-None-Fridge-1"
    paths[1].parent.parent.rename(sliced)
    assert ALFWorldEnv.splits() == {**SIZES, "official_train": 2}
    found = ALFWorldEnv.tasks("official_train")
    assert [split.parent.parent / task.meta["path"] for task in found] == sorted(paths[2:])
    assert [task.game for task in found] == [
        hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(paths[2:])
    ]
    assert (
        "official_train" not in ALFWorldEnv.missing() and "official_valid_unseen (134 games)" in ALFWorldEnv.missing()
    )


def test_all_published_games_are_listed_with_a_key_of_their_own() -> None:
    here = {name: size for name, size in official.splits().items() if name != "official_valid_unseen"}
    if len(here) < 2:
        pytest.skip("set TURNWISE_DATA or ALFWORLD_DATA to a folder with ALFWorld's games")
    assert here == {"official_train": 3553, "official_valid_seen": 140}
    keys = {task.key for split in here for task in ALFWorldEnv.tasks(split)}
    assert len(keys) == 3693


# ---- experts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("expert", ["exploring", "oracle"])
@pytest.mark.parametrize("split", GENERATED)
def test_the_experts_win_every_task_in_time(split: str, expert: str) -> None:
    for receptacles in (4, 8, 14):
        for task in ALFWorldEnv.tasks(split, 60, receptacles=receptacles):
            assert play(task, expert)["stop"] == "success", task


def test_the_oracle_is_never_longer_than_the_explorer_and_shorter_on_average() -> None:
    lengths = [(play(task, "oracle")["turn"], play(task)["turn"]) for task in ALFWorldEnv.tasks("train", 60)]
    assert all(short <= long for short, long in lengths)
    assert sum(short for short, _ in lengths) < 0.8 * sum(long for _, long in lengths)


def test_full_rooms_are_won_too() -> None:
    for expert in ("exploring", "oracle"):
        for task in ALFWorldEnv.tasks("test", 60, receptacles=60, distractors=40):
            assert play(task, expert)["stop"] == "success", task


def test_heat_undoes_cold_and_the_explorer_knows() -> None:
    """The object is heated and cooled again before the expert goes on."""
    task = ALFWorldEnv.tasks("train", 1, task_types="pick_heat_then_place_in_recep", receptacles=20, max_turns=120)[0]
    env = ALFWorldEnv()
    _, info = env.reset(options={"task": task})
    action = ""
    while not action.startswith("heat"):
        info = env.step(action := env.expert())[4]
    thing = action.split(" with ")[0].removeprefix("heat ")
    for action in ("go to fridge 1", f"cool {thing} with fridge 1"):
        info = env.step(action)[4]
        assert info["admissible"]
    heated = 0
    while info["stop"] is None:
        action = env.expert()
        heated += action.startswith("heat")
        info = env.step(action)[4]
    assert info["success"] and heated == 1


def test_a_copied_explorer_goes_its_own_way() -> None:
    env = ALFWorldEnv()
    _, info = env.reset(options={"task": ALFWorldEnv.tasks("train", 6, max_turns=60)[5]})
    while not env._explorer.held:
        env.step(env.expert())
    env.step("look")
    explorer = env._explorer
    before = {name: copy.copy(value) for name, value in vars(explorer).items()}
    seen = {place: set(things) for place, things in explorer.seen.items()}
    other = copy.deepcopy(explorer)
    assert vars(other) == before
    while info["stop"] is None:
        action = other.act()
        observation, *_, info = env.step(action)
        other.observe(action, info["admissible"], observation, info["commands"])
    # the environment has told its own explorer, which has not thought about it yet
    assert info["success"] and explorer.seen == seen and explorer.held == before["held"] != other.held


def test_in_a_lived_in_room_the_explorer_looks_where_things_usually_are() -> None:
    goal = Goal("pick_and_place_simple", "appletype", "garbagecantype")
    places = ("cabinet 1", "cabinet 10", "cabinet 2", "diningtable 1", "fridge 1", "garbagecan 1")
    commands = [f"go to {place}" for place in places]
    order = {lived_in: Explorer(goal, "", commands, lived_in) for lived_in in (False, True)}
    assert order[True]._usual_order("apple") == [
        "diningtable 1", "fridge 1", "cabinet 1", "cabinet 2", "cabinet 10", "garbagecan 1"
    ]  # fmt: skip
    assert order[True].act() == "go to diningtable 1"
    assert order[False].act() == "go to diningtable 1"


def test_the_explorer_uses_only_what_it_was_shown() -> None:
    """Two games alike but for where the object is: the same actions until an observation differs."""
    data = generate(Level(3, "pick_and_place_simple", 308, 8, 0))
    game = parse_game(data)
    ((thing, place),) = game.start["inreceptacle"]
    kind = game.object_type[thing]
    others = [p for p in game.location if p != place and (game.receptacle_type[p], kind) in game.static["cancontain"]]
    for other in others:
        moved = data["pddl_problem"].lower().replace(f"inreceptacle {thing} {place}", f"inreceptacle {thing} {other}")
        worlds = World(game), World(parse_game({**data, "pddl_problem": moved}))
        explorers = [Explorer(game.goal, world.intro(), world.commands) for world in worlds]
        for _ in range(30):
            actions = [explorer.act() for explorer in explorers]
            assert actions[0] == actions[1]
            seen = [world.do(action) for world, action in zip(worlds, actions, strict=True)]
            if seen[0] != seen[1]:
                break
            for explorer, world, text in zip(explorers, worlds, seen, strict=True):
                explorer.observe(actions[0], True, text, world.commands)
        else:
            raise AssertionError("nothing was found")


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 59), st.lists(st.integers(0, 10_000), max_size=12))
def test_both_experts_win_from_wherever_others_have_led(index: int, detour: list[int]) -> None:
    task = ALFWorldEnv.tasks("train", 60, max_turns=100)[index]
    env = ALFWorldEnv()
    _, info = env.reset(options={"task": task})
    for choice in detour:
        if info["stop"] is None:
            info = env.step(env.state.commands[choice % len(env.state.commands)])[4]  # type: ignore[index,arg-type]
    world = env.world.copy()
    for command in oracle(world):
        world.do(command)
    while info["stop"] is None:
        info = env.step(env.expert())[4]
    assert info["success"] and world.won


# ---- contract -------------------------------------------------------------------------------------


def test_gymnasium_accepts_it() -> None:
    check_env(envs.make("ALFWorld", split="validation", receptacles=4), skip_render_check=True)


@pytest.mark.parametrize("split", GENERATED)
def test_the_empty_agent_wins_nothing(split: str) -> None:
    for task in ALFWorldEnv.tasks(split, 60):
        env = ALFWorldEnv()
        _, info = env.reset(options={"task": task})
        for action in ("", "look", "nothing at all"):
            info = env.step(action)[4]
        assert not info["success"] and info["score"] == 0.0


@settings(max_examples=30, deadline=None)
@given(
    st.one_of(st.text(max_size=600), st.sampled_from(["go to", "take from", "put it in/on it", "x" * 10_000, "\x00"]))
)
def test_odd_actions_get_an_answer_and_no_reward(action: str) -> None:
    env = ALFWorldEnv()
    env.reset(options={"task": ALFWorldEnv.tasks("test", 1)[0]})
    observation, reward, terminated, _, info = env.step(action)
    assert observation and reward == 0.0 and not terminated
    assert info["valid"] or not info["admissible"]


def test_score_counts_the_conditions_of_the_goal() -> None:
    task = ALFWorldEnv.tasks("train", 1, task_types="pick_clean_then_place_in_recep")[0]
    env = ALFWorldEnv(expert="oracle")
    env.reset(options={"task": task})
    scores, rewards, done = [], [], False
    while not done:
        action = env.expert()
        _, reward, done, _, info = env.step(action)
        rewards.append(reward)
        scores.append((action.split()[0], info["score"]))
    assert env.max_score == 3.0 and sum(rewards) == 3.0
    assert [score for verb, score in scores if verb in ("clean", "move")] == [1.0, 3.0]


def test_a_restored_snapshot_continues_the_same_way() -> None:
    env = ALFWorldEnv()
    env.reset(options={"task": ALFWorldEnv.tasks("train", 6)[5]})
    for _ in range(4):
        env.step(env.expert())
    saved = env.snapshot()

    def rest() -> list[tuple[str, str, float]]:
        out, stop = [], None
        while stop is None:
            action = env.expert()
            observation, reward, *_, info = env.step(action)
            out.append((action, observation, reward))
            stop = info["stop"]
        return out

    first = rest()
    env.restore(saved)
    assert rest() == first and first[-1][2] > 0
    env.restore(saved)
    assert env.turn == 4


def test_goal_and_commands_are_those_of_the_text() -> None:
    env = ALFWorldEnv()
    for task in ALFWorldEnv.tasks("validation", 12):
        observation, info = env.reset(options={"task": task})
        assert observation.endswith(f"Your task is to: {info['goal']}") and info["goal"].endswith(".")
        assert list(info["commands"]) == sorted(info["commands"])
        assert all(env.world.copy().do(command) for command in info["commands"])
