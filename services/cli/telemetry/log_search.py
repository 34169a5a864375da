"""Finding log lines: in the store of the shop's telemetry, or in the supervisor's files when that is away.

Both give the same lines for the same question.
"""

import heapq
import re
import time
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from services.failure import Failure
from services.ids import TRACE_ID
from services.log_files import LEVELS, Line, Place, batches, nanoseconds, parts, said, service_of, shown
from services.story.asking import order_uuid

if TYPE_CHECKING:
    import httpx

STORE_S = 3.0
"""So long may the store take to answer."""
MOST_AT_ONCE = 5000
"""Lines in one answer of the store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which lines; what is empty does not matter."""

    service: str = ""
    """A service, or one instance."""
    level: str = ""
    """At least that severe."""
    text: str = ""
    """Words that each begin one of the line's, in its message or in the text of a field."""
    trace: str = ""
    order: str = ""
    """`orders/<uuid>`: lines that name it, and all lines of their traces."""
    since_ns: int = 0
    until_ns: int | None = None
    """Both included."""
    limit: int = 1000
    """The newest so many."""


class Source(Protocol):
    """Where lines come from. Raises Away."""

    def newest(self, wanted: Wanted) -> list[Line]:
        """In order of time."""

    def later(self, wanted: Wanted) -> list[Line]:
        """What has come since the last time, in the order in which it came."""


class Away(Exception):
    """The store cannot tell, and why."""


class Store:
    """Asks the pages of telemetry, at an address `host:port`."""

    def __init__(self, address: str) -> None:
        import httpx

        self._refusals = httpx.HTTPError
        self._web = httpx.Client(base_url=f"http://{address}", timeout=STORE_S, trust_env=False)
        self._last = 0

    def close(self) -> None:
        self._web.close()

    def newest(self, wanted: Wanted) -> list[Line]:
        pages: list[list[dict[str, Any]]] = []
        left = wanted.limit
        while left > 0:
            page = self._asked(wanted, limit=left, **({"before": pages[-1][0]["id"]} if pages else {}))
            if not page:
                break
            pages.append(page)
            left -= len(page)
        return [_of_store(line) for page in reversed(pages) for line in page]

    def later(self, wanted: Wanted) -> list[Line]:
        found: list[Line] = []
        while page := self._asked(wanted, limit=MOST_AT_ONCE, after=self._last):
            found += map(_of_store, page)
        return found

    def _asked(self, wanted: Wanted, *, limit: int, **more: int) -> list[dict[str, Any]]:
        """At most as many as one answer may have. Raises Away, Failure."""
        asked = {
            "service": wanted.service,
            "level": wanted.level,
            "text": wanted.text,
            "trace": wanted.trace,
            "order": wanted.order,
            "since": shown(wanted.since_ns) if wanted.since_ns else "",
            "until": shown(wanted.until_ns) if wanted.until_ns is not None else "",
            "limit": str(min(limit, MOST_AT_ONCE)),
            **{name: str(number) for name, number in more.items()},
        }
        try:
            answer = self._web.get("/api/logs", params={name: text for name, text in asked.items() if text})
        except self._refusals as error:
            raise Away(f"the store of log lines does not answer ({type(error).__name__})") from None
        if answer.status_code == 400:
            raise Failure(refusal(answer))
        if answer.status_code != 200:
            raise Away(f"telemetry answers: {refusal(answer)}")
        try:
            told = answer.json()
            lines: list[dict[str, Any]] = told["lines"]
            last = int(told["last"])  # of all that were looked at, and smaller than before when the store was emptied
        except (ValueError, KeyError, TypeError):
            raise Away("what answers is no store of log lines") from None
        if "before" not in more:
            newest = max((line["id"] for line in lines), default=0)
            self._last = newest if lines and "after" in more else max(newest, last)
        return lines


class Files:
    """Reads what the supervisor keeps. Remembers how far it has read, and the traces of an order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._places: dict[str, Place] = {}
        self._traces: set[str] = set()

    def names(self) -> list[str]:
        """Services and instances that have logged anything."""
        found = parts(self.folder)
        return sorted({*found, *map(service_of, found)})

    def newest(self, wanted: Wanted) -> list[Line]:
        if wanted.order:  # a line may come before the one that tells its trace
            for line in self._read({}):
                self._learn(wanted, line)
        kept: list[tuple[int, int, Line]] = []
        for at, line in enumerate(self._matching(wanted)):
            keep = heapq.heappush if len(kept) < wanted.limit else heapq.heappushpop
            keep(kept, (line.time_ns, at, line))
        return [line for _, _, line in sorted(kept)]

    def later(self, wanted: Wanted) -> list[Line]:
        return sorted(self._matching(wanted), key=lambda line: line.time_ns)

    def _matching(self, wanted: Wanted) -> Iterator[Line]:
        for line in self._read(self._places):
            self._learn(wanted, line)
            if _matches(wanted, line, self._traces):
                yield line

    def _learn(self, wanted: Wanted, line: Line) -> None:
        if wanted.order and line.order == wanted.order and line.trace_id:
            self._traces.add(line.trace_id)

    def _read(self, places: dict[str, Place]) -> Iterator[Line]:
        """Lines since these places, which move along."""
        now_ns = time.time_ns()
        for part in parts(self.folder):
            for batch in batches(self.folder, part, places.get(part)):
                places[part] = batch.place
                yield from (said(raw, part, now_ns) for raw in batch.lines if raw)


def order_name(id: str) -> str:
    """`orders/<uuid>`, of that or of the uuid. Raises CannotTell."""
    return f"orders/{order_uuid(id)}"


def trace_id(text: str) -> str:
    """Raises Failure for what is none."""
    if not TRACE_ID.fullmatch(text.lower()):
        raise Failure(f"{text} is no trace id: write its 32 hexadecimal digits")
    return text.lower()


_WORD = re.compile(r"[^\W_]+")


def _matches(wanted: Wanted, line: Line, traces: set[str]) -> bool:
    return (
        wanted.service in ("", line.service, line.instance)
        and (not wanted.level or LEVELS.index(line.level) >= LEVELS.index(wanted.level))
        and wanted.trace in ("", line.trace_id)
        and (not wanted.order or line.order == wanted.order or line.trace_id in traces)
        and wanted.since_ns <= line.time_ns
        and (wanted.until_ns is None or line.time_ns <= wanted.until_ns)
        and (not wanted.text or _has_words(wanted.text, line))
    )


def _has_words(text: str, line: Line) -> bool:
    """As the store has it: letters and digits, without case and accents; the last word of each group may go on."""
    begins = [words for group in text.split() if (words := _words(group))]
    has = _words(" ".join((line.message, *_texts(line.fields))))
    return bool(begins) and all(words in has for words in begins)


def _words(text: str) -> str:
    """Its words, each with a space before it; empty when there is none."""
    if not text.isascii():
        text = "".join(sign for sign in unicodedata.normalize("NFKD", text) if not unicodedata.combining(sign))
    return "".join(f" {word}" for word in _WORD.findall(text.lower()))


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def _of_store(line: dict[str, Any]) -> Line:
    return Line(nanoseconds(line["time"]) or 0, *(line[name] for name in Line._fields[1:]))


def refusal(answer: "httpx.Response") -> str:
    """What telemetry says about it, or its status where that is all."""
    try:
        return str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {answer.status_code}"
