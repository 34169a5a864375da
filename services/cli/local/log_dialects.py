"""How each part of a stack writes its log: what of it is time, level, message and the rest.

A dialect knows where a line of text begins, what goes on with it, and what the names in a line of JSON mean. It leaves
out what is empty, and what a database has in its rows.
"""

import re
from typing import Any

type Line = dict[str, Any]


class Plain:
    """Of a part whose lines are JSON in our names already, and of everything that is none of its own lines."""

    def __init__(self) -> None:
        self._traceback = False
        """Whether we are in one of Python's, whose last line alone is not indented."""

    def begun(self, text: str) -> Line:
        """The line that begins with this text."""
        self._traceback = _TRACEBACK in text
        return {"level": "error", "message": text, "exception": text} if self._traceback else {"message": text}

    def goes_on(self, line: Line, text: str) -> bool:
        """Whether this text belongs to the line that was begun; it is put there then."""
        indented = text[:1] in (" ", "\t")
        if "exception" not in line:
            if indented:
                line["message"] += f"\n{text}"
            return indented
        again = text.startswith(_ABOVE) or _TRACEBACK in text
        if not self._traceback and not again:
            return False
        line["exception"] += f"\n{text}"
        if not indented and not again:
            line["message"] = text
        self._traceback = indented or again
        return True

    def of_object(self, said: Line) -> Line:
        """A line of JSON, in names that are ours or well known."""
        return said


_TRACEBACK = "Traceback (most recent call last):"
_ABOVE = ("During handling of the above exception", "The above exception was the direct cause")


class Postgres(Plain):
    """Text with the prefix that services/cli/local/postgres.py asks for; what goes on is indented by a tab.

    ERROR is about one statement: whoever sent it is told, and knows whether it was foreseen, as a unique key that a
    second request meets. FATAL ends a session, PANIC the server.
    """

    _BEGINS = re.compile(
        r"(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}) UTC \[(?P<pid>\d+)\] (?:(?P<state>[0-9A-Z]{5}) )?"
        r"(?:(?P<database>\S+) )?(?P<severity>[A-Z]+[1-5]?):  (?P<text>.*)"
    )

    def __init__(self) -> None:
        super().__init__()
        self._at = "message"
        """Which field an indented text goes on with."""

    def begun(self, text: str) -> Line:
        if (found := self._BEGINS.fullmatch(text)) is None:
            return super().begun(text)
        severity, self._at = found["severity"], "message"
        line: Line = {"time": f"{found['time']}Z", "pid": int(found["pid"])}
        state = found["state"] or ""
        if severity in _MORE:
            self._at = _MORE[severity]
            line["message"] = ""
        else:
            told = severity == "ERROR" or state.startswith(_ASKED_FOR)
            line["level"] = "warning" if told else severity.rstrip("12345")
        if found["database"]:
            line["database"] = found["database"]
        if state.strip("0"):
            line["sqlstate"] = state
        return self._told(line, found["text"])

    def goes_on(self, line: Line, text: str) -> bool:
        if "pid" not in line:
            return super().goes_on(line, text)
        if text.startswith("\t"):
            self._told(line, text[1:])
            return True
        found = self._BEGINS.fullmatch(text)
        if found is None or found["severity"] not in _MORE or int(found["pid"]) != line["pid"]:
            return False
        self._at = _MORE[found["severity"]]
        self._told(line, found["text"])
        return True

    def _told(self, line: Line, text: str) -> Line:
        """Values of rows are nobody's to read in a log: a broken constraint or a bad value is told without them."""
        if self._at in ("detail", "context") and str(line.get("sqlstate", "")).startswith(_VALUES):
            return line
        line[self._at] = f"{line[self._at]}\n{text}" if line.get(self._at) else text
        return line


_MORE = {
    "DETAIL": "detail", "HINT": "hint", "CONTEXT": "context", "STATEMENT": "statement", "QUERY": "query",
    "LOCATION": "location", "BACKTRACE": "backtrace",
}  # fmt: skip
"""Severities that are none: more words about the line before, of the same process."""
_VALUES = ("22", "23")
"""Classes of SQLSTATE: data exception, integrity constraint violation."""


