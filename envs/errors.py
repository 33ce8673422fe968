"""Every exception this package raises on purpose.

    TurnwiseError
    ├── RequestError          the request was wrong: exit code 2     (also ValueError)
    │   ├── UnknownName       no such environment, recipe, algorithm (also KeyError)
    │   └── MissingDependency an extra is not installed              (also ImportError)
    └── EnvError              an environment broke: the episode ends as `env_error`
        └── DeadlineExceeded  an environment call took too long      (also TimeoutError)

Messages say what was expected, what came and what to do.
To add one: subclass the nearest, inherit the matching builtin too, add a line above.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TurnwiseError(Exception):
    """Base of every exception raised on purpose."""


class RequestError(TurnwiseError, ValueError):
    """The caller asked for something that cannot be; nothing was started."""


class UnknownName(RequestError, KeyError):
    """A name is not in its registry; the message carries the nearest one."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        guess = f" Did you mean {near[0]!r}?" if near else f" Known: {', '.join(known)}."
        self.message = f"Unknown {kind} {name!r}.{guess}{' ' + hint if hint else ''}"
        super().__init__(self.message)

    def __str__(self) -> str:  # KeyError would print the repr
        return self.message


class MissingDependency(RequestError, ImportError):
    """An optional library is needed; the message carries the command that installs it."""

    def __init__(self, module: str, extra: str, why: str, command: str = "") -> None:
        command = command or f"pip install 'turnwise[{extra}]'"
        super().__init__(f"{why} needs the module {module!r}. Install it: {command}")


class EnvError(TurnwiseError):
    """An environment crashed, hung or broke its contract; costs one episode."""


class DeadlineExceeded(EnvError, TimeoutError):
    """An environment call did not answer before its deadline."""
