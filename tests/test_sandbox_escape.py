"""Attacks from inside the sandbox. Whether one succeeded is measured out here; after each, the next call works."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from turnwise.envs.sandbox import probe
from turnwise.envs.sandbox.box import Output, Sandbox, run_program
from turnwise.envs.sandbox.limits import Limits
from turnwise.envs.sandbox.process import NOBODY, program

pytestmark = pytest.mark.skipif(not program(), reason=f"no bubblewrap here: {probe.CURE}")
SECRET = "the-crown-jewels-" + hashlib.sha256(b"of the host").hexdigest()
EVIL = ("/usr/bin/evil", "/usr/lib/evil", "/evil", "/etc/evil", "/dev/evil", "/tmp/evil", "/dev/shm/evil", "/root/evil")


class Host:
    """What an attack is after: sockets that listen, a file with a secret, a process of the sandbox's own user."""

    def __init__(self, folder: Path) -> None:
        self.secret = folder / "secret.txt"
        self.secret.write_text(SECRET)
        for path in (self.secret, *folder.parents, folder):
            if path.owner() == folder.owner() and str(path).count("/") > 1:
                path.chmod(path.stat().st_mode | 0o055)
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.abstract, self.unix = (socket.socket(socket.AF_UNIX) for _ in range(2))
        self.abstract.bind(f"\0turnwise-{os.getpid()}")
        self.unix.bind(str(folder / "socket"))
        (folder / "socket").chmod(0o777)
        for each in (self.abstract, self.unix):
            each.listen()
        for each in (self.tcp, self.udp, self.abstract, self.unix):
            each.setblocking(False)
        self.left_open = os.open(self.secret, os.O_RDONLY)
        os.set_inheritable(self.left_open, True)
        user = {"user": NOBODY} if os.geteuid() == 0 else {}
        self.victim = subprocess.Popen(["sleep", "1000"], **user)
        self.names = {
            "port": self.tcp.getsockname()[1], "udp": self.udp.getsockname()[1], "secret": str(self.secret),
            "unix": str(folder / "socket"), "abstract": f"turnwise-{os.getpid()}", "victim": self.victim.pid,
            "worker": os.getpid(), "fd": self.left_open,
        }  # fmt: skip

    def harm(self) -> list[str]:
        """What an attack got done."""
        found = [path for path in EVIL if os.path.lexists(path)]
        for name, sock in (("tcp", self.tcp), ("abstract", self.abstract), ("unix", self.unix)):
            with contextlib.suppress(BlockingIOError):
                sock.accept()
                found.append(f"a connection to {name}")
        with contextlib.suppress(BlockingIOError):
            found.append(f"a datagram: {self.udp.recv(100)!r}")
        if self.victim.poll() is not None:
            found.append("the victim died")
        if self.secret.read_text() != SECRET:
            found.append("the secret was changed")
        return found

    def close(self) -> None:
        for sock in (self.tcp, self.udp, self.abstract, self.unix):
            sock.close()
        os.close(self.left_open)
        self.victim.kill()
        self.victim.wait()


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    os.environ["TURNWISE_TEST_SECRET"] = SECRET
    host = Host(tmp_path_factory.mktemp("host"))
    yield host
    host.close()
    del os.environ["TURNWISE_TEST_SECRET"]


class Seen(NamedTuple):
    """What is known out here after an attack."""

    output: Output
    box: Sandbox
    pid: int
    """Of the interpreter that was attacked from."""

    def status(self, key: str) -> str:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith(f"{key}:"))

    def files(self) -> list[Path]:
        """Everything in the sandbox's only writable place."""
        return list(Path(f"/proc/{self.pid}/root/tmp").rglob("*"))


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found += family(int(child))
    return found


def resident_mb(pid: int) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0


def is_gone(pid: int) -> bool:
    """Ended, at the latest within five seconds; a zombie has ended."""
    for _ in range(500):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


# ---- the attacks -----------------------------------------------------------------------------------------

CTYPES = "import ctypes, os, errno\nlibc = ctypes.CDLL(None, use_errno=True)\n"

