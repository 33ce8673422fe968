"""WebShop's own catalogue and instructions, read from a user's folder.

`$TURNWISE_WEBSHOP` names the folder with `items_shuffle.json` (or the smaller `items_shuffle_1000.json`),
`items_ins_v2.json` (attributes of products) and `items_human_ins.json` (instructions people wrote), as WebShop's
set-up script downloads them. Splits are `webshop_train`, `webshop_validation` and `webshop_test`, by the hash of the
product that the instruction was written for. Left out are instructions without attributes, as in WebShop, and those
whose own product does not earn reward 1: nobody could win them. The limit on the price is the second or a later
multiple of ten dollars above it, chosen by a hash of the instruction, where WebShop draws it anew in every process.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import RequestError
from ..task import Task
from .catalogue import Catalogue, Option, Product, fraction
from .reward import Goal, has_option, purchase_reward

FILES = (("items_shuffle.json", "items_shuffle_1000.json"), ("items_ins_v2.json", "items_ins_v2_1000.json"),
         ("items_human_ins.json",))  # fmt: skip
HINT = (
    "For WebShop's own products, set $TURNWISE_WEBSHOP to the folder with items_shuffle.json, items_ins_v2.json and "
    "items_human_ins.json that WebShop's setup.sh fills."
)
SHARES = {"webshop_train": 0.7, "webshop_validation": 0.1, "webshop_test": 0.2}
_DEFAULT_DOLLARS = 100.0
"""WebShop's price of a product without one."""


def folder() -> str:
    """The folder with WebShop's files; empty where one is missing."""
    root = os.environ.get("TURNWISE_WEBSHOP", "")
    found = root and all(any((Path(root) / name).is_file() for name in names) for names in FILES)
    return root if found else ""


def missing() -> str:
    """What is not here of WebShop's data."""
    return "" if folder() else f"WebShop's own catalogue was not found. {HINT}"


def splits() -> dict[str, int]:
    """Splits of WebShop's instructions found here -> number of tasks."""
    root = folder()
    return {split: len(_split(root, split)) for split in SHARES if _split(root, split)} if root else {}


def tasks(env: str, split: str, count: int | None, max_turns: int) -> list[Task]:
    """Tasks of a split in the order of the catalogue."""
    listed = _split(folder(), split)
    return [
        Task(env=env, game=digest, params={"asin": goal.product.id}, max_turns=max_turns, split=split)
        for digest, goal in listed[:count]
    ]  # fmt: skip


def load(task: Task) -> tuple[Catalogue, Goal]:
    """Catalogue and goal of a task, found by the hash of product and instruction."""
    root = folder()
    if not root:
        raise RequestError(f"Expected WebShop's files for task {task.key}, found none. {HINT}")
    catalogue, goals = _read(root)
    if task.game not in goals:
        raise RequestError(f"Expected the instruction {task.game} in {root}, found none: the files are not the same.")
    return catalogue, goals[task.game]


@lru_cache(maxsize=8)
def _split(root: str, split: str) -> list[tuple[str, Goal]]:
    low = sum(share for name, share in SHARES.items() if list(SHARES).index(name) < list(SHARES).index(split))
    found = ((digest, goal, fraction(goal.product.id)) for digest, goal in _read(root)[1].items())
    return [(digest, goal) for digest, goal, place in found if low <= place < low + SHARES[split]]


@lru_cache(maxsize=1)
def _read(root: str) -> tuple[Catalogue, dict[str, Goal]]:
    items, about, people = (_json(Path(root), names) for names in FILES)
    products = {product.id: product for product in _products(items, about)}
    goals = dict[str, Goal]()
    for asin, written in people.items():
        for entry in written if asin in products else ():
            goal = _goal(products[asin], entry)
            if goal and purchase_reward(goal, goal.product, gold_options(goal)) == 1.0:
                goals[_digest(goal)] = goal
    return Catalogue(list(products.values())), goals


def _json(root: Path, names: tuple[str, ...]) -> Any:
    path = next(root / name for name in names if (root / name).is_file())
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RequestError(f"Expected JSON in {path}, got something else: {error}. {HINT}") from None


def _products(items: list[dict[str, Any]], about: dict[str, Any]) -> Iterator[Product]:
    seen = set[str]()
    for item in items:
        asin = str(item.get("asin", "nan"))
        if asin == "nan" or len(asin) > 10 or asin in seen:
            continue
        seen.add(asin)
        points = item.get("small_description") or []
        yield Product(
            id=asin,
            title=str(item["name"]),
            kind=str(item["name"]),
            query=str(item.get("query") or "").lower().strip(),
            category=tuple(part.strip() for part in str(item.get("product_category") or "").split("›")),
            attributes=tuple((about.get(asin) or {}).get("attributes") or ()),
            options=tuple(_options(item.get("customization_options") or {})),
            cents=_cents(item.get("pricing") or ""),
            description=str(item.get("full_description") or ""),
            features=tuple(str(point) for point in (points if isinstance(points, list) else [points])),
        )


def _options(contents: dict[str, Any]) -> Iterator[Option]:
    for name, values in contents.items():
        texts = tuple(dict.fromkeys(str(each["value"]).strip().replace("/", " | ").lower() for each in values or ()))
        if texts:
            yield Option(name.lower(), texts, (0,) * len(texts))


def _cents(pricing: str) -> int:
    """The price, or the middle of a range such as `$9.99$19.99` (WebShop draws one from it)."""
    prices = [float(re.sub(r"[^\d.]", "", text)) for text in pricing.split("$")[1:] if re.search(r"\d", text)][:2]
    return round(100 * (sum(prices) / len(prices) if prices else _DEFAULT_DOLLARS))


def _goal(product: Product, entry: dict[str, Any]) -> Goal | None:
    attributes, options = entry.get("instruction_attributes") or (), entry.get("instruction_options") or ()
    if not attributes:
        return None
    pairs = options.items() if isinstance(options, dict) else (("", value) for value in options)
    text, limit = str(entry["instruction"]).strip("."), (product.cents // 1000 + 1) * 1000
    limit += 1000 * (1 + int(3 * fraction(product.id + text)))
    text = f"{text}, and price lower than {limit / 100:.2f} dollars"
    return Goal(product, tuple(attributes), tuple((name.lower(), str(v).lower()) for name, v in pairs), limit, text)


def gold_options(goal: Goal) -> dict[str, str]:
    """Choices of the goal's own product that give what the goal asks for, where there are such."""
    chosen = dict[str, str]()
    for name, wanted in goal.options:
        for option in goal.product.options:
            fitting = [v for v in option.values if has_option({option.name: v}, name, wanted)]
            exact = [value for value in fitting if value == wanted] or fitting
            if exact and option.name not in chosen:
                chosen[option.name] = exact[0]
                break
    return chosen


def _digest(goal: Goal) -> str:
    return hashlib.sha256(f"{goal.product.id}\n{goal.text}".encode()).hexdigest()
