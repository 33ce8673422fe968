"""Our ALFWorld engine against TextWorld's own, game by game and step by step; `make exact` runs hundreds of games.

    python tests/alfworld_exact.py [--official 300] [--generated 60] [--steps 40] [--processes 2]

Every game is played once: an expert begins, random commands follow (a tenth of them impossible or no
commands at all), the expert wins from there, and a few more commands come after the end. Text, the list
of admissible commands and `won` are compared after each command. Every fifth game is played in the older
wording of the grammar ("put X in/on Y"). Exit code 1 where anything differs.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, zip_longest
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

from turnwise.envs.alfworld import official, tables
from turnwise.envs.alfworld.engine import World
from turnwise.envs.alfworld.env import ALFWorldEnv
from turnwise.envs.alfworld.experts import Explorer, oracle
from turnwise.envs.alfworld.game import Game, parse_game
from turnwise.envs.alfworld.generator import Level, generate
from turnwise.envs.alfworld.goals import TASK_TYPES
from turnwise.envs.errors import EnvError

Trace = list[tuple[str, list[str], bool]]
"""(text, admissible commands, won) at the start and after each command."""
AFTER = 4
"""Random commands after the goal is reached."""
EXPERT_TURNS = 200
"""More than any of the games needs."""
ODD = (
    "", " ", "\t", "  look ", "LOOK", "Look.", "look around", "help me", "go", "go to", "go to nowhere",
    "go  to desk 1", "take mug 1", "use desklamp 1", "put all in bag", "examine", "inventory 1", "xyzzy",
    "open sesame 1\n", "ouvrir la porte", "看", "\x00", "{r}", "#look.feedback#", "look look " * 60,
    "go to desk 1; take mug 1", "[x | y(z)]",
)  # fmt: skip
TEMPLATES = (
    "take {} from {}", "move {} to {}", "put {} in/on {}", "heat {} with {}", "clean {} with {}", "cool {} with {}",
    "slice {} with {}", "open {}", "close {}", "use {}", "examine {}", "go to {}",
)  # fmt: skip
OLD_WORDING = {
    "move {o} to {r}": "put {o} in/on {r}",
    "You move the {o.name} to the {r.name}.": "You put the {o.name} in/on the {r.name}.",
    "You arrive at {r.name}.": "You arrive at {lend.name}.",
}
NEEDS_DATA = "set TURNWISE_DATA or ALFWORLD_DATA to a folder with ALFWorld's games"


class Case(NamedTuple):
    """A game and what is done in it."""

    name: str
    data: dict[str, Any]
    """Content of the game file."""
    lived_in: bool
    """Things lie where they usually do, not anywhere."""
    steps: int
    """Random commands."""
    seed: int = 0


# ---- which games ----------------------------------------------------------------------------------


def cases(official_games: int, generated_games: int, steps: int) -> list[Case]:
    """Official games of both splits and generated ones of all sizes, task types in turn; some in the old wording."""
    found = [Case(*game, steps) for game in (*_official(official_games), *_generated(generated_games))]
    return [(_in_old_wording(case) if i % 5 == 4 else case)._replace(seed=i) for i, case in enumerate(found)]


def _official(count: int) -> Iterator[tuple[str, dict[str, Any], bool]]:
    splits, types = ("official_train", "official_valid_seen") if count else (), len(TASK_TYPES)
    listed = [ALFWorldEnv.tasks(splits[(i + i // types) % 2], task_types=TASK_TYPES[i % types])
              for i in range(2 * types if splits else 0)]  # fmt: skip
    for tasks in listed:
        random.Random(0).shuffle(tasks)
    in_turn = (task for row in zip_longest(*listed) for task in row if task is not None)
    for task in islice(in_turn, count):
        yield task.meta["path"], json.loads(official.read(task.meta["path"], task.game or "")), True


def _generated(count: int) -> Iterator[tuple[str, dict[str, Any], bool]]:
    for i in range(count):
        rng, task_type = random.Random(i), TASK_TYPES[i % len(TASK_TYPES)]
        room = rng.choice(tables.rooms(rng.choice(list(tables.PLANS)), task_type))
        level = Level(i, task_type, room, rng.choice((4, 8, 16, 60)), rng.choice((0, 8, 40)))
        yield str(level), generate(level), False


def _in_old_wording(case: Case) -> Case:
    """The game in the words of ALFWorld before 0.4."""
    grammar = case.data["grammar"]
    for new, old in OLD_WORDING.items():
        assert new in grammar
        grammar = grammar.replace(new, old)
    return case._replace(name=f"{case.name}, old wording", data={**case.data, "grammar": grammar})


# ---- what is done in them -------------------------------------------------------------------------


def walk(case: Case) -> tuple[list[str], Trace]:
    """Commands of a walk and what our engine says to them."""
    rng, world = random.Random(case.seed), World(parse_game(case.data))
    begin = world.intro()
    trace: Trace = [(begin, list(world.commands), world.won)]
    explorer, commands = Explorer(world.game.goal, begin, world.commands, case.lived_in), list[str]()
    knows = rng.random() < 0.5

    def do(command: str) -> None:
        admissible = world.action(command.strip()) is not None
        text = world.do(command)
        explorer.observe(command.strip(), admissible, text, world.commands)
        commands.append(command)
        trace.append((text, list(world.commands), world.won))

    def expert() -> str:
        return oracle(world)[0] if knows else explorer.act()

    for _ in range(rng.randrange(12)):
        if not world.won:
            do(expert())
    for _ in range(case.steps):
        do(random_command(world, rng))
    winnable = _winnable(world)
    for _ in range(EXPERT_TURNS if winnable else 0):
        if not world.won:
            do(expert())
    assert world.won or not winnable, case.name
    for _ in range(AFTER):
        do(random_command(world, rng))
    return commands, trace


def _winnable(world: World) -> bool:
    """False after taking a thing that fits nowhere: then the hand is full for good."""
    try:
        oracle(world)
    except EnvError:
        return False
    return True


def random_command(world: World, rng: random.Random) -> str:
    """Mostly an admissible command, mostly not travel; a tenth are impossible, mangled or nonsense."""
    near = [c for c in world.commands if not c.startswith(("go to", "help", "look", "inventory"))]
    command = rng.choice(near if near and rng.random() < 0.6 else world.commands)
    if rng.random() >= 0.1:
        return command
    return rng.choice((rng.choice(ODD), _impossible(world.game, rng), _mangled(command, rng)))


def _impossible(game: Game, rng: random.Random) -> str:
    """A command in the game's words about any two of its things: seldom a possible one."""
    things = [name for entity, name in game.names.items() if "_bar_" in entity]
    return rng.choice(TEMPLATES).format(rng.choice(things), rng.choice(things))


