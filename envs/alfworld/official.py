"""The published ALFWorld games, read from the user's own copy.

`$ALFWORLD_DATA/json_2.1.1/<split>/<task>/<trial>/game.tw-pddl` as `alfworld-download` unpacks them (by
default into `~/.cache/alfworld`), or else the archives `$TURNWISE_DATA/alfworld_<split>.tar.xz` with the
same folders inside. Splits are `train`, `valid_seen`, `valid_unseen`, here with the prefix `official_`.
Left out is what alfworld's own loader leaves out: sliced objects, movable containers, games without a solution.
"""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from ..errors import RequestError
from ..task import Task

SIZES = {"train": 3553, "valid_seen": 140, "valid_unseen": 134}
HINT = (
    "Run `alfworld-download` (it fills $ALFWORLD_DATA, by default ~/.cache/alfworld), "
    "or put alfworld_<split>.tar.xz with the same folders into $TURNWISE_DATA."
)
_ROOT = "json_2.1.1"
_SOLVABLE = re.compile(rb'"solvable":\s*true')


def splits() -> dict[str, int]:
    """Official splits found here -> number of games."""
    return {f"official_{name}": len(paths) for name in SIZES if (paths := _paths(name))}


def missing() -> str:
    """Which published games are not here, and how to get them; empty when all are."""
    absent = [f"official_{name} ({size:,} games)" for name, size in SIZES.items() if not _paths(name)]
    return f"Not found: {', '.join(absent)}. {HINT}" if absent else ""


def tasks(env: str, split: str, count: int | None, task_types: tuple[str, ...], max_turns: int) -> list[Task]:
    """Tasks of an official split in the order of their paths; each knows its file by content."""
    name = split.removeprefix("official_")
    paths = [path for path in _paths(name) if _task_type(path) in task_types]
    return [
        Task(env=env, game=_digest(_source(name), path), max_turns=max_turns, split=split,
             meta={"path": path, "task_type": _task_type(path)})
        for path in paths[:count]
    ]  # fmt: skip


def read(path: str, digest: str = "") -> str:
    """The text of a game by its path under the data folder; `digest` is its SHA-256, checked where given."""
    parts = path.split("/")
    source = _source(parts[1]) if len(parts) > 1 else ""
    text = _read(source, path) if source else None
    if text is None:
        raise RequestError(f"Expected the game {path!r} in the data folder, found none. {HINT}")
    if digest and _sha256(text) != digest:
        raise RequestError(f"Expected the game {path!r} with SHA-256 {digest[:16]}…, got another text. {HINT}")
    return text.decode()


def _source(name: str) -> str:
    """The folder or else the archive of a split; empty where neither is here."""
    folder = Path(os.environ.get("ALFWORLD_DATA") or "~/.cache/alfworld").expanduser() / _ROOT / name
    if folder.is_dir():
        return str(folder)
    root = os.environ.get("TURNWISE_DATA")
    archive = Path(root) / f"alfworld_{name}.tar.xz" if root else None
    return str(archive) if archive and archive.is_file() else ""


def _paths(name: str) -> tuple[str, ...]:
    source = _source(name)
    return _list(source) if source else ()


@lru_cache(maxsize=8)
def _list(source: str) -> tuple[str, ...]:
    if not Path(source).is_dir():
        return tuple(sorted(path for path, _ in _members(source)))
    base = Path(source).parent.parent
    found = ((str(file.relative_to(base)), file) for file in Path(source).glob("*/*/game.tw-pddl"))
    return tuple(sorted(path for path, file in found if _playable(path) and _SOLVABLE.search(file.read_bytes())))


def _read(source: str, path: str) -> bytes | None:
    if not Path(source).is_dir():
        packed = _packed(source).get(path)
        return zlib.decompress(packed) if packed else None
    file = Path(source).parent.parent / path
    return file.read_bytes() if file.is_file() else None


@lru_cache(maxsize=4)
def _packed(archive: str) -> dict[str, bytes]:
    # one pass over the archive, which has no index; deflated, because the texts repeat the domain and the grammar
    return {path: zlib.compress(text, level=1) for path, text in _members(archive)}


def _members(archive: str) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(archive) as tar:
        for member in tar:
            path = member.name.removeprefix("./")
            if path.endswith("/game.tw-pddl") and _playable(path) and (file := tar.extractfile(member)):
                text = file.read()
                if _SOLVABLE.search(text):
                    yield path, text


@lru_cache(maxsize=8192)
def _digest(source: str, path: str) -> str:
    return _sha256(_read(source, path) or b"")


def _sha256(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def _playable(path: str) -> bool:
    return "movable" not in path and "Sliced" not in path


def _task_type(path: str) -> str:
    return path.split("/")[2].partition("-")[0]
