"""Release gate: which tasks flipped between two policies, and whether that may be released.

P2F passed before and fails now, F2P the reverse. Source: AgentDevel (flip-centred gating) for flips, symptoms and the
single line of releases; the rule and its thresholds are ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from .intervals import Interval, mcnemar, mcnemar_one_sided, paired_difference


class Rule(NamedTuple):
    """What a candidate must show."""

    max_regression: float = 0.03
    """Largest share of the tasks that passed which may fail now."""
    min_fixes: int = 1
    """Fewest tasks that must be fixed."""
    alpha: float = 0.1
    """One-sided exact McNemar: the chance of so many fixes if flips were as likely either way."""


class Flips(NamedTuple):
    """Task keys by what became of them."""

    p2f: list[str]
    f2p: list[str]
    p2p: list[str]
    f2f: list[str]
    undecided: list[str]
    """Not played by both, or without a majority in one of them."""


class Decision(NamedTuple):
    """The gate's answer and its reasons."""

    accepted: bool
    reasons: list[str]
    """What is violated; empty when accepted."""
    flips: Flips
    regression_rate: float
    fix_rate: float
    p_value: float
    """Two-sided exact McNemar."""
    difference: Interval


def verdict(trials: Sequence[bool]) -> bool | None:
    """The majority of a task's trials; None on a tie or without a trial."""
    wins = sum(trials)
    return None if 2 * wins == len(trials) else 2 * wins > len(trials)


def flips(base: Mapping[str, Sequence[bool]], candidate: Mapping[str, Sequence[bool]]) -> Flips:
    """Every task of either side, sorted by key within its class."""
    found = Flips([], [], [], [], [])
    for key in sorted({*base, *candidate}):
        before, after = verdict(base.get(key, ())), verdict(candidate.get(key, ()))
        if before is None or after is None:
            found.undecided.append(key)
        elif before:
            (found.p2p if after else found.p2f).append(key)
        else:
            (found.f2p if after else found.f2f).append(key)
    return found


def decide(
    base: Mapping[str, Sequence[bool]],
    candidate: Mapping[str, Sequence[bool]],
    rule: Rule | None = None,
    critical: Collection[str] = (),
) -> Decision:
    """Accept iff no critical task regressed, `|P2F| / |P| <= max_regression`, enough F2P, and they outnumber P2F.

    Outnumber: one-sided exact McNemar `p <= alpha`. Gains do not pay for regressions.
    """
    rule = rule or Rule()
    f = flips(base, candidate)
    passed, failed = len(f.p2f) + len(f.p2p), len(f.f2p) + len(f.f2f)
    regression, fixes = len(f.p2f) / passed if passed else 0.0, len(f.f2p) / failed if failed else 0.0
    one_sided = mcnemar_one_sided(len(f.p2f), len(f.f2p))
    reasons = [f"critical task {key} fails now" for key in f.p2f if key in critical]
    if regression > rule.max_regression:
        reasons.append(
            f"{len(f.p2f)} of {passed} tasks that passed fail now: {regression:.1%}, allowed {rule.max_regression:.1%}"
        )
    if len(f.f2p) < rule.min_fixes:
        reasons.append(f"{len(f.f2p)} tasks fixed, expected at least {rule.min_fixes}")
    if one_sided > rule.alpha:
        reasons.append(
            f"{len(f.f2p)} fixed against {len(f.p2f)} broken may be chance: p = {one_sided:.3f}, allowed {rule.alpha:g}"
        )
    shared = [key for key in base if key in candidate]
    difference = paired_difference([base[key] for key in shared], [candidate[key] for key in shared])
    return Decision(not reasons, reasons, f, regression, fixes, mcnemar(len(f.p2f), len(f.f2p)), difference)


def symptoms(episodes: Sequence[tuple[str, str]], keys: Collection[str]) -> dict[str, int]:
    """How the episodes (task key, symptom) of these tasks ended, most frequent first."""
    return dict(Counter(symptom for key, symptom in episodes if key in keys).most_common())


class ReleaseLine(NamedTuple):
    """What a line of releases did to its tasks."""

    broken: int
    """P2F over all releases."""
    bad_releases: int
    """Releases whose regression rate was above the limit."""
    flip_flops: dict[str, int]
    """Task -> how often its verdict changed, for tasks that changed more than once."""


def release_line(releases: Sequence[Mapping[str, Sequence[bool]]], limit: float = Rule().max_regression) -> ReleaseLine:
    """Sum of the flips between consecutive releases."""
    changes, broken, bad = Counter[str](), 0, 0
    for before, after in pairwise(releases):
        f = flips(before, after)
        changes.update([*f.p2f, *f.f2p])
        broken += len(f.p2f)
        bad += len(f.p2f) > limit * (len(f.p2f) + len(f.p2p))
    return ReleaseLine(broken, bad, {key: n for key, n in sorted(changes.items()) if n > 1})
