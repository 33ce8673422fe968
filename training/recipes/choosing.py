"""Tools and a shop by the number of a listed command: names that no policy has met need not be copied."""

from __future__ import annotations

from ...agents.context import Context
from ...agents.models import ScratchModel
from ..config import EngineConfig, EnvConfig, Recipe, RLConfig, SFTConfig


def _recipe(name: str, env: EnvConfig, demos: int, rl: RLConfig) -> Recipe:
    return Recipe(
        name=name,
        env=env,
        context=Context(goal="never", commands=True, answer="number", max_action_tokens=3, max_tokens=3072),
        model=ScratchModel(vocabulary=1500, context=3072),
        rewards={"outcome": 1.0, "progress": 0.5},
        algorithm="gigpo",
        params={"normalize": False, "beta": 0.0, "epo_lambda": 0.01, "epo_kappa_l": 0.5},
        sft=SFTConfig(demos=demos, lr=4e-3, batch_tokens=2048),
        rl=rl,
        engine=EngineConfig(threads=1),
    )


def servicedesk_small() -> Recipe:
    """Tool calls at a service desk: two kinds of request, a decision tree each, one policy known by its number."""
    env = EnvConfig(
        id="turnwise/ServiceDesk-v0",
        params={"depth": 1, "categories": 2, "customers": 1, "policy": 5, "policy_text": "id"},
        options={"schemas": "none", "commands": True},
        train_tasks=1000,
        eval_tasks=200,
    )
    return _recipe("servicedesk_small", env, 120, RLConfig(steps=24, tasks_per_step=16, samples_per_task=6, lr=6e-4))


def shop_small() -> Recipe:
    """The text shop: 100 products, one attribute and one option asked for; WebShop's reward beside strict success."""
    env = EnvConfig(
        id="turnwise/Shop-v0",
        params={"products": 100, "attributes": 1, "options": 1, "max_turns": 10},
        train_tasks=2000,
        eval_tasks=200,
    )
    return _recipe("shop_small", env, 1500, RLConfig(steps=24, tasks_per_step=16, samples_per_task=6, lr=6e-4))
