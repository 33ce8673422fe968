"""What ALFWorld's wheel knows of houses: floor plans, what fits where, goal texts. Read from it, never copied."""

from __future__ import annotations

import importlib.util
import json
from functools import lru_cache
from pathlib import Path
from types import ModuleType

from ..errors import MissingDependency

ROOM_KINDS = {"kitchen": 0, "livingroom": 200, "bedroom": 300, "bathroom": 400}
"""Kind of room -> number before its first floor plan; each has plans 1 to 30."""
PLANS = {"train": range(7, 31), "validation": range(1, 4), "test": range(4, 7)}
"""Floor plans of each split; 1 to 6 are those that ALFRED holds out."""
ROOMS_OF_TASK = {
    "pick_and_place_simple": ("kitchen", "livingroom", "bedroom", "bathroom"),
    "look_at_obj_in_light": ("livingroom", "bedroom"),
    "pick_clean_then_place_in_recep": ("kitchen", "bathroom"),
    "pick_heat_then_place_in_recep": ("kitchen",),
    "pick_cool_then_place_in_recep": ("kitchen",),
    "pick_two_obj_and_place": ("kitchen", "livingroom", "bedroom", "bathroom"),
}
_UNSUITED = {("pick_clean_then_place_in_recep", room) for room in (418, 425, 429)}
"""Nothing there can be cleaned in the basin and put elsewhere."""
LAMP_PLACES = ("Desk", "SideTable", "Dresser", "Shelf", "CoffeeTable", "DiningTable", "TVStand")
"""Where a generated lamp stands, and where an explorer looks for one."""


def rooms(split: str, task_type: str) -> list[int]:
    """Floor plan numbers of a split in which a task type makes sense."""
    numbers = [ROOM_KINDS[kind] + plan for kind in ROOMS_OF_TASK[task_type] for plan in PLANS[split]]
    return [room for room in numbers if (task_type, room) not in _UNSUITED]


@lru_cache(maxsize=1)
def wheel() -> Path:
    """The folder of the installed alfworld package, which is not imported."""
    spec = importlib.util.find_spec("alfworld")
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependency("alfworld", "alfworld", "Generating ALFWorld games")
    return Path(next(iter(spec.submodule_search_locations)))


@lru_cache(maxsize=4)
def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"_alfworld_{name}", wheel() / "gen" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@lru_cache(maxsize=4)
def text(name: str) -> str:
    """`alfred.pddl` (the domain) or `alfred.twl2` (the grammar)."""
    return (wheel() / "data" / name).read_text()


@lru_cache(maxsize=1)
def fits() -> dict[str, frozenset[str]]:
    """Receptacle class -> object classes it can hold."""
    return {place: frozenset(things) for place, things in _module("constants").VAL_RECEPTACLE_OBJECTS.items()}


@lru_cache(maxsize=1)
def abilities() -> dict[str, frozenset[str]]:
    """`Cleanable`, `Heatable`, … -> object classes."""
    return {name: frozenset(things) for name, things in _module("constants").VAL_ACTION_OBJECTS.items()}


@lru_cache(maxsize=1)
def openable() -> frozenset[str]:
    """Receptacle classes with a door or lid."""
    return frozenset(_module("constants").OPENABLE_CLASS_SET)


@lru_cache(maxsize=1)
def movable() -> frozenset[str]:
    """Object classes that can hold others."""
    return frozenset(_module("constants").MOVABLE_RECEPTACLES)


def goal_text(task_type: str) -> tuple[str, list[str]]:
    """A task type's PDDL goal and its sentences, with `{obj}`, `{recep}` and `{toggle}` to fill in."""
    entry = _module("goal_library").gdict[task_type]
    return entry["pddl"], list(entry["templates"])


@lru_cache(maxsize=128)
def floor_plan(room: int) -> tuple[dict[str, tuple[float, ...]], tuple[str, ...]]:
    """Receptacle id -> where the agent stands (x, z, rotation, horizon); and the room's object classes."""
    layouts = wheel() / "gen" / "layouts"
    points = json.loads((layouts / f"FloorPlan{room}-openable.json").read_text())
    classes = json.loads((layouts / f"FloorPlan{room}-objects.json").read_text())
    return {name: tuple(points[name]) for name in sorted(points)}, tuple(sorted(set(classes)))


def class_of(receptacle: str) -> str:
    """`Sink|+01.0|…|SinkBasin` -> `SinkBasin`, `Shelf|…` -> `Shelf`; one plan calls its bathtub's a SinkBasin."""
    head, tail = receptacle.partition("|")[0], receptacle.rpartition("|")[2]
    return f"{head}Basin" if tail.endswith("Basin") else head


