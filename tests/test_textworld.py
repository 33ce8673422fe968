from __future__ import annotations

import asyncio
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from malformed import survives
from turnwise.envs import RequestError, Task, UnknownName, make, tasks
from turnwise.envs.check import check_env
from turnwise.envs.pool import EnvPool, PlayedEnv
from turnwise.envs.textworld import games
from turnwise.envs.textworld.env import follow, refuse

pytest.importorskip("textworld")

FAMILIES: dict[str, dict[str, Any]] = {
    "custom": {"grid": "w2-o3-q4"},
    "coin_collector": {"family": "coin_collector", "level": 4},
    "treasure_hunter": {"family": "treasure_hunter", "level": 12},
    "cooking": {"family": "cooking", "recipe": 2, "take": 1, "open": True, "cook": True, "cut": True},
    "simple": {"family": "simple"},
}
Policy = Callable[[PlayedEnv, dict[str, Any], int], Any]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory):
    """A cache of this module's own."""
    folder, before = tmp_path_factory.mktemp("cache"), os.environ.get("TURNWISE_CACHE")
    os.environ["TURNWISE_CACHE"] = str(folder)
    yield folder
    os.environ.pop("TURNWISE_CACHE")
    if before is not None:
        os.environ["TURNWISE_CACHE"] = before


@pytest.fixture(scope="module")
def pool(cache: Path):
    pool = EnvPool(workers=2, deadline_s=120)
    yield pool
    pool.close()


@pytest.fixture(scope="module", params=FAMILIES)
def task(request: pytest.FixtureRequest, cache: Path) -> Task:
    return tasks("TextWorld", "test", 1, **FAMILIES[request.param])[0]


def play(pool: EnvPool, task: Task, policy: Policy, **kwargs: Any) -> list[Any]:
    """(observation, info), then (action, observation, reward, terminated, truncated, info) of each turn."""

    async def run() -> list[Any]:
        async with pool.lease(task, **kwargs) as env:
            transcript: list[Any] = [await env.reset()]
            while transcript[-1][-1]["stop"] is None:
                action = policy(env, transcript[-1][-1], len(transcript) - 1)
                action = action if isinstance(action, str) else await action
                transcript.append((action, *await env.step(action)))
            return transcript

    return asyncio.run(run())


def expert(env: PlayedEnv, info: dict[str, Any], turn: int) -> Any:
    return env.expert()


def back(step: str) -> str:
    """`go south` for `go north`."""
    return "go " + {"north": "south", "south": "north", "east": "west", "west": "east"}[step.split()[1]]


def actions(transcript: list[Any]) -> list[str]:
    return [turn[0] for turn in transcript[1:]]


def test_the_expert_wins_and_the_score_is_a_sum_of_deltas(pool: EnvPool, task: Task) -> None:
    transcript = play(pool, task, expert)
    info = transcript[-1][-1]
    assert (info["stop"], info["success"], info["score"]) == ("success", True, info["max_score"])
    assert sum(turn[2] for turn in transcript[1:]) == info["max_score"]
    assert all(turn[-1]["admissible"] for turn in transcript[1:])


def test_the_empty_and_the_idle_agent_lose(pool: EnvPool, task: Task) -> None:
    task = task.model_copy(update={"max_turns": 8})
    for action in ("", "look", "ünknown ⚔ verb", "take everything"):
        info = play(pool, task, lambda env, info, turn, action=action: action)[-1][-1]
        assert (info["stop"], info["success"], info["turn"], info["score"]) == ("turn_limit", False, 8, 0.0)
        assert (info["valid"], info["admissible"]) == (action != "", action == "look")


def test_replay_is_byte_identical_in_another_worker_with_and_without_lists(pool: EnvPool, task: Task) -> None:
    """A random walk over the listed commands, then the same actions in a fresh process; lists change no text."""
    rng = random.Random(0)
    task = task.model_copy(update={"max_turns": 10})
    walk = play(pool, task, lambda env, info, turn: rng.choice(info["commands"]))
    other = EnvPool(workers=1)
    script = actions(walk)
    assert play(other, task, lambda env, info, turn: script[turn]) == walk
    bare = play(other, task, lambda env, info, turn: script[turn], commands=False)
    other.close()
    assert [turn[:-1] for turn in bare] == [turn[:-1] for turn in walk]
    assert all(turn[-1]["commands"] is None for turn in bare)


