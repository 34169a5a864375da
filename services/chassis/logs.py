"""JSON lines on stdout, each with the trace it belongs to."""

import logging
import sys
import traceback
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, BinaryIO, ClassVar, cast

import orjson
from opentelemetry import trace

from services.chassis.imports import hidden

# structlog would load rich, for colours: 5 MB of every process, and a tenth of a second of its start.
with hidden("rich"):
    import structlog
    from structlog.typing import EventDict

_order: ContextVar[str | None] = ContextVar("order", default=None)


class Log(structlog.BoundLoggerBase):
    """A logger whose level can change while it is in use, as structlog's own filters cannot."""

    level: ClassVar[int] = logging.INFO

    def debug(self, message: str, **facts: object) -> None:
        """For hunting."""
        self._say(logging.DEBUG, "debug", message, facts)

    def info(self, message: str, **facts: object) -> None:
        """A call, a change of state."""
        self._say(logging.INFO, "info", message, facts)

    def warning(self, message: str, **facts: object) -> None:
        """Needs a look one day."""
        self._say(logging.WARNING, "warning", message, facts)

    def error(self, message: str, **facts: object) -> None:
        """Needs a look now."""
        self._say(logging.ERROR, "error", message, facts)

    def exception(self, message: str, **facts: object) -> None:
        """An error, with the traceback of the exception at hand."""
        self.error(message, **facts, exc_info=True)

    def _say(self, level: int, name: str, message: str, facts: dict[str, object]) -> None:
        if level >= Log.level:
            self._proxy_to_logger(name, message, **facts)


def configure(service: str, instance: str) -> None:
    """From now on this process logs as `instance` of `service`, and what its libraries log goes along."""
    structlog.configure(
        processors=[_Line(service, instance)],
        wrapper_class=Log,
        logger_factory=structlog.BytesLoggerFactory(cast("BinaryIO", _Unfailing(sys.stdout.buffer))),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_Library()], level=logging.WARNING, force=True)


def get() -> Log:
    """The logger; may be called before `configure`."""
    log: Log = structlog.get_logger()
    return log


def set_level(level: str) -> None:
    """`DEBUG`, `INFO`, `WARNING` or `ERROR`: the least severe lines that are still written."""
    Log.level = logging.getLevelNamesMapping()[level]


def bind_order(name: str | None) -> None:
    """Every further line and span of this call or task tells which order it is about."""
    _order.set(name)


def order() -> str | None:
    """The order that this call or task is about."""
    return _order.get()


@contextmanager
def about(name: str | None) -> Iterator[None]:
    """What is said inside tells which order it is about, or that it is about none."""
    token = _order.set(name)
    try:
        yield
    finally:
        _order.reset(token)


@contextmanager
def also(take: Callable[[bytes], None]) -> Iterator[None]:
    """Meanwhile `take` gets every line that this process writes, as it was written, in the thread that says it."""
    before, _Line.also = _Line.also, staticmethod(take)
    try:
        yield
    finally:
        _Line.also = before


class _Unfailing:
    """Takes lines whatever becomes of them: on a full disk, or when nobody reads any more, work goes on without."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, line: bytes) -> None:
        with suppress(OSError):
            self._file.write(line)

    def flush(self) -> None:
        with suppress(OSError):
            self._file.flush()


class _Line:
    """Writes a line, its keys in the order in which people read them."""

    also: ClassVar[Callable[[bytes], None] | None] = None

    def __init__(self, service: str, instance: str) -> None:
        self._service, self._instance = service, instance

    def __call__(self, _: object, level: str, event: EventDict) -> bytes:
        line: EventDict = {
            "time": datetime.now(UTC),
            "level": level,
            "service": self._service,
            "instance": self._instance,
            "message": event.pop("event"),
        }
        span = trace.get_current_span().get_span_context()
        if span.trace_id:
            line["trace_id"] = f"{span.trace_id:032x}"
            line["span_id"] = f"{span.span_id:016x}"
        if (order := _order.get()) is not None:
            line["order"] = order
        if error := event.pop("exc_info", None):
            line["exception"] = _traceback(error)
        line.update(event)
        written = orjson.dumps(line, default=repr, option=orjson.OPT_UTC_Z)
        if _Line.also:
            _Line.also(written)
        return written


def _traceback(error: object) -> str:
    if isinstance(error, BaseException):
        return "".join(traceback.format_exception(error))
    return traceback.format_exc()


class _Library(logging.Handler):
    """Passes on what libraries log."""

    def emit(self, record: logging.LogRecord) -> None:
        facts: MutableMapping[str, Any] = {"logger": record.name}
        if record.exc_info and record.exc_info[1]:
            facts["exc_info"] = record.exc_info[1]
        log = get()
        say = log.error if record.levelno >= logging.ERROR else log.warning
        say(record.getMessage(), **facts)
