"""Spans in the JSON of Zipkin's v2 API, and its searches as questions to the store.

As the OpenTelemetry specification maps them ("OpenTelemetry to Zipkin Transformation"). Zipkin knows no links: a linked
trace is a tag.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from services.telemetry.asking import BadQuestion, Parameters, number, order, text
from services.telemetry.model import MOST_SPANS, Dependency, Span, SpanEvent, TraceQuery, Value

ORDER = "shop.order"
"""The attribute by which a span says which order it is about."""
MOST_TRACES = 250
LONGEST = 4_000
"""Characters of a tag."""
# Lens draws a call in which nobody else's span lies as if it were a span of whom it calls: an address is no name for
# that.
_PEERS = ("peer.service", "db.system.name", "messaging.system")
_AND = re.compile(r"(?:^|\s+)and(?:\s+|$)")
_CALLS = ("CLIENT", "PRODUCER", "CONSUMER", "SERVER")


def spans(trace: Sequence[Span]) -> list[dict[str, Any]]:
    """A trace, or MOST_SPANS of it, of which the store gives no more; then its first span says so."""
    shown = [span(each) for each in trace[:MOST_SPANS]]
    if len(trace) >= MOST_SPANS:
        shown[0]["tags"]["left.out"] = f"no more than {MOST_SPANS:,} spans of a trace are shown"
    return shown


def span(of: Span) -> dict[str, Any]:
    """Times in us. An attribute that is empty is no tag."""
    shown: dict[str, Any] = {
        "traceId": of.trace_id,
        "id": of.span_id,
        "name": of.name,
        "timestamp": of.start_ns // 1_000,
        "duration": max(1, (of.end_ns - of.start_ns) // 1_000),
        "localEndpoint": {"serviceName": of.service},
        "tags": _tags(of),
    }
    if of.parent_id:
        shown["parentId"] = of.parent_id
    if of.kind in _CALLS:
        shown["kind"] = of.kind
    if of.kind in ("CLIENT", "PRODUCER", "CONSUMER") and (peer := _peer(of.attributes)):
        shown["remoteEndpoint"] = {"serviceName": peer}
    if of.events:
        shown["annotations"] = [
            {"timestamp": event.time_ns // 1_000, "value": _annotation(event)} for event in of.events
        ]
    return shown


def links(dependencies: Sequence[Dependency]) -> list[dict[str, Any]]:
    """`GET /dependencies`: DependencyLink."""
    return [
        {"parent": each.parent, "child": each.child, "callCount": each.calls, "errorCount": each.errors}
        for each in dependencies
    ]


def question(parameters: Parameters, now_ns: int) -> TraceQuery:
    """What `GET /traces` asks for. Raises BadQuestion."""
    until_ms = number(parameters, "endTs", now_ns // 10**6, most=2**43)
    lookback_ms = number(parameters, "lookback", until_ms)
    attributes = _attributes(text(parameters, "annotationQuery"))
    named = attributes.pop(ORDER, "") or attributes.pop("order", "")
    longest_us = number(parameters, "maxDuration", 0)
    return TraceQuery(
        service=text(parameters, "serviceName"),
        span_name=text(parameters, "spanName"),
        attributes=attributes,
        order=order(named) if named else "",
        min_duration_ns=_nanoseconds(number(parameters, "minDuration", 0)),
        max_duration_ns=_nanoseconds(longest_us) if longest_us else None,
        since_ns=max(0, until_ms - lookback_ms) * 10**6,
        until_ns=_nanoseconds(until_ms * 1_000 + 999),
        limit=min(MOST_TRACES, number(parameters, "limit", 10)),
    )


def _attributes(query: str) -> dict[str, str]:
    """Of `key=value and other`. One alone must only be there. Lens may leave an `and` at the end."""
    found: dict[str, str] = {}
    for part in filter(None, _AND.split(query)):
        key, _, value = part.partition("=")
        if not key.strip():
            raise BadQuestion(f"“{part[:60]}” names no tag: write key=value, or the key alone")
        found[key.strip()] = value.strip()
    return found


def _nanoseconds(microseconds: int) -> int:
    return min(microseconds * 1_000, 2**63 - 1)


def _tags(of: Span) -> dict[str, str]:
    tags = {name: shown for name, value in of.attributes.items() if (shown := _text(value))}
    if of.instance:
        tags.setdefault("service.instance.id", of.instance)
    for at, link in enumerate(of.links):
        tags[f"link.{at}.trace"] = link.trace_id
    if of.status != "UNSET":
        tags["otel.status_code"] = of.status
    if of.status == "ERROR":  # Lens marks what has this tag.
        tags["error"] = _text(of.status_message or of.attributes.get("error.type", "")) or "true"
    return tags


def _peer(attributes: Mapping[str, Value]) -> str:
    return next((str(attributes[name]) for name in _PEERS if attributes.get(name)), "")


def _annotation(event: SpanEvent) -> str:
    return _cut(f"{event.name}: {json.dumps(dict(event.attributes))}" if event.attributes else event.name)


def _text(value: Value) -> str:
    match value:
        case str():
            return _cut(value)
        case bool():
            return "true" if value else "false"
        case None:
            return ""
        case int() | float():
            return str(value)
    return _cut(json.dumps(value))


def _cut(value: str) -> str:
    return value if len(value) <= LONGEST else f"{value[:LONGEST]}… ({len(value) - LONGEST} more characters)"
