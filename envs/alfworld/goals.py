"""The six task types of ALFWorld: reading a goal, counting its conditions."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from ..errors import RequestError

if TYPE_CHECKING:
    from .engine import World

TASK_TYPES = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)
_STATES = {
    "pick_clean_then_place_in_recep": ("isclean", "cleanable"),
    "pick_heat_then_place_in_recep": ("ishot", "heatable"),
    "pick_cool_then_place_in_recep": ("iscool", "coolable"),
}


class Goal(NamedTuple):
    """Task type, object type, receptacle type and lamp type, as the problem names them (`mugtype`)."""

    task_type: str
    object: str
    receptacle: str = ""
    lamp: str = ""

    def progress(self, world: World) -> tuple[int, int]:
        """Conditions that hold, and their number: place 1; clean, heat, cool 3; two 2; light 2 (as ALFRED counts)."""
        if self.task_type == "look_at_obj_in_light":
            return self._light(world) + self._holding(world), 2
        inside = [
            fact for place in world.game.targets for fact in world.contents(place)
            if world.game.object_type.get(fact[0]) == self.object
        ]  # fmt: skip
        if self.task_type == "pick_two_obj_and_place":
            places = [place for _, place in inside]
            return min(2, max(map(places.count, places), default=0)), 2
        if self.task_type not in _STATES:
            return int(bool(inside)), 1
        treated = self._treated(world)
        return int(bool(inside)) + int(bool(treated)) + int(any(thing in treated for thing, _ in inside)), 3

    def _treated(self, world: World) -> set[str]:
        state, ability = _STATES[self.task_type]
        able = world.game.static.get(ability, frozenset())
        return {
            fact[0] for fact in world.facts[state]
            if world.game.object_type.get(fact[0]) == self.object and fact in able
        }  # fmt: skip

    def _light(self, world: World) -> int:
        here = world.game.here.get(world.place, ())
        return int(any(
            (thing,) in world.facts["istoggled"] and world.game.object_type.get(thing) == self.lamp
            and (thing,) in world.game.static.get("toggleable", ())
            for place in here for thing, _ in world.contents(place)
        ))  # fmt: skip

    def _holding(self, world: World) -> int:
        held = world.held
        return int(held is not None and world.game.object_type.get(held) == self.object)


def parse_goal(text: str) -> Goal:
    """The goal behind a problem's `(:goal …)`, in lower case."""
    if "issliced" in text or "inreceptacleobject" in text:
        raise RequestError("Expected one of ALFWorld's six task types, got a goal with sliced or movable containers.")
    types = dict(re.findall(r"\(objecttype\s+(\?\w+)\s+(\w+)\s*\)", text))
    places = re.findall(r"\(receptacletype\s+\?\w+\s+(\w+)\s*\)", text)
    held, lamp = (re.search(rf"\({fact}\s+(?:\?a\s+)?(\?\w+)\s*\)", text) for fact in ("holds", "istoggled"))
    if held and lamp:
        return Goal("look_at_obj_in_light", types[held.group(1)], lamp=types[lamp.group(1)])
    if not types or not places:
        raise RequestError(f"Expected one of ALFWorld's six task types, got the goal {' '.join(text.split())!r}.")
    kind = "pick_two_obj_and_place" if "(not" in text else "pick_and_place_simple"
    for task_type, (state, _) in _STATES.items():
        if f"({state} " in text:
            kind = task_type
    return Goal(kind, next(iter(types.values())), places[0])
