"""The embedded engine: continuous batching over a Hugging Face model, prefixes kept across turns."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from .engine import Completion, Request, SteppedEngine
from .fused import FusedQwen3
from .kv_cache import SlotCache
from .models import output_head

DENSE_SHARE = 0.5
"""Above this share of slots in use a decode step runs on all of them: reading needs no copy then."""

SHARED_PROMPT = 32
"""Tokens from which on equal prompts of new sessions are computed once and copied: the copy costs a pass of its own."""


@dataclass
class _Session:
    """One slot of the cache."""

    slot: int
    ids: list[int] = field(default_factory=list)
    """Tokens whose keys and values are stored."""


@dataclass
class _Running:
    request: Request
    session: _Session
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class TorchEngine(SteppedEngine):
    """Samples from a Hugging Face causal LM.

    A session's cache survives between its requests: when the next prompt extends what is stored,
    only the new tokens are computed. Rows that end leave the batch, new ones join at any step.
    Sampling inverts the cumulative distribution at a number hashed from (seed, token index), so a
    request draws the same tokens in any batch (up to rounding of the logits, which `exact` fixes too).
    """

    def __init__(
        self, model: PreTrainedModel, max_batch: int = 256, prefill_tokens: int = 16_384, exact: bool = False
    ) -> None:
        super().__init__(exact)
        self.model: PreTrainedModel = copy.deepcopy(model).eval().requires_grad_(False)
        self.fused = FusedQwen3(self.model) if FusedQwen3.fits(self.model) else None
        self.device, self.dtype = model.device, model.dtype
        self.max_batch, self.prefill_tokens = max_batch, prefill_tokens
        self._forget()
        self._waiting: deque[Request] = deque()
        self._running: dict[str, _Running] = {}

    # ---- requests -----------------------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        self._waiting.append(request)

    def abort(self, request_id: str) -> None:
        self._running.pop(request_id, None)
        self._waiting = deque(r for r in self._waiting if r.id != request_id)

    def close_session(self, session: str) -> None:
        found = self._sessions.pop(session, None)
        if found is not None:
            self._free.append(found.slot)
            self._free.sort(reverse=True)  # low slots first, so that a full batch stays contiguous

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        own = dict(self.model.named_parameters(remove_duplicate=False))
        with torch.no_grad():
            for name, tensor in weights:
                own[name].copy_(tensor)
        self.version = version
        self._forget()

    def close(self) -> None:
        self._sessions.clear()
        self.model, self.fused = nn.Module(), None  # type: ignore[assignment]

    def _forget(self) -> None:
        self._sessions: dict[str, _Session] = {}
        self._free: list[int] = []
        self._slots = 0
        self._cache = SlotCache(self.model.config, self.device, self.dtype)

    # ---- stepping -----------------------------------------------------------------------------------

    @torch.inference_mode()
    def step(self) -> list[tuple[str, Completion]]:
        decoding = list(self._running.values())
        entering = self._admit(self.max_batch - len(decoding))
        if decoding:
            self._decode(decoding)
        leaders, followers = _copies(entering)
        for chunk in _chunks(leaders, self.prefill_tokens):
            self._prefill(chunk)
        for leader, copies in followers:
            self._adopt(leader, copies)
        for chunk in _chunks([r for _, copies in followers for r in copies], self.prefill_tokens):
            self._prefill(chunk)
        return self._collect()

    def _admit(self, room: int) -> list[_Running]:
        entering = []
        if self.exact:  # in the order of their names: environments answer in any order
            self._waiting = deque(sorted(self._waiting, key=lambda request: request.id))
        while self._waiting and len(entering) < room:
            request = self._waiting.popleft()
            running = _Running(request, self._session(request))
            self._running[request.id] = running
            entering.append(running)
        return entering

    def _session(self, request: Request) -> _Session:
        """The request's slot, cut back to the prefix that its prompt shares with what is stored."""
        session = self._sessions.get(request.session)
        if session is None:
            if not self._free:
                self._free.append(self._slots)
                self._slots += 1
            session = self._sessions[request.session] = _Session(self._free.pop())
        # The last prompt token is always computed: its logits give the first sampled token.
        keep = min(_shared_prefix(session.ids, request.prompt), len(request.prompt) - 1)
        del session.ids[keep:]
        return session

    def _adopt(self, leader: _Running, copies: list[_Running]) -> None:
        """Give new sessions what was just computed for an equal prompt, up to the token whose logits they need."""
        keep = len(leader.request.prompt) - 1
        self._cache.copy(leader.session.slot, [r.session.slot for r in copies], keep)
        for running in copies:
            running.session.ids = list(running.request.prompt[:keep])

    def _prefill(self, batch: list[_Running]) -> None:
        new = [list(r.request.prompt[len(r.session.ids) :]) for r in batch]
        width = max(map(len, new))
        ids = torch.tensor([n + [0] * (width - len(n)) for n in new], device=self.device)
        starts = torch.tensor([len(r.session.ids) for r in batch], device=self.device)
        positions = starts[:, None] + torch.arange(width, device=self.device)
        slots = torch.tensor([r.session.slot for r in batch], device=self.device)
        hidden = self._forward(ids, positions, slots, contiguous=False)
        last = torch.tensor([len(n) - 1 for n in new], device=self.device)
        for running, tokens in zip(batch, new, strict=True):
            running.session.ids.extend(tokens)
        self._sample(batch, hidden[torch.arange(len(batch), device=self.device), last])

    def _decode(self, batch: list[_Running]) -> None:
        dense = len(batch) >= DENSE_SHARE * self._slots
        if dense:  # idle slots ride along; what they write lies beyond their own length
            lengths, tokens = [0] * self._slots, [0] * self._slots
            for session in self._sessions.values():
                lengths[session.slot] = len(session.ids)
            for running in batch:
                tokens[running.session.slot] = running.ids[-1]
            slots = torch.arange(self._slots, device=self.device)
        else:
            lengths = [len(r.session.ids) for r in batch]
            tokens = [r.ids[-1] for r in batch]
            slots = torch.tensor([r.session.slot for r in batch], device=self.device)
        positions = torch.tensor(lengths, device=self.device)[:, None]
        hidden = self._forward(torch.tensor(tokens, device=self.device)[:, None], positions, slots, dense)[:, 0]
        for running in batch:
            running.session.ids.append(running.ids[-1])
        if dense:
            hidden = hidden[torch.tensor([r.session.slot for r in batch], device=self.device)]
        self._sample(batch, hidden)

    def _forward(
        self, ids: torch.Tensor, positions: torch.Tensor, slots: torch.Tensor, contiguous: bool
    ) -> torch.Tensor:
        """Hidden states `[b, q, d]` of tokens `ids [b, q]` at `positions [b, q]`."""
        width = int(positions.max()) + 1
        self._cache.reserve(self._slots, width)
        self._cache.aim(slots, positions, width, contiguous)
        visible = torch.arange(width, device=self.device) <= positions[:, None, :, None]
        if self.fused is not None:
            return self.fused(ids, positions, visible, self._cache)
        return self.model.base_model(
            input_ids=ids, attention_mask=visible, position_ids=positions, past_key_values=self._cache, use_cache=True
        ).last_hidden_state

    def _sample(self, batch: list[_Running], hidden: torch.Tensor) -> None:
        logits = output_head(self.model)(hidden).float()
        temperature = torch.tensor([r.request.temperature for r in batch], device=self.device)[:, None]
        logp = torch.log_softmax(logits / torch.where(temperature > 0, temperature, 1.0), dim=-1)
        seeds = np.array([r.request.seed for r in batch], dtype=np.uint64)
        index = np.array([len(r.ids) for r in batch], dtype=np.uint64)
        uniform = torch.from_numpy(hashed_uniform(seeds, index)).to(self.device)
        drawn = inverse_cdf(logp, uniform)
        tokens = torch.where(temperature[:, 0] > 0, drawn, logits.argmax(-1))
        chosen = logp.gather(1, tokens[:, None])[:, 0]
        for running, token, value in zip(batch, tokens.tolist(), chosen.tolist(), strict=True):
            running.ids.append(token)
            running.logprobs.append(value)

    def _collect(self) -> list[tuple[str, Completion]]:
        ended = []
        for request_id, running in list(self._running.items()):
            stopped = running.ids[-1] in running.request.stop_ids
            if stopped or len(running.ids) >= running.request.max_tokens:
                del self._running[request_id]
                done = Completion(tuple(running.ids), tuple(running.logprobs), stopped, self.version)
                ended.append((request_id, done))
        return ended

    @torch.inference_mode()
    def score(self, ids: list[int]) -> list[float]:
        tokens = torch.tensor([ids], device=self.device)
        hidden = self.model.base_model(input_ids=tokens).last_hidden_state
        logp = torch.log_softmax(output_head(self.model)(hidden[0, :-1]).float(), dim=-1)
        return logp.gather(1, tokens[0, 1:, None])[:, 0].tolist()