NETWORK = {
    "tcp": "import socket\nsocket.create_connection(('127.0.0.1', {port}), 2).send(b'hello')",
    "udp": "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'hello', ('127.0.0.1', {udp}))",
    "http": "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:{port}/', timeout=2)",
    "abstract unix socket": "import socket\nsocket.socket(socket.AF_UNIX).connect('\\0{abstract}')",
    "unix socket of the host": "import socket\nsocket.socket(socket.AF_UNIX).connect({unix!r})",
    "inherited sockets": """
        import os, socket
        for fd in range(3, 1000):
            try:
                sock = socket.socket(fileno=os.dup(fd))
                sock.accept()
                sock.detach()
            except OSError:
                pass
        raise OSError
    """,
    "other families": """
        import socket
        made = []
        for family in range(46):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
                try:
                    socket.socket(family, kind).close()
                    made.append(family)
                except OSError:
                    pass
        assert set(made) == {{1}}, made
        raise OSError
    """,
}
FILES = {
    "read a file of the host": "print(open({secret!r}).read())",
    "climb out": "print(open('../../../..' + {secret!r}).read())",
    "follow a symlink": "import os\nos.symlink({secret!r}, '/tmp/link')\nprint(open('/tmp/link').read())",
    "write through a symlink": "import os\nos.symlink({secret!r}, '/tmp/way')\nopen('/tmp/way', 'w').write('gone')",
    "symlink to a root": "import os\nos.symlink('/proc/1/root', 'r')\nprint(open('r' + {secret!r}).read())",
    "root of the first process": "print(open('/proc/1/root' + {secret!r}).read())",
    "root of the worker": "print(open('/proc/{worker}/root' + {secret!r}).read())",
    "memory of the worker": "print(open('/proc/{worker}/mem', 'rb').read(1))",
    "environment": "import os\nprint(os.environ)\nprint(open('/proc/self/environ').read())",
    "inherited files": """
        import os
        for fd in range(3, 1000):
            try:
                os.lseek(fd, 0, 0)
                print(os.read(fd, 1000))
            except OSError:
                pass
        raise OSError
    """,
    "write to the system": """
        import os
        for path in EVIL:
            if not path.startswith('/tmp'):
                try:
                    open(path, 'w').close()
                    print('wrote', path)
                except OSError:
                    pass
        raise OSError
    """.replace("EVIL", repr(EVIL)),
    "remount and write": CTYPES + """
for target in (b'/', b'/usr', b'/tmp'):
    libc.mount(None, target, None, 32 | 4096, None)  # a bind remount without read-only
    libc.umount2(target, 2)
open('/usr/bin/evil', 'w')
    """,
    "mount the host's processes": CTYPES + """
os.makedirs('/tmp/p')
assert libc.mount(b'proc', b'/tmp/p', b'proc', 0, None) == -1
print(open('/tmp/p/1/root' + {secret!r}).read())
    """,
    "change the root": CTYPES + """
os.makedirs('/tmp/r')
assert libc.chroot(b'/tmp/r') == -1 and libc.pivot_root is not None
os.chdir('/tmp/r')
print(open('../../../../../..' + {secret!r}).read())
    """,
    "open by handle": CTYPES + """
number = {{'x86_64': (303, 304), 'aarch64': (264, 265)}}[os.uname().machine]
handle = ctypes.create_string_buffer(b'\\x08\\0\\0\\0\\x01\\0\\0\\0\\x02\\0\\0\\0\\0\\0\\0\\0', 128)
usr = os.open('/usr', os.O_RDONLY)
assert libc.syscall(number[1], usr, handle, 0) == -1 and ctypes.get_errno() == errno.EPERM, ctypes.get_errno()
raise OSError
    """,
    "make a device": "import os, stat\nos.mknod('/tmp/disk', stat.S_IFBLK | 0o666, os.makedev(254, 0))",
    "hard link to the system": "import os\nos.link('/usr/bin/env', '/tmp/env')",
}  # fmt: skip
PROCESSES = {
    "fork bomb": "import os\nwhile True:\n    os.fork()",
    "thread bomb": "import threading, time\nwhile True:\n    threading.Thread(target=time.sleep, args=(9,)).start()",
    "subprocess": "import subprocess\nsubprocess.run(['/usr/bin/env', 'sh', '-c', 'sleep 100 &'])",
    "vfork": CTYPES + "assert libc.syscall({{'x86_64': 58}}.get(os.uname().machine, 1), 0) == -1\nraise OSError",
    "kill the parent": """
        import os, signal
        for pid in (os.getppid(), {worker}, {victim}, *range(2, 3000)):
            try:
                if pid:
                    os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        raise OSError
    """,
    "kill everybody": "import os, signal\nos.kill(-1, signal.SIGKILL)",
    "kill the group": "import os, signal\nsignal.signal(15, signal.SIG_IGN)\nos.killpg(0, 15)\nraise OSError",
    "trace": CTYPES + """
for pid in ({worker}, {victim}, 1):
    assert libc.ptrace(16, pid, 0, 0) == -1
assert libc.ptrace(0, 0, 0, 0) == -1
raise OSError
    """,
    "new user namespace": CTYPES + """
for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000):
    assert libc.unshare(flag) == -1, hex(flag)
assert libc.syscall(435, None, 0) == -1 and ctypes.get_errno() == errno.ENOSYS
raise OSError
    """,
    "become root": """
        import os
        for attempt in (lambda: os.setuid(0), lambda: os.setgroups([0]), lambda: os.setresuid(0, 0, 0)):
            try:
                attempt()
                print('succeeded')
            except OSError:
                pass
        raise OSError
    """,
    "capabilities": CTYPES + """
header, all_ = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(*[0xFFFFFFFF] * 6)
assert libc.capset(header, all_) == -1
raise OSError
    """,
    "raise the limits": """
        import resource
        for name in ('RLIMIT_NPROC', 'RLIMIT_AS', 'RLIMIT_FSIZE', 'RLIMIT_CPU', 'RLIMIT_NOFILE'):
            try:
                resource.setrlimit(getattr(resource, name), (1 << 40, 1 << 40))
                print('raised', name)
            except (OSError, ValueError):
                pass
        raise OSError
    """,
    "kernel interfaces": CTYPES + """
numbers = {{
    'x86_64': (321, 298, 323, 425, 250, 248, 319, 29, 68, 64, 240, 310, 311, 135, 175, 246, 169),
    'aarch64': (280, 241, 282, 425, 219, 217, 279, 194, 186, 190, 180, 270, 271, 92, 105, 104, 142),
}}[os.uname().machine]
for number in numbers:
    assert libc.syscall(number, 0, 0, 0, 0, 0) == -1 and ctypes.get_errno() == errno.EPERM, number
raise OSError
    """,
    "32-bit calls": CTYPES + """
import mmap
if os.uname().machine != 'x86_64':
    raise OSError
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(bytes.fromhex('b814000000cd80c3'))  # mov eax, 20 (getpid of i386); int 0x80; ret
address = ctypes.addressof(ctypes.c_char.from_buffer(code))
print('32-bit getpid', ctypes.CFUNCTYPE(ctypes.c_int)(address)())
    """,
}  # fmt: skip


