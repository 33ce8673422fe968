"""Trajectories as records of TRL, tinker and OpenEnv: plain lists of the very ids that were seen and sampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...agents.trajectory import Row, Trajectory
from ...envs.errors import RequestError


def to_trl(trajectories: Sequence[Trajectory]) -> dict[str, list[Any]]:
    """What TRL's `rollout_func` returns, one entry per trajectory: the prompt is all that came before the first answer.

    `env_mask` is 1 on tokens of the policy; log-probs of the others are 0. `score` is a share of the maximum, None
    where the episode failed for reasons that are not the policy's. Raises `RequestError` for a trajectory of several
    rows (windowed contexts, edits), which TRL has no shape for.
    """
    found: dict[str, list[Any]] = {
        key: [] for key in ("prompt_ids", "completion_ids", "logprobs", "env_mask", "score", "success")
    }
    for trajectory in trajectories:
        rows = list(trajectory.rows())
        if len(rows) != 1:
            raise RequestError(
                f"Expected a trajectory that is one row, got {len(rows)} rows for task {trajectory.task.key}. Use a "
                "transcript context, and leave out episodes without an answer."
            )
        row = rows[0]
        first = row.action.index(True)
        found["prompt_ids"].append(row.ids[:first])
        found["completion_ids"].append(row.ids[first:])
        found["logprobs"].append(row.logprobs[first:])
        found["env_mask"].append([int(own) for own in row.action[first:]])
        found["score"].append(None if trajectory.stop.is_error else trajectory.score / trajectory.max_score)
        found["success"].append(trajectory.success)
    return found


def to_tinker(
    trajectories: Sequence[Trajectory],
    weights: Mapping[str, float] | None = None,
    algorithm: str = "grpo",
    params: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """A datum per row in the shape of tinker's: `model_input` and, as long as it, what each next token is worth.

    `target_tokens[t]` is the token after `model_input[t]`; `logprobs`, `advantages` and `mask` belong to the target and
    are 0 where the environment wrote it. Advantages are those of `algorithm` under the reward `weights` (default: 1 for
    success). Episodes that say nothing about the policy are left out.
    """
    from ..algorithms import needs, resolve
    from ..collate import encode
    from ..extract import READERS
    from ..objective import advantages

    row, values = resolve(algorithm, params)
    asked = needs(row, values)
    if unmet := sorted(asked & {"critic", "ref_logp", "entropy", "process_model", "turn_by_turn"}):
        raise RequestError(
            f"Expected an algorithm whose advantages follow from rewards alone, got {algorithm}, which needs "
            f"{', '.join(unmet)}. Use grpo, rloo or the like."
        )
    encoded = encode(trajectories, weights or {"outcome": 1.0}, sorted(asked & set(READERS)))
    adv_BT = advantages(row, values, encoded.batch).adv_BT
    found = []
    for b, length in enumerate(encoded.lengths):
        ids, own = encoded.ids[b, :length].tolist(), encoded.batch.mask[b, :length].tolist()
        logp = encoded.batch.logp_rollout
        assert logp is not None
        found.append(
            {
                "model_input": ids[:-1],
                "loss_fn_inputs": {
                    "target_tokens": ids[1:],
                    "logprobs": logp[b, 1:length].tolist(),
                    "advantages": adv_BT[b, 1:length].tolist(),
                    "mask": [float(each) for each in own[1:]],
                },
            }
        )
    return found


def to_openenv(trajectory: Trajectory) -> dict[str, Any]:
    """OpenEnv's `TrainingTrace`: one entry per answer, with its whole context; the mask covers both."""
    turns = []
    for number, row in enumerate(trajectory.rows()):
        turns += _calls(row, f"{trajectory.task.key}/{trajectory.copy_index}/{number}")
    return {"schema_version": 1, "turns": turns}


def _calls(row: Row, name: str) -> list[dict[str, Any]]:
    found = []
    for turn in sorted(set(row.turn) - {-1}):
        at = [position for position, owner in enumerate(row.turn) if owner == turn]
        start, end = at[0], at[-1] + 1
        found.append(
            {
                "node_id": f"{name}/{turn}",
                "prompt_token_ids": row.ids[:start],
                "completion_token_ids": row.ids[start:end],
                "per_token_logps": row.logprobs[start:end],
                "loss_mask": [0] * start + [1] * (end - start),
            }
        )
    return found
