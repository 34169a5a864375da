"""The log lines of a stack: one file of JSON lines per part, kept by the supervisor, read by `shopmesh logs`."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

MAX_BYTES = 20_000_000
"""A file that has grown beyond this becomes `<name>.1.jsonl`, and that one goes."""

POLL_S = 0.2


class LogFile:
    """Takes what one part writes, in chunks as they come, and keeps whole JSON lines."""

    def __init__(self, folder: Path, name: str, max_bytes: int = MAX_BYTES) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._name, self._max_bytes = name, max_bytes
        self._path, self._old = folder / f"{name}.jsonl", folder / f"{name}.1.jsonl"
        self._file = self._path.open("ab")
        self._rest = b""
        self.last = ""
        """The last line as it was written, to quote when the part dies."""

    def write(self, chunk: bytes) -> None:
        """Lines that are no JSON objects (NATS, PostgreSQL) are wrapped into one."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        kept = [line if line.startswith(b"{") else self._wrapped(line) for line in lines if line.strip()]
        if not kept:
            return
        self.last = next(line for line in reversed(lines) if line.strip()).decode(errors="replace").strip()
        with contextlib.suppress(OSError):  # a full disk costs lines, never the part that writes them
            self._file.write(b"\n".join(kept) + b"\n")
            self._file.flush()
        if self._file.tell() > self._max_bytes:
            self._file.close()
            self._path.replace(self._old)
            self._file = self._path.open("ab")

    def say(self, message: str) -> None:
        """A line of the supervisor's own about this part."""
        self._file.write(self._wrapped(message.encode()) + b"\n")
        self._file.flush()

    def close(self) -> None:
        if self._rest:
            self.write(b"\n")
        self._file.close()

    def _wrapped(self, line: bytes) -> bytes:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        message = line.decode(errors="replace").rstrip()
        return json.dumps({"time": now, "level": "info", "service": self._name, "message": message}).encode()


type Line = tuple[str, dict[str, Any]]
"""A part's name and what its line says."""


def lines(folder: Path, part: str | None = None) -> list[Line]:
    """Everything kept, in order of time."""
    found = [line for path in _files(folder, part) for line in _parsed(path.name, path.read_bytes())]
    return sorted(found, key=lambda line: _time(line[1]))


def follow(folder: Path, part: str | None, stop: Callable[[], bool]) -> Iterator[Line]:
    """New lines as they are written, until `stop` says so; parts that appear later are followed too."""
    seen = {path: path.stat().st_size for path in _files(folder, part)}
    while not stop():
        for path in _files(folder, part):
            if path.stem.endswith(".1"):
                continue
            at, size = seen.get(path, 0), path.stat().st_size
            if size < at:  # rotated
                at = 0
            with path.open("rb") as file:
                file.seek(at)
                whole, newline, _ = file.read().rpartition(b"\n")
            seen[path] = at + len(whole) + len(newline)
            yield from _parsed(path.name, whole)
        time.sleep(POLL_S)


def of_order(order: str, found: list[Line]) -> list[Line]:
    """Lines about one order: those that name it, and all that share a trace with one of those."""
    names = {order, f"orders/{order.removeprefix('orders/')}", order.removeprefix("orders/")}
    traces = {line["trace_id"] for _, line in found if line.get("order") in names and line.get("trace_id")}
    return [(part, line) for part, line in found if line.get("order") in names or line.get("trace_id") in traces]


def rendered(part: str, line: dict[str, Any]) -> str:
    """One line for reading: when, who, how bad, what, and the rest as key=value."""
    when = _time(line)[11:23]
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


def _files(folder: Path, part: str | None) -> list[Path]:
    if part is None:
        return sorted(folder.glob("*.jsonl"))
    return [path for path in (folder / f"{part}.1.jsonl", folder / f"{part}.jsonl") if path.exists()]


def _parsed(file_name: str, text: bytes) -> Iterator[Line]:
    part = file_name.removesuffix(".jsonl").removesuffix(".1")
    for line in text.splitlines():
        try:
            said = json.loads(line)
        except ValueError:
            said = {"message": line.decode(errors="replace")}
        if isinstance(said, dict):
            yield part, said


def _time(line: dict[str, Any]) -> str:
    """RFC 3339 text, which sorts; etcd calls it `ts`."""
    return str(line.get("time", line.get("timestamp", line.get("ts", ""))))
