"""SWE: programs, bugs and tests; the grader on gold, on half a repair and on results that code tries to forge."""

from __future__ import annotations

import inspect
import json
import random
import re
from typing import Any

import pytest
from helpers import run
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import section_of
from turnwise.agents.agent import ScriptedAgent
from turnwise.agents.rollout import Episode
from turnwise.envs import RequestError, Task, UnknownName, tasks
from turnwise.envs.check import check_env
from turnwise.envs.sandbox import probe, process
from turnwise.envs.sandbox.box import run_program
from turnwise.envs.swe import env as swe
from turnwise.envs.swe.bugs import overlap, plant, possible_bugs, share
from turnwise.envs.swe.env import SWEEnv
from turnwise.envs.swe.playing import names, plain, play, written
from turnwise.envs.swe.program import SEEN, TESTS, UNSEEN, UnitTest, as_unittest, draw_tests, passed, passes, program
from turnwise.envs.swe.repository import KINDS, _shows, repository
from turnwise.envs.tool_calls import Call, render_calls
from turnwise.training import extract

pytestmark = pytest.mark.skipif(not process.program(), reason=f"no bubblewrap here: {probe.CURE}")
ID = "turnwise/SWE-v0"
SPLITS = ("train", "validation", "test")


def call(name: str, **arguments: Any) -> str:
    return render_calls([Call(name, arguments)])


def started(task: Task) -> SWEEnv:
    env = SWEEnv()
    env.reset(options={"task": task})
    return env


def one(split: str = "train", program: str = "inventory", **params: Any) -> Task:
    return tasks(ID, split, 1, program=program, **params)[0]


# ---- programs, tests, bugs -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*SEEN, *UNSEEN])
def test_a_right_program_passes_its_written_tests_in_python_s_own_runner(name: str) -> None:
    base = program(name)
    tests = draw_tests(base, random.Random(5), 40)
    assert len(tests) == 40 and {test.title for test in tests} == {title for title, _ in base.templates}
    output = run_program(["unittest"], {**base.files, "tests/__init__.py": "", TESTS: as_unittest(tests)})
    assert output.ok and "Ran 40 tests" in output.text, output.text
    assert passes(base.files, tests) == [True] * 40


@pytest.mark.parametrize("name", [*SEEN, *UNSEEN])
def test_a_program_has_many_bugs_and_each_is_one_edit(name: str) -> None:
    base = program(name)
    found = possible_bugs(base.files)
    assert len(found) >= 100 and len({bug.kind for bug in found}) >= 7
    for bug in found:
        planted = plant(base.files, [bug])
        changed = [path for path in base.files if planted[path] != base.files[path]]
        assert changed == [bug.file]
        compile(planted[bug.file], bug.file, "exec")
        undone = bug._replace(old=bug.new, new=bug.old)
        assert plant(planted, [undone]) == base.files


def test_every_kind_of_bug_is_there_in_both_groups_of_programs() -> None:
    for group in (SEEN, UNSEEN):
        assert {bug.kind for name in group for bug in possible_bugs(program(name).files)} == set(KINDS)


def test_what_a_kind_of_bug_does() -> None:
    text = (
        "def f(a, b=3):\n    if a < 0:\n        raise ValueError\n    x = min(a, b) + 1\n"
        "    if not x and a in [b]:\n        x -= 1\n    g(x)\n    return x\n"
    )
    found = {(bug.kind, bug.old, bug.new) for bug in possible_bugs({"m.py": text})}
    for expected in (
        ("comparison", "a < 0", "a <= 0"), ("comparison", "a in [b]", "a not in [b]"), ("default", "3", "4"),
        ("default", "3", "2"), ("off_by_one", "0", "1"), ("arithmetic", "min(a, b) + 1", "min(a, b) - 1"),
        ("function", "min(a, b)", "max(a, b)"), ("arguments", "min(a, b)", "min(b, a)"), ("negation", "not x", "x"),
        ("boolean", "not x and a in [b]", "not x or a in [b]"), ("name", "a", "b"), ("state", "x -= 1", "pass"),
        ("guard", "if a < 0:\n        raise ValueError", "pass"), ("state", "g(x)", "pass"),
    ):  # fmt: skip
        assert expected in found, expected


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.tuples(inner)
            | st.tuples(inner, inner)
            | st.dictionaries(st.integers() | st.text(max_size=2) | st.tuples(st.integers()), inner, max_size=3)
            | st.sets(st.integers(), max_size=3)
        ),
        max_leaves=8,
    )
)
def test_values_survive_being_written(value: Any) -> None:
    assert eval(written(json.loads(json.dumps(plain(value))))) == value


