"""Negotiation: utilities, frontier and fair shares by hand, opponents by number, graded deals, both seats played."""

from __future__ import annotations

import inspect
import random
import re
from typing import Any

import pytest
from helpers import run
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import section_of
from turnwise.agents.agent import ReplayAgent, ScriptedAgent
from turnwise.agents.rollout import Episode
from turnwise.agents.seats import SeatedAgent
from turnwise.envs import RequestError, Task, UnknownName, tasks
from turnwise.envs.check import check_env
from turnwise.envs.negotiation.env import SIZES, NegotiationEnv
from turnwise.envs.negotiation.opponents import OPPONENTS, SEEN, UNSEEN, Moment, accepts, counter
from turnwise.envs.negotiation.scenarios import Division, Price, draw_scenario, read_parts, sale_to_list

ID = "turnwise/Negotiation-v0"
ITEMS = Division((1, 2, 1), ((6, 1, 2), (1, 4, 1)))
"""One book, two hats, a ball: Ann wants the book, Bob the hats."""
BUYING = Price(seller=1, lowest=60, highest=100, target=50, listed=110)


def at_table(scenario: Any, opponent: str, rounds: int = 8) -> NegotiationEnv:
    """An environment with a scenario of our own; the agent begins."""
    env = NegotiationEnv()
    form = "division" if isinstance(scenario, Division) else "price"
    env.reset(options={"task": Task(env=ID, params={"form": form, "opponent": opponent}, max_turns=rounds)})
    env.scenario, env.table = scenario, type(env.table)()
    return env


def moment(turn: int, *offered: float, rounds: int = 9, top: float = 10, fair: float = 5) -> Moment:
    return Moment(turn, rounds, top, fair, seed=0, offered=offered)


# ---- utilities -------------------------------------------------------------------------------------------


def test_utilities_by_hand() -> None:
    assert ITEMS.both((1, 0, 1)) == (8, 8)  # 6 + 2; 2 * 4
    assert ITEMS.both((0, 0, 0)) == (0, 10) and ITEMS.both((1, 2, 1)) == (10, 0)
    assert ITEMS.both((1, 0, 0)) == (6, 9)
    assert ITEMS.both((0, 1, 1)) == (3, 5)
    assert ITEMS.nash == {(1, 0, 1)} and ITEMS.fair(0) == 8 and ITEMS.fair(1) == 8
    assert ITEMS.frontier == {(1, 2, 1), (1, 1, 1), (1, 0, 1), (1, 0, 0), (0, 0, 0)}
    assert ITEMS.wins((1, 0, 1), 0) and ITEMS.wins((1, 1, 1), 0) and not ITEMS.wins((1, 0, 0), 0)
    assert ITEMS.wins((1, 0, 0), 1) and not ITEMS.wins((1, 1, 1), 1)


def test_prices_by_hand() -> None:
    assert BUYING.both((80,)) == (20, 20) and BUYING.both((70,)) == (30, 10) and BUYING.both((50,)) == (50, -10)
    assert BUYING.nash == {(80,)} and BUYING.fair(0) == 20
    assert BUYING.frontier == {(price,) for price in range(60, 101)}
    assert BUYING.wins((80,), 0) and not BUYING.wins((81,), 0) and BUYING.wins((81,), 1)
    odd = Price(seller=0, lowest=60, highest=65, target=55, listed=70)
    assert odd.nash == {(62,), (63,)} and odd.fair(0) == odd.fair(1) == 2


def test_sale_to_list_by_hand() -> None:
    assert sale_to_list(80, buyer=60, seller=100) == 0.5
    assert sale_to_list(100, buyer=60, seller=100) == 0.0 and sale_to_list(60, buyer=60, seller=100) == 1.0
    assert BUYING.sale_to_list((80,)) == 0.5  # (80 - 110) / (50 - 110)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(["division", "price"]), st.integers(0, 10**6))
