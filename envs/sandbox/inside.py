"""What runs inside the sandbox: it gives up every right, then serves a persistent Python or runs one program.

This file is not imported: its text is the program of the sandbox's first process, for the Python that is there. From
its standard input, a socket, it reads one JSON line: the limits, the filter of system calls, the files, what to run.
"""

import ast
import builtins
import ctypes
import errno
import io
import json
import linecache
import os
import random
import resource
import sys
import traceback

HOME = "/tmp"
_NO_SUID, _NO_DEVICES = 2, 4
_AMBIENT, _CLEAR_AMBIENT, _DROP_BOUND, _NO_NEW_PRIVILEGES, _SECCOMP = 47, 4, 24, 38, 22
_CAPABILITIES_3 = 0x20080522


class Full(BaseException):
    """The output has no room left; not an `Exception`, so that `except Exception` in a loop does not go on."""


class Bounded(io.StringIO):
    """Keeps the first `room` characters, then stops whoever writes."""

    def __init__(self, room):
        super().__init__()
        self.room = room

    def write(self, text):
        text = str(text)
        kept = text[: max(0, self.room)]
        self.room -= len(text)
        super().write(kept.encode("utf-8", "backslashreplace").decode())
        if self.room < 0:
            raise Full
        return len(text)


def confine(limits, code):
    """Mount the only writable place, then give up capabilities, set the limits, load the filter; in this order."""
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"size={limits['disk']},nr_inodes={limits['files']},mode=700"
    must(libc.mount(b"tmpfs", HOME.encode(), b"tmpfs", _NO_SUID | _NO_DEVICES, options.encode()))
    must(libc.prctl(_AMBIENT, _CLEAR_AMBIENT, 0, 0, 0))
    for capability in range(64):
        if libc.prctl(_DROP_BOUND, capability, 0, 0, 0) and ctypes.get_errno() == errno.EINVAL:
            break  # the kernel knows no more of them
    header, none = (ctypes.c_uint32 * 2)(_CAPABILITIES_3, 0), (ctypes.c_uint32 * 6)()
    must(libc.capset(header, none))
    for name, value in limits["resources"].items():
        resource.setrlimit(getattr(resource, name), (value, value))
    filter_ = bytes.fromhex(code)
    record = (ctypes.c_char * len(filter_)).from_buffer_copy(filter_)
    program = (ctypes.c_uint64 * 2)(len(filter_) // 8, ctypes.addressof(record))
    must(libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    must(libc.prctl(_SECCOMP, 2, ctypes.byref(program), 0, 0))


def must(result):
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def place(files):
    """Write the files, given by path below the working folder."""
    for path, text in files.items():
        folder = os.path.dirname(path)
        if folder:
            os.makedirs(folder, exist_ok=True)
        with open(path, "w", encoding="utf-8", newline="") as file:
            file.write(text)


def serve(reader, writer, room):
    """Run cells until the caller goes: `{"id", "code"}` in, `{"id", "text", "ok", "full"}` out, a line each."""
    scope = {"__name__": "__main__", "__builtins__": builtins}
    for count, line in enumerate(reader, 1):
        request = json.loads(line)
        out = Bounded(room)
        ok, full = cell(request["code"], f"<cell {count}>", scope, out)
        answer = {"id": request["id"], "text": out.getvalue(), "ok": ok, "full": full}
        writer.write(json.dumps(answer).encode() + b"\n")
        writer.flush()


def cell(code, name, scope, out):
    """Execute like a notebook: the value of a last expression is shown."""
    printed = sys.stdout, sys.stderr
    sys.stdout = sys.stderr = out
    try:
        try:
            tree = ast.parse(code, name)
            linecache.cache[name] = (len(code), None, code.splitlines(True), name)
            last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, name, "exec"), scope)
            if last is not None:
                value = eval(compile(ast.Expression(last.value), name, "eval"), scope)
                if value is not None:
                    out.write(repr(value) + "\n")
        except Full:
            raise
        except BaseException as error:
            out.write(told(error))
            return False, False
        return True, False
    except Full:
        return False, True
    finally:
        sys.stdout, sys.stderr = printed


def told(error):
    """The error with the lines of the agent's own code, without those of this file."""
    frames = [each for each in traceback.extract_tb(error.__traceback__) if each.filename.startswith("<cell ")]
    shown = traceback.format_list(frames)
    head = ["Traceback (most recent call last):\n"] if shown else []
    return "".join([*head, *shown, *traceback.format_exception_only(type(error), error)])


def main():
    channel = os.dup(0)
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    reader, writer = os.fdopen(channel, "rb", closefd=False), os.fdopen(channel, "wb", closefd=False)
    try:
        order = json.loads(reader.readline())
        confine(order["limits"], order["filter"])
        os.chdir(HOME)
        place(order["files"])
    except BaseException as error:
        writer.write(json.dumps({"refused": f"{type(error).__name__}: {error}"}).encode() + b"\n")
        writer.flush()
        return
    random.seed(0)  # what agents draw without a seed is drawn again in a replay
    sys.path[:] = [each for each in sys.path if each] + [HOME]
    writer.write(b'{"ready": true}\n')
    writer.flush()
    if order["program"] is None:
        os.dup2(null, 1)
        os.dup2(null, 2)
        serve(reader, writer, order["room"])
    else:
        os.dup2(channel, 1)
        os.dup2(channel, 2)
        os.close(channel)
        run(order["program"])


def run(program):
    """Run a script or a module as `python` would, what it prints going to the caller."""
    import runpy

    sys.argv[:] = program
    kind = {"mode": "w", "buffering": 1, "encoding": "utf-8", "errors": "backslashreplace", "closefd": False}
    sys.stdout, sys.stderr = os.fdopen(1, **kind), os.fdopen(2, **kind)
    sys.path.insert(0, sys.path.pop())
    if program[0].endswith(".py"):
        runpy.run_path(program[0], run_name="__main__")
    else:
        runpy.run_module(program[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
