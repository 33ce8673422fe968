"""What keeps the viewer private: which Host headers it answers, and the headers of every answer."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from urllib.parse import urlsplit

from ...envs.addresses import is_local

HEADERS = {
    # Plotly puts style elements into the page; no script but our own files runs, so markup in a model's text could not.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def allowed_host(header: str, bound: str) -> bool:
    """Whether a request with this Host header is meant for a viewer that listens on `bound`.

    DNS rebinding makes a page of another site reach us under that site's name, so names other than our own are refused.
    An address is no name; where the viewer listens to others, theirs for this machine may be any.
    """
    try:
        name = urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return False
    if name in ("localhost", bound.lower()) or is_local(name):
        return True
    if is_local(bound):
        return False
    try:
        ip_address(name)
    except ValueError:
        return name == socket.gethostname().lower()
    return True
