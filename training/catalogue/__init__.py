"""Every row and part, by theme.

A module holds pure functions and, at its end, `ROWS` and `PARTS`; where it brings parameters or inputs of its own, also
`MEANING` (parameter -> what it does), `RANGES` (parameter -> allowed interval), `EXTRAS` (entry of `Batch.extras` ->
shape and meaning) and `NEEDS` (what a part can ask of the learner -> meaning).
"""

from __future__ import annotations

from .. import batch, parameters, slots
from . import (
    agentic,
    classic,
    costs,
    group,
    mixing,
    offpolicy,
    process,
    regression,
    rewarding,
    sampling,
    selection,
    stability,
)

MODULES = (
    classic,
    group,
    regression,
    agentic,
    costs,
    process,
    stability,
    offpolicy,
    mixing,
    rewarding,
    selection,
    sampling,
)

for module in MODULES:
    for table, name in (
        (parameters.MEANING, "MEANING"),
        (parameters.RANGES, "RANGES"),
        (batch.EXTRAS, "EXTRAS"),
        (slots.NEEDS, "NEEDS"),
    ):
        table.update(getattr(module, name, {}))
