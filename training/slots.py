"""What an algorithm is made of: slots, the parts that fill them, rows.

Shapes: B rows, T tokens, M trajectories. What a part takes by keyword is what a user can set.

| slot | a part is a function | default |
|---|---|---|
| transforms | (rewards, batch) -> rewards | none |
| estimator | (batch, rewards) -> Credit | the row's own |
| modulators | (adv_BT, batch) -> adv_BT, in order | none |
| selectors | (adv_BT, batch) -> weight_BT, multiplied; 0 drops a token | none |
| ratio | (logp_BT, batch) -> ratio_BT | token_ratio |
| stability | (ratio_BT, adv_BT, logp_BT) -> Factor | ppo_clip |
| guards | (ratio_BT, adv_BT, logp_BT, batch) -> keep_BT, multiplied | none |
| coef | (logp_BT, adv_BT, batch) -> Factor with the whole coefficient: replaces ratio and stability | none |
| expert | the same, for rows whose `provenance` is not among `batch.OWN` | none: such rows count as the policy's own |
| mixer | (batch) -> weight_B by source, each source averaged over itself | none: one average over all |
| terms | (update) -> scalar or None, added to the loss | KL, entropy, EPO |
| controllers | (state, batch, rewards) -> entries of the next step's state | none |

On the collect side stand parts that no update sees: `sampler`, `budget`, `augmentor`, `replay`, `reference`,
`curriculum`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from .aggregate import policy_weights
from .batch import Batch, Unit
from .coefficients import Factor, behaviour_weight, ppo_clip, token_ratio
from .credit import Credit, total_rewards
from .parameters import collect
from .regularizers import entropy_bonus, epo_bonus, epo_corridor, kl_loss

Estimator = Callable[..., Credit]
Modulator = Callable[..., Tensor]
Ratio = Callable[..., Tensor]
Stability = Callable[..., Factor]
CoefFn = Callable[..., Factor]
Term = Callable[..., Tensor | None]
Status = Literal["verified", "formula only"]

TERMS: tuple[Term, ...] = (kl_loss, entropy_bonus, epo_bonus, epo_corridor)
"""Additive terms that every row has; each is off at weight 0."""

MANY = ("transforms", "modulators", "selectors", "guards", "terms", "controllers")
"""Slots that hold several parts, applied in order."""
ONE = ("estimator", "ratio", "stability", "coef", "expert", "mixer")
COLLECT = ("sampler", "budget", "augmentor", "replay", "reference", "curriculum")


NEEDS: dict[str, str] = {
    "group_complete": "several samples per task, all there",
    "critic": "a value per token",
    "ref_logp": "log-probs of a frozen reference",
    "rollout_logp": "log-probs of the engine that sampled",
    "entropy": "the policy's entropy, with gradient in terms",
    "anchors": "the raw observation that each turn answered",
    "batch_stats": "statistics over the whole batch of a step",
    "unit_complete": "whole trajectories (or turns) when the coefficient is computed",
    "mean_logp": "the mean log-prob over the vocabulary: one more channel of the forward pass",
    "whole_minibatch": "all rows of a minibatch when the coefficient is computed: a forward pass more",
}
"""What a part can ask for."""


def loss_mask(batch: Batch, *, mask_truncated: bool = False) -> Tensor:
    """[B, T] bool: action tokens that enter the loss; without those of truncated trajectories if asked."""
    if not mask_truncated or batch.truncated is None:
        return batch.mask
    return batch.mask & ~batch.truncated[:, None]


@dataclass(frozen=True)
class Part:
    """A function that fills one slot of any row: `slots={"selectors": ["d3s"]}` in a recipe adds it."""

    name: str
    slot: str
    function: Callable[..., Any]
    paper: str = ""
    """Title and arXiv id; empty for what everybody uses."""
    unit: Unit = "trajectory"
    needs: frozenset[str] = frozenset()
    source: str = ""
    """Where the defaults come from."""
    left_out: str = ""
    status: Status = "verified"


@dataclass(frozen=True)
class Algorithm:
    """One row. Slots hold functions; `params` overrides their keyword defaults."""

    name: str
    paper: str
    """Title and arXiv id."""
    unit: Unit
    """What shares one advantage."""
    estimator: Estimator
    modulators: tuple[Modulator, ...] = ()
    ratio: Ratio = token_ratio
    stability: Stability = ppo_clip
    terms: tuple[Term, ...] = TERMS
    params: Mapping[str, Any] = field(default_factory=dict)
    needs: frozenset[str] = frozenset()
    """What the slots need whatever the settings: `NEEDS`, and entries of `Batch.extras` by name."""
    source: str = ""
    """Where the defaults come from."""
    left_out: str = ""
    """What of the paper is not here, and where we deviate."""
    transforms: tuple[Callable[..., Any], ...] = ()
    selectors: tuple[Callable[..., Tensor], ...] = ()
    guards: tuple[Callable[..., Tensor], ...] = ()
    coef: CoefFn | None = None
    expert: CoefFn | None = None
    mixer: Callable[..., Tensor] | None = None
    controllers: tuple[Callable[..., dict[str, Any]], ...] = ()
    status: Status = "verified"

    def parts(self) -> tuple[Callable[..., Any], ...]:
        """Every function whose keywords are this row's parameters."""
        update = (self.coef,) if self.coef is not None else (self.ratio, self.stability)
        own = (
            *self.transforms, self.estimator, *self.modulators, *self.selectors, *update, *self.guards,
            self.expert, self.mixer, *self.terms, *self.controllers,
        )  # fmt: skip
        return (
            *(part for part in own if part is not None), policy_weights, total_rewards, loss_mask, behaviour_weight,
        )  # fmt: skip

    def defaults(self) -> dict[str, Any]:
        """Every parameter with its default."""
        return collect(self.parts(), self.params)
