"""Query parameters of the pages and APIs, as questions to the store."""

import re
import time
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from uuid import UUID

from services.ids import ORDER, TRACE_ID
from services.log_files import LEVELS
from services.story.asking import CannotTell, order_uuid
from services.telemetry.model import LineQuery

MOST_LINES = 1_000
LONGEST = 500
"""Characters of one parameter."""
LATEST_NS = 2**63 - 1
_DURATION = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)(ms|s|m|h|d)")
_UNITS_NS = {"ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3_600 * 10**9, "d": 86_400 * 10**9}

type Parameters = Mapping[str, str]


class BadQuestion(ValueError):
    """A parameter that cannot mean anything; the text says what to write instead."""


def lines(parameters: Parameters, more: Collection[str] = (), most: int = MOST_LINES) -> LineQuery:
    """The lines that `service level text trace order since until after limit` name. Raises BadQuestion.

    `before` is for `reading.older`; `more` are parameters that the caller understands besides; `most` is the largest
    limit.
    """
    known = ("service", "level", "text", "trace", "order", "since", "until", "after", "before", "limit")
    require_known(parameters, (*known, *more))
    if parameters.get("level", "") not in ("", *LEVELS):
        raise BadQuestion(f"level is one of {', '.join(LEVELS)}, not “{_cut(parameters['level'])}”")
    return LineQuery(
        service=text(parameters, "service"),
        level=parameters.get("level", ""),
        text=text(parameters, "text"),
        trace_id=trace_id(parameters["trace"]) if parameters.get("trace") else "",
        order=order(parameters["order"]) if parameters.get("order") else "",
        since_ns=instant(parameters, "since") or 0,
        until_ns=instant(parameters, "until"),
        after_id=number(parameters, "after", 0),
        limit=number(parameters, "limit", 200, least=1, most=most),
    )


def require_known(parameters: Parameters, known: Collection[str]) -> None:
    """Raises BadQuestion for a parameter that nobody reads: a misspelt filter would show everything."""
    for name in parameters:
        if name not in known:
            raise BadQuestion(f"there is no parameter “{_cut(name)}”: there are {', '.join(known)}")


def text(parameters: Parameters, name: str) -> str:
    """Without surrounding blanks; may be empty."""
    given = parameters.get(name, "").strip()
    if len(given) > LONGEST:
        raise BadQuestion(f"{name} has {len(given)} characters: at most {LONGEST} are looked for")
    if "\x00" in given:
        raise BadQuestion(f"{name} holds a NUL character, which no line does")
    return given


def number(parameters: Parameters, name: str, default: int, least: int = 0, most: int = LATEST_NS) -> int:
    """A whole number from `least` to `most`. Raises BadQuestion."""
    given = parameters.get(name, "").strip()
    if not given:
        return default
    if not (given.isascii() and given.isdecimal() and len(given) < 20 and least <= int(given) <= most):
        upper = f"to {most}" if most < LATEST_NS else "or more"
        raise BadQuestion(f"{name} is a number, {least} {upper}, not “{_cut(given)}”")
    return int(given)


def trace_id(given: str) -> str:
    """32 hexadecimal digits; shorter ones have zeros in front, as Zipkin has it."""
    found = given.strip().lower()
    if not found or not TRACE_ID.fullmatch(found.zfill(32)):
        raise BadQuestion(f"a trace has an id of 32 hexadecimal digits, not “{_cut(given)}”")
    return found.zfill(32)


def order(given: str) -> str:
    """`orders/<uuid>`, of that or the UUID alone."""
    return f"orders/{order_id(given)}"


def order_id(given: str) -> UUID:
    """Of `orders/<uuid>` or the UUID alone. Raises BadQuestion."""
    try:
        return order_uuid(given.strip())
    except CannotTell as error:
        raise BadQuestion(str(error)) from None


def is_order_name(value: object) -> bool:
    """What is none has no page, and no link: it may be an address elsewhere."""
    return isinstance(value, str) and ORDER.fullmatch(value) is not None


def is_trace_id(value: object) -> bool:
    """In full."""
    return isinstance(value, str) and TRACE_ID.fullmatch(value) is not None


def instant(parameters: Parameters, name: str) -> int | None:
    """In ns since 1970, of RFC 3339 (UTC where no zone is said) or a duration before now; None where none is given."""
    given = parameters.get(name, "").strip()
    if not given:
        return None
    if duration := _DURATION.fullmatch(given):
        return max(0, time.time_ns() - int(float(duration[1]) * _UNITS_NS[duration[2]]))
    try:
        when = datetime.fromisoformat(given)
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        elapsed = when - datetime(1970, 1, 1, tzinfo=UTC)
    except (ValueError, OverflowError):
        raise BadQuestion(
            f"{name} is a time such as 2026-03-01T12:00:00Z, or a duration before now such as 15m, not “{_cut(given)}”"
        ) from None
    return min(LATEST_NS, max(0, (elapsed.days * 86_400 + elapsed.seconds) * 10**9 + elapsed.microseconds * 1_000))


def _cut(given: str) -> str:
    return given if len(given) <= 60 else f"{given[:60]}…"
