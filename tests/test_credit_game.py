"""Two turns of which only the first matters: do the agentic rows find it, and faster than plain GRPO?

`pytest -m slow -s tests/test_credit_game.py` prints the study's table.
"""

from __future__ import annotations

import random
from pathlib import Path
from statistics import mean, stdev
from typing import Any, ClassVar

import pytest
from scipy.stats import t as student
from turnwise.envs.core import State
from turnwise.envs.registry import register
from turnwise.envs.task import Task
from turnwise.envs.toy import ToyEnv
from turnwise.training import recipes, trainer
from turnwise.training.config import override
from turnwise.training.run import Run

ROWS = ("grpo", "epo_entropy", "gigpo", "empg", "seeupo", "r3l", "r3l_retries")
RETRIES: dict[str, Any] = {
    "algorithm": "r3l", "rl.augmentor": "reflect_retry", "rl.collect_params": {"retry_by": "rule"},
}  # fmt: skip
"""Half of a group are retries of lost episodes from the first turn that earned nothing."""
BAR = 0.9
"""A policy that ignores the first sign wins half of the tasks."""
ID = "credittest/Gates-v0"
COLOURS = ("red", "green")


class Gates(ToyEnv):
    """The first door decides and nothing tells; the second sign and door are for show. The end says who won."""

    id: ClassVar[str] = ID

    def start(self, task: Task) -> State:
        rng = random.Random(task.seed)
        self.max_score, self._signs, self._opened, self._right = 1.0, rng.choices(COLOURS, k=2), 0, False
        return State(f"A gate. The sign says {self._signs[0]}.", commands=self._commands())

    def act(self, action: str) -> State:
        self._opened += 1
        if self._opened == 1:
            self._right = action == self.expert_door(0)
            return State(f"A hall. The sign says {self._signs[1]}.", commands=self._commands())
        return State("The end.", float(self._right), self._right, failure=not self._right, commands=())

    @staticmethod
    def _commands() -> tuple[str, ...]:
        return tuple(f"open {colour} door" for colour in COLOURS)

    def expert_door(self, turn: int) -> str:
        return f"open {self._signs[turn]} door"

    def expert(self) -> str:
        return self.expert_door(min(self._opened, 1))

    def clone_state(self) -> tuple[Any, ...]:
        return tuple(self._signs), self._opened, self._right

    def restore_state(self, clone: tuple[Any, ...]) -> bool:
        self._signs, self._opened, self._right = list(clone[0]), clone[1], clone[2]
        return True


@pytest.fixture(scope="module", autouse=True)
def registered() -> None:
    register(ID, f"{__name__}:Gates")


def play(name: str, seed: int, steps: int, folder: Path) -> tuple[float, float, float]:
    """(success before, after, mean over the steps of training success) of one run.

    All rows get the same entropy bonus: without one they lock in on a colour before they have tried the other there.
    """
    settings = {
        "env.id": ID, "env.params": {"rooms": 2, "slack": 0}, "algorithm": name, "rl.steps": steps, "seed": seed,
        "engine.threads": 1, "checkpoint_every": 100,
        "params.epo_steps": steps, "params.entropy_coef": 0.02, "rl.lr": 1e-3,
    } | (RETRIES if name == "r3l_retries" else {})  # fmt: skip
    outcome = trainer.train(override(recipes.load("toy"), settings), folder)
    curve = [value for _, value in Run.open(folder).metrics()["success"]]
    return outcome.before.mean, outcome.after.mean, mean(curve)


def test_only_the_first_turn_matters() -> None:
    (task,) = Gates.tasks("test", 1, rooms=2)
    env = Gates()
    for first_right in (True, False):
        for second in COLOURS:
            env.reset(options={"task": task})
            wrong = next(c for c in COLOURS if c != env._signs[0])
            env.step(f"open {env._signs[0] if first_right else wrong} door")
            *_, done, _, info = env.step(f"open {second} door")
            assert done and info["success"] == first_right


@pytest.mark.parametrize("name", ROWS)
def test_every_row_finds_the_turn_that_matters(name: str, tmp_path: Path) -> None:
    before, after, _ = play(name, 0, 25, tmp_path / "run")
    assert before < 0.7 and after >= BAR


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_study_of_five_seeds(tmp_path: Path) -> None:
    """Success after 12 steps and the mean over them, 95 % t-intervals over 5 seeds."""
    seeds, steps = range(5), 12
    print(f"\n{'row':<12} {'after 12 steps':>22} {'mean over steps':>22} {'minus grpo, paired':>24}")
    base: list[float] = []
    for name in ROWS:
        runs = [play(name, seed, steps, tmp_path / f"{name}-{seed}") for seed in seeds]
        after, curve = [run[1] for run in runs], [run[2] for run in runs]
        base = base or curve
        gain = [x - y for x, y in zip(curve, base, strict=True)]
        print(f"{name:<12} {spell(after):>22} {spell(curve):>22} {spell(gain):>24}", flush=True)
        assert mean(after) > mean(run[0] for run in runs)


def spell(values: list[float]) -> str:
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return f"{100 * mean(values):5.1f} ± {100 * half:4.1f} %"
