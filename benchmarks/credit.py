"""What credit, weights and coefficients cost beside the forward pass of the demo's policy on the same rows.

    python benchmarks/credit.py [--rows 4096] [--tokens 1024] [--algorithms grpo,gigpo,...] [--repeats 3] [--out FILE]

The batch is `rows` transcripts of `tokens` tokens in groups of 8, a tenth of them action tokens in turns of 6. For each
algorithm: advantages + loss weights + coefficients of the whole batch against one gradient-free forward pass (hidden
states, vocabulary at action tokens) of the same rows. The forward pass is timed on a share of the rows and scaled up,
because all of them take minutes on a CPU; goal: at most 5 %.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from functools import partial
from pathlib import Path
from typing import Any

GOAL = 0.05
TURN_TOKENS, ENV_TOKENS = 6, 54
FORWARD_ROWS = 64
DEFAULT = "grpo,rloo,gspo,ppo,ppo_turn,gigpo,epo_entropy"


def main() -> None:
    """Measure, print a line per algorithm, write the JSON."""
    options = _options()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # before torch is imported
    import torch
    from measure import interleave, load_average, machine, merge_json, table, time_of, timing_ratios
    from turnwise.agents.models import ScratchModel
    from turnwise.training import algorithms, objective

    torch.set_num_threads(options.threads)
    batch, ids = make_batch(options.rows, options.tokens)
    forward = forward_pass(ids, batch.mask, ScratchModel())

    def credit(name: str) -> Any:
        algorithm, params = algorithms.resolve(name)

        def run() -> None:
            fresh = dataclasses.replace(batch)  # without the indices that an earlier round has cached
            got = objective.advantages(algorithm, params, fresh)
            objective.loss_weights(algorithm, params, fresh, got.weight_BT)
            objective.coefficient(algorithm, params, fresh, got.adv_BT, batch.logp_old)

        return run

    contenders = {"forward": lambda: time_of(forward)}
    contenders |= {name: partial(time_of, credit(name)) for name in options.algorithms}
    before, timings = load_average(), interleave(contenders, options.repeats)
    share = min(1.0, FORWARD_ROWS / options.rows)
    whole = [scaled(t, 1 / share) for t in timings["forward"]]
    results = {name: timing_ratios(timings[name], whole) for name in options.algorithms}
    for name, found in results.items():
        print(f"{name:14} {100 * found['ratio_cpu']['median']:6.2f} % of the forward pass's processor time (goal 5 %)")
    conditions = {
        "rows": options.rows, "tokens": options.tokens, "forward_rows": FORWARD_ROWS, "threads": options.threads,
        "load_average_before": before, "load_average_after": load_average(), **machine(),
    }  # fmt: skip
    merge_json(options.out, {"credit": {"conditions": conditions, "results": results, "seconds": table(timings)}})


def make_batch(rows: int, tokens: int) -> tuple[Any, Any]:
    """(batch with every input that on-policy rows need, token ids)."""
    import torch
    from turnwise.training.batch import Batch

    torch.manual_seed(0)
    position = torch.arange(tokens).expand(rows, -1)
    in_turn = position % (TURN_TOKENS + ENV_TOKENS)
    mask = in_turn >= ENV_TOKENS
    turn = torch.where(mask, position // (TURN_TOKENS + ENV_TOKENS), -1)
    turns = int(turn.max()) + 1
    logp = -torch.rand(rows, tokens)
    anchors = torch.randint(12, (rows, turns)).tolist()
    batch = Batch(
        group=torch.arange(rows) // 8, trajectory=torch.arange(rows), mask=mask, turn=turn,
        rewards=torch.randint(2, (rows, 1)).float(), logp_old=logp, logp_rollout=logp, logp_ref=logp - 0.01,
        entropy=torch.rand(rows, tokens), values=torch.rand(rows, tokens),
        anchors=[[str(a) for a in row] for row in anchors],
    )  # fmt: skip
    return batch.validate(), torch.randint(6, 200, (rows, tokens))


def forward_pass(ids: Any, mask: Any, sizes: Any) -> Any:
    """The demo policy's reading of the first rows, in passes of 4,096 tokens as the trainer makes them."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM
    from turnwise.training.scoring import micro_batches, score_actions

    config = Qwen3Config(
        vocab_size=250, hidden_size=sizes.hidden, intermediate_size=sizes.ffn, num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads, num_key_value_heads=sizes.kv_heads, head_dim=sizes.hidden // sizes.heads,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config).eval()
    count, width = min(FORWARD_ROWS, len(ids)), ids.shape[1]

    def run() -> None:
        with torch.no_grad():
            for micro in micro_batches([width] * count, 4096):
                score_actions(model, ids[micro], mask[micro])

    return run


def scaled(timing: Any, factor: float) -> Any:
    """A timing scaled up."""
    return type(timing)(timing.wall * factor, timing.cpu * factor)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--algorithms", type=lambda text: text.split(","), default=DEFAULT.split(","))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "credit.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
