"""The viewer's pages as a FastAPI application. It only reads, and only what `folders.find` found."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates
from jinja2 import Environment, FileSystemLoader
from starlette.exceptions import HTTPException as StarletteHTTPException

from ...envs.core import StopReason
from . import episodes, flips, folders, guard, parts, seeds, summary, tree

HERE = Path(__file__).parent
SHADE_LABELS = {
    "logp": "log-prob",
    "p": "probability",
    "entropy": "entropy",
    "advantage": "advantage",
    "coefficient": "coefficient",
}
Metrics = Annotated[list[str], Query()]
Id = Annotated[int, Query(ge=0, lt=2**63)]


class Site:
    """What the pages share: the viewed folder and the templates."""

    def __init__(self, root: Path) -> None:
        self.root = root
        pages = Environment(loader=FileSystemLoader(HERE / "templates"), autoescape=True)
        pages.globals["link"] = link
        self.templates = Jinja2Templates(env=pages)

    def found(self, name: str) -> folders.Found:
        runs = folders.find(self.root)
        if name not in runs:
            raise HTTPException(404, f"No run {name!r} under this folder.")
        return runs[name]

    def page(self, request: Request, template: str, **values: Any) -> Response:
        return self.templates.TemplateResponse(request, f"{template}.html.jinja", {"root": self.root.name, **values})


def link(path: str, **parts: Any) -> str:
    """An address with its query, values of any text."""
    return f"{path}?{urlencode({k: v for k, v in parts.items() if v not in (None, '')})}"


def create_app(root: Path, host: str = "127.0.0.1") -> FastAPI:
    """The viewer of the runs under `root`; `host` is what it listens on."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    site = Site(root.resolve())

    @app.middleware("http")
    async def private(request: Request, answer: Callable[[Request], Any]) -> Response:
        if not guard.allowed_host(request.headers.get("host", ""), host):
            refused = f"This viewer answers to localhost and {host}, not to the name in your address bar.\n"
            return PlainTextResponse(refused, 400, guard.HEADERS)
        response = await answer(request)
        response.headers.update(guard.HEADERS)
        return response

    @app.exception_handler(folders.Unreadable)
    def unreadable(request: Request, error: folders.Unreadable) -> Response:
        response = site.page(request, "error", message=str(error))
        response.status_code = 500
        return response

    @app.exception_handler(StarletteHTTPException)
    def refused(request: Request, error: StarletteHTTPException) -> Response:
        response = site.page(request, "error", message=error.detail)
        response.status_code = error.status_code
        return response

    @app.get("/static/plotly.js")
    def plotly() -> Response:
        return Response(_plotly(), media_type="text/javascript", headers={"Cache-Control": "max-age=86400"})

    app.mount("/static", StaticFiles(directory=HERE / "static"))
    _add_runs(app, site)
    _add_seeds(app, site)
    _add_episodes(app, site)
    _add_groups(app, site)
    return app


def _add_runs(app: FastAPI, site: Site) -> None:
    """List, run, comparison and the numbers of their charts."""

    @app.get("/")
    def index(request: Request) -> Response:
        runs = folders.find(site.root)
        lines = [summary.line(found) for found in runs.values()]
        return site.page(request, "runs", lines=lines, groups=seeds.groups(runs))

    @app.get("/run")
    def run(request: Request, run: str) -> Response:
        kin = seeds.groups(folders.find(site.root)).get(run, [run])
        return site.page(request, "run", name=run, kin=kin, **_run_data(site.found(run), []))

    @app.get("/api/run")
    def run_data(run: str, metric: Metrics = [], stamp: str = "") -> Response:  # noqa: B006
        found = site.found(run)
        with folders.reading(found) as opened:
            if stamp and stamp == _stamp(summary.newest(opened)):
                return Response(status_code=204)
        data = _run_data(found, metric)
        return JSONResponse({key: data[key] for key in ("charts", "alarms", "stamp", "live", "step", "held_out")})

    @app.get("/compare")
    def compare(request: Request, run: Metrics = []) -> Response:  # noqa: B006
        if len(run) != 2:
            raise HTTPException(400, f"Expected two runs to compare, got {len(run)}. Tick two in the list.")
        names = sorted({n for name in run for n in _numbers(site.found(name))[0]})
        sides = []
        for name in run:
            with folders.reading(site.found(name)) as opened:
                sides.append(flips.last_evaluation(opened))
        base, candidate = sides
        mapped = flips.flip_map(base, candidate) if base and candidate else None
        return site.page(request, "compare", names=run, metrics=names, sides=sides, flips=mapped)

    @app.get("/api/compare")
    def compare_data(run: Metrics, metric: Metrics = []) -> Response:  # noqa: B006
        runs = [(name, *_numbers(site.found(name))) for name in run]
        return JSONResponse({"charts": summary.comparison(runs, metric)})


