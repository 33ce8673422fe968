"""`turnwise/BFCL-v0`: the multi-turn tasks of the Berkeley Function-Calling Leaderboard, for held-out evaluation.

Data, simulated services and the comparison of states come from the wheel `bfcl-eval` (Apache-2.0); its runner, which
evaluates the model's text as Python, is not used: calls go to the services' methods directly.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import importlib.util
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from .core import State
from .errors import UnknownName
from .task import Task
from .tool_calls import Call, parse_pythonic, render_calls
from .tools import Result, Tool, ToolEnv, ToolError, function_tool, schema_tool

ENV_ID = "turnwise/BFCL-v0"
SPLITS = ("base", "miss_func", "miss_param", "long_context")
SIZE = 200
STEPS_PER_TURN = 20
"""Actions for one request of the user; one more ends the episode, as in the official runner."""
_JSON_TYPES = {"dict": "object", "float": "number", "tuple": "array"}
_BATCH_CHARS = 8_000


class Entry(NamedTuple):
    """A task of the benchmark."""

    id: str
    question: list[list[dict[str, str]]]
    """Messages of the user by turn; an empty turn says that more tools are there."""
    initial: dict[str, Any]
    services: list[str]
    excluded: list[str]
    late: dict[int, list[str]]
    """Tools that are there from a turn on."""
    gold: list[list[str]]
    digest: str


class BFCLEnv(ToolEnv):
    """Requests of a user, turn by turn; the agent calls tools and ends a turn with `respond`, or with plain words.

    At the end of each turn the services have to be in the state that the gold calls lead to, and everything that the
    gold calls of the turn answer has to be among the answers so far; a turn without gold calls always passes, as in
    the official runner. One point per turn; success is all of them, and the first that does not pass ends the episode.
    """

    id: ClassVar[str] = ENV_ID
    isolated: ClassVar[bool] = True  # a power or a factorial of large numbers takes for ever
    max_action_chars: ClassVar[int] = 9_500
    max_result_chars: ClassVar[int] = 40_000
    max_observation_chars: ClassVar[int] = 150_000

    def __init__(
        self, split: str = "base", render_mode: str | None = None, schemas: str = "json", **params: Any
    ) -> None:
        super().__init__(split, render_mode, schemas, **params)

    @classmethod
    def splits(cls) -> dict[str, int]:
        return dict.fromkeys(SPLITS, SIZE)

    @classmethod
    def tasks(cls, split: str, count: int | None = None, **unknown: Any) -> list[Task]:
        """The first `count` tasks of `split`: `base`, `miss_func`, `miss_param` or `long_context`."""
        if unknown:
            raise UnknownName("parameter of BFCL tasks", next(iter(unknown)), ())
        return [
            Task(
                env=cls.id, params={"entry": entry.id}, game=entry.digest, split=split,
                max_turns=(STEPS_PER_TURN + 1) * len(entry.question), difficulty=float(sum(map(len, entry.gold))),
                goal="Do what the user asks by calling tools. When a request is done, or cannot be done, respond.",
            )
            for entry in list(_entries(split).values())[:count]
        ]  # fmt: skip

    def open(self, task: Task) -> tuple[str, Sequence[Tool]]:
        id = str(task.params["entry"])
        split = id.removeprefix("multi_turn_").rsplit("_", 1)[0]
        if split not in SPLITS or id not in _entries(split):
            raise UnknownName("BFCL task", id, _entries(split if split in SPLITS else SPLITS[0]))
        self.entry = entry = _entries(split)[id]
        self.services, self._gold_services = (_services(entry, split) for _ in range(2))
        self.index = self._steps = 0
        self.passed, self.failed = 0, ""
        self._answers: list[str] = []
        self._said: list[Call] = []
        self.max_score = float(len(entry.question))
        return f"User: {self._request()}", [*self._all_tools(), function_tool(self.respond, cost=0.0)]

    def listed(self) -> list[Tool]:
        """All but those of a later turn. They can be called before, as in the official runner: one gold path does."""
        later = {name for turn, names in self.entry.late.items() if turn > self.index for name in names}
        return [tool for tool in super().listed() if tool.name not in later]

    def respond(self, message: str) -> str:
        """Answer the user and hear the next request; ends the turn."""
        self._check_turn()
        if self.failed:
            self.over = True
            return "The conversation is over."
        self.passed += 1
        self.index, self._steps, self._said = self.index + 1, 0, []
        if self.index == len(self.entry.question):
            self.over = True
            return "The conversation is over."
        new = [self.tools[name] for name in self.entry.late.get(self.index, ()) if name in self.tools]
        return "\n".join([*map(self.shown, new), f"User: {self._request()}"])

    def says(self, text: str) -> list[Call]:
        """Plain words are an answer to the user."""
        return [Call("respond", {"message": text})]

    def after(self, results: Sequence[Result]) -> str:
        self._steps += not any(result.call.name == "respond" for result in results)
        if self._steps > STEPS_PER_TURN and not self.over:
            self.over, self.failed = True, f"more than {STEPS_PER_TURN} steps in turn {self.index}"
        return super().after(results)

    def judge(self) -> State:
        success = self.over and self.passed == len(self.entry.question)
        return State(
            "", float(self.passed), success, self.over and not success, extra={"failed": self.failed, "at": self.index}
        )

    def expert_calls(self) -> list[Call]:
        """The gold calls of the turn, as many as fit into an action, then an answer."""
        gold = self._gold(self.index) if self.index < len(self.entry.gold) else []
        done = 0
        for call in self._said:
            done += done < len(gold) and call == gold[done]
        batch = list[Call]()
        for call in gold[done:]:
            if batch and len(render_calls([*batch, call])) > _BATCH_CHARS:
                break
            batch.append(call)
        return batch or [Call("respond", {"message": "Done."})]

    def _request(self) -> str:
        from bfcl_eval.constants.default_prompts import DEFAULT_USER_PROMPT_FOR_ADDITIONAL_FUNCTION_FC as MORE_TOOLS

        messages = self.entry.question[self.index]
        return "\n".join(message["content"] for message in messages) if messages else MORE_TOOLS

    def _all_tools(self) -> list[Tool]:
        return [
            _tool(doc, self._recorded(doc["name"], getattr(self.services[service], doc["name"])))
            for service in self.entry.services
            for doc in _documents(service)
            if doc["name"] not in self.entry.excluded
        ]

    def _recorded(self, name: str, method: Any) -> Any:
        """The method, its answers kept as the official comparison wants them."""

        def run(**arguments: Any) -> str:
            self._said.append(Call(name, arguments))
            answer, ok = _execute(method, arguments)
            self._answers.append(answer)
            if not ok:
                raise ToolError(answer)
            return answer

        return run

    def _gold(self, turn: int) -> list[Call]:
        names = {
            doc["name"]: list(doc["parameters"]["properties"]) for s in self.entry.services for doc in _documents(s)
        }
        calls = [parse_pythonic(text, names.__getitem__)[0] for text in self.entry.gold[turn]]
        return [Call(call.name, json.loads(json.dumps(call.arguments))) for call in calls]

    def _check_turn(self) -> None:
        """Compare with the gold calls of the turn; `failed` says what differs."""
        from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker import response_checker, state_checker

        gold = self._gold(self.index)
        methods = {name: service for service in self._gold_services.values() for name in dir(service)}
        expected = [_execute(getattr(methods[call.name], call.name), call.arguments)[0] for call in gold]
        if not gold:
            return
        if not self._said:
            self.failed = f"no call in turn {self.index}"
        elif not state_checker(self.services, self._gold_services)["valid"]:
            self.failed = f"another state than expected after turn {self.index}"
        elif not response_checker(self._answers, expected, self.index)["valid"]:
            self.failed = f"an answer that turn {self.index} needs was never asked for"


def _execute(method: Any, arguments: dict[str, Any]) -> tuple[str, bool]:
    """The answer of a call as text, and whether the call could be made."""
    try:
        answer = method(**copy.deepcopy(arguments))
    except Exception as error:  # the official runner counts it as an answer too
        return f"Error during execution: {error}", False
    if isinstance(answer, dict):
        try:
            return json.dumps(answer), True
        except (TypeError, ValueError):
            return str(answer), True
    return str(answer), True


def _services(entry: Entry, split: str) -> dict[str, Any]:
    """New instances of the simulated services in the task's initial state."""
    from bfcl_eval.constants.executable_backend_config import CLASS_FILE_PATH_MAPPING, STATELESS_CLASSES

    made = {}
    for name in entry.services:
        made[name] = getattr(importlib.import_module(CLASS_FILE_PATH_MAPPING[name]), name)()
        if name not in STATELESS_CLASSES:
            scenario = copy.deepcopy(entry.initial.get(name, {}))
            made[name]._load_scenario(scenario, long_context=split == "long_context")
    return made


