"""`ToolEnv`: environments whose actions are tool calls. Tools are typed functions, JSON schemas or an MCP server."""

from __future__ import annotations

import difflib
import inspect
import json
import re
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple
from weakref import WeakKeyDictionary

from pydantic import ConfigDict, Field, ValidationError, create_model
from pydantic.fields import FieldInfo

from .core import State, TextEnv
from .errors import EnvError, MissingDependency, UnknownName
from .task import Task
from .tool_calls import HOW, Call, CallError, parse_calls, render_calls

if TYPE_CHECKING:
    from .mcp_tools import McpServer

_MARKUP = re.compile(
    r"(?i)<(?=[|｜]|/?(?:tool_calls?|tool_response|tools?|think|action|observation|system|user|assistant|human"
    r"|start_of_turn|end_of_turn|bos|eos|s)>|<SYS>>|</?SYS>>)|\[(?=/?(?:INST|TOOL_CALLS|TOOL_RESULTS|AVAILABLE_TOOLS)\])"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_ARGUMENT = re.compile(r"^\s+(\w+)(?:\s*\([^)]*\))?:\s*(.+)$")


class ToolError(Exception):
    """A tool could not do what it was asked; the message is what the agent reads."""


class BadArguments(ValueError):
    """Arguments that do not fit a tool's schema."""


@dataclass(frozen=True)
class Tool:
    """Something an agent can call."""

    name: str
    description: str
    parameters: dict[str, Any]
    """JSON schema of the arguments, an object."""
    run: Callable[..., Any] = field(repr=False)
    """Called with the checked arguments; returns text or a JSON value, raises `ToolError`."""
    check: Callable[[dict[str, Any]], dict[str, Any]] = field(repr=False)
    """Arguments as `run` takes them; raises `BadArguments`."""
    cost: float = 1.0
    """What one call costs, in units of your choice; summed per turn in `info["counts"]["tool_cost"]`."""

    def schema(self) -> dict[str, Any]:
        """The tool as chat templates and servers list it."""
        described = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": described}

    def signature(self) -> str:
        """One line: `refund(order_id: string, method?: "card" | "credit") - Refund an order.`"""
        required = set(self.parameters.get("required", ()))
        parts = [
            f"{key}{'' if key in required else '?'}: {_type(value)}"
            for key, value in self.parameters.get("properties", {}).items()
        ]
        return f"{self.name}({', '.join(parts)}) - {' '.join(self.description.split())}"


class Result(NamedTuple):
    """What came of one call."""

    call: Call
    text: str
    ok: bool


# ---- making tools ----------------------------------------------------------------------------------------


def function_tool(function: Callable[..., Any], *, name: str = "", cost: float = 1.0) -> Tool:
    """A tool from a typed function: its schema comes from the signature, its words from the docstring.

    Lines `argument: text` under `Args:` describe arguments, as does `Annotated[str, Field(description=…)]`. Types are
    checked strictly: "3" is no integer. Raises `TypeError` for a parameter without a type.
    """
    described = _described(function)
    return Tool(name or function.__name__, *described[:2], function, described[2], cost)


_Described = tuple[str, dict[str, Any], Callable[[dict[str, Any]], dict[str, Any]]]
_KNOWN: WeakKeyDictionary[Any, dict[bool, _Described]] = WeakKeyDictionary()
"""By function, and by whether it is bound: a model takes a millisecond, and every episode makes its tools anew."""


def _described(function: Callable[..., Any]) -> _Described:
    """Summary, schema and check of a function; of a bound method, those of its function without `self`."""
    bound = inspect.ismethod(function)
    known = _KNOWN.setdefault(function.__func__ if bound else function, {})
    if bound not in known:
        known[bound] = _describe(function)
    return known[bound]


def _describe(function: Callable[..., Any]) -> _Described:
    summary, described = _docstring(inspect.getdoc(function) or "")
    fields: dict[str, Any] = {}
    for key, parameter in inspect.signature(function, eval_str=True).parameters.items():
        if parameter.annotation is parameter.empty or parameter.kind in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            raise TypeError(f"Expected a type for every parameter of the tool {function.__name__!r}, got {parameter}.")
        default = ... if parameter.default is parameter.empty else parameter.default
        given = FieldInfo.from_annotation(parameter.annotation)
        text = given.description or described.get(key)
        fields[key] = (parameter.annotation, Field(default, description=text) if text else Field(default))
    model = create_model(f"{function.__name__}_arguments", __config__=ConfigDict(extra="forbid"), **fields)

    def check(arguments: dict[str, Any]) -> dict[str, Any]:
        try:
            found = model.model_validate_json(json.dumps(arguments), strict=True)
        except ValidationError as error:
            raise BadArguments("; ".join(_complaint(each) for each in error.errors()[:4])) from None
        return {key: getattr(found, key) for key in fields}

    return summary, _tidy(model.model_json_schema()), check


def schema_tool(
    name: str, description: str, parameters: Mapping[str, Any], run: Callable[..., Any], cost: float = 1.0,
    types: bool = True,
) -> Tool:  # fmt: skip
    """A tool whose arguments a JSON schema describes; needs `jsonschema` (extra `tools`).

    types=False checks names and required arguments only, for benchmarks whose gold calls break their own types.
    """
    try:
        from jsonschema import Draft202012Validator
    except ImportError as error:
        raise MissingDependency("jsonschema", "tools", f"The tool {name!r}") from error
    schema: dict[str, Any] = {"type": "object", **parameters}
    checked = schema
    if not types:
        names = dict.fromkeys(schema.get("properties", {}), True)
        required = schema.get("required", [])
        checked = {"type": "object", "properties": names, "required": required, "additionalProperties": False}
    validator = Draft202012Validator(checked)

    def check(arguments: dict[str, Any]) -> dict[str, Any]:
        errors = sorted(validator.iter_errors(arguments), key=lambda error: list(map(str, error.path)))
        if errors:
            raise BadArguments(
                "; ".join(f"{'.'.join(map(str, e.path)) or 'arguments'}: {e.message[:200]}" for e in errors[:4])
            )
        return arguments

    return Tool(name, description, schema, run, check, cost)


def defuse(text: str) -> str:
    """`text` with a space inside whatever reads like chat markup: what a tool says is data, never a role or a call."""
    return _MARKUP.sub(lambda found: found[0] + " ", text)


def _docstring(text: str) -> tuple[str, dict[str, str]]:
    """What comes before `Args:`, and the texts of the arguments under it."""
    summary, _, rest = text.partition("\nArgs:\n")
    described = {}
    for line in rest.splitlines():
        if line.strip() and not line[0].isspace():
            break
        if found := _ARGUMENT.match(line):
            described[found[1]] = found[2].strip()
    return re.split(r"\n(?:Returns|Raises|Examples?):", summary)[0].strip(), described


def _complaint(error: Any) -> str:
    return f"{'.'.join(map(str, error['loc'])) or 'arguments'}: {error['msg']}"


def _tidy(schema: Any) -> Any:
    """A schema without pydantic's titles, which only lengthen prompts."""
    if isinstance(schema, dict):
        return {key: _tidy(value) for key, value in schema.items() if not (key == "title" and isinstance(value, str))}
    return [_tidy(value) for value in schema] if isinstance(schema, list) else schema


def _type(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return " | ".join(json.dumps(value, ensure_ascii=False) for value in schema["enum"])
    if "const" in schema:
        return json.dumps(schema["const"])
    if "anyOf" in schema:
        return " | ".join(_type(each) for each in schema["anyOf"])
    if schema.get("type") == "array":
        return f"[{_type(schema.get('items', {}))}]"
    kind = schema.get("type", "any")
    return " | ".join(kind) if isinstance(kind, list) else str(kind)


# ---- the environment -------------------------------------------------------------------------------------


class ToolEnv(TextEnv):
    """A `TextEnv` whose actions are tool calls in any format of `tool_calls`.

    A game implements `open`, `judge`, `expert_calls`, `tasks` and `splits`. All calls of an action are checked before
    the first one runs: where one does not fit, none is run, and the answer says what was expected. Exceptions of a tool
    are its answer. `schemas` says how the opening lists the tools: `lines` (one each), `json` (whole) or `none`.

    `info` also holds `calls`, the calls that ran, and `counts`: `tool_calls` and `tool_cost` of the turn.
    """

    max_action_chars: ClassVar[int] = 16_000
    max_result_chars: ClassVar[int] = 6_000
    """Of one tool's answer; what is longer is cut, and says by how much."""
    unknown_action: ClassVar[str] = '{"name": "turnwise_knows_no_such_tool", "arguments": {}}'

    def __init__(
        self, split: str = "train", render_mode: str | None = None, schemas: str = "lines", **params: Any
    ) -> None:
        super().__init__(split, render_mode, **params)
        if schemas not in ("lines", "json", "none"):
            raise UnknownName("way to list tools", schemas, ("lines", "json", "none"))
        self.schemas = schemas
        self.tools: dict[str, Tool] = {}
        self.over = False
        self._server: McpServer | None = None

    @abstractmethod
    def open(self, task: Task) -> tuple[str, Sequence[Tool]]:
        """Begin `task`: what the agent reads first, and its tools."""

    @abstractmethod
    def judge(self) -> State:
        """Score, success, failure, commands and extra entries of the present moment; the observation is not read."""

    @abstractmethod
    def expert_calls(self) -> list[Call]:
        """The next action of a policy that wins every task, as calls."""

    def after(self, results: Sequence[Result]) -> str:
        """What the agent reads after its calls ran."""
        if len(results) == 1:
            return results[0].text
        return "\n".join(f"{result.call.name}: {result.text}" for result in results)

    def says(self, text: str) -> list[Call] | None:
        """The calls that an action without a call stands for, where a game lets agents answer in plain words."""
        return None

    def clean(self, action: Any) -> str | None:
        """Any text with something in it and no control characters: white space inside arguments belongs to them."""
        if not isinstance(action, str) or len(action) > self.max_action_chars or _CONTROL.search(action):
            return None
        return action.strip() or None

    def start(self, task: Task) -> State:
        self.over = False
        opening, tools = self.open(task)
        self.tools = {tool.name: tool for tool in tools}
        return self._state("\n\n".join(filter(None, (self.list_tools(), opening))), [], True, True)

    def act(self, action: str) -> State:
        if self.state.success or self.state.failure:
            return self._state("The episode is over.", [], True, False)
        try:
            calls = parse_calls(action)
        except CallError as error:
            calls = self.says(action)
            if calls is None:
                return self._state(str(error), [], False, False)
        checked = list[tuple[Call, dict[str, Any]]]()
        for call in calls:
            try:
                checked.append((call, self._checked(call)))
            except BadArguments as error:
                return self._state(str(error), [], False, False)
            except ToolError as error:
                return self._state(str(error), [], True, False)
        results = list[Result]()
        for call, arguments in checked:
            results.append(self._run(call, arguments))
            if self.over:
                break
        return self._state(self.after(results), results, True, all(result.ok for result in results))

    def expert(self) -> str:
        return render_calls(self.expert_calls())

    def connect(self, server: Any, timeout_s: float = 30.0, cost: float = 1.0) -> list[Tool]:
        """The tools of an MCP server, for `open`; see `mcp_tools.McpServer`. The connection before it is closed.

        A command starts a server of its own, so that no state is left of the episode before.
        """
        from .mcp_tools import McpServer

        if self._server is not None:
            self._server.close()
        self._server = McpServer(server, timeout_s)
        return self._server.tools(cost)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def listed(self) -> list[Tool]:
        """The tools that the agent is told of."""
        return list(self.tools.values())

    def tool_schemas(self) -> list[dict[str, Any]]:
        return [tool.schema()["function"] for tool in self.listed()]

    def list_tools(self) -> str:
        """The tools as the opening shows them."""
        if self.schemas == "none" or not self.tools:
            return ""
        return "\n".join([f"Tools. {HOW}", *map(self.shown, self.listed())])

    def shown(self, tool: Tool) -> str:
        """One line about a tool, as `schemas` asks for it."""
        if self.schemas == "json":
            return json.dumps(tool.schema()["function"], ensure_ascii=False)
        return tool.signature()

    def _checked(self, call: Call) -> dict[str, Any]:
        """The arguments as the tool takes them; raises `ToolError` for an unknown tool, `BadArguments` for the rest."""
        tool = self.tools.get(call.name)
        if tool is None:
            known = [each.name for each in self.listed()]
            near = difflib.get_close_matches(call.name, known, n=1, cutoff=0.5)
            guess = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(known)}."
            raise ToolError(f"Unknown tool {call.name[:60]!r}. {guess}")
        try:
            return tool.check(call.arguments)
        except BadArguments as error:
            raise BadArguments(f"Invalid arguments for {call.name}: {error}. Expected {tool.signature()}") from None

    def _run(self, call: Call, arguments: dict[str, Any]) -> Result:
        try:
            return Result(call, self._text(self.tools[call.name].run(**arguments)), True)
        except ToolError as error:
            return Result(call, self._text(f"Error: {error}"), False)
        except EnvError:  # the environment broke: that ends the episode
            raise
        except (Exception, SystemExit) as error:  # a tool's failure is the agent's to read, not the episode's end
            return Result(call, self._text(f"Error: {type(error).__name__}: {error}"), False)

    def _state(self, text: str, results: Sequence[Result], valid: bool, admissible: bool) -> State:
        judged = self.judge()
        cost = sum(self.tools[result.call.name].cost for result in results)
        counts = {"tool_calls": float(len(results)), "tool_cost": float(cost)}
        extra = dict(judged.extra or {})
        extra["counts"] = counts | extra.get("counts", {})
        extra["calls"] = [{**result.call._asdict(), "ok": result.ok} for result in results]
        return judged._replace(
            observation=defuse(text)[: self.max_observation_chars], valid=valid, admissible=admissible, extra=extra
        )

    def _text(self, value: Any) -> str:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        text, limit = text.encode("utf-8", "replace").decode(), self.max_result_chars
        return text if len(text) <= limit else f"{text[:limit]} … ({len(text) - limit} more characters)"
