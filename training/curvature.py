"""What an optimiser step on one token alone would do, read off the output layer: the inputs of CAPO's mask.

Shapes: B rows, T tokens, N action tokens, K likeliest tokens, H hidden size, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..agents.models import output_head
from .catalogue.stability import Moments, curvature
from .scoring import CHUNK_ELEMENTS

LIKELIEST = 32
"""Rows of the output layer that a step is followed on: those of the likeliest tokens, the sampled one among them."""


@torch.no_grad()
def action_curvature(
    model: PreTrainedModel, ids_BT: Tensor, action_BT: Tensor, adv_BT: Tensor, optimizer: torch.optim.Optimizer,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(m_H, m_F), each [B, T], 0 where `action_BT` is False: `curvature` at the optimiser's state and learning rate.

    Logits are h W / temperature, so h / temperature takes the place of h.
    """
    head, lr = output_head(model), float(optimizer.param_groups[0]["lr"])
    hidden = model.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state
    where = action_BT[:, 1:].nonzero(as_tuple=True)
    hidden_NH, token_N, adv_N = hidden[:, :-1][where], ids_BT[:, 1:][where], adv_BT[:, 1:][where].float()
    size = max(1, CHUNK_ELEMENTS // (len(head.weight) + LIKELIEST * head.weight.shape[1]))
    parts = []
    for start in range(0, len(token_N), size):
        h_NH, own_N = hidden_NH[start : start + size], token_N[start : start + size]
        prob_NV = torch.softmax(head(h_NH).float() / temperature, dim=-1)
        rows_NK = _rows(prob_NV, own_N)
        column_N = (rows_NK == own_N[:, None]).to(torch.long).argmax(1)
        moments = _moments(optimizer, head.weight, rows_NK)
        prob_NK, adv = prob_NV.gather(1, rows_NK), adv_N[start : start + size]
        parts.append(curvature(h_NH.float() / temperature, prob_NK, column_N, adv, lr, moments))
    index = (where[0], where[1] + 1)
    zeros = torch.zeros_like(adv_BT, dtype=torch.float32)
    hessian, fisher = (zeros.index_put(index, torch.cat(column)) for column in zip(*parts, strict=True))
    return hessian, fisher


def _rows(prob_NV: Tensor, token_N: Tensor) -> Tensor:
    """[N, K] the likeliest tokens of each, the last of them the sampled one where it is not among them."""
    rows_NK = prob_NV.topk(min(LIKELIEST, prob_NV.shape[1]), dim=1).indices
    absent_N = ~(rows_NK == token_N[:, None]).any(1)
    rows_NK[absent_N, -1] = token_N[absent_N]
    return rows_NK


def _moments(optimizer: torch.optim.Optimizer, weight: Tensor, rows_NK: Tensor) -> Moments | None:
    """Adam's state of these rows, the first moment negated: the optimiser descends. None before its first step."""
    state = optimizer.state.get(weight)
    if not state:
        return None
    group = next(g for g in optimizer.param_groups if any(p is weight for p in g["params"]))
    first, second = -state["exp_avg"][rows_NK].float(), state["exp_avg_sq"][rows_NK].float()
    return Moments(first, second, group["betas"], float(state["step"]), group["eps"])
