"""`turnwise/Negotiation-v0`: propose, accept or reject until there is a deal; against a script, or both seats."""

from __future__ import annotations

import random
import re
from typing import Any, ClassVar, NamedTuple

from ..core import State, TextEnv, clean_action
from ..errors import RequestError, UnknownName
from ..task import Task
from .opponents import OPPONENTS, SEEN, UNSEEN, Moment, accepts, counter
from .scenarios import Deal, Division, Price, Scenario, draw_scenario, read_parts

SIZES = {"train": 10_000, "validation": 500, "test": 1_000, "unseen": 500, "self_play": 500}
"""Split -> number of tasks; `unseen` has other opponents, in `self_play` the agent plays both seats."""
_FIRST_SEED = {split: 100_000 * index for index, split in enumerate(SIZES)}
FORMS = ("division", "price")
SELF = "self"
NAMES = ("Ann", "Bob")
SHORT = 0.9
"""Score that a deal short of success comes near to."""
MAX_COMMANDS = 60
_ACTION = re.compile(r"(propose|accept|reject)\b ?([^:]*?)(?: ?: ?(.*))?", re.I)
_WORDS = {
    "conceder": "We will find a way.", "boulware": "I have time.", "tit_for_tat": "Give and take.",
    "moody": "Let us see.", "hard": "That is what I need.", "hasty": "I am in a hurry.",
    "ultimatum": "I will not wait for long.",
}  # fmt: skip


class Table(NamedTuple):
    """All that changes in a negotiation."""

    mover: int = 0
    moved: int = 0
    """Seats that are to move and that moved last."""
    offers: tuple[Deal | None, Deal | None] = (None, None)
    """What either seat proposed last and still stands for the other to accept."""
    heard: tuple[float, ...] = ()
    """What the agent's proposals were worth to the opponent."""
    log: tuple[str, ...] = ()
    deal: Deal | None = None
    over: bool = False


