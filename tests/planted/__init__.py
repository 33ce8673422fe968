"""Planted bugs, by what they are in."""

from . import catalogue, core, environments, evaluation, games
from .record import Mutant

__all__ = ["MUTANTS", "Mutant"]

MUTANTS = (*core.MUTANTS, *catalogue.MUTANTS, *environments.MUTANTS, *evaluation.MUTANTS, *games.MUTANTS)
