"""Unlimited ALFWorld games: a floor plan, a few of its receptacles, objects put where they fit, a goal.

Same arguments, same bytes. The result is the content of a `game.tw-pddl` file, which the stock
`AlfredTWEnv` loads too (`write_game` lays out the folder it walks).
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RequestError
from . import tables
from .engine import World
from .game import parse_game
from .goals import TASK_TYPES

MIN_RECEPTACLES, MAX_RECEPTACLES = 4, 60
_DEVICES = {
    "pick_clean_then_place_in_recep": ("SinkBasin", "Cleanable"),
    "pick_heat_then_place_in_recep": ("Microwave", "Heatable"),
    "pick_cool_then_place_in_recep": ("Fridge", "Coolable"),
}
_NAMED_BY_DOMAIN = (("KnifeType", "otype"), ("ButterKnifeType", "otype"), ("SinkBasinType", "rtype"),
                    ("MicrowaveType", "rtype"), ("FridgeType", "rtype"))  # fmt: skip


@dataclass(frozen=True)
class Level:
    """What decides a generated game."""

    seed: int
    task_type: str
    room: int
    receptacles: int = 8
    """At most this many; a floor plan may have fewer."""
    distractors: int = 8
    """Objects that are not of the goal's class."""

    def __post_init__(self) -> None:
        if self.task_type not in TASK_TYPES:
            raise RequestError(f"Expected a task type among {', '.join(TASK_TYPES)}, got {self.task_type!r}.")
        if not MIN_RECEPTACLES <= self.receptacles <= MAX_RECEPTACLES:
            raise RequestError(f"Expected {MIN_RECEPTACLES} to {MAX_RECEPTACLES} receptacles, got {self.receptacles}.")
        if not 0 <= self.distractors <= 100:
            raise RequestError(f"Expected 0 to 100 distractors, got {self.distractors}.")


@dataclass(frozen=True)
class _Goal:
    obj: str
    target: str = ""
    lamp: str = ""


def generate(level: Level) -> dict[str, Any]:
    """The game file of `level` as an object: domain, grammar, problem, walkthrough, solvable."""
    from .experts import oracle

    rng = random.Random(f"{level.seed}|{level.task_type}|{level.room}|{level.receptacles}|{level.distractors}")
    points, classes = tables.floor_plan(level.room)
    goal = _choose_goal(level, points, classes, rng)
    chosen = _choose_receptacles(level, goal, points, rng)
    placed = _place(level, goal, chosen, classes, rng)
    pddl_goal, sentences = tables.goal_text(level.task_type)
    sentence = rng.choice(sentences).format(obj=goal.obj.lower(), recep=goal.target.lower(), toggle=goal.lamp.lower())
    data: dict[str, Any] = {
        "pddl_domain": tables.text("alfred.pddl"),
        "grammar": tables.text("alfred.twl2").replace("UNKNOWN GOAL", sentence),
        "pddl_problem": _problem(level, goal, {name: points[name] for name in chosen}, placed, pddl_goal),
    }
    data["walkthrough"] = oracle(World(parse_game(data)))
    data["solvable"] = True
    return data


def write_game(level: Level, root: str | Path) -> Path:
    """Write `<root>/<task>/<trial>/{game.tw-pddl,traj_data.json}` as alfworld's loader wants it; the game's path."""
    data = generate(level)
    goal = parse_game(data).goal
    names = {name.lower(): name for name in (*tables.floor_plan(level.room)[1], *tables.fits(), "DeskLamp")}
    obj, target, lamp = (names.get(t.removesuffix("type"), "") for t in (goal.object, goal.receptacle, goal.lamp))
    folder = Path(root) / f"{level.task_type}-{obj}-None-{target or lamp}-{level.room}" / f"trial_{level.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "task_id": folder.name,
        "task_type": level.task_type,
        "pddl_params": {"object_target": obj, "parent_target": target, "toggle_target": lamp,
                        "mrecep_target": "", "object_sliced": False},
        "scene": {"floor_plan": f"FloorPlan{level.room}", "scene_num": level.room},
    }  # fmt: skip
    (folder / "traj_data.json").write_text(json.dumps(about))
    path = folder / "game.tw-pddl"
    path.write_text(json.dumps(data))
    return path


def _choose_goal(level: Level, points: dict[str, Any], classes: tuple[str, ...], rng: random.Random) -> _Goal:
    """A goal whose object fits in the room's target and in another receptacle of another class."""
    present = sorted({tables.class_of(name) for name in points})
    fits = tables.fits()
    holders = {thing: [place for place in present if thing in fits.get(place, ())] for thing in classes}
    if level.task_type == "look_at_obj_in_light":
        options = [_Goal(thing, lamp="DeskLamp") for thing, places in holders.items() if places]
        if not any(place in tables.LAMP_PLACES for place in present):
            options = []
    else:
        device, ability = _DEVICES.get(level.task_type, ("", ""))
        able = tables.abilities()[ability] if ability else frozenset(classes)
        options = [
            _Goal(thing, target) for thing, places in holders.items() if thing in able
            for target in places if target != device and set(places) - {target}
        ]  # fmt: skip
        if device and device not in present:
            options = []
    if not options:
        raise RequestError(f"Floor plan {level.room} has no {level.task_type} task: choose another room.")
    # the target first, so that a class which takes many kinds of object is not drawn too often
    key = rng.choice(sorted({goal.target for goal in options}))
    return rng.choice([goal for goal in options if goal.target == key])


