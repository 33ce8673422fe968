"""Environments by name, on top of gymnasium's registry; classes are imported when first used."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, TypeVar

import gymnasium

from .core import TextEnv
from .errors import MissingDependency, RequestError, UnknownName
from .task import Task

T = TypeVar("T")
PLUGIN_GROUP = "turnwise.envs"


@dataclass(frozen=True)
class EnvSpec:
    """What is known of an environment without importing it."""

    id: str
    entry_point: str
    """`package.module:Class`"""
    summary: str
    requires: tuple[str, ...] = ()
    """Modules its engine needs."""
    extra: str = ""
    """The extra of this package that installs them."""
    programs: tuple[str, ...] = ()
    """Programs its engine starts, looked up in `$TURNWISE_<NAME>`, in `$<NAME>_HOME/bin` and on the path; `a|b` is
    either."""
    install: str = ""
    """The command that installs the modules, where the extra alone does not."""
    evaluation_only: bool = False
    """Its tasks are a benchmark: training on them is refused."""

    def missing(self) -> list[str]:
        """Required modules that are not installed (looked up, not imported)."""
        return [name for name in self.requires if importlib.util.find_spec(name) is None]

    def reason(self) -> str:
        """Why it cannot run here and what to do; empty where it can."""
        if modules := self.missing():
            return f"needs {', '.join(modules)}: {self.command()}"
        gone = [name for name in self.programs if not _has_program(name)]
        named = ", ".join(name.split("|")[0] for name in gone)
        return f"needs the program {named}: see `turnwise doctor`" if gone else ""

    def command(self) -> str:
        """What installs the modules."""
        return self.install or f"pip install 'turnwise[{self.extra or 'all'}]'"

    def load(self) -> type[TextEnv]:
        """The environment's class."""
        module, _, name = self.entry_point.partition(":")
        return getattr(importlib.import_module(module), name)


_SPECS: dict[str, EnvSpec] = {}
_BROKEN: dict[str, str] = {}
_plugins_loaded = False


def register(
    id: str,
    entry_point: str,
    summary: str = "",
    requires: tuple[str, ...] = (),
    extra: str = "",
    programs: tuple[str, ...] = (),
    install: str = "",
    evaluation_only: bool = False,
) -> None:
    """Add an environment under `id` (`namespace/Name-v0`), here and in gymnasium's registry.

    >>> register("demo/Echo-v0", "my_package.echo:EchoEnv", summary="Repeats what it hears.")

    A package registers its own on import of `turnwise.envs` through the Python entry point group
    `turnwise.envs`, each entry naming a function without arguments that calls this one.
    """
    if ":" not in entry_point:
        raise RequestError(f"Expected an entry point 'package.module:Class', got {entry_point!r}.")
    _SPECS[id] = EnvSpec(id, entry_point, summary, tuple(requires), extra, tuple(programs), install, evaluation_only)
    if id in gymnasium.registry:
        del gymnasium.registry[id]
    gymnasium.register(id=id, entry_point=entry_point, disable_env_checker=True, order_enforce=False)


def specs() -> dict[str, EnvSpec]:
    """Every registered environment, plug-ins included, by id."""
    _load_plugins()
    return dict(sorted(_SPECS.items()))


def spec(id: str) -> EnvSpec:
    """The spec of `id`; a bare name such as `Toy` stands for `turnwise/Toy-v0`."""
    known = specs()
    full = id if "/" in id else f"turnwise/{id}" if id.endswith("-v0") else f"turnwise/{id}-v0"
    if full not in known:
        hint = "".join(f" {name}: {how}." for name, how in broken_plugins().items())
        raise UnknownName("environment", full, known, hint="`turnwise envs` lists all." + hint)
    return known[full]


def env_class(id: str) -> type[TextEnv]:
    """The class behind `id`, after checking that the modules of its engine are installed."""
    return _installed(id).load()


def require(id: str) -> EnvSpec:
    """The spec of `id`, after checking that it can be played here, the programs it starts included."""
    found = _installed(id)
    if reason := found.reason():
        raise RequestError(f"{found.id} {reason}.")
    return found


def _installed(id: str) -> EnvSpec:
    found = spec(id)
    if missing := found.missing():
        raise MissingDependency(missing[0], found.extra or "all", found.id, found.install)
    return found


def make(id: str, **kwargs: Any) -> TextEnv:
    """A new environment, as `gymnasium.make` gives it but unwrapped, with did-you-mean on its name."""
    return gymnasium.make(require(id).id, **kwargs).unwrapped  # type: ignore[return-value]


def tasks(id: str, split: str, count: int | None = None, **params: Any) -> list[Task]:
    """The first `count` tasks of a split; an unknown split names the known ones."""
    cls, known = env_class(id), splits(id, **params)
    if split not in known:
        raise UnknownName(f"split of {spec(id).id}", split, known)
    return _with_params(id, params, lambda: cls.tasks(split, count, **params))


def splits(id: str, **params: Any) -> dict[str, int]:
    """Split name -> number of tasks, where parameters decide for those."""
    return _with_params(id, params, lambda: env_class(id).splits_with(**params))


def _with_params(id: str, params: dict[str, Any], call: Callable[[], T]) -> T:
    try:
        return call()
    except (TypeError, ValueError) as error:  # a value of the wrong kind, or a parameter the game does not take
        if isinstance(error, RequestError):
            raise
        raise RequestError(f"Expected task parameters that {spec(id).id} takes, got {params}: {error}.") from error


def _has_program(names: str) -> bool:
    return any(_found(name) for name in names.split("|"))


def _found(name: str) -> bool:
    named = os.environ.get(f"TURNWISE_{name.upper()}")
    if named:
        return bool(shutil.which(named))
    home = os.environ.get(f"{name.upper()}_HOME")
    return bool(shutil.which(name, path=os.path.join(home, "bin")) if home else shutil.which(name))


def broken_plugins() -> dict[str, str]:
    """Entry points of other packages that failed -> how."""
    _load_plugins()
    return dict(_BROKEN)


def _load_plugins() -> None:
    global _plugins_loaded
    if _plugins_loaded:
        return
    _plugins_loaded = True
    for entry in entry_points(group=PLUGIN_GROUP):
        try:
            entry.load()()
        except Exception as error:  # another package's fault must not hide every environment
            package = f" of {entry.dist.name} {entry.dist.version}" if entry.dist else ""
            _BROKEN[entry.name] = f"the plug-in {entry.value}{package} failed: {type(error).__name__}: {error}"
