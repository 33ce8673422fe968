"""Evaluation episodes per second with a policy that answers at once, and what keeping them on the disk costs.

    python benchmarks/eval.py [--repeats 5] [--trials 32] [--out FILE]

Two environments: Toy (steps of microseconds) and ALFWorld (the fast engine, generated games). Each round plays the same
episodes without and with a folder to record into; `recording` is the ratio of their processor times. Goals: 500
episodes a second, and a ratio of at most 1.1.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from measure import interleave, load_average, machine, merge_json, ratio, table, time_of, timing_ratios

SETTINGS: dict[str, dict[str, Any]] = {
    "Toy": {"count": 200},
    "ALFWorld": {"count": 100, "task_types": "pick_and_place_simple", "receptacles": 6, "distractors": 4},
}
RESULTS = Path(__file__).with_name("results") / "eval.json"


def main() -> None:
    """Measure, print a line per environment, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    before, results = load_average(), {}
    for env, settings in SETTINGS.items():
        results[env] = found = measure(env, settings, options.trials, options.repeats)
        rate, cost = found["episodes_per_s"], found["recording"]["ratio_cpu"]["median"]
        print(f"{env:10} {rate['median']:8,.0f} episodes/s ({rate['min']:,.0f} to {rate['max']:,.0f}), goal 500; "
              f"recording {cost:.2f} of the processor time without, goal 1.1")  # fmt: skip
    conditions = {"load_average_before": before, "load_average_after": load_average(), **machine()}
    merge_json(options.out, {"results": results, "conditions": conditions})


def measure(env: str, settings: dict[str, Any], trials: int, repeats: int) -> dict[str, Any]:
    """Rates and ratios of one environment, the expert's moves known beforehand."""
    from turnwise.envs import tasks

    chosen = tasks(env, "test", **settings)
    contenders = {"plain": partial(play, chosen, trials, False), "recorded": partial(play, chosen, trials, True)}
    timings = interleave({name: partial(time_of, run) for name, run in contenders.items()}, repeats)
    episodes = [float(len(chosen) * trials)] * repeats
    return {
        "episodes": int(episodes[0]),
        "episodes_per_s": ratio(episodes, [t.wall for t in timings["plain"]]),
        "recording": timing_ratios(timings["recorded"], timings["plain"]),
        "seconds": table(timings),
    }


def play(chosen: list[Any], trials: int, record: bool) -> None:
    """One evaluation of the random agent, which answers at once."""
    from turnwise.agents.agent import ScriptedAgent
    from turnwise.envs.pool import EnvPool
    from turnwise.training.evaluation import evaluate
    from turnwise.training.evaluation.store import open_recorder

    with tempfile.TemporaryDirectory() as folder:
        recorder = open_recorder(Path(folder) / "e", {}) if record else None
        on_end = recorder.add if recorder else None
        asyncio.run(evaluate(ScriptedAgent("random"), chosen, EnvPool(), trials=trials, on_end=on_end))
        if recorder:
            recorder.flush()
            recorder.run.close()


if __name__ == "__main__":
    main()
