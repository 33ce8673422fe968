"""Microsoft TextWorld: generated text games in five families."""

from __future__ import annotations

from .games import prepare

__all__ = ["prepare"]