def attacked(host: Host, code: str, limits: Limits | None = None, timeout_s: float = 20.0) -> Seen:
    """Run one attack in a sandbox of its own."""
    box = Sandbox(limits)
    assert box.run("1").text == "1\n" and box.pid is not None
    pid = box.pid
    return Seen(box.run(textwrap.dedent(code).format(**host.names), timeout_s), box, pid)


REFUSALS = {
    "OSError", "PermissionError", "FileNotFoundError", "BlockingIOError", "MemoryError", "ConnectionRefusedError",
    "ProcessLookupError",
    "urllib.error.URLError", "RuntimeError",
}  # fmt: skip
"""What the system says no with; a mistake in an attack would be a NameError or the like."""


def is_refused(output: Output) -> bool:
    return not output.ok and output.text.splitlines()[-1].split(":")[0] in REFUSALS


def still_works(host: Host, seen: Seen) -> None:
    """Nothing happened out here, the secret was not read, and the next call is answered."""
    assert not host.harm()
    assert SECRET not in seen.output.text
    assert seen.box.run("6 * 7") == Output("42\n", True)
    seen.box.close()
    assert is_gone(seen.pid)


@pytest.mark.parametrize("name", NETWORK)
def test_nothing_reaches_the_network(host: Host, name: str) -> None:
    seen = attacked(host, NETWORK[name])
    assert is_refused(seen.output), seen.output
    still_works(host, seen)


