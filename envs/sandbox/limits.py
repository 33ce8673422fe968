"""What code in a sandbox may use up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import RequestError


@dataclass(frozen=True)
class Limits:
    """What code in a sandbox may use up; the kernel holds all of them."""

    memory_mb: int = 512
    """Address space of all processes together, without the files in /tmp."""
    processes: int = 1
    """Processes and threads; each gets its share of the memory. 1: no other can be started."""
    disk_mb: int = 16
    files: int = 1024
    open_files: int = 64
    cpu_s: int = 120
    """Processor time of each process in its life."""
    output_chars: int = 20_000

    def __post_init__(self) -> None:
        if min(self.processes, self.disk_mb, self.files, self.cpu_s, self.output_chars) < 1 or self.open_files < 16:
            raise RequestError(f"Expected limits of 1 or more, and open_files of 16 or more, got {self}.")
        if self.memory_mb < 64 * self.processes:
            raise RequestError(f"Expected memory_mb of 64 or more for each process, got {self}.")

    def order(self) -> dict[str, Any]:
        """The limits as `inside.py` takes them."""
        return {
            "disk": self.disk_mb << 20,
            "files": self.files,
            "resources": {
                "RLIMIT_AS": (self.memory_mb << 20) // self.processes,
                "RLIMIT_NPROC": self.processes,
                "RLIMIT_NOFILE": self.open_files,
                "RLIMIT_FSIZE": self.disk_mb << 20,
                "RLIMIT_CPU": self.cpu_s,
                "RLIMIT_CORE": 0,
                "RLIMIT_MEMLOCK": 0,
                "RLIMIT_MSGQUEUE": 0,
            },
        }