@pytest.mark.parametrize(
    "pair", [(1, True), (0, False), ([1], (1,)), ({}, set()), ("1", 1), (1, 1.0), (None, "None"), (0, None)]
)
def test_values_of_other_types_are_other_values(pair: tuple[Any, Any]) -> None:
    assert json.dumps(plain(pair[0])) != json.dumps(plain(pair[1]))


def test_what_comes_out_has_to_be_the_very_same() -> None:
    test = UnitTest("t", [], [["value", 1], ["raises", "KeyError"]])
    assert passed(test, [["value", 1], ["raises", "KeyError"]])
    for came in (
        [["value", True], ["raises", "KeyError"]],
        [["value", 1]],
        [],
        None,
        [["value", 1], ["raises", "Error"]],
    ):
        assert not passed(test, came)


def test_a_value_that_equals_everything_equals_nothing() -> None:
    class Anything(int):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = int.__hash__

    assert plain(Anything(3)) == {"Anything": "…"}


def test_cases_have_no_state_in_common_and_an_end() -> None:
    text = "seen = []\ndef f(x):\n    seen.append(x)\n    return list(seen)\ndef g():\n    while True:\n        pass\n"
    files = {"m.py": text}
    case = [["do", "import m"], ["expect", "m.f(1)"], ["expect", "m.f(2)"], ["expect", "1 / 0"], ["expect", "m.f(3)"]]
    expected = [["value", [1]], ["value", [1, 2]], ["raises", "ZeroDivisionError"], ["value", [1, 2, 3]]]
    assert play(case, names(files)) == expected == play(case, names(files))
    endless = [["do", "import m"], ["expect", "m.g()"], ["expect", "1"]]
    assert play(endless, names(files)) == [["raises", "TooLong"]]
    assert play([["do", "import n"], ["expect", "1"]], names(files)) == [["broken", "ModuleNotFoundError"]]


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.sampled_from(SPLITS), st.integers(0, 300), st.integers(1, 3), st.integers(0, 2))
def test_a_repository_is_what_its_task_says(split: str, index: int, bugs: int, distractors: int) -> None:
    task = tasks(ID, split, index + 1, bugs=bugs, distractors=distractors)[-1]
    repo = repository(task.params, task.seed)
    assert len(repo.bugs) == bugs and not any(
        overlap(one, other) for i, one in enumerate(repo.bugs) for other in repo.bugs[:i]
    )
    assert plant(repo.gold, repo.bugs) == repo.files and repo.files[TESTS] == repo.gold[TESTS]
    assert len(repo.files) >= 5 + distractors * 3 and repo.program.name in (UNSEEN if split == "test" else SEEN)
    assert repo.before == tuple(passes(repo.files, list(repo.hidden))) and len(repo.before) == 12
    assert (not all(repo.before) and any(repo.before)) or bugs > 1
    for bug in repo.bugs:  # one bug left is one too many
        assert not all(passes(plant(repo.gold, [bug]), list(repo.hidden)))


def test_a_bug_has_to_show_in_both_kinds_of_tests_and_not_in_most_hidden_ones() -> None:
    base = program("inventory")
    tests = draw_tests(base, random.Random(1), 40)
    bug = next(bug for bug in possible_bugs(base.files) if bug.file == "prices.py" and bug.kind == "comparison")
    fine = passes(plant(base.files, [bug]), tests)
    failing = [test for test, ok in zip(tests, fine, strict=True) if not ok]
    passing = [test for test, ok in zip(tests, fine, strict=True) if ok]
    assert _shows(base.files, bug, failing[:1], [failing[0], *passing[:1]])
    assert not _shows(base.files, bug, failing[:1], passing[:3])
    assert not _shows(base.files, bug, passing[:3], [failing[0], *passing[:2]])
    assert not _shows(base.files, bug, failing[:1], [*failing[:3], passing[0]])
    assert _shows(base.files, bug, failing[:1], [*failing[:2], passing[0]])


def test_splits_share_neither_programs_nor_bugs() -> None:
    assert not set(SEEN) & set(UNSEEN)
    met: dict[str, set[Any]] = {}
    for split in ("train", "validation"):
        repos = [(task, repository(task.params, task.seed)) for task in tasks(ID, split, 16)]
        met[split] = {(repo.program.name, bug) for _, repo in repos for bug in repo.bugs}
        assert all(share(repo.program.name, bug) == split for _, repo in repos for bug in repo.bugs)
    assert len(met["train"]) > 12 and not met["train"] & met["validation"]
    assert {task.params["program"] for task in tasks(ID, "test", 50)} == set(UNSEEN)


