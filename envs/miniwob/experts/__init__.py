"""Scripted experts: the next action of a MiniWoB++ task from its instruction and what the page shows."""

from __future__ import annotations

from . import apps, clicks, forms, numbers
from .page import Expert, Page

__all__ = ["EXPERTS", "Expert", "Page"]

EXPERTS: dict[str, Expert] = {**clicks.EXPERTS, **forms.EXPERTS, **numbers.EXPERTS, **apps.EXPERTS}
"""Task name -> its expert; of every other task none is known."""