@pytest.mark.parametrize("name", FILES)
def test_no_file_of_the_host_is_met(host: Host, name: str) -> None:
    before = {path: Path(path).stat().st_mtime_ns for path in ("/usr/bin", "/usr/bin/env", "/usr/bin/python3", "/usr")}
    seen = attacked(host, FILES[name])
    assert is_refused(seen.output) and "wrote" not in seen.output.text, seen.output
    assert {path: Path(path).stat().st_mtime_ns for path in before} == before
    still_works(host, seen)


@pytest.mark.parametrize("name", PROCESSES)
def test_no_process_is_started_or_hurt_and_no_right_is_gained(host: Host, name: str) -> None:
    seen = attacked(host, PROCESSES[name])
    assert is_refused(seen.output) or (name == "32-bit calls" and seen.output.lost), seen.output
    assert not set(seen.output.text.split()) & {"succeeded", "raised", "getpid"}, seen.output
    if not seen.output.lost:
        assert family(seen.pid) == [seen.pid] and seen.status("Threads") == "1"
        assert {int(seen.status(f"Cap{kind}"), 16) for kind in ("Eff", "Prm", "Bnd", "Amb", "Inh")} == {0}
        assert seen.status("NoNewPrivs") == "1" and seen.status("Seccomp") == "2"
        assert set(seen.status("Uid").split()) == {str(os.geteuid() or NOBODY)}
    still_works(host, seen)


# ---- using up memory, disk, time and our patience --------------------------------------------------------

SMALL = Limits(memory_mb=128, disk_mb=4, files=100)
HOGS = {
    "one block": "x = bytearray(1 << 33)",
    "many blocks": "x = []\nwhile True:\n    x.append(bytearray(1 << 20))",
    "objects": "x = [[]]\nwhile True:\n    x = [x, *x, *x]",
    "a large number": "x = 1 << (1 << 34)",
    "a file in memory": "import os\nwhile True:\n    os.write(os.memfd_create('x'), bytes(1 << 20))",
    "mapped memory": "import mmap\nx = []\nwhile True:\n    x.append(mmap.mmap(-1, 1 << 24))",
    "shared memory": CTYPES + """
if libc.shmget(0, 1 << 30, 0o1600) == -1:
    raise MemoryError
    """,
    "pipes": "import os\nx = []\nwhile True:\n    x.append(os.pipe())\n    os.set_blocking(x[-1][1], False)\n"
    "    os.write(x[-1][1], bytes(1 << 20))",
}  # fmt: skip


@pytest.mark.parametrize("name", HOGS)
def test_memory_stays_within_its_limit(host: Host, name: str) -> None:
    seen = attacked(host, HOGS[name], SMALL)
    assert is_refused(seen.output), seen.output
    assert int(seen.status("VmPeak").split()[0]) / 1024 <= 128
    still_works(host, seen)


def test_the_memory_of_many_processes_is_that_of_one(host: Host) -> None:
    hungry = """
        import os, time
        for _ in range(20):
            try:
                if os.fork() == 0:
                    x = []
                    try:
                        while True:
                            x.append(bytearray(1 << 20))
                    except MemoryError:
                        time.sleep(100)
            except OSError:
                break
        time.sleep(0.5)
        print('started')
    """
    seen = attacked(host, hungry, Limits(memory_mb=256, processes=4))
    assert seen.output.text == "started\n"
    everybody = family(seen.pid)
    assert 2 <= len(everybody) <= 4
    assert sum(map(resident_mb, everybody)) < 256
    seen.box.close()
    assert all(map(is_gone, everybody))


def test_no_daemon_outlives_its_sandbox(host: Host) -> None:
    daemon = """
        import os, signal, time
        if os.fork() == 0:
            os.setsid()
            signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
            if os.fork() == 0:
                time.sleep(1000)
            os._exit(0)
        os.wait()
        time.sleep(0.05)
    """
    seen = attacked(host, daemon, Limits(processes=4))
    started = family(seen.pid)
    assert len(started) == 2, "the daemon is there"
    seen.box.close()
    assert all(map(is_gone, started))