def test_text_has_no_title_no_status_line_and_no_walkthrough(pool: EnvPool, task: Task) -> None:
    transcript = play(pool, task, expert)
    first, info = transcript[0]
    assert first.startswith("-= ") and info["goal"] not in first and len(info["goal"]) > 20
    for observation in [first, *(turn[1] for turn in transcript[1:])]:
        assert "$$" not in observation and "RESTART" not in observation
        assert re.search(r"=-\s*\d+/\d+", observation) is None
    words = info["goal"].lower()
    assert not any(f"go {way}" in words or f"head {way}" in words for way in ("north", "south", "east", "west"))
    assert info["anchor"] == first


def test_fresh_processes_make_byte_identical_games_even_when_they_race(cache: Path, tmp_path: Path) -> None:
    """Two processes make the same games in one folder, workers made them in another; hash seeds differ."""
    script = (
        "import json, sys; from turnwise.envs import tasks; from turnwise.envs.textworld.games import ensure_game;"
        "[print(ensure_game(tasks('TextWorld', 'test', 1, **sizes)[0])) for sizes in json.loads(sys.argv[1])]"
    )
    sizes = [FAMILIES[name] for name in ("coin_collector", "cooking", "simple")]  # two keep sets in their files
    listed = [tasks("TextWorld", "test", 1, **each)[0] for each in sizes]
    games.prepare(listed)
    command = [sys.executable, "-c", script, json.dumps(sizes)]
    environment = {**os.environ, "TURNWISE_CACHE": str(tmp_path)}
    runs = [
        subprocess.Popen(command, env={**environment, "PYTHONHASHSEED": seed}, stdout=subprocess.PIPE, text=True)
        for seed in ("1", "2")
    ]
    first, second = ([Path(line) for line in run.communicate()[0].split()] for run in runs)
    assert len(first) == 3 and first == second
    for task, path in zip(listed, first, strict=True):
        assert sorted(file.name for file in path.parent.iterdir()) == ["game.json", "game.z8"]
        for suffix in (".json", ".z8"):
            assert path.with_suffix(suffix).read_bytes() == games.game_path(task).with_suffix(suffix).read_bytes()
    assert not list(tmp_path.rglob("making-*"))


def test_cooking_pays_in_steps_and_a_burnt_ingredient_loses(pool: EnvPool) -> None:
    task = tasks("TextWorld", "test", 1, **FAMILIES["cooking"])[0]
    won = play(pool, task, expert)
    rewards = [turn[2] for turn in won[1:]]
    assert set(rewards) == {0.0, 1.0} and rewards.count(1.0) == won[-1][-1]["max_score"] > 3
    scores = [turn[-1]["score"] for turn in won]
    assert [after - before for before, after in pairwise(scores)] == rewards

    cooked = next(action for action in actions(won) if action.startswith("cook"))
    script = [*actions(won)[: actions(won).index(cooked) + 1], cooked]
    lost = play(pool, task, lambda env, info, turn: script[turn])[-1]
    assert (lost[3], lost[4], lost[-1]["stop"], lost[-1]["success"]) == (True, False, "failure", False)
    assert lost[-1]["score"] < lost[-1]["max_score"]


def test_the_expert_wins_after_a_wrong_turn(pool: EnvPool) -> None:
    """Idle and impossible actions keep the walkthrough; a real one makes the engine plan anew."""
    task = tasks("TextWorld", "test", 1, **FAMILIES["coin_collector"])[0]
    walkthrough = actions(play(pool, task, expert))

    def wander(env: PlayedEnv, info: dict[str, Any], turn: int) -> Any:
        return {0: "look", 1: "eat the coin", 3: back(walkthrough[0])}.get(turn) or env.expert()

    expected = ["look", "eat the coin", walkthrough[0], back(walkthrough[0]), *walkthrough]
    assert actions(play(pool, task, wander)) == expected


def test_a_seed_whose_quest_is_too_short_stands_for_the_next_in_its_stride(cache: Path) -> None:
    """Seed 4 falls short of five steps; seed 3 does not."""
    kept, moved = tasks("TextWorld", "test", 4, grid="w2-o2-q5")[2:]
    short = games._custom(moved.params, games._options(moved, moved.seed))
    assert len(short.metadata["walkthrough"]) < 5
    for task, seed in ((kept, 3), (moved, 4 + games.SEED_STRIDE)):
        game, options = games.generate(task)
        assert len(game.metadata["walkthrough"]) == 5
        assert options.seeds == games._options(task, seed).seeds