def hashed_uniform(seeds: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Uniform numbers in [0, 1) as a pure function of (seed, index): two rounds of splitmix64.

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    with np.errstate(over="ignore"):
        x = _splitmix(seeds) + (index + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        return (_splitmix(x) >> np.uint64(11)).astype(np.float64) / float(1 << 53)


def _splitmix(x: np.ndarray) -> np.ndarray:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def inverse_cdf(logp: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Token of each row: the first `k` with `sum_{j<=k} p_j > u`. Shapes `[b, V]`, `[b]` -> `[b]`."""
    cumulative = logp.double().exp().cumsum(dim=-1)
    target = uniform[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).clamp(max=logp.shape[1] - 1)[:, 0]


def _shared_prefix(a: list[int], b: tuple[int, ...]) -> int:
    limit = min(len(a), len(b))
    if tuple(a[:limit]) == b[:limit]:
        return limit
    return next(i for i in range(limit) if a[i] != b[i])


def _copies(batch: list[_Running]) -> tuple[list[_Running], list[tuple[_Running, list[_Running]]]]:
    """Rows to compute in full, and the rows that begin with the same long prompt as one of them: a group's episodes."""
    leaders: list[_Running] = []
    first: dict[tuple[int, ...], tuple[_Running, list[_Running]]] = {}
    for running in batch:
        prompt = running.request.prompt
        if running.session.ids or len(prompt) < SHARED_PROMPT:
            leaders.append(running)
        elif prompt in first:
            first[prompt][1].append(running)
        else:
            first[prompt] = (running, [])
            leaders.append(running)
    return leaders, [(leader, copies) for leader, copies in first.values() if copies]


def _chunks(batch: list[_Running], budget: int) -> Iterable[list[_Running]]:
    """Split by number of padded tokens, similar lengths together."""
    ordered = sorted(batch, key=lambda r: len(r.request.prompt) - len(r.session.ids))
    chunk: list[_Running] = []
    for running in ordered:
        width = len(running.request.prompt) - len(running.session.ids)
        if chunk and width * (len(chunk) + 1) > budget:
            yield chunk
            chunk = []
        chunk.append(running)
    if chunk:
        yield chunk
