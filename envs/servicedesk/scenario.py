"""Unlimited scenarios: who calls, what they want, what is on record. Same arguments, same bytes."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from .desk import Desk
from .policy import CATEGORIES, Decision, Policy, Predicate, paths, reasons

FIRST = (
    "Ada", "Ben", "Carla", "Dan", "Elif", "Farid", "Gina", "Hugo", "Ines", "Jack", "Kira", "Leo", "Mona", "Nils",
    "Olga", "Paul", "Rosa", "Sam", "Tara", "Uwe",
)  # fmt: skip
LAST: dict[str, tuple[str, ...]] = {
    "train": (
        "Abbott", "Bauer", "Castro", "Dietrich", "Evans", "Fischer", "Garcia", "Haas", "Ivanov", "Jansen", "Keller",
        "Lopez", "Meyer", "Novak", "Okafor", "Peters", "Quinn", "Rossi", "Silva", "Tanaka", "Unger", "Vogel", "Weber",
        "Young", "Zimmer",
    ),
    "validation": ("Adler", "Brandt", "Costa", "Duarte", "Eriksen", "Fontaine", "Gruber", "Hansen"),
    "test": ("Alvarez", "Becker", "Conti", "Demir", "Engel", "Ferrari", "Gomez", "Hoffmann", "Iqbal", "Jensen"),
}  # fmt: skip
"""Family names by split: no customer of one split occurs in another."""
ITEMS = (
    "desk lamp", "backpack", "kettle", "headphones", "rain jacket", "toaster", "running shoes", "office chair",
    "water bottle", "keyboard", "yoga mat", "blender", "suitcase", "alarm clock", "coffee grinder", "board game",
)  # fmt: skip
PLACES = (
    "Lisbon", "Oslo", "Prague", "Seville", "Vienna", "Kyoto", "Quito", "Cork", "Ghent", "Turin", "Porto", "Riga",
)  # fmt: skip
STREETS = ("Mill Lane", "Station Road", "Park Street", "Hill View", "River Walk", "Church Street", "Long Acre")
TIERS = ("gold", "silver", "basic")


class Request(NamedTuple):
    """One thing that the customer wants."""

    category: str
    subject: str
    """Number of the order or booking."""
    name: str
    facts: dict[str, Any]
    """What the policy may ask about, from the record and from the customer."""
    detail: str | int | None
    """The new address, or in how many days the stay is to start."""
    decision: Decision

    def call(self) -> tuple[str, dict[str, Any]]:
        """The tool and the arguments that the policy demands."""
        arguments: dict[str, Any] = dict(self.decision.arguments)
        if self.decision.changes:
            arguments[f"{CATEGORIES[self.category].subject}_id"] = self.subject
            if self.decision.tool == "change_address":
                arguments["address"] = self.detail
            if self.decision.tool == "move_booking":
                arguments["days_left"] = self.detail
        else:
            arguments["subject_id"] = self.subject
        return self.decision.tool, arguments


class Scenario(NamedTuple):
    """A call to the desk: the database at its start and the customer's requests."""

    rows: dict[str, list[tuple[Any, ...]]]
    customer: str
    email: str
    requests: tuple[Request, ...]

    def goal(self) -> Desk:
        """A database in which every request was decided as the policy demands, by the tools themselves."""
        desk = Desk(self.rows)
        for request in self.requests:
            tool, arguments = request.call()
            getattr(desk, tool)(**arguments)
        return desk


def make_scenario(policy: Policy, seed: int, people: str, requests: int, customers: int) -> Scenario:
    """`customers` customers with records, one of whom calls with `requests` requests; every leaf is equally likely."""
    maker = _Maker(random.Random(f"scenario/{people}/{seed}"), people)
    maker.add_customer()
    caller = maker.rows["customers"][0]
    wanted = tuple(maker.add_request(policy, caller[0], caller[3]) for _ in range(requests))
    maker.add_strangers(caller[0], customers - 1)
    for table in maker.rows.values():
        table.sort()
    return Scenario(maker.rows, caller[0], caller[2], wanted)


