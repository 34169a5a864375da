"""JSON for programs: what `shopmesh logs` and `shopmesh trace` read.

    GET /api/logs?service&level&text&trace&order&since&until&after&before&limit   {"lines": [...], "last"}, oldest first
    GET /api/traces/ID                                                            {"trace_id", "spans": [...]}
    GET /api/traces?order&limit                                                   {"traces": [the same]}, newest first
    GET /api/status                                                               what is kept, and what was dropped

`last` is the id of the line that came last, for who follows with `after`. A question that cannot be answered is 400
{"error"}. Where everything goes to a collector of the person's own, its lines are not here: 503.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from services.telemetry import asking, reading
from services.telemetry.model import Span, TraceQuery
from services.telemetry.reading import Reading
from services.telemetry.showing import Json, bounded, lines, span

MOST_TRACES = 100
MOST_LINES = 5_000


class Api:
    def __init__(self, store: Reading, collector: str) -> None:
        self._store = store
        self._collector = collector

    async def lines(self, request: Request) -> Response:
        query = asking.lines(request.query_params, most=MOST_LINES)
        if self._collector:
            raise HTTPException(503, f"lines go to {self._collector}")
        last = await asyncio.to_thread(self._store.last_line)
        before = asking.number(request.query_params, "before", 0)
        found = await asyncio.to_thread(reading.lines, self._store, query, before)
        shown = lines(found, newest=not query.after_id)
        return Json({"lines": shown, "last": last})

    async def trace(self, request: Request) -> Response:
        asking.require_known(request.query_params, ())
        id = asking.trace_id(request.path_params["id"])
        found = await asyncio.to_thread(self._store.trace, id)
        if not found:
            raise HTTPException(
                404, f"there is no trace {id}: it was not sampled, is older than what is kept, or wrong"
            )
        return Json(_trace(found))

    async def traces(self, request: Request) -> Response:
        asking.require_known(request.query_params, ("order", "limit"))
        named = request.query_params.get("order")
        query = TraceQuery(
            order=asking.order(named) if named else "",
            limit=asking.number(request.query_params, "limit", 10, least=1, most=MOST_TRACES),
        )
        found = await asyncio.to_thread(self._store.traces, query)
        return Json({"traces": bounded(map(_trace, found))})

    async def status(self, request: Request) -> Response:
        asking.require_known(request.query_params, ())
        return Json(asdict(await asyncio.to_thread(self._store.status)))


def _trace(spans: Sequence[Span]) -> dict[str, Any]:
    return {"trace_id": spans[0].trace_id, "spans": bounded(map(span, spans))}
