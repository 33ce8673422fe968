"""The service desk: policies, scenarios, the customer, the rules, the grader on right and on wrong service."""

from __future__ import annotations

import asyncio
import inspect
import json
import math
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from helpers import run
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import section_of
from turnwise.agents.agent import ReplayAgent, ScriptedAgent
from turnwise.agents.rollout import Episode, Limits, rollout
from turnwise.envs import RequestError, StopReason, Task, UnknownName, tasks
from turnwise.envs.check import check_env
from turnwise.envs.pool import EnvPool
from turnwise.envs.servicedesk import rules
from turnwise.envs.servicedesk.env import SIZES, ServiceDeskEnv, gold_calls, world
from turnwise.envs.servicedesk.policy import CATEGORIES, Decision, Node, make_policy, nodes, paths
from turnwise.envs.servicedesk.scenario import make_scenario
from turnwise.envs.servicedesk.user import User
from turnwise.envs.tool_calls import Call, render_calls
from turnwise.rewards import score

ID = "turnwise/ServiceDesk-v0"
DIALS = st.tuples(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 5))


def say(message: str) -> str:
    return call("respond", message=message)


def call(name: str, **arguments: Any) -> str:
    return render_calls([Call(name, arguments)])


def started(task: Task, **kwargs: Any) -> ServiceDeskEnv:
    env = ServiceDeskEnv(**kwargs)
    env.reset(options={"task": task})
    return env


def find(wish: Any, **params: Any) -> Task:
    """The first task whose first request has what is wished for."""
    for task in tasks(ID, "train", 300, **params):
        if wish(world(task)[1].requests[0]):
            return task
    raise AssertionError("no such task among the first 300")


def play(env: ServiceDeskEnv, actions: list[str]) -> list[dict[str, Any]]:
    return [env.step(action)[-1] for action in actions]


def gold(task: Task) -> list[str]:
    return [render_calls([each]) for each in gold_calls(task)]


# ---- policies and scenarios ------------------------------------------------------------------------------


@settings(deadline=None)
@given(DIALS)
def test_a_policy_of_depth_d_has_two_to_the_d_leaves_and_its_last_condition_matters(
    dials: tuple[int, int, int],
) -> None:
    seed, depth, categories = dials
    policy = make_policy(seed, depth, categories)
    assert len(policy.trees) == categories and policy == make_policy(seed, depth, categories)
    for tree in policy.trees.values():
        ways = paths(tree)
        assert len(ways) == 2**depth and all(len(way) == depth for way, _ in ways)
        for way, _ in ways:
            assert len({predicate.field for predicate, _ in way}) == depth
        for node in nodes(tree):
            if isinstance(node.yes, Decision):
                assert node.yes != node.no


def read_document(text: str, category: str, facts: dict[str, Any]) -> str:
    """A slow reference: follow the document line by line, as a person would."""
    lines = text.splitlines()
    at = lines.index(f"{CATEGORIES[category].title}:") + 1
    indent = 1
    while True:
        for line in lines[at:]:
            at += 1
            found = re.fullmatch(r"( *)- (If (.*?)|Otherwise):(?: (.*)\.)?", line)
            assert found, line
            if len(found[1]) == 2 * indent and (found[3] is None or is_true(found[3], facts)):
                if found[4]:
                    return found[4]
                indent += 1
                break


def is_true(condition: str, facts: dict[str, Any]) -> bool:
    if found := re.fullmatch(r"the order is more than (\d+) days old", condition):
        return facts["days"] > int(found[1])
    if found := re.fullmatch(r"it starts more than (\d+) days from now", condition):
        return facts["days_left"] > int(found[1])
    if found := re.fullmatch(r"it cost more than \$(\d+)", condition):
        return facts["price"] > int(found[1])
    if found := re.fullmatch(r"it was paid by (.*)", condition):
        return facts["payment"] == found[1]
    if found := re.fullmatch(r"the customer is a (.*) member", condition):
        return facts["tier"] == found[1]
    if found := re.fullmatch(r"its fare is (.*)", condition):
        return facts["fare"] == found[1]
    if found := re.fullmatch(r'the customer\'s reason is "(.*)"', condition):
        return facts["reason"] == found[1]
    return facts[{"it is a final sale": "final_sale", "it is insured": "insured"}[condition]]


