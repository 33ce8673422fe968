"""The command line: shapes of --json, exit codes, one clear message for every wrong request."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest
from rich.console import Console
from turnwise import __version__
from turnwise.envs import registry
from turnwise.training import checkpoint, cli, doctor, terminal
from turnwise.training.algorithms import ALGORITHMS
from turnwise.training.run import Run

SMALL = [
    "sft.demos=16", "sft.epochs=1", "rl.steps=2", "rl.tasks_per_step=2", "rl.samples_per_task=2",
    "env.train_tasks=20", "env.eval_tasks=6", "engine.threads=1", "checkpoint_every=1",
]  # fmt: skip


class Done(NamedTuple):
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def turnwise(*args: str | Path, stdin: str = "") -> Done:
    """Run the real entry point in this process."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with (
        mock.patch.object(sys, "argv", ["turnwise", *map(str, args)]),
        mock.patch.object(sys, "stdin", io.StringIO(stdin)),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return Done(code, out.getvalue(), err.getvalue())


def settings(*extra: str) -> list[str]:
    return [part for setting in (*SMALL, *extra) for part in ("--set", setting)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    folder = tmp_path_factory.mktemp("runs") / "toy"
    return folder, turnwise("train", "toy", *settings(), "--out", folder, "--json")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(done: Done, *parts: str) -> None:
    """Exit code 2, nothing on stdout, one line that says everything in `parts`."""
    lines = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert done.code == 2, done
    assert done.out == ""
    assert len(lines) == 1 and done.err.endswith(lines[0] + "\n") and "Traceback" not in done.err
    for part in parts:
        assert part in lines[0]


# ---- shapes -------------------------------------------------------------------------------------------


def test_the_installed_command_prints_only_json_on_stdout() -> None:
    command = Path(sys.executable).with_name("turnwise")
    start = [str(command)] if command.exists() else [sys.executable, "-m", "turnwise.training.cli"]
    done = subprocess.run([*start, "envs", "--json"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and isinstance(json.loads(done.stdout), list)
    assert subprocess.run([*start, "--version"], capture_output=True, text=True).stdout == __version__ + "\n"


def test_envs() -> None:
    rows = turnwise("envs", "--json").json
    assert [row["id"] for row in rows] == sorted(registry.specs())
    toy = next(row for row in rows if row["id"] == "turnwise/Toy-v0")
    assert toy["splits"] == {"train": 1000, "validation": 100, "test": 200}
    assert toy["available"] is True and toy["reason"] == ""
    table = turnwise("envs")
    assert table.code == 0 and all(row["id"] in table.out for row in rows)


def test_envs_says_which_data_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("alfworld")
    for name in ("ALFWORLD_DATA", "TURNWISE_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "alfworld-download" in turnwise("envs").out
    row = next(row for row in turnwise("envs", "--json").json if row["id"] == "turnwise/ALFWorld-v0")
    assert "official_valid_unseen (134 games)" in row["missing"] and row["available"]


def test_an_environment_that_cannot_run_here_says_why_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = registry.EnvSpec("turnwise/Gone-v0", "nowhere:Gone", "x", ("no_such_module",), "gone")
    monkeypatch.setitem(registry._SPECS, missing.id, missing)
    row = next(row for row in turnwise("envs", "--json").json if row["id"] == missing.id)
    assert row["available"] is False and row["splits"] == {}
    assert "no_such_module" in row["reason"] and "turnwise[gone]" in row["reason"]
    # rich would swallow [gone] as a style
    assert "turnwise[gone]" in "".join(line.strip() for line in turnwise("envs").out.splitlines()).replace(" ", "")
    refused(turnwise("check", missing.id), "no_such_module", "pip install 'turnwise[gone]'")
    program = registry.EnvSpec("turnwise/Gone-v0", "nowhere:Gone", "x", programs=("no_such_program",))
    monkeypatch.setitem(registry._SPECS, missing.id, program)
    row = next(row for row in turnwise("envs", "--json").json if row["id"] == missing.id)
    assert row["available"] is False and "no_such_program" in row["reason"] and "turnwise doctor" in row["reason"]
    refused(turnwise("check", missing.id), "needs the program no_such_program")


def test_algorithms() -> None:
    rows = turnwise("algorithms", "--json").json
    names = [row["name"] for row in rows]
    assert names[: len(ALGORITHMS)] == sorted(ALGORITHMS) and len(set(names)) == len(names)
    assert [row["name"] for row in rows if row["kind"] == "part"] == names[len(ALGORITHMS) :]
    for row in rows:
        assert {"name", "slots", "paper", "needs", "unit", "params"} <= set(row)
        ratio_family = {"advantage", "ratio", "stability", "aggregator"} <= set(row["slots"])
        assert ratio_family or "coef" in row["slots"] or (row["kind"] == "part" and len(row["slots"]) == 1)
        assert isinstance(row["needs"], list) and row["unit"] in ("token", "turn", "trajectory")
    dapo = next(row for row in rows if row["name"] == "dapo")
    assert (dapo["params"]["clip_low"], dapo["params"]["clip_high"]) == (0.2, 0.28)
    text = turnwise("algorithms").out
    assert all(name in text for name in ALGORITHMS) and "2503.14476" in text


def test_check() -> None:
    done = turnwise("check", "Toy", "--tasks", "1", "--json")
    assert done.code == 0 and done.json["env"] == "turnwise/Toy-v0"
    assert all(check["ok"] for check in done.json["checks"]) and len(done.json["checks"]) == 12


def test_check_of_a_broken_promise_exits_1(monkeypatch: pytest.MonkeyPatch) -> None:
    from turnwise.envs import check

    async def broken(bench: object) -> list[str]:
        """A promise."""
        return ["[bold]not[/] kept"]

    monkeypatch.setattr(check, "PROMISES", {"promise": broken})
    done = turnwise("check", "Toy", "--tasks", "1")
    assert done.code == 1 and "[bold]not[/] kept" in done.out
    assert turnwise("check", "Toy", "--tasks", "1", "--json").code == 1


def test_coef(here: Path) -> None:
    Path("f.json").write_text(json.dumps({"rewards": [1, 0], "mask": [[1, 1], [1, 0]], "params": {"normalize": False}}))
    found = turnwise("coef", "grpo", "--fixture", "f.json").json
    # mean 0.5: advantages ±0.5 on action tokens; at ratio 1 the coefficient is the advantage and the loss is 0
    assert found["advantage"] == [[0.5, 0.5], [-0.5, 0.0]] == found["coef"]
    assert found["mask"] == [[1, 1], [1, 0]] and found["loss"] == pytest.approx(0.0)
    assert set(found) == {"advantage", "mask", "coef", "loss", "terms", "state"}
    assert turnwise("coef", "grpo", "--fixture", "f.json", "--json").json == found


def test_play_by_an_expert_and_by_a_person() -> None:
    done = turnwise("play", "Toy", "--agent", "expert", "--param", "rooms=2")
    assert done.code == 0 and "success after 2 turns, score 2 of 2" in done.out
    key = done.out.split("task ")[1].strip()
    again = turnwise("play", "Toy", "--agent", "random", "--task", key, "--param", "rooms=2", "--json")
    assert again.json["task"]["seed"] == 0 and again.json["stop"] in ("success", "turn_limit")
    person = turnwise("play", "Toy", stdin="?\nopen [red] door\n\n")
    assert person.code == 0 and "open green door" in person.out, "? lists the commands"
    assert "Nothing happens." in person.out and "aborted after 1 turns" in person.out


def test_train_prints_json_on_stdout_and_progress_on_stderr(trained: tuple[Path, Done]) -> None:
    folder, done = trained
    assert done.code == 0, done.err
    assert done.json["run"] == str(folder)
    for part in ("before", "after", "difference"):
        assert set(done.json[part]) == {"mean", "low", "high", "tasks"} and done.json[part]["tasks"] == 6
    assert "step 2 of 2" in done.err and "held-out after step 2" in done.err


def test_eval_of_scripts_and_of_a_run(trained: tuple[Path, Done]) -> None:
    expert = turnwise("eval", "expert", "--env", "Toy", "--tasks", "4", "--json").json
    assert {"env", "split", "tasks", "trials", "success", "by_stop_reason", "cost"} < set(expert)
    assert expert["success"]["mean"] == expert["success"]["high"] == 1.0
    # Wilson with n = 4: n / (n + z²)
    assert expert["success"]["low"] == pytest.approx(4 / (4 + 1.959964**2), abs=1e-6)
    assert turnwise("eval", "empty", "--env", "Toy", "--tasks", "4", "--json").json["by_stop_reason"] == {
        "turn_limit": 4
    }
    run = turnwise("eval", trained[0], "--trials", "2", "--json").json
    assert (run["env"], run["split"], run["tasks"], run["trials"]) == ("turnwise/Toy-v0", "test", 6, 2)
    assert sum(run["by_stop_reason"].values()) == 12 == run["cost"]["episodes"] and run["cost"]["policy_tokens"] > 0
    assert "over 100 tasks" in turnwise("eval", "expert", "--env", "Toy").out


def test_a_greedy_evaluation_of_the_run_repeats_its_own(trained: tuple[Path, Done]) -> None:
    folder, done = trained
    again = turnwise("eval", folder, "--json").json["success"]
    assert {name: again[name] for name in ("mean", "low", "high")} == {
        name: done.json["after"][name] for name in ("mean", "low", "high")
    }


def test_report_is_one_file_without_network(trained: tuple[Path, Done]) -> None:
    path = Path(turnwise("report", trained[0]).out.strip())
    assert turnwise("report", trained[0], "--json").json == {"report": str(path)}
    html = path.read_text()
    own = html.split("</script>", 1)[1]  # plotly's own text names its website
    assert "https://" not in own and 'src="http' not in html and "<link" not in html
    assert "Held-out success, 95 % interval over tasks" in html and "log-prob" in html
    assert '"held_out_tasks"' in html.replace("&#34;", '"')


# ---- wrong requests -----------------------------------------------------------------------------------

WRONG = {
    "unknown environment": (["check", "turnwise/Toi-v0"], ["'turnwise/Toi-v0'", "Did you mean 'turnwise/Toy-v0'"]),
    "unknown short name": (["eval", "expert", "--env", "Toi"], ["Did you mean 'turnwise/Toy-v0'"]),
    "unknown recipe": (["train", "toi"], ["recipe 'toi'", "Did you mean 'toy'"]),
    "recipe module": (["train", "no_such_module:f"], ["no_such_module"]),
    "recipe key": (["train", "toy", "--set", "rl.stepz=3"], ["'rl.stepz'", "Did you mean 'rl.steps'"]),
    "recipe value": (["train", "toy", "--set", "rl.steps=-1"], ["rl.steps", "-1"]),
    "set syntax": (["train", "toy", "--set", "rl.steps"], ["key=value", "'rl.steps'"]),
    "set without key": (["train", "toy", "--set", "=3"], ["key=value"]),
    "contradiction": (["train", "toy", "--set", "algorithm=rloo", "--set", "rl.samples_per_task=1"], [">= 2 for rloo"]),
    "rewards": (["train", "toy", "--set", "rewards.step_cost=9"], ["could score as much as a success"]),
    "no recipe": (["train"], ["recipe or --resume", "neither"]),
    "recipe and resume": (["train", "toy", "--resume", "."], ["got both"]),
    "resume with set": (["train", "--resume", ".", "--set", "seed=1"], ["--set cannot change"]),
    "resume nothing": (["train", "--resume", "nowhere"], ["run folder", "'nowhere'"]),
    "report nothing": (["report", "nowhere"], ["run folder", "'nowhere'"]),
    "split": (["eval", "expert", "--env", "Toy", "--split", "tset"], ["'tset'", "Did you mean 'test'"]),
    "target": (["eval", "nowhere", "--env", "Toy"], ["'nowhere'", "expert", "run folder", "hub id"]),
    "target path": (["eval", "/no/such/run", "--env", "Toy"], ["'/no/such/run'", "run folder"]),
    "empty model folder": (["eval", ".", "--env", "Toy"], ["config.json", "'.'"]),
    "no environment": (["eval", "expert"], ["--env", "'expert'"]),
    "engine": (["eval", "expert", "--env", "Toy", "--param", "rooms"], ["key=value"]),
    "play target": (["play", "Toy", "--agent", "nobody"], ["'nobody'"]),
    "play task": (["play", "Toy", "--task", "0123"], ["No task '0123'"]),
    "algorithm": (["coef", "grppo", "--fixture", "good.json"], ["'grppo'", "Did you mean 'grpo'"]),
    "no fixture": (["coef", "grpo", "--fixture", "nothing.json"], ["'nothing.json'", "No such file"]),
    "fixture is a folder": (["coef", "grpo", "--fixture", "."], ["Cannot read"]),
    "bad JSON": (["coef", "grpo", "--fixture", "bad.json"], ["Expected JSON", "line 1"]),
    "not text": (["coef", "grpo", "--fixture", "bytes.json"], ["Expected JSON"]),
    "wrong shapes": (["coef", "grpo", "--fixture", "shapes.json"], ["rewards of shape [1], got [2]"]),
    "fixture key": (["coef", "grpo", "--fixture", "key.json"], ["'logps'", "Did you mean 'logp'"]),
    "existing output": (["train", "toy", "--out", "full"], ["full is not empty", "--resume"]),
    "output is a file": (["train", "toy", "--out", "good.json"], ["'good.json'", "Not a directory"]),
    "output in a file": (["train", "toy", "--out", "good.json/run"], ["Not a directory"]),
}


@pytest.mark.parametrize("name", sorted(WRONG))
def test_a_wrong_request_gets_one_clear_message_and_exit_code_2(name: str, here: Path) -> None:
    Path("good.json").write_text('{"rewards": [1, 0]}')
    Path("bad.json").write_text('{"rewards": [1, 0')
    Path("bytes.json").write_bytes(b"\xe5\xff\x00")
    Path("shapes.json").write_text('{"rewards": [1, 0], "logp": [[0.1]]}')
    Path("key.json").write_text('{"rewards": [1, 0], "logps": [[0.1]]}')
    Path("full").mkdir()
    Path("full/notes.txt").write_text("mine")
    before = sorted(here.rglob("*"))
    args, parts = WRONG[name]
    refused(turnwise(*args), *parts)
    assert sorted(here.rglob("*")) == before, "nothing was started"


def test_a_message_is_printed_as_it_is_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(terminal, "err", Console(file=screen, force_terminal=True, color_system=None))
    with pytest.raises(SystemExit):
        terminal.fail("Expected logp [B][T], got [/red].", 2)
    assert "Expected logp [B][T], got [/red]." in screen.getvalue()


def test_usage_errors_exit_2() -> None:
    for args in (["nonsense"], ["train", "--nonsense"], ["eval", "expert", "--trials", "0"], []):
        assert turnwise(*args).code == 2


def test_a_run_without_its_checkpoints_says_so(trained: tuple[Path, Done], tmp_path: Path) -> None:
    Run.create(tmp_path / "bare", Run.open(trained[0]).card).close()
    refused(turnwise("eval", tmp_path / "bare"), "No checkpoint")
    refused(turnwise("report", tmp_path / "bare"), "recorded nothing yet")


# ---- the disk, Ctrl-C, failures -----------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    try:
        mounted = os.geteuid() == 0 and subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("needs the right to mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_ends_the_run_with_one_message_and_it_resumes(small_disk: Path, trained: tuple[Path, Done]) -> None:
    folder = small_disk / "run"
    refused(turnwise("train", "toy", *settings(), "--out", folder), "space", "--resume")
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    done = turnwise("train", "--resume", folder, "--json")
    assert done.code == 0, done.err
    assert done.json["after"] == trained[1].json["after"]


def test_a_failed_write_of_a_checkpoint_leaves_the_run_resumable(
    tmp_path: Path, trained: tuple[Path, Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, honest, calls = tmp_path / "run", checkpoint.save_file, []

    def full(tensors: Any, path: Any, *args: Any) -> None:
        calls.append(path)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        honest(tensors, path, *args)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        refused(turnwise("train", "toy", *settings(), "--out", folder), "space", f"--resume {folder}")
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-0"]
    done = turnwise("train", "--resume", folder, "--json")
    assert done.code == 0 and done.json["after"] == trained[1].json["after"]


@pytest.mark.parametrize(
    ("error", "code", "part"),
    [
        (sqlite3.OperationalError("database or disk is full"), 2, "No space left"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), 2, "No space left"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "No space left"),
        (PermissionError(errno.EACCES, "Permission denied", "/locked"), 2, "'/locked': Permission denied"),
    ],
)
def test_trouble_with_the_disk_is_told_apart(
    error: Exception, code: int, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "specs", mock.Mock(side_effect=error))
    done = turnwise("envs", "--json")
    assert done.code == code and part in done.err


def test_a_bug_is_not_dressed_up_as_the_users_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "specs", mock.Mock(side_effect=KeyError("bug")))
    with pytest.raises(KeyError):
        turnwise("envs")


def test_ctrl_c_ends_with_one_message_and_the_run_resumes(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "turnwise.training.cli", "train", "toy", "--out", str(folder)]
    process = subprocess.Popen(
        [*command, *settings("rl.steps=400")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (folder / "checkpoints" / "step-2").is_dir():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and out == ""
    assert err.splitlines()[-1].startswith("error: Interrupted.") and "Traceback" not in err
    card = json.loads((folder / "card.json").read_text())
    card["recipe"]["rl"]["steps"] = Run.open(folder).latest()[0]
    (folder / "card.json").write_text(json.dumps(card))
    assert turnwise("train", "--resume", folder, "--json").code == 0


# ---- doctor -------------------------------------------------------------------------------------------


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A machine without a GPU on which imports fail as this says (module -> last line on stderr)."""
    broken: dict[str, str] = {}

    def run(code: str) -> subprocess.CompletedProcess[str]:
        problem = next(
            (text for name, text in broken.items() if f"import {name}" in code or f"from {name}" in code), ""
        )
        return subprocess.CompletedProcess([], 1 if problem else 0, "", f"Traceback\n{problem}")

    monkeypatch.setattr(doctor, "_run", run)
    monkeypatch.setattr(doctor, "_has_gpu", lambda: False)
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "vllm" else "1.0")
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None if name not in broken else object())
    return broken


def test_doctor_on_a_sound_machine(machine: dict[str, str]) -> None:
    done = turnwise("doctor", "--json")
    assert done.code == 0
    assert all(set(finding) == {"level", "part", "state", "cure"} for finding in done.json)
    assert {f["level"] for f in done.json} <= {"ok", "missing"}


def test_doctor_names_the_trap_and_its_cure(machine: dict[str, str]) -> None:
    machine["torchvision"] = "RuntimeError: operator torchvision::nms does not exist"
    done = turnwise("doctor", "--json")
    (found,) = [finding for finding in done.json if finding["level"] == "broken"]
    assert done.code == 1 and found["part"] == "torchvision" and "nms" in found["state"]
    assert found["cure"].endswith("-m pip uninstall -y torchvision")


def test_doctor_shows_extras_in_the_table(machine: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: None if name in ("vllm", "textworld") else "1.0")
    monkeypatch.setattr(cli, "out", Console(width=200))
    assert "'turnwise[textworld]'" in turnwise("doctor").out


def test_doctor_survives_an_import_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "TIMEOUT_S", 0.05)
    assert "did not end" in doctor._import_error("time", "import time; time.sleep(60)")
