"""Other trainers' shapes: TRL's environments and rollouts, records for TRL, tinker and OpenEnv."""

from __future__ import annotations

from .exports import to_openenv, to_tinker, to_trl
from .trl import dataset, environment_factory, episode_reward, rollout_func

__all__ = ["dataset", "environment_factory", "episode_reward", "rollout_func", "to_openenv", "to_tinker", "to_trl"]
