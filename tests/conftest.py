"""What every test module shares: the registry is as it was before the module registered its own environments."""

from __future__ import annotations

from collections.abc import Iterator

import gymnasium
import pytest
from hypothesis import settings
from turnwise.envs import registry

# No test asserts how long something takes: a machine that others use is slow at any moment.
settings.register_profile("turnwise", deadline=None)
settings.load_profile("turnwise")


@pytest.fixture(autouse=True, scope="module")
def registry_as_it_was() -> Iterator[None]:
    """Forget what this module's tests register."""
    before = registry.specs()
    yield
    for id in set(registry.specs()) - set(before):
        del registry._SPECS[id]
        gymnasium.registry.pop(id, None)
