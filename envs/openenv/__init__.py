"""The OpenEnv protocol, own implementation: `server` serves any environment, `env` plays any server."""
