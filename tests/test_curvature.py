"""CAPO in a run: what an optimiser step on one token would do, against autograd and torch's own Adam."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from turnwise.agents.models import ScratchModel, build_model, build_tokenizer
from turnwise.training import curvature as curvature_of
from turnwise.training import recipes, trainer
from turnwise.training.config import override
from turnwise.training.curvature import action_curvature
from turnwise.training.run import Run
from turnwise.training.scoring import score_actions


def _capo_rows() -> tuple[Any, Tensor, Tensor, Tensor]:
    """A tiny policy in float64, two rows of ids, which of them are actions, and an advantage for each."""
    vocabulary = build_tokenizer(["open the red green blue door"], ScratchModel())
    sizes = ScratchModel(layers=1, hidden=32, heads=1, kv_heads=1, ffn=32, context=32)
    model = build_model(vocabulary, sizes, 3).double()
    ids = torch.randint(0, len(vocabulary), (2, 6), generator=torch.Generator().manual_seed(0))
    action = torch.tensor([[0, 1, 1, 0, 1, 1], [0, 0, 1, 1, 0, 0]], dtype=torch.bool)
    adv = torch.linspace(-2.0, 2.0, 12, dtype=torch.float64).view(2, 6) * action
    return model, ids, action, adv


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("steps", [0, 3])
def test_a_run_fills_capos_curvature(steps: int, temperature: float) -> None:
    """Against autograd: a token's objective A pi(W + eta g^) / pi(W), its first and second derivative in eta at 0."""
    model, ids, action, adv = _capo_rows()
    lr, head = 0.05, model.get_output_embeddings()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95))
    for _ in range(steps):
        score_actions(model, ids, action, temperature).logp_BT.sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    hessian, fisher = action_curvature(model, ids, action, adv, optimizer, temperature)
    state = optimizer.state.get(head.weight)
    hidden = model.base_model(input_ids=ids).last_hidden_state.detach()
    for b, t in action.nonzero().tolist():
        x, token = hidden[b, t - 1], int(ids[b, t])

        def logp(W: Tensor, x: Tensor = x, token: int = token) -> Tensor:
            return torch.log_softmax(W @ x / temperature, 0)[token]

        W = head.weight.detach().clone().requires_grad_()
        step = torch.autograd.grad(adv[b, t] * logp(W), W)[0]
        if state:  # what torch's own Adam would do next with this gradient alone, without its decay of weights
            twin = torch.nn.Parameter(torch.zeros_like(W))
            adam = torch.optim.AdamW([twin], lr=1.0, betas=(0.9, 0.95), weight_decay=0.0)
            adam.state[twin] = {key: value.clone() for key, value in state.items()}
            twin.grad = -step
            adam.step()
            step = twin.detach()
        eta = torch.zeros((), dtype=torch.float64, requires_grad=True)
        objective = adv[b, t] * (logp(W.detach() + eta * step) - logp(W.detach())).exp()
        first = torch.autograd.grad(objective, eta, create_graph=True)[0]
        second = torch.autograd.grad(first, eta)[0]
        first, second = float(first.detach()), float(second.detach())
        # the readings are float32 inside, as in the trainer
        assert float(hessian[b, t]) == pytest.approx(lr * first + lr**2 / 2 * second, rel=1e-4, abs=1e-7)
        assert float(fisher[b, t]) == pytest.approx(lr**2 / 2 * (first / float(adv[b, t])) ** 2, rel=1e-4, abs=1e-7)
    assert (hessian[~action] == 0).all() and (fisher[~action] == 0).all()


def test_the_sampled_token_is_among_the_rows_that_are_followed() -> None:
    prob = torch.softmax(torch.arange(40.0), 0).repeat(2, 1)
    rows = curvature_of._rows(prob, torch.tensor([3, 39]))
    assert (
        rows.shape == (2, 32)
        and set(rows[0].tolist()) == {3, *range(9, 40)}
        and set(rows[1].tolist()) == {*range(8, 40)}
    )


def test_a_learning_rate_of_0_moves_nothing() -> None:
    model, ids, action, adv = _capo_rows()
    hessian, fisher = action_curvature(model, ids, action, adv, torch.optim.AdamW(model.parameters(), lr=0.0))
    assert not hessian.any() and not fisher.any()


def test_capo_masks_more_the_tighter_its_bounds(tmp_path: Path) -> None:
    """In a run: no bound keeps every token, a bound of 0 none; the policy then stays as it was."""
    masked = {}
    for bound in (0.0, 1e-3, 1e9):
        small = {
            "slots.guards": "capo", "params.capo_hessian": bound, "params.capo_fisher": bound, "rl.steps": 2,
            "rl.tasks_per_step": 4, "rl.samples_per_task": 4, "sft.demos": 64, "env.eval_tasks": 4,
        }  # fmt: skip
        trainer.train(override(recipes.load("toy"), small), tmp_path / f"{bound}")
        masked[bound] = Run.open(tmp_path / f"{bound}").metrics()["clip_fraction"][-1][1]
    assert masked[0.0] == 1.0 and 0 < masked[1e-3] < 1 and masked[1e9] == 0.0