def test_scenarios_are_worth_negotiating_and_the_frontier_is_right(form: str, seed: int) -> None:
    scenario = draw_scenario(form, random.Random(seed))
    pairs = {deal: scenario.both(deal) for deal in scenario.deals}
    for deal, (u, v) in pairs.items():
        beaten = any((a > u and b >= v) or (a >= u and b > v) for a, b in pairs.values() if min(a, b) >= 0)
        assert (deal in scenario.frontier) is (min(u, v) >= 0 and not beaten)
    assert scenario.nash <= scenario.frontier
    for seat in (0, 1):
        assert 0 < scenario.fair(seat) < max(scenario.utility(deal, seat) for deal in scenario.deals)
        for deal in scenario.deals:
            parts = read_parts(scenario.write(deal, seat))
            assert parts is not None and scenario.read(parts, seat) == deal


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("80", [("", 80)]),
        ("book=1, hats = 2", [("book", 1), ("hat", 2)]),
        ("price=7", [("price", 7)]),
        ("", None),
        ("eighty", None),
        ("book=-1", None),
        ("book=1.5", None),
        ("80 dollars", None),
    ],
)
def test_proposals_are_read(text: str, parts: list[tuple[str, int]] | None) -> None:
    assert read_parts(text) == parts


@pytest.mark.parametrize("text", ["book=2", "plum=1", "book=1 book=1", "1"])
def test_proposals_that_cannot_be(text: str) -> None:
    parts = read_parts(text)
    assert parts is not None and ITEMS.read(parts, 0) is None
    assert BUYING.read([("", 111)], 0) is None and BUYING.read([("", 0)], 0) is None


# ---- opponents -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "at", "asked"),
    [
        ("conceder", moment(1), 10.0),
        ("conceder", moment(5), 6.5),  # half of the way from 10 to 0.6 * 5
        ("conceder", moment(9), 3.0),
        ("boulware", moment(5), 10 - 7 / 16),
        ("boulware", moment(9), 3.0),
        ("tit_for_tat", moment(5), 10.0),
        ("tit_for_tat", moment(5, 4.0), 10.0),
        ("tit_for_tat", moment(5, 0.0, 2.5, 1.0), 6.5),
        ("tit_for_tat", moment(5, 0.0, 5.0), 3.0),
        ("moody", moment(1), 10.0),
        ("moody", moment(9), 3.0),
        ("hard", moment(9, 4.0), 5.0),
        ("hasty", moment(1), 3.0),
        ("ultimatum", moment(1), 3.0),
    ],
)
def test_what_opponents_take_by_hand(name: str, at: Moment, asked: float) -> None:
    assert accepts(name, at, asked) and not accepts(name, at, asked - 1e-9)


def test_moods_differ_and_stay_near_the_line() -> None:
    asked = [OPPONENTS["moody"].takes(moment(5)._replace(seed=seed)) for seed in range(50)]
    assert len(set(asked)) == 50 and all(6.5 - 1.4 <= each <= 6.5 + 1.4 for each in asked)


def test_counteroffers_give_what_is_not_asked_for() -> None:
    assert ITEMS.utility(counter("conceder", moment(1), ITEMS, 1), 1) == 10
    assert ITEMS.utility(counter("ultimatum", moment(1, 0.0, fair=8), ITEMS, 1), 1) == 8  # asks for more than it takes
    assert counter("conceder", moment(5, top=50, fair=20), BUYING, 1) == (91,)  # asks for 31 above its limit of 60


def test_seen_and_unseen_opponents_are_apart() -> None:
    assert not set(SEEN) & set(UNSEEN) and set(OPPONENTS) == set(SEEN) | set(UNSEEN)
    for split in SIZES:
        played = {task.params["opponent"] for task in tasks(ID, split, 60)}
        assert played == set(UNSEEN if split == "unseen" else ["self"] if split == "self_play" else SEEN)


# ---- playing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("deal", "score", "stop"),
    [
        ("book=1 hat=0 ball=1", 1.0, "success"),
        ("book=1 ball=1", 1.0, "success"),
        ("book=1", 0.9 * 6 / 8, "failure"),
        ("hat=0", 0.0, "failure"),
    ],
)
def test_deals_are_graded_by_hand(deal: str, score: float, stop: str) -> None:
    env = at_table(ITEMS, "hasty")
    _, reward, terminated, _, info = env.step(f"propose {deal}: please")
    assert terminated and info["stop"] == stop and reward == info["score"] == pytest.approx(score)
    assert info["utility"] == pytest.approx(score / 0.9 * 8 if score < 1 else 8) and info["fair"] == 8


