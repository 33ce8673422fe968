"""The system calls that code in a sandbox may not make, as a seccomp filter for this machine's processor."""

from __future__ import annotations

import errno
import platform
import struct
from typing import NamedTuple

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
"""Offsets in `struct seccomp_data`; the argument's lower half, both processors being little-endian."""
_ALLOW, _KILL, _ERROR = 0x7FFF_0000, 0x8000_0000, 0x0005_0000
_X32 = 0x4000_0000
_NAMESPACES = 0x7E02_0080
"""Flags of `clone` that make a namespace: cgroup, UTS, IPC, user, process ids, network, mounts, time."""
AF_UNIX = 1

_CALLS = {
    "clone": (56, 220), "clone3": (435, 435), "socket": (41, 198), "unshare": (272, 97), "setns": (308, 268),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "add_key": (248, 217), "request_key": (249, 218),
    "keyctl": (250, 219), "memfd_create": (319, 279), "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195),
    "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180), "personality": (135, 92),
    "kexec_load": (246, 104), "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89), "quotactl": (179, 60),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "fanotify_init": (300, 262),
    "syslog": (103, 116),
}  # fmt: skip
"""Number of a call on x86-64 and on ARM64."""
_COMMON = {
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428, "move_mount": 429,
    "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_getfd": 438, "mount_setattr": 442,
    "memfd_secret": 447,
}  # fmt: skip
"""Calls that have one number on all processors."""


class Processor(NamedTuple):
    """What a filter has to know of a processor."""

    audit: int
    """Its `AUDIT_ARCH`: calls of another one (32-bit code) end the process."""
    numbers: dict[str, int]


PROCESSORS = {
    "x86_64": Processor(0xC000_003E, {name: numbers[0] for name, numbers in _CALLS.items()} | _COMMON),
    "aarch64": Processor(0xC000_00B7, {name: numbers[1] for name, numbers in _CALLS.items()} | _COMMON),
}


def seccomp_filter(machine: str = "") -> bytes:
    """The filter as `struct sock_filter` records; empty where the processor is not known.

    What is not named is allowed. Named calls fail with EPERM; `clone3` with ENOSYS, so that libraries fall back to
    `clone`, whose flags a filter can read: threads and processes yes, namespaces no. Sockets are Unix ones only: VSOCK
    and its kin do not belong to a network namespace. Memory that no address space accounts for (memfd, System V
    segments, queues) cannot be had, so that RLIMIT_AS bounds what a process holds.
    """
    processor = PROCESSORS.get(machine or platform.machine())
    if processor is None:
        return b""
    numbers = processor.numbers
    code = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, processor.audit),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, _KILL),
        *_when(numbers["clone3"], [_fail(errno.ENOSYS)]),
        *_when(numbers["clone"], [*_argument(), (_ANY_BIT, 0, 1, _NAMESPACES), _fail(errno.EPERM), _pass()]),
        *_when(numbers["socket"], [*_argument(), (_EQUAL, 1, 0, AF_UNIX), _fail(errno.EACCES), _pass()]),
    ]
    for name, number in numbers.items():
        if name not in ("clone", "clone3", "socket"):
            code += _when(number, [_fail(errno.EPERM)])
    return b"".join(struct.pack("<HBBI", *each) for each in (*code, _pass()))


_Instruction = tuple[int, int, int, int]


def _when(number: int, then: list[_Instruction]) -> list[_Instruction]:
    """`then` for the system call `number`; the next instruction for all others."""
    return [(_EQUAL, 0, len(then), number), *then]


def _argument() -> list[_Instruction]:
    return [(_LOAD, 0, 0, _FIRST_ARGUMENT)]


def _fail(code: int) -> _Instruction:
    return (_RETURN, 0, 0, _ERROR | code)


def _pass() -> _Instruction:
    return (_RETURN, 0, 0, _ALLOW)
