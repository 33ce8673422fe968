"""`turnwise/OpenEnv-v0`: plays any OpenEnv server by its address, our own ones with everything they know."""

from __future__ import annotations

import hashlib
import json
from typing import Any, ClassVar

from ..core import State, StopReason, TextEnv
from ..errors import EnvError, RequestError
from ..task import Task
from . import remote, wire
from .client import Connection, ServerError, checked

NO_URL = "OpenEnv-v0 plays a server: give its address, url=http://127.0.0.1:8000. `turnwise serve ENV` starts one."
MAX_TURNS = 50
"""Where neither the server nor the parameters say."""
_BASE = frozenset(
    ("score", "max_score", "success", "valid", "admissible", "anchor", "commands", "goal", "turn", "task", "stop")
)


class OpenEnvEnv(TextEnv):
    """An environment behind OpenEnv's WebSocket. Task parameters:

    url: the server. action: the field of an action that takes the agent's text, found in its schema where there is one
    only; `*`: the agent writes whole actions as JSON. observation: the field that the agent reads; default: all.
    max_turns: OpenEnv knows no limit of turns, so this one (50) truncates.

    Who wins: OpenEnv's messages do not say. Our own servers do. Of others it has to be declared: `success_at`, the
    return (sum of rewards) from which an episode that is done is won, or `success_key`, a field of the observation or
    its metadata that is true then. max_score: the return of a perfect episode, for progress.
    """

    id: ClassVar[str] = "turnwise/OpenEnv-v0"
    isolated: ClassVar[bool] = True
    """A server may be slow, and calls wait for it."""
    max_action_chars: ClassVar[int] = 1 << 20
    max_observation_chars: ClassVar[int] = 1 << 24
    timeout_s: ClassVar[float] = 50.0
    """Longest wait for an answer; below the deadline of a pool's workers, so that it is this error that is told."""

    def __init__(self, split: str = "train", render_mode: str | None = None, **params: Any) -> None:
        super().__init__(split, render_mode, **params)
        self._connection: Connection | None = None
        self._over = False

    @classmethod
    def splits(cls) -> dict[str, int]:
        return {}

    @classmethod
    def splits_with(cls, url: str = "", **params: Any) -> dict[str, int]:
        if not url:
            raise RequestError(NO_URL)
        found = remote.describe(checked(url))
        return {split: remote.size(found, split) for split in found.splits}

    @classmethod
    def missing(cls) -> str:
        return NO_URL

    @classmethod
    def tasks(
        cls, split: str, count: int | None = None, *, url: str = "", action: str = "", observation: str = "",
        max_turns: int | None = None, success_at: float | None = None, success_key: str = "", max_score: float = 1.0,
    ) -> list[Task]:  # fmt: skip
        """The server's own tasks where it lists them, else seeds of its resets."""
        if not url:
            raise RequestError(NO_URL)
        found = remote.describe(checked(url))
        if found.own and (action or observation or max_turns or success_key or success_at is not None):
            raise RequestError(f"Expected url only for {found.name} of `turnwise serve`: it says the rest itself.")
        rule = {"success_at": success_at, "success_key": success_key, "max_score": float(max_score)}
        if not found.own and (success_at is None) == (not success_key):
            raise RequestError(
                f"Expected success_at=RETURN or success_key=FIELD for {found.name}, got "
                f"{'both' if success_key else 'neither'}: OpenEnv's messages do not say who has won. Declare it."
            )
        read = {"action": remote.action_field(found, action), "observation": observation}
        shared = {"server": found.name} | ({} if found.own else {"schema": _digest(found.action), **read, **rule})
        listed = remote.task_list(found, split)[:count]
        return [_task(cls.id, found, split, shared, each, max_turns or MAX_TURNS) for each in listed]

    @classmethod
    def has_expert(cls, task: Task) -> bool:
        return bool(task.meta.get("expert"))

    def clean(self, action: Any) -> str | None:
        """Everything goes to our own servers, which judge it; to others what is text with something in it."""
        if not isinstance(action, str) or len(action) > self.max_action_chars:
            return None
        return action if self._own else action.encode("utf-8", "replace").decode().strip() or None

    def start(self, task: Task) -> State:
        self._over, self.max_score = False, float(task.params.get("max_score", 1.0))
        reset, kept = dict(task.params.get("reset", {})), self._connection
        try:
            data = self._connected(task).ask("reset", reset)
        except EnvError as error:
            if kept is None or (isinstance(error, ServerError) and error.code != "SESSION_ERROR"):
                raise
            self.close()  # a session ends after its lease: between two episodes that is nobody's fault
            data = self._connected(task).ask("reset", reset)
        return self._own_state(data) if self._own else self._state(data, 0.0)

    def act(self, action: str) -> State:
        assert self._connection is not None and self.task is not None
        if self._over and not self._own:
            return self.state._replace(observation="The episode is over.", admissible=False, extra=None)
        try:
            sent = remote.action_of(action, "action" if self._own else self.task.params["action"])
        except (ValueError, RecursionError) as error:
            return self.state._replace(observation=f"Expected an action as a JSON object: {error}.", valid=False)
        try:
            data = self._connection.ask("step", sent)
        except ServerError as error:
            if error.code != "VALIDATION_ERROR":
                raise
            return self.state._replace(observation=error.message, admissible=False, valid=False)
        return self._own_state(data) if self._own else self._state(data, self.state.score)

    def expert(self) -> str:
        if self.task is None or self._connection is None or not self.has_expert(self.task):
            raise RequestError("No expert is known for this task. Only servers of `turnwise serve` have them.")
        return str(self._connection.ask("expert")["action"])

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def _own(self) -> bool:
        return self.task is not None and bool(self.task.meta.get("own"))

    def _stop(self) -> StopReason | None:
        if self._truncated and not self.state.success:
            return StopReason.TURN_LIMIT
        return super()._stop()

    @property
    def _truncated(self) -> bool:
        return bool(self.state.extra) and self.state.extra.get("truncated") is True  # type: ignore[union-attr]

    def _connected(self, task: Task) -> Connection:
        url = checked(task.meta.get("url"))
        if self._connection is not None and self._connection.url != url:
            self.close()
        if self._connection is None:
            self._connection = Connection(url, self.timeout_s)
        return self._connection

    def _own_state(self, data: dict[str, Any]) -> State:
        """The very state that the server's environment was in."""
        info = wire.info_of(data)
        self.goal, self.max_score = info["goal"], info["max_score"]
        commands = info["commands"]
        return State(
            data["observation"]["text"], info["score"], info["success"], info["stop"] == "failure",
            None if commands is None else tuple(commands), info["admissible"], info["valid"],
            {key: value for key, value in info.items() if key not in _BASE},
        )  # fmt: skip

    def _state(self, data: dict[str, Any], before: float) -> State:
        """The state that a foreign server's answer means, by the declared rule."""
        assert self.task is not None
        params, seen = self.task.params, data.get("observation")
        told = data.get("metadata") or (seen.get("metadata") if isinstance(seen, dict) else None) or {}
        score = before + float(data.get("reward") or 0.0)
        self._over = data.get("done") is True
        truncated = self._over and (told.get("truncated") is True or told.get("TimeLimit.truncated") is True)
        success = self._over and self._won(params, score, {**told, **seen} if isinstance(seen, dict) else told)
        extra = {"truncated": True} if truncated else None
        text = remote.text_of(seen, params["observation"])
        return State(text, score, success, self._over and not success and not truncated, extra=extra)

    @staticmethod
    def _won(params: dict[str, Any], score: float, told: dict[str, Any]) -> bool:
        if params["success_at"] is not None:
            return score >= params["success_at"]
        if not isinstance(told.get(params["success_key"]), bool):
            raise EnvError(
                f"Expected true or false under success_key={params['success_key']!r} of the last observation, got "
                f"{told.get(params['success_key'])!r}."
            )
        return told[params["success_key"]]


def _task(id: str, found: remote.Remote, split: str, shared: dict[str, Any], each: dict[str, Any], limit: int) -> Task:
    """The address is a label: the same task behind another port is the same task."""
    told, reset = each["told"], each["reset"]
    listed = {"listed": _digest(told["id"])} if told and not found.own else {}
    return Task(
        env=id, seed=int(reset.get("seed", 0)), params={**shared, **listed, "reset": reset}, split=split,
        max_turns=int(told.get("max_turns", limit)) if found.own else limit, goal=str(told.get("goal", "")),
        difficulty=told.get("difficulty"),
        meta={"url": found.url, "own": found.own, "expert": found.own and bool(told.get("expert"))},
    )  # fmt: skip


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