def test_a_fair_share_that_wastes_something_is_no_success() -> None:
    scenario = Division((1, 1, 1), ((6, 4, 0), (1, 7, 2)))
    assert scenario.nash == {(1, 0, 0)} and scenario.fair(0) == 6 and scenario.both((1, 0, 1)) == (6, 7)
    info = at_table(scenario, "hasty").step("propose book=1 ball=1")[-1]
    assert info["utility"] == 6 and info["pareto"] is False
    assert info["score"] == 0.9 and info["stop"] == "failure" and not info["success"]


def test_a_price_is_settled_with_its_sale_to_list() -> None:
    env = at_table(BUYING, "hard")
    assert env.step("propose 70: too little?")[-1]["stop"] is None
    info = env.step("propose 80: half way")[-1]
    assert info["success"] and info["sl"] == 0.5 and info["counts"]["seat_score_0"] == 0.5


def test_accepting_takes_the_standing_offer_only() -> None:
    env = at_table(BUYING, "hard")
    observation, *_, info = env.step("accept")
    assert "no offer to accept" in observation and info["valid"] and not info["admissible"]
    observation = env.step("reject: no")[0]
    assert "Bob: I offer to sell for 80. That is what I need." in observation
    assert env.step("accept: thanks")[-1]["success"]


def test_time_runs_out() -> None:
    env = at_table(BUYING, "hard", rounds=3)
    for _ in range(2):
        assert env.step("reject")[-1]["stop"] is None
    observation, _, terminated, _, info = env.step("propose 61")
    assert terminated and info["stop"] == "failure" and "No deal." in observation and info["score"] == 0.0


def test_an_ultimatum_ends_at_the_third_proposal() -> None:
    env = at_table(BUYING, "ultimatum")
    for price in (60, 61):
        assert env.step(f"propose {price}")[-1]["stop"] is None
    observation, *_, info = env.step("propose 62")
    assert info["stop"] == "failure" and "Bob leaves." in observation


def test_an_opponents_values_stay_hidden() -> None:
    env = at_table(ITEMS, "conceder")
    said = env.step("reject")[0]
    assert "a book 6, a hat 1, a ball 2" in said and "a hat 4" not in said
    env = at_table(BUYING, "conceder")
    said = env.step("reject")[0]
    assert "at most 100" in said and "60" not in said


@pytest.mark.parametrize("text", ["", "hello", "propose", "propose a lot", "accept 5", "reject 80", "proposed 80"])
def test_what_is_no_message_costs_a_turn(text: str) -> None:
    env = at_table(BUYING, "conceder", rounds=3)
    observation, *_, info = env.step(text)
    assert not info["valid"] and not info["admissible"] and "Messages left: 2" in observation
    assert info["counts"] == {"seat": 0.0}


@pytest.mark.parametrize("split", SIZES)
def test_the_expert_wins_and_others_hardly(split: str) -> None:
    listed = [Episode(task, seed=i) for i, task in enumerate(tasks(ID, split, 112))]
    assert all(t.success for t in run(ScriptedAgent("expert"), listed))
    by_chance = run(ScriptedAgent("random"), listed)
    assert all(turn.admissible for t in by_chance for turn in t.turns)
    assert sum(t.success for t in by_chance) < 40 and all(t.score < 1 for t in by_chance if not t.success)
    assert not any(t.success or t.score for t in run(ScriptedAgent("empty"), listed))


@pytest.mark.parametrize("rounds", [3, 5, 12])
def test_the_expert_wins_in_short_and_long_negotiations(rounds: int) -> None:
    for split in ("test", "unseen"):
        played = run(ScriptedAgent("expert"), [Episode(task) for task in tasks(ID, split, 56, rounds=rounds)])
        assert all(t.success for t in played)


@pytest.mark.slow
@pytest.mark.parametrize("split", SIZES)
def test_the_expert_wins_every_task(split: str) -> None:
    assert all(t.success for t in run(ScriptedAgent("expert"), [Episode(task) for task in tasks(ID, split)]))


def test_splits_share_no_scenario_by_seed() -> None:
    seeds = {split: {task.seed for task in tasks(ID, split)} for split in SIZES}
    assert sum(map(len, seeds.values())) == len(set().union(*seeds.values()))


