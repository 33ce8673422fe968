"""ALFWorld in small rooms: generated games, a policy from scratch, SFT then multi-turn RL."""

from __future__ import annotations

from ...agents.context import Context
from ...agents.models import ScratchModel
from ..config import EngineConfig, EnvConfig, EvalConfig, Recipe, RLConfig, SFTConfig, Stage


def alfworld_small() -> Recipe:
    """Pick-and-place in rooms never seen in training; the goal is repeated in every observation.

    Obtained with `turnwise train alfworld_small` (seed 0, 2 cores, vLLM): held-out success 40.5 % [33.9, 47.4]
    before RL, 68.5 % [61.8, 74.5] after, paired difference +28.0 points [+20.2, +35.8] on 200 games; on a
    machine that rounds otherwise 40.0 to 70.5 %, +30.5 [+22.9, +38.1]. The policy of that run on the published games,
    whose rooms are several times larger (`turnwise eval RUN --env ALFWorld --split
    official_valid_seen --tasks 35 --param task_types=pick_and_place_simple`): 20.0 % [10.0, 35.9] of 35.
    """
    return Recipe(
        name="alfworld_small",
        env=EnvConfig(
            id="turnwise/ALFWorld-v0",
            params={"task_types": "pick_and_place_simple", "receptacles": 6, "distractors": 4},
            train_tasks=3000,
            eval_tasks=200,
        ),
        context=Context(goal="every", terse=True, max_action_tokens=12, max_tokens=1024),
        model=ScratchModel(),
        # No cost per step: among episodes that all fail it would praise those that give up first (see LOG.md).
        rewards={"outcome": 1.0},
        algorithm="gigpo",
        params={"normalize": False, "beta": 0.0, "epo_lambda": 0.01, "epo_kappa_l": 0.5},
        sft=SFTConfig(demos=3000, lr=4e-3, batch_tokens=2048),
        rl=RLConfig(steps=40, tasks_per_step=12, samples_per_task=8, lr=3e-4),
        eval=EvalConfig(every=20),
        # Matrices this small gain little from a second thread, and lose tenfold when another program wants the core.
        engine=EngineConfig(kind="vllm", threads=1),
    )


def alfworld_six() -> Recipe:
    """All six task types, in rooms that grow from 5 to 8 to 12 receptacles to full ones; held out: rooms of 8, unseen.

    Obtained with `turnwise train alfworld_six` (seed 0, 2 cores, vLLM, 20 minutes beside other programs): held-out
    success 27.5 % [21.8, 34.1] before RL, 52.5 % [45.6, 59.3] after, paired difference +25.0 points [+18.3, +31.7] on
    200 games. On the 140 published games of valid_seen (`turnwise eval RUN --env ALFWorld --split official_valid_seen
    --tasks 140`) 8.6 % [5.0, 14.4]: small rooms do not carry over, and 12 steps in full ones do not change that.
    """
    return Recipe(
        name="alfworld_six",
        env=EnvConfig(
            id="turnwise/ALFWorld-v0",
            curriculum=(
                Stage(params={"receptacles": 5, "distractors": 3}, train_tasks=3000),
                Stage(params={"receptacles": 8, "distractors": 6}, train_tasks=1500),
                Stage(params={"receptacles": 12, "distractors": 10}, train_tasks=1000),
                Stage(
                    params={"receptacles": 60, "distractors": 30, "max_turns": 50}, train_tasks=1000
                ),  # all there are
            ),
            eval_params={"receptacles": 8, "distractors": 6},
            eval_tasks=200,
        ),
        context=Context(goal="every", terse=True, max_action_tokens=12, max_tokens=2048),
        model=ScratchModel(context=2048),
        rewards={"outcome": 1.0},
        algorithm="gigpo",
        params={"normalize": False, "beta": 0.0, "epo_lambda": 0.01, "epo_kappa_l": 0.5},
        sft=SFTConfig(demos=6500, lr=4e-3, batch_tokens=2048),
        rl=RLConfig(steps=48, tasks_per_step=12, samples_per_task=8, lr=3e-4),
        eval=EvalConfig(every=12),
        engine=EngineConfig(kind="vllm", threads=1),
    )
