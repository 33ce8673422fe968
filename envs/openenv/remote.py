"""What is known of a server: name, schemas, splits and tasks; and how its actions and observations become text."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from ..errors import RequestError, UnknownName
from . import client, wire

SEEDED = {"train": (0, 1000), "validation": (100_000, 100), "test": (200_000, 200)}
"""Split -> (first seed, size) where a server lists no tasks: seeds are then the tasks."""
WHOLE = "*"
"""In place of a field: the agent writes the whole action as a JSON object."""


class Remote(NamedTuple):
    """A server as it describes itself."""

    url: str
    name: str
    own: bool
    """It is `turnwise serve`: it says who wins, and knows experts."""
    action: dict[str, Any]
    observation: dict[str, Any]
    provider: str
    """Its name in the task API; empty where it lists no tasks."""
    splits: tuple[str, ...]


def describe(url: str) -> Remote:
    """Ask a server who it is."""
    about, schema = client.get(url, "/metadata"), client.get(url, "/schema")
    if not isinstance(about, dict) or not isinstance(schema, dict) or not isinstance(schema.get("action"), dict):
        raise RequestError(f"Expected an OpenEnv server at {url}, got one without /metadata and /schema.")
    own = about.get("author") == "turnwise" and schema["action"] == wire.ACTION_SCHEMA
    listed = client.get(url, "/list_environments")
    provider = str(listed[0]) if isinstance(listed, list) and listed else ""
    found = client.get(url, f"/{provider}/splits") if provider else None
    splits = tuple(each["name"] for each in found) if isinstance(found, list) else ()
    return Remote(
        url, str(about.get("name")), own, schema["action"], schema.get("observation") or {},
        provider if splits else "", splits or tuple(SEEDED),
    )  # fmt: skip


def size(remote: Remote, split: str) -> int:
    """How many tasks a split has."""
    if not remote.provider:
        return SEEDED[split][1]
    answer = client.get(remote.url, f"/{remote.provider}/num_tasks", {"split": split})
    found = answer.get("num_tasks") if isinstance(answer, dict) else None
    return found if isinstance(found, int) else len(task_list(remote, split))


def task_list(remote: Remote, split: str) -> list[dict[str, Any]]:
    """The tasks of a split: what identifies each, how it is reset, and what the server tells of it."""
    if not remote.provider:
        first, size = SEEDED[split]
        return [{"reset": {"seed": first + index}, "told": {}} for index in range(size)]
    answer = client.get(remote.url, f"/{remote.provider}/tasks", {"split": split})
    listed = answer.get("tasks") if isinstance(answer, dict) else None
    if not isinstance(listed, list):
        raise RequestError(f"Expected a list of the tasks of {split!r} from {remote.url}, got {str(answer)[:200]}.")
    if remote.own:
        return [{"reset": {"task": told["id"]}, "told": told} for told in listed]
    return [{"reset": {"split": split, "index": index}, "told": {"id": told}} for index, told in enumerate(listed)]


def action_field(remote: Remote, wanted: str = "") -> str:
    """The field of an action that carries the agent's text: `wanted`, or the only text there is to fill in."""
    fields = {key: value for key, value in remote.action.get("properties", {}).items() if key != "metadata"}
    if wanted:
        if wanted != WHOLE and wanted not in fields:
            raise UnknownName(f"field of an action of {remote.name}", wanted, [*fields, WHOLE])
        return wanted
    required = [key for key in remote.action.get("required", ()) if key in fields]
    texts = [key for key in required or fields if fields[key].get("type") == "string"]
    if len(texts) == 1 and len(required) <= 1:
        return texts[0]
    raise RequestError(
        f"Expected an action of {remote.name} with one field of text, got {json.dumps(fields)[:400]}. Name the field "
        f"with action=FIELD, or let the agent write whole actions as JSON with action={WHOLE}."
    )


def action_of(text: str, field: str) -> dict[str, Any]:
    """The action that the agent's text stands for; raises ValueError."""
    if field != WHOLE:
        return {field: text}
    action = json.loads(text)
    if not isinstance(action, dict):
        raise ValueError(f"an object, got {type(action).__name__}")
    return action


def text_of(observation: Any, field: str = "") -> str:
    """An observation as the agent reads it: the named field; the only one; else a line for each, in their order."""
    if not isinstance(observation, dict):
        return _plain(observation)
    fields = {key: value for key, value in observation.items() if key not in ("metadata", "done", "reward")}
    if field:
        if field not in fields:
            raise RequestError(f"Expected an observation with the field {field!r}, got {', '.join(fields) or 'none'}.")
        return _plain(fields[field])
    if len(fields) == 1:
        return _plain(next(iter(fields.values())))
    return "\n".join(f"{key}: {_plain(value)}" for key, value in fields.items())


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
