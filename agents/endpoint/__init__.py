"""An OpenAI-compatible endpoint in front of an engine: agent programs are trained as they are."""

from __future__ import annotations

from .agent import ServedProgram
from .programs import Finished, ProgramRun, play_programs
from .server import OpenAIServer

__all__ = ["Finished", "OpenAIServer", "ProgramRun", "ServedProgram", "play_programs"]
