"""Messages that are encoded once with blanks in them, and filled in for each service.

envoy-data-plane takes milliseconds to encode a cluster or a route, and a mesh of 500 services has thousands, alike but
for their names. Filling one in takes microseconds (ADR 0012).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import wraps

import betterproto2
from google.protobuf.message import Message


def field(number: int, body: bytes) -> bytes:
    """A field of a message that is already encoded (or of text): messages may be joined from such pieces.

    Protobuf: a message's fields may come in any order, and those of a repeated field one by one.
    """
    return _varint(number << 3 | 2) + _varint(len(body)) + body


class Stencil:
    """An encoded message with blanks for some of its texts and numbers."""

    def __init__(self, message: bytes) -> None:
        self._parts = _parts(message)

    def filled(self, *texts: str | bytes, number: int = 0) -> bytes:
        """The encoded message with these in place of BLANKS, in their order, and of NUMBER."""
        return _filled(self._parts, [text.encode() if isinstance(text, str) else text for text in texts], number)


BLANKS = ("\ue000", "\ue001", "\ue002")
"""Each is the whole value of a field. They are of Unicode's private use; no encoded message begins like one."""
NUMBER = 2**32 - 2
"""The value of a field of integers; Envoy's own configuration has no such figure."""


def stencil[**P](make: Callable[P, betterproto2.Message]) -> Callable[P, Stencil]:
    """The message that `make` returns, as a stencil: made again only for other arguments.

    Arguments are hashable or messages of protobuf.
    """
    made: dict[object, Stencil] = {}

    @wraps(make)
    def kept(*args: P.args, **kwargs: P.kwargs) -> Stencil:
        key = (*map(_key, args), *((name, _key(value)) for name, value in sorted(kwargs.items())))
        if key not in made:
            if len(made) == _MOST_KEPT:
                del made[next(iter(made))]
            made[key] = Stencil(bytes(make(*args, **kwargs)))
        return made[key]

    return kept


# Of one kind. Operators rarely write as many different policies.
_MOST_KEPT = 1000


def _key(argument: object) -> object:
    return argument.SerializeToString(deterministic=True) if isinstance(argument, Message) else argument


type _Part = bytes | _Blank | _Nested


@dataclass(frozen=True, slots=True)
class _Blank:
    """With the tag of its field."""

    tag: bytes
    place: int | None
    """Among the texts; None for the number."""


@dataclass(frozen=True, slots=True)
class _Nested:
    """A message that has blanks."""

    tag: bytes
    parts: list[_Part]


def _parts(message: bytes) -> list[_Part]:
    """Raises ValueError for a blank that is only a part of a text."""
    parts: list[_Part] = []
    begun = at = 0
    while at < len(message):
        start = at
        tag, at = _read(message, at)
        head = message[start:at]
        found: _Part | None = None
        match tag & 7:
            case 0:
                number, at = _read(message, at)
                found = _Blank(head, None) if number == NUMBER else None
            case 1:
                at += 8
            case 2:
                length, at = _read(message, at)
                content, at = message[at : at + length], at + length
                if content in _TEXTS:
                    found = _Blank(head, _TEXTS.index(content))
                elif any(blank in content for blank in _SIGNS):
                    found = _Nested(head, _parts(content))
            case 5:
                at += 4
            case _:
                raise ValueError(f"not a message, or a blank within a text: {message!r}")
        if found:
            parts += [message[begun:start], found]
            begun = at
    if at > len(message):
        raise ValueError(f"not a message, or a blank within a text: {message!r}")
    return [*parts, message[begun:]]


def _filled(parts: Iterable[_Part], texts: Sequence[bytes], number: int) -> bytes:
    filled = bytearray()
    for part in parts:
        match part:
            case bytes():
                filled += part
            case _Nested(tag, inner):
                content = _filled(inner, texts, number)
                filled += tag + _varint(len(content)) + content
            case _Blank(tag, int() as place):
                filled += tag + _varint(len(texts[place])) + texts[place]
            case _Blank(tag):
                filled += tag + _varint(number)
    return bytes(filled)


def _read(message: bytes, at: int) -> tuple[int, int]:
    """A varint, and where the next field begins."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _varint(number: int) -> bytes:
    if number < 128:
        return bytes((number,))
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)


_TEXTS = [blank.encode() for blank in BLANKS]
_SIGNS = [*_TEXTS, _varint(NUMBER)]