class _Maker:
    def __init__(self, rng: random.Random, people: str) -> None:
        self.rng, self.people = rng, people
        self.rows: dict[str, list[tuple[Any, ...]]] = {"customers": [], "orders": [], "bookings": []}
        self._numbers = iter(rng.sample(range(10_000, 100_000), 400))
        self._names = iter(rng.sample([(f, l) for f in FIRST for l in LAST[people]], 60))  # noqa: E741

    def add_customer(self) -> str:
        first, last = next(self._names)
        id = f"C{next(self._numbers)}"
        email = f"{first}.{last}{self.rng.randrange(10, 100)}@mail.example".lower()
        self.rows["customers"].append((id, f"{first} {last}", email, self.rng.choice(TIERS)))
        return id

    def add_strangers(self, caller: str, count: int) -> None:
        """Other customers, and records that nobody calls about."""
        for customer in (caller, *(self.add_customer() for _ in range(count))):
            for kind in ("order", "booking"):
                for _ in range(self.rng.randrange(0, 3)):
                    self._record(kind, customer, self._random_facts(kind), None)

    def add_request(self, policy: Policy, customer: str, tier: str) -> Request:
        category = self.rng.choice(list(policy.trees))
        kind = CATEGORIES[category].subject
        ways = [
            (way, leaf)
            for way, leaf in paths(policy.trees[category])
            if all(p.field != "tier" or p.holds({"tier": tier}) == answer for p, answer in way)
        ]
        way, leaf = self.rng.choice(ways)
        facts = self._random_facts(kind) | {"tier": tier, "reason": self.rng.choice(reasons(category))}
        for predicate, answer in way:
            if predicate.field != "tier":
                facts[predicate.field] = self._satisfy(category, predicate, answer)
        subject, name = self._record(kind, customer, facts, CATEGORIES[category].status)
        return Request(category, subject, name, facts, self._detail(category, facts), leaf)

    def _detail(self, category: str, facts: dict[str, Any]) -> str | int | None:
        wanted = CATEGORIES[category].detail
        if wanted == "address":
            return self._address()
        if wanted == "date":
            return facts["days_left"] + self.rng.randrange(5, 30)
        return None

    def _satisfy(self, category: str, predicate: Predicate, answer: bool) -> Any:
        """A value for which `predicate` is `answer`."""
        if predicate.above:
            low, high = (predicate.value + 1, predicate.value + 30) if answer else (1, predicate.value)
            return self.rng.randrange(low, high + 1)
        if predicate.field in ("final_sale", "insured"):
            return answer
        fact = next(each for each in CATEGORIES[category].facts if each.field == predicate.field)
        return predicate.value if answer else self.rng.choice([v for v in fact.values if v != predicate.value])

    def _random_facts(self, kind: str) -> dict[str, Any]:
        choose, days = self.rng.choice, self.rng.randrange(1, 40)
        facts: dict[str, Any] = {"price": self.rng.randrange(10, 200)}
        if kind == "order":
            payment = choose(("card", "paypal", "gift card"))
            return facts | {"days": days, "payment": payment, "final_sale": choose((True, False))}
        return facts | {
            "days_left": days,
            "fare": choose(("flexible", "standard", "saver")),
            "insured": choose((True, False)),
        }

    def _record(self, kind: str, customer: str, facts: dict[str, Any], status: str | None) -> tuple[str, str]:
        number, price = next(self._numbers), float(facts["price"])
        if kind == "order":
            id, name = f"O{number}", self.rng.choice(ITEMS)
            status = status or self.rng.choice(("delivered", "processing", "shipped"))
            self.rows["orders"].append(
                (id, customer, name, price, facts["days"], facts["payment"], int(facts["final_sale"]), self._address(),
                 status, None)
            )  # fmt: skip
        else:
            id, name = f"B{number}", self.rng.choice(PLACES)
            self.rows["bookings"].append(
                (id, customer, name, price, facts["days_left"], facts["fare"], int(facts["insured"]),
                 status or "confirmed", None, None)
            )  # fmt: skip
        return id, name

    def _address(self) -> str:
        return f"{self.rng.randrange(1, 200)} {self.rng.choice(STREETS)}"
