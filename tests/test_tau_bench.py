"""The loader of tau-bench v1: a folder in its format is read, played and graded; anything else is refused by name."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from turnwise.envs import RequestError, Task, make, tasks
from turnwise.envs.check import check_env
from turnwise.envs.servicedesk import tau
from turnwise.envs.tool_calls import Call, render_calls

pytest.importorskip("jsonschema")

ID = "turnwise/TauBench-v0"
DATA = {
    "users": {"ann_1": {"name": "Ann", "balance": 5.0}, "bob_2": {"name": "Bob", "balance": 0.0}},
    "orders": {
        "#1": {"user": "ann_1", "status": "pending", "total": 12.5},
        "#2": {"user": "bob_2", "status": "pending", "total": 1200.0},
    },
}
TASKS = """
    from tau_bench.types import Action, Task

    TASKS_TEST = [
        Task(
            annotator="0",
            user_id="ann_1",
            instruction="You are Ann. Cancel order #1.",
            actions=[
                Action(name="get_order", kwargs={"order_id": "#1"}),
                Action(name="cancel", kwargs={"order_id": "#1"}),
            ],
            outputs=[],
        ),
        Task(
            annotator="0",
            user_id="bob_2",
            instruction="You are Bob. What did order #2 cost? Do not change anything.",
            actions=[Action(name="get_order", kwargs={"order_id": "#2"})],
            outputs=["1200"],
        ),
        Task(
            annotator="0",
            user_id="bob_2",
            instruction="You are Bob. Ask for a coupon.",
            actions=[Action(name="transfer_to_human_agents", kwargs={"summary": "coupon"})],
            outputs=[],
        ),
    ]
"""
TOOL = """
    import json
    from typing import Any, Dict
    from tau_bench.envs.tool import Tool

    class {cls}(Tool):
        @staticmethod
        def invoke(data: Dict[str, Any], {parameter}: str) -> str:
            {body}

        @staticmethod
        def get_info() -> Dict[str, Any]:
            return {{
                "type": "function",
                "function": {{
                    "name": "{name}",
                    "description": "A tool.",
                    "parameters": {{
                        "type": "object",
                        "properties": {{"{parameter}": {{"type": "string"}}}},
                        "required": ["{parameter}"],
                    }},
                }},
            }}
