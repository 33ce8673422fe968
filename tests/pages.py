"""What the documentation says of an environment, for tests that compare it with the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest


def section_of(id: str) -> str:
    """The environment's section of `docs/environments.md`; skips where the documentation is not beside the tests."""
    page = Path(__file__).parent.parent / "docs" / "environments.md"
    if not page.is_file():
        pytest.skip("the documentation is not beside the tests")
    return re.split(r"\n## ", page.read_text().split(f"\n## {id}\n")[1])[0]
