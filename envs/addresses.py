"""Addresses that servers listen on: whether others reach them, and how they are written."""

from __future__ import annotations

import socket
from ipaddress import ip_address


def is_local(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def address(host: str, listening: socket.socket) -> str:
    """The base URL of a server on `host`, with the port that its socket got."""
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{listening.getsockname()[1]}"
