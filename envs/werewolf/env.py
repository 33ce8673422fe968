"""`turnwise/Werewolf-v0`: one seat of seven among scripted players, or all seats in turn; success is the team's win."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from ..core import State, TextEnv, clean_action
from ..errors import RequestError, UnknownName
from ..task import Task
from .characters import CHARACTERS, STRATEGIES, Choice, cooperative, oracle
from .deals import POOLS, Deal, decided, draw
from .game import (
    ACCUSE,
    CLAIM_GOOD,
    CLAIM_WOLF,
    DAYS,
    DOCTOR,
    NAMES,
    NOTHING,
    SEATS,
    SEER,
    SPEAK,
    TRUST,
    VILLAGE,
    VILLAGER,
    WOLF,
    Decision,
    Game,
)

SIZES = {"train": 10_000, "validation": 500, "test": 1_000, "unseen": 500, "self_play": 500}
"""Split -> number of tasks; `unseen` has other characters, in `self_play` the agent plays all seats."""
_FIRST_SEED = {split: 100_000 * index for index, split in enumerate(SIZES)}
PLAYED = (VILLAGER, SEER, WOLF, DOCTOR)
SELF = "self"
SLACK = 6
_ACTION = re.compile(rf"(kill|see|save|vote|say|pass)\b ?(?:({ACCUSE}|{TRUST}|{CLAIM_WOLF}|{CLAIM_GOOD})\b ?)?"
                     r"([a-z]+)?(?: ?: ?(.*))?", re.I)  # fmt: skip
_USAGE = {
    "kill": "kill Ann", "see": "see Ann", "save": "save Ann", "vote": "vote Ann",
    "say": f"say {ACCUSE} Ann: words, say {TRUST} Ann: words, say {CLAIM_WOLF} Ann or say {CLAIM_GOOD} Ann (as the "
    "seer), say: words",
}  # fmt: skip


class WerewolfEnv(TextEnv):
    """Night, announcement, speeches, vote, until the werewolves are found or as many as the others, four days at most.

    The score is 1 for a win of the seat's team, else 0. A task is the first deal of its seed that the expert wins and a
    player who always passes does not. With the characters `self` every seat is played in turn, `info["seat"]` says
    which is next, and success is a win of the village.
    """

    id: ClassVar[str] = "turnwise/Werewolf-v0"
    unknown_action: ClassVar[str] = "vote zoe"

    @classmethod
    def splits(cls) -> dict[str, int]:
        return dict(SIZES)

    @classmethod
    def tasks(
        cls, split: str, count: int | None = None, *, role: str = "mixed", character: str = "mixed"
    ) -> list[Task]:
        """The first `count` tasks of `split`.

        role: what the agent plays, or all four in turn. character: of all scripted players, one of the split's, or
        drawn for each.
        """
        known = POOLS["unseen" if split == "unseen" else "seen"]
        if role not in (*PLAYED, "mixed"):
            raise UnknownName("role", str(role), (*PLAYED, "mixed"))
        if character not in (*known, "mixed"):
            raise UnknownName(f"character of split {split!r}", str(character), (*known, "mixed"))
        if split == "self_play" and (role, character) != ("mixed", "mixed"):
            raise RequestError("Expected no role and no character in self_play, where every seat is the agent's.")
        pool = SELF if split == "self_play" else "unseen" if split == "unseen" else "seen"
        turns = DAYS * (3 if pool != SELF else 4 + 2 * len(SEATS)) + SLACK
        return [
            Task(env=cls.id, seed=_FIRST_SEED[split] + i, split=split, max_turns=turns,
                 params={"role": PLAYED[i % len(PLAYED)] if role == "mixed" else role,
                         "players": pool if character == "mixed" else character})
            for i in range(SIZES[split] if count is None else min(count, SIZES[split]))
        ]  # fmt: skip

    def start(self, task: Task) -> State:
        self.players, role = task.params["players"], task.params["role"]
        if self.players not in (*POOLS, *CHARACTERS, SELF):
            raise UnknownName("players of a Werewolf task", str(self.players), (*POOLS, *CHARACTERS, SELF))
        if role not in PLAYED:
            raise UnknownName("role", str(role), PLAYED)
        attempt, self._strategy = (0, STRATEGIES[0]) if self.players == SELF else decided(task.seed, role, self.players)
        self._dealt: Deal = draw(task.seed, role, self.players, attempt)
        self._seat = self._dealt.seat
        self.game: Game = self._dealt.game
        self._moved = self._seat
        self._go_on()
        self.goal = "Win with your team."
        return self._look(self._rules())

    def clean(self, action: Any) -> str:
        """One printable line; empty where it is none, so that every message, however bad, is counted for its seat."""
        return clean_action(action, self.max_action_chars) or ""

    def act(self, action: str) -> State:
        decision = self.game.next
        if decision is None:
            return self._look("The game is over.", admissible=False, valid=bool(action))
        self._moved = decision.seat
        match = _ACTION.fullmatch(action)
        if match is None:
            return self._look(f"Write {_USAGE[decision.kind]}, or pass.", admissible=False, valid=False)
        read = self._read(match, decision)
        if isinstance(read, str):
            return self._look(read, admissible=False)
        target, spoken = read
        self.game.decide(target, spoken, (match[4] or "").strip())
        self._go_on()
        return self._look("")

    def expert(self) -> str:
        decision = self.game.next
        if decision is None:
            return "pass"
        if self.players == SELF:
            return _written(decision, cooperative(self.game, decision))
        return _written(decision, oracle(self.game, decision, self._strategy))

    def clone_state(self) -> tuple[Any, ...]:
        return self.players, self._seat, self._dealt, self._moved, self._strategy, self.game.copy()

    def restore_state(self, clone: Any) -> bool:
        self.players, self._seat, self._dealt, self._moved, self._strategy, game = clone
        self.game = game.copy()
        return True

    def _go_on(self) -> None:
        """Let the scripted players decide until the agent has to."""
        while self.players != SELF and (decision := self.game.next) is not None and decision.seat != self._seat:
            self.game.decide(*self._dealt.script(self.game, decision))

    # ---- what the agent says and reads ----------------------------------------------------------------------

    def _read(self, match: re.Match[str], decision: Decision) -> Choice | str:
        """The choice that an action makes, or why it makes none."""
        verb, act, name = match[1].lower(), (match[2] or NOTHING).lower(), (match[3] or "").capitalize()
        if verb == "pass":
            return (None, NOTHING) if not name else "To pass takes no name."
        if verb != decision.kind:
            return f"Now is the time to {_USAGE[decision.kind]}, or pass."
        if (act != NOTHING) > (verb == SPEAK) or bool(name) is (verb == SPEAK and act == NOTHING):
            return f"Write {_USAGE[verb]}, or pass."
        if not name:
            return None, NOTHING
        if name not in NAMES or NAMES.index(name) not in self.game.targets(decision):
            return f"{name} cannot be chosen."
        return NAMES.index(name), act

    def _rules(self) -> str:
        return (
            f"Seven players: {', '.join(NAMES)}. Two are werewolves, one is the seer, one the doctor, three villagers. "
            "At night the werewolves kill one, the seer learns whether one is a werewolf, the doctor saves one. By day "
            "all speak, then vote one out. The village wins when both werewolves are out, the werewolves when they are "
            f"as many as the others or after {DAYS} days."
        )

    def _look(self, event: str, admissible: bool = True, valid: bool = True) -> State:
        game, decision = self.game, self.game.next
        seat = decision.seat if decision else self._moved if self.players == SELF else self._seat
        lines = [event, f"You are {NAMES[seat]}, {self._told_role(seat)}.", *game.heard_by(seat)]
        lines += [f"Your turn: {_USAGE[decision.kind]}, or pass."] if decision else []
        team = VILLAGE if self.players == SELF else game.team(self._seat)
        won = game.winner == team
        text = "\n".join(line for line in lines if line)
        return State(text, float(won), won, bool(game.winner) and not won, self._commands(), admissible, valid,
                     self._extra(seat))  # fmt: skip

    def _told_role(self, seat: int) -> str:
        role = self.game.roles[seat]
        mates = [NAMES[each] for each in self.game.wolves if each != seat]
        return f"a werewolf with {mates[0]}" if role == WOLF else f"the {role}" if role != VILLAGER else "a villager"

    def _extra(self, seat: int) -> dict[str, Any]:
        game = self.game
        own = [target for _, voter, target in game.votes if target is not None and (voter == seat)]
        right = sum(game.team(target) != game.team(seat) for target in own)
        counts = {"seat": float(self._moved)}
        if game.winner:
            for each in SEATS:
                counts[f"seat_score_{each}"] = counts[f"seat_success_{each}"] = float(game.team(each) == game.winner)
        return {
            "seat": seat, "role": game.roles[seat], "day": game.day, "winner": game.winner or None,
            "vote_accuracy": right / len(own) if own else None, "counts": counts,
        }  # fmt: skip

    def _commands(self) -> tuple[str, ...]:
        decision = self.game.next
        if decision is None:
            return ()
        acts = (ACCUSE, TRUST, CLAIM_WOLF, CLAIM_GOOD) if decision.kind == SPEAK else (NOTHING,)
        named = (_written(decision, (target, act)) for act in acts for target in self.game.targets(decision))
        return ("pass", *named)


def _written(decision: Decision, choice: Choice) -> str:
    """A choice as the agent writes it."""
    target, act = choice
    if target is None:
        return "pass"
    return f"{decision.kind} {act + ' ' if decision.kind == SPEAK else ''}{NAMES[target]}"
