"""What the telemetry's pages know of a trace, or of all traces of an order, and how it is shown."""

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

import httpx

from services.cli.telemetry.log_search import refusal
from services.cli.telemetry.waterfall import Line, Span, Trace, drawn
from services.failure import Failure
from services.ids import TRACE_ID
from services.story.asking import CannotTell, order_uuid

MOST_LINES = 500
MOST_TRACES = 20
ANSWER_S = 10.0
WITHOUT_TERMINAL = 120
"""Columns, where nobody says how many there are."""


def wanted(id: str | None, order: str | None) -> tuple[str | None, UUID | None]:
    """A trace id, or an order. Raises Failure or CannotTell for what is neither."""
    if id and order:
        raise Failure("say one of the two: a trace's ID, or --order ORDER")
    if id and TRACE_ID.fullmatch(id.lower()):
        return id.lower(), None
    if order:
        return None, order_uuid(order)
    if not id:
        raise Failure("say which: a trace's ID, or --order ORDER")
    try:
        return None, order_uuid(id)
    except CannotTell:
        raise Failure(
            f"{id} is no trace: an id is 32 hexadecimal digits; `shopmesh trace --order ORDER` finds those of an order"
        ) from None


def client(pages: str) -> httpx.Client:
    """What asks the pages at this URL."""
    return httpx.Client(base_url=pages, timeout=ANSWER_S, trust_env=False)


def asked(http: httpx.Client, trace_id: str | None, order: UUID | None) -> list[dict[str, Any]]:
    """`{trace_id, spans, lines}` of one trace, or of all of an order, the oldest first.

    Raises Failure when there are none, or nobody answers.
    """
    if order is None:
        found = [_answer(http, f"/api/traces/{trace_id}", {}, "spans")]
    else:
        query = {"order": f"orders/{order}", "limit": str(MOST_TRACES)}
        found = (_answer(http, "/api/traces", query, "traces") or {"traces": []})["traces"]
    traces = [trace for trace in found if trace and trace["spans"]]
    for trace in traces:
        query = {"trace": trace["trace_id"], "limit": str(MOST_LINES)}
        trace["lines"] = (_answer(http, "/api/logs", query, "lines") or {"lines": []})["lines"]
    if not traces:
        _answer(http, "/api/logs", {"limit": "1"}, "lines")  # it says so when everything goes elsewhere
        raise Failure(_nothing(trace_id, order))
    return sorted(traces, key=lambda trace: min(span["start_ns"] for span in trace["spans"]))


def pictures(traces: Sequence[Mapping[str, Any]], order: UUID | None, width: int) -> Iterator[str]:
    """What is printed, line by line."""
    for number, document in enumerate(traces):
        if number:
            yield ""
        spans, lines = map(Span.of, document["spans"]), map(Line.of, document["lines"])
        yield from drawn(Trace(document["trace_id"], list(spans), list(lines)), width)
    if order is not None and len(traces) == MOST_TRACES:
        yield f"\nThese are the newest {MOST_TRACES}; the page /traces finds all of them by the tag shop.order."


def terminal_width() -> int:
    """Of the terminal, or what COLUMNS says."""
    return shutil.get_terminal_size((WITHOUT_TERMINAL, 24)).columns if sys.stdout.isatty() else WITHOUT_TERMINAL


def _answer(http: httpx.Client, path: str, query: Mapping[str, str], has: str) -> Any:  # noqa: ANN401
    """The JSON object, which has that name in it; None for what is not there."""
    try:
        answer = http.get(path, params=query)
    except httpx.TransportError:
        raise Failure(
            f"the telemetry does not answer at {http.base_url}: see `shopmesh status`, and `shopmesh logs telemetry` "
            "for why; `shopmesh logs --order ORDER` tells what was said without it"
        ) from None
    if answer.status_code == httpx.codes.NOT_FOUND:
        return None
    if answer.is_error:
        raise Failure(f"the telemetry at {http.base_url} answers: {refusal(answer)}")
    try:
        told = answer.json()
    except ValueError:
        told = None
    if not isinstance(told, dict) or has not in told:
        raise Failure(f"what answers at {http.base_url} is no telemetry: see `shopmesh status`")
    return told


def _nothing(trace_id: str | None, order: UUID | None) -> str:
    reasons = "it was not sampled, has not arrived yet (that takes a second), or is older than what is kept"
    if order is None:
        return f"there is no trace {trace_id}: {reasons}"
    return f"there is no trace of orders/{order}: {reasons}; `shopmesh order {order}` shows the order itself"
