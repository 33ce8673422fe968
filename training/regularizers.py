"""Additive terms of the loss, and the controller state that some of them carry from step to step.

Shapes: B rows, T tokens. A term is `(update, *, named parameters) -> scalar tensor with gradient, or None when off`.
Terms sum `weight_BT * x_BT` with weights of the whole minibatch, so micro-batches add up exactly.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..envs.errors import RequestError
from .batch import Batch

KLEstimator = Literal["k1", "k2", "k3", "k3+", "unbiased"]
EPOMean = Literal["hierarchical", "flat"]
State = dict[str, Any]


class Weights(NamedTuple):
    """[B, T] weights of one minibatch; slice by rows for a micro-batch."""

    policy_BT: Tensor
    token_BT: Tensor
    hierarchy_BT: Tensor

    def rows(self, index: Any) -> Weights:
        """The weights of these rows, unchanged in value."""
        return Weights(*(weight_BT[index] for weight_BT in self))


class Update(NamedTuple):
    """What a term sees of a (micro-)batch; logp, entropy and values carry gradient."""

    batch: Batch
    weights: Weights
    logp_BT: Tensor
    entropy_BT: Tensor | None = None
    values_BT: Tensor | None = None
    returns_BT: Tensor | None = None
    state: State | None = None


# ---------------------------------------------------------------- KL


def kl_estimate(logp_BT: Tensor, ref_BT: Tensor, estimator: KLEstimator, old_BT: Tensor | None = None) -> Tensor:
    """Per-token estimate of KL(policy || reference) from d = logp - ref, d clamped to +-20, the exponentials to +-10.

    k1 d | k2 d^2 / 2 | k3 exp(-d) + d - 1 | k3+ value of k3, gradient of k2 | unbiased exp(logp - old) k3.
    Gradients with respect to logp: 1, d, 1 - exp(-d), d. As a loss k1 has expected gradient 0.
    http://joschu.net/blog/kl-approx.html; unbiased: DeepSeek-V3.2.
    """
    d_BT = (logp_BT - ref_BT).clamp(-20.0, 20.0)
    if estimator == "k1":
        return d_BT
    k2_BT = d_BT**2 / 2
    if estimator == "k2":
        return k2_BT
    k3_BT = (torch.exp(-d_BT) + d_BT - 1).clamp(-10.0, 10.0)
    if estimator == "k3+":
        return k3_BT.detach() + k2_BT - k2_BT.detach()
    if estimator == "unbiased":
        return torch.exp(logp_BT - _given(old_BT, "logp_old", "kl_estimator=unbiased")) * k3_BT
    return k3_BT


def kl_loss(update: Update, *, beta: float = 0.0, kl_estimator: KLEstimator = "k3") -> Tensor | None:
    """beta * aggregate(w KL estimate), with the policy's aggregator; w is `extras["kl_weight"]` [B], 1 without."""
    if not beta:
        return None
    batch = update.batch
    off_BT = ~batch.mask
    ref_BT = _given(batch.logp_ref, "logp_ref", "beta > 0").masked_fill(off_BT, 0.0)
    old_BT = None if batch.logp_old is None else batch.logp_old.masked_fill(off_BT, 0.0)
    kl_BT = kl_estimate(update.logp_BT.masked_fill(off_BT, 0.0), ref_BT, kl_estimator, old_BT)
    if "kl_weight" in batch.extras:
        kl_BT = kl_BT * batch.extras["kl_weight"][:, None]
    return beta * (update.weights.policy_BT * kl_BT).sum()


# ---------------------------------------------------------------- entropy


def entropy_bonus(update: Update, *, entropy_coef: float = 0.0) -> Tensor | None:
    """-entropy_coef * aggregate(H), with the policy's aggregator."""
    if not entropy_coef:
        return None
    return -entropy_coef * (update.weights.policy_BT * _entropy(update, "entropy_coef")).sum()


def epo_bonus(update: Update, *, epo_lambda: float = 0.0, epo_mean: EPOMean = "hierarchical") -> Tensor | None:
    """-lambda L_H, L_H the hierarchical mean of the entropy (token -> turn -> trajectory). EPO, arXiv 2509.22576.

    `epo_mean="flat"` takes the mean over all tokens instead, in which long turns count more.
    """
    if not epo_lambda:
        return None
    return -epo_lambda * (_epo_weights(update, epo_mean) * _entropy(update, "epo_lambda")).sum()


