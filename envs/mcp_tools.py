"""Tools of an MCP server, called from synchronous code (extra `tools`)."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from .errors import DeadlineExceeded, EnvError, MissingDependency
from .tools import Tool, ToolError, schema_tool


class McpServer:
    """A connection to an MCP server; its loop runs in a thread of its own.

    server: a command such as `("python", "server.py")` (started, spoken to over stdio, ended by `close`), an
    `mcp.server.MCPServer` (in memory), a URL, or whatever else `mcp.Client` takes. timeout_s: longest wait, in seconds.
    A server that dies or does not answer in time raises `EnvError`; what a tool refuses raises `ToolError`.
    """

    def __init__(self, server: Any, timeout_s: float = 30.0) -> None:
        try:
            from anyio.from_thread import start_blocking_portal
            from mcp import Client, StdioServerParameters
        except ImportError as error:
            raise MissingDependency("mcp", "tools", "A server of tools") from error
        if isinstance(server, Sequence) and not isinstance(server, str):
            server = StdioServerParameters(command=server[0], args=list(server[1:]))
        self.timeout_s = timeout_s
        self._stack = contextlib.ExitStack()
        self._portal = self._stack.enter_context(start_blocking_portal())
        try:
            self._client = self._stack.enter_context(self._portal.wrap_async_context_manager(Client(server)))
        except BaseException as error:
            self._stack.close()
            if isinstance(error, Exception):
                raise EnvError(f"Expected an MCP server at {server!r}, got {_reason(error)}.") from error
            raise

    def tools(self, cost: float = 1.0) -> list[Tool]:
        """Every tool that the server lists."""
        found, cursor = list[Tool](), None
        while True:
            page = self._wait("its list of tools", partial(self._client.list_tools, cursor=cursor))
            found += [self._tool(each, cost) for each in page.tools]
            cursor = page.next_cursor
            if not cursor:
                return found

    def call(self, name: str, arguments: dict[str, Any]) -> str:
        """What the tool says, as text."""
        from mcp.shared.exceptions import MCPError

        try:
            answer = self._wait(f"an answer of {name!r}", self._client.call_tool, name, arguments)
        except MCPError as error:
            if _lost(error):
                raise EnvError(f"The MCP server was lost during {name!r}: {error}") from error
            raise ToolError(str(error)) from None
        text = "\n".join(_content(block) for block in answer.content)
        if answer.is_error:
            raise ToolError(text)
        return text

    def close(self) -> None:
        """End the connection, and the server where `command` started one."""
        with contextlib.suppress(Exception):  # a dead server cannot be told
            self._stack.close()

    def _tool(self, listed: Any, cost: float) -> Tool:
        def run(**arguments: Any) -> str:
            return self.call(listed.name, arguments)

        return schema_tool(listed.name, listed.description or "", listed.input_schema, run, cost)

    def _wait(self, what: str, function: Any, *args: Any) -> Any:
        future: Future[Any] = self._portal.start_task_soon(function, *args)
        try:
            return future.result(self.timeout_s)
        except TimeoutError:
            future.cancel()
            raise DeadlineExceeded(f"Expected {what} from the MCP server within {self.timeout_s:g} s.") from None
        except Exception as error:
            from mcp.shared.exceptions import MCPError

            if isinstance(error, MCPError):
                raise
            raise EnvError(f"Expected {what} from the MCP server, got {_reason(error)}.") from error


def _lost(error: Exception) -> bool:
    from mcp import types

    return getattr(error, "code", None) == getattr(types, "CONNECTION_CLOSED", -32000)


def _reason(error: BaseException) -> str:
    inner = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error
    return _reason(inner) if isinstance(inner, BaseExceptionGroup) else f"{type(inner).__name__}: {inner}"


def _content(block: Any) -> str:
    text = getattr(block, "text", None)
    return text if isinstance(text, str) else f"({block.type} content)"
