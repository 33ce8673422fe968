"""Drift from the goal over the turns of a dialogue, and the recurrence it follows.

`D_t = KL(q_t || p_t)`, nats per token: q_t the policy's next-token distribution in the dialogue as it went, p_t that of
a reference that was told the goal again, both on the policy's own text. `D_{t+1} = a D_t + b + noise - delta` with a
reminder's effect delta. Source: Drift No More (arXiv 2510.07777).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np


class Drift(NamedTuple):
    """A fitted recurrence."""

    a: float
    b: float
    noise: float
    """Standard deviation of the residuals."""
    reminder: float
    """By how much a reminder lowers the next value; 0 if none was given."""

    @property
    def stable(self) -> bool:
        """Whether drift settles: |a| < 1."""
        return abs(self.a) < 1

    @property
    def equilibrium(self) -> float:
        """`b / (1 - a)`, where it settles."""
        return self.b / (1 - self.a) if self.stable else float("inf")

    @property
    def spread(self) -> float:
        """Stationary standard deviation, `noise / sqrt(1 - a^2)`."""
        return self.noise / float(np.sqrt(1 - self.a**2)) if self.stable else float("inf")


def turn_divergence(policy: np.ndarray, reference: np.ndarray) -> float:
    """`mean_t sum_v q log(q / p)` of one turn from log-probs `[T, V]` of both, in nats."""
    return float((np.exp(policy) * (policy - reference)).sum(-1).mean())


def action_divergence(actions: Sequence[str], reference: Sequence[str], smoothing: float = 0.5) -> float:
    """KL of the histograms of action types, each with `smoothing` added: for agents that show no log-probs."""
    kinds = sorted({*actions, *reference})
    q, p = (np.array([list(x).count(kind) + smoothing for kind in kinds]) for x in (actions, reference))
    q, p = q / q.sum(), p / p.sum()
    return float((q * np.log(q / p)).sum())


def fit_drift(dialogues: Sequence[Sequence[float]], reminders: Collection[int] = ()) -> Drift:
    """Least squares of `D_{t+1}` on `D_t`, pooled over dialogues; a reminder at turn t shifts `D_{t+1}`."""
    rows = [(d[t], t in reminders, d[t + 1]) for d in dialogues for t in range(len(d) - 1)]
    reminded = bool(reminders) and any(row[1] for row in rows)
    if len(rows) < 2 + reminded:
        raise ValueError(f"expected at least {2 + reminded} pairs of consecutive turns, got {len(rows)}")
    x = np.array([[now, 1.0, -float(shift)][: 2 + reminded] for now, shift, _ in rows])
    y = np.array([later for _, _, later in rows])
    found, *_ = np.linalg.lstsq(x, y, rcond=None)
    freedom = max(1, len(rows) - x.shape[1])
    noise = float(np.sqrt(((y - x @ found) ** 2).sum() / freedom))
    return Drift(float(found[0]), float(found[1]), noise, float(found[2]) if reminded else 0.0)
