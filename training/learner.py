"""The update: forward passes, loss, optimiser. Mathematics is in `objective`; this file feeds it.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..envs.errors import RequestError
from . import diagnostics, shades
from .algorithms import Algorithm, needs
from .batch import Batch
from .catalogue.process import outcome_pull
from .collate import Encoded
from .config import RLConfig
from .credit import total_rewards
from .critic import Critic
from .curvature import action_curvature
from .extract import follow_trainer
from .objective import Coefficient, advantages, coefficient, loss_weights, next_state, reward, total_loss
from .parameters import call
from .regularizers import Update
from .scoring import micro_batches, score_actions


class _Reading(NamedTuple):
    """What one forward pass says of some rows, padded to the batch's width."""

    logp_BT: Tensor
    entropy_BT: Tensor
    mean_logp_BT: Tensor
    values_BT: Tensor | None
    final_B: Tensor | None


class _Pass(NamedTuple):
    """What the gradient pass over a minibatch read and did, [B, T]."""

    logp_BT: Tensor
    entropy_BT: Tensor
    coef_BT: Tensor


class Learner:
    """Policy, critic and reference with their optimisers; `update` takes one step of the algorithm."""

    def __init__(
        self,
        model: PreTrainedModel,
        algorithm: Algorithm,
        params: Mapping[str, Any],
        config: RLConfig,
        *,
        micro_tokens: int,
        autocast: torch.dtype | None = None,
        reference: PreTrainedModel | None = None,
    ) -> None:
        self.model, self.algorithm, self.params, self.config = model, algorithm, params, config
        self.micro_tokens, self.autocast = micro_tokens, autocast
        self.needs = needs(algorithm, params)
        self.reference = reference
        self.critic = Critic(model) if "critic" in self.needs else None
        self.state: dict[str, Any] = {}
        """Controllers (EPO's history and step count): JSON values, part of every checkpoint."""
        self.optimizers = {"policy": _adamw(model, config.lr, config.weight_decay)}
        if self.critic is not None:
            self.optimizers["critic"] = _adamw(self.critic, config.critic_lr, config.weight_decay)
        self.process = copy.deepcopy(model) if "process_model" in self.needs else None
        """PRIME's model of process rewards; starts as the policy."""
        if self.process is not None:
            self.optimizers["process"] = _adamw(self.process, config.critic_lr, config.weight_decay)
        self.shades: shades.Shades = {}
        """Of the last update, token by token: for whoever wants to see what it made of an episode."""
        self.by_turn = "turn_by_turn" in self.needs
        if self.by_turn and config.epochs * config.minibatches > 1:
            raise RequestError(
                f"Expected rl.epochs=1 and rl.minibatches=1 for {algorithm.name}, got {config.epochs} and "
                f"{config.minibatches}: it makes one update per turn index."
            )
        # One update per batch and nothing that must be known before it: the gradient pass itself then
        # gives the log-probs of the policy that sampled, which saves a forward pass over everything.
        # An entropy that a slot asks for, whatever the terms, is one of the policy before the update.
        asks_before = self.by_turn or self.process is not None or "entropy" in algorithm.needs
        single = config.epochs * config.minibatches == 1 and self.critic is None
        self.fused = single and not asks_before and not params["kl_reward_coef"]

    def update(self, encoded: Encoded, step: int) -> dict[str, float]:
        """One algorithm step over a whole batch; returns its metrics, means over tokens unless named otherwise."""
        self._set_lr(step)
        self.model.eval()  # no dropout: the ratio must be 1 before the first update
        ids, batch = encoded.ids.to(self.model.device), encoded.batch.to(self.model.device)
        batch = dataclasses.replace(self._with_reference(ids, batch, encoded.lengths), state=self.state)
        if not self.fused:
            batch = self._with_old(ids, batch, encoded.lengths)
        if self.process is not None:
            batch = self._with_process_rewards(ids, batch, encoded.lengths)
        credit = advantages(self.algorithm, self.params, batch)
        batch = dataclasses.replace(batch, extras={**batch.extras, **credit.extras})
        metrics = dict(credit.metrics)
        sums: dict[str, list[float]] = {}
        adv_BT, coef_BT = credit.adv_BT, torch.full_like(credit.adv_BT, torch.nan)
        if self.by_turn:
            adv_BT, coef_BT = self._turn_by_turn(ids, batch, encoded.lengths, sums)
        for rows in () if self.by_turn else self._minibatches(batch, step):
            returns = None if credit.returns_BT is None else credit.returns_BT[rows]
            done = self._minibatch(ids[rows], batch.rows(rows), adv_BT[rows], credit.weight_BT[rows], returns,
                                   [encoded.lengths[i] for i in rows.tolist()], sums)  # fmt: skip
            coef_BT[rows] = torch.where(coef_BT[rows].isnan(), done.coef_BT, coef_BT[rows])  # of the first epoch
            if self.fused:
                batch = dataclasses.replace(batch, logp_old=done.logp_BT, entropy=done.entropy_BT)
        metrics.update({name: sum(values) / len(values) for name, values in sums.items()})
        metrics.update(diagnostics.sampler_gap(batch))
        assert batch.entropy is not None
        metrics["entropy"] = float(batch.entropy[batch.mask].mean())
        with torch.no_grad():
            rewards = reward(self.algorithm, self.params, batch)
            metrics |= diagnostics.of_batch(batch, rewards, self.params.get("gamma", 1.0))
        self.shades = shades.by_turn(batch, advantage=adv_BT, coefficient=coef_BT, entropy=batch.entropy)
        self.state = next_state(self.algorithm, self.params, self.state, batch)
        if self.process is not None:
            metrics |= self._fit_process(ids, batch, encoded.lengths)
        return metrics

    def restore(self, state: dict[str, Any]) -> None:
        """Take over the state of a checkpoint; `load_tensors` has to follow."""
        self.state = state
        if state.get("reincarnated"):
            self.reincarnate()

    def reincarnate(self) -> None:
        """The policy becomes its own reference, and from here on a batch is passed over once (ReMix)."""
        assert self.reference is not None
        with torch.no_grad():
            for own, new in zip(self.reference.parameters(), self.model.parameters(), strict=True):
                own.copy_(new)
        self.config = self.config.model_copy(update={"epochs": 1})
        self.state = {**self.state, "reincarnated": True}

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Weights besides the policy's, for a checkpoint."""
        found = {} if self.critic is None else {"critic_model": dict(self.critic.state_dict())}
        if self.process is not None:  # parameters, not the state dict: tied weights may be stored once only
            found["process_model"] = dict(self.process.named_parameters())
        if self.reference is not None and self.state.get("reincarnated"):
            found["reference_model"] = dict(self.reference.named_parameters())
        return found

    def load_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave for a checkpoint."""
        module = {"critic_model": self.critic, "process_model": self.process, "reference_model": self.reference}[name]
        assert module is not None
        with torch.no_grad():
            own = module.state_dict()
            for key, weight in tensors.items():
                own[key].copy_(weight)

    # ---- one update -------------------------------------------------------------------------------

    def _minibatch(
        self,
        ids: Tensor,
        batch: Batch,
        adv: Tensor,
        chosen: Tensor,
        returns: Tensor | None,
        lengths: list[int],
        sums: dict[str, list[float]],
    ) -> _Pass:
        """Accumulate gradients over micro-batches, step the optimisers."""
        weights = loss_weights(self.algorithm, self.params, batch, chosen)
        if "curvature" in self.needs:
            batch = self._with_curvature(ids, batch, adv, lengths)
        whole = self._coefficients_of_whole(ids, batch, adv, lengths)
        done = _Pass(*(torch.zeros_like(adv) for _ in range(3)))
        tokens = int(batch.mask.sum())
        added: dict[str, float] = {}
        for micro in micro_batches(lengths, self.micro_tokens):
            index = torch.tensor(micro, device=adv.device)
            read = self._read(ids, batch.mask, lengths, micro, grad=True)
            part = batch.rows(index)
            if self.fused:
                old = {"mean_logp_old": read.mean_logp_BT}
                part = dataclasses.replace(part, logp_old=read.logp_BT.detach(), extras={**part.extras, **old})
                part = follow_trainer(part)
            if "mean_logp" in self.needs:
                part = dataclasses.replace(part, extras={**part.extras, "mean_logp": read.mean_logp_BT})
            if whole is None:
                coef = coefficient(self.algorithm, self.params, part, adv[index], read.logp_BT)
            else:
                coef = Coefficient(whole.coef_BT[index], whole.keep_BT[index], whole.surrogate_BT[index], whole.metrics)
            seen = None if returns is None else returns[index]
            view = Update(part, weights.rows(index), read.logp_BT, read.entropy_BT, read.values_BT, seen, self.state)
            loss, terms = total_loss(self.algorithm, self.params, view, coef)
            loss.backward()
            for kept, value in zip(done, (read.logp_BT, read.entropy_BT, coef.coef_BT), strict=True):
                kept[index] = value.detach()
            silent = {"masked": _silenced(part.mask, adv[index], coef.coef_BT, weights.policy_BT[index])}
            _add(added, terms, {**coef.metrics, **silent}, int(part.mask.sum()) / tokens)
        for name, value in {**added, **self._step()}.items():
            sums.setdefault(name, []).append(value)
        return done

    def _step(self) -> dict[str, float]:
        """Step policy and critic on the gradients gathered; returns their norms before clipping."""
        norms = {}
        for name in [name for name in self.optimizers if name != "process"]:  # that one has a loss of its own
            optimizer = self.optimizers[name]
            norms[f"grad_norm/{name}"] = float(nn.utils.clip_grad_norm_(_parameters(optimizer), self.config.grad_clip))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return norms

    def _turn_by_turn(
        self, ids: Tensor, batch: Batch, lengths: list[int], sums: dict[str, list[float]]
    ) -> tuple[Tensor, Tensor]:
        """One update per turn index, the last first; each later turn's log-probs after its update are `logp_after`.

        Returns advantages and coefficients, of each turn those of its own update.
        """
        assert batch.logp_old is not None
        after = batch.logp_old.clone()
        adv_BT, coef_BT = torch.zeros_like(after), torch.zeros_like(after)
        for turn in range(int(batch.turn.max()), -1, -1):
            batch = dataclasses.replace(batch, extras={**batch.extras, "logp_after": after})
            credit = advantages(self.algorithm, self.params, batch)
            own = batch.turn == turn
            rows = own.any(1).nonzero()[:, 0]
            part = batch.rows(rows)
            part = dataclasses.replace(part, mask=own[rows], turn=part.turn.masked_fill(~own[rows], -1))
            long = [lengths[i] for i in rows.tolist()]
            done = self._minibatch(ids[rows], part, credit.adv_BT[rows], credit.weight_BT[rows], None, long, sums)
            adv_BT[own], coef_BT[rows] = credit.adv_BT[own], coef_BT[rows] + done.coef_BT
            moved = self._with_old(ids[rows], part, long).logp_old
            assert moved is not None
            after = after.index_put((rows,), torch.where(own[rows], moved, after[rows]))
        return adv_BT, coef_BT

    def _with_process_rewards(self, ids: Tensor, batch: Batch, lengths: list[int]) -> Batch:
        """The batch with log pi_phi - log pi_ref of each action token."""
        assert self.process is not None and batch.logp_ref is not None
        gap = (self._logps(self.process, ids, batch.mask, lengths) - batch.logp_ref).masked_fill(~batch.mask, 0.0)
        return dataclasses.replace(batch, extras={**batch.extras, "process_rewards": gap})

    def _fit_process(self, ids: Tensor, batch: Batch, lengths: list[int]) -> dict[str, float]:
        """One step of the process model on the outcomes of this batch."""
        assert self.process is not None
        with torch.no_grad():
            pull = call(outcome_pull, batch, call(total_rewards, batch, params=self.params), params=self.params)
        for micro in micro_batches(lengths, self.micro_tokens):
            width = max(lengths[i] for i in micro)
            with torch.autocast(ids.device.type, self.autocast, enabled=self.autocast is not None):
                scores = score_actions(
                    self.process, ids[micro, :width], batch.mask[micro, :width], self.config.temperature
                )
            (pull[micro, :width] * scores.logp_BT).sum().backward()
        optimizer = self.optimizers["process"]
        norm = nn.utils.clip_grad_norm_(_parameters(optimizer), self.config.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        found = {f"process/{name}": float(value) for name, value in self.state["process"].items()}
        return {**found, "grad_norm/process": float(norm)}

    def _read(self, ids: Tensor, mask: Tensor, lengths: list[int], micro: list[int], grad: bool) -> _Reading:
        """Forward pass of the rows `micro`, cut to their own width."""
        index = torch.tensor(micro, device=ids.device)
        width = max(lengths[i] for i in micro)
        own_ids, own_mask = ids[index, :width], mask[index, :width]
        pad = (0, ids.shape[1] - width)
        with (
            torch.set_grad_enabled(grad),
            torch.autocast(ids.device.type, self.autocast, enabled=self.autocast is not None),
        ):
            scores = score_actions(
                self.model, own_ids, own_mask, self.config.temperature,
                entropy_grad="entropy" in self.needs, mean_logp="mean_logp" in self.needs,
            )  # fmt: skip
            values = self.critic(own_ids) if self.critic is not None else None
        final = None
        if values is not None:
            ends = torch.tensor([lengths[i] for i in micro], device=ids.device)
            final = values.gather(1, ends[:, None])[:, 0]
            values = nn.functional.pad(values[:, :-1] * own_mask, pad)
        logp, entropy, mean_logp = (nn.functional.pad(x_BT, pad) for x_BT in scores)
        return _Reading(logp, entropy, mean_logp, values, final)

    def _with_old(self, ids: Tensor, batch: Batch, lengths: list[int]) -> Batch:
        """The batch with log-probs, entropies and values of the policy as it is now."""
        names = ("logp_old", "entropy", "mean_logp_old")
        out: dict[str, Tensor] = {name: torch.zeros(ids.shape, device=ids.device) for name in names}
        if self.critic is not None:
            out |= {
                "values": torch.zeros(ids.shape, device=ids.device),
                "final_values": torch.zeros(len(ids), device=ids.device),
            }
        for micro in micro_batches(lengths, self.micro_tokens):
            read = self._read(ids, batch.mask, lengths, micro, grad=False)
            for name, x_BT in zip(names, read[:3], strict=True):
                out[name][micro] = x_BT
            if read.values_BT is not None and read.final_B is not None:
                out["values"][micro] = read.values_BT
                out["final_values"][micro] = read.final_B
        extras = {**batch.extras, "mean_logp_old": out.pop("mean_logp_old")}
        return follow_trainer(dataclasses.replace(batch, **out, extras=extras))

    def _with_reference(self, ids: Tensor, batch: Batch, lengths: list[int]) -> Batch:
        if self.reference is None:
            return batch
        return dataclasses.replace(batch, logp_ref=self._logps(self.reference, ids, batch.mask, lengths))

    def _with_curvature(self, ids: Tensor, batch: Batch, adv: Tensor, lengths: list[int]) -> Batch:
        """The batch with what one optimiser step on each token would do, by the weights and moments as they are now."""
        hessian, fisher = torch.zeros_like(adv), torch.zeros_like(adv)
        for micro in micro_batches(lengths, self.micro_tokens):
            width = max(lengths[i] for i in micro)
            with torch.autocast(ids.device.type, self.autocast, enabled=self.autocast is not None):
                found = action_curvature(
                    self.model, ids[micro, :width], batch.mask[micro, :width], adv[micro, :width],
                    self.optimizers["policy"], self.config.temperature,
                )  # fmt: skip
            hessian[micro, :width], fisher[micro, :width] = found
        return dataclasses.replace(batch, extras={**batch.extras, "m_H": hessian, "m_F": fisher})

    def _logps(self, model: PreTrainedModel, ids: Tensor, mask: Tensor, lengths: list[int]) -> Tensor:
        """[B, T] log-probs of another model, without gradient."""
        logp = torch.zeros(ids.shape, device=ids.device)
        for micro in micro_batches(lengths, self.micro_tokens):
            width = max(lengths[i] for i in micro)
            with torch.no_grad(), torch.autocast(ids.device.type, self.autocast, enabled=self.autocast is not None):
                scores = score_actions(model, ids[micro, :width], mask[micro, :width], self.config.temperature)
            logp[micro, :width] = scores.logp_BT
        return logp

    def _coefficients_of_whole(self, ids: Tensor, batch: Batch, adv: Tensor, lengths: list[int]) -> Any:
        """Coefficients that couple rows of a minibatch, by a forward pass of their own; None where rows stand alone."""
        rows_alone = len(batch.trajectories.group_M) == len(batch.group)
        coupled = "whole_minibatch" in self.needs or ("unit_complete" in self.needs and not rows_alone)
        if not coupled:
            return None
        old = self._with_old(ids, batch, lengths)
        assert old.logp_old is not None
        batch = old if self.fused else batch
        now = {"mean_logp": old.extras["mean_logp_old"]}  # read by this very pass
        batch = dataclasses.replace(batch, extras={**batch.extras, **now})
        return coefficient(self.algorithm, self.params, batch, adv, old.logp_old)

    def _minibatches(self, batch: Batch, step: int) -> Iterator[Tensor]:
        """Row indices of each update: trajectories shuffled by (step, epoch), never split across updates."""
        row_B, count = batch.trajectories.row_B, len(batch.trajectories.group_M)
        if self.config.epochs * self.config.minibatches == 1:
            yield torch.arange(len(row_B), device=row_B.device)
            return
        for epoch in range(self.config.epochs):
            order = list(range(count))
            random.Random(step * 1009 + epoch).shuffle(order)
            size = -(-count // self.config.minibatches)
            for start in range(0, count, size):
                chosen = torch.tensor(order[start : start + size], device=row_B.device)
                yield torch.isin(row_B, chosen).nonzero()[:, 0]

    def _set_lr(self, step: int) -> None:
        """Linear warm-up; 0 for the policy while an untrained critic would give it noise for advantages."""
        share = min(1.0, (step + 1) / self.config.warmup) if self.config.warmup else 1.0
        waits = self.critic is not None and step < self.config.critic_warmup
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                own = self.config.lr * (not waits) if name == "policy" else self.config.critic_lr
                group["lr"] = share * own


def _adamw(module: nn.Module, lr: float, weight_decay: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(module.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=weight_decay)


def _add(sums: dict[str, float], terms: Mapping[str, Tensor], means: Mapping[str, float], share: float) -> None:
    """Add a micro-batch: terms are parts of sums already; means count by their share of the action tokens."""
    for name, value in terms.items():
        sums[f"loss/{name}"] = sums.get(f"loss/{name}", 0.0) + float(value)
        sums["loss"] = sums.get("loss", 0.0) + float(value)
    for name, value in means.items():
        largest = name.endswith("/max")
        sums[name] = max(sums.get(name, value), value) if largest else sums.get(name, 0.0) + share * value


def _silenced(mask: Tensor, adv: Tensor, coef: Tensor, weight: Tensor) -> float:
    """Share of action tokens with an advantage from which clips, masks or selectors took the gradient."""
    return float((mask & (adv != 0) & ((coef == 0) | (weight == 0))).sum() / mask.sum().clamp(min=1))


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]
