"""`turnwise/TauBench-v0`: tasks in the format of tau-bench v1, read from the user's own copy.

The copy is a clone of the benchmark's repository or its folder `tau_bench`, named by `$TURNWISE_TAU_BENCH`. Tasks are
parsed, data are read as JSON; the tools of a domain are Python classes of that copy, so they are imported from it.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, NamedTuple

from ..core import State
from ..errors import RequestError, UnknownName
from ..task import Task
from ..tool_calls import Call
from ..tools import Tool, ToolEnv, function_tool, schema_tool

ENV_ID = "turnwise/TauBench-v0"
FOLDER = "TURNWISE_TAU_BENCH"
SPLITS = {"retail_train": "train", "retail_dev": "dev", "retail_test": "test", "airline_test": "test"}
"""Split -> suffix of its file `envs/<domain>/tasks_<suffix>.py`."""
LAST_TOOLS = ("transfer_to_human_agents",)
"""Tools that end the conversation."""
MAX_TURNS = 30
HOW = (
    f"Clone tau-bench (version 1) and set ${FOLDER} to the clone or to its folder tau_bench, which has "
    "envs/retail/tasks_test.py and envs/retail/data."
)
REPLY = "I have told you everything. Please do what your policy allows, then finish."


class Entry(NamedTuple):
    """A task of the benchmark."""

    instruction: str
    actions: tuple[Call, ...]
    """The gold calls."""
    outputs: tuple[str, ...]
    """What the agent has to tell the customer."""
    digest: str


class TauBenchEnv(ToolEnv):
    """tau-bench v1 without a language model as the customer: the instruction is the customer's first message.

    The agent ends with `finish`. Success is the benchmark's: the data equal those after the gold calls on fresh data,
    and every output was said to the customer, case and thousands commas aside.
    """

    id: ClassVar[str] = ENV_ID
    isolated: ClassVar[bool] = True  # `calculate` takes powers of any size
    max_action_chars: ClassVar[int] = 9_500
    max_result_chars: ClassVar[int] = 20_000
    max_observation_chars: ClassVar[int] = 100_000

    def __init__(
        self, split: str = "retail_test", render_mode: str | None = None, schemas: str = "json", **params: Any
    ) -> None:
        super().__init__(split, render_mode, schemas, **params)

    @classmethod
    def splits(cls) -> dict[str, int]:
        if cls.missing():
            return dict.fromkeys(SPLITS, 0)
        root = folder()
        return {split: len(_entries(root, split)) if root else 0 for split in SPLITS}

    @classmethod
    def missing(cls) -> str:
        try:
            return "" if folder() else f"tau-bench was not found. {HOW}"
        except RequestError as error:
            return str(error)

    @classmethod
    def tasks(cls, split: str, count: int | None = None, **unknown: Any) -> list[Task]:
        """The first `count` tasks of `split`: `retail_train`, `retail_dev`, `retail_test` or `airline_test`."""
        if unknown:
            raise UnknownName("parameter of TauBench tasks", next(iter(unknown)), ())
        root = folder()
        if root is None:
            return []
        return [
            Task(
                env=cls.id, seed=index, params={"list": split}, game=entry.digest, split=split, max_turns=MAX_TURNS,
                goal="Serve the customer as the policy demands, then call finish.",
                difficulty=float(len(entry.actions)),
            )
            for index, entry in enumerate(_entries(root, split)[:count])
        ]  # fmt: skip

    def open(self, task: Task) -> tuple[str, Sequence[Tool]]:
        root, split = folder(), str(task.params["list"])
        if root is None:
            raise RequestError(f"{ENV_ID} has no data: tau-bench was not found. {HOW}")
        if split not in SPLITS:
            raise UnknownName("list of tau-bench tasks", split, SPLITS)
        entries = _entries(root, split)
        if task.seed >= len(entries) or entries[task.seed].digest != task.game:
            raise RequestError(f"Expected task {task.seed} of {split} as it was listed, got another in {root}.")
        self.entry, self.domain = entries[task.seed], split.split("_")[0]
        self._root = root
        self.data = json.loads(_data(root, self.domain))
        self._said: list[str] = []
        self._done: list[Call] = []
        self._success = False
        tools = [self._tool(each) for each in _tools(root, self.domain)]
        own = [function_tool(self.respond, cost=0.0), function_tool(self.finish, cost=0.0)]
        wiki = (root / "envs" / self.domain / "wiki.md").read_text()
        return f"{wiki.strip()}\n\nCustomer: {self.entry.instruction}", [*tools, *own]

    def respond(self, content: str) -> str:
        """Say something to the customer and hear the answer."""
        self._said.append(content)
        return f"Customer: {REPLY}"

    def finish(self, content: str) -> str:
        """Tell the customer what was done and end the conversation."""
        self._said.append(content)
        self._end()
        return "The conversation is over."

    def judge(self) -> State:
        return State("", float(self._success), self._success, self.over and not self._success)

    def expert_calls(self) -> list[Call]:
        """The gold calls, then every output."""
        gold, done = self.entry.actions, 0
        for call in self._done:
            done += done < len(gold) and call == gold[done]
        return (
            [gold[done]]
            if done < len(gold)
            else [Call("finish", {"content": ", ".join(self.entry.outputs) or "Done."})]
        )

    def _tool(self, described: tuple[dict[str, Any], Any]) -> Tool:
        info, invoke = described

        def run(**arguments: Any) -> Any:
            self._done.append(Call(info["name"], arguments))
            answer = invoke(data=self.data, **arguments)
            if info["name"] in LAST_TOOLS:
                self._end()
            return answer

        return schema_tool(info["name"], info["description"], info["parameters"], run, types=False)

    def _end(self) -> None:
        self.over = True
        expected = json.loads(_data(self._root, self.domain))
        invoke = {info["name"]: function for info, function in _tools(self._root, self.domain)}
        for call in self.entry.actions:
            if call.name not in (*LAST_TOOLS, "respond"):
                with contextlib.suppress(Exception):  # the benchmark takes an exception for an answer
                    invoke[call.name](data=expected, **call.arguments)
        said = [text.lower().replace(",", "") for text in self._said]
        told = all(any(output.lower() in text for text in said) for output in self.entry.outputs)
        self._success = told and _canonical(self.data) == _canonical(expected)


# ---- the user's copy -------------------------------------------------------------------------------------


def folder() -> Path | None:
    """The folder `tau_bench` of the user's copy; None where none is named. Raises `RequestError` for a wrong one."""
    named = os.environ.get(FOLDER)
    if not named:
        return None
    for root in (Path(named), Path(named) / "tau_bench"):
        if (root / "envs" / "retail").is_dir():
            return root
    raise RequestError(f"Expected a copy of tau-bench in ${FOLDER}, got {named!r} without envs/retail. {HOW}")


