"""Writes `docs/results.md` from the cards of runs in `docs/cards/`, and from nothing else.

python docs/results.py add runs/toy-1 [NAME]   # take in the card of a finished run or evaluation
python docs/results.py                         # write the page anew; a test compares
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
CARDS, PAGE = ROOT / "cards", ROOT / "results.md"
KEY_LISTS = ("train_tasks", "held_out_tasks")
HEAD = """\
# Results

Written by `docs/results.py` from the cards in `docs/cards/`: every number here is one that a run put into its own card
when it ended. Do not edit. A card holds the whole recipe, so that the run can be repeated; lists of task keys are kept
as their number and SHA-256.
"""
TRAINED = "| recipe | environment | algorithm | engine | seed | held-out tasks | before RL | after RL | difference |"
EVALUATED = "| target | environment | split | tasks | trials | success | score | turns |"


def add(folder: Path, name: str = "") -> Path:
    """Take in the card of a finished run; refuses one that obtained nothing."""
    card = json.loads((folder / "card.json").read_text())
    if "results" not in card:
        raise SystemExit(f"Expected the card of a finished run in {folder}, got one without results.")
    card.pop("platform", None)  # the kernel's name tells readers nothing
    for key in KEY_LISTS:
        if key in card:
            card[key] = digest(card[key])
    if "evaluation" in card:
        card["evaluation"]["tasks"] = digest(card["evaluation"]["tasks"])
    CARDS.mkdir(exist_ok=True)
    path = CARDS / f"{name or folder.name}.json"
    path.write_text(json.dumps(card, indent=1, sort_keys=True) + "\n")
    return path


def digest(keys: list[str]) -> dict[str, Any]:
    """How many task keys, and the SHA-256 of them in order."""
    return {"count": len(keys), "sha256": hashlib.sha256("\n".join(keys).encode()).hexdigest()}


def page() -> str:
    """The text of `docs/results.md`."""
    cards = {path.stem: json.loads(path.read_text()) for path in sorted(CARDS.glob("*.json"))}
    trained = [training_row(card) for card in cards.values() if "recipe" in card]
    played = [evaluation_row(name, card) for name, card in cards.items() if "evaluation" in card]
    parts = [HEAD, "## Training: success on held-out tasks with 95 % intervals\n", *table(TRAINED, trained)]
    if played:
        parts += ["\n## Evaluations\n", *table(EVALUATED, played)]
    parts += ["\n## Machines\n", *machines(cards)]
    return "\n".join(parts) + "\n"


def table(head: str, rows: Iterable[str]) -> list[str]:
    return [head, "|" + "---|" * (head.count("|") - 1), *rows]


def training_row(card: dict[str, Any]) -> str:
    recipe, results = card["recipe"], card["results"]
    gain = results["difference"]
    cells = (
        f"`{recipe['name']}`", recipe["env"]["id"], recipe["algorithm"], recipe["engine"]["kind"], recipe["seed"],
        results["after"]["tasks"], interval(results["before"]), interval(results["after"]),
        f"{100 * gain['mean']:+.1f} [{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}] points",
    )  # fmt: skip
    return row(cells)


def evaluation_row(name: str, card: dict[str, Any]) -> str:
    about, results = card["evaluation"], card["results"]
    target = about["target"] if "/" not in about["target"] else name
    score, turns = results["score"], results["cost"]["turns_per_episode"]
    cells = (
        target, results["env"], results["split"], results["tasks"], results["trials"], interval(results["success"]),
        f"{100 * score['mean']:.1f} %", f"{turns:.1f}",
    )  # fmt: skip
    return row(cells)


def machines(cards: dict[str, Any]) -> list[str]:
    """What each card says of where it ran."""
    found = []
    for name, card in cards.items():
        libraries = ", ".join(f"{key} {value}" for key, value in sorted(card["libraries"].items()))
        found.append(f"* `{name}`: {card['cores']} cores, Python {card['python']}; {libraries}")
    return found


def interval(part: dict[str, Any]) -> str:
    return f"{100 * part['mean']:.1f} % [{100 * part['low']:.1f}, {100 * part['high']:.1f}]"


def row(cells: Iterable[Any]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    if sys.argv[1:2] == ["add"]:
        add(Path(sys.argv[2]), *sys.argv[3:4])
    PAGE.write_text(page())