def test_the_goal_spells_out_the_walkthrough_only_when_asked(cache: Path) -> None:
    plain, spelled = (
        games.generate(tasks("TextWorld", "test", 1, grid="w4-o6-q6", walkthrough_in_goal=flag)[0])[0]
        for flag in (False, True)
    )
    assert plain.metadata["walkthrough"] == spelled.metadata["walkthrough"]
    assert len(spelled.objective) > 2 * len(plain.objective)
    with pytest.raises(RequestError, match="cooking"):
        tasks("TextWorld", "test", 1, family="cooking", walkthrough_in_goal=True)


@pytest.mark.parametrize(
    ("grid", "count"),
    [("w1-o1-q1", 2), ("w2-o3-q4", 2), ("w4-o6-q8", 2), pytest.param("w8-o12-q12", 3, marks=pytest.mark.slow)],
)
def test_the_quest_has_the_length_of_the_grid_and_the_game_its_size(grid: str, count: int) -> None:
    """Among these, w8-o12-q12 is rarely reached at the first seed."""
    rooms, objects, quest = map(int, re.findall(r"\d+", grid))
    for task in tasks("TextWorld", "train", count, grid=grid):
        game, _ = games.generate(task)
        assert (len(game.metadata["walkthrough"]), len(game.world.rooms)) == (quest, rooms)
        assert len(game.world.objects) >= objects


def test_simple_pays_by_its_density_and_says_what_its_goal_asks(pool: EnvPool) -> None:
    """Walkthrough of the first test game: trunk, key, unlock, open, kitchen, south, take, north, stove."""
    found = {
        sizes: play(pool, tasks("TextWorld", "test", 1, family="simple", rewards=sizes[0], goal=sizes[1])[0], expert)
        for sizes in [("dense", "brief"), ("balanced", "none"), ("sparse", "detailed")]
    }
    rewards = {density: [turn[2] for turn in played[1:]] for (density, _), played in found.items()}
    assert rewards == {
        "dense": [1, 1, 1, 1, 1, 1, 1, 0, 1],
        "balanced": [0, 0, 0, 0, 1, 0, 1, 0, 1],
        "sparse": [0, 0, 0, 0, 0, 0, 0, 0, 1],
    }
    goals = {goal: played[0][1]["goal"] for (_, goal), played in found.items()}
    assert goals["brief"] == "The dinner is almost ready! It's only missing a grilled carrot." and goals["none"] == ""
    assert "carrot on the stove" in goals["detailed"] and "key" not in goals["detailed"]
    assert all(played[0][0].startswith("-= Bedroom =-") for played in found.values())


def test_simple_keeps_its_test_food_and_its_walkthrough_for_those_who_ask(cache: Path) -> None:
    asked = {"family": "simple", "goal": "detailed", "walkthrough_in_goal": True}
    spelled, _ = games.generate(tasks("TextWorld", "test", 1, **asked)[0])
    assert "old key" in spelled.objective and "carrot" in spelled.objective
    seen = [games.generate(tasks("TextWorld", split, 1, family="simple")[0])[0] for split in ("train", "validation")]
    assert all(not {"garlic", "kiwi", "carrot"} & {e.name for e in game.world.entities} for game in seen)


def test_every_cooking_parameter_reaches_the_game(cache: Path) -> None:
    def made(**sizes: Any) -> tuple[Any, set[str]]:
        game, _ = games.generate(tasks("TextWorld", "train", 1, family="cooking", **sizes)[0])
        return game, {command.split()[0] for command in game.metadata["walkthrough"]}

    cuts = {"slice", "dice", "chop"}
    game, verbs = made(recipe=1, take=0)
    assert verbs >= {"prepare", "eat"} and not verbs & {"take", "go", "open", "cook", *cuts}
    assert len(game.world.rooms) == 1 and "slot" not in {entity.type for entity in game.world.entities}
    game, verbs = made(recipe=3, take=3, go=6, open=1, cook=1, cut=1, drop=1)
    assert verbs >= {"take", "go", "open", "cook", "drop", "prepare", "eat"} and verbs & cuts
    assert len(game.world.rooms) == 6 and "slot" in {entity.type for entity in game.world.entities}
    assert len([fact for fact in game.world.facts if fact.name == "base"]) == 3


def test_a_recipe_seed_changes_the_recipe_and_foods_the_pantry(cache: Path) -> None:
    def made(**sizes: Any) -> tuple[set[str], set[str]]:
        world = games.generate(tasks("TextWorld", "train", 1, family="cooking", recipe=2, take=2, **sizes)[0])[0].world
        recipe = {str(fact) for fact in world.facts if fact.name == "base"}
        return recipe, {entity.name for entity in world.entities if entity.type == "f"}

    (plain, pantry), (other, same), (_, another) = made(), made(recipe_seed=3), made(foods="all")
    assert plain != other and pantry == same != another