def test_kinds_of_bugs_can_be_asked_for() -> None:
    for kind in ("comparison", "guard", "state", "off_by_one"):
        task = one(kind=kind)
        assert {bug.kind for bug in repository(task.params, task.seed).bugs} == {kind}


WRONG = [
    ({"bugs": 0}, RequestError, "bugs from 1 to 4, got 0"),
    ({"hidden": 99}, RequestError, "hidden from 4 to 32, got 99"),
    ({"kind": "typo"}, UnknownName, "kind of bug 'typo'"),
    ({"program": "parser"}, UnknownName, "program of the split 'train' 'parser'"),
    ({"timeout_s": 0}, RequestError, "timeout_s above 0"),
]


@pytest.mark.parametrize(("params", "error", "match"), WRONG)
def test_wrong_parameters_are_refused(params: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        tasks(ID, "train", 1, **params)


# ---- playing ---------------------------------------------------------------------------------------------


def test_swe_keeps_every_promise() -> None:
    report = check_env(ID, tasks_per_split=1)
    assert report.ok, [check for check in report.checks if not check.ok]


def test_the_expert_wins_and_the_empty_agent_does_not() -> None:
    listed = [task for split in SPLITS for task in (*tasks(ID, split, 1), *tasks(ID, split, 1, bugs=3, distractors=1))]
    played = run(ScriptedAgent("expert"), [Episode(task) for task in listed])
    assert all(t.success and t.score == t.max_score for t in played)
    assert not any(t.success for t in run(ScriptedAgent("empty"), [Episode(task) for task in listed[:2]]))


def test_every_turn_says_which_tests_pass_for_verpo() -> None:
    (played,) = run(ScriptedAgent("expert"), [Episode(one(bugs=2))])
    marks = [[turn.counts[f"test_{j:02}"] for j in range(12)] for turn in played.turns]
    before = repository(played.task.params, played.task.seed).before
    assert marks[0] == list(map(float, before)) and marks[-1] == [1.0] * 12
    scores = [sum(mark) - sum(before) for mark in marks]
    assert [turn.score for turn in played.turns] == [*scores[:-1], scores[-1] + 1]
    row = type("Row", (), {"turn": [0, -1, len(marks) - 1]})()
    assert extract.verified(played, row) == [marks[0], [0.0] * 12, marks[-1]]  # type: ignore[arg-type]
    assert sum(turn.counts["tool_calls"] for turn in played.turns) == 2.0


def test_the_tools_say_what_is_there() -> None:
    env = started(one())
    assert "stock.py (37 lines)" in env.step(call("list_files"))[0]
    assert env.step(call("read_file", path="prices.py", first=3, last=4))[0] == "   3 BULK = 10\n   4 "
    assert env.step(call("read_file", path="prices.py", first=99))[0].startswith("Error: prices.py has lines 1 to ")
    assert env.step(call("search", text="BULK ="))[0] == "prices.py:3: BULK = 10"
    assert env.step(call("search", text="zebra"))[0] == "Nothing found."
    assert env.step(call("read_file", path="zebra.py"))[0] == "Error: there is no file 'zebra.py'."
    assert env.step(call("run_python", code="import prices\nprint(prices.BULK, 1 + 1)"))[0] == "10 2\n"
    tested = env.step(call("run_tests"))[0]
    assert "FAILED" in tested and re.search(r"^Ran 8 tests$", tested, re.MULTILINE), tested
    assert env.step(call("run_tests"))[0] == tested


def test_edits_have_to_fit_and_stay_in_the_repository() -> None:
    env = started(one())
    text = env.files["prices.py"]
    assert env.step(call("edit", path="prices.py", old="BULK = 10", new="BULK = 11"))[0] == "Changed prices.py."
    assert env.files["prices.py"] == text.replace("BULK = 10", "BULK = 11")
    for old, count in (("zebra", 0), ("total", env.files["prices.py"].count("total")), ("", 0)):
        observation, *_, info = env.step(call("edit", path="prices.py", old=old, new="x"))
        assert observation == f"Error: expected the old text once in prices.py, found it {count} times."
        assert not info["admissible"]
    before = dict(env.files)
    for path in ("../x.py", "/etc/x.py", "tests/test_more.py", TESTS, "a/b.py", "x.txt", "x.py\n", "", "X.py", "."):
        observation, *_, info = env.step(call("write_file", path=path, text="x = 1\n"))
        assert observation.startswith("Error: ") and not info["admissible"], path
    assert "cannot be changed" in env.step(call("edit", path=TESTS, old="import unittest", new=""))[0]
    assert env.step(call("write_file", path="x.py", text="x" * 8_001))[0].startswith("Error: files have up to")
    assert env.files == before


def test_code_that_runs_cannot_change_the_repository() -> None:
    env = started(one())
    before = dict(env.files)
    env.step(call("run_python", code="open('stock.py', 'w').write('x')\nopen('tests/test_repo.py', 'w').write('')"))
    assert env.files == before and "FAILED" in env.step(call("run_tests"))[0]


# ---- the grader ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
def test_gold_wins_and_less_does_not(split: str) -> None:
    task = tasks(ID, split, 2, bugs=2)[-1]
    env = started(task)
    info = env.step(call("submit"))[-1]
    assert (info["success"], info["score"], info["stop"]) == (False, 0.0, "failure")
    first, second = env.repo.bugs
    half = plant(env.repo.gold, [second])
    env = started(task)
    for path in sorted({first.file, second.file}):
        env.step(call("write_file", path=path, text=half[path]))
    info = env.step(call("submit"))[-1]
    assert not info["success"] and info["stop"] == "failure" and info["score"] < info["max_score"] - 1
    assert info["tests"] == passes(half, list(env.repo.hidden)) and info["ratio"] == sum(info["tests"]) / 12
    env = started(task)
    for path in sorted({first.file, second.file}):
        info = env.step(call("write_file", path=path, text=env.repo.gold[path]))[-1]
    assert info["ratio"] == 1.0 and not info["success"] and info["score"] == info["max_score"] - 1
    info = env.step(call("submit"))[-1]
    assert info["success"] and info["score"] == info["max_score"] and info["stop"] == "success"


def test_a_single_hidden_test_that_fails_is_a_loss() -> None:
    listed = tasks(ID, "train", 200)
    task = next(task for task in listed if sum(repository(task.params, task.seed).before) == 11)
    info = started(task).step(call("submit"))[-1]
    assert (info["success"], info["stop"], info["score"], info["max_score"]) == (False, "failure", 0.0, 2.0)


def test_a_step_that_breaks_what_worked_is_paid_below_nothing() -> None:
    env = started(one())
    _, reward, *_, info = env.step(call("write_file", path="stock.py", text="raise RuntimeError\n"))
    assert reward == info["score"] == sum(info["tests"]) - sum(env.repo.before) < 0
    assert info["ratio"] == sum(info["tests"]) / 12
    assert env.step(call("write_file", path="stock.py", text=env.repo.files["stock.py"]))[-1]["score"] == 0.0


def test_being_right_only_where_the_visible_tests_look_does_not_win() -> None:
    env = started(one(program="ledger", kind="comparison"))
    (bug,) = env.repo.bugs
    right, wrong = env.repo.gold[bug.file], env.repo.files[bug.file]
    text = f"import sys\nexec({right!r} if 'unittest' in sys.modules else {wrong!r})\n"
    env.step(call("write_file", path=bug.file, text=text))
    assert env.step(call("run_tests"))[0].rstrip().endswith("OK")
    info = env.step(call("submit"))[-1]
    assert not info["success"] and info["tests"] == list(env.repo.before)


FORGERIES = {
    "leaves with success": "import sys\nsys.exit(0)\n",
    "leaves at once": "import os\nos._exit(0)\n",
    "prints results": "import os\nfor i in range(12):\n    os.write(1, b'\\n[%d, [[\"value\", true]]]\\n' % i)\n",
    "prints results everywhere": (
        "import os\nfor fd in range(3, 30):\n    for i in range(12):\n        try:\n"
        "            os.write(fd, b'\\n[%d, [[\"value\", true]]]\\n' % i)\n        except OSError:\n            pass\n"
    ),
    "replaces the player": "import sys\nsys.modules['__main__'].play = lambda *args: [['value', True]]\n",
    "replaces what is written": "import json\njson.dumps = lambda value, **rest: '[0, [[\"value\", true]]]'\n",
    "replaces comparison": "import builtins\nbuiltins.all = builtins.any = lambda *args: True\n",
    "replaces the runner": (
        "import unittest\nunittest.TestCase.assertEqual = lambda *args: None\n"
        "unittest.TestCase.run = lambda self, result=None: result\n"
    ),
    "stops the tracing": "import sys\nsys.settrace = lambda trace: None\n",
    "empties the cases": (
        "import sys\nframe = sys._getframe()\nwhile frame:\n    for value in list(frame.f_locals.values()):\n"
        "        if isinstance(value, list):\n            value.clear()\n    frame = frame.f_back\n"
    ),
    "writes files": (
        "import os\nfor name in ('cases.json', '../cases.json', 'result.json', '../result.json', '/tmp/judge.py'):\n"
        "    try:\n        open(name, 'w').write('[]')\n    except OSError:\n        pass\n"
    ),
    "at the end": "import atexit, os\natexit.register(os.write, 1, b'[0, [[\"value\", true]]]\\n')\n",
    "looks for the answers": (
        "import gc\nfound = [each for each in gc.get_objects() if isinstance(each, list) and each[:1] == ['value']]\n"
        "if found:\n    raise SystemExit('the answers are in reach')\n"
    ),
    "floods": "import os\nos.write(1, b'x' * 5_000_000)\n",
}  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_results_cannot_be_forged_by_the_code_under_test(name: str) -> None:
    task = one(program="rooms", bugs=2)
    env = started(task)
    honest = passes(env.repo.files, list(env.repo.hidden))
    forged = {path: FORGERIES[name] + env.repo.files[path] for path in ("intervals.py", "rooms.py", "house.py")}
    info = env.step(render_calls([Call("write_file", {"path": path, "text": forged[path]}) for path in forged]))[-1]
    for mine, allowed in zip(info["tests"], honest, strict=True):
        assert mine <= allowed, "a test passes that the program does not pass"
    info = env.step(call("submit"))[-1]
    assert not info["success"] and info["stop"] == "failure" and info["score"] < info["max_score"]


def test_what_should_come_out_never_enters_the_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, str]] = []
    original = swe.run_program

    def spy(program: Any, files: Any, *rest: Any) -> Any:
        sent.append(dict(files))
        return original(program, files, *rest)

    monkeypatch.setattr(swe, "run_program", spy)
    env = started(one(program="search"))
    bug = env.repo.bugs[0]
    env.step(call("edit", path=bug.file, old=env.files[bug.file].splitlines()[0], new='"""Changed."""'))
    (files,) = sent
    assert set(files) == {"judge.py", "cases.json", *(f"repo/{path}" for path in env.files if "/" not in path)}
    assert json.loads(files["cases.json"]) == [test.case for test in env.repo.hidden]
    assert all({kind for kind, _ in case} <= {"do", "expect"} for case in json.loads(files["cases.json"]))


