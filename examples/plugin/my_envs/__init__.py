"""Environments of your own. Importing this imports no game: `turnwise envs` stays fast."""

from turnwise.envs import register


def register_all() -> None:
    """Called once by turnwise, through the entry point in pyproject.toml."""
    register("my_envs/Lights-v0", "my_envs.lights:LightsEnv", summary="Lamps whose switches flip neighbours too.")
