"""WebShop's attribute reward (Yao et al. 2022, arXiv 2207.01206, section 3 and appendix).

r = r_type * (|U_att & Y_att| + |U_opt & Y_opt| + [price <= limit]) / (|U_att| + |U_opt| + 1)

U is what the instruction asks for, Y what was bought. Left out: spaCy's choice of nouns (all words of `kind` are
compared, with short and common ones dropped) and the table that folds shades into basic colours.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import NamedTuple

from .catalogue import Product, keywords

SIMILAR = 0.85
"""Two wordings are the same attribute above this `token_set_ratio`."""


class Goal(NamedTuple):
    """What the instruction asks for. An option without a name may be met by any choice of that value."""

    product: Product
    """The product that it was written for."""
    attributes: tuple[str, ...]
    options: tuple[tuple[str, str], ...]
    limit: int
    """Highest price in cents."""
    text: str


def purchase_reward(goal: Goal, bought: Product, chosen: dict[str, str]) -> float:
    """The reward of buying `bought` with the options `chosen`, from 0 to 1."""
    attributes = sum(has_attribute(bought, wanted) for wanted in goal.attributes)
    options = sum(has_option(chosen, name, value) for name, value in goal.options)
    price = bought.price(chosen) <= goal.limit
    same_query = bought.query == goal.product.query
    shared = len(set(bought.category) & set(goal.product.category))
    r_type = type_reward(title_score(bought.kind, goal.product.kind), same_query, shared)
    return combine(r_type, attributes, options, price, len(goal.attributes), len(goal.options))


def combine(r_type: float, attributes: int, options: int, price: bool, n_attributes: int, n_options: int) -> float:
    """r = r_type * (attributes + options + price) / (n_attributes + n_options + 1)"""
    return r_type * (attributes + options + price) / (n_attributes + n_options + 1)


def type_reward(title: float, same_query: bool, shared_categories: int) -> float:
    """0 where no word of the title is shared, 0.1 below a share of 0.1, 0.5 where title (<= 0.2), query and category
    (fewer than 2 shared) all differ, else 1."""
    if title == 0.0:
        return 0.0
    if title < 0.1:
        return 0.1
    return 1.0 if title > 0.2 or same_query or shared_categories >= 2 else 0.5


def title_score(bought: str, wanted: str) -> float:
    """Share of the wanted title's words that the bought one has; 0.2 where it has none to compare."""
    words = set(keywords(wanted))
    return len(words & set(keywords(bought))) / len(words) if words else 0.2


def has_attribute(product: Product, wanted: str) -> bool:
    """One of the product's attributes is worded much like it, or its texts hold it."""
    text = wanted.lower()
    return any(token_set_ratio(text, own) > SIMILAR for own in product.attributes) or any(
        text in part.lower() for part in (product.title, " ".join(product.features), product.description)
    )


def has_option(chosen: dict[str, str], name: str, value: str) -> bool:
    """The choice was made: exactly where it is a size, in similar words elsewhere."""
    if not name:
        return any(has_option(chosen, each, value) for each in chosen)
    if name not in chosen:
        return False
    if name == "size":
        return chosen[name].lower() == value.lower()
    return token_set_ratio(chosen[name], value) > SIMILAR


def token_set_ratio(one: str, other: str) -> float:
    """Similarity of two wordings as sets of words, 0 to 1; 1 where all words of one are in the other."""
    left, right = (set(re.findall(r"[^\W_]+", text.lower())) for text in (one, other))
    if not left or not right:
        return 0.0
    common = " ".join(sorted(left & right))
    texts = [f"{common} {' '.join(sorted(rest))}".strip() for rest in (left - right, right - left)]
    pairs = [tuple(texts)] + [(common, text) for text in texts if common]
    return max(SequenceMatcher(None, *pair, autojunk=False).ratio() for pair in pairs)
