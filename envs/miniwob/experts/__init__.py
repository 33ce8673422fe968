"""Scripted experts: the next action of a MiniWoB++ task from its instruction and what the page shows."""

from __future__ import annotations

from . import apps, clicks, drags, forms, numbers, pictures, pointing
from .page import Expert, Page

__all__ = ["EXPERTS", "Expert", "Page"]

EXPERTS: dict[str, Expert] = {
    **clicks.EXPERTS,
    **forms.EXPERTS,
    **numbers.EXPERTS,
    **apps.EXPERTS,
    **pointing.EXPERTS,
    **drags.EXPERTS,
    **pictures.EXPERTS,
}
"""Task name -> its expert."""
