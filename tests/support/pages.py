"""What the telemetry of a whole shop has kept, asked as programs ask it, by the URL of its pages."""

from collections.abc import Mapping
from typing import Any

import httpx

from tests.support.otlp import Span


async def told(pages: str, path: str, **query: str) -> Any:
    """The JSON of its pages; None where there is nothing of that name."""
    async with httpx.AsyncClient(base_url=pages, trust_env=False, timeout=60) as client:
        answer = await client.get(path, params=query)
    if answer.status_code == httpx.codes.NOT_FOUND:
        return None
    return answer.raise_for_status().json()


async def spans_of(pages: str, trace_id: str) -> list[Span]:
    """All of a trace; none while it has not arrived."""
    trace = await told(pages, f"/api/traces/{trace_id}")
    return [_span(span) for span in trace["spans"]] if trace else []


async def traces_of(pages: str, order: str) -> list[list[Span]]:
    """All traces of an order, the newest first."""
    found = await told(pages, "/api/traces", order=order, limit="100")
    return [[_span(span) for span in trace["spans"]] for trace in found["traces"]]


async def lines_of(pages: str, **query: str) -> list[dict[str, Any]]:
    """Log lines, the oldest first."""
    lines: list[dict[str, Any]] = (await told(pages, "/api/logs", **query))["lines"]
    return lines


def _span(span: Mapping[str, Any]) -> Span:
    return Span(
        service=span["service"],
        name=span["name"],
        kind=span["kind"],
        trace_id=span["trace_id"],
        span_id=span["span_id"],
        parent_id=span["parent_id"],
        attributes={key: str(value) for key, value in span["attributes"].items()},
        status=span["status"],
        events=tuple(event["name"] for event in span["events"]),
        links=tuple((link["trace_id"], link["span_id"]) for link in span["links"]),
        instance=span["instance"],
    )
