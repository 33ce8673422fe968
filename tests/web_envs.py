"""Environments that tests register: a page that hangs, and tasks without a known expert."""

from __future__ import annotations

from turnwise.envs import RequestError, State, Task
from turnwise.envs.shop.browser_env import ShopBrowserEnv
from turnwise.envs.toy import ToyEnv


class HangingShop(ShopBrowserEnv):
    """Its expert asks for a script that never ends."""

    id = "tests/HangingShop-v0"

    @classmethod
    def tasks(cls, split: str, count: int | None = None, **params: object) -> list[Task]:
        return [task.model_copy(update={"env": cls.id}) for task in super().tasks(split, count, **params)]

    def act(self, action: str) -> State:
        self._browser.evaluate("() => { while (true) {} }")
        return super().act(action)

    def expert(self) -> str:
        return "hang"


class HalfKnown(ToyEnv):
    """Signs, of which every second task has no expert."""

    id = "tests/HalfKnown-v0"

    @classmethod
    def tasks(cls, split: str, count: int | None = None, **params: object) -> list[Task]:  # type: ignore[override]
        return [task.model_copy(update={"env": cls.id}) for task in super().tasks(split, count)]

    @classmethod
    def has_expert(cls, task: Task) -> bool:
        return task.seed % 2 == 0

    def expert(self) -> str:
        assert self.task is not None
        if not self.has_expert(self.task):
            raise RequestError("no expert is known")
        return super().expert()
