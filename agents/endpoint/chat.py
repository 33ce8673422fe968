"""Chat requests in OpenAI's shape: checked, turned into messages of plain roles, and answers turned back.

Tools work with any chat template: they are listed in the system message, calls are read and written in a format of
`envs/tool_calls.py`, and what a tool said is a user message in `<tool_response>` tags.
"""

from __future__ import annotations

import json
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...envs.errors import RequestError
from ...envs.tool_calls import HOW, Call, CallError, parse_calls, render_calls
from ...envs.tools import defuse

Texts = tuple[tuple[str, str], ...]
"""(role, content) pairs with the roles system, user and assistant: what a `Renderer` takes."""


class Message(NamedTuple):
    """One message of a dialogue; equal ones are the same message, however a client wrote it."""

    role: str
    content: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    """(name, arguments as canonical JSON)"""


class ChatRequest(BaseModel):
    """What is read of a request. Fields that would change the sampling and are not served are refused, not ignored."""

    model_config = ConfigDict(extra="allow")

    messages: list[dict[str, Any]] = Field(min_length=1)
    n: int = Field(default=1, ge=1, le=64)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=10)
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    logprobs: bool | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Literal["auto", "none"] | None = None
    return_token_ids: bool = False

    @property
    def limit(self) -> int | None:
        """Tokens that the answer may have, where the request says."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts at which the answer is cut."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(each for each in given if each)


_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "top_p": (None, 1, 1.0),
    "top_k": (None, -1, 0),
    "frequency_penalty": (None, 0, 0.0),
    "presence_penalty": (None, 0, 0.0),
    "logit_bias": (None, {}),
    "top_logprobs": (None, 0),
    "response_format": (None, {"type": "text"}),
    "functions": (None,),
    "function_call": (None,),
    "modalities": (None, ["text"]),
    "audio": (None,),
}
"""Fields that have one value here: what is sampled has to be what the policy says, with its log-probs."""


def read(data: Any) -> ChatRequest:
    """A checked request; raises `RequestError`."""
    if not isinstance(data, dict):
        raise RequestError(f"Expected an object, got {type(data).__name__}.")
    for name, values in _NEUTRAL.items():
        if data.get(name) not in values:
            raise RequestError(
                f"Expected {name}={values[-1]!r} or none, got {data[name]!r}: this endpoint has no other."
            )
    try:
        return ChatRequest.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RequestError(f"Bad value for {where!r}: {first['msg']}. Got {str(first['input'])[:200]}.") from None


def messages_of(request: ChatRequest) -> tuple[Message, ...]:
    """The dialogue of a request; raises `RequestError` where there is something that is no text."""
    return tuple(_message(each) for each in request.messages)


def texts_of(messages: tuple[Message, ...], tools: str, format: str) -> Texts:
    """The dialogue in plain roles. `tools` joins the system message; answers of tools one after another are one."""
    found = list[tuple[str, str]]()
    for message in messages:
        role, content = message.role, message.content
        if role == "tool":
            content = f"<tool_response>\n{content}\n</tool_response>"
            if found and found[-1][0] == "tools":
                content = f"{found.pop()[1]}\n{content}"
            role = "tools"
        elif message.calls:
            calls = [Call(name, json.loads(arguments)) for name, arguments in message.calls]
            content = "\n".join(filter(None, (content, render_calls(calls, format))))
        found.append((role, content))
    plain = tuple(("user" if role == "tools" else role, content) for role, content in found)
    if not tools:
        return plain
    system = plain[0][1] if plain and plain[0][0] == "system" else ""
    rest = plain[1:] if plain and plain[0][0] == "system" else plain
    return (("system", "\n\n".join(filter(None, (system, tools)))), *rest)


def tools_text(request: ChatRequest, format: str) -> str:
    """What the model reads of the tools; empty without."""
    if not request.tools or request.tool_choice == "none":
        return ""
    listed = []
    for tool in request.tools:
        described = tool.get("function")
        if tool.get("type") != "function" or not isinstance(described, dict) or "name" not in described:
            raise RequestError(f'Expected tools of the type "function", got {str(tool)[:200]}.')
        listed.append(json.dumps(described, ensure_ascii=False, sort_keys=True))
    example = render_calls([Call("tool", {"key": "value"})], format)
    how = HOW if format == "json" else f"Write {example} to call one."
    return "\n".join([f"Tools. {how}", *listed])


def answer_of(text: str, tools: bool) -> Message:
    """The assistant's message: its text, and the calls in it where the request has tools."""
    if not tools:
        return Message("assistant", text)
    try:
        calls = parse_calls(text)
    except CallError:
        return Message("assistant", text)
    prose = text[: text.index("<tool_call>")].strip() if "<tool_call>" in text else ""
    return Message("assistant", prose, tuple((call.name, _canonical(call.arguments)) for call in calls))


def is_same(one: Message, other: Message) -> bool:
    """Whether two messages say the same; white space around an answer is not what it says."""
    if one.role != other.role or one.calls != other.calls:
        return False
    left, right = one.content, other.content
    return left.strip() == right.strip() if one.role == "assistant" else left == right


def _message(data: dict[str, Any]) -> Message:
    role = {"developer": "system"}.get(str(data.get("role")), str(data.get("role")))
    if role not in ("system", "user", "assistant", "tool"):
        raise RequestError(f"Expected the role system, user, assistant or tool, got {data.get('role')!r}.")
    content = _content(data.get("content"))
    calls = data.get("tool_calls") or []
    if not isinstance(calls, list) or (calls and role != "assistant"):
        raise RequestError(f"Expected tool_calls in answers of the assistant only, as a list, got {str(calls)[:200]}.")
    return Message(role, defuse(content) if role == "tool" else content, tuple(map(_tool_call, calls)))


def _content(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, list):
        parts = [
            part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content
        ]
        if all(isinstance(part, str) for part in parts):
            return "".join(map(str, parts))
    if not isinstance(content, str):
        raise RequestError(f"Expected text as the content of a message, got {str(content)[:200]}.")
    return content


def _tool_call(data: Any) -> tuple[str, str]:
    function = data.get("function") if isinstance(data, dict) else None
    try:
        name, arguments = function["name"], json.loads(function["arguments"] or "{}")  # type: ignore[index]
    except (TypeError, KeyError, ValueError) as error:
        raise RequestError(f"Expected a call with a name and arguments as JSON, got {str(data)[:200]}.") from error
    if not isinstance(arguments, dict):
        raise RequestError(f"Expected an object of arguments, got {str(arguments)[:200]}.")
    return str(name), _canonical(arguments)


def _canonical(arguments: dict[str, Any]) -> str:
    return json.dumps(arguments, ensure_ascii=False, sort_keys=True)
