"""Scripted players: how suspicious each finds the others, by weights that make its character; and the expert's play."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from .game import (
    ACCUSE,
    CLAIM_GOOD,
    CLAIM_WOLF,
    KILL,
    NOTHING,
    SAVE,
    SEE,
    SEER,
    TRUST,
    VILLAGE,
    VOTE,
    WOLF,
    Decision,
    Game,
)

CERTAIN = 20.0
"""Suspicion of who is known to be a werewolf."""
SPEAKS_FROM = 0.8
"""Suspicion from which on a player accuses."""


class Character(NamedTuple):
    """Weights of what makes a player suspicious to this one."""

    hunch: float
    """A fixed feeling about every other player, between 0 and this."""
    accused: float
    """Somebody accused it."""
    claimed: float
    """Somebody who says to be the seer called it a werewolf, or, the other way, good."""
    voted: float
    """It voted for a player who turned out good; a vote for a werewolf counts as much for it."""
    grudge: float
    """It accused this player."""
    silent: bool = False
    bluffs: bool = False
    """As a werewolf called one by a seer, it says to be the seer itself."""


SEEN: dict[str, Character] = {
    "logical": Character(hunch=0.5, accused=0.4, claimed=3.0, voted=0.6, grudge=0.0),
    "herd": Character(hunch=0.5, accused=1.2, claimed=2.0, voted=0.2, grudge=0.0, bluffs=True),
    "stubborn": Character(hunch=1.5, accused=0.2, claimed=1.2, voted=0.3, grudge=1.5),
    "quiet": Character(hunch=1.0, accused=0.4, claimed=2.0, voted=0.6, grudge=0.2, silent=True),
}
UNSEEN: dict[str, Character] = {
    "paranoid": Character(hunch=2.5, accused=0.8, claimed=1.0, voted=1.0, grudge=1.0, bluffs=True),
    "contrarian": Character(hunch=1.0, accused=-0.6, claimed=1.5, voted=-0.3, grudge=0.5),
    "gullible": Character(hunch=0.2, accused=0.8, claimed=5.0, voted=0.1, grudge=0.0, bluffs=True),
}
CHARACTERS = {**SEEN, **UNSEEN}
"""Those of `UNSEEN` play in the split of that name only."""

Choice = tuple[int | None, str]
"""A target and, for a speech, its act."""


def suspicion(game: Game, seat: int, other: int, character: Character, seed: int) -> float:
    """How much a seat suspects another, by what it may know. Above 0: suspicious."""
    if game.roles[seat] == SEER and other in game.seen:
        return CERTAIN if game.seen[other] else -CERTAIN
    total = random.Random(f"hunch {seed} {seat} {other}").uniform(0.0, character.hunch)
    for speech in game.speeches:
        if speech.act == ACCUSE and speech.target == other and speech.speaker != seat:
            total += character.accused
        if speech.act in (ACCUSE, CLAIM_WOLF) and speech.target == seat and speech.speaker == other:
            total += character.grudge
        if speech.act in (CLAIM_WOLF, CLAIM_GOOD) and speech.target == other and speech.speaker != seat:
            total += character.claimed * _credit(game, speech.speaker) * (1 if speech.act == CLAIM_WOLF else -1)
        if speech.act == TRUST and speech.target == other and speech.speaker != seat:
            total -= character.accused / 2
    if _credit(game, other) < 0:
        total += CERTAIN / 2
    for _, voter, target in game.votes:
        known = None if target is None else game.role_known(target)
        if voter == other and known is not None:
            total += -character.voted if known == WOLF else character.voted
    return total


def _credit(game: Game, speaker: int) -> float:
    """How far a claim to be the seer goes: 1, less where others claim it too, 5 once proven, -1 once found false."""
    claims = [speech for speech in game.speeches if speech.act in (CLAIM_WOLF, CLAIM_GOOD)]
    mine = [speech for speech in claims if speech.speaker == speaker]
    if not mine:
        return 0.0
    if game.role_known(speaker) is not None:
        return 5.0 if game.role_known(speaker) == SEER else 0.0
    for speech in mine:
        known = None if speech.target is None else game.role_known(speech.target)
        if known is not None and (known == WOLF) is not (speech.act == CLAIM_WOLF):
            return -1.0
    return 1.0 / len({speech.speaker for speech in claims})


def choose(game: Game, decision: Decision, character: Character, seed: int) -> Choice:
    """What a scripted player does."""
    seat, kind = decision
    rng = random.Random(f"choice {seed} {seat} {kind} {game.day}")
    targets = game.targets(decision)
    fears = {other: suspicion(game, seat, other, character, seed) for other in targets if other != seat}
    if kind in (KILL, SAVE):
        claimants = [s.speaker for s in game.speeches if s.act in (CLAIM_WOLF, CLAIM_GOOD) and s.speaker in targets]
        return (claimants[-1] if claimants else rng.choice(targets)), NOTHING
    if kind == SEE:
        unseen = [other for other in targets if other not in game.seen]
        return (max(unseen, key=lambda other: fears[other]) if unseen else None), NOTHING
    if seat in game.wolves:
        return _wolf_by_day(game, decision, character, fears)
    most = max(fears, key=lambda other: fears[other])
    if kind == VOTE:
        return most, NOTHING
    found = [other for other in game.seen if game.seen[other] and other in game.alive]
    if game.roles[seat] == SEER and found:
        return found[0], CLAIM_WOLF
    if character.silent:
        return None, NOTHING
    least = min(fears, key=lambda other: fears[other])
    return (most, ACCUSE) if fears[most] >= SPEAKS_FROM else (least, TRUST)


def _wolf_by_day(game: Game, decision: Decision, character: Character, fears: dict[int, float]) -> Choice:
    """Goes for whoever is accused most anyway, but for its own kind; calls a seer that found it a werewolf."""
    prey = [other for other in fears if other not in game.wolves]
    heat = {other: sum(s.target == other and s.act in (ACCUSE, CLAIM_WOLF) for s in game.speeches) for other in prey}
    hottest = max(prey, key=lambda other: (heat[other], fears[other]))
    if decision.kind == VOTE:
        return hottest, NOTHING
    finders = [s.speaker for s in game.speeches if s.act == CLAIM_WOLF and s.target == decision.seat]
    if character.bluffs and finders and finders[-1] in prey:
        return finders[-1], CLAIM_WOLF
    return (None, NOTHING) if character.silent else (hottest, ACCUSE)


# ---- the expert ------------------------------------------------------------------------------------------

STRATEGIES: tuple[tuple[str, bool], ...] = (
    (CLAIM_WOLF, False), (ACCUSE, False), (CLAIM_WOLF, True), (ACCUSE, True), (NOTHING, False), (TRUST, False),
)  # fmt: skip
"""How the expert talks about its target, and whether it takes the last of those that it could go for."""


def oracle(game: Game, decision: Decision, strategy: tuple[str, bool]) -> Choice:
    """What a player does who knows every role."""
    seat, kind = decision
    act, last = strategy
    targets = game.targets(decision)
    if kind == SAVE:
        return game.victim, NOTHING
    if kind == KILL:
        order = (SEER, "doctor", "villager")
        return min(targets, key=lambda other: (order.index(game.roles[other]), other)), NOTHING
    enemies = [other for other in targets if game.team(other) != game.team(seat)]
    if kind == SEE:
        return next((other for other in enemies if other not in game.seen), None), NOTHING
    target = _target(game, enemies, last)
    if kind == VOTE:
        return target, NOTHING
    if act == TRUST:  # speak well of a friend
        friends = [other for other in targets if other not in enemies]
        return (friends[0], TRUST) if friends else (None, NOTHING)
    return (None, NOTHING) if act == NOTHING else (target, act)


def _target(game: Game, enemies: Sequence[int], last: bool) -> int:
    """The enemy who has the most votes and accusations already; the first or the last of equals."""
    today = [target for day, _, target in game.votes if day == game.day]
    said = [s.target for s in game.speeches if s.act in (ACCUSE, CLAIM_WOLF)]
    ordered = sorted(enemies, reverse=last)
    return max(ordered, key=lambda other: (today.count(other), said.count(other)))


def cooperative(game: Game, decision: Decision) -> Choice:
    """How all seats together make the village win: villagers know every role, werewolves do nothing."""
    return (None, NOTHING) if game.team(decision.seat) != VILLAGE else oracle(game, decision, STRATEGIES[0])
