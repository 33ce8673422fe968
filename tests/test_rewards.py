from __future__ import annotations

import random
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnwise.agents.trajectory import Trajectory, Turn
from turnwise.envs import RequestError, StopReason, Task, UnknownName, make, tasks
from turnwise.rewards import (
    COMPONENTS,
    Component,
    DenseProgress,
    InadmissibleActionPenalty,
    InvalidActionPenalty,
    SparseOutcome,
    StepCost,
    check_ordering,
    score,
    total,
)


@dataclass(frozen=True)
class FakeTurn:
    reward: float
    score: float
    valid: bool = True
    admissible: bool = True
    counts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class FakeEpisode:
    turns: list[FakeTurn]
    max_score: float
    success: bool
    stop: StopReason


def episode(scores: list[float], max_score: float, success: bool, stop: StopReason | None = None) -> FakeEpisode:
    turns = [FakeTurn(after - before, after) for before, after in pairwise([0.0, *scores])]
    return FakeEpisode(turns, max_score, success, stop or (StopReason.SUCCESS if success else StopReason.TURN_LIMIT))


def test_cumulative_scores_become_turn_rewards_by_hand_numbers() -> None:
    """Scores [1,1,1,2] of 2: deltas [1,0,0,1], progress [.5,0,0,.5]; a loss with [1,1,1,1] has [.5,0,0,0]."""
    won, lost = episode([1, 1, 1, 2], 2, True), episode([1, 1, 1, 1], 2, False)
    assert [turn.reward for turn in won.turns] == [1, 0, 0, 1]
    assert score(won, {"progress": 1.0}) == {"progress": [0.5, 0, 0, 0.5]}
    assert score(lost, {"progress": 1.0}) == {"progress": [0.5, 0, 0, 0]}
    assert (total(won, {"progress": 1.0}), total(lost, {"progress": 1.0})) == (1.0, 0.5)


def test_components_stay_apart_and_weighted() -> None:
    turns = [FakeTurn(0, 0, valid=False, admissible=False), FakeTurn(0, 0, admissible=False), FakeTurn(3, 3)]
    won = FakeEpisode(turns, 3, True, StopReason.SUCCESS)
    weights = {"outcome": 2.0, "invalid_penalty": 0.5, "inadmissible_penalty": 0.25, "step_cost": 0.125}
    assert score(won, weights) == {
        "outcome": [0, 0, 2],
        "invalid_penalty": [-0.5, 0, 0],
        "inadmissible_penalty": [0, -0.25, 0],
        "step_cost": [-0.125, -0.125, -0.125],
    }
    assert total(won, weights) == 2 - 0.5 - 0.25 - 0.375


@pytest.mark.parametrize("stop", list(StopReason))
def test_a_broken_episode_is_not_scored_and_every_other_is(stop: StopReason) -> None:
    scored = score(episode([1.0], 2, stop is StopReason.SUCCESS, stop), dict.fromkeys(COMPONENTS, 1.0))
    broken = stop in (StopReason.ENV_ERROR, StopReason.ENGINE_ERROR, StopReason.ABORTED)
    assert all((per_turn is None) is broken for per_turn in scored.values())
    assert (total(episode([1.0], 2, False, stop), {"progress": 1.0}) is None) is broken


def test_a_real_trajectory_is_scored_alike() -> None:
    turns = [
        Turn(observation="", anchor="", action="a", reward=reward, score=now, valid=True, admissible=True)
        for reward, now in [(1.0, 1.0), (0.0, 1.0), (0.0, 1.0), (1.0, 2.0)]
    ]
    won = Trajectory(
        task=Task(env="turnwise/Toy-v0"), agent="x", turns=tuple(turns), stop=StopReason.SUCCESS, success=True,
        score=2.0, max_score=2.0,
    )  # fmt: skip
    assert score(won, {"progress": 1.0, "outcome": 1.0}) == {"progress": [0.5, 0, 0, 0.5], "outcome": [0, 0, 0, 1]}


