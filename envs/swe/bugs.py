"""Bugs: small edits of the syntax tree that a programmer could have made, as edits of the text."""

from __future__ import annotations

import ast
import copy
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

_COMPARED: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_COMPUTED: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mod, ast.Mod: ast.FloorDiv,
}  # fmt: skip
_CALLED = {"min": "max", "max": "min", "any": "all", "all": "any"}


class Bug(NamedTuple):
    """`old`, at `start` in the text of `file`, has become `new`."""

    kind: str
    file: str
    start: int
    old: str
    new: str

    @property
    def end(self) -> int:
        return self.start + len(self.old)


def plant(files: Mapping[str, str], bugs: Sequence[Bug]) -> dict[str, str]:
    """The files with the bugs in them; bugs of a file must not overlap."""
    planted = dict(files)
    for bug in sorted(bugs, key=lambda bug: bug.start, reverse=True):
        text = planted[bug.file]
        assert text[bug.start : bug.end] == bug.old
        planted[bug.file] = text[: bug.start] + bug.new + text[bug.end :]
    return planted


def overlap(one: Bug, other: Bug) -> bool:
    """Whether two bugs touch the same lines of the same text."""
    return one.file == other.file and one.start <= other.end + 80 and other.start <= one.end + 80


def share(program: str, bug: Bug) -> str:
    """The split that has this bug, where train and validation share programs: a fifth is for validation."""
    text = f"{program} {bug.kind} {bug.file} {bug.start} {bug.new}"
    return "validation" if zlib.crc32(text.encode()) % 5 == 0 else "train"


def possible_bugs(files: Mapping[str, str]) -> tuple[Bug, ...]:
    """All bugs of all kinds, in the order of the text."""
    return _possible(tuple(sorted(files.items())))


@cache
def _possible(files: tuple[tuple[str, str], ...]) -> tuple[Bug, ...]:
    found = list[Bug]()
    for name, text in files:
        tree = ast.parse(text)
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef):
                found += _in_function(name, text, function)
    return tuple(dict.fromkeys(found))


def _in_function(file: str, text: str, function: ast.FunctionDef) -> Iterator[Bug]:
    """Bugs in a function's body and defaults."""
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def bug(kind: str, node: ast.expr | ast.stmt, new: str) -> Bug:
        start, end = starts[node.lineno - 1] + node.col_offset, starts[_last(node) - 1] + (node.end_col_offset or 0)
        return Bug(kind, file, start, text[start:end], new)

    for default in function.args.defaults:
        for changed in _off(default):
            yield bug("default", default, changed)
    parameters = [each.arg for each in function.args.args if each.arg != "self"]
    for node in (each for statement in function.body for each in ast.walk(statement)):
        if isinstance(node, ast.expr):
            for kind, changed in _expressions(node, parameters):
                yield bug(kind, node, changed)
        if isinstance(node, ast.stmt) and (removal := _removed(node, function)):
            yield bug(removal[0], node, removal[1])


def _last(node: ast.expr | ast.stmt) -> int:
    assert node.end_lineno is not None
    return node.end_lineno


def _expressions(node: ast.expr, parameters: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(kind, changed source) of an expression."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in _COMPARED:
        yield "comparison", _changed(node, lambda each: each.ops.__setitem__(0, _COMPARED[type(node.ops[0])]()))
    if isinstance(node, ast.BinOp) and type(node.op) in _COMPUTED:
        yield "arithmetic", _changed(node, lambda each: setattr(each, "op", _COMPUTED[type(node.op)]()))
    if isinstance(node, ast.BoolOp):
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield "boolean", _changed(node, lambda each: setattr(each, "op", other))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "negation", ast.unparse(node.operand)
    for changed in _off(node):
        yield "off_by_one", changed
    if isinstance(node, ast.Call):
        if len(node.args) >= 2 and not any(isinstance(each, ast.Starred) for each in node.args):
            yield "arguments", _changed(node, lambda each: each.args.insert(0, each.args.pop(1)))
        if isinstance(node.func, ast.Name) and node.func.id in _CALLED:
            called = _CALLED[node.func.id]
            yield "function", _changed(node, lambda each: setattr(each.func, "id", called))
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in parameters and len(parameters) > 1:
        yield "name", parameters[(parameters.index(node.id) + 1) % len(parameters)]


def _off(node: ast.expr) -> list[str]:
    """A whole number, one more and one less."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return [str(node.value + 1), *([str(node.value - 1)] if node.value > 0 else [])]
    if isinstance(node, ast.Constant) and type(node.value) is bool:
        return [str(not node.value)]
    return []


def _removed(node: ast.stmt, function: ast.FunctionDef) -> tuple[str, str] | None:
    """(kind, what is left) of a statement that is forgotten: a guard against an edge case, or a change of state."""
    if (
        isinstance(node, ast.If)
        and not node.orelse
        and isinstance(node.body[-1], ast.Raise | ast.Return | ast.Continue)
    ):
        return ("guard", "pass") if len(node.body) == 1 and node in function.body else None
    is_change = isinstance(node, ast.AugAssign) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))
    if isinstance(node, ast.Assign):
        is_change = not isinstance(node.targets[0], ast.Name)
    return ("state", "pass") if is_change else None


def _changed(node: Any, change: Callable[[Any], object]) -> str:
    copied = copy.deepcopy(node)
    change(copied)
    return ast.unparse(copied)
