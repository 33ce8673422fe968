"""Log-probs and entropies of action tokens: the vocabulary is projected there and nowhere else.

Shapes: B rows, T tokens, N action tokens of the rows, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from ..agents.models import output_head

CHUNK_ELEMENTS = 32 * 1024 * 1024
"""Logits held at once, in elements (128 MiB in float32); larger batches go through in chunks."""


class Scores(NamedTuple):
    """Per-token readings of a policy, zero where `action` is False."""

    logp_BT: Tensor
    """float32, natural log, at the sampling temperature."""
    entropy_BT: Tensor
    """float32, of the full next-token distribution, in nats."""
    mean_logp_BT: Tensor
    """float32, mean over the vocabulary of log pi where it was asked for, else 0."""


def score_actions(
    model: PreTrainedModel,
    ids_BT: Tensor,
    action_BT: Tensor,
    temperature: float = 1.0,
    entropy_grad: bool = False,
    mean_logp: bool = False,
) -> Scores:
    """log pi(id_t | ids_<t) and H_t at action tokens, in float32 whatever the model's dtype.

    Rows are padded on the right: under a causal mask no token sees the padding, so no attention
    mask is needed. Token 0 of a row cannot be an action (nothing predicts it).

    `logp_t = z_t[id] - logsumexp(z_t)`, `H_t = logsumexp(z_t) - sum_v p_v z_v`, z = logits / temperature. The mean
    over the vocabulary, `mean_v z_v - logsumexp(z_t)`, carries no gradient.
    """
    if bool(action_BT[:, 0].any()):
        raise ValueError("expected environment tokens at the start of every row, got an action token at index 0")
    hidden_BTD = model.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state
    where = action_BT[:, 1:].nonzero(as_tuple=True)
    hidden_ND = hidden_BTD[:, :-1][where]
    target_N = ids_BT[:, 1:][where]
    head = output_head(model)
    readings = _project(head, hidden_ND, target_N, temperature, entropy_grad, mean_logp)
    index = (where[0], where[1] + 1)
    zeros = hidden_BTD.new_zeros(ids_BT.shape, dtype=torch.float32)
    return Scores(*(zeros.index_put(index, x_N) for x_N in readings))


def _project(
    head: nn.Linear, hidden_ND: Tensor, target_N: Tensor, temperature: float, entropy_grad: bool, mean_logp: bool
) -> Scores:
    size = max(1, CHUNK_ELEMENTS // head.out_features)
    if len(target_N) <= size:
        return _readings(head, hidden_ND, target_N, temperature, entropy_grad, mean_logp)
    parts = []
    for start in range(0, len(target_N), size):
        args = (
            head,
            hidden_ND[start : start + size],
            target_N[start : start + size],
            temperature,
            entropy_grad,
            mean_logp,
        )
        # Recomputing the logits in the backward pass bounds memory by one chunk.
        parts.append(checkpoint(_readings, *args, use_reentrant=False) if torch.is_grad_enabled() else _readings(*args))
    return Scores(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def _readings(
    head: nn.Module, hidden_ND: Tensor, target_N: Tensor, temperature: float, entropy_grad: bool, mean_logp: bool
) -> Scores:
    logits_NV = head(hidden_ND).float() / temperature
    lse_N = torch.logsumexp(logits_NV, dim=-1)
    logp_N = logits_NV.gather(1, target_N[:, None])[:, 0] - lse_N
    with torch.set_grad_enabled(entropy_grad and torch.is_grad_enabled()):
        p_NV = torch.exp(logits_NV - lse_N[:, None])
        entropy_N = lse_N - (p_NV * logits_NV).sum(-1)
    mean_N = logits_NV.detach().mean(-1) - lse_N.detach() if mean_logp else torch.zeros_like(lse_N)
    return Scores(logp_N, entropy_N, mean_N)


def micro_batches(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Row indices of similar length, at most `max_tokens` padded tokens each (one row at least)."""
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    batch: list[int] = []
    for index in order:
        if batch and lengths[index] * (len(batch) + 1) > max_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
