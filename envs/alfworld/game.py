"""A parsed ALFWorld game: what a `game.tw-pddl` file says, and the memos that playing it fills."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

from ..errors import EnvError
from .goals import Goal, parse_goal
from .grammar import Binding, Grammar, parse_grammar

AGENT = "agent1"
_TASK = re.compile(r'(Your task is to: )((?:[^"\\\n]|\\.)*?)(\.?)(?=")')
_DYNAMIC = [
    "atlocation",
    "objectatlocation",
    "opened",
    "inreceptacle",
    "holds",
    "holdsany",
    "checked",
    "isclean",
    "ishot",
    "iscool",
    "ison",
    "istoggled",
    "issliced",
]

Fact = tuple[str, ...]
Index = dict[str, tuple[Fact, ...]]
"""Last argument -> the facts of one predicate that end in it, in order."""
Reads = dict[tuple[str, str | None], tuple[Fact, ...]]
"""(predicate, last argument or None for any) -> the facts found."""
Action = tuple[str, Binding]
"""Action name of the domain and its arguments by parameter name."""


class Scene(NamedTuple):
    """The actions possible at a location, travel left out, and `seen`: the facts that decide them."""

    seen: tuple[Any, ...]
    actions: dict[str, Action]
    commands: tuple[str, ...]
    """All commands, travel included, in stock order."""


class Game(NamedTuple):
    """A parsed game: what never changes while it is played, and the facts it starts from."""

    goal: Goal
    sentence: str
    grammar: Grammar
    names: dict[str, str]
    """Entity id -> shown name, `mug 2`."""
    static: dict[str, frozenset[Fact]]
    start: dict[str, frozenset[Fact]]
    ending: dict[str, Index]
    """Predicate -> facts at the start by their last argument, which is the one that queries know."""
    location: dict[str, str]
    """Receptacle -> location."""
    here: dict[str, tuple[str, ...]]
    """Location -> receptacles."""
    object_type: dict[str, str]
    receptacle_type: dict[str, str]
    targets: tuple[str, ...]
    """Receptacles of the goal's type."""
    devices: dict[str, frozenset[str]]
    """Action (`cleanobject`) -> receptacle types that do it."""
    walkthrough: tuple[str, ...]
    travel: dict[str, dict[str, Action]]
    """Memo: location -> the go-to commands there, in order; under "" those to everywhere."""
    phrases: dict[tuple[str, ...], str]
    """Memo: command text per action and arguments."""
    scenes: dict[str, Scene]
    """Memo: location -> what could be done when last there."""
    said: dict[tuple[str, ...], tuple[Reads, str]]
    """Memo: the last feedback per action and arguments, with the facts it was made from."""


def parse_game(source: str | dict[str, Any]) -> Game:
    """A game from the JSON text of a `game.tw-pddl` file, or from its decoded object."""
    data = json.loads(source) if isinstance(source, str) else source
    problem = re.sub(r";[^\n]*", "", data["pddl_problem"].lower())
    initial, _, goal = problem[problem.index("(:init") + 6 :].partition("(:goal")
    facts = _read_facts(initial)
    location = _function(facts["receptacleatlocation"], "location of receptacle")
    here: dict[str, list[str]] = defaultdict(list)
    for receptacle in sorted(location):
        here[location[receptacle]].append(receptacle)
    sentence = _TASK.search(data["grammar"])
    wanted, kinds = parse_goal(goal), _function(facts["receptacletype"], "type of receptacle")
    return Game(
        goal=wanted,
        sentence=json.loads(f'"{sentence.group(2)}{sentence.group(3)}"') if sentence else "",
        grammar=parse_grammar(_TASK.sub(r"\g<1>UNKNOWN GOAL\g<3>", data["grammar"], count=1)),
        names=shown_names(arg for rows in facts.values() for fact in rows for arg in fact),
        static={name: frozenset(rows) for name, rows in facts.items() if name not in _DYNAMIC},
        start={name: frozenset(facts.get(name, ())) for name in _DYNAMIC},
        ending={name: _by_last(rows) for name, rows in facts.items()},
        location=location,
        here={place: tuple(found) for place, found in here.items()},
        object_type=_function(facts["objecttype"], "type of object"),
        receptacle_type=kinds,
        targets=tuple(sorted(place for place, kind in kinds.items() if kind == wanted.receptacle)),
        devices=_devices(data["pddl_domain"]),
        walkthrough=tuple(data.get("walkthrough") or ()),
        travel={},
        phrases={},
        scenes={},
        said={},
    )


def shown_names(ids: Iterable[str]) -> dict[str, str]:
    """Entity id -> class name and number; ids of a class in order get its numbers downwards."""
    ordered = sorted(set(ids))
    classes = {}
    for entity in ordered:
        name, bar, _ = entity.partition("_bar_")
        classes[entity] = (name + "basin" if "basin" in entity else name) if bar else ""
    left = Counter(classes.values())
    names = {}
    for entity in ordered:
        name = classes[entity]
        names[entity] = f"{name} {left[name]}" if name else f"{entity} "
        left[name] -= 1
    return names


def _read_facts(text: str) -> dict[str, list[Fact]]:
    facts: dict[str, list[Fact]] = defaultdict(list)
    for name, args in re.findall(r"\(\s*([\w-]+)\s+([^()]+?)\s*\)", text):
        if name not in ("distance", "total-cost"):
            facts[name].append(tuple(args.split()))
    return facts


def _by_last(rows: Iterable[Fact]) -> Index:
    found: dict[str, list[Fact]] = defaultdict(list)
    for fact in sorted(set(rows)):
        found[fact[-1]].append(fact)
    return {last: tuple(facts) for last, facts in found.items()}


def _function(rows: Iterable[Fact], what: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in rows:
        if found.setdefault(key, value) != value:
            raise EnvError(f"Expected one {what} {key}, got {found[key]} and {value}.")
    return found


def _devices(domain: str) -> dict[str, frozenset[str]]:
    """Types named in the preconditions of the actions that treat or slice an object."""
    text = re.sub(r";[^\n]*", "", domain.lower())
    found = {}
    for action, variable in (("cleanobject", "r"), ("heatobject", "r"), ("coolobject", "r"), ("sliceobject", "ko")):
        body = re.search(rf"\(:action\s+{action}\b(.*?):effect", text, re.S)
        types = re.findall(rf"type\s+\?{variable}\s+(\w+)\s*\)", body.group(1)) if body else []
        found[action] = frozenset(types)
    return found
