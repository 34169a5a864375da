"""Orders to choose from, and the story of one: what the databases, its traces and its log lines say."""

import asyncio
from collections.abc import Mapping, Sequence
from itertools import groupby
from urllib.parse import urlencode
from uuid import UUID

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from services.chassis.settings import PasswordFile
from services.pages.rendering import Renderer
from services.story.databases import SERVICES, Row, ThoseThatAnswer
from services.story.newest import MOST, Wanted, newest
from services.story.timeline import Moment, moments, pending
from services.story.timeline import traces as named_traces
from services.story.trail import Trail, items, money, trail
from services.telemetry import asking
from services.telemetry.asking import BadQuestion
from services.telemetry.model import LineQuery, Span, TraceQuery
from services.telemetry.reading import Reading
from services.telemetry.waterfall import waterfall

DATABASES_S = 3.0
"""How long a page waits for a database."""
MOST_LOOKS = 8
"""So many pages look into the databases at once, with a connection to each; the others wait."""
MOST_TRACES = 10
MOST_LINES = 200
STATES = ("PENDING_STOCK", "PLACED", "REJECTED", "CANCELLED")


class OrderPages:
    def __init__(
        self, store: Reading, databases: Mapping[str, str], password: PasswordFile | None, renderer: Renderer
    ) -> None:
        self._store = store
        self._databases, self._password = databases, password
        self._renderer = renderer
        self._looks = asyncio.Semaphore(MOST_LOOKS)

    async def find(self, request: Request) -> Response:
        """The newest, of everybody or one customer; who writes the id of an order is led to it.

        A customer's id may be a UUID as well: it is one when it has orders.
        """
        asked = {name: request.query_params.get(name, "").strip() for name in ("find", "state")}
        id = _order_id(asked["find"])
        if id and asked["find"].startswith("orders/"):
            return RedirectResponse(f"/orders/{id}", 303)
        wrong, away, rows = "", "", list[Row]()
        try:
            asking.require_known(request.query_params, ("find", "state", "before"))
            wanted = Wanted(asking.text(request.query_params, "find"), _state(asked["state"]), _before(request))
        except BadQuestion as error:
            wrong = str(error)
        else:
            async with self._looks, self._answering("order") as databases:
                rows = await newest(databases, wanted)
                away = databases.away.get("order", "")
            if id and not rows and not wanted.before:
                return RedirectResponse(f"/orders/{id}", 303)
        chosen = {name: value for name, value in asked.items() if value}
        older = chosen | {"before": str(rows[-1]["order_id"])} if len(rows) == MOST else {}
        return self._renderer.page(
            "orders.html",
            status=400 if wrong else 200,
            here="/orders",
            asked=asked,
            wrong=wrong,
            away=away,
            states=STATES,
            rows=[(row, money(row)) for row in rows],
            older=f"/orders?{urlencode(older)}" if older else "",
        )

    async def story(self, request: Request) -> Response:
        """404 only where nobody has ever heard of the order; what cannot be read is said."""
        id = asking.order_id(request.path_params["id"])
        if request.path_params["id"] != str(id):
            return RedirectResponse(f"/orders/{id}", 303)
        name = f"orders/{id}"
        async with self._looks, self._answering(*SERVICES) as databases:
            found = await trail(databases, id)
        traces, lines = await asyncio.gather(
            asyncio.to_thread(self._traces, name, found),
            asyncio.to_thread(self._store.lines, LineQuery(order=name, limit=MOST_LINES)),
        )
        unknown = found.order is None and not lines and not traces and found.reservation is None
        missing = unknown and not databases.away
        return self._renderer.page(
            "order.html",
            status=404 if missing else 200,
            here="/orders",
            name=name,
            order=found.order,
            missing=missing,
            total=money(found.order) if found.order else "",
            items=items(found.order) if found.order else [],
            reservation=found.reservation,
            days=_by_day(found),
            pending=pending(found, databases.away),
            away=databases.away,
            traces=[waterfall(spans) for spans in traces],
            lines=lines,
            more_lines=len(lines) == MOST_LINES,
        )

    def _answering(self, *services: str) -> ThoseThatAnswer:
        urls = {name: url for name, url in self._databases.items() if name in services}
        return ThoseThatAnswer(urls, DATABASES_S, self._password)

    def _traces(self, name: str, found: Trail) -> list[Sequence[Span]]:
        """Those that name the order, and those that the databases name, oldest first."""
        of_store = {spans[0].trace_id: spans for spans in self._store.traces(TraceQuery(order=name, limit=MOST_TRACES))}
        for trace_id in named_traces(found)[:MOST_TRACES]:
            if trace_id not in of_store and (spans := self._store.trace(trace_id)):
                of_store[trace_id] = spans
        return sorted(of_store.values(), key=lambda spans: spans[0].start_ns)


def _by_day(found: Trail) -> list[tuple[str, list[Moment]]]:
    return [
        (f"{day:%Y-%m-%d}", list(of_day)) for day, of_day in groupby(moments(found), lambda moment: moment.when.date())
    ]


def _order_id(text: str) -> UUID | None:
    try:
        return asking.order_id(text)
    except BadQuestion:
        return None


def _state(given: str) -> str:
    if given not in ("", *STATES):
        raise BadQuestion(f"state is one of {', '.join(STATES)}, not “{given[:60]}”")
    return given


def _before(request: Request) -> UUID | None:
    """The last order of the page that links here."""
    given = request.query_params.get("before", "")
    return asking.order_id(given) if given else None
