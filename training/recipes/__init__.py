"""Recipes by name. A recipe is a function without arguments that returns a `Recipe`; add one line below."""

from __future__ import annotations

from collections.abc import Callable

from ...envs.errors import RequestError, UnknownName
from ..config import Recipe
from ..foreign import load_function
from .alfworld import alfworld_six, alfworld_small
from .choosing import servicedesk_small, shop_small
from .miniwob import miniwob_small
from .scienceworld import scienceworld_small
from .textworld import textworld_grid, textworld_small
from .toy import toy

RECIPES: dict[str, Callable[[], Recipe]] = {
    "alfworld_six": alfworld_six,
    "alfworld_small": alfworld_small,
    "miniwob_small": miniwob_small,
    "scienceworld_small": scienceworld_small,
    "servicedesk_small": servicedesk_small,
    "shop_small": shop_small,
    "textworld_grid": textworld_grid,
    "textworld_small": textworld_small,
    "toy": toy,
}


def load(name: str) -> Recipe:
    """The recipe `name`, or `package.module:function` for one of your own."""
    if ":" not in name:
        if name not in RECIPES:
            raise UnknownName("recipe", name, RECIPES, hint="Your own: package.module:function.")
        return RECIPES[name]()
    made = load_function(name, "a recipe")()
    if not isinstance(made, Recipe):
        raise RequestError(f"Expected {name!r} to return a Recipe, got {type(made).__name__}.")
    return made
