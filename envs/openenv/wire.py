"""Messages of OpenEnv 0.10 as plain dictionaries: schemas, observations, errors; both sides use them."""

from __future__ import annotations

from typing import Any

from ..core import StopReason

ENDED = "The session ended"
"""How the error begins that closes a session which was idle for its lease."""

ACTION_SCHEMA: dict[str, Any] = {
    "title": "TextAction",
    "type": "object",
    "properties": {
        "action": {"type": "string", "description": "What the agent does, in the words of the environment."},
        "metadata": {"type": "object", "description": "Not read.", "default": {}},
    },
    "required": ["action"],
    "additionalProperties": False,
}
OBSERVATION_SCHEMA: dict[str, Any] = {
    "title": "TextObservation",
    "type": "object",
    "properties": {
        "text": {"type": "string", "description": "What the agent reads."},
        "goal": {"type": "string", "description": "The goal in words; empty where only the text says it."},
        "commands": {
            "anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}],
            "description": "Actions possible now, where the environment can list them.",
        },
        "metadata": {
            "type": "object",
            "description": "score, max_score, success, valid, admissible, turn, task, stop, truncated, and what else "
            "the environment tells.",
        },
    },
    "required": ["text"],
}
STATE_SCHEMA: dict[str, Any] = {
    "title": "EpisodeState",
    "type": "object",
    "properties": {
        "episode_id": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "step_count": {"type": "integer", "minimum": 0},
        "task": {"anyOf": [{"type": "string"}, {"type": "null"}], "description": "Key of the task."},
        "score": {"type": "number"},
        "max_score": {"type": "number"},
        "success": {"type": "boolean"},
        "done": {"type": "boolean"},
    },
}
_APART = ("goal", "commands")
"""Entries of `info` that are fields of the observation."""


def observation(text: str, reward: float | None, info: dict[str, Any]) -> dict[str, Any]:
    """The data of an observation message; `metadata` stands where typed and where generic clients look for it."""
    metadata = {key: value for key, value in info.items() if key not in _APART}
    if metadata["anchor"] == text:
        del metadata["anchor"]
    stop = info["stop"]
    metadata["truncated"] = bool(stop) and StopReason(stop).is_truncated
    seen = {"text": text, "goal": info["goal"], "commands": info["commands"], "metadata": metadata}
    return {"observation": seen, "reward": reward, "done": stop is not None, "metadata": metadata}


def state(task: str | None, episode: str | None, info: dict[str, Any]) -> dict[str, Any]:
    """The data of a state message; before the first reset, of nothing."""
    return {
        "episode_id": episode,
        "step_count": info.get("turn", 0),
        "task": task,
        "score": info.get("score", 0.0),
        "max_score": info.get("max_score", 1.0),
        "success": info.get("success", False),
        "done": bool(info.get("stop")),
    }


def info_of(data: dict[str, Any]) -> dict[str, Any]:
    """The `info` that `observation` was made of; `truncated` is left out."""
    seen = data["observation"]
    info = {"anchor": seen["text"], **data["metadata"], **{key: seen[key] for key in _APART}}
    del info["truncated"]
    return info


def error(code: str, message: str, **more: Any) -> dict[str, Any]:
    """An error message; codes are those of OpenEnv."""
    return {"type": "error", "data": {"message": message, "code": code, **more}}
