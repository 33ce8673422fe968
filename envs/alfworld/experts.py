"""Two policies that win: `oracle` reads the game's state, `Explorer` only what it was shown.

An explorer's demonstrations teach to search; an oracle's teach to guess where nobody has looked.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import permutations

from ..errors import EnvError
from . import tables
from .engine import World
from .game import Fact
from .goals import Goal

_TREATMENTS = {
    "pick_clean_then_place_in_recep": ("clean", "isclean", "cleanobject"),
    "pick_heat_then_place_in_recep": ("heat", "ishot", "heatobject"),
    "pick_cool_then_place_in_recep": ("cool", "iscool", "coolobject"),
}
_CONTENTS = re.compile(r"(?:On the (\w+ \d+), you see|The (\w+ \d+) is open\. In it, you see) ([^.]*)\.")


# ---- the oracle -----------------------------------------------------------------------------------


def oracle(world: World) -> list[str]:
    """A short plan from here to the goal, as commands; empty when the goal holds.

    Candidates (which object, from where, to where) are played out on copies and the shortest that wins
    is returned. Raises `EnvError` when none wins.
    """
    if world.won:
        return []
    plans = [plan for errands in _candidates(world) if (plan := _play(world, errands)) is not None]
    if not plans:
        raise EnvError(f"No plan found for {world.game.goal}: the game cannot be won from here.")
    return min(plans, key=len)


Errand = tuple[str, str, str]
"""(`take`, object, receptacle), (`put`, …), (`treat` or `use`, object, receptacle) or (`drop`, '', '')."""


def _candidates(world: World) -> Iterator[list[Errand]]:
    game, goal, held = world.game, world.game.goal, world.held
    sources = [pair for pair in sorted(world.facts["inreceptacle"]) if game.object_type.get(pair[0]) == goal.object]
    takes: list[list[Errand]] = [[("take", thing, place)] for thing, place in sources]
    if held is not None:
        takes = [[("drop", held, ""), *take] for take in takes]
        if game.object_type.get(held) == goal.object:
            sources.insert(0, (held, ""))
            takes.insert(0, [])
    if goal.task_type == "look_at_obj_in_light":
        lamps = [pair for pair in sorted(world.facts["inreceptacle"]) if game.object_type.get(pair[0]) == goal.lamp]
        yield from ([*take, ("use", lamp, place)] for take in takes for lamp, place in lamps)
        return
    targets = [place for place in sorted(game.location) if game.receptacle_type.get(place) == goal.receptacle]
    if goal.task_type == "pick_two_obj_and_place":
        yield from _two(world, sources, targets)
        return
    for (thing, _), take in zip(sources, takes, strict=True):
        for treat in _treatments(world, thing):
            yield from ([*take, *treat, ("put", thing, target)] for target in targets)


def _treatments(world: World, thing: str) -> Iterator[list[Errand]]:
    game, found = world.game, _TREATMENTS.get(world.game.goal.task_type)
    if found is None or (thing,) in world.facts[found[1]]:
        yield []
        return
    for place in sorted(game.location):
        if game.receptacle_type.get(place) in game.devices[found[2]]:
            yield [("treat", thing, place)]


def _two(world: World, sources: Sequence[Fact], targets: list[str]) -> Iterator[list[Errand]]:
    """Fill each target from the objects outside it, the held one first; at most three sources are tried."""
    for target in targets:
        outside = [pair for pair in sources if (pair[0], target) not in world.facts["inreceptacle"]]
        inside = {thing for thing, place in sources if place == target}
        for chosen in permutations(outside[:3], min(len(outside), max(0, 2 - len(inside)))):
            errands: list[Errand] = []
            if world.held is not None and (world.held, "") not in chosen[:1]:
                errands.append(("drop", world.held, ""))
            for thing, place in chosen:
                errands += ([("take", thing, place)] if place else []) + [("put", thing, target)]
            yield errands


def _play(world: World, errands: list[Errand]) -> list[str] | None:
    """Commands that run the errands on a copy, or None where one is not possible or the goal is missed."""
    played, plan = world.copy(), []
    for kind, thing, place in errands:
        places = [place] if place else _droppable(played, thing)
        steps = next((found for spot in places if (found := _errand(played, kind, thing, spot)) is not None), None)
        if steps is None:
            return None
        plan += steps
    return plan if played.won else None


def _droppable(world: World, thing: str) -> list[str]:
    """Receptacles that can hold `thing`: those here first, then those without a door."""
    game = world.game
    kind, fits = game.object_type.get(thing, ""), game.static.get("cancontain", frozenset())
    spots = [place for place in sorted(game.location) if (game.receptacle_type.get(place, ""), kind) in fits]
    return sorted(spots, key=lambda p: (game.location[p] != world.place, not world.accessible(p)))


def _errand(world: World, kind: str, thing: str, place: str) -> list[str] | None:
    """Go, open where needed, act; changes `world`."""
    names, plan = world.game.names, []
    spot, what = names[place], names[thing]
    if world.game.location[place] != world.place:
        plan.append(f"go to {spot}")
        world.do(plan[-1])
    if kind in ("take", "put", "drop") and not world.accessible(place):
        plan.append(f"open {spot}")
        world.do(plan[-1])
    command = _command(world.commands, "put" if kind == "drop" else kind, what, spot)
    if command is None:
        return None
    world.do(command)
    return [*plan, command]


_VERBS = {"take": ("take",), "put": ("move", "put"), "treat": ("clean", "heat", "cool"), "use": ("use",)}


def _command(commands: Iterable[str], kind: str, thing: str, place: str = "") -> str | None:
    """The admissible command of `kind` on `thing` and `place`, in whatever words the grammar has for it."""
    for command in commands:
        verb, _, rest = command.partition(" ")
        ends = kind == "use" or not place or rest.endswith(f" {place}")
        if verb in _VERBS[kind] and ends and (rest == thing or rest.startswith(f"{thing} ")):
            return command
    return None


# ---- the explorer ---------------------------------------------------------------------------------


class Explorer:
    """Finds and does from goal, observations and commands alone; `observe` after every turn, `act` when asked.

    It looks through the receptacles, likely ones first, opens what is closed, takes the object when it has
    seen it, and remembers what it saw. Likely are, in the order of the commands, those that can hold the
    object; `lived_in`: those where `tables.USUAL` has it, as in the published games.
    """

    def __init__(self, goal: Goal, observation: str, commands: Sequence[str], lived_in: bool = False) -> None:
        self.lived_in = lived_in
        self.task_type = goal.task_type
        self.treatment = _TREATMENTS.get(goal.task_type, ("",))[0]
        self.wanted, self.target, self.lamp = (
            kind.removesuffix("type") for kind in (goal.object, goal.receptacle, goal.lamp)
        )
        self.places = [c.removeprefix("go to ") for c in commands if c.startswith("go to ")]
        self.seen: dict[str, set[str]] = {}
        """Receptacle -> what was in it when last seen."""
        self.treated: set[str] = set()
        self.held, self.origin, self.at = "", "", ""
        self.refused: set[str] = set()
        """Where the held object cannot be put."""
        self.commands = commands
        self._unread: list[tuple[str, bool, str, Sequence[str]]] = []
        """Turns not yet thought about: most episodes never ask the expert."""
        self._look(observation)

    def __deepcopy__(self, memo: dict[int, object]) -> Explorer:
        """Only what it knows is copied: texts and lists of commands are never changed."""
        other = copy.copy(self)
        other.seen = {place: set(things) for place, things in self.seen.items()}
        other.treated, other.refused, other._unread = set(self.treated), set(self.refused), list(self._unread)
        return other

    def observe(self, action: str, admissible: bool, observation: str, commands: Sequence[str]) -> None:
        """Take in a turn: what was done, whether it was possible, what came."""
        self._unread.append((action, admissible, observation, commands))

    def _read(self, action: str, admissible: bool, observation: str, commands: Sequence[str]) -> None:
        self.commands = commands
        self._look(observation)
        if not admissible:
            return
        verb, _, rest = action.partition(" ")
        if verb == "go":
            self.at = action.removeprefix("go to ")
        elif verb == "take":
            self.held, self.origin = rest.split(" from ")
            self.refused.clear()
            self.seen.setdefault(self.origin, set()).discard(self.held)
        elif verb in ("move", "put"):
            self._put(" ".join(rest.split()[-2:]))
        elif verb == self.treatment:
            self.treated.add(self.held)
        elif {verb, self.treatment} == {"heat", "cool"}:  # each undoes the other
            self.treated.discard(self.held)

    def act(self) -> str:
        """The next command."""
        for turn in self._unread:
            self._read(*turn)
        self._unread.clear()
        if self.held and _class(self.held) != self.wanted:
            return self._drop()
        if self.held:
            return self._shine() if self.lamp else self._deliver()
        spot = self._known(self.wanted)
        return self._at(spot[1], _command(self.commands, "take", *spot)) if spot else self._search(self.wanted)

    def _look(self, observation: str) -> None:
        for on, within, listing in _CONTENTS.findall(observation):
            self.seen[on or within] = set(re.findall(r"\ba (\w+ \d+)", listing))

    def _put(self, place: str) -> None:
        self.seen.setdefault(place, set()).add(self.held)
        self.held = ""

    def _known(self, wanted: str) -> tuple[str, str] | None:
        """A seen object of the class that is still of use, and its receptacle."""
        for place in self.places:
            for thing in sorted(self.seen.get(place, ())):
                if _class(thing) == wanted and not self._placed(thing, place):
                    return thing, place
        return None

    def _placed(self, thing: str, place: str) -> bool:
        if self.task_type == "pick_two_obj_and_place":
            return place == self._goal_place()
        return _class(place) == self.target and (not self.treatment or thing in self.treated)

    def _goal_place(self) -> str:
        """The target's first receptacle, or for two objects the one that has one of them."""
        targets = [place for place in self.places if _class(place) == self.target]
        begun = [p for p in targets if any(_class(thing) == self.wanted for thing in self.seen.get(p, ()))]
        return (begun if begun and self.task_type == "pick_two_obj_and_place" else targets)[0]

    def _deliver(self) -> str:
        if self.treatment and self.held not in self.treated:
            device = {"clean": "sinkbasin", "heat": "microwave", "cool": "fridge"}[self.treatment]
            place = next(p for p in self.places if _class(p) == device)
            return self._at(place, _command(self.commands, "treat", self.held, place))
        place = self._goal_place()
        return self._at(place, _command(self.commands, "put", self.held, place))

    def _shine(self) -> str:
        lamp = self._known(self.lamp)
        return self._at(lamp[1], _command(self.commands, "use", lamp[0])) if lamp else self._search(self.lamp)

    def _drop(self) -> str:
        """Put a useless object where it came from, or wherever it fits."""
        command = _command(self.commands, "put", self.held) or next(
            (f"open {place}" for place in self.places if f"open {place}" in self.commands), None
        )
        if command:
            return command
        self.refused.update(place for place in self.places if f"go to {place}" not in self.commands)
        likely = [place for place in self.places if _class(place) in _holders(_class(self.held))]
        for place in (self.origin, *likely, *self.places):
            if place not in self.refused and self._at(place, None) in self.commands:
                return self._at(place, None)
        return "look"

    def _at(self, place: str, command: str | None) -> str:
        """`command` where it is possible, else what leads there: open the receptacle or go to it."""
        for step in (command, f"open {place}", f"go to {place}"):
            if step is not None and step in self.commands:
                return step
        return f"examine {place}"

    def _search(self, wanted: str) -> str:
        order = self._usual_order(wanted) if self.lived_in else self._order(wanted)
        place = next((place for place in order if place not in self.seen), None)
        return self._at(place, None) if place else "look"

    def _order(self, wanted: str) -> list[str]:
        likely = [p for p in self.places if _class(p) != self.target and _class(p) in _holders(wanted)]
        return [*likely, *(place for place in self.places if place not in likely)]

    def _usual_order(self, wanted: str) -> list[str]:
        """Usual places first, at the target last; among equals one at hand, then by number."""
        usual = tables.USUAL.get(wanted, "").split()

        def key(place: str) -> tuple[bool, int, bool, int]:
            kind, _, number = place.partition(" ")
            rank = usual.index(kind) if kind in usual else len(usual)
            at_target = kind == self.target and not self.treatment
            return at_target, rank, f"go to {place}" in self.commands, int(number)

        return sorted(self.places, key=key)


def _class(name: str) -> str:
    return name.partition(" ")[0]


@lru_cache(maxsize=256)
def _holders(thing: str) -> frozenset[str]:
    """Receptacle classes, as shown, where a class of object is usually found."""
    if thing.endswith("lamp"):
        return frozenset(place.lower() for place in tables.LAMP_PLACES)
    return frozenset(
        place.lower() for place, things in tables.fits().items() if thing in {name.lower() for name in things}
    )
