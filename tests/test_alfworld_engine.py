"""Our ALFWorld engine on every published game, and its rules by hand."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("alfworld")

from turnwise.envs import Task
from turnwise.envs.alfworld import tables
from turnwise.envs.alfworld.engine import NOTHING, World
from turnwise.envs.alfworld.env import ALFWorldEnv, load_game
from turnwise.envs.alfworld.experts import oracle
from turnwise.envs.alfworld.game import parse_game, shown_names
from turnwise.envs.alfworld.generator import Level, generate, write_game
from turnwise.envs.alfworld.goals import TASK_TYPES
from turnwise.envs.errors import RequestError

IMPOSSIBLE = ("go to nowhere", "take mug 1", "", "close fridge 9", "cool fridge 1 with fridge 1")


def official_tasks(stride: int) -> list[Task]:
    """Every `stride`-th published game of each split that is here."""
    splits = [split for split in ALFWorldEnv.splits() if split.startswith("official_")]
    if not splits:
        pytest.skip("set TURNWISE_DATA or ALFWORLD_DATA to a folder with ALFWorld's games")
    return [task for split in splits for task in ALFWorldEnv.tasks(split)[::stride]]


@pytest.fixture(params=[10, pytest.param(1, marks=pytest.mark.slow)], ids=["sample", "all"], scope="module")
def official(request: pytest.FixtureRequest) -> list[Task]:
    return official_tasks(request.param)


def test_every_official_walkthrough_wins_and_only_at_its_end(official: list[Task]) -> None:
    for task in official:
        world = World(game := load_game(task))
        won = [world.won, *((world.do(command), world.won)[1] for command in game.walkthrough)]
        assert won == [False] * len(game.walkthrough) + [True], task.meta


def test_the_oracle_solves_every_official_game(official: list[Task]) -> None:
    for task in official:
        world = World(load_game(task))
        plan = oracle(world)
        assert NOTHING not in [world.do(command) for command in plan] and world.won, task.meta


def test_the_explorer_wins_every_official_game_in_time(official: list[Task]) -> None:
    env = ALFWorldEnv()
    for task in official:
        _, info = env.reset(options={"task": task})
        while info["stop"] is None:
            info = env.step(env.expert())[4]
        assert task.max_turns == 50 and info["success"], task.meta


@pytest.mark.slow
def test_the_usual_places_are_those_of_the_training_games() -> None:
    if "official_train" not in ALFWorldEnv.splits():
        pytest.skip("set TURNWISE_DATA or ALFWORLD_DATA to a folder with ALFWorld's games")
    found, looked = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for task in ALFWorldEnv.tasks("official_train"):
        game = load_game(task)
        shown = {entity: name.split()[0] for entity, name in game.names.items() if name.strip()}
        placed = [(shown[thing], shown[place]) for thing, place in game.start["inreceptacle"]]
        found.update(placed)
        looked.update((thing, shown[place]) for thing in {thing for thing, _ in placed} for place in game.location)
    doors = {kind.lower() for kind in tables.openable()}
    worth = {pair: found[pair] / looked[pair] / (1 + (pair[1] in doors)) for pair in found}
    for thing, places in tables.USUAL.items():
        listed = [worth[thing, place] for place in places.split()]
        assert listed == sorted(listed, reverse=True), thing
        assert (
            listed
            == sorted((value for (what, _), value in worth.items() if what == thing), reverse=True)[: len(listed)]
        )


def test_names_count_down_within_a_class_and_basins_have_their_own() -> None:
    ids = ["mug_bar_b", "mug_bar_a", "sink_bar_x_bar_sinkbasin", "sink_bar_x", "agent1"]
    assert shown_names(ids) == {
        "agent1": "agent1 ",
        "mug_bar_a": "mug 2",
        "mug_bar_b": "mug 1",
        "sink_bar_x": "sink 1",
        "sink_bar_x_bar_sinkbasin": "sinkbasin 1",
    }


def test_a_copy_goes_its_own_way() -> None:
    world = World(parse_game(generate(Level(1, "pick_and_place_simple", 301))))
    other, before = world.copy(), world.commands
    for command in other.game.walkthrough:
        other.do(command)
    assert other.won and not world.won and world.commands == before


def test_what_is_impossible_changes_nothing() -> None:
    world = World(parse_game(generate(Level(2, "pick_cool_then_place_in_recep", 7))))
    facts = {name: set(rows) for name, rows in world.facts.items()}
    for command in IMPOSSIBLE:
        assert world.do(command) == NOTHING
    assert world.facts == facts


def test_a_goal_beyond_the_six_types_is_refused() -> None:
    data = generate(Level(3, "pick_and_place_simple", 8))
    data["pddl_problem"] = data["pddl_problem"].replace("(inReceptacle ?o ?r)", "(isSliced ?o)")
    with pytest.raises(RequestError, match="six task types"):
        parse_game(data)


STOCK_LOADER = """
import json, sys
from alfworld.agents.environment.alfred_tw_env import AlfredTWEnv

config = {
    "env": {"goal_desc_human_anns_prob": 0, "task_types": [1, 2, 3, 4, 5, 6], "domain_randomization": False,
            "expert_type": "handcoded"},
    "dataset": {"data_path": sys.argv[1], "num_train_games": -1},
    "general": {"training_method": "dqn"},
    "rl": {"training": {"max_nb_steps_per_episode": 50}},
}
out, loader, won = sys.stdout, AlfredTWEnv(config), {}
env = loader.init_env(batch_size=1)
for _ in loader.game_files:
    _, info = env.reset()
    (path,) = info["extra.gamefile"]
    won[path] = [bool(info["won"][0])]
    for command in json.load(open(path))["walkthrough"]:
        won[path].append(bool(env.step([command])[3]["won"][0]))
print(json.dumps(won), file=out)
"""


def test_the_stock_loader_finds_and_plays_generated_games(tmp_path: Path) -> None:
    written = [
        write_game(Level(seed, task_type, 207 if "light" in task_type else 7, 5 + seed, 4), tmp_path / "train")
        for seed, task_type in enumerate(TASK_TYPES)
    ]
    done = subprocess.run(
        [sys.executable, "-c", STOCK_LOADER, str(tmp_path / "train")], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    steps = {str(path): len(json.loads(path.read_text())["walkthrough"]) for path in written}
    assert json.loads(done.stdout.splitlines()[-1]) == {
        path: [False] * number + [True] for path, number in steps.items()
    }


def test_what_was_remembered_of_another_episode_changes_nothing() -> None:
    """Worlds of one game share their texts and commands; a fresh copy of the game shares nothing."""
    data = generate(Level(4, "pick_heat_then_place_in_recep", 5, 20, 30))
    game, rng = parse_game(data), random.Random(0)
    for _ in range(6):
        shared, alone = World(game), World(parse_game(data))
        assert shared.intro() == alone.intro()
        for _ in range(60):
            command = rng.choice(shared.commands)
            assert (shared.do(command), shared.commands) == (alone.do(command), alone.commands)
            assert shared.progress() == alone.progress()
