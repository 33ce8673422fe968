"""Werewolf: rules by hand, who may know what, suspicion by number, deals that the agent decides, all seats played."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
from helpers import run
from pages import section_of
from turnwise.agents.agent import ReplayAgent, ScriptedAgent
from turnwise.agents.rollout import Episode
from turnwise.agents.seats import SeatedAgent, by_seat
from turnwise.envs import RequestError, Task, UnknownName, tasks
from turnwise.envs.check import check_env
from turnwise.envs.werewolf.characters import CHARACTERS, SEEN, UNSEEN, Character, choose, suspicion
from turnwise.envs.werewolf.env import PLAYED, SIZES, WerewolfEnv
from turnwise.envs.werewolf.game import (
    ACCUSE,
    CLAIM_GOOD,
    CLAIM_WOLF,
    NAMES,
    NOTHING,
    ROLES,
    TRUST,
    WOLF,
    Decision,
    Game,
)

ID = "turnwise/Werewolf-v0"
ANN, BOB, CAT, DAN, EVE, FAY, GUS = range(7)
PLAIN = Character(hunch=0.0, accused=0.5, claimed=3.0, voted=0.25, grudge=1.0)


def table() -> Game:
    """Ann and Bob are werewolves, Cat the seer, Dan the doctor, the others villagers."""
    return Game(ROLES)


def night(game: Game, kill: int | None, see: int | None = None, save: int | None = None) -> None:
    while game.next and game.next.kind in ("kill", "see", "save"):
        game.decide({"kill": kill, "see": see, "save": save}[game.next.kind])


def talk(game: Game, *said: tuple[int, str, int]) -> None:
    while game.next and game.next.kind == "say":
        seat = game.next.seat
        mine = [each for each in said if each[0] == seat]
        game.decide(mine[0][2], mine[0][1]) if mine else game.decide(None)


def vote(game: Game, target: int | None, **others: int | None) -> None:
    while game.next and game.next.kind == "vote":
        game.decide(others.get(NAMES[game.next.seat].lower(), target))


# ---- rules -----------------------------------------------------------------------------------------------


def test_a_game_that_the_village_wins_by_hand() -> None:
    game = table()
    assert [each.kind for each in game.queue] == ["kill", "kill", "see", "save"]
    night(game, kill=GUS, see=ANN)
    assert game.alive == set(range(6)) and game.seen == {ANN: True}
    assert game.log[-1] == (None, "Day 1. Gus was killed, the villager.")
    talk(game, (CAT, CLAIM_WOLF, ANN))
    vote(game, ANN, ann=None)
    assert ANN not in game.alive and game.role_known(ANN) == WOLF and game.day == 2 and not game.winner
    night(game, kill=CAT, save=CAT)
    assert CAT in game.alive and (None, "Day 2. Nobody died.") in game.log
    talk(game)
    vote(game, BOB)
    assert game.winner == "village" and game.next is None and game.log[-1] == (None, "The village wins.")


def test_as_many_werewolves_as_others_win() -> None:
    game = table()
    night(game, kill=GUS)
    talk(game)
    vote(game, FAY)
    assert game.alive == {ANN, BOB, CAT, DAN, EVE} and not game.winner
    night(game, kill=EVE)
    assert game.alive == {ANN, BOB, CAT, DAN} and game.winner == "werewolves"


def test_werewolves_win_when_the_days_are_over() -> None:
    game = table()
    for _ in range(4):
        assert not game.winner
        night(game, kill=None)
        talk(game)
        vote(game, None)
    assert game.winner == "werewolves" and game.alive == set(range(7))


def test_a_tie_votes_nobody_out_and_the_last_word_of_the_werewolves_counts() -> None:
    game = table()
    game.decide(EVE)
    game.decide(FAY)
    night(game, kill=None)
    assert game.alive == {ANN, BOB, CAT, DAN, EVE, GUS}
    talk(game)
    vote(game, None, ann=CAT, bob=CAT, cat=ANN, dan=ANN)
    assert game.alive == {ANN, BOB, CAT, DAN, EVE, GUS} and (None, "Nobody is voted out.") in game.log
    game = table()
    game.decide(EVE)
    game.decide(None)
    night(game, kill=None)
    assert EVE not in game.alive


def test_everybody_knows_what_its_seat_may_know() -> None:
    game = table()
    night(game, kill=GUS, see=BOB, save=DAN)
    private = {"Ann wants to kill Gus.": {ANN, BOB}, "You see that Bob is a werewolf.": {CAT}}
    for seat in range(7):
        heard = game.heard_by(seat)
        assert {text for text in private if text in heard} == {t for t, seats in private.items() if seat in seats}
        assert "Dan" not in " ".join(heard)
        assert "Day 1. Gus was killed, the villager." in heard
    talk(game)
    game.decide(BOB)
    assert not any("for Bob" in text for text in game.heard_by(BOB))  # votes are told when all are cast


def test_targets() -> None:
    game = table()
    assert game.targets(Decision(ANN, "kill")) == [CAT, DAN, EVE, FAY, GUS]
    assert game.targets(Decision(CAT, "see")) == [ANN, BOB, DAN, EVE, FAY, GUS]
    assert game.targets(Decision(DAN, "save")) == list(range(7))
    night(game, kill=GUS)
    assert game.targets(Decision(CAT, "vote")) == [ANN, BOB, DAN, EVE, FAY]


# ---- characters ------------------------------------------------------------------------------------------


def after_first_day(*said: tuple[int, str, int], out: int | None = None, **votes: int | None) -> Game:
    game = table()
    night(game, kill=GUS, see=ANN)
    talk(game, *said)
    vote(game, out, **votes)
    return game


@pytest.mark.parametrize(
    ("said", "votes", "seat", "other", "expected"),
    [
        ([], {}, EVE, ANN, 0.0),
        ([(BOB, ACCUSE, FAY)], {}, EVE, FAY, 0.5),
        ([(BOB, ACCUSE, FAY), (CAT, ACCUSE, FAY)], {}, EVE, FAY, 1.0),
        ([(BOB, TRUST, FAY)], {}, EVE, FAY, -0.25),
        ([(BOB, ACCUSE, EVE)], {}, EVE, BOB, 1.0),  # a grudge
        ([(CAT, CLAIM_WOLF, ANN)], {}, EVE, ANN, 3.0),
        ([(CAT, CLAIM_GOOD, ANN)], {}, EVE, ANN, -3.0),
        ([(CAT, CLAIM_WOLF, ANN), (BOB, CLAIM_WOLF, CAT)], {}, EVE, ANN, 1.5),  # one of two who say to be the seer
        ([], {}, CAT, ANN, 20.0),  # the seer has seen it
        ([], {"out": FAY}, EVE, DAN, 0.25),  # Dan voted for Fay, who was good
        ([], {"out": ANN}, EVE, DAN, -0.25),
        ([(BOB, CLAIM_WOLF, FAY)], {"out": FAY}, EVE, BOB, 10.25),  # a false claim, and a vote for a good player
    ],
)
def test_suspicion_by_hand(
    said: list[tuple[int, str, int]], votes: dict[str, int], seat: int, other: int, expected: float
) -> None:
    assert suspicion(after_first_day(*said, **votes), seat, other, PLAIN, seed=1) == pytest.approx(expected)


def test_a_claim_is_believed_when_its_speaker_is_found_to_have_been_the_seer() -> None:
    game = after_first_day((CAT, CLAIM_WOLF, ANN), out=CAT, cat=None)
    assert suspicion(game, EVE, ANN, PLAIN, seed=1) == pytest.approx(15.25)  # 5 * 3, and a vote for Cat


def test_scripted_players_by_role() -> None:
    game = table()
    night(game, kill=GUS, see=ANN)
    assert choose(game, Decision(CAT, "say"), SEEN["logical"], 1) == (ANN, CLAIM_WOLF)
    assert choose(game, Decision(CAT, "vote"), SEEN["logical"], 1) == (ANN, NOTHING)
    talk(game, (CAT, CLAIM_WOLF, ANN))
    for name, character in CHARACTERS.items():
        target, _ = choose(game, Decision(BOB, "vote"), character, 1)
        assert target not in (ANN, BOB), name  # werewolves spare each other
    assert choose(game, Decision(EVE, "vote"), SEEN["logical"], 1) == (ANN, NOTHING)
    assert choose(game, Decision(ANN, "say"), SEEN["herd"], 1) == (CAT, CLAIM_WOLF)  # a bluff
    assert choose(game, Decision(EVE, "say"), SEEN["quiet"], 1) == (None, NOTHING)
    vote(game, None)
    assert choose(game, Decision(BOB, "kill"), SEEN["logical"], 1) == (CAT, NOTHING)  # who says to be the seer
    assert choose(game, Decision(DAN, "save"), SEEN["logical"], 1) == (CAT, NOTHING)


def test_characters_of_the_splits_are_apart() -> None:
    assert not set(SEEN) & set(UNSEEN)
    for split, pool in (("train", SEEN), ("unseen", UNSEEN)):
        env = WerewolfEnv()
        for task in tasks(ID, split, 8):
            env.reset(options={"task": task})
            assert set(env._dealt.kinds) <= set(pool)


# ---- playing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SIZES)
def test_the_expert_wins_and_doing_nothing_loses(split: str) -> None:
    listed = [Episode(task, seed=i) for i, task in enumerate(tasks(ID, split, 32))]
    assert all(t.success and all(turn.admissible for turn in t.turns) for t in run(ScriptedAgent("expert"), listed))
    by_chance = run(ScriptedAgent("random"), listed)
    assert all(turn.admissible for t in by_chance for turn in t.turns)
    assert sum(t.success for t in by_chance) < 14 and not any(t.score for t in by_chance if not t.success)
    passing = run(ReplayAgent(["pass"] * 80), listed)
    assert not any(t.success for t in passing) and all(t.stop.value == "failure" for t in passing)
    assert not any(t.success for t in run(ScriptedAgent("empty"), listed))


@pytest.mark.slow
@pytest.mark.parametrize("split", ["validation", "test", "unseen", "self_play"])
def test_the_expert_wins_every_task(split: str) -> None:
    assert all(t.success for t in run(ScriptedAgent("expert"), [Episode(task) for task in tasks(ID, split)]))


def hand_dealt(seat: int, players: str = "logical") -> WerewolfEnv:
    env = WerewolfEnv()
    params = {"role": ROLES[seat], "players": players}
    env.reset(options={"task": Task(env=ID, params=params, max_turns=30)})
    env._seat, env.game = seat, table()
    env._go_on()
    env.state = env._look("")
    return env


def test_a_seat_reads_its_own_role_and_no_other() -> None:
    assert "You are Ann, a werewolf with Bob." in hand_dealt(ANN).state.observation
    for seat, role in ((CAT, "the seer"), (EVE, "a villager"), (DAN, "the doctor")):
        text = hand_dealt(seat).state.observation
        assert f"You are {NAMES[seat]}, {role}." in text
        assert "werewolf with" not in text and "wants to kill" not in text


@pytest.mark.parametrize(
    ("action", "says", "valid"),
    [
        ("", "Write see Ann, or pass.", False),
        ("look around", "Write see Ann, or pass.", False),
        ("vote Ann", "Now is the time to see Ann", True),
        ("see Cat", "Cat cannot be chosen.", True),
        ("see Zoe", "Zoe cannot be chosen.", True),
        ("see", "Write see Ann, or pass.", True),
        ("see accuse Ann", "Write see Ann, or pass.", True),
        ("pass Ann", "To pass takes no name.", True),
    ],
)
def test_what_cannot_be_done_changes_nothing(action: str, says: str, valid: bool) -> None:
    env = hand_dealt(CAT)
    before = list(env.game.log)
    observation, *_, info = env.step(action)
    assert says in observation and info["valid"] is valid and not info["admissible"] and env.game.log == before
    assert env.step("see ann: I wonder")[-1]["admissible"] and env.game.seen == {ANN: True}


def test_speeches_and_votes_are_read() -> None:
    env = hand_dealt(CAT)
    env.step("see Ann")
    assert "Cat: I am the seer, and Ann is a werewolf. believe me" in env.step("say wolf Ann: believe me")[0]
    info = env.step("vote Ann")[-1]
    assert info["vote_accuracy"] == 1.0 and (1, CAT, ANN) in env.game.votes
    silent = hand_dealt(CAT)
    silent.step("pass")
    assert "Cat: hello all" in silent.step("say: hello all")[0]
    assert silent.step("vote Dan")[-1]["vote_accuracy"] == 0.0


def test_the_game_goes_on_without_a_player_who_is_out() -> None:
    env = hand_dealt(EVE, "herd")
    while not env.game.winner:
        env.step("pass")
    assert env.state.failure is (env.game.winner != "village") and env.step("pass")[-1]["admissible"] is False


# ---- all seats -------------------------------------------------------------------------------------------


def test_all_seats_are_played_in_turn_and_know_their_own() -> None:
    task = tasks(ID, "self_play", 1)[0]
    env = WerewolfEnv()
    _, info = env.reset(options={"task": task})
    wolves, seats = env.game.wolves, list[int]()
    assert info["seat"] == min(wolves)
    while not env.game.winner:
        seat = info["seat"]
        seats.append(seat)
        own = env.game.heard_by(seat)
        assert f"You are {NAMES[seat]}" in env.state.observation and all(line in env.state.observation for line in own)
        assert ("wants to kill" in env.state.observation) is (seat in wolves and len(seats) > 1)
        info = env.step(env.expert())[-1]
        assert info["counts"]["seat"] == seat
    assert set(seats) == set(range(7)) and info["success"]
    assert [info["counts"][f"seat_score_{k}"] for k in range(7)] == [float(k not in wolves) for k in range(7)]


def test_credit_of_all_seats() -> None:
    listed = [Episode(task, i, seed=i) for i, task in enumerate(tasks(ID, "self_play", 4))]
    for whole in run(SeatedAgent(ScriptedAgent("random")), listed):
        parts = by_seat(whole, seats=7)
        assert sum(len(part.turns) for part in parts) == len(whole.turns)
        moved = sorted({int(turn.counts["seat"]) for turn in whole.turns})  # without who was killed in the first night
        assert [part.group for part in parts] == [whole.group * 7 + seat for seat in moved]
        env = WerewolfEnv()
        env.reset(options={"task": whole.task})
        wins = [env.game.team(seat) == ("village" if whole.success else "werewolves") for seat in moved]
        assert [part.success for part in parts] == wins
        assert all(part.turns[-1].reward == part.score == float(part.success) for part in parts)


@pytest.mark.parametrize(
    ("split", "params", "error", "says"),
    [
        ("train", {"role": "wolf"}, UnknownName, "Did you mean 'werewolf'"),
        ("train", {"character": "paranoid"}, UnknownName, "character of split 'train'"),
        ("self_play", {"role": "seer"}, RequestError, "no role and no character in self_play"),
    ],
)
def test_bad_parameters_are_named(split: str, params: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        tasks(ID, split, 1, **params)


def test_roles_take_turns() -> None:
    assert [task.params["role"] for task in tasks(ID, "test", 8)] == [*PLAYED, *PLAYED]
    env = WerewolfEnv()
    for task in tasks(ID, "test", 8):
        assert env.reset(options={"task": task})[1]["role"] == task.params["role"]


def test_the_page_names_every_parameter_and_the_sizes() -> None:
    text = section_of(ID)
    own = set(inspect.signature(WerewolfEnv.tasks).parameters) - {"split", "count"}
    assert set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE)) >= own
    for split, size in SIZES.items():
        assert re.search(rf"`{split}`\s+{size:,}", text)
    assert all(f"`{name}`" in text for name in CHARACTERS)


def test_werewolf_keeps_every_promise() -> None:
    report = check_env(ID, tasks_per_split=1)
    assert report.ok, [check for check in report.checks if not check.ok]
