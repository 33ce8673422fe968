"""Measures of answers: exact match and token F1 of SQuAD, abstention, tool productivity, WideSearch's table scores."""

from __future__ import annotations

import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from typing import NamedTuple
from urllib.parse import urlsplit

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
NUMBER_TOLERANCE = 0.05
DATE_TOLERANCE_DAYS = 31


def normalise(text: str) -> str:
    """Lower case, without punctuation, articles and extra space (Rajpurkar et al. 2016, the official script).

    >>> normalise(" The  Broken-Hill! ")
    'brokenhill'
    """
    text = unicodedata.normalize("NFKC", text).lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


def exact_match(predicted: str, gold: str) -> bool:
    """Whether both are equal once normalised; an empty answer equals nothing."""
    return bool(normalise(predicted)) and normalise(predicted) == normalise(gold)


def token_f1(predicted: str, gold: str) -> float:
    """F1 = 2 P R / (P + R) over the bags of normalised words.

    >>> round(token_f1("the old red house", "red house"), 6)  # P = 2/3, R = 1
    0.8
    """
    left, right = Counter(normalise(predicted).split()), Counter(normalise(gold).split())
    return _f1(_ratio(shared := (left & right).total(), left.total()), _ratio(shared, right.total()))


class Rates(NamedTuple):
    """Precision, recall and their harmonic mean."""

    precision: float
    recall: float
    f1: float


def abstention(abstained: Sequence[bool], answerable: Sequence[bool]) -> Rates:
    """Of the abstentions, which share was right; of the unanswerable questions, to which share it came. 0 of 0 is 0."""
    right = sum(left and not possible for left, possible in zip(abstained, answerable, strict=True))
    precision = _ratio(right, sum(abstained))
    recall = _ratio(right, sum(not possible for possible in answerable))
    return Rates(precision, recall, _f1(precision, recall))


def tool_productivity(successes: Sequence[bool], calls: Sequence[float]) -> float:
    """Right answers per tool call, `sum(success) / sum(calls)` (OTC, arXiv 2504.14870); infinite without a call."""
    right, made = sum(successes), math.fsum(calls)
    return right / made if made else math.inf if right else 0.0


# ---- tables (WideSearch, arXiv 2508.07999) -------------------------------------------------------------------

Row = Mapping[str, str]


class TableScore(NamedTuple):
    """WideSearch's scores of one table."""

    item: Rates
    row: Rates
    success: bool


def widesearch(
    predicted: Sequence[Row], gold: Sequence[Row], key: Sequence[str], metrics: Mapping[str, str] | None = None
) -> TableScore:
    """Scores of a table against the gold one.

    Rows are matched by `key` after double keys are dropped. A cell scores 0 or 1 by the metric of its column
    (`exact` unless `metrics` names one of `CELL_METRICS`; key cells of matched rows score 1), a row the least of its
    cells. Item P = TP / (predicted rows x columns), R = TP / (gold rows x columns); rows likewise. Other columns than
    the gold table's: all 0. The alignment of columns and cells by a language model is left out.

    Raises ValueError where the gold table is empty, uneven or lacks the key, or where a metric is unknown.
    """
    columns = _columns(gold)
    keys = [_name(each) for each in key]
    chosen = {_name(column): metric for column, metric in (metrics or {}).items()}
    unknown = (set(keys) | set(chosen)) - columns
    if not gold or not keys or unknown or set(chosen.values()) - set(CELL_METRICS):
        raise ValueError(
            f"Expected gold rows, key columns among {sorted(columns)} and metrics among {sorted(CELL_METRICS)}, got "
            f"{len(gold)} rows, key {list(key)} and metrics {dict(metrics or {})}."
        )
    if any(_named(row).keys() != columns for row in gold):
        raise ValueError(f"Expected the columns {sorted(columns)} in every gold row.")
    if not predicted or any(_named(row).keys() != columns for row in predicted):
        return TableScore(Rates(0.0, 0.0, 0.0), Rates(0.0, 0.0, 0.0), False)
    left, right = _by_key(predicted, keys), _by_key(gold, keys)
    cells = [
        [
            column in keys or CELL_METRICS[chosen.get(column, "exact")](left[k][column], row[column])
            for column in columns
        ]
        for k, row in right.items()
        if k in left
    ]
    items, rows = sum(map(sum, cells)), sum(map(all, cells))
    width = len(columns)
    item, row = _rates(items, len(left) * width, len(right) * width), _rates(rows, len(left), len(right))
    return TableScore(item, row, all(value == 1.0 for value in (*item, *row)))


def _is_number_near(predicted: str, gold: str) -> bool:
    """|p - g| <= 5 % of |g|; percent signs and thousands commas are read."""
    left, right = _number(predicted), _number(gold)
    return left is not None and right is not None and abs(left - right) <= NUMBER_TOLERANCE * abs(right)


def _is_date_near(predicted: str, gold: str) -> bool:
    """ISO dates at most 31 days apart."""
    try:
        apart = date.fromisoformat(predicted.strip()) - date.fromisoformat(gold.strip())
    except ValueError:
        return False
    return abs(apart.days) <= DATE_TOLERANCE_DAYS


def _hosts(text: str) -> set[str]:
    return {urlsplit(url).netloc.lower() for url in re.findall(r"https?://\S+", text)}


CELL_METRICS = {
    "exact": lambda predicted, gold: _cell(predicted) == _cell(gold),
    "contains": lambda predicted, gold: bool(_cell(gold)) and _cell(gold) in _cell(predicted),
    "url": lambda predicted, gold: bool(_hosts(gold)) and _hosts(predicted) == _hosts(gold),
    "number_near": _is_number_near,
    "date_near": _is_date_near,
}
"""Name -> whether a cell counts as the gold one."""


def _number(text: str) -> float | None:
    text = text.strip().replace(",", "")
    scale = 0.01 if text.endswith("%") else 1.0
    try:
        value = float(text.removesuffix("%")) * scale
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _cell(text: str) -> str:
    return " ".join(text.lower().split())


def _name(column: str) -> str:
    return re.sub(r"[\W_]+", "", column.lower())


def _named(row: Row) -> dict[str, str]:
    return {_name(column): value for column, value in row.items()}


def _columns(rows: Sequence[Row]) -> set[str]:
    return set(_named(rows[0])) if rows else set()


def _by_key(rows: Sequence[Row], keys: Sequence[str]) -> dict[tuple[str, ...], dict[str, str]]:
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for row in map(_named, rows):
        found.setdefault(tuple(_cell(row[key]) for key in keys), row)
    return found


def _rates(right: float, predicted: int, gold: int) -> Rates:
    precision, recall = _ratio(right, predicted), _ratio(right, gold)
    return Rates(precision, recall, _f1(precision, recall))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