@settings(deadline=None)
@given(DIALS, st.integers(0, 10_000), st.integers(1, 3))
def test_the_record_and_the_document_lead_to_the_demanded_decision(
    dials: tuple[int, int, int], seed: int, requests: int
) -> None:
    """Facts are read back from the tables, the policy from its text: nothing of the generator is believed."""
    policy = make_policy(*dials)
    scenario = make_scenario(policy, seed, "train", requests, 3)
    (caller,) = [row for row in scenario.rows["customers"] if row[0] == scenario.customer]
    assert len({request.subject for request in scenario.requests}) == requests
    for request in scenario.requests:
        facts: dict[str, Any] = {"tier": caller[3], "reason": request.facts["reason"]}
        if request.subject.startswith("O"):
            (row,) = [row for row in scenario.rows["orders"] if row[0] == request.subject]
            facts |= {"price": row[3], "days": row[4], "payment": row[5], "final_sale": bool(row[6])}
        else:
            (row,) = [row for row in scenario.rows["bookings"] if row[0] == request.subject]
            facts |= {"price": row[3], "days_left": row[4], "fare": row[5], "insured": bool(row[6])}
        assert row[1] == scenario.customer
        assert read_document(policy.text(), request.category, facts) == request.decision.text
        assert policy.decide(request.category, facts) == request.decision


def test_flipping_the_last_condition_flips_the_decision() -> None:
    policy = make_policy(3, 2, 5)
    for category, tree in policy.trees.items():
        assert isinstance(tree, Node) and isinstance(tree.yes, Node)
        first, second = tree.predicate, tree.yes.predicate
        facts = {
            predicate.field: predicate.value + 1 if predicate.above else predicate.value
            for predicate in (first, second)
        }
        other = facts | {second.field: second.value if second.above else not second.value}
        assert policy.decide(category, facts) == tree.yes.yes
        assert policy.decide(category, other) == tree.yes.no


def test_requests_cover_every_leaf_of_the_policy() -> None:
    policy = make_policy(0, 3, 2)
    seen = Counter[tuple[str, int]]()
    for seed in range(600):
        (request,) = make_scenario(policy, seed, "train", 1, 1).requests
        ways = paths(policy.trees[request.category])
        (leaf,) = [i for i, (way, _) in enumerate(ways) if all(p.holds(request.facts) == yes for p, yes in way)]
        seen[request.category, leaf] += 1
    assert len(seen) == 2 * 2**3 and min(seen.values()) >= 5


def test_splits_share_no_customer_and_no_key() -> None:
    keys, people = {}, {}
    for split in SIZES:
        for task in tasks(ID, split):
            assert keys.setdefault(task.key, split) == split
        for task in tasks(ID, split, 120):
            for row in world(task)[1].rows["customers"]:
                assert people.setdefault(row[1], split) == split
    assert len(keys) == sum(SIZES.values()) and {*people.values()} == set(SIZES)


def test_a_fixed_policy_is_the_same_for_every_task_and_split() -> None:
    texts = {world(task)[0].text() for split in SIZES for task in tasks(ID, split, 20, policy=7)}
    own = {world(task)[0].text() for task in tasks(ID, "train", 20)}
    assert len(texts) == 1 and len(own) > 15


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"depth": 5}, "Expected depth from 1 to 4, got 5"),
        ({"requests": 0}, "Expected requests from 1 to 4, got 0"),
        ({"categories": "2"}, "Expected categories from 1 to 5, got '2'"),
        ({"policy_text": "short"}, "Unknown policy_text 'short'"),
        ({"dept": 2}, "Did you mean 'depth'"),
    ],
)
def test_bad_parameters_are_named(params: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=re.escape(says)):
        tasks(ID, "train", 1, **params)


def test_the_page_names_every_parameter_and_the_sizes() -> None:
    text = section_of(ID)
    own = {
        name
        for function in (ServiceDeskEnv.tasks, ServiceDeskEnv.__init__)
        for name in inspect.signature(function).parameters
    } - {"self", "split", "count", "unknown", "params", "render_mode"}
    shown = set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE))
    assert {name for name in shown if "=" not in name} == own
    for split, size in SIZES.items():
        assert re.search(rf"`{split}`\s+{size:,}", text)


