"""Zipkin Lens at /zipkin/, and Zipkin's v2 API that it asks, over our store."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from services.pages.guard import policy
from services.pages.rendering import Renderer
from services.telemetry import asking, zipkin
from services.telemetry.lens import Lens, NotThere
from services.telemetry.model import Span, TraceQuery
from services.telemetry.reading import Reading
from services.telemetry.showing import Json

LOOKBACK_MS = 15 * 60 * 1_000
ALL_SPANS = 20_000
"""Of all traces of one answer."""
AT_ONCE = 50
"""Traces that are asked for by their ids."""
# Lens is one script; while it runs it writes style elements, carries some of its pictures in itself, and has the graph
# of dependencies arranged by a worker that it makes of its own text.
OF_LENS = {
    "Content-Security-Policy": policy(
        script_src="'self'", style_src="'self' 'unsafe-inline'", img_src="'self' data:", connect_src="'self'",
        worker_src="blob:", base_uri="'self'",
    )
}  # fmt: skip
FOR_EVER = {"Cache-Control": "public, max-age=31536000, immutable"}


class Zipkin:
    """https://zipkin.io/zipkin-api: what it says of parameters and answers holds here."""

    def __init__(self, store: Reading, lens: Lens, renderer: Renderer) -> None:
        self._store = store
        self._lens = lens
        self._renderer = renderer

    def routes(self) -> list[Route]:
        api = {
            "services": self.services,
            "spans": self.spans,
            "remoteServices": self.remote_services,
            "autocompleteKeys": self.autocomplete_keys,
            "autocompleteValues": self.autocomplete_values,
            "traces": self.traces,
            "trace/{id}": self.trace,
            "traceMany": self.trace_many,
            "dependencies": self.dependencies,
            "{path:path}": self.unknown,
        }
        return [
            *(Route(f"/zipkin/api/v2/{path}", handler) for path, handler in api.items()),
            Route("/zipkin/config.json", self.config),
            Route("/traces", self.newest),
            Route("/zipkin", self.page),
            Route("/zipkin/{path:path}", self.page),
        ]

    async def page(self, request: Request) -> Response:
        """A file of Lens."""
        if "path" not in request.path_params:
            return RedirectResponse("/zipkin/")
        try:
            file = await asyncio.to_thread(self._lens.file, request.path_params["path"])
        except NotThere as error:
            return self._renderer.page("no_lens.html", status=503, why=str(error))
        return Response(
            file.content, media_type=file.media_type, headers=OF_LENS | (FOR_EVER if file.named_by_content else {})
        )

    async def newest(self, request: Request) -> Response:  # noqa: ARG002
        """Lens with the traces of the last hour: by itself it begins with an empty page."""
        return RedirectResponse(f"/zipkin/?lookback=1h&endTs={time.time_ns() // 10**6}&limit=20", 303)

    async def config(self, request: Request) -> Response:
        return Json(
            {
                "queryLimit": 10,
                "defaultLookback": LOOKBACK_MS,
                "searchEnabled": True,
                "dependency": {"enabled": True},
                "logsUrl": f"{request.url.scheme}://{request.url.netloc}/logs?trace={{traceId}}",
            }
        )

    async def services(self, request: Request) -> Response:  # noqa: ARG002
        return Json(sorted(await asyncio.to_thread(self._store.services)))

    async def spans(self, request: Request) -> Response:
        service = asking.text(request.query_params, "serviceName")
        return Json(sorted(await asyncio.to_thread(self._store.span_names, service)))

    async def remote_services(self, request: Request) -> Response:
        """Those that the service called within a day."""
        service = asking.text(request.query_params, "serviceName")
        now = time.time_ns()
        found = await asyncio.to_thread(self._store.dependencies, now - 86_400 * 10**9, now)
        return Json(sorted({each.child for each in found if each.parent == service}))

    async def autocomplete_keys(self, request: Request) -> Response:  # noqa: ARG002
        return Json([zipkin.ORDER])

    async def autocomplete_values(self, request: Request) -> Response:
        """Of the newest traces."""
        key = asking.text(request.query_params, "key")
        query = TraceQuery(attributes={key: ""}, limit=50)
        found = await asyncio.to_thread(self._store.traces, query) if key else []
        return Json(sorted({str(span.attributes[key]) for span in _all(found) if span.attributes.get(key)})[:100])

    async def traces(self, request: Request) -> Response:
        query = zipkin.question(request.query_params, time.time_ns())
        remote = asking.text(request.query_params, "remoteServiceName")
        asked = replace(query, limit=zipkin.MOST_TRACES) if remote else query  # the store knows no callers
        found = await asyncio.to_thread(self._store.traces, asked)
        fitting = (trace for trace in found if not remote or _calls(trace, query.service, remote))
        return Json(self._bounded(islice(fitting, query.limit)))

    async def trace(self, request: Request) -> Response:
        found = await asyncio.to_thread(self._store.trace, asking.trace_id(request.path_params["id"]))
        if not found:
            raise HTTPException(404, "there is no such trace: it was not sampled, or is older than what is kept")
        return Json(zipkin.spans(found))

    async def trace_many(self, request: Request) -> Response:
        """Of `traceIds`, separated by commas, those that there are."""
        given = request.query_params.get("traceIds", "").split(",")
        if len(given) > AT_ONCE:
            raise asking.BadQuestion(f"{len(given)} traces are asked for: at most {AT_ONCE} at once")
        ids = dict.fromkeys(asking.trace_id(id) for id in given)
        found = [await asyncio.to_thread(self._store.trace, id) for id in ids]
        return Json(self._bounded(filter(None, found)))

    async def dependencies(self, request: Request) -> Response:
        until_ms = asking.number(request.query_params, "endTs", time.time_ns() // 10**6, most=2**43)
        lookback_ms = asking.number(request.query_params, "lookback", 86_400_000)
        since_ms = max(0, until_ms - lookback_ms)
        found = await asyncio.to_thread(self._store.dependencies, since_ms * 10**6, until_ms * 10**6 + 999_999)
        return Json(zipkin.links(found))

    async def unknown(self, request: Request) -> Response:
        raise HTTPException(404, f"Zipkin's API has no {request.url.path}")

    def _bounded(self, traces: Iterable[Sequence[Span]]) -> list[list[dict[str, object]]]:
        kept, number = list[list[dict[str, object]]](), 0
        for trace in traces:
            kept.append(zipkin.spans(trace))
            number += len(kept[-1])
            if number >= ALL_SPANS:
                break
        return kept


def _all(traces: Iterable[Sequence[Span]]) -> Iterable[Span]:
    return (span for trace in traces for span in trace)


def _calls(trace: Sequence[Span], service: str, remote: str) -> bool:
    """Whether a span of the service, or of any where none is named, leads to one of the remote service."""
    services = {span.span_id: span.service for span in trace}
    callers = {services.get(span.parent_id, "") for span in trace if span.service == remote}
    return bool(callers & {service} if service else callers - {remote, ""})
