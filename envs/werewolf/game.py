"""The rules: who decides what next, what follows from it, and what every seat has learned."""

from __future__ import annotations

import random
from collections import Counter
from typing import NamedTuple

NAMES = ("Ann", "Bob", "Cat", "Dan", "Eve", "Fay", "Gus")
WOLF, SEER, DOCTOR, VILLAGER = "werewolf", "seer", "doctor", "villager"
ROLES: tuple[str, ...] = (WOLF, WOLF, SEER, DOCTOR, VILLAGER, VILLAGER, VILLAGER)
SEATS = range(len(ROLES))
VILLAGE, WOLVES = "village", "werewolves"
DAYS = 4
"""After the vote of this day the werewolves have won, unless they are found."""

KILL, SEE, SAVE, SPEAK, VOTE = "kill", "see", "save", "say", "vote"
ACCUSE, TRUST, CLAIM_WOLF, CLAIM_GOOD, NOTHING = "accuse", "trust", "wolf", "good", "nothing"
_SPOKEN = {
    ACCUSE: "I suspect {}.", TRUST: "I trust {}.", CLAIM_WOLF: "I am the seer, and {} is a werewolf.",
    CLAIM_GOOD: "I am the seer, and {} is not a werewolf.",
}  # fmt: skip


class Decision(NamedTuple):
    """Whose turn it is, and for what."""

    seat: int
    kind: str


class Speech(NamedTuple):
    """What was said aloud, as far as others can reckon with it."""

    day: int
    speaker: int
    act: str
    target: int | None


class Game:
    """One game. `decide` answers the decision `next`, until there is a `winner`."""

    def __init__(self, roles: tuple[str, ...]) -> None:
        self.roles = roles
        self.alive = set(SEATS)
        self.day = 0
        self.queue: list[Decision] = []
        self.speeches: list[Speech] = []
        self.votes: list[tuple[int, int, int | None]] = []
        """(day, voter, target), those of the running vote included."""
        self.seen: dict[int, bool] = {}
        """What the seer has found: seat -> whether it is a werewolf."""
        self.log: list[tuple[frozenset[int] | None, str]] = []
        """(who may read it, None: everybody; the text)."""
        self.victim: int | None = None
        self.saved: int | None = None
        self.winner = ""
        self._fall_of_night()

    def copy(self) -> Game:
        """A game that goes on by itself."""
        other = Game.__new__(Game)
        vars(other).update(vars(self))
        for name in ("alive", "queue", "speeches", "votes", "seen", "log"):
            setattr(other, name, vars(self)[name].copy())
        return other

    @property
    def next(self) -> Decision | None:
        """The decision that is waited for; None when the game is over."""
        return None if self.winner else self.queue[0]

    @property
    def wolves(self) -> frozenset[int]:
        """Seats of both werewolves, dead ones included."""
        return frozenset(seat for seat in SEATS if self.roles[seat] == WOLF)

    def team(self, seat: int) -> str:
        """The side that a seat wins with."""
        return WOLVES if seat in self.wolves else VILLAGE

    def targets(self, decision: Decision) -> list[int]:
        """Seats that a decision can be about."""
        others = sorted(self.alive - {decision.seat})
        if decision.kind == KILL:
            return [seat for seat in others if seat not in self.wolves]
        return sorted(self.alive) if decision.kind == SAVE else others

    def decide(self, target: int | None, act: str = NOTHING, words: str = "") -> None:
        """Answer `next`: about a target, or by doing nothing; `act` and `words` are those of a speech."""
        seat, kind = self.queue.pop(0)
        if kind == KILL:
            self.victim = self.victim if target is None else target
            told = "nobody" if target is None else NAMES[target]
            self._tell(f"{NAMES[seat]} wants to kill {told}.", self.wolves)
        elif kind == SEE and target is not None:
            self.seen[target] = target in self.wolves
            found = "a werewolf" if self.seen[target] else "not a werewolf"
            self._tell(f"You see that {NAMES[target]} is {found}.", frozenset({seat}))
        elif kind == SAVE:
            self.saved = target
        elif kind == SPEAK:
            self._speak(seat, target, act, words)
        elif kind == VOTE:
            self.votes.append((self.day, seat, target))
        if not self.queue:
            self._end_of_phase(kind)

    def heard_by(self, seat: int) -> list[str]:
        """Everything that a seat may know, in order."""
        return [text for readers, text in self.log if readers is None or seat in readers]

    def role_known(self, seat: int) -> str | None:
        """The role of a dead player, which everybody learns."""
        return None if seat in self.alive else self.roles[seat]

    # ---- what follows -------------------------------------------------------------------------------------

    def _speak(self, seat: int, target: int | None, act: str, words: str) -> None:
        said = _SPOKEN[act].format(NAMES[target]) if act in _SPOKEN and target is not None else ""
        self._tell(f"{NAMES[seat]}: {' '.join(filter(None, (said, words))) or '(nothing)'}")
        self.speeches.append(Speech(self.day, seat, act if said else NOTHING, target if said else None))

    def _end_of_phase(self, kind: str) -> None:
        if kind == SPEAK:
            self.queue = [Decision(seat, VOTE) for seat in sorted(self.alive)]
        elif kind == VOTE:
            self._count()
        else:
            self._break_of_day()

    def _fall_of_night(self) -> None:
        self.day += 1
        self.victim = self.saved = None
        self._tell(f"Night {self.day}.")
        order = ((KILL, WOLF), (SEE, SEER), (SAVE, DOCTOR))
        self.queue = [
            Decision(seat, kind) for kind, role in order for seat in sorted(self.alive) if self.roles[seat] == role
        ]  # fmt: skip

    def _break_of_day(self) -> None:
        dead = self.victim if self.victim != self.saved else None
        if dead is None:
            self._tell(f"Day {self.day}. Nobody died.")
        else:
            self.alive.discard(dead)
            self._tell(f"Day {self.day}. {NAMES[dead]} was killed, the {self.roles[dead]}.")
        if not self._is_over():
            self.queue = [Decision(seat, SPEAK) for seat in sorted(self.alive)]

    def _count(self) -> None:
        cast = [(voter, target) for day, voter, target in self.votes if day == self.day]
        told = (f"{NAMES[voter]} for {'nobody' if target is None else NAMES[target]}" for voter, target in cast)
        self._tell(f"Votes: {', '.join(told)}.")
        most = Counter(target for _, target in cast if target is not None).most_common(2)
        if most and (len(most) == 1 or most[0][1] > most[1][1]):
            out = most[0][0]
            self.alive.discard(out)
            self._tell(f"{NAMES[out]} is voted out, the {self.roles[out]}.")
        else:
            self._tell("Nobody is voted out.")
        if not self._is_over(evening=True):
            self._fall_of_night()

    def _is_over(self, evening: bool = False) -> bool:
        wolves = len(self.alive & self.wolves)
        if wolves == 0:
            self.winner = VILLAGE
        elif 2 * wolves >= len(self.alive) or (evening and self.day >= DAYS):
            self.winner = WOLVES
        if self.winner:
            self._tell(f"The {self.winner} win{'s' if self.winner == VILLAGE else ''}.")
        return bool(self.winner)

    def _tell(self, text: str, readers: frozenset[int] | None = None) -> None:
        self.log.append((readers, text))


def deal(rng: random.Random, seat: int, role: str) -> Game:
    """A game in which a seat has a role, and the others what is left."""
    rest = list(ROLES)
    rest.remove(role)
    rng.shuffle(rest)
    rest.insert(seat, role)
    return Game(tuple(rest))