def test_expensive_facts_are_asked_of_the_engine_only_when_needed(
    pool: EnvPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import textworld.helpers

    task = tasks("TextWorld", "test", 1, **FAMILIES["coin_collector"])[0]
    asked, honest = list[set[str]](), textworld.helpers.start

    def start(path: str, infos: Any, *args: Any) -> Any:
        costly = ("admissible_commands", "policy_commands", "intermediate_reward", "facts", "description", "inventory")
        asked.append({name for name in costly if getattr(infos, name)})
        return honest(path, infos, *args)

    monkeypatch.setattr(textworld.helpers, "start", start)

    def costs(steps: list[str], **kwargs: Any) -> list[set[str]]:
        asked.clear()
        env = make("TextWorld", **kwargs.pop("make", {}))
        env.reset(options={"task": task.model_copy(update={"params": {**task.params, **kwargs}})})
        for action in steps:
            env.step(action or env.expert())
        env.close()
        return list(asked)

    walkthrough = actions(play(pool, task, expert))
    assert costs([""] * len(walkthrough)) == [{"admissible_commands"}]
    assert costs([""] * len(walkthrough), make={"commands": False}) == [set()]
    assert costs(["", back(walkthrough[0]), ""], make={"commands": False}) == [set(), {"policy_commands"}]
    assert costs([""], dense=True) == [{"admissible_commands", "policy_commands"}]


@pytest.mark.parametrize("family", games.DENSE)
def test_dense_counts_the_steps_that_are_left(pool: EnvPool, family: str) -> None:
    """One point per step of the walkthrough; going back costs it again; a loser stays below the winner's score."""
    plain, dense = (tasks("TextWorld", "test", 1, **FAMILIES[family], dense=flag)[0] for flag in (False, True))
    assert games.game_path(plain) == games.game_path(dense) and plain.key != dense.key
    sparse, paid = play(pool, plain, expert), play(pool, dense, expert)
    assert [(turn[0], turn[1]) for turn in paid[1:]] == [(turn[0], turn[1]) for turn in sparse[1:]]
    assert [turn[2] for turn in sparse[1:]] == [0.0] * (len(paid) - 2) + [1.0]
    assert [turn[2] for turn in paid[1:]] == [1.0] * (len(paid) - 1)
    assert paid[-1][-1]["score"] == paid[-1][-1]["max_score"] == len(paid) - 1
    rng, top = random.Random(5), len(paid) - 1
    walk = play(pool, dense, lambda env, info, turn: rng.choice(info["commands"]))
    scores = [turn[-1]["score"] for turn in walk]
    assert scores[0] == 0.0 and all(0 <= turn[-1]["score"] < top for turn in walk if not turn[-1]["success"])
    assert [after - before for before, after in pairwise(scores)] == [turn[2] for turn in walk[1:]]


def test_dense_takes_back_what_a_step_back_undoes(pool: EnvPool) -> None:
    task = tasks("TextWorld", "test", 1, **FAMILIES["coin_collector"], dense=True)[0]
    ahead = actions(play(pool, task, expert))[0]
    script = [ahead, "look", back(ahead)]
    rewards = [turn[2] for turn in play(pool, task, lambda env, info, turn: script[turn % 3])[1:]]
    assert rewards[:3] == [1.0, 0.0, -1.0]


@pytest.mark.parametrize("actions", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_malformed_actions_get_an_answer(pool: EnvPool, task: Task, actions: int) -> None:
    survives(pool, task, actions)


def test_prepare_compiles_what_is_missing_once(cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    missing = tasks("TextWorld", "validation", 2, grid="w1-o2-q1")
    assert games.prepare(missing) == 2
    assert all(games.game_path(task).is_file() for task in missing)
    assert games.prepare(missing + missing) == 0
    assert capfd.readouterr().out == ""  # progress goes to standard error


def test_listing_tasks_does_not_import_the_engine() -> None:
    script = "import sys, turnwise.envs as e; e.tasks('TextWorld', 'train', 9); print('textworld' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "False\n"


def test_splits_start_where_the_paper_does_and_do_not_meet() -> None:
    listed = {split: tasks("TextWorld", split) for split in games.SPLITS}
    assert (listed["train"][0].seed, listed["demonstrations"][0].seed) == (50_001, 40_001)
    assert [task.seed for task in listed["test"]] == list(range(1, 101))
    keys = [task.key for split in listed.values() for task in split]
    assert len(keys) == len(set(keys))
    seeds = {task.seed % games.SEED_STRIDE for split in listed.values() for task in split}
    assert len(seeds) == len(keys)  # nor do the seeds tried after a rejected one


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"family": "cookin"}, "Did you mean 'cooking'"),
        ({"room": 3}, "Did you mean 'rooms'"),
        ({"grid": "w2o3q4"}, "w2-o3-q4"),
        ({"quest": 0}, r"quest of custom in 1\.\.50, got 0"),
        ({"family": "cooking", "recipe": 1, "take": 2}, "take <= recipe"),
        ({"family": "cooking", "go": 5}, "1, 6, 9, 12"),
        ({"family": "coin_collector", "level": 151}, "102 rooms"),
        ({"family": "cooking", "recipe_seed": 1, "take": 0}, "take >= 1 with a recipe_seed"),
        ({"family": "cooking", "foods": "valide"}, "foods of cooking in split, train, valid, test, all, got valide"),
        ({"family": "simple", "rewards": "rare"}, "rewards of simple in dense, balanced, sparse, got rare"),
        ({"family": "simple", "level": 3}, "size of turnwise/TextWorld-v0 family simple 'level'"),
        ({"family": "simple", "walkthrough_in_goal": True}, "goal=detailed with it, got goal=brief"),
        ({"family": "simple", "dense": True}, "got simple, which pays step by step by itself"),
    ],
)
def test_wrong_sizes_are_refused_with_the_right_ones(params: dict[str, Any], message: str) -> None:
    with pytest.raises((RequestError, UnknownName), match=message):
        tasks("TextWorld", "test", 1, **params)


