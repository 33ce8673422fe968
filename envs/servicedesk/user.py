"""The customer: a hidden goal, patience, and the same answers to the same questions."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from .policy import CATEGORIES
from .scenario import Request

_ASKS = {
    "email": re.compile(r"e-?mail", re.I),
    "subject": re.compile(
        r"\bwhich\b.*\b(order|booking|one|stay|item)\b|\b(order|booking)\b.*\b(number|id)\b|\bnumber of\b|\border id\b",
        re.I,
    ),
    "reason": re.compile(r"\b(why|reason|what happened|what is wrong|what's wrong|damaged|condition)\b", re.I),
    "address": re.compile(r"\baddress\b(?<!mail address)", re.I),
    "date": re.compile(r"\b(when|date|days?)\b", re.I),
}
_CONFIRM = re.compile(
    r"\b(confirm|proceed|go ahead|shall i|should i|may i|do you agree|do you want me|is that (ok|okay|fine|right))\b",
    re.I,
)


class User:
    """Answers what it is asked, agrees to what concerns its request, and goes on when a request is decided.

    Every message that neither asks for something new nor comes after a decision costs one of `patience`; at none left
    the customer hangs up.
    """

    def __init__(self, requests: Sequence[Request], email: str, patience: int, decided: Callable[[str], bool]) -> None:
        self.requests, self.email, self.patience = requests, email, patience
        self._decided = decided
        self.index = 0
        self.told: set[str] = set()
        """What the customer has said: `email`, and per request `subject 0`, `reason 0`, …"""
        self.agreed: set[str] = set()
        """Numbers of the orders and bookings to whose change the customer agreed."""
        self.gone = False

    @property
    def current(self) -> Request:
        """The request that the conversation is about."""
        return self.requests[self.index]

    def opening(self) -> str:
        """The first message."""
        return f"Hello. {self._wish()}"

    def knows(self, what: str) -> bool:
        """Whether the agent was told this about the current request."""
        return self._key(what) in self.told

    def hear(self, message: str) -> str:
        """The answer to a message."""
        asked = {what for what, pattern in _ASKS.items() if pattern.search(message) and self._answer(what)}
        new = {what for what in asked if not self.knows(what)}
        agrees = bool(_CONFIRM.search(message)) and self.current.subject in message
        if self._decided(self.current.subject) and not new:
            return self._go_on()
        self.told |= {self._key(what) for what in asked}
        answers = [answer for what in _ASKS if what in asked and (answer := self._answer(what))]
        if agrees and self.current.subject not in self.agreed:
            self.agreed.add(self.current.subject)
            return " ".join([*answers, "Yes, please do that."])
        if not new:
            self.patience -= 1
        if self.patience <= 0:
            self.gone = True
            return "This takes too long. Goodbye."
        if agrees:
            answers.append("Yes, I said so.")
        elif _CONFIRM.search(message) and not asked:
            answers.append("Which number do you mean?")
        return " ".join(answers) or f"I do not understand. {self._wish()}"

    def _go_on(self) -> str:
        if self.index + 1 == len(self.requests):
            self.gone = True
            return "Thank you, that is all. Goodbye."
        self.index += 1
        return f"Thank you. {self._wish()}"

    def _wish(self) -> str:
        return CATEGORIES[self.current.category].wish.format(name=self.current.name)

    def _key(self, what: str) -> str:
        return what if what == "email" else f"{what} {self.index}"

    def _answer(self, what: str) -> str:
        request, category = self.current, CATEGORIES[self.current.category]
        if what == "email":
            return f"My e-mail address is {self.email}."
        if what == "subject":
            return f"It is {category.subject} {request.subject}."
        if what == "reason":
            return f"The reason: {request.facts['reason']}."
        if what != category.detail:
            return ""
        if what == "address":
            return f"The new address is {request.detail}."
        return f"It should start in {request.detail} days."