"""
BODIES = {
    "get_order": ("GetOrder", "order_id", "return json.dumps(data['orders'][order_id])"),
    "cancel": ("Cancel", "order_id", "data['orders'][order_id]['status'] = 'cancelled'; return 'cancelled'"),
    "transfer_to_human_agents": ("Transfer", "summary", "return 'Transfer successful'"),
}


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    retail = tmp_path / "tau-bench" / "tau_bench" / "envs" / "retail"
    (retail / "data").mkdir(parents=True)
    (retail / "tools").mkdir()
    for name, table in DATA.items():
        (retail / "data" / f"{name}.json").write_text(json.dumps(table))
    (retail / "tasks_test.py").write_text(textwrap.dedent(TASKS))
    (retail / "wiki.md").write_text("# Retail policy\nCancel pending orders only.\n")
    (retail / "tools" / "__init__.py").write_text("raise ImportError('not read')\n")
    for name, (cls, parameter, body) in BODIES.items():
        source = TOOL.format(cls=cls, parameter=parameter, body=body, name=name)
        (retail / "tools" / f"{name}.py").write_text(textwrap.dedent(source))
    monkeypatch.setenv(tau.FOLDER, str(tmp_path / "tau-bench"))
    return retail


def call(name: str, **arguments: Any) -> str:
    return render_calls([Call(name, arguments)])


def play(task: Task, *actions: str) -> dict[str, Any]:
    env = make(ID)
    _, info = env.reset(options={"task": task})
    for action in actions:
        info = env.step(action)[-1]
    return info


def test_a_folder_in_the_format_is_listed_and_played(copy: Path) -> None:
    assert tau.TauBenchEnv.splits() == {"retail_train": 0, "retail_dev": 0, "retail_test": 3, "airline_test": 0}
    listed = tasks(ID, "retail_test")
    assert len({task.key for task in listed}) == 3 and not tau.TauBenchEnv.missing()
    env = make(ID)
    observation, _ = env.reset(options={"task": listed[0]})
    assert "# Retail policy" in observation and observation.endswith("Customer: You are Ann. Cancel order #1.")
    assert '"name": "get_order"' in observation and '"name": "finish"' in observation
    assert "please do what your policy allows" in env.step(call("respond", content="Hello?"))[0].lower()
    assert "tau_bench" not in sys.modules


def test_it_keeps_every_promise(copy: Path) -> None:
    report = check_env(ID, tasks_per_split=3)
    assert report.ok, [check for check in report.checks if not check.ok]


def test_the_grader_on_right_and_on_wrong_service(copy: Path) -> None:
    cancel, asked, coupon = tasks(ID, "retail_test")
    done = call("finish", content="Done.")
    look, drop = call("get_order", order_id="#1"), call("cancel", order_id="#1")
    for task, actions, won in (
        (cancel, [look, drop, done], True),
        (cancel, [drop, call("finish", content="")], True),  # reading leaves no trace
        (cancel, [look, done], False),
        (cancel, [drop, call("cancel", order_id="#2"), done], False),
        (cancel, [look, look, call("transfer_to_human_agents", summary="?")], False),
        (asked, [call("finish", content="It was $1,200.00.")], True),
        (asked, [call("respond", content="It was 1200 dollars."), done], True),
        (asked, [done], False),
        (asked, [call("cancel", order_id="#2"), call("finish", content="1200")], False),
        (coupon, [call("transfer_to_human_agents", summary="coupon")], True),
        (coupon, [drop, call("transfer_to_human_agents", summary="coupon")], False),
    ):
        info = play(task, *actions)
        assert (info["success"], info["stop"]) == (won, "success" if won else "failure"), actions


def test_a_tool_that_fails_is_an_answer(copy: Path) -> None:
    env = make(ID)
    env.reset(options={"task": tasks(ID, "retail_test")[0]})
    observation, _, terminated, _, info = env.step(call("get_order", order_id="#9"))
    assert observation == "Error: KeyError: '#9'" and not terminated and info["valid"] and not info["admissible"]
    assert "order_id' is a required property" in env.step(call("cancel"))[0]


def test_without_a_copy_it_says_what_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(tau.FOLDER, raising=False)
    assert set(tau.TauBenchEnv.splits().values()) == {0} and "TURNWISE_TAU_BENCH" in tau.TauBenchEnv.missing()
    with pytest.raises(RequestError, match="no task in split 'retail_test' here"):
        make(ID).reset(seed=0)
    with pytest.raises(RequestError, match=r"tau-bench was not found\. Clone tau-bench"):
        make(ID).reset(options={"task": Task(env=ID, params={"list": "retail_test"}, game="x")})
    monkeypatch.setenv(tau.FOLDER, str(tmp_path))
    assert "without envs/retail" in tau.TauBenchEnv.missing() and set(tau.TauBenchEnv.splits().values()) == {0}


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        (
            "tasks_test.py",
            "TASKS = [Task(instruction=open('x').read(), actions=[])]",
            r"Expected tasks of tau-bench v1",
        ),
        ("tasks_test.py", "TASKS = [Task(", r"got SyntaxError"),
        ("tasks_test.py", "TASKS = [Task(actions=[])]", r"got KeyError: 'instruction'"),
        ("tools/cancel.py", "import nothing_of_this_name", r"Expected a tool of tau-bench v1 in .*cancel\.py"),
    ],
)
def test_a_folder_in_another_format_is_refused(copy: Path, file: str, text: str, says: str) -> None:
    if file.startswith("tools"):
        task = tasks(ID, "retail_test")[0]
    (copy / file).write_text(text)
    tau._entries.cache_clear()
    with pytest.raises(RequestError, match=says):
        make(ID).reset(options={"task": task}) if file.startswith("tools") else tasks(ID, "retail_test")
    tau._entries.cache_clear()


def test_a_task_of_another_copy_is_refused(copy: Path) -> None:
    task = tasks(ID, "retail_test")[0].model_copy(update={"game": "0" * 64})
    with pytest.raises(RequestError, match="Expected task 0 of retail_test as it was listed"):
        play(task)