class NegotiationEnv(TextEnv):
    """Two seats with private utilities; success is a deal on the Pareto frontier with the agent's fair share.

    The fair share is what Nash's solution gives. Another deal scores `0.9 * min(1, utility / fair share)`, no deal 0.
    With the opponent `self` the agent plays both seats in turn, `info["seat"]` says which is next, and success is a
    Nash solution; `info["counts"]` has the seat that moved and, in the end, what the deal is worth to either.
    """

    id: ClassVar[str] = "turnwise/Negotiation-v0"
    unknown_action: ClassVar[str] = "propose 999999"

    @classmethod
    def splits(cls) -> dict[str, int]:
        return dict(SIZES)

    @classmethod
    def tasks(
        cls, split: str, count: int | None = None, *, form: str = "mixed", opponent: str = "mixed", rounds: int = 8
    ) -> list[Task]:
        """The first `count` tasks of `split`.

        form: `division`, `price`, or both in turn. opponent: one of the split's, or all of them in turn; in
        `self_play` the agent itself. rounds: messages of the agent; of both seats together in `self_play`.
        """
        pool = list(UNSEEN if split == "unseen" else [SELF] if split == "self_play" else SEEN)
        if form not in (*FORMS, "mixed"):
            raise UnknownName("form of negotiation", str(form), (*FORMS, "mixed"))
        if opponent not in (*pool, "mixed"):
            raise UnknownName(f"opponent of split {split!r}", str(opponent), (*pool, "mixed"))
        if not isinstance(rounds, int) or rounds < 3:
            raise RequestError(f"Expected at least 3 rounds, got {rounds!r}.")
        return [
            Task(env=cls.id, seed=_FIRST_SEED[split] + i, split=split, max_turns=rounds,
                 params={"form": FORMS[i % 2] if form == "mixed" else form,
                         "opponent": pool[i // 2 % len(pool)] if opponent == "mixed" else opponent})
            for i in range(SIZES[split] if count is None else min(count, SIZES[split]))
        ]  # fmt: skip

    def clean(self, action: Any) -> str:
        """One printable line; empty where it is none, so that every message, however bad, is counted for its seat."""
        return clean_action(action, self.max_action_chars) or ""

    def start(self, task: Task) -> State:
        form, self.opponent = task.params["form"], task.params["opponent"]
        if form not in FORMS:
            raise UnknownName("form of negotiation", str(form), FORMS)
        if self.opponent not in (*OPPONENTS, SELF):
            raise UnknownName("opponent", str(self.opponent), (*OPPONENTS, SELF))
        rng = random.Random(f"negotiation {form} {task.seed}")
        self.scenario: Scenario = draw_scenario(form, rng)
        self.table = Table()
        if self.opponent != SELF and rng.random() < 0.5:
            self._counter()
        self.goal = "Agree on a deal that is good for you and wastes nothing."
        return self._look(f"{self.goal}\n{self._usage()}")

    def act(self, action: str) -> State:
        if self.table.over:
            return self._look("The negotiation is over.", admissible=False, valid=bool(action))
        seat = self.table.mover
        self.table = self.table._replace(moved=seat)
        match = _ACTION.fullmatch(action)
        parts = read_parts(match[2]) if match and match[1].lower() == "propose" else None
        if match is None or (parts is None) is (match[1].lower() == "propose") or (parts is None and match[2]):
            usage = self._example()
            return self._pass(f"Write propose {usage}: words, accept: words, or reject: words.", valid=False)
        words = (match[3] or "").strip()
        if match[1].lower() == "accept":
            offer = self.table.offers[1 - seat]
            return self._close(offer) if offer else self._pass("There is no offer to accept.")
        if parts is None:
            self._say(f"{NAMES[seat]} rejects that.", words)
        else:
            deal = self.scenario.read(parts, seat)
            if deal is None:
                return self._pass("There is no such deal.")
            self._say(f"{NAMES[seat]}: {self.scenario.say(deal, seat)}", words)
            self._offer(seat, deal)
        return self._answer(proposed=parts is not None)

    def expert(self) -> str:
        """Knows what the opponent would take: the best deal that wins, as soon as it can be had."""
        seat, table, scenario = self.table.mover, self.table, self.scenario
        standing = table.offers[1 - seat]
        if self.opponent == SELF:
            fair = min(scenario.nash)
            return "accept: fine" if standing == fair else f"propose {scenario.write(fair, seat)}: fair to both"
        if standing and scenario.wins(standing, 0):
            return "accept: fine"
        good = sorted(
            (deal for deal in scenario.deals if scenario.wins(deal, 0)), key=lambda deal: -scenario.utility(deal, 0)
        )
        for deal in good:
            worth = scenario.utility(deal, 1)
            if accepts(self.opponent, self._moment(self.turn + 1, worth), worth):
                return f"propose {scenario.write(deal, 0)}: this is good for both of us"
        if table.heard:
            return "reject: not yet"
        greedy = min(scenario.deals, key=lambda deal: (scenario.utility(deal, 1), deal))
        return f"propose {scenario.write(greedy, 0)}: to begin with"

    def clone_state(self) -> tuple[Scenario, str, Table]:
        return self.scenario, self.opponent, self.table

    def restore_state(self, clone: tuple[Scenario, str, Table]) -> bool:
        self.scenario, self.opponent, self.table = clone
        return True

    # ---- moves --------------------------------------------------------------------------------------------

    def _answer(self, proposed: bool) -> State:
        """What follows a proposal or a rejection: the opponent's move, or the other seat's."""
        if self.opponent == SELF:
            self.table = self.table._replace(mover=1 - self.table.mover)
            return self._turn_over()
        heard, patience = self.table.heard, OPPONENTS[self.opponent].patience
        if proposed and accepts(self.opponent, self._moment(self.turn), heard[-1]):
            self._say(f"{NAMES[1]} accepts.", "")
            return self._close(self.table.offers[0])
        if patience and len(heard) >= patience:
            self._say(f"{NAMES[1]} leaves.", "")
            self.table = self.table._replace(over=True)
        else:
            self._counter()
        return self._turn_over()

    def _turn_over(self) -> State:
        """The state after a move, the last of which ends the negotiation without a deal."""
        assert self.task is not None
        if self.turn >= self.task.max_turns:
            self.table = self.table._replace(over=True)
        return self._look("")

    def _pass(self, problem: str, valid: bool = True) -> State:
        """A message that is no move: the clock goes on, and so does the other seat's patience."""
        assert self.task is not None
        if self.turn >= self.task.max_turns:
            self.table = self.table._replace(over=True)
        return self._look(problem, admissible=False, valid=valid)

    def _close(self, deal: Deal | None) -> State:
        self.table = self.table._replace(deal=deal, over=True)
        return self._look("There is a deal.")

    def _offer(self, seat: int, deal: Deal) -> None:
        offers = (deal, None) if seat == 0 else (None, deal)
        heard = self.table.heard + ((float(self.scenario.utility(deal, 1)),) if seat == 0 else ())
        self.table = self.table._replace(offers=offers, heard=heard)

    def _counter(self) -> None:
        deal = counter(self.opponent, self._moment(max(1, self.turn)), self.scenario, 1)
        self._say(f"{NAMES[1]}: {self.scenario.say(deal, 1)}", _WORDS[self.opponent])
        self._offer(1, deal)

    def _say(self, text: str, words: str) -> None:
        self.table = self.table._replace(log=(*self.table.log, f"{text} {words}".strip()))

    def _moment(self, turn: int, *more: float) -> Moment:
        assert self.task is not None
        scenario, heard = self.scenario, (*self.table.heard, *map(float, more))
        return Moment(turn, self.task.max_turns, scenario.top(1), scenario.fair(1), self.task.seed, heard)

    # ---- what the agent reads -----------------------------------------------------------------------------

    def _example(self) -> str:
        return "book=1 hat=0 ball=2" if isinstance(self.scenario, Division) else "80"

    def _usage(self) -> str:
        assert self.task is not None
        meaning = "what you take, the rest is the other's" if isinstance(self.scenario, Division) else "a price"
        return (
            f"Actions: propose {self._example()}: words ({meaning}); accept: words; reject: words. Words may be left "
            "out. Without a deal both get nothing."
        )

    def _look(self, event: str, admissible: bool = True, valid: bool = True) -> State:
        table, scenario = self.table, self.scenario
        assert self.task is not None
        mover = table.mover
        left = self.task.max_turns - self.turn
        lines = [event, f"You are {NAMES[mover]}. {scenario.private(mover)}"] if not table.over else [event]
        lines += table.log if self.opponent == SELF else table.log[-2:]
        lines += [f"Messages left: {left}."] if not table.over else [self._outcome()]
        score, won = self._score()
        lost = table.over and not won
        text = "\n".join(line for line in lines if line)
        return State(text, score, won, lost, self._commands(), admissible, valid, self._extra())

    def _outcome(self) -> str:
        return f"Deal: {self.scenario.write(self.table.deal, 0)} for {NAMES[0]}." if self.table.deal else "No deal."

    def _score(self) -> tuple[float, bool]:
        deal, scenario = self.table.deal, self.scenario
        if deal is None:
            return 0.0, False
        if self.opponent == SELF:
            u, v = (max(0, each) for each in scenario.both(deal))
            best = max(scenario.utility(each, 0) * scenario.utility(each, 1) for each in scenario.nash)
            return (1.0, True) if deal in scenario.nash else (SHORT * u * v / best, False)
        if scenario.wins(deal, 0):
            return 1.0, True
        return SHORT * min(1.0, max(0.0, scenario.utility(deal, 0) / scenario.fair(0))), False

    def _extra(self) -> dict[str, Any]:
        scenario, table = self.scenario, self.table
        counts = {"seat": float(table.moved)}
        extra: dict[str, Any] = {
            "seat": table.mover,
            "fair": scenario.fair(0),
            "utility": None,
            "pareto": None,
            "sl": None,
        }
        if table.deal is not None:
            extra["utility"], extra["pareto"] = scenario.utility(table.deal, 0), table.deal in scenario.frontier
            extra["sl"] = scenario.sale_to_list(table.deal) if isinstance(scenario, Price) else None
        if table.over:
            for seat in (0, 1):
                gained = scenario.utility(table.deal, seat) if table.deal is not None else 0
                best = max(scenario.utility(deal, seat) for deal in scenario.frontier)
                counts[f"seat_score_{seat}"] = max(0, gained) / best
                counts[f"seat_success_{seat}"] = float(table.deal is not None and scenario.wins(table.deal, seat))
        return {**extra, "counts": counts}

    def _commands(self) -> tuple[str, ...]:
        """Accepting, rejecting, and proposals: every deal, or evenly spaced ones where they are too many."""
        if self.table.over:
            return ()
        seat, deals = self.table.mover, self.scenario.deals
        step = -(-len(deals) // MAX_COMMANDS)
        listed = [f"propose {self.scenario.write(deal, seat)}" for deal in deals[::step]]
        return (*(["accept"] if self.table.offers[1 - seat] else []), "reject", *listed)