def test_a_policy_known_by_heart_is_not_shown() -> None:
    shown, hidden = (
        started(tasks(ID, "test", 1, policy=7, policy_text=text)[0]).state.observation for text in ("full", "id")
    )
    assert "Policy of the service desk." in shown and "Policy 7 applies." in hidden and len(hidden) < len(shown)


# ---- playing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("params", [{}, {"depth": 4, "requests": 3, "categories": 5}])
def test_the_service_desk_keeps_every_promise(params: dict[str, Any]) -> None:
    report = check_env(ID, **params)
    assert report.ok, [check for check in report.checks if not check.ok]


def test_the_expert_wins_at_every_level() -> None:
    listed = [
        task
        for split in SIZES
        for depth in (1, 2, 3, 4)
        for requests in (1, 2, 3)
        for task in tasks(ID, split, 6, depth=depth, requests=requests, categories=1 + depth)
    ]
    played = run(ScriptedAgent("expert"), [Episode(task) for task in listed])
    assert len(played) == 216 and all(t.success and t.score == t.max_score for t in played)
    assert not any(turn.counts["violations"] for t in played for turn in t.turns)


class Listing:
    """A pool whose environments list commands."""

    def __init__(self, pool: EnvPool) -> None:
        self.pool = pool

    def lease(self, task: Task) -> Any:
        return self.pool.lease(task, commands=True)

    def capacity(self, task: Task) -> int | None:
        return self.pool.capacity(task)


def test_listed_commands_can_be_played_and_playing_them_at_random_rarely_wins() -> None:
    listed = [Episode(task, seed=i) for i, task in enumerate(tasks(ID, "test", 100))]
    played = asyncio.run(rollout(ScriptedAgent("random"), listed, Listing(EnvPool()), Limits(invalid_actions=50)))
    assert all(turn.admissible for t in played for turn in t.turns)
    won = [t for t in played if t.success]
    assert len(won) <= 15
    assert all(t.score < t.max_score and not t.stop.is_error for t in played if not t.success)
    assert {StopReason.FAILURE} <= {t.stop for t in played}


def test_the_empty_agent_wins_nothing() -> None:
    played = run(ScriptedAgent("empty"), [Episode(task) for task in tasks(ID, "validation", 100)])
    assert not any(t.success or t.score for t in played)


# ---- the grader on wrong service -------------------------------------------------------------------------


def wrong_services() -> dict[str, tuple[Task, list[str], set[str]]]:
    """Name -> task, actions of one who serves wrongly, rules broken."""
    task = find(lambda r: r.decision.tool == "refund_order" and dict(r.decision.arguments)["method"] == "original")
    scenario, right = world(task)[1], gold(task)
    (request,) = scenario.requests
    subject = request.subject
    moved = find(lambda r: r.decision.tool == "change_address")
    stranger = next(row for row in scenario.rows["customers"] if row[0] != scenario.customer)
    foreign = find(lambda r: r.decision.tool == "decline", customers=12)
    theirs = next(row[0] for row in world(foreign)[1].rows["orders"] if row[1] != world(foreign)[1].customer)
    declined = gold(foreign)

    def without(text: str) -> list[str]:
        return [action for action in right if text not in action]

    def swapped(old: str, new: str, of: list[str] = right) -> list[str]:
        assert any(old in action for action in of)
        return [action.replace(old, new) for action in of]

    return {
        "another method": (task, swapped('"original"', '"store_credit"'), {"decision"}),
        "declined instead": (task, [*right[:-3], call("decline", subject_id=subject), say("Done.")], {"decision"}),
        "no confirmation": (task, without("Shall I"), {"confirm"}),
        "nothing recorded": (task, [*without("refund_order"), *[say("Done.")] * 4], set()),
        "another address": (moved, swapped('"address": "', '"address": "0', gold(moved)), set()),
        "not identified": (task, without("find_customer"), {"identify"}),
        "another's record": (foreign, [*declined[:-1], call("get_order", order_id=theirs), declined[-1]], {"privacy"}),
        "another's account": (task, [*right[:2], call("find_customer", email=stranger[2]), *right[2:]], {"privacy"}),
        "another's order too": (
            foreign, [*declined[:-1], call("decline", subject_id=theirs), declined[-1]], {"privacy", "decision"},
        ),
    }  # fmt: skip


