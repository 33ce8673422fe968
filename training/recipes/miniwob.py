"""Small web tasks in a real browser, learned from the accessibility tree of their pages."""

from __future__ import annotations

from ...agents.context import Context
from ...agents.models import ScratchModel
from ..config import EngineConfig, EnvConfig, EvalConfig, Recipe, RLConfig, SFTConfig

NAMES = ("click-button-sequence", "click-collapsible", "click-dialog", "click-dialog-2", "click-menu-2", "click-tab",
         "click-test-2", "click-widget", "focus-text-2", "unicode-test")  # fmt: skip
"""Buttons, tabs, dialogs, menus and fields, named by words that occur again; others name them by random letters."""


def miniwob_small() -> Recipe:
    """Ten of MiniWoB++'s tasks in Chromium; imitates random clicks, so what it can do it has from RL.

    Obtained with `turnwise train miniwob_small` (seed 0, 2 cores, torch engine, 17 minutes): held-out success 21.0 %
    [14.2, 30.0] before RL, 52.0 % [42.3, 61.5] after, paired difference +31.0 points [+21.4, +40.6] on 100 tasks, ten
    seeds of each name that training does not have. It learns to open a section and submit, and to close dialogs (0 to
    10 of 10 each); where a word of the instruction has to be found on the page it learns little (menus 0 of 10, tabs
    3), for 6,400 episodes are few to learn copying from nothing.
    """
    return Recipe(
        name="miniwob_small",
        env=EnvConfig(
            id="turnwise/MiniWoB-v0", params={"names": list(NAMES), "max_turns": 6}, train_tasks=1000, eval_tasks=100
        ),
        context=Context(goal="never", max_action_tokens=8, max_tokens=2048),
        model=ScratchModel(vocabulary=1500, context=2048),
        rewards={"outcome": 1.0},
        algorithm="gigpo",
        params={
            "normalize": False, "beta": 0.0, "epo_lambda": 0.01, "epo_kappa_l": 0.5, "entropy_coef": 0.01,
        },
        sft=SFTConfig(demos=200, agent="random", lr=2e-3, batch_tokens=2048),
        rl=RLConfig(steps=40, tasks_per_step=20, samples_per_task=8, lr=6e-4),
        eval=EvalConfig(every=20),
        engine=EngineConfig(threads=1),
    )  # fmt: skip