def epo_corridor(
    update: Update,
    *,
    epo_lambda: float = 0.0,
    epo_kappa_l: float = 0.0,
    epo_kappa_r: float = 2.0,
    epo_alpha: float = 0.1,
    epo_gamma: float = 3.0,
    epo_steps: int = 150,
    epo_mean: EPOMean = "hierarchical",
) -> Tensor | None:
    """lambda beta_k alpha * hierarchical mean of relu(kappa_l Hbar - H) + relu(H - kappa_r Hbar).

    Hbar is the mean of L_H over all earlier steps (`state["history"]`), a constant; nothing before the second step.
    The band is in units of Hbar; the gradient reaches H outside it and is exactly 0 inside. EPO v2, arXiv 2509.22576
    (v1's indicator has no gradient and is not offered). `epo_mean="flat"`: means over all tokens, here and in Hbar.
    """
    history = (update.state or {}).get("history" if epo_mean == "hierarchical" else "history_flat", [])
    if not epo_lambda or not history:
        return None
    mean = math.fsum(history) / len(history)
    penalty_BT = corridor(_entropy(update, "epo_lambda"), mean, epo_kappa_l, epo_kappa_r)
    phase = epo_phase(int((update.state or {}).get("step", len(history))), epo_steps, epo_gamma)
    return epo_lambda * phase * epo_alpha * (_epo_weights(update, epo_mean) * penalty_BT).sum()


def _epo_weights(update: Update, mean: EPOMean) -> Tensor:
    return update.weights.token_BT if mean == "flat" else update.weights.hierarchy_BT


def corridor(entropy: Tensor, mean: float, kappa_l: float, kappa_r: float) -> Tensor:
    """relu(kappa_l mean - H) + relu(H - kappa_r mean), elementwise."""
    return torch.relu(kappa_l * mean - entropy) + torch.relu(entropy - kappa_r * mean)


def epo_phase(step: int, steps: int, gamma: float) -> float:
    """beta_k = 1 + exp(-gamma k / floor(K / 2)): from 2 towards 1."""
    return 1.0 + math.exp(-gamma * step / max(steps // 2, 1))


def epo_state_update(state: State, batch: Batch, hierarchy_BT: Tensor) -> State:
    """State of the next step: k + 1 and the history with this step's hierarchical mean of sampling-time entropy.

    `batch.entropy` [B, T] covers the whole step; environment tokens and padding carry no weight. JSON-serialisable.
    `history_flat` is that of the mean over all tokens.
    """
    entropy_BT = _given(batch.entropy, "entropy", "epo_lambda > 0").masked_fill(~batch.mask, 0.0)
    mean = float((hierarchy_BT * entropy_BT).sum())
    history = [float(past) for past in state.get("history", [])]
    flat = [*(float(past) for past in state.get("history_flat", [])), float(entropy_BT[batch.mask].mean())]
    return {"step": int(state.get("step", len(history))) + 1, "history": [*history, mean], "history_flat": flat}


def epo_warn(kappa_l: float) -> None:
    """Warn when the corridor's floor cannot act."""
    if kappa_l == 0.0:
        warnings.warn(
            "epo_kappa_l=0 (the paper's setting) makes the corridor's floor inert, since entropy is never negative: "
            "the penalty can then only lower entropy. Set epo_kappa_l > 0 if it should stop a collapse.",
            stacklevel=3,
        )


# ---------------------------------------------------------------- critic


def value_loss(update: Update, *, value_coef: float = 1.0, value_clip: float | None = 0.2) -> Tensor | None:
    """value_coef * 0.5 * token mean of max((v - R)^2, (v_old + clip(v - v_old, +-value_clip) - R)^2). PPO."""
    if not value_coef:
        return None
    off_BT = ~update.batch.mask
    values_BT = _given(update.values_BT, "values", "value_coef > 0").masked_fill(off_BT, 0.0)
    returns_BT = _given(update.returns_BT, "returns", "value_coef > 0")
    error_BT = (values_BT - returns_BT) ** 2
    if value_clip is not None:
        old_BT = _given(update.batch.values, "values", "value_clip").masked_fill(off_BT, 0.0)
        clipped_BT = old_BT + (values_BT - old_BT).clamp(-value_clip, value_clip)
        error_BT = torch.maximum(error_BT, (clipped_BT - returns_BT) ** 2)
    return value_coef * 0.5 * (update.weights.token_BT * error_BT).sum()


def _entropy(update: Update, setting: str) -> Tensor:
    return _given(update.entropy_BT, "entropy", f"{setting} > 0").masked_fill(~update.batch.mask, 0.0)


def _given(value: Tensor | None, name: str, setting: str) -> Tensor:
    if value is None:
        raise RequestError(f"Expected {name} [B, T] because of {setting}, got None; compute it or turn that off.")
    return value
