"""Planted bugs, by what they are in."""

from . import browser, catalogue, core, environments, evaluation, games, protocols, sandbox
from .record import Mutant

__all__ = ["MUTANTS", "Mutant"]

MUTANTS = (
    *browser.MUTANTS,
    *core.MUTANTS,
    *catalogue.MUTANTS,
    *environments.MUTANTS,
    *evaluation.MUTANTS,
    *games.MUTANTS,
    *protocols.MUTANTS,
    *sandbox.MUTANTS,
)
