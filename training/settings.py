"""Every setting of a recipe by the key that `--set` takes, with what it may be and what it is for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from .config import Recipe

_PLAIN = {str: "text", int: "whole number", float: "number", bool: "true, false", type(None): "null"}
_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


class Setting(NamedTuple):
    """One key of a recipe."""

    key: str
    value: Any
    default: Any
    """None where there is none."""
    kind: str
    """What it may be, in words."""
    help: str


def settings(recipe: Recipe) -> list[Setting]:
    """The recipe's settings in the order of its parts."""
    return list(_walk(recipe, type(recipe), ""))


def _walk(part: BaseModel, kind: type[BaseModel], prefix: str) -> Iterator[Setting]:
    for name, field in kind.model_fields.items():
        value = getattr(part, name)
        if isinstance(value, BaseModel):
            if get_origin(field.annotation) in (Union, UnionType):  # it may be something else than its parts
                yield Setting(prefix + name, value, value, _kind(field), field.description or "")
            yield from _walk(value, type(value), f"{prefix}{name}.")
            continue
        default = None if field.is_required() else field.get_default(call_default_factory=True)  # type: ignore[call-arg]
        yield Setting(prefix + name, value, default, _kind(field), field.description or "")


def as_json(value: Any) -> str:
    """A value as `--set` takes it; parts of a recipe, whose own settings tell them, as nothing."""
    if isinstance(value, str | BaseModel):
        return value if isinstance(value, str) else ""
    return json.dumps(value, default=lambda x: x.model_dump() if isinstance(x, BaseModel) else str(x))


def _kind(field: FieldInfo) -> str:
    limits = ((sign, getattr(x, name, None)) for x in field.metadata for name, sign in _BOUNDS.items())
    bounds = [f"{sign} {limit}" for sign, limit in limits if limit is not None]
    names = list(dict.fromkeys(_names(field.annotation)))
    kind = " ".join(filter(None, (", ".join(name for name in names if name != "null"), ", ".join(bounds))))
    return f"{kind}, or null" if "null" in names else kind


def _names(annotation: Any) -> list[str]:
    """What a value of this type is called; of a union, each of its types."""
    origin = get_origin(annotation)
    if origin is Literal:
        return [str(each) for each in get_args(annotation)]
    if origin in (Union, UnionType):
        return [name for each in get_args(annotation) for name in _names(each)]
    return [_PLAIN.get(annotation) or ("list" if origin is tuple else "object")]
