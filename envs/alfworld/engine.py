"""ALFWorld's text games in pure Python: the stock engine's text, commands and goal test without a planner.

`World` plays what `game.parse_game` has read. State is a set of facts per predicate, as in
the PDDL domain; the domain's actions are written out by hand and everything said comes from the game's
own grammar. Equal to TextWorld's `PddlEnv` under alfworld's `AlfredDemangler`, quirks included: a visible
object cannot be examined before it is held, a lamp in a closed drawer can be used, and what was taken
and put down elsewhere at the same location lies "next to" the receptacle it left.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .game import AGENT, Action, Fact, Game, Index, Reads, Scene
from .grammar import Binding, Query

NOTHING = "Nothing happens."


class World:
    """A game being played."""

    __slots__ = ("_reads", "_scene", "ending", "facts", "game")

    def __init__(self, game: Game, played: World | None = None) -> None:
        source, ending = (game.start, game.ending) if played is None else (played.facts, played.ending)
        self.game = game
        self.facts: dict[str, set[Fact]] = {name: set(rows) for name, rows in source.items()}
        self.ending: dict[str, Index] = {name: dict(ending.get(name, ())) for name in self.facts}
        self._scene: Scene | None = None
        self._reads: Reads = {}

    def copy(self) -> World:
        """An independent world in the same state."""
        return World(self.game, self)

    # ---- what can be seen -------------------------------------------------------------------------

    @property
    def place(self) -> str:
        """The agent's location."""
        return next(iter(self.facts["atlocation"]))[1]

    @property
    def held(self) -> str | None:
        """The object in the agent's hand."""
        return next((fact[1] for fact in self.facts["holds"]), None)

    def accessible(self, receptacle: str) -> bool:
        """Neither openable nor closed."""
        return (receptacle,) not in self.game.static.get("openable", ()) or (receptacle,) in self.facts["opened"]

    def contents(self, receptacle: str) -> tuple[Fact, ...]:
        """(object, receptacle) of what lies in or on a receptacle, seen or not."""
        return self.ending["inreceptacle"].get(receptacle, ())

    def intro(self) -> str:
        """The first observation, banner and task included."""
        text = self._say("intro", self.game.grammar.rules["intro"][0].pieces, {})
        return text.replace("UNKNOWN GOAL", self.game.sentence.removesuffix("."))

    @property
    def won(self) -> bool:
        """The goal holds."""
        met, total = self.progress()
        return met == total

    def progress(self) -> tuple[int, int]:
        """Goal conditions that hold, and how many there are."""
        return self.game.goal.progress(self)

    # ---- what can be done -------------------------------------------------------------------------

    @property
    def commands(self) -> tuple[str, ...]:
        """The admissible commands, in stock order."""
        return self._here().commands

    def action(self, command: str) -> Action | None:
        """What an admissible command does; None for any other text."""
        return self._travel().get(command) or self._here().actions.get(command)

    def do(self, command: str) -> str:
        """Take a command; a text that is not an admissible one changes nothing."""
        action = self.action(command.strip())
        if action is None:
            return NOTHING
        name, binding = action
        add, delete = _effects(self, name, binding)
        for predicate, fact in delete:
            self._set(predicate, fact, False)
        for predicate, fact in add:
            self._set(predicate, fact, True)
        self._scene = None
        return self._say(name, self.game.grammar.feedback[name], binding)

    def _set(self, predicate: str, fact: Fact, holds: bool) -> None:
        # stock keeps what was made false as a fact of its own, and its grammar asks for it
        self._keep(predicate, fact, holds)
        self._keep(f"not_{predicate}", fact, not holds)

    def _keep(self, predicate: str, fact: Fact, holds: bool) -> None:
        rows = self.facts.setdefault(predicate, set())
        if (fact in rows) is holds:
            return
        ending, last = self.ending.setdefault(predicate, {}), fact[-1]
        others = ending.get(last)
        if holds:
            rows.add(fact)
            ending[last] = tuple(sorted((*others, fact))) if others else (fact,)
        else:
            rows.remove(fact)
            ending[last] = tuple([row for row in others or () if row != fact])

    def _here(self) -> Scene:
        if self._scene is None:
            place, seen = self.place, self._seen()
            scene = self.game.scenes.get(place)
            if scene is None or scene.seen != seen:
                actions = {self._phrase(name, binding): (name, binding) for name, binding in _applicable(self)}
                scene = Scene(seen, actions, tuple(sorted((*self._travel(), *actions))))
                self.game.scenes[place] = scene
            self._scene = scene
        return self._scene

    def _seen(self) -> tuple[Any, ...]:
        opened, contents = self.ending["opened"], self.ending["inreceptacle"]
        receptacles = [(opened.get(name), contents.get(name)) for name in self.game.here.get(self.place, ())]
        return self.held, self.ending["objectatlocation"].get(self.place), receptacles

    def _travel(self) -> dict[str, Action]:
        start, game = self.place, self.game
        if start not in game.travel:
            game.travel[start] = {
                command: action for command, action in self._everywhere().items() if action[1]["lend"] != start
            }
        return game.travel[start]

    def _everywhere(self) -> dict[str, Action]:
        """The go-to commands of all receptacles; `lstart` stays out of the binding, no grammar names it."""
        game = self.game
        if "" not in game.travel:
            bindings = [{"a": AGENT, "lend": end, "r": receptacle} for receptacle, end in game.location.items()]
            found = {self._phrase("gotolocation", b): ("gotolocation", b) for b in bindings}
            game.travel[""] = dict(sorted(found.items()))
        return game.travel[""]

    def _phrase(self, name: str, binding: Binding) -> str:
        key = (name, *binding.values())
        if key not in self.game.phrases:
            self.game.phrases[key] = self._write(self.game.grammar.templates[name], binding)
        return self.game.phrases[key]

    # ---- text -------------------------------------------------------------------------------------

    def _say(self, name: str, pieces: Any, binding: Binding) -> str:
        """The text of `pieces`, written anew only when a fact that it was made from has changed."""
        key = (name, *binding.values())
        known = self.game.said.get(key)
        if known is None or not self._unchanged(known[0]):
            self._reads = {}
            known = self.game.said[key] = (self._reads, self._write(pieces, binding))
        return known[1]

    def _unchanged(self, reads: Reads) -> bool:
        return all(self._find(predicate, last) == found for (predicate, last), found in reads.items())

    def _write(self, pieces: Any, binding: Binding) -> str:
        return self.game.grammar.write(pieces, binding, self.game.names, self._solve)

    def _solve(self, query: Query, binding: Binding) -> Iterator[Binding]:
        if not query:
            yield binding
            return
        name, variables = query[0]
        bound = tuple([binding.get(variable) for variable in variables])
        rows = self._find(name, bound[-1])
        if name not in self.game.static:
            self._reads[name, bound[-1]] = rows
        if None not in bound:
            if bound in rows:
                yield from self._solve(query[1:], binding)
            return
        taken = set(binding.values())
        for row in rows:
            if all(want == got if want is not None else got not in taken for want, got in zip(bound, row, strict=True)):
                yield from self._solve(query[1:], {**binding, **dict(zip(variables, row, strict=True))})

    def _find(self, predicate: str, last: str | None) -> tuple[Fact, ...]:
        """The facts of a predicate, in order: those that end in `last`, or all."""
        if last is None:
            return tuple(sorted(self.facts.get(predicate) or self.game.static.get(predicate, ())))
        ending = self.ending if predicate in self.ending else self.game.ending
        return ending.get(predicate, {}).get(last, ())


