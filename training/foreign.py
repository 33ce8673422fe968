"""Functions of the user's own, named `package.module:function`."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable
from typing import Any

from ..envs.errors import RequestError

NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def load_function(name: str, what: str) -> Callable[..., Any]:
    """The function of that name; a module beside the user is found as `python -m` finds it.

    Raises:
        RequestError: there is none, or it is not callable.
    """
    module, _, function = name.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise RequestError(f"Expected {what} as package.module:function, got {name!r}: {error}.") from error
    finally:
        sys.path.remove(os.getcwd())
    if not callable(found):
        raise RequestError(f"Expected {what} as package.module:function, got {type(found).__name__} at {name!r}.")
    return found
