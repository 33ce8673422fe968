"""The rows everybody compares with: REINFORCE to PPO, group baselines, and two of the agentic ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..batch import Batch
from ..coefficients import (
    no_ratio,
    ppo_clip,
    score_function,
    sequence_ratio,
    token_ratio,
    truncated_ratio,
)
from ..credit import (
    Rewards,
    group_in_group,
    group_relative,
    leave_one_out,
    return_to_go,
    token_gae,
    turn_gae,
    whiten_tokens,
)
from ..regularizers import value_loss
from ..slots import TERMS, Algorithm, Part


def count_steps(state: Mapping[str, Any], batch: Batch, rewards: Rewards) -> dict[str, Any]:
    """No entry of its own: with a controller the state counts steps, which schedules read."""
    return {}


ROWS = (
    Algorithm(
        "reinforce",
        "Simple statistical gradient-following algorithms (Williams, 1992)",
        "token",
        return_to_go,
        ratio=no_ratio,
        stability=score_function,
        source="Textbook: gamma 1, no baseline.",
        left_out="Running-mean baseline; one epoch per batch only, since there is no ratio.",
    ),
    Algorithm(
        "reinforce_pp",
        "REINFORCE++ (arXiv 2501.03262)",
        "token",
        return_to_go,
        modulators=(whiten_tokens,),
        needs=frozenset({"batch_stats"}),
        source="verl: clip 0.2, gamma 1, whitening over tokens. The paper's KL in reward (1e-3) is off until "
        "kl_reward_coef is set. REINFORCE++-baseline: baseline=group.",
        left_out="Running statistics across steps.",
    ),
    Algorithm(
        "rloo",
        "Back to Basics: REINFORCE style optimization, RLOO (arXiv 2402.14740)",
        "trajectory",
        leave_one_out,
        needs=frozenset({"group_complete"}),
        source="verl: clip 0.2, token mean, KL in reward (off by default here).",
        left_out="The paper's unclipped on-policy gradient equals this row with one epoch per batch.",
    ),
    Algorithm(
        "grpo",
        "DeepSeekMath, GRPO (arXiv 2402.03300)",
        "trajectory",
        group_relative,
        params={"aggregator": "seq_mean_token_mean"},
        needs=frozenset({"group_complete"}),
        source="Paper: sequence mean of token means. clip 0.2: PPO. beta 0 as in TRL (the paper used 0.04, k3). "
        "std unbiased as in verl and TRL.",
        left_out="Process-supervision variant; iterative reference updates.",
    ),
    Algorithm(
        "dr_grpo",
        "Understanding R1-Zero-like training, Dr. GRPO (arXiv 2503.20783)",
        "trajectory",
        group_relative,
        params={"normalize": False, "aggregator": "seq_sum_norm"},
        needs=frozenset({"group_complete"}),
        source="Paper: no std, constant length divisor, no KL.",
        left_out="Nothing known; set length_norm, which otherwise is the padded width.",
    ),
    Algorithm(
        "dapo",
        "DAPO (arXiv 2503.14476)",
        "trajectory",
        group_relative,
        params={"clip_high": 0.28, "dual_clip": 10.0},
        needs=frozenset({"group_complete"}),
        source="Paper: clip 0.2 / 0.28, token mean, no KL, no entropy bonus; dual clip 10: the authors' recipe.",
        left_out="Dynamic sampling is the collector's (`credit.informative_groups` says which groups to keep); the "
        "overlong penalty is off until overlong_max is set (paper: 20480, cache 4096).",
    ),
    Algorithm(
        "gspo",
        "Group Sequence Policy Optimization (arXiv 2507.18071)",
        "trajectory",
        group_relative,
        ratio=sequence_ratio,
        params={"clip_low": 3e-4, "clip_high": 4e-4, "aggregator": "seq_mean_token_mean"},
        needs=frozenset({"group_complete", "unit_complete"}),
        source="Paper: clip 3e-4 / 4e-4.",
        left_out="GSPO-token (separate advantages per token) gives the same gradient where they are equal.",
    ),
    Algorithm(
        "cispo",
        "MiniMax-M1, CISPO (arXiv 2506.13585)",
        "trajectory",
        group_relative,
        stability=truncated_ratio,
        needs=frozenset({"group_complete"}),
        source="Upper bound 5 on the ratio: ScaleRL recipe in TRL. No lower bound: paper.",
        left_out="Nothing known.",
    ),
    Algorithm(
        "ppo",
        "Proximal Policy Optimization (arXiv 1707.06347); multi-turn GAE: arXiv 2510.01132",
        "token",
        token_gae,
        modulators=(whiten_tokens,),
        terms=(*TERMS, value_loss),
        needs=frozenset({"critic", "batch_stats"}),
        source="clip 0.2, value clip 0.2, lambda 0.95: PPO; gamma 1: language-model practice.",
        left_out="Value warm-up is the trainer's. KL in reward (1e-3) is off until kl_reward_coef is set.",
    ),
    Algorithm(
        "ppo_turn",
        "RAGEN, bi-level GAE (arXiv 2504.20073)",
        "turn",
        turn_gae,
        modulators=(whiten_tokens,),
        terms=(*TERMS, value_loss),
        needs=frozenset({"critic", "batch_stats"}),
        source="gamma_turn 0.95: RAGEN's documentation; the rest as ppo.",
        left_out="Turn ends come from turn ids; RAGEN's code finds them by nonzero reward.",
    ),
    Algorithm(
        "gigpo",
        "Group-in-Group Policy Optimization (arXiv 2505.10978)",
        "turn",
        group_in_group,
        params={"beta": 0.01},
        needs=frozenset({"group_complete", "anchors"}),
        source="Authors' ALFWorld script: gamma 0.95, omega 1, clip 0.2, KL 0.01 (k3), invalid penalty 0.1, std.",
        left_out="Similarity matching of observations (exact text only). Episode statistics count trajectories as "
        "in the paper; stats_unit=turn counts rows as the authors' code does.",
    ),
    Algorithm(
        "epo_entropy",
        "EPO: Entropy-regularized Policy Optimization for LLM Agents (arXiv 2509.22576 v2)",
        "trajectory",
        group_relative,
        params={"aggregator": "seq_mean_token_mean", "beta": 0.01, "epo_lambda": 0.001},
        needs=frozenset({"group_complete"}),
        source="Paper, tables 2 and 3, ALFWorld: lambda 0.001, kappa 0 / 2, gamma 3, alpha 0.1 (ScienceWorld "
        "0.05), KL 0.01 (k3), clip 0.2, 150 steps.",
        left_out="v1's indicator penalty, which has no gradient. Any row takes the regulariser: set epo_lambda.",
    ),
)

PARTS = (
    Part("return_to_go", "estimator", return_to_go, unit="token"),
    Part("leave_one_out", "estimator", leave_one_out, needs=frozenset({"group_complete"})),
    Part("group_relative", "estimator", group_relative, needs=frozenset({"group_complete"})),
    Part("group_in_group", "estimator", group_in_group, unit="turn", needs=frozenset({"group_complete", "anchors"})),
    Part("token_gae", "estimator", token_gae, unit="token", needs=frozenset({"critic"})),
    Part("turn_gae", "estimator", turn_gae, unit="turn", needs=frozenset({"critic"})),
    Part("whiten_tokens", "modulators", whiten_tokens, unit="token", needs=frozenset({"batch_stats"})),
    Part("token_ratio", "ratio", token_ratio, unit="token"),
    Part("sequence_ratio", "ratio", sequence_ratio, needs=frozenset({"unit_complete"})),
    Part("no_ratio", "ratio", no_ratio, unit="token"),
    Part("ppo_clip", "stability", ppo_clip, unit="token"),
    Part("truncated_ratio", "stability", truncated_ratio, unit="token"),
    Part("score_function", "stability", score_function, unit="token"),
    Part("count_steps", "controllers", count_steps),
)