FILLERS = {
    "one file": "file = open('/tmp/big', 'wb')\nwhile True:\n    file.write(bytes(1 << 16))",
    "many files": "i = 0\nwhile True:\n    open(f'/tmp/{{i}}', 'w').write('x')\n    i += 1",
    "empty files": "i = 0\nwhile True:\n    open(f'/tmp/{{i}}', 'w').close()\n    i += 1",
    "a sparse file": "open('/tmp/sparse', 'wb').truncate(1 << 40)",
    "folders": "import os\nwhile True:\n    os.mkdir('d')\n    os.chdir('d')",
    "links": "import os\ni = 0\nwhile True:\n    os.symlink('x' * 200, f'/tmp/{{i}}')\n    i += 1",
    "other folders": "for path in ('/', '/dev', '/dev/shm', '/usr', '/etc', '/run', '/var/tmp'):\n"
    "    try:\n        open(path + '/evil', 'w').write('x')\n        print('wrote', path)\n"
    "    except OSError as error:\n        last = error\nraise last",
}  # fmt: skip


@pytest.mark.parametrize("name", FILLERS)
def test_the_disk_stays_within_its_limit(host: Host, name: str) -> None:
    seen = attacked(host, FILLERS[name], SMALL)
    assert is_refused(seen.output) and "wrote" not in seen.output.text, seen.output
    files = seen.files()
    assert len(files) <= SMALL.files
    assert sum(path.lstat().st_size for path in files if not path.is_symlink()) <= SMALL.disk_mb << 20
    writable = os.statvfs(f"/proc/{seen.pid}/root/tmp")
    assert writable.f_blocks * writable.f_frsize <= SMALL.disk_mb << 20 and writable.f_files <= SMALL.files
    still_works(host, seen)


WAITERS = {
    "a loop": "while True:\n    pass",
    "a loop that catches": "while 1:\n    try:\n        while 1: pass\n    except BaseException: pass",
    "ignored signals": "import signal, time\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\ntime.sleep(100)",
    "a call that never returns": "import re\nre.match('(a+)+$', 'a' * 60 + 'b')",
    "a lock": "import threading\nlock = threading.Lock()\nlock.acquire()\nlock.acquire()",
    "no more answers": "import os\nos.dup2(0, 3)\nwhile True:\n    pass",
}


@pytest.mark.parametrize("name", WAITERS)
def test_what_does_not_end_is_ended_and_the_agent_is_told(host: Host, name: str) -> None:
    seen = attacked(host, WAITERS[name], timeout_s=0.3)
    assert seen.output.lost and not seen.output.ok and "variables and files are gone" in seen.output.text
    assert is_gone(seen.pid)
    still_works(host, seen)


ENDERS = {
    "exit": "import os\nos._exit(0)",
    "a crash": "import ctypes\nctypes.string_at(0)",
    "a deep recursion": "import sys\nsys.setrecursionlimit(10**9)\n"
    "class A:\n    def __repr__(self):\n        return repr(self)\nrepr(A())",
    "a closed channel": "import os\nos.closerange(0, 100)",
    "a flood on the channel": "import os\nwhile True:\n    os.write(3, b'x' * 65536)",
    "nested answers": "import os\nos.write(3, b'[' * 100000 + b'\\n')",
    "a wrong answer": "import os\nos.write(3, b'{{\"id\": 99}}\\n')",
    "no JSON": "import os\nos.write(3, b'\\xff\\xfe\\n')",
    "a huge number": "import os\nos.write(3, b'9' * 10000 + b'\\n')",
}


@pytest.mark.parametrize("name", ENDERS)
def test_an_interpreter_that_ends_or_lies_costs_its_own_state_only(host: Host, name: str) -> None:
    before = resident_mb(os.getpid())
    seen = attacked(host, ENDERS[name], timeout_s=10.0)
    assert seen.output.lost and not seen.output.ok, seen.output
    assert resident_mb(os.getpid()) - before < 64
    still_works(host, seen)


ENDLESS = ("while True:\n    print('x')", "print('x' * 10**7)", "import sys\nsys.stderr.write('x' * 10**6)")


