"""Release gate: the numbers of a worked example, the table of decisions, releases in a line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnwise.training.evaluation.gate import Rule, decide, flips, release_line, symptoms, verdict

OUTCOMES = st.dictionaries(st.sampled_from("abcdefgh"), st.lists(st.booleans(), max_size=3))


def outcomes(passed: int, failed: int) -> dict[str, list[bool]]:
    return {f"task{i:03}": [i < passed] for i in range(passed + failed)}


def flipped(base: dict[str, list[bool]], p2f: int, f2p: int) -> dict[str, list[bool]]:
    passing = [key for key, won in base.items() if won[0]][:p2f]
    failing = [key for key, won in base.items() if not won[0]][:f2p]
    return {key: [(won[0] and key not in passing) or key in failing] for key, won in base.items()}


def test_gains_do_not_pay_for_regressions() -> None:
    # 100 tasks, 60 pass; 3 of them break, 14 of the other 40 are mended: 71 pass, and it is refused
    base = outcomes(60, 40)
    d = decide(base, flipped(base, 3, 14))
    assert (len(d.flips.p2f), len(d.flips.f2p), len(d.flips.p2p), len(d.flips.f2f)) == (3, 14, 57, 26)
    assert (d.regression_rate, d.fix_rate) == pytest.approx((0.05, 0.35))
    assert d.p_value == pytest.approx(0.012726, abs=1e-6)
    assert d.difference.mean == pytest.approx(0.11)
    assert not d.accepted and d.reasons == ["3 of 60 tasks that passed fail now: 5.0%, allowed 3.0%"]


@pytest.mark.parametrize(
    ("p2f", "f2p", "rule", "accepted", "reason"),
    [
        (1, 14, Rule(), True, ""),
        (0, 0, Rule(), False, "0 tasks fixed"),
        (2, 3, Rule(max_regression=0.05), False, "may be chance: p = 0.500"),
        (2, 8, Rule(max_regression=0.05), True, ""),  # one-sided p = 56 / 1024
        (0, 4, Rule(min_fixes=5), False, "4 tasks fixed, expected at least 5"),
    ],
)
def test_decisions(p2f: int, f2p: int, rule: Rule, accepted: bool, reason: str) -> None:
    base = outcomes(60, 40)
    d = decide(base, flipped(base, p2f, f2p), rule)
    assert d.accepted is accepted
    assert reason in "; ".join(d.reasons)


def test_a_critical_task_must_not_fail() -> None:
    base = outcomes(60, 40)
    d = decide(base, flipped(base, 1, 14), critical=["task000"])
    assert not d.accepted and d.reasons == ["critical task task000 fails now"]
    assert decide(base, flipped(base, 1, 14), critical=["task001"]).accepted


def test_runs_vote_and_ties_decide_nothing() -> None:
    assert [verdict(t) for t in ([], [True], [True, False], [True, False, True], [False, False, True])] == [
        None, True, None, True, False,
    ]  # fmt: skip
    f = flips({"a": [True, False], "b": [True], "c": [True]}, {"a": [True], "b": [False], "d": [True]})
    assert (f.undecided, f.p2f) == (["a", "c", "d"], ["b"])


@given(OUTCOMES, OUTCOMES)
def test_every_task_is_in_one_class_and_the_reverse_mirrors(
    base: dict[str, list[bool]], other: dict[str, list[bool]]
) -> None:
    there, back = flips(base, other), flips(other, base)
    assert sorted(key for keys in there for key in keys) == sorted({*base, *other})
    assert (there.p2f, there.f2p, there.p2p, there.f2f) == (back.f2p, back.p2f, back.p2p, back.f2f)
    d, reverse = decide(base, other), decide(other, base)
    assert d.p_value == reverse.p_value
    assert not (d.accepted and reverse.accepted)


def test_nothing_to_compare_is_not_a_release() -> None:
    assert not decide({}, {}).accepted


def test_symptoms_count_only_the_tasks_asked_for() -> None:
    episodes = [("a", "turn_limit"), ("b", "invalid_limit"), ("a", "turn_limit"), ("c", "turn_limit")]
    assert symptoms(episodes, ["a", "b"]) == {"turn_limit": 2, "invalid_limit": 1}


def test_a_line_of_releases() -> None:
    one, two = {"a": [True], "b": [False], "c": [True]}, {"a": [False], "b": [True], "c": [True]}
    line = release_line([one, two, one, one])
    assert (line.broken, line.bad_releases, line.flip_flops) == (2, 2, {"a": 2, "b": 2})
