"""How fast and how large environments are, side by side with the engines they stand on, in one run.

    python benchmarks/env_speed.py [--parts alfworld,textworld,scienceworld,pool,memory] [--seconds 3] [--repeats 3]
                                   [--quick] [--out FILE]

alfworld      our ALFWorld engine against the stock one          (goal: at least 1,000 times the steps/s)
textworld     our TextWorld environment against the raw engine   (goal: at most 10 % slower)
scienceworld  our ScienceWorld against the raw engine            (goal: at most 10 % slower)
pool          episodes/s of isolated environments by workers     (goal: two do 1.7 times one, on two free cores)
memory        MB of an environment (proportional set size)

Contenders take turns and replay the same commands of the same games; a ratio is the median over rounds, with the
smallest and the largest. Only ratios of one run mean something, and pool scaling only on a quiet machine: the load
average is recorded. Where one thread does the work, ratios are of the processor's seconds, which other programs disturb
less; those of the clock stand beside them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from env_workers import local_mb, pool_rate, worker_mb
from measure import Timing, interleave, load_average, machine, merge_json, ratio, time_of, timing_ratios
from turnwise.envs import MissingDependency, RequestError, Task, TextEnv, make, spec, tasks

SCRIPT_STEPS = 30
"""Commands per episode, fewer where a game ends before."""
ENGINES = ("textworld", "scienceworld", "gymnasium")
T = TypeVar("T")


class Effort(NamedTuple):
    """How long to measure: seconds per contender and round, rounds, games, environments held at once."""

    seconds: float
    repeats: int
    games: int
    envs: int


QUICK = Effort(0.05, 1, 1, 2)


class Script(NamedTuple):
    """A task and the commands that are replayed in it."""

    task: Task
    commands: tuple[str, ...]


def record_scripts(listed: Sequence[Task], env: TextEnv) -> list[Script]:
    """Random admissible commands for each task, fixed by its key."""
    scripts = []
    for task in listed:
        rng, commands = random.Random(task.key), list[str]()
        _, info = env.reset(options={"task": task})
        while info["stop"] is None and len(commands) < SCRIPT_STEPS:
            commands.append(rng.choice(info["commands"]))
            info = env.step(commands[-1])[4]
        scripts.append(Script(task, tuple(commands)))
    return scripts


def per_step(play: Callable[[Script], Timing], scripts: Sequence[Script], seconds: float) -> Timing:
    """Seconds of a step, over whole episodes until `seconds` are spent on stepping."""
    steps, wall, cpu = 0, 0.0, 0.0
    for script in cycle(scripts):
        took = play(script)
        steps, wall, cpu = steps + len(script.commands), wall + took.wall, cpu + took.cpu
        if wall >= seconds:
            break
    return Timing(wall / steps, cpu / steps)


def timed(call: Callable[[T], Any], arguments: Iterable[T]) -> Timing:
    """Seconds of one call after the other."""
    return time_of(lambda: [call(argument) for argument in arguments])


def rates(timings: Sequence[Timing]) -> list[float]:
    """Steps per second of each round."""
    return [round(1 / timing.wall, 1) for timing in timings]


# ---- ALFWorld -------------------------------------------------------------------------------------


def alfworld_scripts(games: int) -> tuple[str, list[Script]]:
    """Published games where they are here, else the largest generated ones; their split's name."""
    from turnwise.envs.alfworld.env import ALFWorldEnv

    split = "official_valid_seen" if "official_valid_seen" in ALFWorldEnv.splits() else "test"
    size = {} if split.startswith("official") else {"receptacles": 60, "distractors": 40}
    listed = ALFWorldEnv.tasks(split, **size)
    return split, record_scripts(listed[:: max(1, len(listed) // games)][:games], ALFWorldEnv())


class StockALFWorld:
    """TextWorld's engine as alfworld's `AlfredTWEnv` uses it."""

    def __init__(self) -> None:
        from turnwise.envs.alfworld.stock import new_engine

        self.engine = new_engine()

    def start(self, script: Script) -> str:
        from turnwise.envs.alfworld.env import game_file

        self.engine.load(game_file(script.task))
        return self.engine.reset().feedback

    def step(self, command: str) -> tuple[str, Sequence[str], bool]:
        state = self.engine.step(command)[0]
        return state.feedback, state["admissible_commands"], state["won"]


class FastALFWorld:
    """Our engine alone; `remembers` keeps the game, and what was said in it, from episode to episode."""

    def __init__(self, remembers: bool) -> None:
        self.remembers = remembers

    def start(self, script: Script) -> str:
        from turnwise.envs.alfworld.engine import World
        from turnwise.envs.alfworld.env import game_file, load_game
        from turnwise.envs.alfworld.game import parse_game

        self.world = World(load_game(script.task) if self.remembers else parse_game(game_file(script.task)))
        return self.world.intro()

    def step(self, command: str) -> tuple[str, Sequence[str], bool]:
        return self.world.do(command), self.world.commands, self.world.won


class Played:
    """A `TextEnv`, called as rollouts call it."""

    def __init__(self, env: TextEnv) -> None:
        self.env = env
        self.step = env.step

    def start(self, script: Script) -> str:
        return self.env.reset(options={"task": script.task})[0]


def measure_alfworld(effort: Effort) -> dict[str, Any]:
    """Steps and resets of both engines, alone and behind `TextEnv`."""
    split, scripts = alfworld_scripts(effort.games)
    players = {
        "stock engine": StockALFWorld(),
        "fast engine, new game": FastALFWorld(remembers=False),
        "fast engine": FastALFWorld(remembers=True),
        "stock TextEnv": Played(make("ALFWorld", backend="stock")),
        "fast TextEnv": Played(make("ALFWorld")),
    }
    steps = measure_steps(players, scripts, effort)
    few = scripts[:2]  # the stock engine takes a second or more for each
    resets = interleave({name: lambda p=p: timed(p.start, few) for name, p in players.items()}, effort.repeats)
    return {
        "games": split,
        "steps_per_second": {name: rates(timings) for name, timings in steps.items()},
        "reset_ms": {name: [round(t.wall / len(few) * 1e3, 3) for t in each] for name, each in resets.items()},
        "engine": timing_ratios(steps["stock engine"], steps["fast engine"]),
        "engine, new game": timing_ratios(steps["stock engine"], steps["fast engine, new game"]),
        "TextEnv": timing_ratios(steps["stock TextEnv"], steps["fast TextEnv"]),
        "reset": timing_ratios(resets["stock engine"], resets["fast engine, new game"]),
    }


def measure_steps(players: dict[str, Any], scripts: Sequence[Script], effort: Effort) -> dict[str, list[Timing]]:
    """Seconds of a step of each player, round by round; starting an episode is not timed."""

    def contender(player: Any) -> Callable[[], Timing]:
        def play(script: Script) -> Timing:
            player.start(script)
            return timed(player.step, script.commands)

        return lambda: per_step(play, scripts, effort.seconds)

    return interleave({name: contender(player) for name, player in players.items()}, effort.repeats)


def summary_alfworld(found: dict[str, Any]) -> list[str]:
    lines = [f"games of {found['games']}"]
    for name, each in found["steps_per_second"].items():
        lines.append(f"{name:24}{middle(each):>12,.0f} steps/s{middle(found['reset_ms'][name]):>12,.3f} ms reset")
    for name in ("engine", "engine, new game", "TextEnv"):
        lines.append(f"{name:24}fast is {both(found[name], 1000)} times stock")
    return [*lines, f"{'reset, new game':24}fast is {both(found['reset'])} times stock"]


# ---- TextWorld ------------------------------------------------------------------------------------


class RawTextWorld:
    """The interpreter as `textworld.start` gives it, asked for what our environment asks for."""

    def __init__(self, commands: bool) -> None:
        from textworld.core import EnvInfos

        self.infos = EnvInfos(
            feedback=True, score=True, max_score=True, won=True, lost=True, moves=True, admissible_commands=commands
        )
        self.path, self.game = "", None

    def start(self, script: Script) -> str:
        from textworld.helpers import start
        from turnwise.envs.textworld.games import ensure_game

        path = str(ensure_game(script.task))
        if path != self.path:
            self.path, self.game = path, start(path, self.infos)
        assert self.game is not None
        return self.game.reset().feedback

    def step(self, command: str) -> Any:
        assert self.game is not None
        return self.game.step(command)


def textworld_scripts(games: int) -> list[Script]:
    """Games of two families, in turn."""
    families = ({"rooms": 4, "objects": 6, "quest": 6}, {"family": "cooking", "go": 6, "take": 2, "recipe": 2})
    listed = [task for family in families for task in tasks("TextWorld", "test", max(1, games // 2), **family)]
    return record_scripts(listed, make("TextWorld"))


def measure_textworld(effort: Effort) -> dict[str, Any]:
    """Steps of the raw engine and of ours in the same process, with and without the list of commands."""
    scripts = textworld_scripts(effort.games)
    found: dict[str, Any] = {"steps_per_second": {}}
    for label, commands in (("light", False), ("with commands", True)):
        players = {"raw": RawTextWorld(commands), "ours": Played(make("TextWorld", commands=commands))}
        steps = measure_steps(players, scripts, effort)
        found["steps_per_second"] |= {f"{name}, {label}": rates(timings) for name, timings in steps.items()}
        found[label] = timing_ratios(steps["raw"], steps["ours"])
        found[f"layer, {label}"] = [round(layer_share(players["ours"], scripts), 4) for _ in range(effort.repeats)]
    return found


def layer_share(player: Played, scripts: Sequence[Script]) -> float:
    """Part of a step's processor time that is spent outside of the engine, both timed in the same steps."""
    spent: dict[str, list[float]] = {"engine": [], "step": []}

    def clocked(name: str, call: Callable[[str], T], command: str) -> T:
        begun = time.process_time()
        answer = call(command)
        spent[name].append(time.process_time() - begun)
        return answer

    for script in scripts:
        player.start(script)
        game = player.env._game  # type: ignore[attr-defined]
        game.step = partial(clocked, "engine", game.step)
        for command in script.commands:
            clocked("step", player.step, command)
        del game.step
    return 1 - sum(spent["engine"]) / sum(spent["step"])


def summary_textworld(found: dict[str, Any]) -> list[str]:
    lines = summary_layer(found, ("light", "with commands"))
    for label in ("light", "with commands"):
        share = middle(found[f"layer, {label}"])
        verdict = "met" if share <= 0.1 else "missed"
        lines.append(f"{'layer, ' + label:24}{share:.1%} of a step's time is ours (goal 10 %: {verdict})")
    return lines


def summary_layer(found: dict[str, Any], labels: Sequence[str]) -> list[str]:
    lines = [f"{name:24}{middle(each):>12,.0f} steps/s" for name, each in found["steps_per_second"].items()]
    return lines + [f"{label:24}ours is {both(found[label], 0.9)} times raw" for label in labels]


# ---- ScienceWorld ---------------------------------------------------------------------------------


def measure_scienceworld(effort: Effort) -> dict[str, Any]:
    """Steps of the raw engine and of ours, and the memory of a virtual machine and of one environment in it."""
    import env_speed_scienceworld as science

    contenders = {"raw": lambda: science.raw_steps(effort.seconds), "ours": lambda: science.our_steps(effort.seconds)}
    found = interleave(contenders, effort.repeats)
    return {
        "steps_per_second": {name: [round(rate, 1) for rate in each] for name, each in found.items()},
        "step": {"ratio": ratio(found["ours"], found["raw"])},
        "memory_mb": science.memory(effort.envs),
    }


# ---- pool -----------------------------------------------------------------------------------------


def measure_pool(effort: Effort) -> dict[str, Any]:
    """Episodes per second of TextWorld games in one worker process and in more."""
    scripts = textworld_scripts(effort.games)
    workers = sorted({1, 2, os.cpu_count() or 2})
    contenders = {
        f"{count} workers" if count > 1 else "1 worker": lambda count=count: pool_rate(scripts, count, effort.seconds)
        for count in workers
    }
    found = interleave(contenders, effort.repeats)
    return {
        "episodes_per_second": {name: [round(rate, 2) for rate in each] for name, each in found.items()},
        "two workers": {"ratio": ratio(found["2 workers"], found["1 worker"])},
    }


# ---- memory ---------------------------------------------------------------------------------------


def measure_memory(effort: Effort) -> dict[str, Any]:
    """MB of one environment after an episode: in this process, and in a worker of its own."""
    found = {"ALFWorld, in process": local_mb(effort.envs * 25)}
    workers = {"ALFWorld stock, worker": ("ALFWorld", {"backend": "stock"}), "ALFWorld, worker": ("ALFWorld", {})}
    workers |= {"TextWorld, worker": ("TextWorld", {})} if not spec("TextWorld").missing() else {}
    for name, (id, kwargs) in workers.items():
        found[name] = asyncio.run(worker_mb(tasks(id, "test", effort.envs), kwargs))
    return {"mb_per_environment": {name: round(size, 2) for name, size in found.items()}}


# ---- command line ---------------------------------------------------------------------------------


def middle(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def spread(found: dict[str, float], goal: float | None = None) -> str:
    """`1,234 (1,200 to 1,300; goal 1,000: met)`."""
    number = (lambda x: f"{x:,.0f}") if found["median"] >= 100 else (lambda x: f"{x:.2f}")
    verdict = "" if goal is None else f"; goal {number(goal)}: {'met' if found['median'] >= goal else 'missed'}"
    return f"{number(found['median'])} ({number(found['min'])} to {number(found['max'])}{verdict})"


def both(found: dict[str, dict[str, float]], goal: float | None = None) -> str:
    """By processor time, which other programs disturb little, and by the clock; by the clock alone across processes."""
    if "ratio_cpu" not in found:
        return spread(found["ratio"], goal)
    return f"{spread(found['ratio_cpu'], goal)}, by the clock {spread(found['ratio'])}"


PARTS: dict[str, tuple[str, Callable[[Effort], dict[str, Any]], Callable[[dict[str, Any]], list[str]]]] = {
    "alfworld": ("ALFWorld", measure_alfworld, summary_alfworld),
    "textworld": ("TextWorld", measure_textworld, summary_textworld),
    "scienceworld": (
        "ScienceWorld",
        measure_scienceworld,
        lambda found: [*summary_layer(found, ("step",)), f"memory (MB)             {found['memory_mb']}"],
    ),
    "pool": (
        "TextWorld",
        measure_pool,
        lambda found: [
            *(f"{name:24}{middle(each):>12,.2f} episodes/s" for name, each in found["episodes_per_second"].items()),
            f"{'two workers':24}{spread(found['two workers']['ratio'], 1.7)} times one",
        ],
    ),
    "memory": (
        "ALFWorld",
        measure_memory,
        lambda found: [f"{name:24}{size:>12,.2f} MB" for name, size in found["mb_per_environment"].items()],
    ),
}
"""Name -> environment it needs, its measurement, the lines that tell of it."""


def main() -> None:
    """Measure the parts asked for, print their figures, write everything to the result file."""
    options = _options()
    effort = QUICK if options.quick else Effort(options.seconds, options.repeats, games=8, envs=4)
    for part in options.parts:
        needs, run, tell = PARTS[part]
        record: dict[str, Any] = {"load_average_before": load_average(), **effort._asdict()}
        begun = time.perf_counter()
        try:
            if missing := spec(needs).missing():
                raise MissingDependency(missing[0], spec(needs).extra, needs)
            found = run(effort)
        except RequestError as error:  # an engine, or Java, is not here
            print(f"{part}: not measured. {error}")
            continue
        seconds = round(time.perf_counter() - begun, 1)
        record |= {"seconds": seconds, "load_average_after": load_average(), **machine()}
        record["versions"] |= {name: known for name in ENGINES if (known := _version(name))}
        merge_json(options.out, {part: {"conditions": record, "results": found}})
        print("\n".join([f"{part} ({seconds:.0f} s)", *(f"  {line}" for line in tell(found))]))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", type=_parts, default=list(PARTS), help="comma-separated, of: " + ", ".join(PARTS))
    parser.add_argument("--seconds", type=float, default=3.0, help="of stepping, per contender and round")
    parser.add_argument("--repeats", type=int, default=3, help="rounds")
    parser.add_argument("--quick", action="store_true", help="only see that everything runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "env_speed.json")
    return parser.parse_args()


def _parts(text: str) -> list[str]:
    names = text.split(",")
    unknown = sorted(set(names) - set(PARTS))
    if unknown:
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(PARTS)}, got {', '.join(unknown)}")
    return names


if __name__ == "__main__":
    main()