def _choose_receptacles(level: Level, goal: _Goal, points: dict[str, Any], rng: random.Random) -> list[str]:
    """At most `level.receptacles` of the room: the needed classes, then the others in turn."""
    by_class: dict[str, list[str]] = {}
    for name in rng.sample(sorted(points), len(points)):
        by_class.setdefault(tables.class_of(name), []).append(name)
    holders = sorted(c for c in by_class if goal.obj in tables.fits().get(c, ()) and c != goal.target)
    lamps = [c for c in tables.LAMP_PLACES if c in by_class] if goal.lamp else []
    device = _DEVICES.get(level.task_type, ("",))[0]
    needed = [goal.target, device, rng.choice(holders), rng.choice(lamps) if lamps else ""]
    order = [c for c in dict.fromkeys(needed) if c]
    order += rng.sample(sorted(set(by_class) - set(order)), len(by_class) - len(order))
    longest = max(map(len, by_class.values()))
    turns = [by_class[c][i] for i in range(longest) for c in order if i < len(by_class[c])]
    return sorted(turns[: level.receptacles])


def _place(
    level: Level, goal: _Goal, chosen: list[str], classes: tuple[str, ...], rng: random.Random
) -> list[tuple[str, str, str]]:
    """(object class, object id, receptacle) for the goal's objects, the lamp and the distractors."""
    fits = tables.fits()

    def spots(thing: str) -> list[str]:
        return [name for name in chosen if thing in fits.get(tables.class_of(name), ())]

    things = [goal.obj] * (2 if level.task_type == "pick_two_obj_and_place" else 1)
    where = [(t, rng.choice([s for s in spots(t) if tables.class_of(s) != goal.target])) for t in things]
    if goal.lamp:
        where.append((goal.lamp, rng.choice([s for s in chosen if tables.class_of(s) in tables.LAMP_PLACES])))
    others = [thing for thing in classes if thing != goal.obj and spots(thing)]
    for thing in rng.choices(others, k=level.distractors if others else 0):
        where.append((thing, rng.choice(spots(thing))))
    return [(thing, f"{thing}|{i:+06.2f}|{rng.uniform(0, 2):+06.2f}|{rng.uniform(-5, 5):+06.2f}", place)
            for i, (thing, place) in enumerate(where)]  # fmt: skip


def _mangle(name: str) -> str:
    for sign, word in (("|", "_bar_"), ("+", "_plus_"), ("-", "_minus_"), (".", "_dot_")):
        name = name.replace(sign, word)
    return name


def _locations(points: dict[str, tuple[float, ...]]) -> dict[str, str]:
    """A location of its own for each receptacle: grid point, rotation, horizon, made unique by the horizon."""
    found: dict[str, str] = {}
    for name, (x, z, rotation, horizon) in points.items():
        place = ""
        while not place or place in found.values():
            place = _mangle(f"loc|{round(x * 4)}|{round(z * 4)}|{round(rotation / 90)}|{round(horizon)}")
            horizon += 1
        found[name] = place
    return found


def _problem(
    level: Level, goal: _Goal, points: dict[str, tuple[float, ...]], placed: list[tuple[str, str, str]], pddl_goal: str
) -> str:
    places = _locations(points)
    start = "loc_bar_0_bar_0_bar_0_bar_999"  # no receptacle is there
    types = {name: tables.class_of(name) for name in points}
    things = sorted({thing for thing, _, _ in placed})
    objects = dict.fromkeys(["agent1 - agent", *(f"{_mangle(name)} - object" for _, name, _ in placed)])
    objects |= dict.fromkeys([*(f"{t}Type - otype" for t in things), *(f"{t}Type - rtype" for t in types.values())])
    objects |= dict.fromkeys(f"{constant} - {kind}" for constant, kind in _NAMED_BY_DOMAIN)
    objects |= dict.fromkeys(f"{_mangle(name)} - receptacle" for name in points)
    objects |= dict.fromkeys(f"{place} - location" for place in [*places.values(), start])
    facts = [fact for name in points for fact in _receptacle_facts(name, types[name], places[name])]
    facts += [fact for thing, name, place in placed for fact in _object_facts(thing, name, place, places)]
    facts += [f"canContain {place}Type {thing}Type" for place in sorted(set(types.values())) for thing in things
              if thing in tables.fits().get(place, ())]  # fmt: skip
    facts.append(f"atLocation agent1 {start}")
    wanted = pddl_goal.format(obj=goal.obj, recep=goal.target, toggle=goal.lamp).replace("#", "-")
    lines = "\n".join(f"  {entry}" for entry in objects)
    init = "\n".join(f"  ({fact})" for fact in facts)
    head = f"(define (problem plan_{level.seed}_{level.room})\n(:domain alfred)\n"
    return f"{head}(:objects\n{lines}\n)\n(:init\n{init}\n)\n{wanted}"


def _receptacle_facts(name: str, kind: str, place: str) -> list[str]:
    entity = _mangle(name)
    facts = [f"receptacleType {entity} {kind}Type", f"receptacleAtLocation {entity} {place}"]
    return facts + ([f"openable {entity}"] if kind in tables.openable() else [])


def _object_facts(thing: str, name: str, place: str, places: dict[str, str]) -> list[str]:
    entity, abilities = _mangle(name), tables.abilities()
    facts = [f"objectType {entity} {thing}Type", f"inReceptacle {entity} {_mangle(place)}",
             f"objectAtLocation {entity} {places[place]}"]  # fmt: skip
    facts += [f"pickupable {entity}"] if thing not in abilities["Toggleable"] else []
    facts += [f"isReceptacleObject {entity}"] if thing in tables.movable() else []
    return facts + [f"{ability.lower()} {entity}" for ability in sorted(abilities) if thing in abilities[ability]]
