"""Replays commands in TextWorld's own engine: one JSON job per line on stdin, one JSON trace per line on stdout.

A process of its own, because loading a game there overwrites `sys.argv` and swaps `sys.stdout`. Parsing
is memoised (equal text gives an equal tree), the context of a text rule is copied one level deep (its
values are never changed), and a game is translated once instead of four times (twice for a planner that
is not asked); nothing else is touched, and with `--untouched` not even that.
"""

from __future__ import annotations

import copy
import json
import sys
from functools import lru_cache
from typing import Any


def speed_up() -> None:
    """Steps fifteen times faster, loads three times; `test_alfworld_exact.py` compares with the untouched engine."""
    import fast_downward
    import textworld.envs.pddl.textgen as textgen
    import textworld.logic as logic

    grammar_parse = lru_cache(maxsize=None)(textgen._PARSER.parse)
    textgen._PARSER.parse = lambda text, rule_name, **_: grammar_parse(text, rule_name=rule_name)
    textgen.copy_context = lambda c: {**c, "variables": dict(c["variables"]), "mapping": dict(c["mapping"])}
    translate = lru_cache(maxsize=1)(fast_downward.pddl2sas)
    fast_downward.pddl2sas = lambda domain, problem, **_: translate(domain, problem)
    query = lru_cache(maxsize=None)(logic.Rule.parse_conjunctive_query)
    logic.Rule.parse_conjunctive_query = staticmethod(lambda text: copy.copy(query(text)))


def play(env: Any, path: str, commands: list[str]) -> list[tuple[str, list[str], bool]]:
    """(text, admissible commands, won) at the start and after each command."""
    env.load(path)
    state = env.reset()
    trace = [(state.feedback, state["admissible_commands"], bool(state["won"]))]
    for command in commands:
        state, _, _ = env.step(command)
        trace.append((state.feedback, state["admissible_commands"], bool(state["won"])))
    return trace


def main(untouched: bool) -> None:
    out = sys.stdout
    from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
    from textworld import EnvInfos
    from textworld.envs.pddl import PddlEnv

    if not untouched:
        speed_up()
    env = AlfredDemangler(PddlEnv(EnvInfos(won=True, admissible_commands=True, feedback=True)))
    for line in sys.stdin:
        job = json.loads(line)
        print(json.dumps(play(env, job["path"], job["commands"])), file=out, flush=True)


if __name__ == "__main__":
    main("--untouched" in sys.argv)
