"""Checkpoints: safetensors and JSON, written aside then renamed. No pickle is written or read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..agents.models import save_policy
from ..envs.errors import RequestError

KEEP = 2


def save_checkpoint(
    folder: Path,
    model: Any,
    tokenizer: Any,
    optimizers: Mapping[str, torch.optim.Optimizer],
    extra_tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    texts: Mapping[str, str] | None = None,
) -> None:
    """Write `folder` whole or not at all: `policy/`, one file per optimiser, `state.json`, and `texts` by file name."""
    aside = folder.with_name(f".part-{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        save_policy(aside / "policy", model, tokenizer)
        for name, optimizer in optimizers.items():
            save_file(_flat(optimizer), aside / f"{name}.safetensors")
        for name, tensors in extra_tensors.items():
            save_file({k: v.contiguous() for k, v in tensors.items()}, aside / f"{name}.safetensors")
        (aside / "state.json").write_text(json.dumps(dict(state), indent=2, sort_keys=True))
        for name, text in (texts or {}).items():
            (aside / name).write_text(text)
        _sync(aside)
    except (OSError, SafetensorError) as error:  # safetensors has an error of its own for a full disk
        shutil.rmtree(aside, ignore_errors=True)
        reason = getattr(error, "strerror", None) or error
        raise RequestError(
            f"Cannot write the checkpoint {folder}: {reason}. Free some space; the run continues from "
            f"its last checkpoint with --resume {folder.parent.parent}."
        ) from error
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


def prune(folder: Path, keep: int = KEEP, spare: int | None = None) -> None:
    """Delete all but the newest `keep` checkpoints and that of step `spare`; the first (before RL) always stays."""
    found = sorted(folder.glob("step-*"), key=lambda p: int(p.name.split("-")[1]))
    for old in found[1:-keep]:
        if old.name != f"step-{spare}":
            shutil.rmtree(old)


def load_state(folder: Path) -> dict[str, Any]:
    """The JSON part of a checkpoint."""
    path = folder / "state.json"
    if not path.is_file():
        raise RequestError(f"Expected a checkpoint with a state.json in {folder}; it is not there. Give a run folder.")
    return json.loads(path.read_text())


def load_text(folder: Path, name: str) -> str:
    """A text of a checkpoint, empty where it has none of that name."""
    path = folder / name
    return path.read_text() if path.is_file() else ""


def load_tensors(folder: Path, name: str) -> dict[str, Tensor]:
    """The tensors saved as `name`."""
    return load_file(folder / f"{name}.safetensors")


def load_optimizer(folder: Path, name: str, optimizer: torch.optim.Optimizer) -> None:
    """Put an optimiser's moments back, bit for bit."""
    flat = load_tensors(folder, name)
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in flat.items():
        index, _, field = key.partition(".")
        state.setdefault(int(index), {})[field] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _flat(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """`{parameter index}.{field}` -> tensor, for optimisers whose state is tensors (AdamW)."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{k}": v.detach().clone().contiguous() for i, fields in state.items() for k, v in fields.items()}


def _sync(folder: Path) -> None:
    """Force the files to disk before the rename makes them a checkpoint."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