_ASKED_FOR = "57"
"""Class of SQLSTATE: operator intervention. A statement that was cancelled, a server that starts or stops."""


class Nats(Plain):
    """`[pid] 2026/11/29 07:21:11.123456 [INF] text`, in UTC because nats.conf says so."""

    _BEGINS = re.compile(r"\[(\d+)\] (\d{4})/(\d\d)/(\d\d) (\d\d:\d\d:\d\d\.\d+) \[([A-Z]{3})\] (.*)")

    def begun(self, text: str) -> Line:
        if (found := self._BEGINS.fullmatch(text)) is None:
            return super().begun(text)
        pid, year, month, day, clock, level, message = found.groups()
        return {"time": f"{year}-{month}-{day}T{clock}Z", "level": level, "message": message, "pid": int(pid)}


class Etcd(Plain):
    """JSON of zap; text where the gRPC library inside it speaks by itself."""

    _BEGINS = re.compile(r"(INFO|WARNING|ERROR|FATAL): (\d{4})/(\d\d)/(\d\d) (\d\d:\d\d:\d\d) (.*)")

    def begun(self, text: str) -> Line:
        if (found := self._BEGINS.fullmatch(text)) is None:
            return super().begun(text)
        level, year, month, day, clock, message = found.groups()
        return {"time": f"{year}-{month}-{day}T{clock}Z", "level": level, "message": message}


class Keycloak(Plain):
    """Text for a console, in UTC because its environment says so, with Java's stack traces.

    Its JSON is read too, but not asked for: it costs a second of CPU at every start.
    """

    _BEGINS = re.compile(
        r"(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) (?P<level>[A-Z]+) +\[(?P<logger>[^]]+)\] "
        r"\((?P<thread>[^)]*)\) (?P<message>.*)"
    )
    _TRACE = re.compile(r"\s+at |\s+\.\.\. \d+ |\s*Suppressed: |Caused by: |[\w.$]+(?:Exception|Error)\b")
    _IDLE = frozenset({"sequence", "loggerClassName", "hostName", "processName", "processId", "threadId", "mdc", "ndc",
                       "service.name"})  # fmt: skip

    def begun(self, text: str) -> Line:
        if (found := self._BEGINS.fullmatch(text)) is None:
            return super().begun(text)
        return found.groupdict() | {"time": f"{found['time'].replace(',', '.')}Z"}

    def goes_on(self, line: Line, text: str) -> bool:
        if "logger" in line and self._TRACE.match(text):
            line["exception"] = f"{line['exception']}\n{text}" if "exception" in line else text
            return True
        return super().goes_on(line, text)

    def of_object(self, said: Line) -> Line:
        line = {name: value for name, value in said.items() if name not in self._IDLE}
        for theirs, ours in (("loggerName", "logger"), ("threadName", "thread"), ("stackTrace", "exception")):
            if theirs in line:
                line[ours] = line.pop(theirs)
        if isinstance(thrown := line.get("exception"), dict):
            line["exception"] = _stack_trace(thrown)
        return line


def _stack_trace(thrown: Line) -> str:
    """As Java prints it, of what Quarkus writes: exceptionType, message, frames of class, method and line, causedBy."""
    text = ": ".join(str(thrown[name]) for name in ("exceptionType", "message") if thrown.get(name))
    frames = thrown.get("frames")
    for frame in frames if isinstance(frames, list) else ():
        if isinstance(frame, dict):
            text += f"\n\tat {frame.get('class')}.{frame.get('method')}({frame.get('line', '')})"
    cause = thrown.get("causedBy")
    inner = cause.get("exception") if isinstance(cause, dict) else None
    return f"{text}\nCaused by: {_stack_trace(inner)}" if isinstance(inner, dict) else text


DIALECTS: dict[str, type[Plain]] = {
    "postgres": Postgres,
    "nats": Nats,
    "etcd": Etcd,
    "keycloak": Keycloak,
    "envoy": Plain,  # its own lines as stack.py asks for them, calls as the control plane does (access_logs.py)
}
"""By service; all others are Plain."""
