"""State values for actor-critic rows."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


class Critic(nn.Module):
    """State values from an own copy of the policy's backbone and a linear head that starts at zero."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(model.base_model)
        self.head = nn.Linear(model.config.get_text_config().hidden_size, 1, device=model.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, ids_BT: Tensor) -> Tensor:
        """`[B, T + 1]` values in float32: entry t is that of the state before token t, the last that after all."""
        hidden = self.backbone(input_ids=ids_BT, use_cache=False).last_hidden_state
        after = self.head(hidden)[..., 0].float()
        return torch.cat([after.new_zeros(len(after), 1), after], dim=1)
