"""The page of log lines, with filters."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from services.log_files import LEVELS, Line
from services.pages.rendering import Renderer, plain
from services.telemetry import asking, reading
from services.telemetry.asking import BadQuestion
from services.telemetry.model import LineQuery, Value
from services.telemetry.reading import Reading

RELOAD_S = 3
FIRST = ("path", "method", "grpc_status", "code", "duration_ms", "ms", "reason", "error")
"""Fields that say most, of services and of Envoy."""
FILTERS = ("service", "level", "text", "trace", "order", "since", "until")


class LogPages:
    def __init__(self, store: Reading, renderer: Renderer) -> None:
        self._store = store
        self._renderer = renderer

    async def page(self, request: Request) -> Response:
        """Newest first; what one trace or order is about is read like a story, oldest first.

        A question that cannot be answered keeps its form, so that it can be mended.
        """
        asked = {name: request.query_params.get(name, "").strip() for name in FILTERS}
        try:
            query, wrong = asking.lines(request.query_params, more=("follow",)), ""
            before = asking.number(request.query_params, "before", 0)
        except BadQuestion as error:
            query, wrong, before = LineQuery(), str(error), 0
        lines = list[Line]()
        if not wrong:
            lines += await asyncio.to_thread(reading.lines, self._store, query, before)
        more = bool(lines) and await asyncio.to_thread(self._more, query, lines[0].id)
        services = await asyncio.to_thread(self._store.services)
        chosen = {name: value for name, value in asked.items() if value}
        in_order = bool(query.trace_id or query.order)
        follows = bool(request.query_params.get("follow")) and not wrong and not before
        return self._renderer.page(
            "logs.html",
            status=400 if wrong else 200,
            here="/logs",
            asked=asked,
            wrong=wrong,
            query=query,
            lines=lines if in_order else lines[::-1],
            in_order=in_order,
            days=len({line.time_ns // (86_400 * 10**9) for line in lines}),
            services=sorted(name for name in {*services, *filter(None, [asked["service"]])} if plain(name, 60) == name),
            levels=LEVELS,
            reload_s=RELOAD_S if follows else None,
            this=_address(chosen | ({"follow": "1"} if follows else {})),
            follow=_address(chosen | {"follow": "1"}),
            stay=_address(chosen),
            newest=_address(chosen) if before else "",
            older=_address(chosen | {"before": str(lines[0].id)}) if more else "",
            json="/api" + _address(chosen),
            without=lambda name: _address({key: value for key, value in chosen.items() if key != name}),
            only=lambda **more: _address(chosen | more),
        )

    def _more(self, query: LineQuery, before: int) -> bool:
        """Whether there are older lines. A page may have fewer than it could, when they are huge."""
        return bool(reading.lines(self._store, replace(query, after_id=0, limit=1), before))


def _address(parameters: Mapping[str, str]) -> str:
    return f"/logs?{urlencode(parameters)}" if parameters else "/logs"


def telling(fields: Mapping[str, Value]) -> list[tuple[str, Value]]:
    """What a line says besides its message, what says most first; nothing that says nothing."""
    said = {name: value for name, value in fields.items() if value not in (None, "", "-") and name != "exception"}
    first = {name: said[name] for name in FIRST if name in said}
    if "path" in first and first.get("method") == "POST":  # as every rpc is
        del first["method"], said["method"]
    return [*(first | said).items()]
