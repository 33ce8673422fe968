"""An algorithm applied to a batch: advantages, weights, coefficients, loss.

    credit      = advantages(algorithm, params, batch)            once per step, whole batch
    weights     = loss_weights(algorithm, params, minibatch)      once per minibatch
    coefficient = coefficient(algorithm, params, rows, adv, logp) per micro-batch, logp detached; on the whole
                                                                  minibatch if `needs` holds unit_complete
    loss, terms = total_loss(algorithm, params, update, coef)     per micro-batch; micro-batches add up exactly
    state       = next_state(algorithm, params, state, batch)     once per step, whole batch

Shapes: B rows, T tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .aggregate import hierarchical_mean, policy_weights, token_mean
from .batch import Batch, own_rows
from .coefficients import Factor, behaviour_weight, log_ratio, token_ratio
from .credit import Rewards, total_rewards
from .parameters import call
from .regularizers import State, Update, Weights, epo_state_update
from .slots import Algorithm, loss_mask

Params = Mapping[str, Any]


class Advantages(NamedTuple):
    """Detached advantage per action token, the critic's target if there is one, and metrics."""

    adv_BT: Tensor
    returns_BT: Tensor | None
    weight_BT: Tensor
    """[B, T] what selectors made of each action token: 1 by default, 0 drops it, 2 counts it twice."""
    metrics: dict[str, float]
    extras: Mapping[str, Tensor]
    """Entries that the estimator adds to `Batch.extras`."""


class Coefficient(NamedTuple):
    """Detached coefficient per action token, what was kept, the value to log, and metrics."""

    coef_BT: Tensor
    keep_BT: Tensor
    """bool: action tokens that the stability rule left their gradient."""
    surrogate_BT: Tensor
    """Logged loss: `(weights.policy_BT * surrogate_BT).sum()`."""
    metrics: dict[str, float]
    """Means over the action tokens given; combine micro-batches by their number of action tokens."""


def advantages(algorithm: Algorithm, params: Params, batch: Batch) -> Advantages:
    """Reward transform, estimator and modulators on the whole batch of a step; every number finite."""
    with torch.no_grad():
        rewards = reward(algorithm, params, batch)
        credit = call(algorithm.estimator, batch, rewards, params=params)
        adv_BT = credit.adv_BT
        for modulator in algorithm.modulators:
            adv_BT = call(modulator, adv_BT, batch, params=params)
        adv_BT = adv_BT.masked_fill(~batch.mask, 0.0)
        weight_BT = batch.mask.to(adv_BT.dtype) if credit.weight_BT is None else credit.weight_BT
        for selector in algorithm.selectors:
            weight_BT = weight_BT * call(selector, adv_BT, batch, params=params)
        weight_BT = weight_BT.masked_fill(~batch.mask, 0.0)
        tokens = adv_BT[batch.mask]
        metrics = {
            "reward/mean": float(rewards.trajectory_M.mean()),
            "adv/mean": float(tokens.mean()),
            "adv/std": float(tokens.std(unbiased=False)),
            "adv/zero": float((tokens == 0).to(tokens.dtype).mean()),
        }
        if algorithm.selectors or credit.weight_BT is not None:
            metrics["selected"] = float((weight_BT[batch.mask] > 0).to(tokens.dtype).mean())
        return Advantages(adv_BT, credit.returns_BT, weight_BT, metrics, credit.extras or {})


def reward(algorithm: Algorithm, params: Params, batch: Batch) -> Rewards:
    """The scalar rewards of a step: components weighted, then the row's transforms in order."""
    rewards = call(total_rewards, batch, params=params)
    for transform in algorithm.transforms:
        rewards = call(transform, rewards, batch, params=params)
    return rewards


def loss_weights(algorithm: Algorithm, params: Params, batch: Batch, weight_BT: Tensor | None = None) -> Weights:
    """Per-token weights with the denominators of this whole minibatch; `.rows(index)` slices a micro-batch.

    `weight_BT` is what selectors made of the tokens: those of weight 0 enter no denominator.
    """
    keep_BT = call(loss_mask, batch, params=params)
    keep_BT = keep_BT if weight_BT is None else keep_BT & (weight_BT > 0)
    dtype = batch.rewards.dtype
    kept = _only(batch, keep_BT)
    policy_BT = _mixed_weights(algorithm, params, batch, keep_BT)
    policy_BT = policy_BT if weight_BT is None else policy_BT * weight_BT
    if not keep_BT.any():
        return Weights(policy_BT, torch.zeros_like(policy_BT), torch.zeros_like(policy_BT))
    return Weights(policy_BT, token_mean(kept, dtype=dtype), hierarchical_mean(kept, dtype=dtype))


def _only(batch: Batch, keep_BT: Tensor) -> Batch:
    return dataclasses.replace(batch, mask=keep_BT, turn=batch.turn.masked_fill(~keep_BT, -1))


def _mixed_weights(algorithm: Algorithm, params: Params, batch: Batch, keep_BT: Tensor) -> Tensor:
    """Aggregator's weights; with a mixer, each source averaged over itself and weighted by it."""
    if not keep_BT.any():
        return torch.zeros_like(keep_BT, dtype=batch.rewards.dtype)
    if algorithm.mixer is None:
        return call(policy_weights, _only(batch, keep_BT), params=params)
    share_B = call(algorithm.mixer, batch, params=params)
    expert_BT = ~own_rows(batch)[:, None] & keep_BT
    total_BT = torch.zeros_like(keep_BT, dtype=batch.rewards.dtype)
    for source_BT in (expert_BT, keep_BT & ~expert_BT):
        if source_BT.any():
            total_BT = total_BT + call(policy_weights, _only(batch, source_BT), params=params)
    return total_BT * share_B[:, None]


