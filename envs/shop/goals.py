"""Shopping tasks: a goal and its instruction from a seed, targets that no two splits share."""

from __future__ import annotations

import random
from functools import lru_cache
from typing import Any

from ..errors import RequestError, UnknownName
from ..task import Task
from . import webshop
from .catalogue import Catalogue, Product, fraction, generated, with_article
from .reward import Goal
from .words import INSTRUCTIONS

SIZES = {"train": 10_000, "validation": 500, "test": 1_000}
SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}
"""Part of the products that a split asks for."""
_FIRST_SEED = {"train": 0, "validation": 1_000_000, "test": 2_000_000}
_DRAWS = 2_000
_PARAMETERS = ("attributes", "catalogue", "max_turns", "options", "products")


def splits() -> dict[str, int]:
    """Generated splits, and those of WebShop's catalogue where it is found."""
    return dict(SIZES) | webshop.splits()


def make_tasks(
    env: str,
    split: str,
    count: int | None = None,
    *,
    products: int = 1_200,
    catalogue: int = 0,
    attributes: int = 2,
    options: int = 2,
    max_turns: int = 30,
    **unknown: Any,
) -> list[Task]:
    """The first `count` tasks of `split`.

    products (100 to 20,000) and catalogue (a seed) fix what is sold; attributes (1 to 4) and options (0 to 2, where
    a product has them) are how many of each an instruction asks for.
    """
    if unknown:
        raise UnknownName("parameter of Shop tasks", next(iter(unknown)), _PARAMETERS)
    if split in webshop.splits():
        return webshop.tasks(env, split, count, max_turns)
    if split not in SIZES:
        raise UnknownName("split of Shop", split, splits(), hint=webshop.HINT)
    for name, value, low, high in (
        ("attributes", attributes, 1, 4), ("options", options, 0, 2), ("max_turns", max_turns, 1, 1_000),
        ("products", products, 100, 20_000), ("catalogue", catalogue, 0, 2**31),
    ):  # fmt: skip
        if not isinstance(value, int) or not low <= value <= high:
            raise RequestError(f"Expected {name} from {low:,} to {high:,}, got {value!r}.")
    params = {"catalogue": catalogue, "products": products, "attributes": attributes, "options": options}
    number = SIZES[split] if count is None else min(count, SIZES[split])
    return [
        Task(env=env, seed=_FIRST_SEED[split] + i, params=params | {"targets": split}, max_turns=max_turns,
             split=split, difficulty=float(attributes + options))
        for i in range(number)
    ]  # fmt: skip


def load(task: Task) -> tuple[Catalogue, Goal]:
    """What a task sells and asks for."""
    if task.game is not None:
        return webshop.load(task)
    try:
        params = task.params
        catalogue = generated(params["catalogue"], params["products"])
        split = params["targets"]
        targets = split_targets(params["catalogue"], params["products"], split)
        return catalogue, make_goal(task.seed, catalogue, split, targets, params["attributes"], params["options"])
    except KeyError as missing:
        raise RequestError(f"Expected the task parameter {missing} of a generated shop, got {task.params}.") from None


@lru_cache(maxsize=32)
def split_targets(catalogue: int, products: int, split: str) -> tuple[str, ...]:
    """Ids of the products that a split asks for: every product belongs to one split, by the hash of its id."""
    return tuple(id for id in generated(catalogue, products).products if split_of(id) == split)


def split_of(content: str) -> str:
    """The split that something belongs to, by its hash."""
    place = fraction(content)
    for split, share in SHARES.items():
        place -= share
        if place < 0:
            return split
    return list(SHARES)[-1]


def make_goal(
    seed: int, catalogue: Catalogue, split: str, targets: tuple[str, ...], attributes: int, options: int
) -> Goal:
    """A goal that its target meets: some of its attributes and options, and a limit above its price.

    Different products may be asked for in the same words, so the words too belong to one split: goals are drawn until
    one is of this split.
    """
    rng = random.Random(f"goal {seed}")
    for _ in range(_DRAWS if targets else 0):
        product = catalogue.products[rng.choice(targets)]
        wanted = tuple(rng.sample(product.attributes, attributes))
        chosen = {option.name: rng.choice(option.values) for option in product.options}
        kept = tuple(sorted(rng.sample(sorted(chosen.items()), min(options, len(chosen)))))
        if split_of(f"{product.kind} {sorted(wanted)} {kept}") == split:
            limit = (product.price(chosen) // 1000 + rng.randint(1, 3)) * 1000
            return Goal(product, wanted, kept, limit, _instruction(rng, product, wanted, kept, limit))
    raise RequestError(
        f"Expected a shop with something to ask for in split {split!r}, got one of {len(catalogue.products)} products "
        f"with {attributes} attributes and {options} options to a goal. Raise products or options."
    )


def _instruction(
    rng: random.Random, product: Product, attributes: tuple[str, ...], options: tuple[tuple[str, str], ...], limit: int
) -> str:
    named = {"colour": "in {}", "size": "size {}"}
    return rng.choice(INSTRUCTIONS).format(
        kind=with_article(product.kind),
        attributes=" and ".join(", ".join(attributes).rsplit(", ", 1)),
        options="".join(f", {named[name].format(value)}" for name, value in options),
        price=f"{limit / 100:.2f}",
    )
