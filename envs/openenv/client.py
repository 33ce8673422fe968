"""A connection to an OpenEnv server (extra `serve`): one session over its WebSocket, questions over HTTP."""

from __future__ import annotations

import json
from contextlib import ExitStack, suppress
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from ..addresses import is_local
from ..errors import DeadlineExceeded, EnvError, RequestError

MAX_MESSAGE_BYTES = 1 << 26
HTTP_DEADLINE_S = 30.0


class ServerError(EnvError):
    """The server answered with an error; `code` is OpenEnv's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"The OpenEnv server answered {code}: {message}")
        self.code, self.message = code, message


class Connection:
    """One session; calls are answered in order. `timeout_s` bounds each, and the connecting."""

    def __init__(self, url: str, timeout_s: float = 60.0) -> None:
        from websockets.exceptions import WebSocketException
        from websockets.sync.client import connect

        self.url, self.timeout_s = checked(url), timeout_s
        self._broken = (OSError, WebSocketException)
        base = "ws" + self.url.removeprefix("http")
        self._stack = ExitStack()
        try:
            self._socket = self._stack.enter_context(
                connect(
                    f"{base}/ws",
                    open_timeout=timeout_s,
                    max_size=MAX_MESSAGE_BYTES,
                    compression=None,
                    proxy=None if is_local(urlsplit(self.url).hostname or "") else True,
                )
            )
        except TimeoutError as error:
            raise DeadlineExceeded(f"No OpenEnv server at {self.url} within {timeout_s:g} s.") from error
        except self._broken as error:
            raise EnvError(f"Expected an OpenEnv server at {self.url}, got {_said(error)}.") from error

    def ask(self, kind: str, data: Any = None) -> dict[str, Any]:
        """The data of the answer to one message; raises `ServerError` where it is an error."""
        message = {"type": kind} if data is None else {"type": kind, "data": data}
        try:
            with suppress(*self._closed()):  # a server that refuses says why before it closes: that is still to be read
                self._socket.send(json.dumps(message))
            answer = json.loads(self._socket.recv(timeout=self.timeout_s))
        except TimeoutError as error:
            self.close()
            raise DeadlineExceeded(f"{self.url} did not answer {kind!r} within {self.timeout_s:g} s.") from error
        except self._broken as error:
            raise EnvError(f"The OpenEnv server at {self.url} was lost during {kind!r}: {_said(error)}.") from error
        except ValueError as error:
            raise EnvError(f"Expected JSON from {self.url}, got {error}.") from error
        told = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(told, dict):
            raise EnvError(f"Expected a message with data from {self.url}, got {str(answer)[:200]!r}.")
        if answer.get("type") == "error":
            raise ServerError(str(told.get("code")), str(told.get("message")))
        return told

    def close(self) -> None:
        """End the session; a server that is gone need not be told."""
        with suppress(*self._broken, TimeoutError):
            self._socket.send(json.dumps({"type": "close"}))
        with suppress(*self._broken, TimeoutError):
            self._stack.close()

    def _closed(self) -> tuple[type[BaseException], ...]:
        from websockets.exceptions import ConnectionClosed

        return (ConnectionClosed,)


def checked(url: Any) -> str:
    """`url` without a slash at its end; raises `RequestError` where it is none."""
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
    except ValueError:
        parts = None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise RequestError(f"Expected the address of an OpenEnv server such as http://127.0.0.1:8000, got {url!r}.")
    return url.rstrip("/")


def get(url: str, path: str, body: Any = None) -> Any:
    """JSON over HTTP: a GET, or with a body a POST; None where the server does not know the path (404, 405, 501)."""
    data = None if body is None else json.dumps(body).encode()
    request = Request(f"{checked(url)}{path}", data, {"Content-Type": "application/json"})
    local = is_local(urlsplit(url).hostname or "")
    try:
        with build_opener(*[ProxyHandler({})] * local).open(request, timeout=HTTP_DEADLINE_S) as answer:
            return json.load(answer)
    except HTTPError as error:
        if error.code in (404, 405, 501):
            return None
        said = error.read(500).decode("utf-8", "replace")
        raise RequestError(
            f"Expected an OpenEnv server at {url}, got status {error.code} for {path}: {said}"
        ) from error
    except (URLError, OSError) as error:
        raise RequestError(
            f"Expected an OpenEnv server at {url}, got {_said(error)}. `turnwise serve ENV` starts one."
        ) from error
    except ValueError as error:
        raise RequestError(f"Expected JSON from {url}{path}, got {error}.") from error


def _said(error: BaseException) -> str:
    reason = getattr(error, "reason", None)
    return str(reason or error) or type(error).__name__
