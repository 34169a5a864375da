"""The log lines of a stack: one file of JSON lines per part, kept by the supervisor, read by `shopmesh logs`."""

import contextlib
import json
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Any

MAX_BYTES = 20_000_000
"""A file that has grown beyond this becomes `<name>.jsonl.1`, and that one goes."""


class LogFile:
    """Takes what one part writes, in chunks as they come, and keeps whole JSON lines."""

    def __init__(self, folder: Path, name: str, max_bytes: int = MAX_BYTES) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._name, self._max_bytes = name, max_bytes
        self._path, self._old = folder / f"{name}.jsonl", folder / f"{name}.jsonl.1"
        self._file = self._opened()
        self._rest = b""
        self.last = ""
        """What the last line said, to quote when the part dies."""

    def write(self, chunk: bytes) -> None:
        """Lines that are no JSON objects (NATS, PostgreSQL) are wrapped into one."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        kept = [line if line.startswith(b"{") else self._wrapped(line) for line in lines if line.strip()]
        if not kept:
            return
        self.last = _words(kept[-1])
        self._keep(kept)

    def say(self, message: str) -> None:
        """A line of the supervisor's own about this part."""
        self._keep([self._wrapped(message.encode())])

    def close(self) -> None:
        if self._rest:
            self.write(b"\n")
        self._file.close()

    def _keep(self, lines: list[bytes]) -> None:
        with contextlib.suppress(OSError):  # a full disk costs lines, never the part that writes them
            self._file.write(b"\n".join(lines) + b"\n")
            if self._file.tell() > self._max_bytes:
                self._file.close()
                self._path.replace(self._old)
                self._file = self._opened()

    def _opened(self) -> FileIO:
        """Unbuffered: what a full disk did not take must not come back with the next line."""
        return self._path.open("ab", buffering=0)

    def _wrapped(self, line: bytes) -> bytes:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        message = line.decode(errors="replace").rstrip()
        return json.dumps({"time": now, "level": "info", "service": self._name, "message": message}).encode()


def _words(line: bytes) -> str:
    """What a line of ours says, with its error when it has one; a line of another form as it is."""
    text = line.decode(errors="replace").strip()
    try:
        said = json.loads(text)
    except ValueError:
        return text
    return ": ".join(str(said[name]) for name in ("message", "error") if said.get(name)) or text


type Line = tuple[str, dict[str, Any]]
"""A part's name and what its line says."""


class Reader:
    """Reads what all parts, or one, have logged and go on logging."""

    def __init__(self, folder: Path, part: str | None = None) -> None:
        self._folder, self._part = folder, part
        self._read: dict[str, int] = {}

    def new(self) -> list[Line]:
        """Lines since the last time, at first everything kept, in order of time."""
        names = [self._part] if self._part else part_names(self._folder)
        return sorted((line for name in names for line in self._new_of(name)), key=lambda line: time_of(line[1]))

    def _new_of(self, name: str) -> list[Line]:
        path, old = self._folder / f"{name}.jsonl", self._folder / f"{name}.jsonl.1"
        read, size = self._read.get(name), path.stat().st_size
        found: list[Line] = []
        if (read is None or size < read) and old.exists():  # the file was replaced since, or long ago
            found += _parsed(name, old, read or 0)[0]
        fresh, self._read[name] = _parsed(name, path, read if read is not None and size >= read else 0)
        return found + fresh


def part_names(folder: Path) -> list[str]:
    """Parts that have logged anything."""
    return sorted(path.stem for path in folder.glob("*.jsonl"))


def of_order(order: str, found: list[Line], traces: set[str]) -> list[Line]:
    """Lines about one order: those that name it, and all that share a trace with one of those.

    `traces` keeps what is known of its traces from one batch of lines to the next.
    """
    id = order.removeprefix("orders/")
    names = {id, f"orders/{id}"}
    traces |= {line["trace_id"] for _, line in found if line.get("order") in names and line.get("trace_id")}
    return [(part, line) for part, line in found if line.get("order") in names or line.get("trace_id") in traces]


def rendered(part: str, line: dict[str, Any]) -> str:
    """One line for reading: when, who, how bad, what, and the rest as key=value."""
    when = time_of(line)[11:23]
    message = line.get("message", line.get("msg", line.get("event", "")))
    level = str(line.get("level", line.get("severity", "info"))).lower()
    known = {
        "time",
        "ts",
        "timestamp",
        "level",
        "severity",
        "service",
        "instance",
        "message",
        "msg",
        "event",
        "span_id",
    }
    facts = " ".join(f"{key}={value}" for key, value in line.items() if key not in known and value not in ("", None))
    return f"{when:12}  {part:14}  {level:7}  {message}{'  ' + facts if facts else ''}"


def _parsed(part: str, path: Path, start: int) -> tuple[list[Line], int]:
    """Whole lines from a byte on, and the byte after them."""
    with path.open("rb") as file:
        file.seek(start)
        whole, newline, _ = file.read().rpartition(b"\n")
    found = []
    for text in whole.splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        found.append((part, line if isinstance(line, dict) else {"message": text.decode(errors="replace")}))
    return found, start + len(whole) + len(newline)


def time_of(line: dict[str, Any]) -> str:
    """RFC 3339 text, which sorts; etcd calls it `ts`."""
    return str(line.get("time", line.get("timestamp", line.get("ts", ""))))
