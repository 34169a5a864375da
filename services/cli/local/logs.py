"""The log lines of a stack: one file of JSON lines per part, written by the supervisor."""

import contextlib
from io import FileIO
from pathlib import Path

import orjson

from services.cli.local.log_lines import Lines
from services.log_files import OLD_SUFFIX, SUFFIX

MAX_BYTES = 20_000_000
"""A file that has grown beyond this becomes `<name>.jsonl.1`, and that one goes."""


class LogFile:
    """Takes what one part writes, in chunks as they come, and keeps lines of one form (log_lines.py)."""

    def __init__(self, folder: Path, name: str, max_bytes: int = MAX_BYTES) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._name, self._max_bytes = name, max_bytes
        self._path, self._old = folder / f"{name}{SUFFIX}", folder / f"{name}{OLD_SUFFIX}"
        self._file = self._opened()
        self._lines = Lines(name)
        self._last = b"{}"
        self._torn = False
        """Whether the file ends in the middle of a line."""

    @property
    def last(self) -> str:
        """What the last line said, to quote when the part dies."""
        return _words(self._last)

    def write(self, chunk: bytes) -> None:
        """What the part itself writes."""
        self._keep(self._lines.add(chunk))

    def write_whole(self, text: bytes) -> None:
        """What a helper of the part has written in all; the part may be in the middle of a line."""
        helper = Lines(self._name)
        self._keep(helper.add(text) + helper.end())

    def say(self, message: str) -> None:
        """A line of the supervisor's own about this part; it is not among its last words."""
        self._append([self._lines.said(message)])

    def close(self) -> None:
        self._keep(self._lines.end())
        self._file.close()

    def _keep(self, lines: list[bytes]) -> None:
        if lines:
            self._last = lines[-1]
            self._append(lines)

    def _append(self, lines: list[bytes]) -> None:
        with contextlib.suppress(OSError):  # a full disk costs lines, never the part that writes them
            data = b"\n" * self._torn + b"\n".join(lines) + b"\n"
            if written := self._file.write(data):
                self._torn = data[written - 1 : written] != b"\n"
            if self._file.tell() > self._max_bytes:
                self._begin_anew()

    def _begin_anew(self) -> None:
        """Raises OSError when it cannot be now; then lines go to the full file, and it is tried again with the next."""
        with contextlib.suppress(FileNotFoundError):  # moved by the last try, or by a person
            self._path.replace(self._old)
        full, self._file = self._file, self._opened()
        self._torn = False
        full.close()

    def _opened(self) -> FileIO:
        """Unbuffered: what a full disk did not take must not come back with the next line."""
        return self._path.open("ab", buffering=0)


def _words(line: bytes) -> str:
    """What a line says, in one line: its message, with the error or the detail when it has one."""
    said = orjson.loads(line)
    told = (said.get(name) for name in ("message", "error", "detail"))
    return ": ".join(str(words).split("\n", 1)[0] for words in told if words)