def _add_seeds(app: FastAPI, site: Site) -> None:
    """Runs of one recipe over each other."""

    def readable(run: str) -> dict[folders.Found, tuple[summary.Series, list[Any]]]:
        """Those of the run's recipe that can be read, with their numbers."""
        chosen, runs = site.found(run), folders.find(site.root)
        found = {}
        for name in seeds.groups(runs).get(chosen.name, [chosen.name]):
            with suppress(folders.Unreadable):
                found[runs[name]] = _numbers(runs[name])
        return found

    @app.get("/seeds")
    def over_seeds(request: Request, run: str) -> Response:
        runs = readable(run)
        mean = seeds.across([[(step, rate.mean) for step, rate in held_out] for _, held_out in runs.values()])
        about = {found.name: summary.describe(folders.card(found)) for found in runs}
        return site.page(
            request, "seeds", name=run, names=list(about), about=about.get(run, {}), mean=mean[-1] if mean else None,
            lines=[(summary.line(found), about[found.name]["seed"]) for found in runs],
            metrics=sorted({metric for metrics, _ in runs.values() for metric in metrics}),
        )  # fmt: skip

    @app.get("/api/seeds")
    def seeds_data(run: str, metric: Metrics = []) -> Response:  # noqa: B006
        runs = [(found.name, *numbers) for found, numbers in readable(run).items()]
        return JSONResponse({"charts": seeds.charts(runs, metric)})


def _numbers(found: folders.Found) -> tuple[summary.Series, list[Any]]:
    with folders.reading(found) as run:
        return run.metrics(), summary.held_out_series(run)


def _stamp(newest: tuple[int | None, float]) -> str:
    return f"{newest[0]}-{newest[1]:.6f}"


def _run_data(found: folders.Found, chosen: list[str]) -> dict[str, Any]:
    """Everything on a run's page."""
    card = folders.card(found)
    with folders.reading(found) as run:
        newest, metrics = summary.newest(run), run.metrics()
        held_out = summary.held_out_series(run)
    return {
        "about": summary.describe(card), "metrics": sorted(metrics),
        "charts": summary.charts(metrics, held_out, chosen),
        "alarms": summary.alarms(card, metrics), "stamp": _stamp(newest), "live": summary.is_live(newest),
        "step": newest[0], "held_out": str(held_out[-1][1]) if held_out else "",
    }  # fmt: skip


def _add_episodes(app: FastAPI, site: Site) -> None:
    """Browser and reader."""

    @app.get("/episodes")
    def browse(request: Request, run: str, after: Id = 0, before: Id | None = None) -> Response:
        chosen = _filter(request)
        with folders.reading(site.found(run)) as opened:
            page = episodes.page(opened.db, chosen, after, before)
            choices = episodes.choices(opened.db)
        return site.page(
            request, "episodes", name=run, page=page, filter=chosen, query=chosen.query(), choices=choices,
            stops=[stop.value for stop in StopReason], parts=list(episodes.PARTS),
        )  # fmt: skip

    @app.get("/episode")
    def read(request: Request, run: str, id: Id) -> Response:
        found, chosen = site.found(run), _filter(request)
        text = folders.token_text(site.root, found, folders.find(site.root))
        with folders.reading(found) as opened:
            shown = episodes.episode(opened.db, id)
            if shown is None:
                raise HTTPException(404, f"No episode {id} in {run!r}.")
            turns = episodes.turns(opened.db, id, text)
            by_part = parts.reward_parts(folders.card(found), shown, turns)
            near = {
                way: episodes.neighbour(opened.db, chosen, id, forward=way == "next") for way in ("next", "previous")
            }
        return site.page(
            request, "episode", name=run, episode=shown, turns=turns, parts=by_part, near=near, query=chosen.query(),
            readable=text is not None, shades=_shades(turns),
        )  # fmt: skip


def _add_groups(app: FastAPI, site: Site) -> None:
    """Episodes of one task: side by side, and as a tree."""

    @app.get("/group")
    def group(request: Request, run: str, id: Id) -> Response:
        with folders.reading(site.found(run)) as opened:
            members = episodes.group(opened.db, id)
            if not members:
                raise HTTPException(404, f"No episode {id} in {run!r}.")
            played = [(member, episodes.turns(opened.db, member["id"], None)) for member in members]
        return site.page(request, "group", name=run, members=played, shown=id, limit=episodes.GROUP_SHOWN)

    @app.get("/tree")
    def branching(request: Request, run: str, id: Id) -> Response:
        with folders.reading(site.found(run)) as opened:
            shown = episodes.episode(opened.db, id)
            if shown is None:
                raise HTTPException(404, f"No episode {id} in {run!r}.")
            branches = episodes.branches(opened.db, id)
        return site.page(
            request, "tree", name=run, episode=shown, root_node=tree.tree(branches), limit=episodes.TREE_SHOWN
        )


def _shades(turns: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """(number, its label) of what tokens can be shaded by, in the order of the buttons."""
    there = {name for turn in turns for token in turn["tokens"] for name in token["numbers"]}
    return [(name, label) for name, label in SHADE_LABELS.items() if name in there]


def _filter(request: Request) -> episodes.Filter:
    """The filter in an address; numbers that are none are refused."""
    asked = request.query_params
    try:
        step, success = (int(asked[name]) if asked.get(name) else None for name in ("step", "success"))
    except ValueError as error:
        raise HTTPException(400, "Expected whole numbers for step and success (1 or 0).") from error
    if step is not None and abs(step) >= 2**63:
        raise HTTPException(400, f"Expected a step, got {step}.")
    part = asked.get("part", "")
    if part and part not in episodes.PARTS:
        raise HTTPException(400, f"Expected a reward part of {', '.join(episodes.PARTS)}, got {part!r}.")
    return episodes.Filter(step, asked.get("phase", ""), asked.get("task", ""), asked.get("stop", ""), success, part)


@cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()
