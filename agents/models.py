"""Policies: a small one from scratch (tokenizer of the environment's text + Qwen3), or any checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..envs.errors import RequestError

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PAD, END, UNKNOWN = "<|pad|>", "<|end|>", "<|unknown|>"
SYSTEM, USER, ASSISTANT = "<|system|>", "<|user|>", "<|assistant|>"
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


class ScratchModel(BaseModel):
    """Sizes of a Qwen3-type policy with random weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: int = Field(default=3, ge=1, description="layers of a policy from scratch")
    hidden: int = Field(default=128, ge=8, description="width")
    heads: int = Field(default=4, ge=1, description="attention heads")
    kv_heads: int = Field(default=4, ge=1, description="heads of keys and values")
    ffn: int = Field(default=384, ge=8, description="width of the feed-forward layers")
    context: int = Field(default=1024, ge=32, description="longest row in tokens")
    vocabulary: int = Field(default=2000, ge=16, description="upper limit")
    tokens: Literal["words", "bytes"] = Field(
        default="words", description="closed vocabulary of words, or byte-level BPE"
    )

    @model_validator(mode="after")
    def _heads_fit(self) -> ScratchModel:
        if self.hidden % self.heads or self.heads % self.kv_heads:
            raise ValueError("hidden must be a multiple of heads, and heads of kv_heads")
        if self.hidden // self.heads % 32:
            raise ValueError("hidden / heads must be a multiple of 32: vLLM's CPU kernels take no other head size")
        return self


def build_tokenizer(texts: Iterable[str], config: ScratchModel) -> PreTrainedTokenizerBase:
    """A tokenizer trained on `texts`, with a chat template whose turns only ever append.

    `words` splits at spaces and punctuation: best for closed vocabularies. `bytes` is byte-level
    BPE: any text comes back unchanged.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = [PAD, END, UNKNOWN, SYSTEM, USER, ASSISTANT]
    if config.tokens == "words":
        tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
        tokenizer.normalizer = normalizers.Lowercase()
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer: Any = trainers.WordLevelTrainer(
            vocab_size=config.vocabulary, special_tokens=special, show_progress=False
        )
    else:
        tokenizer = Tokenizer(models.BPE(unk_token=None))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=config.vocabulary, special_tokens=special, show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, unk_token=UNKNOWN,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT], clean_up_tokenization_spaces=False,
    )  # fmt: skip
    fast.chat_template = CHAT_TEMPLATE
    return fast


def build_model(tokenizer: PreTrainedTokenizerBase, config: ScratchModel, seed: int) -> PreTrainedModel:
    """A Qwen3 causal LM with random weights in float32.

    Input and output embeddings are separate tensors: an engine that packs a tied output head for
    its kernels keeps the old one after an in-place weight reload (seen with vLLM's CPU build).
    """
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    ids = tokenizer.get_vocab()
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer), hidden_size=config.hidden, intermediate_size=config.ffn,
            num_hidden_layers=config.layers, num_attention_heads=config.heads, num_key_value_heads=config.kv_heads,
            head_dim=config.hidden // config.heads, max_position_embeddings=config.context, tie_word_embeddings=False,
            pad_token_id=ids[PAD], eos_token_id=ids[END], bos_token_id=None,
            initializer_range=config.hidden**-0.5,
        )
    )  # fmt: skip


def load_policy(
    path: str, dtype: str = "float32", device: str | torch.device = "cpu"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A checkpoint folder or hub id, with its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _quiet()
    if Path(path).exists() and not (Path(path) / "config.json").is_file():
        raise RequestError(f"Expected a model folder with a config.json, got {path!r}.")
    try:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype))
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise RequestError(f"Cannot load a model from {path!r}: {first} Give a model folder or a hub id.") from error
    return on_device(model, device), tokenizer


def on_device(model: PreTrainedModel, device: str | torch.device) -> PreTrainedModel:
    """The model, moved: one place for a method whose parameters its own decorator hides from type checkers."""
    return model.to(device)  # pyright: ignore[reportArgumentType]


def output_head(model: PreTrainedModel) -> nn.Linear:
    """The projection of hidden states to the vocabulary."""
    from torch import nn

    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise RequestError(f"Expected a causal language model with a linear head, got {type(model).__name__}.")
    return head


def save_policy(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write weights (safetensors), config and tokenizer so that any engine loads them."""
    _quiet()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _quiet() -> None:
    """The library's own bars would draw over ours."""
    from transformers.utils import logging

    logging.disable_progress_bar()
