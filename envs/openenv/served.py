"""What a server serves: the tasks of one environment, by split, index, key or seed."""

from __future__ import annotations

from typing import Any

from gymnasium.utils import seeding

from .. import registry
from ..errors import RequestError, UnknownName
from ..task import Task

RESET_KEYS = ("seed", "episode_id", "split", "index", "task")
"""What a reset may say: which task, in one of three ways, and a name for the episode."""


class Served:
    """One environment with its parameters; `splits` limits what is played to these splits."""

    def __init__(self, id: str, splits: tuple[str, ...] = (), params: dict[str, Any] | None = None) -> None:
        self.spec = registry.require(id)
        self.params = params or {}
        known = registry.splits(self.spec.id, **self.params)
        for split in splits:
            if split not in known:
                raise UnknownName(f"split of {self.spec.id}", split, known)
        self.splits = splits or tuple(split for split, size in known.items() if size)
        if not self.splits:
            raise RequestError(f"{self.spec.id} has no task here. `turnwise envs` says what is missing.")
        self.name = self.spec.id.rpartition("/")[2]
        """The environment in addresses of the task API."""
        self._listed: dict[str, list[Task]] = {}
        self._keys: dict[str, dict[str, Task]] = {}
        self.tasks(self.splits[0])  # parameters that the environment does not take are refused before anyone connects

    def tasks(self, split: str) -> list[Task]:
        """All tasks of a served split."""
        if split not in self.splits:
            raise UnknownName(f"split that is served of {self.spec.id}", split, self.splits)
        if split not in self._listed:
            self._listed[split] = registry.tasks(self.spec.id, split, **self.params)
        return self._listed[split]

    def choose(self, data: dict[str, Any]) -> Task:
        """The task that a reset asks for; without a word, a random one of the first split.

        A seed draws from the split as `TextEnv.reset(seed=…)` does.
        """
        if unknown := sorted(set(data) - set(RESET_KEYS)):
            raise RequestError(f"Expected reset parameters among {', '.join(RESET_KEYS)}, got {', '.join(unknown)}.")
        if (key := data.get("task")) is not None:
            return self._by_key(key)
        listed = self.tasks(data.get("split") or self.splits[0])
        if (index := data.get("index")) is not None:
            if not isinstance(index, int) or not 0 <= index < len(listed):
                raise RequestError(f"Expected an index from 0 to {len(listed) - 1}, got {index!r}.")
            return listed[index]
        seed = data.get("seed")
        if seed is not None and (not isinstance(seed, int) or seed < 0):
            raise RequestError(f"Expected a seed of 0 or more, got {seed!r}.")
        return listed[int(seeding.np_random(seed)[0].integers(len(listed)))]

    def described(self, split: str) -> list[dict[str, Any]]:
        """The tasks of a split as the task API lists them; `expert` says whether one is known to win it."""
        cls = registry.env_class(self.spec.id)
        return [
            {"id": task.key, "index": index, "split": split, "goal": task.goal, "max_turns": task.max_turns,
             "difficulty": task.difficulty, "expert": cls.has_expert(task)}
            for index, task in enumerate(self.tasks(split))
        ]  # fmt: skip

    def _by_key(self, key: Any) -> Task:
        for split in self.splits:
            if split not in self._keys:
                self._keys[split] = {task.key: task for task in self.tasks(split)}
            if isinstance(key, str) and key in self._keys[split]:
                return self._keys[split][key]
        raise RequestError(f"Expected the key of a task in the split(s) {', '.join(self.splits)}, got {key!r}.")
