"""Log lines of a stack as they lie on disk: `<part>.jsonl` and, when that grew too long, `<part>.jsonl.1` before it.

The launcher writes them (services/cli/local/logs.py); the command reads them, and telemetry takes them up. A reader
knows where it is by the file's inode, so a file that is renamed meanwhile is read to its end.
"""

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from services.ids import ORDER, SPAN_ID, TRACE_ID

LEVELS = ("debug", "info", "warning", "error")
"""Rising."""
READ_BYTES = 1024 * 1024
"""So much is read at once."""
SUFFIX, OLD_SUFFIX = ".jsonl", ".jsonl.1"


class Line(NamedTuple):
    """One line, read."""

    time_ns: int
    """Since 1970."""
    level: str
    """One of LEVELS."""
    service: str
    instance: str
    message: str
    trace_id: str
    """32 lower-case hexadecimal digits, or empty."""
    span_id: str
    """16 of them, or empty."""
    order: str
    """`orders/<uuid>`, or empty."""
    fields: dict[str, Any]
    """What else it says."""
    id: int = 0
    """Given by a store: rises with arrival."""


@dataclass(frozen=True, slots=True)
class Place:
    """How far one part's lines were read."""

    file: int
    """Which file: told from its inode and first line, for inodes are used again. Less than 2**56."""
    offset: int
    """The byte after the last line."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Whole lines of one file, without their line feeds, and where the next ones begin."""

    part: str
    lines: list[bytes]
    place: Place
    after_gap: bool = False
    """Lines before these are gone: their file was replaced twice since the last look."""


def parts(folder: Path) -> list[str]:
    """Parts that have logged anything."""
    return sorted(path.name.removesuffix(SUFFIX) for path in folder.glob(f"*{SUFFIX}"))


def batches(folder: Path, part: str, place: Place | None) -> Iterator[Batch]:
    """What a part has logged since that place, or all that is kept, READ_BYTES or a line at a time.

    A file that is gone, or is another one by now, does not stop it: then all that is kept is newer.
    """
    with ExitStack() as stack:
        path, old = folder / f"{part}{SUFFIX}", folder / f"{part}{OLD_SUFFIX}"
        newest = _opened(stack, path)
        files = [newest] if newest else []
        if place is None or newest is None or newest.id != place.file:
            # Opened after the other: had they changed places in between, both are one, and the newest comes next time.
            before = _opened(stack, old)
            if before and newest and before.inode == newest.inode:
                files = []
            files = [before, *files] if before else files
        known = next((at for at, file in enumerate(files) if place and file.id == place.file), None)
        gap = place is not None and known is None
        for at, file in enumerate(files[known or 0 :]):
            offset = place.offset if place and known is not None and at == 0 else 0
            for batch in _read(file, part, offset):
                yield replace(batch, after_gap=True) if gap else batch
                gap = False


def said(raw: bytes, part: str, arrival_ns: int) -> Line:
    """What a line of a part says, whatever stands in the file; a line without a time has that of its arrival.

    The launcher has seen to it that the names hold what they promise; what does not is left out here.
    """
    line = parsed(raw)
    if line is None:
        return Line(arrival_ns, "info", service_of(part), part, raw.decode(errors="replace"), "", "", "", {})
    take = line.pop
    time_ns, level, message = nanoseconds(take("time", None)), take("level", None), take("message", "")
    return Line(
        arrival_ns if time_ns is None else time_ns,
        level if level in LEVELS else "info",
        _text(take("service", "")) or service_of(part),
        _text(take("instance", "")) or part,
        message if isinstance(message, str) else str(message),
        _text(take("trace_id", ""), TRACE_ID),
        _text(take("span_id", ""), SPAN_ID),
        _text(take("order", ""), ORDER),
        line,
    )


def parsed(raw: bytes) -> dict[str, Any] | None:
    """The JSON object that it is. None for everything else, and for one too deep to be written again."""
    try:
        line = orjson.loads(raw)
        if raw.count(b"{") + raw.count(b"[") > _SHALLOW:
            orjson.dumps(line)
    except (ValueError, TypeError):
        return None
    return line if isinstance(line, dict) else None


_SHALLOW = 200
"""Brackets; orjson writes 254 of them in one another, and reads more."""


def told(line: Line) -> dict[str, Any]:
    """The same as one object, in the form of the files: what is empty is left out."""
    known = {"time": shown(line.time_ns), **line._asdict()}
    del known["time_ns"], known["fields"], known["id"]
    return {name: value for name, value in known.items() if value or name == "message"} | {
        name: value for name, value in line.fields.items() if name not in known
    }


def shown(time_ns: int) -> str:
    """RFC 3339 in UTC, with microseconds where there are any below the millisecond."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    parts = f"{rest // 1_000_000:03}" if rest % 1_000_000 < 1000 else f"{rest // 1000:06}"
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{parts}Z"


def nanoseconds(time: object) -> int | None:
    """Since 1970, of a time as `instant` takes it."""
    found = instant(time)
    if found is None:
        return None
    return int(found.timestamp()) * 1_000_000_000 + found.microsecond * 1000


def service_of(part: str) -> str:
    """Whose instance a part is: `order` of `order-2` and `order@2.0`, `envoy` of `envoy-2`."""
    return _INSTANCE.sub("", part)


def instant(said: object) -> datetime | None:
    """The time that was meant, in UTC: RFC 3339 and what is near it, or seconds or milliseconds since 1970."""
    try:
        if isinstance(said, str):
            time = datetime.fromisoformat(said)
            if time.tzinfo is not UTC:
                time = time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
            return time
        if isinstance(said, int | float) and not isinstance(said, bool) and said > 1e8:
            return datetime.fromtimestamp(said / 1000 if said > 1e11 else said, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    return None


_INSTANCE = re.compile(r"(?:-\d+)?(?:@.+)?$")


def _text(value: object, form: re.Pattern[str] | None = None) -> str:
    return value if isinstance(value, str) and (form is None or not value or form.fullmatch(value)) else ""


@dataclass(frozen=True, slots=True)
class _File:
    descriptor: int
    inode: int
    id: int
    size: int


def _opened(stack: ExitStack, path: Path) -> _File | None:
    """None when it is not there, or has no whole line yet."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    stack.callback(os.close, descriptor)
    found = os.fstat(descriptor)
    first, newline, _ = os.pread(descriptor, _FIRST_BYTES, 0).partition(b"\n")
    if not newline and len(first) < _FIRST_BYTES:
        return None
    digest = blake2b(first, digest_size=7, key=found.st_ino.to_bytes(8)).digest()
    return _File(descriptor, found.st_ino, int.from_bytes(digest), found.st_size)


_FIRST_BYTES = 256


def _read(file: _File, part: str, offset: int) -> Iterator[Batch]:
    """To its end, as that was when it was opened."""
    size = READ_BYTES
    while offset < file.size:
        chunk = os.pread(file.descriptor, size, offset)
        whole, newline, _ = chunk.rpartition(b"\n")
        if newline:
            offset += len(whole) + 1
            yield Batch(part, whole.split(b"\n"), Place(file.id, offset))
            size = READ_BYTES
        elif len(chunk) < size:
            return  # the last line has no end yet
        else:
            size *= 2