def test_equal_sizes_give_equal_tasks_and_the_paper_s_turn_limits() -> None:
    assert tasks("TextWorld", "test", 2, grid="w4-o6-q8") == tasks("TextWorld", "test", 2, rooms=4, objects=6, quest=8)
    assert [tasks("TextWorld", "test", 1, grid=grid)[0].max_turns for grid in ("w2-o3-q4", "w4-o6-q8")] == [12, 24]
    assert tasks("TextWorld", "test", 1, max_turns=7)[0].max_turns == 7


@pytest.mark.parametrize(
    "action",
    ["quit", "Q", "transcriptx", "restart", "save", "print_state", "tw-print version", "oops quit", "undo", "script on",
     "look. quit", "look, quit", "look then quit", "...", "restrict commands", "\\help", "look \\x"],
)  # fmt: skip
def test_commands_to_the_interpreter_never_reach_it(action: str) -> None:
    assert refuse(action) is not None


@pytest.mark.parametrize("action", ["look", "take key from chest.", "Go North!", "open type J chest", "again", "key"])
def test_actions_in_the_game_pass(action: str) -> None:
    assert refuse(action) is None


def test_the_first_action_has_nothing_to_repeat(pool: EnvPool) -> None:
    """The interpreter would repeat one of the library's own commands and say nothing."""
    task = tasks("TextWorld", "test", 1, **FAMILIES["coin_collector"])[0]
    assert refuse("again") is None and refuse("G!", first=True) == refuse("again", first=True)
    script = ["again", "look", "g"]
    met = play(pool, task.model_copy(update={"max_turns": 3}), lambda env, info, turn: script[turn])[1:]
    assert [turn[1] for turn in met[:1]] == ["You can hardly repeat that."] and not met[0][-1]["admissible"]
    assert met[1][1] == met[2][1] and met[1][1].startswith("-= ")


def test_the_walkthrough_is_followed_by_hand_numbers() -> None:
    walkthrough = ["inventory", "go east", "examine book", "cook egg with BBQ"]
    assert follow(walkthrough, 0, "inventory", True) == 1
    assert follow(walkthrough, 0, "go east", True) == 2  # an idle command may be skipped
    assert follow(walkthrough, 2, "cook egg with bbq", True) == 4
    assert follow(walkthrough, 1, "look", True) == 1
    assert follow(walkthrough, 1, "go up", False) == 1
    assert follow(walkthrough, 1, "go west", True) is None
    assert follow(walkthrough, None, "go east", True) is None


def test_a_worker_plays_many_games_without_mixing_them(pool: EnvPool) -> None:
    listed = [tasks("TextWorld", "test", 1, **params)[0] for params in FAMILIES.values()]
    alone = [play(pool, task, expert) for task in listed]
    one = EnvPool(workers=1)
    assert [play(one, task, expert) for task in [*listed, *reversed(listed)]] == [*alone, *reversed(alone)]
    one.close()


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_promise_is_kept(cache: Path, family: str) -> None:
    report = check_env("TextWorld", tasks_per_split=1, **FAMILIES[family])
    assert report.ok, [check for check in report.checks if not check.ok]
