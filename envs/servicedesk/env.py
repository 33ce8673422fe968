"""`turnwise/ServiceDesk-v0`: a customer, a policy, a database; right is what the policy says, and no other change."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

from ..core import State
from ..errors import RequestError, UnknownName
from ..task import Task
from ..tool_calls import Call, render_calls
from ..tools import Tool, ToolEnv, ToolError, function_tool
from .desk import DECISIONS, READS, Desk
from .policy import CATEGORIES, MAX_DEPTH, Policy, make_policy
from .rules import Moment, broken_rules
from .scenario import LAST, Scenario, make_scenario
from .user import User

ENV_ID = "turnwise/ServiceDesk-v0"
SIZES = {"train": 10_000, "validation": 500, "test": 1_000}
FIRST_SEED = {"train": 0, "validation": 1_000_000, "test": 2_000_000}
_LIMITS = {
    "depth": (1, MAX_DEPTH),
    "requests": (1, 4),
    "customers": (1, 40),
    "categories": (1, len(CATEGORIES)),
    "patience": (1, 20),
}
QUESTIONS = {
    "email": "May I have your e-mail address, please?",
    "subject": "What is the number of the order or booking?",
    "reason": "What is the reason?",
    "address": "What is the new address?",
    "date": "In how many days should it start?",
}


class ServiceDeskEnv(ToolEnv):
    """Orders, refunds and bookings under a written policy; `respond` talks to the customer.

    One point per request whose record is as the policy demands, and one more for success: the customer has hung up
    content, the database equals the goal state, and no rule of the policy was broken. `info["violations"]` names the
    rules that the turn broke. on_violation: `observe`, `block` (the call does not run) or `terminate`. commands: list
    the calls that can be made with what was said so far.
    """

    id: ClassVar[str] = ENV_ID

    def __init__(
        self, split: str = "train", render_mode: str | None = None, schemas: str = "lines",
        on_violation: str = "observe", commands: bool = False, **params: Any,
    ) -> None:  # fmt: skip
        super().__init__(split, render_mode, schemas, **params)
        if on_violation not in ("observe", "block", "terminate"):
            raise UnknownName("reaction to violations", on_violation, ("observe", "block", "terminate"))
        self.on_violation, self._lists_commands = on_violation, commands
        self.desk: Desk | None = None

    @classmethod
    def splits(cls) -> dict[str, int]:
        return dict(SIZES)

    @classmethod
    def tasks(
        cls, split: str, count: int | None = None, *, depth: int = 2, requests: int = 1, categories: int = 3,
        customers: int = 6, patience: int = 3, policy: int | None = None, policy_text: str = "full",
        max_turns: int | None = None, **unknown: Any,
    ) -> list[Task]:  # fmt: skip
        """The first `count` tasks of `split`, each with a policy of its own unless `policy` is the seed of one for all.

        depth: of the decision trees. requests: of the customer. categories: of the policy. policy_text: `full`, or
        `id` where the agent has to know the policy by heart. max_turns: by default 8 + 12 per request.
        """
        if unknown:
            raise UnknownName(
                "parameter of ServiceDesk tasks", next(iter(unknown)), (*_LIMITS, "policy", "policy_text")
            )
        if policy_text not in ("full", "id"):
            raise UnknownName("policy_text", policy_text, ("full", "id"))
        dials = {
            "depth": depth,
            "requests": requests,
            "categories": categories,
            "customers": customers,
            "patience": patience,
        }
        for name, value in dials.items():
            low, high = _LIMITS[name]
            if not isinstance(value, int) or not low <= value <= high:
                raise RequestError(f"Expected {name} from {low} to {high}, got {value!r}.")
        size = SIZES[split] if count is None else min(count, SIZES[split])
        return [
            Task(
                env=cls.id, seed=FIRST_SEED[split] + i, split=split, difficulty=float(depth + requests - 1),
                params={
                    **dials, "people": split, "policy": FIRST_SEED[split] + i if policy is None else policy,
                    "policy_text": policy_text,
                },
                goal="Serve the customer as the policy demands.", max_turns=max_turns or 8 + 12 * requests,
            )
            for i in range(size)
        ]  # fmt: skip

    def open(self, task: Task) -> tuple[str, Sequence[Tool]]:
        self.close()
        params = task.params
        self.policy, self.scenario = world(task)
        self.desk = Desk(self.scenario.rows)
        goal = self.scenario.goal()
        self._goal = goal.dump(), {r.subject: goal.subject(r.subject) for r in self.scenario.requests}
        goal.close()
        self.user = User(self.scenario.requests, self.scenario.email, params["patience"], self._is_decided)
        self.max_score = len(self.scenario.requests) + 1.0
        self.identified, self.viewed = False, set[str]()
        self.violations: list[str] = []
        self._reported = 0
        text = self.policy.text() if params["policy_text"] == "full" else f"Policy {self.policy.seed} applies."
        tools = [self._watched(function_tool(getattr(self.desk, name))) for name in (*READS, *DECISIONS)]
        return f"{text}\n\nCustomer: {self.user.opening()}", [*tools, function_tool(self.respond, cost=0.0)]

    def respond(self, message: str) -> str:
        """Say something to the customer and hear the answer."""
        answer = f"Customer: {self.user.hear(message)}"
        self.over = self.over or self.user.gone
        return answer

    def judge(self) -> State:
        assert self.desk is not None
        done = sum(self.desk.subject(id) == state for id, state in self._goal[1].items())
        success = self.over and not self.violations and self.user.gone and self.desk.dump() == self._goal[0]
        new, self._reported = self.violations[self._reported :], len(self.violations)
        return State(
            "", self.max_score if success else float(done), success, self.over and not success,
            self._commands() if self._lists_commands else None,
            extra={"violations": new, "counts": {"violations": float(len(new))}},
        )  # fmt: skip

    def expert_calls(self) -> list[Call]:
        """Asks for what it needs, reads the record, asks for consent, decides as the policy says."""
        user, request = self.user, self.user.current
        category = CATEGORIES[request.category]
        if not user.knows("email"):
            return [_say(QUESTIONS["email"])]
        if not self.identified:
            return [Call("find_customer", {"email": user.email})]
        if not user.knows("subject"):
            return [_say(QUESTIONS["subject"])]
        if request.subject not in self.viewed:
            return [Call(f"get_{category.subject}", {f"{category.subject}_id": request.subject})]
        if self._is_decided(request.subject):
            return [_say("Your request is settled.")]
        if self.policy.asks_for(request.category, "reason") and not user.knows("reason"):
            return [_say(QUESTIONS["reason"])]
        if request.decision.changes and category.detail and not user.knows(category.detail):
            return [_say(QUESTIONS[category.detail])]
        if request.decision.changes and request.subject not in user.agreed:
            return [_say(self._proposal())]
        return [Call(*request.call())]

    def close(self) -> None:
        super().close()
        if self.desk is not None:
            self.desk.close()
            self.desk = None

    def _is_decided(self, subject: str) -> bool:
        assert self.desk is not None
        return self.desk.subject(subject) != self._start_of(subject)

    def _start_of(self, subject: str) -> tuple[Any, ...]:
        rows = (*self.scenario.rows["orders"], *self.scenario.rows["bookings"])
        return tuple(row for row in rows if row[0] == subject)

    def _watched(self, tool: Tool) -> Tool:
        """The tool with the rules of the policy looking on."""

        def run(**arguments: Any) -> Any:
            assert self.desk is not None
            broken = broken_rules(Moment(tool.name, arguments, self.desk, self.user, self.scenario, self.identified))
            if broken and self.on_violation == "block":
                self._blocked(broken)
            answer = tool.run(**arguments)  # what the desk refused changed nothing and told nothing: no rule is broken
            self.violations += broken
            self.over = self.over or bool(broken and self.on_violation == "terminate")
            self.identified = self.identified or (tool.name == "find_customer" and "privacy" not in broken)
            self.viewed |= {value for key, value in arguments.items() if key in ("order_id", "booking_id")}
            return answer

        return dataclasses.replace(tool, run=run)

    def _blocked(self, broken: list[str]) -> None:
        raise ToolError(f"Not done: this would break the policy ({', '.join(broken)}).")

    def _commands(self) -> tuple[str, ...]:
        """Calls with the numbers and addresses that the agent can know."""
        if self.over:
            return ()
        user, request = self.user, self.user.current
        calls = [_say(text) for text in QUESTIONS.values()]
        calls.append(_say("Your request is settled."))
        if user.knows("email"):
            calls.append(Call("find_customer", {"email": user.email}))
        if user.knows("subject"):
            calls.append(_say(self._proposal()))
            calls += self._possible(request.subject)
        return tuple(render_calls([call]) for call in calls)

    def _proposal(self) -> str:
        """How consent is asked for; a list of commands must not give the decision away."""
        request = self.user.current
        if self._lists_commands:
            return f"About {request.subject}: shall I go ahead?"
        return f"About {request.subject}: I can {request.decision.text}. Shall I go ahead?"

    def _possible(self, subject: str) -> list[Call]:
        """Reads and decisions of the current request that the desk would not refuse."""
        request, category = self.user.current, CATEGORIES[self.user.current.category]
        key = f"{category.subject}_id"
        calls = [Call(f"get_{category.subject}", {key: subject})]
        if self._is_decided(subject):
            return calls
        for decision in category.decisions:
            possible = request._replace(decision=decision)
            if not decision.changes or not category.detail or self.user.knows(category.detail):
                calls.append(Call(*possible.call()))
        return calls


def world(task: Task) -> tuple[Policy, Scenario]:
    """The policy and the scenario of a task."""
    params = task.params
    if params["people"] not in LAST:
        raise UnknownName("people of a ServiceDesk task", str(params["people"]), LAST)
    policy = make_policy(int(params["policy"]), int(params["depth"]), int(params["categories"]))
    return policy, make_scenario(policy, task.seed, params["people"], int(params["requests"]), int(params["customers"]))


def gold_calls(task: Task) -> list[Call]:
    """The tool calls that win a task from its start, messages to the customer included."""
    env, calls = ServiceDeskEnv(), list[Call]()
    env.reset(options={"task": task})
    while not (env.state.success or env.state.failure) and env.turn < task.max_turns:
        calls += (said := env.expert_calls())
        env.step(render_calls(said))
    env.close()
    return calls


def _say(message: str) -> Call:
    return Call("respond", {"message": message})
