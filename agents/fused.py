"""Qwen3's forward pass in fewer operations, for sampling: at one token per row their number is the cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from .kv_cache import SlotCache

if TYPE_CHECKING:
    from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer, Qwen3Model


class _Layer(NamedTuple):
    """Weights of one layer, matrices of products with the same input joined."""

    norm_in: Tensor
    qkv: Tensor
    """`[(heads + 2 kv_heads) * head_dim, d]`"""
    norm_q: Tensor
    norm_k: Tensor
    out: Tensor
    norm_mlp: Tensor
    gate_up: Tensor
    """`[2 * ffn, d]`"""
    down: Tensor


class FusedQwen3:
    """The base model of a Qwen3 policy, the same numbers as the library's own forward pass.

    Joins the matrices of `q, k, v` and of `gate, up` and makes the model's parameters views of them: no memory is
    added, and a weight reload in place reaches both. Source of the architecture: Qwen3 technical report, arXiv
    2505.09388; what is left out (sliding windows, biases) makes `fits` False.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        config = model.config
        self.heads, self.kv_heads, self.head_dim = (
            config.num_attention_heads, config.num_key_value_heads, config.head_dim,
        )  # fmt: skip
        self.eps = config.rms_norm_eps
        self.base = cast("Qwen3Model", model.base_model)
        self.layers = [_joined(cast("Qwen3DecoderLayer", layer)) for layer in self.base.layers]

    @staticmethod
    def fits(model: PreTrainedModel) -> bool:
        """Whether this pass computes what the model would."""
        config = model.config
        return (
            config.model_type == "qwen3"
            and config.hidden_act == "silu"
            and not config.attention_bias
            and set(config.layer_types) == {"full_attention"}
        )

    def __call__(self, ids: Tensor, positions: Tensor, visible: Tensor, cache: SlotCache) -> Tensor:
        """Hidden states `[b, q, d]` of `ids [b, q]` at `positions [b, q]`; `visible [b, 1, q, k]` is the mask."""
        x = self.base.embed_tokens(ids)
        cos, sin = (part[:, None] for part in self.base.rotary_emb(x, positions))  # [b, 1, q, head_dim]
        for index, layer in enumerate(self.layers):
            x = x + self._attend(self._norm(x, layer.norm_in), layer, index, (cos, sin), visible, cache)
            gate, up = F.linear(self._norm(x, layer.norm_mlp), layer.gate_up).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, layer.down)
        return self._norm(x, self.base.norm.weight)

    def _attend(
        self, x: Tensor, layer: _Layer, index: int, rotary: tuple[Tensor, Tensor], visible: Tensor, cache: SlotCache
    ) -> Tensor:
        rows, width, _ = x.shape
        heads = F.linear(x, layer.qkv).view(rows, width, -1, self.head_dim)
        q, k, v = heads.split((self.heads, self.kv_heads, self.kv_heads), dim=2)
        q = _rotate(self._norm(q, layer.norm_q).transpose(1, 2), *rotary)
        k = _rotate(self._norm(k, layer.norm_k).transpose(1, 2), *rotary)
        keys, values = cache.update(k, v.transpose(1, 2), index)
        grouped = self.heads != self.kv_heads
        mixed = F.scaled_dot_product_attention(q, keys, values, attn_mask=visible, enable_gqa=grouped)
        return F.linear(mixed.transpose(1, 2).reshape(rows, width, -1), layer.out)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, weight.shape, weight, self.eps)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of `x [b, heads, q, head_dim]`, halves paired (arXiv 2104.09864)."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


def _joined(layer: Qwen3DecoderLayer) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    return _Layer(
        layer.input_layernorm.weight, _join(attention.q_proj, attention.k_proj, attention.v_proj),
        attention.q_norm.weight, attention.k_norm.weight, attention.o_proj.weight,
        layer.post_attention_layernorm.weight, _join(mlp.gate_proj, mlp.up_proj), mlp.down_proj.weight,
    )  # fmt: skip


def _join(*parts: nn.Linear) -> Tensor:
    """One matrix from several, which become views of its rows."""
    joined = torch.cat([part.weight.data for part in parts])
    for part, rows in zip(parts, joined.split([part.out_features for part in parts]), strict=True):
        part.weight.data = rows
    return joined