def coefficient(algorithm: Algorithm, params: Params, batch: Batch, adv_BT: Tensor, logp_BT: Tensor) -> Coefficient:
    """c = keep * shaped ratio * advantage * behaviour weight on these rows, with logp_BT of the current policy."""
    with torch.no_grad():
        logp_BT = logp_BT.detach().masked_fill(~batch.mask, 0.0)
        ratio_BT, whole = _own_rows(algorithm, params, batch, adv_BT, logp_BT)
        weight_BT = call(behaviour_weight, batch, params=params)
        coef_BT, surrogate_BT = whole.factor_BT * weight_BT, whole.surrogate_BT * weight_BT
        keep_BT = whole.keep_BT & batch.mask
        if algorithm.expert is not None:
            expert_BT = ~own_rows(batch)[:, None] & batch.mask
            other = call(algorithm.expert, logp_BT, adv_BT, batch, params=params)
            coef_BT = torch.where(expert_BT, other.factor_BT, coef_BT)
            surrogate_BT = torch.where(expert_BT, other.surrogate_BT, surrogate_BT)
            keep_BT = torch.where(expert_BT, other.keep_BT, keep_BT)
        coef_BT, surrogate_BT = (x.masked_fill(~batch.mask, 0.0) for x in (coef_BT, surrogate_BT))
        return Coefficient(coef_BT, keep_BT, surrogate_BT, _metrics(batch, logp_BT, ratio_BT, keep_BT, weight_BT))


def _own_rows(
    algorithm: Algorithm, params: Params, batch: Batch, adv_BT: Tensor, logp_BT: Tensor
) -> tuple[Tensor, Factor]:
    """(ratio, the whole coefficient before behaviour weights): ratio family, or the row's own function."""
    if algorithm.coef is not None:
        ratio_BT = call(token_ratio, logp_BT, batch, params=params)  # for the metrics
        return ratio_BT, call(algorithm.coef, logp_BT, adv_BT, batch, params=params)
    ratio_BT = call(algorithm.ratio, logp_BT, batch, params=params)
    factor = call(algorithm.stability, ratio_BT, adv_BT, logp_BT, params=params)
    guard_BT = torch.ones_like(ratio_BT)
    for guard in algorithm.guards:
        guard_BT = guard_BT * call(guard, ratio_BT, adv_BT, logp_BT, batch, params=params)
    keep_BT = factor.keep_BT & (guard_BT != 0)
    return ratio_BT, Factor(factor.factor_BT * adv_BT * guard_BT, keep_BT, factor.surrogate_BT * guard_BT)


def total_loss(
    algorithm: Algorithm, params: Params, update: Update, result: Coefficient
) -> tuple[Tensor, dict[str, Tensor]]:
    """(loss to differentiate, values of its parts by name) on a micro-batch.

    loss = -sum(weight * c.detach() * logp) + sum of terms. The values hold `policy`, the usual surrogate, and each
    additive term; they sum to the loss that other libraries log. A masked token gets a gradient of exactly 0.
    """
    logp_BT = update.logp_BT.masked_fill(~update.batch.mask, 0.0)
    loss = -(update.weights.policy_BT * result.coef_BT.detach() * logp_BT).sum()
    values = {"policy": (update.weights.policy_BT * result.surrogate_BT).sum()}
    for term in algorithm.terms:
        value = call(term, update, params=params)
        if value is not None:
            loss = loss + value
            values[term.__name__] = value.detach()
    return loss, values


def next_state(algorithm: Algorithm, params: Params, state: State, batch: Batch) -> State:
    """Controller state of the next step from this one's whole batch; JSON-serialisable, to be checkpointed."""
    new = dict(state)
    if params["epo_lambda"]:
        new |= epo_state_update(state, batch, hierarchical_mean(batch, dtype=batch.rewards.dtype))
    if algorithm.controllers:
        with torch.no_grad():
            rewards = call(total_rewards, batch, params=params)
            for controller in algorithm.controllers:
                new |= call(controller, state, batch, rewards, params=params)
        new["step"] = int(state.get("step", 0)) + 1
    return new


def _metrics(batch: Batch, logp_BT: Tensor, ratio_BT: Tensor, keep_BT: Tensor, weight_BT: Tensor) -> dict[str, float]:
    """Clip fraction, ratio, approximate KL to the old policy (k3), and the behaviour weight, over action tokens."""
    mask_BT = batch.mask
    dtype = logp_BT.dtype
    metrics = {
        "clip_fraction": float((~keep_BT)[mask_BT].to(dtype).mean()),
        "ratio/mean": float(ratio_BT[mask_BT].mean()),
        "ratio/max": float(ratio_BT[mask_BT].max()),
        "behaviour/mean": float(weight_BT[mask_BT].mean()),
        "behaviour/zero": float((weight_BT == 0)[mask_BT].to(dtype).mean()),
    }
    if batch.logp_old is not None:
        gap = log_ratio(logp_BT, batch, "old")[mask_BT]
        metrics["approx_kl"] = float((gap.exp() - 1 - gap).mean())
    return metrics
