"""The pages: an overview, Zipkin Lens for traces, log lines, and the story of an order; and JSON for programs.

Nothing can be changed by them: there is no route but for reading. What a page shows was written by strangers, so it is
escaped, cut and bounded (services.pages), and no page runs a script but those of Lens.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from services.chassis import prometheus
from services.chassis.settings import LOOPBACK, PasswordFile
from services.pages.guard import Guarded, policy
from services.pages.rendering import Renderer
from services.telemetry.asking import BadQuestion, is_order_name, is_trace_id
from services.telemetry.lens import Lens
from services.telemetry.model import TooLong
from services.telemetry.reading import Reading
from services.telemetry.showing import Json
from services.telemetry.web_api import Api
from services.telemetry.web_logs import LogPages, telling
from services.telemetry.web_orders import OrderPages
from services.telemetry.web_overview import Overview
from services.telemetry.web_zipkin import Zipkin

HEADERS = {"Content-Security-Policy": policy(form_action="'self'")}
OF_PROGRAMS = ("/api/", "/zipkin/api/")


@dataclass(frozen=True, slots=True)
class Place:
    """What the pages must know of where they run."""

    hosts: Collection[str] = LOOPBACK
    """The names under which they are reached; all others are refused."""
    lens: Path | None = None
    """The jar of Zipkin Lens."""
    databases: Mapping[str, str] = field(default_factory=dict[str, str])
    """Of the services that know orders, by service, for a role that only reads."""
    collector: str = ""
    """Where spans and log lines go instead; empty: they are kept here."""
    password: PasswordFile | None = None
    """Of that role; None: the databases ask for none."""


def application(store: Reading, place: Place, numbers: Callable[[], str] = str) -> ASGIApp:
    """All pages over a store; `numbers` gives those of all processes as Prometheus reads them."""
    renderer = Renderer(
        Path(__file__).parent / "templates",
        tests={"order_name": is_order_name, "trace_id": is_trace_id},
        filters={"telling": telling},
    )
    lens = Lens(place.lens)
    overview = Overview(store, lens, renderer, place.collector)
    api, zipkin, logs = Api(store, place.collector), Zipkin(store, lens, renderer), LogPages(store, renderer)
    orders = OrderPages(store, place.databases, place.password, renderer)

    async def metrics(request: Request) -> Response:  # noqa: ARG001
        return Response(await asyncio.to_thread(numbers), media_type=prometheus.CONTENT_TYPE)

    async def refuse(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 503 if isinstance(error, TooLong) else 400
        said = error.detail if isinstance(error, HTTPException) else str(error)
        if request.url.path.startswith(OF_PROGRAMS):
            return Json({"error": said}, status)
        title = {404: "Not found", 503: "Not answered"}.get(status, "Not understood")
        return renderer.page("refused.html", status=status, title=title, said=said)

    routes = [
        Route("/", overview.page),
        Route("/pages.css", renderer.stylesheet),
        Route("/metrics", metrics),
        Route("/logs", logs.page),
        Route("/orders", orders.find),
        Route("/orders/{id}", orders.story),
        Route("/api/logs", api.lines),
        Route("/api/status", api.status),
        Route("/api/traces", api.traces),
        Route("/api/traces/{id}", api.trace),
        *zipkin.routes(),
    ]
    handlers = {BadQuestion: refuse, TooLong: refuse, HTTPException: refuse}
    return Guarded(Starlette(routes=routes, exception_handlers=handlers), place.hosts, HEADERS)