def test_unknown_components_and_senseless_scores_are_refused() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'progress'"):
        score(episode([1], 1, True), {"progres": 1.0})
    with pytest.raises(RequestError, match="max_score > 0"):
        score(episode([1], 0, True), {"progress": 1.0})


@pytest.mark.parametrize(
    ("weights", "max_turns", "accepted"),
    [
        ({"outcome": 1.0}, 50, True),
        ({"progress": 1.0}, 50, True),  # a loss comes near 1 and stays below
        ({"outcome": 1.0, "step_cost": 0.01}, 100, True),  # worst win 1 - 100/100, best loss -1/100
        ({"outcome": 1.0, "step_cost": 0.01}, 101, False),  # worst win -.01 is no better
        ({"outcome": 1.0, "invalid_penalty": 0.1}, 10, True),  # 1 - 9 * .1 > 0
        ({"outcome": 1.0, "invalid_penalty": 0.125}, 9, False),  # 1 - 8 / 8 = 0
        ({"progress": 1.0, "step_cost": 0.01}, 2, False),  # a loss just below 1 in one turn
        ({"outcome": 0.5, "progress": 1.0, "step_cost": 0.01}, 50, True),
        ({"step_cost": 1.0}, 1, False),
        ({"outcome": 0.0}, 5, False),
    ],
)
def test_ordering_by_hand_numbers(weights: dict[str, float], max_turns: int, accepted: bool) -> None:
    if accepted:
        check_ordering(weights, max_turns)
    else:
        with pytest.raises(RequestError, match="could score as much as a success"):
            check_ordering(weights, max_turns)


def test_negative_missing_and_unknown_weights_are_refused() -> None:
    with pytest.raises(RequestError, match=">= 0"):
        check_ordering({"outcome": 1.0, "step_cost": -0.01}, 5)
    with pytest.raises(RequestError, match="at least one"):
        check_ordering({}, 5)
    with pytest.raises(UnknownName, match="Did you mean 'outcome'"):
        check_ordering({"outcom": 1.0}, 5)


@st.composite
def episodes(draw: st.DrawFn, success: bool, max_turns: int) -> FakeEpisode:
    """Any episode that keeps the environments' promises: a win ends at max_score, a loss below it."""
    max_score = draw(st.integers(1, 20))
    count = draw(st.integers(1, max_turns))
    scores = [draw(st.integers(0, max_score - 1)) for _ in range(count)]
    flags = draw(
        st.lists(st.sampled_from([(True, True), (True, False), (False, False)]), min_size=count, max_size=count)
    )
    if success:
        scores[-1], flags[-1] = max_score, (True, True)
    turns = [
        FakeTurn(after - before, after, *flag)
        for (before, after), flag in zip(pairwise([0, *scores]), flags, strict=True)
    ]
    return FakeEpisode(turns, max_score, success, StopReason.SUCCESS if success else StopReason.FAILURE)


@given(st.data(), st.integers(1, 6), st.dictionaries(st.sampled_from(sorted(COMPONENTS)), st.floats(0, 4), min_size=1))
def test_no_loser_outscores_a_winner_under_accepted_weights(
    data: st.DataObject, max_turns: int, weights: dict[str, float]
) -> None:
    try:
        check_ordering(weights, max_turns)
    except RequestError:
        return
    won, lost = (data.draw(episodes(success, max_turns)) for success in (True, False))
    best, worst = total(lost, weights), total(won, weights)
    assert best is not None and worst is not None and worst >= best - 1e-9


@given(st.integers(2, 30), st.floats(0.001, 2), st.sampled_from(["step_cost", "invalid_penalty"]))
def test_what_is_refused_has_a_loser_that_wins(max_turns: int, weight: float, name: str) -> None:
    """Outcome against one penalty: the bound is reached by the slowest, clumsiest win and the quickest loss."""
    weights = {"outcome": 1.0, name: weight}
    clumsy = FakeTurn(0, 0, valid=False, admissible=False)
    worst = FakeEpisode([clumsy] * (max_turns - 1) + [FakeTurn(1, 1)], 1, True, StopReason.SUCCESS)
    best = FakeEpisode([FakeTurn(0, 0)], 1, False, StopReason.FAILURE)
    gap = total(worst, weights) - total(best, weights)  # type: ignore[operator]
    if abs(gap) < 1e-9:
        return
    if gap > 0:
        check_ordering(weights, max_turns)
    else:
        with pytest.raises(RequestError):
            check_ordering(weights, max_turns)


