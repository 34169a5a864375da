"""What was mailed, as a reader wants it."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from email import message_from_bytes
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.message import Message
from email.utils import getaddresses, parsedate_to_datetime
from uuid import uuid4

SNIPPET_CHARACTERS = 250


@dataclass(frozen=True, slots=True)
class Correspondent:
    """A name, which may be empty, and an address; RFC 5322 calls the pair a mailbox."""

    name: str
    address: str


@dataclass(frozen=True, slots=True)
class Part:
    """An attachment, or a picture that the text shows."""

    id: str
    file_name: str
    content_type: str
    content_id: str
    inline: bool
    size: int


@dataclass(frozen=True, slots=True)
class Letter:
    """One accepted mail. `bcc` are those whom only the envelope names."""

    id: str
    message_id: str
    sender: Correspondent
    to: tuple[Correspondent, ...]
    cc: tuple[Correspondent, ...]
    bcc: tuple[Correspondent, ...]
    reply_to: tuple[Correspondent, ...]
    return_path: str
    subject: str
    date: datetime
    received: datetime
    text: str
    html: str
    parts: tuple[Part, ...]
    raw: bytes

    @property
    def snippet(self) -> str:
        """The beginning of the text in one line."""
        return " ".join(self.text.split())[:SNIPPET_CHARACTERS]

    @property
    def attachments(self) -> tuple[Part, ...]:
        """The parts that the text does not show."""
        return tuple(part for part in self.parts if not part.inline)


def read(raw: bytes, envelope_from: str, envelope_to: list[str], received: datetime) -> Letter:
    """Reads a mail as it came over SMTP. Never refuses one: what cannot be understood is left empty."""
    # The older of Python's two parsers: the modern one raises at headers that spammers write.
    message = message_from_bytes(raw)
    leaves = [part for part in message.walk() if not part.is_multipart()]
    text, html = (_first(leaves, f"text/{kind}") for kind in ("plain", "html"))
    named = _correspondents(message, "to") + _correspondents(message, "cc")
    hidden = set(envelope_to) - {one.address for one in named}
    return Letter(
        id=uuid4().hex,
        message_id=_header(message, "message-id").strip("<>"),
        sender=next(iter(_correspondents(message, "from")), Correspondent("", envelope_from)),
        to=_correspondents(message, "to"),
        cc=_correspondents(message, "cc"),
        bcc=tuple(Correspondent("", address) for address in sorted(hidden)),
        reply_to=_correspondents(message, "reply-to"),
        return_path=envelope_from,
        subject=_header(message, "subject"),
        date=_date(message) or received,
        received=received,
        text=_text(text) if text else "",
        html=_text(html) if html else "",
        parts=tuple(
            _part(str(number), leaf) for number, leaf in enumerate(leaves, 1) if leaf is not text and leaf is not html
        ),
        raw=raw,
    )


def _header(message: Message, name: str) -> str:
    """The header in readable characters on one line."""
    return _readable(_written(message, name))


def _written(message: Message, name: str) -> str:
    """The header as it stands; raw UTF-8 in it (RFC 6532) is decoded."""
    value: str = next((value for key, value in message.raw_items() if key.lower() == name), "")
    return " ".join(value.encode("utf-8", "surrogateescape").decode("utf-8", "replace").split())


def _readable(written: str) -> str:
    """Encoded words (RFC 2047) decoded, or what was written when they cannot be."""
    try:
        return str(make_header(decode_header(written)))
    except (HeaderParseError, LookupError, ValueError):
        return written


def _correspondents(message: Message, field: str) -> tuple[Correspondent, ...]:
    # Addresses are told apart first: a decoded name may hold a comma.
    pairs = getaddresses([_written(message, field)])
    return tuple(Correspondent(_readable(name), address) for name, address in pairs if address)


def _date(message: Message) -> datetime | None:
    try:
        date = parsedate_to_datetime(_header(message, "date"))
    except ValueError:
        return None
    # "-0000" says that the clock is UTC and the place unknown.
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _first(leaves: Iterable[Message], content_type: str) -> Message | None:
    """The first part of that type which is to be read rather than saved."""
    for leaf in leaves:
        if leaf.get_content_type() == content_type and leaf.get_content_disposition() != "attachment":
            return leaf
    return None


def _text(part: Message) -> str:
    charset = part.get_content_charset("utf-8")
    try:
        text = _payload(part).decode(charset, "replace")
    except (LookupError, ValueError):  # no charset that Python knows
        text = _payload(part).decode("utf-8", "replace")
    return text.replace("\r\n", "\n")


def _payload(part: Message) -> bytes:
    payload = part.get_payload(decode=True)
    return payload if isinstance(payload, bytes) else b""


def _part(id: str, leaf: Message) -> Part:
    content_id = _header(leaf, "content-id").strip("<>")
    return Part(
        id=id,
        file_name=leaf.get_filename() or "",
        content_type=leaf.get_content_type(),
        content_id=content_id,
        inline=leaf.get_content_disposition() == "inline" or bool(content_id),
        size=len(_payload(leaf)),
    )
