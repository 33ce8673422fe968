"""Plays test cases on a program and tells what came out; here for programs of ours, in a sandbox for agents'.

A case is a list of steps: `["do", source]` or `["expect", expression]`. What comes out is a list with
`["value", …]` or `["raises", name of the exception]` per expectation, and `["broken", name]` where a "do" failed.
Nothing here knows what should come out: whoever asked compares, in another process.

This file is also sent into the sandbox, as a script that reads `cases.json`.
"""

import builtins
import json
import os
import sys
import types

MAX_LINES = 30_000
"""Lines that a case may execute: a loop without end is an outcome like others, and the same each time."""


class TooLong(BaseException):
    """A case executed too many lines."""


def play(case, scope, max_lines=MAX_LINES):
    """What comes out of a case, its names being in `scope`."""
    came, left = [], [max_lines]

    def trace(frame, event, arg):
        if event == "line":
            left[0] -= 1
            if left[0] < 0:
                raise TooLong
        return trace

    before = sys.gettrace()
    for kind, source in case:
        try:
            code = compile(source, "<case>", "exec" if kind == "do" else "eval")
            sys.settrace(trace)
            value = eval(code, scope)
            written = plain(value) if kind == "expect" else None
        except BaseException as error:
            sys.settrace(before)
            came.append(["broken" if kind == "do" else "raises", type(error).__name__])
            if kind == "do" or left[0] < 0:
                break
            continue
        sys.settrace(before)
        if kind == "expect":
            came.append(["value", written])
    return came


def plain(value):
    """A value in JSON such that different values and types differ."""
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is list:
        return [plain(each) for each in value]
    if type(value) in (tuple, set, frozenset):
        items = [plain(each) for each in value]
        if type(value) is not tuple:
            items.sort(key=json.dumps)
        return {type(value).__name__: items}
    if type(value) is dict:
        items = [[plain(key), plain(each)] for key, each in value.items()]
        return {"dict": sorted(items, key=json.dumps)}
    return {type(value).__name__: repr(value) if type(value) is float else "…"}


def written(value):
    """Python source of what `plain` made of a value."""
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    if not isinstance(value, dict):
        return repr(value)
    ((kind, items),) = value.items()
    if kind == "dict":
        return "{" + ", ".join(f"{written(key)}: {written(each)}" for key, each in items) + "}"
    if kind == "tuple":
        return "(" + ", ".join(map(written, items)) + ("," if len(items) == 1 else "") + ")"
    if kind in ("set", "frozenset"):
        return f"{kind}([" + ", ".join(map(written, items)) + "])"
    raise ValueError(f"no source for a {kind}")


def names(files):
    """A scope in which the modules of `files` can be imported, and no state of another scope is met."""
    loaded, own = {}, dict(vars(builtins))

    def bring(name, globals=None, locals=None, fromlist=(), level=0):
        if level or f"{name}.py" not in files:
            return builtins.__import__(name, globals, locals, fromlist, level)
        if name not in loaded:
            module = loaded[name] = types.ModuleType(name)
            vars(module)["__builtins__"] = own
            exec(compile(files[f"{name}.py"], f"{name}.py", "exec"), vars(module))
        return loaded[name]

    own["__import__"] = bring
    return {"__builtins__": own}


def main():
    """In the sandbox: play `cases.json` on the modules in `repo`, a JSON line `[index, what came]` per case."""
    with open("cases.json") as file:
        cases = json.load(file)
    os.remove("cases.json")
    os.chdir("repo")
    sys.path[0] = os.getcwd()
    out = os.fdopen(os.dup(1), "w")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 2)
    known = set(sys.modules)
    for index, case in enumerate(cases):
        for name in set(sys.modules) - known:
            del sys.modules[name]
        came = play(case, {})
        out.write(f"\n{json.dumps([index, came])}\n")
        out.flush()


if __name__ == "__main__":
    main()
