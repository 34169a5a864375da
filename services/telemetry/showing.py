"""Lines and spans in the JSON that `shopmesh` reads."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import orjson
from starlette.responses import Response

from services.log_files import Line
from services.pages.rendering import moment
from services.telemetry.model import Span, Value

LONGEST = 20_000
"""Characters of one text."""
MOST_BYTES = 16_000_000
"""Of one answer, about."""


class Json(Response):
    """Whatever the store may hold; numbers that JSON has no word for are null."""

    media_type = "application/json"

    def render(self, content: object) -> bytes:
        return orjson.dumps(content, default=str, option=orjson.OPT_NON_STR_KEYS)


def line(of: Line) -> dict[str, Any]:
    """Field by field, as log_files.Line says, with its time in words."""
    shown = {name: cut(value) for name, value in of._asdict().items() if name != "time_ns"}
    return {"time": time(of.time_ns)} | shown


def lines(found: Sequence[Line], *, newest: bool) -> list[dict[str, Any]]:
    """Oldest first. Where they are too much for one answer, the newest are kept, or else the oldest."""
    kept = bounded(map(line, reversed(found) if newest else found))
    return kept[::-1] if newest else kept


def span(of: Span) -> dict[str, Any]:
    """Field by field, as model.Span says."""
    return {name: cut(value) for name, value in asdict(of).items()}


def bounded(documents: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first of them, as many as one answer may hold."""
    kept, size = list[dict[str, Any]](), 0
    for document in documents:
        size += len(orjson.dumps(document, default=str, option=orjson.OPT_NON_STR_KEYS))
        if kept and size > MOST_BYTES:
            break
        kept.append(document)
    return kept


def time(time_ns: int) -> str:
    """RFC 3339, UTC, to the microsecond."""
    return f"{moment(time_ns):%Y-%m-%dT%H:%M:%S}.{time_ns // 1_000 % 1_000_000:06}Z"


def cut(value: Value) -> Value:
    """Texts no longer than LONGEST."""
    match value:
        case str() if len(value) > LONGEST:
            return f"{value[:LONGEST]}… ({len(value) - LONGEST} more characters)"
        case dict():
            return {key[:LONGEST]: cut(inner) for key, inner in value.items()}
        case list() | tuple():
            return [cut(inner) for inner in value]
    return value