@pytest.mark.parametrize("endless", ENDLESS)
def test_endless_output_is_cut_and_the_state_stays(host: Host, endless: str) -> None:
    seen = attacked(host, f"kept = 7\n{endless}")
    assert len(seen.output.text) < Limits().output_chars + 100
    assert seen.output.text.endswith("… (cut after 20,000 characters, and stopped)") and not seen.output.ok
    assert seen.box.run("kept").text == "7\n"
    still_works(host, seen)


def test_an_answer_given_too_early_does_not_leave_code_running(host: Host) -> None:
    early = """
        import os, time
        os.write(3, b'{{"id": 2, "text": "early", "ok": true, "full": false}}\\n')
        while True:
            pass
    """
    seen = attacked(host, early)
    assert seen.output == Output("early", True)

    def used() -> list[str]:
        return Path(f"/proc/{seen.pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]

    for _ in range(100):  # the signal is on its way
        if seen.status("State").startswith("T"):
            break
        time.sleep(0.01)
    before = used()
    time.sleep(0.1)
    assert used() == before, "it is stopped between calls"
    assert seen.box.run("1", 0.3).lost
    still_works(host, seen)


def test_answers_in_store_do_not_stand_in_for_later_calls(host: Host) -> None:
    store = """
        import os
        for i in range(3, 9):
            os.write(3, b'{{"id": %d, "text": "forged", "ok": true, "full": false}}\\n' % i)
    """
    seen = attacked(host, store)
    assert seen.output.lost, "the first line in store is no answer to this call"
    assert "forged" not in seen.output.text
    still_works(host, seen)


def test_processor_time_ends_too(host: Host) -> None:
    seen = attacked(host, "while True:\n    pass", Limits(cpu_s=1), timeout_s=30.0)
    assert seen.output.lost and seen.output.text.startswith("The interpreter ended.")
    still_works(host, seen)


def test_control_characters_and_markup_of_the_terminal_are_spelled_out(host: Host) -> None:
    seen = attacked(host, r"print('\x1b[2J\x1b]0;owned\x07\r\x00\x9b')")
    assert seen.output.text == "\\x1b[2J\\x1b]0;owned\\x07\\r\\x00\\x9b\n"
    still_works(host, seen)


def test_there_is_nothing_to_read_from_the_worker(host: Host) -> None:
    seen = attacked(host, "import sys\n(sys.stdin.read(), sys.argv, len(open('/dev/null').read()))")
    assert seen.output == Output("('', ['-c'], 0)\n", True)
    still_works(host, seen)


PROGRAMS = {
    "fork bomb": ("import os\nwhile True:\n    os.fork()", "Resource temporarily unavailable"),
    "network": ("import socket\nsocket.create_connection(('127.0.0.1', {port}))", "Permission denied"),
    "secret": ("print(open({secret!r}).read())", "No such file"),
    "flood": ("import os\nwhile True:\n    os.write(1, b'x' * 65536)", "… (cut after 20,000 characters, and stopped)"),
    "closed output, still running": ("import os\nos.closerange(1, 100)\nwhile True:\n    pass", ""),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_are_held_as_interpreters_are(host: Host, name: str) -> None:
    code, expected = PROGRAMS[name]
    output = run_program(["main.py"], {"main.py": code.format(**host.names)}, timeout_s=2.0)
    assert not output.ok and expected in output.text and len(output.text) < 20_100
    assert not host.harm() and SECRET not in output.text


def test_a_killed_worker_takes_its_sandboxes_along() -> None:
    worker = (
        "import sys, time\nfrom turnwise.envs.sandbox.box import Sandbox\nbox = Sandbox()\nbox.run('1')\n"
        "print(box.pid, flush=True)\ntime.sleep(1000)"
    )
    process = subprocess.Popen([sys.executable, "-c", worker], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    assert Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert is_gone(pid)


def test_a_forgotten_sandbox_is_ended() -> None:
    box = Sandbox()
    box.run("1")
    pid = box.pid
    assert pid is not None
    del box
    assert is_gone(pid)


def count() -> int:
    groups: tuple[dict[str, object], ...] = (NETWORK, FILES, PROCESSES, HOGS, FILLERS, WAITERS, ENDERS, PROGRAMS)
    return sum(map(len, groups))


def test_the_suite_is_not_thinned_out() -> None:
    assert count() >= 25