@pytest.mark.parametrize(
    ("split", "params", "error", "says"),
    [
        ("train", {"form": "prize"}, UnknownName, "Did you mean 'price'"),
        ("train", {"opponent": "hard"}, UnknownName, "opponent of split 'train'"),
        ("unseen", {"opponent": "conceder"}, UnknownName, "opponent of split 'unseen'"),
        ("train", {"rounds": 2}, RequestError, "Expected at least 3 rounds, got 2"),
    ],
)
def test_bad_parameters_are_named(split: str, params: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        tasks(ID, split, 1, **params)


# ---- both seats ------------------------------------------------------------------------------------------


def test_both_seats_by_hand() -> None:
    env = at_table(ITEMS, "self")
    observation, *_, info = env.step("propose book=1 hat=1 ball=1: mine")
    assert info["seat"] == 1 and info["counts"] == {"seat": 0.0}
    assert "You are Bob" in observation and "a hat 4" in observation and "a book 6" not in observation
    assert "Ann: I take book=1 hat=1 ball=1; you get book=0 hat=1 ball=0. mine" in observation
    observation, *_, info = env.step("propose hat=2: better")
    assert info["seat"] == 0 and info["counts"] == {"seat": 1.0} and "You are Ann" in observation
    info = env.step("accept")[-1]
    assert info["success"] and info["score"] == 1.0
    assert info["counts"] == {
        "seat": 0.0, "seat_score_0": 0.8, "seat_score_1": 0.8, "seat_success_0": 1.0, "seat_success_1": 1.0,
    }  # fmt: skip


def test_a_deal_of_both_seats_that_is_not_nashs_is_a_failure() -> None:
    env = at_table(ITEMS, "self")
    env.step("propose book=1 hat=1 ball=1")
    info = env.step("accept")[-1]
    assert info["stop"] == "failure" and info["score"] == pytest.approx(0.9 * 9 * 4 / 64)
    assert info["counts"]["seat_success_0"] == 1.0 and info["counts"]["seat_success_1"] == 0.0


def test_nobody_accepts_an_offer_of_its_own() -> None:
    env = at_table(ITEMS, "self")
    env.step("propose book=1 hat=1 ball=1")
    env.step("reject")
    observation, *_, info = env.step("accept")
    assert "no offer to accept" in observation and not info["admissible"] and info["seat"] == 0


def test_a_bad_message_is_counted_for_its_own_seat() -> None:
    env = at_table(ITEMS, "self")
    for text in ("hello", "\x00", "propose book=9"):
        info = env.step(text)[-1]
        assert info["seat"] == 0 and info["counts"] == {"seat": 0.0}
    env.step("reject")
    assert env.step("accept")[-1]["counts"] == {"seat": 1.0}


def test_scripted_agents_play_both_seats() -> None:
    listed = [Episode(task, i, seed=i) for i, task in enumerate(tasks(ID, "self_play", 20))]
    assert all(t.success for t in run(SeatedAgent(ScriptedAgent("expert")), listed))
    mixed = run(SeatedAgent(ScriptedAgent("random"), ScriptedAgent("expert")), listed)
    assert {turn.counts["seat"] for t in mixed for turn in t.turns} == {0.0, 1.0}
    assert all(turn.admissible for t in mixed for turn in t.turns)


def test_the_page_names_every_parameter_and_the_sizes() -> None:
    text = section_of(ID)
    own = set(inspect.signature(NegotiationEnv.tasks).parameters) - {"split", "count"}
    assert set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE)) >= own
    for split, size in SIZES.items():
        assert re.search(rf"`{split}`\s+{size:,}", text)
    assert all(f"`{name}`" in text for name in OPPONENTS)


def test_a_recorded_negotiation_replays() -> None:
    task = tasks(ID, "test", 1)[0]
    first = run(ScriptedAgent("expert"), [Episode(task)])[0]
    again = run(ReplayAgent([turn.action for turn in first.turns]), [Episode(task)])[0]
    assert [turn.observation for turn in again.turns] == [turn.observation for turn in first.turns] and again.success


def test_negotiation_keeps_every_promise() -> None:
    report = check_env(ID, tasks_per_split=2)
    assert report.ok, [check for check in report.checks if not check.ok]