def _mangled(command: str, rng: random.Random) -> str:
    cut = rng.randrange(len(command))
    return rng.choice((command[:cut] + command[cut + 1 :], command.upper(), f"{command}.", command.replace(" ", "  ")))


# ---- the comparison -------------------------------------------------------------------------------


class Stock:
    """TextWorld's engine in a process; one replay at a time."""

    def __init__(self, *options: str) -> None:
        script = Path(__file__).with_name("alfworld_stock.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script), *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._folder = tempfile.TemporaryDirectory()

    def __enter__(self) -> Stock:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.communicate()
        self._folder.cleanup()

    def replay(self, data: dict[str, Any], commands: list[str]) -> Trace:
        """What it says at the start of a game and to each command."""
        assert self._process.stdin and self._process.stdout
        path = Path(self._folder.name) / "game.tw-pddl"
        path.write_text(json.dumps(data))
        self._process.stdin.write(json.dumps({"path": str(path), "commands": commands}) + "\n")
        self._process.stdin.flush()
        return [(text, found, won) for text, found, won in json.loads(self._process.stdout.readline())]


def difference(commands: list[str], ours: Trace, theirs: Trace) -> str | None:
    """The first step at which two traces differ, and in what."""
    assert len(ours) == len(theirs) == len(commands) + 1
    for turn, (mine, reference) in enumerate(zip(ours, theirs, strict=True)):
        for what, got, expected in zip(("text", "commands", "won"), mine, reference, strict=True):
            if got != expected:
                done = commands[turn - 1] if turn else "reset"
                return f"{what} after {done!r} (step {turn}): ours {got!r}, stock {expected!r}"
    return None


def compare(case: Case, stock: Stock) -> tuple[int, str | None]:
    """Steps compared, and the first difference."""
    commands, ours = walk(case)
    return len(commands), difference(commands, ours, stock.replay(case.data, commands))


def run(wanted: list[Case], processes: int) -> int:
    """Compare all, several at a time, telling of each game on stderr; the number of games that differ."""
    idle, begun, steps, wrong = SimpleQueue[Stock](), time.monotonic(), 0, 0

    def one(case: Case) -> tuple[Case, int, str | None]:
        stock = idle.get()
        try:
            return case, *compare(case, stock)
        finally:
            idle.put(stock)

    engines = [Stock() for _ in range(processes)]
    for engine in engines:
        idle.put(engine)
    with ThreadPoolExecutor(processes) as pool:
        for number, (case, compared, found) in enumerate(pool.map(one, wanted), 1):
            steps, wrong = steps + compared, wrong + (found is not None)
            print(
                f"[{number}/{len(wanted)}] {case.name}: {found or f'{compared} steps, same'}",
                file=sys.stderr,
                flush=True,
            )
    for engine in engines:
        engine.__exit__()
    minutes = (time.monotonic() - begun) / 60
    print(f"{len(wanted)} games, {steps:,} steps: {wrong} games differ ({minutes:.1f} min, {processes} processes)")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--official", type=int, default=300, help="official games, of the train and valid_seen splits")
    parser.add_argument("--generated", type=int, default=60)
    parser.add_argument("--steps", type=int, default=40, help="random commands per game")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    if options.official and "official_train" not in ALFWorldEnv.splits():
        raise SystemExit(f"No official games here: {NEEDS_DATA}, or pass --official 0.")
    raise SystemExit(min(1, run(cases(options.official, options.generated, options.steps), options.processes)))


if __name__ == "__main__":
    main()
