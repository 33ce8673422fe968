"""Which rules of the policy a call breaks: exact, because the rules were compiled with the scenario."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from .desk import DECISIONS, READS, Desk
from .scenario import Scenario
from .user import User


class Moment(NamedTuple):
    """What a rule looks at: a call before it runs, and what happened until then."""

    tool: str
    arguments: Mapping[str, Any]
    desk: Desk
    user: User
    scenario: Scenario
    identified: bool

    @property
    def subject(self) -> str | None:
        """The order or booking that the call is about."""
        for key in ("order_id", "booking_id", "subject_id"):
            if key in self.arguments:
                return self.arguments[key]
        return None


class PolicyRule(NamedTuple):
    """A rule as the policy states it, and whether a call breaks it."""

    name: str
    kind: Literal["obligation", "prohibition", "ordering", "conditional"]
    broken: Callable[[Moment], bool]


def _not_identified(moment: Moment) -> bool:
    return moment.tool in (*READS[1:], *DECISIONS) and not moment.identified


def _someone_elses(moment: Moment) -> bool:
    if moment.tool == "find_customer":
        return moment.arguments["email"].strip().lower() != moment.scenario.email.lower()
    owner = moment.desk.owner(moment.subject) if moment.subject else None
    return owner is not None and owner != moment.scenario.customer


def _not_confirmed(moment: Moment) -> bool:
    changes = moment.tool in DECISIONS and moment.tool not in ("decline", "escalate")
    return changes and moment.subject not in moment.user.agreed


def _wrong_decision(moment: Moment) -> bool:
    if moment.tool not in DECISIONS:
        return False
    for request in moment.scenario.requests:
        if request.subject == moment.subject:
            fixed = dict(request.decision.arguments)
            return moment.tool != request.decision.tool or any(
                moment.arguments.get(key) != value for key, value in fixed.items()
            )
    return True


RULES = (
    PolicyRule("identify", "ordering", _not_identified),
    PolicyRule("privacy", "prohibition", _someone_elses),
    PolicyRule("confirm", "ordering", _not_confirmed),
    PolicyRule("decision", "conditional", _wrong_decision),
)


def broken_rules(moment: Moment) -> list[str]:
    """Names of the rules that this call would break."""
    return [rule.name for rule in RULES if rule.broken(moment)]
