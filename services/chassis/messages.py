"""Protobuf messages: their rules, the words that many of them share, page tokens, and documents over defaults."""

import base64
import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol, overload

import orjson
import protovalidate
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.type import money_pb2

from services.money import Money
from services.refusals import PageTokenInvalid

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def violations(message: Message) -> list[tuple[str, str]]:
    """What protovalidate's options find wrong: path of the field, and why. The first message of a type takes 5 ms."""
    return [
        (_path(violation), violation.proto.message or violation.proto.rule_id)
        for violation in protovalidate.collect_violations(message)
    ]


def to_money(money: Money) -> money_pb2.Money:
    """As google.type.Money."""
    units, nanos = money.parts
    return money_pb2.Money(currency_code=money.currency, units=units, nanos=nanos)


def from_money(message: money_pb2.Money) -> Money:
    """From google.type.Money."""
    return Money.of(message.currency_code, message.units, message.nanos)


def to_timestamp(time: datetime) -> Timestamp:
    """As google.protobuf.Timestamp; `time` must be aware."""
    if time.tzinfo is None:
        raise ValueError(f"a time without a zone: {time}")
    since = time - _EPOCH
    return Timestamp(seconds=since.days * 86_400 + since.seconds, nanos=since.microseconds * 1000)


def from_timestamp(message: Timestamp) -> datetime:
    """Aware, in UTC, exact to the microsecond."""
    return message.ToDatetime(tzinfo=UTC)


def to_duration(span: timedelta) -> Duration:
    """As google.protobuf.Duration."""
    duration = Duration()
    duration.FromTimedelta(span)
    return duration


def from_duration(message: Duration) -> timedelta:
    """Exact to the microsecond; `.total_seconds()` gives seconds."""
    return message.ToTimedelta()


class PageSizes(Protocol):
    """What the configuration of a service with lists says of their pages."""

    default_page_size: int
    max_page_size: int


def page_size(asked: int, sizes: PageSizes) -> int:
    """AIP-158: 0 is the default, more than the maximum is the maximum."""
    return min(asked or sizes.default_page_size, sizes.max_page_size)


def encode_page_token(query: str, place: Sequence[object] | None) -> str:
    """Where the next page begins: behind `place`, in the list that `query` (all but page size and token) asks for.

    Empty without a place: then there is no next page.
    """
    if place is None:
        return ""
    content = orjson.dumps([str(part) for part in place])
    return base64.urlsafe_b64encode(_seal(query, content) + content).decode().rstrip("=")


@overload
def decode_page_token[Only](query: str, token: str, only: Callable[[str], Only], /) -> tuple[Only] | None: ...
@overload
def decode_page_token[First, Second](
    query: str, token: str, first: Callable[[str], First], second: Callable[[str], Second], /
) -> tuple[First, Second] | None: ...
def decode_page_token(query: str, token: str, *readers: Callable[[str], object]) -> tuple[object, ...] | None:
    """The place, each part read by its reader (which raises ValueError); None for the first page.

    Raises PageTokenInvalid for what encode_page_token did not make of such a place in the same query.
    The seal binds a token to its query and finds damage. It is no secret: a list must not show a caller more for a
    token than without one.
    """
    if not token:
        return None
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise PageTokenInvalid from None
    seal, content = raw[:_SEAL_BYTES], raw[_SEAL_BYTES:]
    if seal != _seal(query, content):
        raise PageTokenInvalid
    try:
        place = orjson.loads(content)
        if isinstance(place, list) and all(isinstance(part, str) for part in place):
            return tuple(read(part) for read, part in zip(readers, place, strict=True))
    except ValueError:
        pass
    raise PageTokenInvalid


def moment(text: str) -> datetime:
    """Reads a time in a page token, as UTC. Raises ValueError for one without a zone, or beyond all years."""
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"a time without a zone: {text}")
    try:
        return time.astimezone(UTC)
    except OverflowError as beyond:
        raise ValueError(f"no such time in UTC: {text}") from beyond


def overlaid[M: Message](defaults: M, document: M) -> M:
    """`defaults` with what `document` says: merged per field, lists replaced whole, well-known types too."""
    result = type(defaults)()
    result.CopyFrom(defaults)
    _overlay(result, document)
    return result


_SEAL_BYTES = 9


def _seal(query: str, content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_SEAL_BYTES, key=hashlib.sha256(query.encode()).digest()).digest()


def _overlay(result: Message, document: Message) -> None:
    for field, value in document.ListFields():
        if field.message_type is not None and not field.is_repeated:
            target = getattr(result, field.name)
            target.SetInParent()
            # A Duration of 1.5 s over one of 2 s is 1.5 s: a well-known type is one value.
            well_known = field.message_type.full_name.startswith("google.protobuf.")
            if well_known:
                target.CopyFrom(value)
            else:
                _overlay(target, value)
        elif field.is_repeated:
            result.ClearField(field.name)
            getattr(result, field.name).MergeFrom(value)
        else:
            setattr(result, field.name, value)


def _path(violation: protovalidate.Violation) -> str:
    """As protovalidate writes it: `order.lines[2].quantity`."""
    path = ""
    for element in violation.proto.field.elements if violation.proto.field else ():
        path += f".{element.field_name}" if path else element.field_name
        if element.subscript is not None:
            path += f"[{element.subscript.value!r}]"
    return path
