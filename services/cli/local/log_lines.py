"""What the parts of a stack write, each in its own way, as lines of one form.

A line is a JSON object: `time` (RFC 3339, UTC), `level` (debug, info, warning, error), `service`, `instance`,
`message`; `trace_id` (32 hex digits), `span_id` (16) and `order` (orders/<uuid>) where they are known; and whatever
else was said, each under its own name. A value that cannot be what its name promises is kept as `said_<name>`.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime

import orjson

from services.cli.local.log_dialects import DIALECTS, Line, Plain
from services.ids import ORDER, SPAN_ID, TRACE_ID, UUID
from services.log_files import LEVELS, instant, parsed, service_of

MAX_LINE_BYTES = 256 * 1024
"""What is longer is cut, and is text then, whatever it was."""

_LEVELS = {
    **dict.fromkeys(("debug", "dbg", "trace", "trc", "finest", "finer", "fine"), "debug"),
    **dict.fromkeys(("info", "inf", "log", "notice", "config", "information"), "info"),
    **dict.fromkeys(("warning", "warn", "wrn"), "warning"),
    **dict.fromkeys(
        ("error", "err", "severe", "critical", "crit", "alert", "emerg", "fatal", "ftl", "panic", "dpanic"), "error"
    ),
}
_NAMES = {
    "time": ("time", "timestamp", "ts", "@timestamp"),
    "level": ("level", "severity"),
    "message": ("message", "msg", "event"),
}
"""What others call it: the first that is there counts, and the rest stays what it is."""
_ORDER_ID = re.compile(f"(?:orders/)?({UUID.pattern})")


class Lines:
    """Makes lines of what one writer writes, in chunks as they come.

    A line that goes on (a traceback, PostgreSQL's DETAIL) is one with its beginning when both are in one chunk, as they
    are when a program writes them at once; else the rest is a line of its own. Nothing is held back but a line that has
    not ended.
    """

    def __init__(self, part: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._part, self._service, self._now = part, service_of(part), now
        self._dialect = DIALECTS.get(self._service, Plain)()
        self._rest = b""
        self._cut = False
        """Whether what follows belongs to a line that was too long."""

    def add(self, chunk: bytes) -> list[bytes]:
        """Whole lines, without their line feeds."""
        *whole, rest = chunk.split(b"\n")
        if not whole:
            self._keep(rest)
            return []
        self._keep(whole[0])
        whole[0], cut, self._rest, self._cut = self._rest, self._cut, b"", False
        self._keep(rest)
        texts = [(text[:MAX_LINE_BYTES], len(text) > MAX_LINE_BYTES) for text in whole]
        if cut:
            texts[0] = texts[0][0], True
        return self._formed(texts)

    def end(self) -> list[bytes]:
        """What was begun and will not be ended."""
        return self.add(b"\n") if self._rest else []

    def said(self, message: str, level: str = "info") -> bytes:
        """A line about this part, by somebody else."""
        return self._whole({"level": level, "message": message})

    def _keep(self, text: bytes) -> None:
        room = MAX_LINE_BYTES - len(self._rest)
        self._cut = self._cut or len(text) > room
        self._rest += text[:room]

    def _formed(self, texts: list[tuple[bytes, bool]]) -> list[bytes]:
        formed: list[bytes] = []
        pending: Line | None = None
        for raw, cut in texts:
            if not raw.strip():
                continue
            said = None if cut or not raw.lstrip().startswith(b"{") else parsed(raw)
            if said is not None:
                formed += self._ended(pending)
                pending = None
                formed.append(raw if self._is_formed(said) else self._whole(self._dialect.of_object(said)))
                continue
            text = raw.decode(errors="replace").rstrip()
            if pending is None or not self._dialect.goes_on(pending, text):
                formed += self._ended(pending)
                pending = self._dialect.begun(text)
            if cut:
                pending["cut_bytes_kept"] = MAX_LINE_BYTES
        return formed + self._ended(pending)

    def _ended(self, pending: Line | None) -> list[bytes]:
        return [] if pending is None else [self._whole(pending)]

    def _is_formed(self, said: Line) -> bool:
        """Whether a line is as it shall be: then it is kept as it is, byte for byte."""
        get = said.get
        return (
            get("level") in LEVELS
            and get("instance") == self._part
            and get("service") == self._service
            and type(get("message")) is str
            and type(time := get("time")) is str
            and time[-1:] == "Z"
            and instant(time) is not None
            and all((value := get(name)) is None or _is(form, value) for name, form in _FORMS)
        )

    def _whole(self, said: Line) -> bytes:
        """With all that every line has, in the order in which people read them."""
        rest = dict(said)
        own = {name: _taken(rest, theirs) for name, theirs in _NAMES.items()}
        time, level = instant(own["time"]), _level(own["level"])
        line: Line = {
            "time": (time or self._now()).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": level or "info",
            "service": self._service,
            "instance": self._part,
            "message": own["message"] if isinstance(own["message"], str) else "",
        }
        for name, check in _CHECKS.items():
            if (value := rest.pop(name, None)) is not None:
                good = check(value)
                line |= {name: good} if good is not None else {f"said_{name}": value} if value != "" else {}
        known = {"time": time is not None, "level": level is not None, "message": isinstance(own["message"], str)}
        line |= {f"said_{name}": own[name] for name, good in known.items() if own[name] is not None and not good}
        for name, ours in (("service", self._service), ("instance", self._part)):
            if (value := rest.pop(name, ours)) != ours and self._service not in DIALECTS:
                line[f"said_{name}"] = value
        return orjson.dumps(line | {name: value for name, value in rest.items() if name not in line})


def _taken(said: Line, names: tuple[str, ...]) -> object:
    return next((said.pop(name) for name in names if name in said), None)


def _level(said: object) -> str | None:
    return _LEVELS.get(said.lower()) if isinstance(said, str) else None


def _is(form: re.Pattern[str], said: object) -> bool:
    return type(said) is str and form.fullmatch(said) is not None


_FORMS = (("trace_id", TRACE_ID), ("span_id", SPAN_ID), ("order", ORDER))


def _id(form: re.Pattern[str]) -> Callable[[object], str | None]:
    def check(said: object) -> str | None:
        found = form.fullmatch(said.lower()) if isinstance(said, str) else None
        return found[0] if found and found[0].strip("0") else None

    return check


def _order(said: object) -> str | None:
    found = _ORDER_ID.fullmatch(said) if isinstance(said, str) else None
    return f"orders/{found[1]}" if found else None


_CHECKS: dict[str, Callable[[object], str | None]] = {
    "trace_id": _id(TRACE_ID), "span_id": _id(SPAN_ID), "order": _order,
}  # fmt: skip
"""What a value becomes under our name; None when it cannot be that."""