def _applicable(world: World) -> Iterator[Action]:
    """Every action of the domain that is possible now, travel left out."""
    game, place, held = world.game, world.place, world.held
    here = game.here.get(place, ())
    at = {"a": AGENT, "l": place}
    yield "look", at
    yield "inventory", {"a": AGENT}
    yield "help", {"a": AGENT}
    for receptacle in here:
        yield "examinereceptacle", {"a": AGENT, "r": receptacle}
        if (receptacle,) in game.static.get("openable", ()):
            opened = (receptacle,) in world.facts["opened"]
            yield "closeobject" if opened else "openobject", {**at, "r": receptacle}
        yield from _with_contents(world, receptacle, held, at)
    if held is not None:
        yield from _with_held(world, held, here, at)


def _with_contents(world: World, receptacle: str, held: str | None, at: Binding) -> Iterator[Action]:
    takes = held is None and world.accessible(receptacle)
    for thing, _ in world.contents(receptacle):
        if takes and (thing,) in world.game.static.get("pickupable", ()):
            yield "pickupobject", {**at, "o": thing, "r": receptacle}
        if (thing,) in world.game.static.get("toggleable", ()):
            yield "toggleobject", {**at, "o": thing, "r": receptacle}


_TREATMENTS = {"cleanobject": "cleanable", "heatobject": "heatable", "coolobject": "coolable"}