@lru_cache(maxsize=16)
def _entries(root: Path, split: str) -> tuple[Entry, ...]:
    path = root / "envs" / split.split("_")[0] / f"tasks_{SPLITS[split]}.py"
    if not path.is_file():
        return ()
    try:
        tree = ast.parse(path.read_text())
        return tuple(_entry(node) for node in ast.walk(tree) if _calls(node, "Task"))
    except (SyntaxError, ValueError, KeyError) as error:
        raise RequestError(
            f"Expected tasks of tau-bench v1, Task(instruction=..., actions=[Action(...)], outputs=[...]), in {path}, "
            f"got {type(error).__name__}: {error}."
        ) from None


def _entry(node: Any) -> Entry:
    given = {keyword.arg: keyword.value for keyword in node.keywords}
    actions = []
    for action in given["actions"].elts:
        parts = {keyword.arg: ast.literal_eval(keyword.value) for keyword in action.keywords}
        actions.append(Call(parts["name"], parts["kwargs"]))
    outputs = tuple(ast.literal_eval(given["outputs"])) if "outputs" in given else ()
    instruction = ast.literal_eval(given["instruction"])
    digest = hashlib.sha256(json.dumps([instruction, actions, outputs], sort_keys=True).encode()).hexdigest()
    return Entry(instruction, tuple(actions), outputs, digest)


def _calls(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name


@lru_cache(maxsize=4)
def _data(root: Path, domain: str) -> str:
    files = sorted((root / "envs" / domain / "data").glob("*.json"))
    if not files:
        raise RequestError(f"Expected the tables of {domain} in {root / 'envs' / domain / 'data'}, got none. {HOW}")
    return json.dumps({path.stem: json.loads(path.read_text()) for path in files})


@lru_cache(maxsize=4)
def _tools(root: Path, domain: str) -> tuple[tuple[dict[str, Any], Any], ...]:
    """Description and function of every tool of a domain, in the order of their files."""
    found = []
    with _tool_base() as base:
        for path in sorted((root / "envs" / domain / "tools").glob("[!_]*.py")):
            spec = importlib.util.spec_from_file_location(f"_turnwise_tau_{domain}_{path.stem}", path)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            try:
                spec.loader.exec_module(module)
            except Exception as error:
                raise RequestError(f"Expected a tool of tau-bench v1 in {path}, got {error!r}.") from error
            found += [
                (each.get_info()["function"], each.invoke)
                for each in vars(module).values()
                if isinstance(each, type) and issubclass(each, base) and each is not base
            ]
    if not found:
        raise RequestError(f"Expected the tools of {domain} in {root / 'envs' / domain / 'tools'}, got none. {HOW}")
    return tuple(found)


@contextlib.contextmanager
def _tool_base() -> Iterator[Any]:
    """A stand-in for `tau_bench.envs.tool.Tool` while tools are imported; the real package imports model clients."""
    names = ("tau_bench", "tau_bench.envs", "tau_bench.envs.tool")
    before = {name: sys.modules.get(name) for name in names}
    modules = {name: ModuleType(name) for name in names}
    base = type("Tool", (), {})
    modules[names[-1]].Tool = base  # type: ignore[attr-defined]
    sys.modules.update(modules)
    try:
        yield base
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def _canonical(data: Any) -> str:
    return json.dumps(data, sort_keys=True)