USUAL = {
    "alarmclock": "diningtable desk countertop dresser sidetable shelf",
    "apple": "diningtable sidetable garbagecan fridge countertop sinkbasin microwave",
    "book": "bed coffeetable desk countertop diningtable sofa dresser armchair sidetable tvstand cabinet drawer shelf",
    "bowl": "desk coffeetable diningtable dresser tvstand fridge countertop shelf sidetable sinkbasin microwave",
    "box": "diningtable desk coffeetable sofa dresser ottoman tvstand sidetable shelf armchair cabinet",
    "bread": "diningtable countertop sidetable fridge garbagecan",
    "butterknife": "diningtable countertop sidetable sinkbasin drawer",
    "candle": "sidetable countertop toilet coffeetable cart tvstand diningtable dresser shelf cabinet drawer",
    "cd": "diningtable dresser desk sidetable garbagecan armchair shelf drawer cabinet safe",
    "cellphone": "bed desk diningtable ottoman dresser coffeetable tvstand countertop sofa sidetable armchair safe",
    "cloth": "bathtubbasin dresser cart countertop shelf cabinet toilet sinkbasin drawer sidetable",
    "creditcard": "desk dresser diningtable tvstand sofa countertop coffeetable sidetable armchair ottoman shelf",
    "cup": "diningtable sidetable fridge sinkbasin countertop microwave shelf cabinet",
    "desklamp": "sidetable desk dresser coffeetable shelf",
    "dishsponge": "bathtubbasin diningtable cart countertop toilet sinkbasin sidetable garbagecan shelf drawer cabinet",
    "egg": "diningtable sidetable sinkbasin fridge garbagecan countertop microwave",
    "fork": "diningtable countertop sidetable sinkbasin drawer",
    "glassbottle": "diningtable countertop sinkbasin garbagecan fridge shelf cabinet",
    "handtowel": "handtowelholder countertop",
    "kettle": "diningtable stoveburner countertop sinkbasin cabinet shelf",
    "keychain": "desk dresser coffeetable diningtable tvstand sidetable safe ottoman sofa armchair shelf countertop",
    "knife": "diningtable countertop sidetable sinkbasin drawer coffeemachine",
    "ladle": "diningtable countertop sinkbasin drawer cabinet",
    "laptop": "bed countertop diningtable desk coffeetable sofa ottoman dresser tvstand armchair sidetable",
    "lettuce": "diningtable countertop sidetable fridge sinkbasin garbagecan",
    "mug": "desk dresser coffeemachine diningtable sidetable countertop fridge sinkbasin microwave shelf cabinet",
    "newspaper": "diningtable dresser coffeetable sofa ottoman tvstand sidetable armchair shelf drawer garbagecan",
    "pan": "countertop stoveburner diningtable fridge cabinet",
    "pen": "diningtable desk coffeetable dresser countertop sidetable tvstand shelf garbagecan drawer",
    "pencil": "diningtable desk coffeetable dresser sidetable countertop tvstand shelf garbagecan drawer",
    "peppershaker": "diningtable sidetable countertop shelf drawer cabinet",
    "pillow": "bed sofa armchair ottoman",
    "plate": "diningtable coffeetable countertop tvstand dresser sidetable fridge shelf sinkbasin cabinet microwave",
    "pot": "stoveburner countertop diningtable fridge shelf sinkbasin cabinet",
    "potato": "diningtable fridge countertop sidetable sinkbasin garbagecan microwave",
    "remotecontrol": "desk countertop coffeetable dresser tvstand diningtable sofa ottoman sidetable armchair shelf",
    "saltshaker": "diningtable sidetable countertop shelf drawer cabinet",
    "soapbar": "sidetable countertop cart bathtubbasin toilet sinkbasin shelf garbagecan cabinet drawer",
    "soapbottle": "dresser diningtable toilet countertop sidetable cart garbagecan shelf cabinet drawer",
    "spatula": "diningtable countertop sinkbasin sidetable drawer",
    "spoon": "diningtable countertop sidetable sinkbasin drawer",
    "spraybottle": "sidetable cart toilet countertop dresser diningtable shelf garbagecan cabinet",
    "statue": "diningtable desk coffeetable tvstand dresser countertop sidetable shelf",
    "tissuebox": "desk coffeetable countertop diningtable cart tvstand shelf sidetable dresser cabinet toilet drawer",
    "toiletpaper": "toilet countertop dresser sidetable cart toiletpaperhanger shelf garbagecan cabinet drawer",
    "tomato": "diningtable fridge sidetable countertop garbagecan sinkbasin",
    "vase": "dresser coffeetable diningtable desk tvstand countertop sidetable shelf cabinet",
    "watch": "desk tvstand diningtable dresser coffeetable sidetable shelf drawer",
    "wateringcan": "coffeetable shelf sidetable",
    "winebottle": "diningtable countertop garbagecan shelf cabinet sidetable fridge",
}
"""Object class -> where the 3,553 published training games have it, as shown: often and quickly looked into first.

Ordered by objects per receptacle of the class, in rooms that have such an object, halved where a door must be opened.
"""