def _with_held(world: World, held: str, here: tuple[str, ...], at: Binding) -> Iterator[Action]:
    game = world.game
    kind = game.object_type.get(held, "")
    yield "examineobject", {"a": AGENT, "o": held}
    for receptacle in here:
        place_type = game.receptacle_type.get(receptacle, "")
        if (place_type, kind) in game.static.get("cancontain", ()) and world.accessible(receptacle):
            yield "putobject", {**at, "o": held, "r": receptacle, "ot": kind, "rt": place_type}
        for action, ability in _TREATMENTS.items():
            if place_type in game.devices[action] and (held,) in game.static.get(ability, ()):
                yield action, {**at, "r": receptacle, "o": held}
    if kind in game.devices["sliceobject"]:
        for (thing,) in game.static.get("sliceable", ()):
            if (thing, at["l"]) in world.facts["objectatlocation"]:
                yield "sliceobject", {**at, "co": thing, "ko": held}


Changes = list[tuple[str, Fact]]


def _effects(world: World, name: str, b: Binding) -> tuple[Changes, Changes]:
    """Facts that action `name` makes true, and those it makes false first."""
    if name == "gotolocation":
        return [("atlocation", (AGENT, b["lend"]))], [("atlocation", (AGENT, world.place))]
    if name == "openobject":
        return [("opened", (b["r"],)), ("checked", (b["r"],))], []
    if name == "closeobject":
        return [], [("opened", (b["r"],))]
    if name == "pickupobject":
        gone = [("inreceptacle", (b["o"], b["r"])), ("objectatlocation", (b["o"], b["l"]))]
        return [("holds", (AGENT, b["o"])), ("holdsany", (AGENT,))], gone
    if name == "putobject":
        gone = [("holds", (AGENT, b["o"])), ("holdsany", (AGENT,))]
        return [("inreceptacle", (b["o"], b["r"])), ("objectatlocation", (b["o"], b["l"]))], gone
    if name == "cleanobject":
        return [("isclean", (b["o"],))], []
    if name == "heatobject":
        return [("ishot", (b["o"],))], [("iscool", (b["o"],))]
    if name == "coolobject":
        return [("iscool", (b["o"],))], [("ishot", (b["o"],))]
    if name == "sliceobject":
        return [("issliced", (b["co"],))], []
    if name == "toggleobject":
        on: Changes = [("ison", (b["o"],))]
        is_on = (b["o"],) in world.facts["ison"]
        return [*([] if is_on else on), ("istoggled", (b["o"],))], on if is_on else []
    checked = {"look": "l", "examinereceptacle": "r", "examineobject": "o"}.get(name, "a")
    return [("checked", (b[checked],))], []
