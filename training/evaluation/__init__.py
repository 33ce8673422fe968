"""Held-out evaluation that says how sure it is. Pure functions over outcomes, and the players that obtain them."""

from .episodes import Evaluation, compare, evaluate, summarise
from .intervals import Interval, paired_difference, success_interval

__all__ = ["Evaluation", "Interval", "compare", "evaluate", "paired_difference", "success_interval", "summarise"]