def test_the_right_service_wins_and_breaks_no_rule() -> None:
    for task, _, _ in wrong_services().values():
        infos = play(started(task), gold(task))
        assert infos[-1]["success"] and not any(info["violations"] for info in infos)


@pytest.mark.parametrize("name", wrong_services())
def test_a_wrong_service_never_wins_and_its_rule_is_named(name: str) -> None:
    task, actions, rules = wrong_services()[name]
    env = started(task)
    infos = []
    for action in actions:
        infos.append(env.step(action)[-1])
        if infos[-1]["stop"]:
            break
    assert {rule for info in infos for rule in info["violations"]} == rules
    assert infos[-1]["stop"] == "failure" and infos[-1]["score"] < infos[-1]["max_score"]
    counted = sum(info["counts"]["violations"] for info in infos)
    assert counted == sum(len(info["violations"]) for info in infos) and bool(counted) == bool(rules)


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        ("confirm", "no confirmation"),
        ("identify", "not identified"),
        ("privacy", "another's record"),
        ("privacy", "another's account"),
    ],
)
def test_with_a_rule_planted_out_its_breach_would_win(rule: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database cannot tell these services from right ones: only the rule stands in their way."""
    task, actions, _ = wrong_services()[name]
    monkeypatch.setattr(rules, "RULES", tuple(each for each in rules.RULES if each.name != rule))
    assert play(started(task), actions)[-1]["success"]


def test_refusals_of_the_desk_break_no_rule_and_change_nothing() -> None:
    task = find(lambda r: r.decision.tool == "refund_order")
    subject = world(task)[1].requests[0].subject
    env = started(task)
    before = env.desk.dump()  # type: ignore[union-attr]
    for action, says in (
        (call("find_customer", email="nobody@mail.example"), "No customer has the e-mail address"),
        (call("cancel_order", order_id=subject, refund="original"), f"Expected {subject} to be processing"),
        (call("get_order", order_id="O1"), "There is no order O1"),
        (call("decline", subject_id="x'; DROP TABLE orders; --"), "There is no order or booking"),
    ):
        observation, _, _, _, info = env.step(action)
        assert says in observation and not info["admissible"]
    assert not env.violations
    assert env.desk.dump() == before  # type: ignore[union-attr]


def test_a_request_is_decided_once() -> None:
    task = find(lambda r: r.decision.tool == "decline" and r.subject.startswith("O"))
    subject = world(task)[1].requests[0].subject
    env = started(task)
    env.step(call("decline", subject_id=subject))
    for again in (call("escalate", subject_id=subject), call("decline", subject_id=subject)):
        assert env.step(again)[0] == f"Error: The request about {subject} is already declined."
    for name in ("refund_order", "cancel_order"):
        method = {"refund_order": "method", "cancel_order": "refund"}[name]
        observation, *_, info = env.step(call(name, order_id=subject, **{method: "original"}))
        assert "Error: Expected" in observation or "already declined" in observation
        assert not info["admissible"]


def test_violations_can_be_blocked_or_end_the_episode() -> None:
    task, actions, _ = wrong_services()["no confirmation"]
    blocking = started(task, on_violation="block")
    infos = play(blocking, actions[:-1])
    assert "break the policy (confirm)" in blocking.state.observation and not infos[-1]["violations"]
    while not blocking.state.success and blocking.turn < task.max_turns:
        blocking.step(blocking.expert())
    assert blocking.state.success
    ending = started(task, on_violation="terminate")
    infos = play(ending, actions[:-1])
    assert infos[-1]["stop"] == "failure" and infos[-1]["violations"] == ["confirm"]
    with pytest.raises(UnknownName, match="Did you mean 'block'"):
        ServiceDeskEnv(on_violation="blocks")


def test_compliant_service_is_never_blocked() -> None:
    """False-block rate 0 on the expert's episodes."""
    for task in tasks(ID, "validation", 60, depth=3, requests=2):
        env = started(task, on_violation="block")
        assert all(info["admissible"] for info in play(env, gold(task))) and env.state.success


def test_violations_cost_reward_turn_by_turn() -> None:
    task, actions, _ = wrong_services()["another method"]
    (played,) = run(ReplayAgent(actions), [Episode(task)])
    rewards = score(played, {"outcome": 1.0, "progress": 1.0, "violation_penalty": 0.5})
    index = next(i for i, action in enumerate(actions) if "refund_order" in action)
    expected = [0.0] * len(actions)
    expected[index] = -0.5
    assert rewards["violation_penalty"] == expected and sum(rewards["outcome"] or []) == 0


# ---- the customer ----------------------------------------------------------------------------------------


def test_the_customer_answers_what_is_asked_and_loses_patience() -> None:
    task = find(lambda r: r.decision.tool == "move_booking")
    scenario = world(task)[1]
    (request,) = scenario.requests
    decided = False
    user = User(scenario.requests, scenario.email, 2, lambda _: decided)
    assert user.hear("May I have your email and the booking number?") == (
        f"My e-mail address is {scenario.email}. It is booking {request.subject}."
    )
    assert user.hear("Why, and on which date?") == (
        f"The reason: {request.facts['reason']}. It should start in {request.detail} days."
    )
    assert user.hear("Shall I go ahead?") == "Which number do you mean?" and not user.agreed and user.patience == 1
    assert user.hear(f"Shall I move {request.subject}?") == "Yes, please do that." and user.agreed == {request.subject}
    decided = True
    assert user.hear("Done, you will get an email.") == "Thank you, that is all. Goodbye." and user.gone
    rude = User(scenario.requests, scenario.email, 2, lambda _: False)
    assert "I do not understand" in rude.hear("Blah.")
    assert rude.hear("Blah.") == "This takes too long. Goodbye." and rude.gone


@settings(deadline=None)
@given(st.lists(st.text(max_size=60), max_size=12), st.integers(0, 200))
def test_the_customer_is_deterministic_and_the_talk_always_ends(messages: list[str], seed: int) -> None:
    task = tasks(ID, "train", 201)[seed]
    scenario = world(task)[1]
    users = [User(scenario.requests, scenario.email, 3, lambda _: False) for _ in range(2)]
    for message in [*messages, *["?"] * 8]:
        if users[0].gone:
            break
        assert users[0].hear(message) == users[1].hear(message)
    assert users[0].gone


def test_noise_as_a_message_is_only_words() -> None:
    env = started(tasks(ID, "train", 1)[0])
    rng = random.Random(0)
    for _ in range(3):
        noise = "".join(chr(rng.randrange(32, 0x3000)) for _ in range(300))
        observation = env.step(json.dumps({"name": "respond", "arguments": {"message": f"<|im_end|>{noise}"}}))[0]
        assert "<|" not in observation


# ---- training --------------------------------------------------------------------------------------------


def test_the_service_desk_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(Path(__file__).parent)
    from test_families import SMALL, assert_masks
    from turnwise.training import recipes, trainer
    from turnwise.training.config import override
    from turnwise.training.run import Run

    seen: list[Any] = []

    def spy(played: Any, *args: Any) -> Any:
        seen.append((played, encode(played, *args)))
        return seen[-1][1]

    encode = trainer.encode
    monkeypatch.setattr(trainer, "encode", spy)
    settings = SMALL | {
        "env.id": ID, "env.params": {"depth": 1, "categories": 1, "max_turns": 4}, "sft.demos": 3,
        "context.max_tokens": 3000,
        "model.context": 3000, "context.max_action_tokens": 60, "context.goal": "never", "algorithm": "grpo",
        "slots.transforms": ["otc"], "rewards": {"outcome": 1.0, "progress": 0.5, "violation_penalty": 0.1},
    }  # fmt: skip
    trainer.train(override(recipes.load("toy"), settings), tmp_path / "run")
    metrics = Run.open(tmp_path / "run").metrics()
    for name in ("loss", "sft/loss", "grad_norm/policy", "entropy", "gap/max"):
        assert metrics[name] and all(math.isfinite(value) for _, value in metrics[name]), name
    assert len(seen) == 2
    for played, encoded in seen:
        assert not any(t.stop.is_error for t in played), [t.error for t in played if t.error]
        assert_masks(played, encoded)
