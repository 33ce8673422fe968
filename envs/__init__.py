"""Environments: the contract (`core`), the names (`registry`), the games. Importing this imports no engine."""

from __future__ import annotations

from .core import Snapshot, State, StopReason, TextEnv
from .errors import DeadlineExceeded, EnvError, MissingDependency, RequestError, TurnwiseError, UnknownName
from .registry import EnvSpec, env_class, make, register, spec, specs, tasks
from .task import Task

__all__ = [
    "DeadlineExceeded",
    "EnvError",
    "EnvSpec",
    "MissingDependency",
    "RequestError",
    "Snapshot",
    "State",
    "StopReason",
    "Task",
    "TextEnv",
    "TurnwiseError",
    "UnknownName",
    "env_class",
    "make",
    "register",
    "spec",
    "specs",
    "tasks",
]

_HERE = __name__

register(
    "turnwise/Toy-v0",
    f"{_HERE}.toy:ToyEnv",
    summary="Rooms with signs; pure Python, known optimal policy.",
)
register(
    "turnwise/ALFWorld-v0",
    f"{_HERE}.alfworld.env:ALFWorldEnv",
    summary="Household tasks in text; our exact engine, generated small rooms and official games.",
    requires=("alfworld",),
    extra="alfworld",
)
register(
    "turnwise/TextWorld-v0",
    f"{_HERE}.textworld.env:TextWorldEnv",
    summary="Microsoft TextWorld: custom w-o-q grid, coin collector, treasure hunter, cooking, simple.",
    requires=("textworld",),
    extra="textworld",
)
register(
    "turnwise/ScienceWorld-v0",
    f"{_HERE}.scienceworld.env:ScienceWorldEnv",
    summary="Science experiments in text, 30 kinds, official splits; needs Java.",
    requires=("scienceworld", "py4j"),
    extra="scienceworld",
    programs=("java",),
)