def test_modules_named_like_python_s_own_fool_only_who_wrote_them() -> None:
    env = started(one())
    liar = "import sys\nprint('Ran 8 tests\\n\\nOK')\nsys.exit(0)\n"
    env.step(call("write_file", path="unittest.py", text=liar))
    for name in ("json.py", "types.py", "builtins.py"):
        env.step(call("write_file", path=name, text="raise SystemExit(0)\n"))
    assert "OK" in env.step(call("run_tests"))[0]
    info = env.step(call("submit"))[-1]
    assert not info["success"] and info["ratio"] < 1.0


def test_a_loop_without_end_fails_its_tests_and_no_others() -> None:
    env = started(one(program="inventory", timeout_s=0.5))
    gold = env.repo.gold
    looping = gold["prices.py"].replace("    total = unit * count\n", "    while True:\n        pass\n")
    for path, text in (("prices.py", looping), *((path, gold[path]) for path in ("stock.py", "orders.py"))):
        info = env.step(call("write_file", path=path, text=text))[-1]
    of_prices = [test.title in ("line prices", "order prices") for test in env.repo.hidden]
    assert any(of_prices) and not any(done for done, priced in zip(info["tests"], of_prices, strict=True) if priced)
    others = [test.title not in ("line prices", "order prices", "shipping") for test in env.repo.hidden]
    assert any(others) and all(done for done, other in zip(info["tests"], others, strict=True) if other)
    assert env.step(call("run_tests"))[0].endswith("Stopped: it did not end within 0.5 s.")


def test_the_expert_undoes_what_somebody_broke() -> None:
    env = started(one(bugs=2))
    env.step(call("write_file", path="stock.py", text="nonsense("))
    env.step(call("write_file", path="prices.py", text=""))
    info = env.step(env.expert())[-1]
    while not info["stop"]:
        info = env.step(env.expert())[-1]
    assert info["success"]


def test_the_page_names_every_parameter_program_and_kind() -> None:
    text = section_of(ID)
    own = set(inspect.signature(SWEEnv.tasks).parameters) - {"split", "count"}
    assert set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE)) == own | {"schemas"}
    for split, size in SWEEnv.splits().items():
        assert re.search(rf"`{split}`\s+{size:,}", text)
    assert all(f"`{name}`" in text for name in (*SEEN, *UNSEEN, *KINDS))
