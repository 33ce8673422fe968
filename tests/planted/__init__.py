"""Planted bugs, by what they are in."""

from . import catalogue, core, environments, evaluation, protocols, sandbox
from .record import Mutant

__all__ = ["MUTANTS", "Mutant"]

MUTANTS = (
    *core.MUTANTS,
    *catalogue.MUTANTS,
    *environments.MUTANTS,
    *evaluation.MUTANTS,
    *protocols.MUTANTS,
    *sandbox.MUTANTS,
)
