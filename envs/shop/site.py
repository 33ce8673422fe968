"""The shop as a web site: FastAPI serves `pages` as HTML on a free port, templates escape every text."""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import socket
import threading
import time
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..errors import EnvError
from .catalogue import Catalogue
from .pages import BUY, SEARCH, View, page
from .reward import Goal

START_DEADLINE_S = 30.0
MAX_BODY_BYTES = 1 << 16
_CHOICE = "option."
_SCRIPT = "document.querySelectorAll('select').forEach(e => e.addEventListener('change', () => e.form.submit()))"
_DIGEST = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
SAFE = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{_DIGEST}'; "
    "form-action 'self'"
}
"""The browser runs no script but the site's own, whatever a product's text holds."""
_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined,
    trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip


class Visit:
    """One visitor: what is sold, what is wanted, and what was bought. The first purchase counts."""

    def __init__(self, catalogue: Catalogue, goal: Goal) -> None:
        self.catalogue, self.goal = catalogue, goal
        self.bought: View | None = None


def address(token: str, view: View) -> str:
    """Path and query of a view, for the visitor `token`."""
    fields = {"q": view.query, "n": view.number if view.number != 1 else "", "tab": view.tab}
    chosen = {f"{_CHOICE}{name}": value for name, value in view.options}
    query = urlencode({name: value for name, value in fields.items() if value} | chosen)
    place = "" if view.page == "search" else f"{view.page}/{quote(view.product, safe='')}".rstrip("/")
    return f"/{token}/{place}{'?' if query else ''}{query}"


def view_at(url: str) -> View:
    """The view that an address names; the search page where it names none."""
    parts = urlsplit(url)
    _, _, place, product = (*parts.path.split("/"), "", "", "", "")[:4]
    fields = dict(parse_qsl(parts.query))
    chosen = sorted((n.removeprefix(_CHOICE), value) for n, value in fields.items() if n.startswith(_CHOICE))
    number = fields.get("n", "1")
    if place not in ("results", "item", "done"):
        return View()
    count = int(number) if number.isascii() and number.isdigit() and len(number) < 6 else 1
    return View(place, fields.get("q", ""), count, unquote(product), tuple(chosen), fields.get("tab", ""))


def application(visits: dict[str, Visit]) -> FastAPI:
    """The FastAPI application over these visits, by token."""
    app = FastAPI(title="Shop", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/{token}/")
    @app.get("/{token}/{place}")
    @app.get("/{token}/{place}/{product}")
    async def show(request: Request, token: str) -> Response:
        visit = visits.get(token)
        if visit is None:
            return PlainTextResponse("There is no such visit.", status_code=404)
        return HTMLResponse(_html(visit, token, view_at(str(request.url))), headers=SAFE)

    @app.post("/{token}/buy/{product}")
    async def buy(request: Request, token: str, product: str) -> Response:
        visit, body = visits.get(token), await request.body()
        if visit is None or len(body) > MAX_BODY_BYTES:
            return PlainTextResponse("There is no such visit.", status_code=404)
        asked = view_at(f"/{token}/item/{quote(product, safe='')}?{body.decode('utf-8', 'replace')}")
        sold = page(visit.catalogue, visit.goal, asked._replace(tab="")).view  # with the choices that are offered
        if visit.bought is None and sold.page == "item":
            visit.bought = View("done", product=sold.product, options=sold.options)
        return RedirectResponse(address(token, visit.bought or View()), status_code=303)

    return app


def _html(visit: Visit, token: str, view: View) -> str:
    if visit.bought is not None:
        view = visit.bought
    elif view.page == "done":  # an address is not a purchase
        view = View()
    shown = page(visit.catalogue, visit.goal, view)
    template = _TEMPLATES.get_template(f"{shown.view.page}.jinja")
    return template.render(
        page=shown, url=lambda to: address(token, to), token=token, buy=BUY, search=SEARCH, script=Markup(_SCRIPT)
    )


class Site:
    """The application on a free port of 127.0.0.1, served by a thread of this process."""

    _running: Site | None = None

    def __init__(self) -> None:
        self.visits = dict[str, Visit]()
        self.owner = os.getpid()
        listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = listening.getsockname()[1]
        app = application(self.visits)
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False, lifespan="off", ws="none"))
        threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True, name="shop").start()
        end = time.monotonic() + START_DEADLINE_S
        while not server.started:
            if time.monotonic() > end:
                raise EnvError(f"The shop's web server did not start within {START_DEADLINE_S:g} s.")
            time.sleep(0.01)

    @classmethod
    def shared(cls) -> Site:
        """The site of this process, started when there is none; a forked process does not use its parent's."""
        if cls._running is None or cls._running.owner != os.getpid():
            cls._running = cls()
        return cls._running

    def enter(self, catalogue: Catalogue, goal: Goal) -> tuple[str, Visit]:
        """A new visit: the address of its first page, and its record."""
        token = secrets.token_hex(8)
        self.visits[token] = visit = Visit(catalogue, goal)
        return f"http://127.0.0.1:{self.port}{address(token, View())}", visit

    def leave(self, url: str) -> None:
        """End the visit that `url` belongs to."""
        self.visits.pop(urlsplit(url).path.strip("/").split("/")[0], None)