def _tool(doc: dict[str, Any], run: Any) -> Tool:
    """A tool with the benchmark's description; types are shown, not enforced: some gold calls break them."""
    properties = {name: _json_schema(value) for name, value in doc["parameters"]["properties"].items()}
    shown = {"properties": properties, "required": doc["parameters"].get("required", [])}
    description = doc["description"].split("Tool description: ")[-1]
    return schema_tool(doc["name"], description, shown, run, types=False)


def _json_schema(value: Any) -> Any:
    """The benchmark's types in the words of JSON schema."""
    if isinstance(value, dict):
        return {
            key: _JSON_TYPES.get(inner, inner) if key == "type" and isinstance(inner, str) else _json_schema(inner)
            for key, inner in value.items()
        }
    return [_json_schema(inner) for inner in value] if isinstance(value, list) else value


def _folder() -> Path:
    found = importlib.util.find_spec("bfcl_eval")
    assert found is not None and found.origin is not None
    return Path(found.origin).parent / "data"


@lru_cache(maxsize=16)
def _documents(service: str) -> tuple[dict[str, Any], ...]:
    from bfcl_eval.constants.executable_backend_config import MULTI_TURN_FUNC_DOC_FILE_MAPPING

    text = (_folder() / "multi_turn_func_doc" / MULTI_TURN_FUNC_DOC_FILE_MAPPING[service]).read_text()
    return tuple(json.loads(line) for line in text.splitlines() if line.strip())


@lru_cache(maxsize=len(SPLITS))
def _entries(split: str) -> dict[str, Entry]:
    name = f"BFCL_v4_multi_turn_{split}.json"
    golds = (_folder() / "possible_answer" / name).read_text().splitlines()
    gold = {row["id"]: row["ground_truth"] for row in map(json.loads, golds)}
    found = {}
    for line in (_folder() / name).read_text().splitlines():
        row = json.loads(line)
        digest = hashlib.sha256(json.dumps([row, gold[row["id"]]], sort_keys=True).encode()).hexdigest()
        late = {int(turn): names for turn, names in row.get("missed_function", {}).items()}
        found[row["id"]] = Entry(
            row["id"], row["question"], row["initial_config"], row["involved_classes"],
            row.get("excluded_function", []), late, gold[row["id"]], digest,
        )  # fmt: skip
    return found
