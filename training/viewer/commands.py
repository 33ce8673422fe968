"""The command `turnwise view`."""

from __future__ import annotations

from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from ...envs.addresses import address, is_local
from ...envs.errors import RequestError
from ..terminal import LOCAL, Host, Json, Port, emit, err, listen, out

NEEDS = ("fastapi", "uvicorn", "jinja2", "plotly", "scipy")


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(view)


def view(
    folder: Annotated[Path, typer.Argument(help="Folder with runs and evaluations, or one of them.")],
    port: Port = 8765,
    host: Host = LOCAL,
    as_json: Json = False,
) -> None:
    """Runs and evaluations in the browser, live while they are trained; ends with Ctrl-C."""
    missing = [name for name in NEEDS if find_spec(name) is None]
    if missing:
        raise RequestError(f"The viewer needs {', '.join(missing)}: pip install 'turnwise[train,web]'.")
    if not folder.is_dir():
        raise RequestError(f"Expected a folder with runs, got {str(folder)!r}. `turnwise train` writes runs/NAME-1.")
    import uvicorn

    from .app import create_app

    with listen(host, port) as listening:
        url = f"{address(host, listening)}/"
        if not is_local(host):
            err.print(f"warning: whoever can reach {host} can read what lies under {folder}", markup=False)
        if as_json:
            emit({"url": url, "folder": str(folder)})
        else:
            out.print(url, markup=False)
        server = uvicorn.Server(uvicorn.Config(create_app(folder, host), log_level="warning", access_log=False))
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listening])