def test_adding_a_component_is_one_function_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    brevity = Component(lambda episode: [1.0 / len(episode.turns)] * len(episode.turns), lambda T: 1.0, lambda T: 1.0)
    monkeypatch.setitem(COMPONENTS, "brevity", brevity)
    assert score(episode([1, 2], 2, True), {"brevity": 2.0}) == {"brevity": [1.0, 1.0]}
    check_ordering({"brevity": 1.0, "outcome": 0.1}, 9)
    with pytest.raises(RequestError):
        check_ordering({"brevity": 1.0}, 9)


def rewards(env, task: Task, actions: list[str]) -> list[float]:
    env.reset(options={"task": task})
    return [env.step(action)[1] for action in actions]


def test_wrappers_by_hand_numbers() -> None:
    task = tasks("Toy", "train", 1, rooms=2, slack=5)[0]
    plain = make("Toy")
    plain.reset(options={"task": task})
    first = plain.expert()
    plain.step(first)
    actions = ["", "sing", first, plain.expert()]
    assert rewards(make("Toy"), task, actions) == [0, 0, 1, 1]
    assert rewards(SparseOutcome(make("Toy")), task, actions) == [0, 0, 0, 1]
    assert rewards(DenseProgress(make("Toy")), task, actions) == [0, 0, 0.5, 0.5]
    assert rewards(InvalidActionPenalty(make("Toy"), 0.25), task, actions) == [-0.25, 0, 1, 1]
    assert rewards(InadmissibleActionPenalty(make("Toy"), 0.25), task, actions) == [0, -0.25, 1, 1]
    nested = StepCost(InvalidActionPenalty(DenseProgress(make("Toy")), 0.25), 0.125)
    assert rewards(nested, task, actions) == [-0.375, -0.125, 0.375, 0.375]
    assert rewards(nested, task, actions) == [-0.375, -0.125, 0.375, 0.375]  # a reset forgets the last score
    with pytest.raises(RequestError, match="cost >= 0"):
        StepCost(make("Toy"), -1.0)


def test_wrappers_and_components_agree_on_random_games() -> None:
    """Two routes to the same numbers: wrapped steps, and components of the recorded episode."""
    pairs = {
        "outcome": lambda env: SparseOutcome(env),
        "progress": lambda env: DenseProgress(env),
        "invalid_penalty": lambda env: InvalidActionPenalty(SilentReward(env), 1.0),
        "inadmissible_penalty": lambda env: InadmissibleActionPenalty(SilentReward(env), 1.0),
        "step_cost": lambda env: StepCost(SilentReward(env), 1.0),
    }
    rng = random.Random(0)
    for task in tasks("Toy", "test", 30, rooms=2, slack=3):
        env = make("Toy")
        _, info = env.reset(options={"task": task})
        turns, actions = [], []
        while info["stop"] is None:
            actions.append(rng.choice(["", "sing", "open red door", env.expert()]))
            _, reward, _, _, info = env.step(actions[-1])
            turns.append(FakeTurn(reward, info["score"], info["valid"], info["admissible"]))
        played = FakeEpisode(turns, info["max_score"], info["success"], StopReason(info["stop"]))
        for name, wrap in pairs.items():
            assert score(played, {name: 1.0})[name] == rewards(wrap(make("Toy")), task, actions)


class SilentReward(SparseOutcome):
    """Reward 0, to see a penalty alone."""

    def step(self, action: str):
        observation, _, terminated, truncated, info = self.env.step(action)
        return observation, 0.0, terminated, truncated, info
