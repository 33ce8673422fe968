"""Tool calls in text: the formats that models write, read and written in this one place.

| format | one call | several |
|---|---|---|
| `hermes` | `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, prose around it (Hermes, Qwen) | one block each |
| `llama3` | `{"name": …, "parameters": {…}}`, `<|python_tag|>` before it or not (Llama 3) | separated by `;` |
| `json` | `{"name": …, "arguments": {…}}`, in a code fence or not | a list |
| `openai` | `{"type": "function", "function": {"name": …, "arguments": "{…}"}}` | a list, `{"tool_calls": […]}` |
| `pythonic` | `[name(argument=value)]` with literals only (Llama 3.2, BFCL) | further calls in the list |

A bare call has to be the whole answer: JSON quoted in the middle of a sentence is no call.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

MAX_CALLS = 64
MAX_DEPTH = 64
_TAG = "<tool_call>"
_THOUGHT = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_FENCE = re.compile(r"\A```(?:json|tool_call)?\s*(.*?)\s*```\Z", re.DOTALL)
_LIST = re.compile(r"\A\[\s*[A-Za-z_][\w.]*\s*\(", re.DOTALL)
_PYTHON_TAG = "<|python_tag|>"
_ALIASES = ("arguments", "parameters")
HOW = 'Write {"name": "tool", "arguments": {"key": "value"}} and nothing else.'


class Call(NamedTuple):
    """One call as the model wrote it, not yet checked against a tool."""

    name: str
    arguments: dict[str, Any]


class CallError(ValueError):
    """The text is no tool call; the message says what was expected, what came and what to do."""


def parse_calls(text: str) -> list[Call]:
    """The calls in an answer, at least one; raises `CallError`.

    >>> parse_calls('<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>')
    [Call(name='add', arguments={'a': 1})]
    """
    body = _THOUGHT.sub("", text).strip()
    fenced = _FENCE.match(body)
    body = (fenced[1] if fenced else body).removeprefix(_PYTHON_TAG).removesuffix("<|eom_id|>").strip()
    if _LIST.match(body):
        calls = parse_pythonic(body)
    elif body.startswith(("{", "[")):
        calls = _bare(body)
    else:
        calls = _tagged(body)
    if len(calls) > MAX_CALLS:
        raise CallError(f"Expected at most {MAX_CALLS} tool calls in one action, got {len(calls)}. Send fewer.")
    return calls


def parse_pythonic(text: str, positional: Callable[[str], Sequence[str]] | None = None) -> list[Call]:
    """Calls written in Python, `f(x=1)` or `[f(x=1), g()]`; never executed.

    `positional(name)` names the parameters of a tool in order, for callers whose text leaves the keywords out.
    """
    try:
        body = ast.parse(text.strip(), mode="eval").body
        nodes = body.elts if isinstance(body, ast.List) else [body]
        calls = [_python_call(node, positional) for node in nodes]
        _check_values(calls)
        return calls or _refuse("an empty list")
    except CallError:
        raise
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise CallError(f"Expected calls such as [tool(key='value')] with literal values, got {error}. {HOW}") from None


def render_calls(calls: Sequence[Call], format: str = "json") -> str:
    """Text that `parse_calls` reads as `calls`; `format` is one of `FORMATS`."""
    return FORMATS[format](calls)


def _bare(text: str) -> list[Call]:
    """JSON values that are the whole text, one after another with semicolons or nothing between them."""
    calls, position = list[Call](), 0
    while position < len(text):
        value, position = _read(text, position)
        calls += _calls(value)
        while position < len(text) and (text[position].isspace() or text[position] == ";"):
            position += 1
    return calls


def _tagged(text: str) -> list[Call]:
    """One JSON value after each opening tag; what stands between the blocks is prose."""
    calls, position = list[Call](), text.find(_TAG)
    if position < 0:
        raise CallError(f"Expected a tool call, got {text[:60]!r}. {HOW}")
    while position >= 0:
        position += len(_TAG)
        while position < len(text) and text[position].isspace():
            position += 1
        value, position = _read(text, position)
        calls += _calls(value)
        position = text.find(_TAG, position)
    return calls


def _read(text: str, position: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, position)
    except (ValueError, RecursionError) as error:
        raise CallError(f"Expected a tool call in JSON: {_why(error)}. {HOW}") from None


def _whole(text: str) -> Any:
    text = text.strip()
    value, end = _read(text, 0)
    return value if end == len(text) else _refuse(f"{text[end : end + 40]!r} after the arguments")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice in one object")
    return found


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


# strict=False: models write raw line breaks inside strings
_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, strict=False)


def _why(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos}"
    return str(error)[:120]


def _calls(value: Any) -> list[Call]:
    if isinstance(value, dict) and isinstance(value.get("tool_calls"), list):
        value = value["tool_calls"]
    items = value if isinstance(value, list) else [value]
    calls = [_call(item) for item in items] or _refuse("an empty list")
    _check_values(calls)
    return calls


def _call(value: Any) -> Call:
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    if not isinstance(value, dict):
        _refuse(f"{type(value).__name__}")
    name = value.get("name")
    if not isinstance(name, str) or not name:
        _refuse(f"an object with the keys {', '.join(map(repr, list(value)[:6])) or '(none)'}")
    given = [key for key in _ALIASES if key in value]
    if len(given) > 1:
        _refuse("both 'arguments' and 'parameters'")
    arguments = value[given[0]] if given else {}
    if isinstance(arguments, str):  # OpenAI's are JSON within JSON
        arguments = _whole(arguments) if arguments.strip() else {}
    arguments = {} if arguments is None else arguments
    if not isinstance(arguments, dict):
        raise CallError(f"Expected the arguments of {name!r} as an object, got {type(arguments).__name__}. {HOW}")
    return Call(name, arguments)


def _python_call(node: ast.expr, positional: Callable[[str], Sequence[str]] | None) -> Call:
    if not isinstance(node, ast.Call):
        _refuse(type(node).__name__)
    name = ast.unparse(node.func)
    if not re.fullmatch(r"[A-Za-z_][\w.]*", name):
        _refuse(f"a call of {name[:40]!r}")
    values = [ast.literal_eval(argument) for argument in node.args]
    names = list(positional(name)) if positional else []
    if len(values) > len(names):
        raise CallError(f"Expected keyword arguments for {name!r}, got {len(values)} without a name. {HOW}")
    arguments = dict(zip(names, values, strict=False))
    for keyword in node.keywords:
        if keyword.arg is None or keyword.arg in arguments:
            _refuse(f"the argument {keyword.arg!r} twice" if keyword.arg else "a ** argument")
        arguments[keyword.arg] = ast.literal_eval(keyword.value)
    return Call(name, arguments)


def _check_values(calls: Sequence[Call]) -> None:
    """JSON values only, at most `MAX_DEPTH` deep, and text that can be encoded."""
    for call in calls:
        try:
            if _depth(call.arguments) > MAX_DEPTH:
                raise ValueError("nested too deeply")
            json.dumps(call, ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, TypeError, RecursionError) as error:
            raise CallError(f"Expected JSON values in the call of {call.name!r}, got {_why(error)}. {HOW}") from None


def _depth(value: Any) -> int:
    level, depth = [value], 0
    while level:
        depth += 1
        level = [
            inner
            for each in level
            if isinstance(each, (dict, list, tuple))
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
    return depth


def _refuse(got: str) -> NoReturn:
    raise CallError(f"Expected a tool call, got {got}. {HOW}")


# ---- writing ---------------------------------------------------------------------------------------------


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _hermes(calls: Sequence[Call]) -> str:
    return "\n".join(f"<tool_call>{_dumps(call._asdict())}</tool_call>" for call in calls)


def _llama3(calls: Sequence[Call]) -> str:
    return "<|python_tag|>" + "; ".join(_dumps({"name": call.name, "parameters": call.arguments}) for call in calls)


def _plain(calls: Sequence[Call]) -> str:
    return _dumps(calls[0]._asdict() if len(calls) == 1 else [call._asdict() for call in calls])


def _openai(calls: Sequence[Call]) -> str:
    return _dumps(
        [{"type": "function", "function": {"name": call.name, "arguments": _dumps(call.arguments)}} for call in calls]
    )


def _pythonic(calls: Sequence[Call]) -> str:
    written = (f"{c.name}({', '.join(f'{key}={value!r}' for key, value in c.arguments.items())})" for c in calls)
    return f"[{', '.join(written)}]"


FORMATS: dict[str, Callable[[Sequence[Call]], str]] = {
    "hermes": _hermes,
    "llama3": _llama3,
    "json": _plain,
    "openai": _openai,
    "pythonic": _pythonic,
}
"""Name -> how calls are written in it."""
