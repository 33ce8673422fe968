"""Scripted opponents: how much each asks for at a moment, from which all that it says and accepts follows."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from .scenarios import Deal, Scenario

FLOOR = 0.6
"""Share of its fair utility below which no opponent goes, whatever it gains by a deal."""


class Moment(NamedTuple):
    """What an opponent decides by: the clock, its own utilities, and what it was offered."""

    turn: int
    """1 to `rounds`: the agent's message that it answers."""
    rounds: int
    top: float
    fair: float
    seed: int
    offered: tuple[float, ...] = ()
    """What the agent's proposals were worth to the opponent, the present one included."""

    @property
    def floor(self) -> float:
        return FLOOR * self.fair

    @property
    def passed(self) -> float:
        """Share of the time that has passed: 0 at the first message, 1 at the last."""
        return (self.turn - 1) / max(1, self.rounds - 1)

    def between(self, share: float) -> float:
        """What it asks for when it has given away `share` of all that it can give."""
        return self.top - (self.top - self.floor) * min(1.0, max(0.0, share))


def conceder(moment: Moment) -> float:
    """Gives way as time passes, evenly."""
    return moment.between(moment.passed)


def boulware(moment: Moment) -> float:
    """Hardly moves before the end: the share given away is the fourth power of the time that has passed."""
    return moment.between(moment.passed**4)


def tit_for_tat(moment: Moment) -> float:
    """Gives as much as it is given: what the agent's best offer improved on its first, as a share of the fair one."""
    gained = max(moment.offered) - moment.offered[0] if moment.offered else 0.0
    return moment.between(gained / moment.fair)


def moody(moment: Moment) -> float:
    """Gives way as time passes, a fifth more or less by mood; at its floor in the end."""
    mood = random.Random(f"mood {moment.seed} {moment.turn}").uniform(-0.2, 0.2)
    return moment.between(moment.passed + (mood if 0 < moment.passed < 1 else 0.0))


def hard(moment: Moment) -> float:
    """Wants its fair share and never takes less."""
    return moment.fair


def hasty(moment: Moment) -> float:
    """Takes whatever is above its floor."""
    return moment.floor


class Opponent(NamedTuple):
    """A behaviour: what it takes, what it asks for, and how many proposals it refuses before it leaves."""

    takes: Callable[[Moment], float]
    asks: Callable[[Moment], float]
    patience: int | None = None


SEEN: dict[str, Opponent] = {
    "conceder": Opponent(conceder, conceder),
    "boulware": Opponent(boulware, boulware),
    "tit_for_tat": Opponent(tit_for_tat, tit_for_tat),
    "moody": Opponent(moody, moody),
}
UNSEEN: dict[str, Opponent] = {
    "hard": Opponent(hard, hard),
    "hasty": Opponent(hasty, conceder),
    "ultimatum": Opponent(hasty, hard, patience=3),
}
OPPONENTS = {**SEEN, **UNSEEN}
"""Those of `UNSEEN` play in the split of that name only."""


def accepts(name: str, moment: Moment, utility: float) -> bool:
    """Whether an opponent takes a deal of this utility now."""
    return utility >= OPPONENTS[name].takes(moment)


def counter(name: str, moment: Moment, scenario: Scenario, seat: int) -> Deal:
    """What an opponent proposes: the deal worth least to it of those that are worth what it asks for."""
    asked = OPPONENTS[name].asks(moment)
    shuffled = list(scenario.deals)
    random.Random(f"offers {moment.seed}").shuffle(shuffled)  # of deals worth the same to it, it has no favourite
    enough = [deal for deal in shuffled if scenario.utility(deal, seat) >= asked]
    return min(enough, key=lambda deal: scenario.utility(deal, seat))
