"""Deals that the agent decides: an expert in its seat wins them, one who always passes loses them."""

from __future__ import annotations

import random
from functools import lru_cache
from itertools import count
from typing import NamedTuple

from .characters import CHARACTERS, SEEN, STRATEGIES, UNSEEN, Choice, choose, oracle
from .game import NOTHING, SEATS, Decision, Game, deal

POOLS = {"seen": tuple(SEEN), "unseen": tuple(UNSEEN)}


class Deal(NamedTuple):
    """A game that begins, the agent's seat, and who sits in the others."""

    game: Game
    seat: int
    seed: int
    kinds: tuple[str, ...]

    def script(self, game: Game, decision: Decision) -> Choice:
        """What the scripted player of a decision does."""
        return choose(game, decision, CHARACTERS[self.kinds[decision.seat]], self.seed)


def draw(seed: int, role: str, players: str, attempt: int) -> Deal:
    """The deal of a task's `attempt`; players: a pool, a character, or anything else where there are no scripts."""
    rng = random.Random(f"werewolf {seed} {role} {players} {attempt}")
    seat = rng.choice(SEATS)
    game = deal(rng, seat, role)
    pool = POOLS.get(players, (players,))
    return Deal(game, seat, rng.randrange(1 << 30), tuple(rng.choice(pool) for _ in SEATS))


@lru_cache(maxsize=4096)
def decided(seed: int, role: str, players: str) -> tuple[int, tuple[str, bool]]:
    """The first attempt that the agent decides, and the expert's way of talking that wins it."""
    for attempt in count():
        drawn = draw(seed, role, players, attempt)
        if is_won(drawn, None):
            continue
        for strategy in STRATEGIES:
            if is_won(drawn, strategy):
                return attempt, strategy
    raise AssertionError("there is no end of attempts")


def is_won(drawn: Deal, strategy: tuple[str, bool] | None) -> bool:
    """Whether the seat's team wins when it plays so; None: it always passes."""
    game = drawn.game.copy()
    while (decision := game.next) is not None:
        if decision.seat != drawn.seat:
            game.decide(*drawn.script(game, decision))
        else:
            game.decide(*(oracle(game, decision, strategy) if strategy else (None, NOTHING)))
    return game.winner == game.team(drawn.seat)
