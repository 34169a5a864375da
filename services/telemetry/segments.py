"""The folder of the store: segments one after the other, the oldest of which goes as a whole.

Deleting rows would cost as much as writing them did, and leave a file that never shrinks. So a segment is full at a
sixteenth of what may be kept, or after an eighth of the time; then the next one is begun, and the oldest are removed.
A file that SQLite finds broken is put aside, and costs no other one.
"""

import math
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from services.chassis import logs
from services.telemetry import schema
from services.telemetry.model import TooLong

LINE_IDS = 2**32
"""Line n of segment s has the id s * LINE_IDS + n."""
_IDLE = 20
"""So many connections stay open for the next question, which asks all segments. To open one takes a millisecond."""
_STEPS = 10_000
"""Of SQLite's machine, between two looks at the clock: less than a millisecond."""
_BROKEN = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

log = logs.get()


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is kept."""

    bytes: int = 1 << 30
    """On the disk."""
    age_s: float = 7 * 86400.0

    @property
    def segment_bytes(self) -> int:
        return self.bytes // 16

    @property
    def segment_s(self) -> float:
        return self.age_s / 8


class Segments:
    """Numbers of segments, from the oldest to the newest, and connections to them. For any thread."""

    def __init__(self, folder: Path, bounds: Bounds, clock: Callable[[], float] = time.time) -> None:
        """Raises OSError when the folder cannot be made or read."""
        self.bounds = bounds
        self._folder, self._clock = folder, clock
        folder.mkdir(parents=True, exist_ok=True)
        self._begun: dict[int, float] = {}
        """By number, which is the order in which they were begun."""
        self._written: dict[int, float] = {}
        self._last = 0
        self._idle: list[tuple[int, sqlite3.Connection]] = []
        self._lock = threading.Lock()
        self._find()

    def numbers(self) -> list[int]:
        """Oldest first."""
        with self._lock:
            return list(self._begun)

    def newest_first(self) -> Iterator[int]:
        return reversed(self.numbers())

    def bytes(self) -> int:
        """On the disk."""
        return sum(self._bytes(number) for number in self.numbers())

    def oldest_s(self) -> float | None:
        """When the oldest segment was begun."""
        with self._lock:
            return next(iter(self._begun.values()), None)

    def is_full(self, number: int) -> bool:
        """Whether it is time for the next one."""
        now = self._clock()
        old = now - self._begun.get(number, now) > self.bounds.segment_s
        return old or self._bytes(number) >= self.bounds.segment_bytes

    def begin(self) -> tuple[int, sqlite3.Connection]:
        """A new segment, and the connection of its writer. Raises sqlite3.Error, OSError."""
        begun = self._clock()
        number = self._last + 1
        path = self._path(number)
        _unlink(path)  # what an earlier try on a full disk left
        database = schema.create(path, begun)
        with self._lock:
            self._begun[number] = self._written[number] = begun
            self._last = number
        return number, database

    def resume(self) -> tuple[int, sqlite3.Connection] | None:
        """The newest segment, to go on writing it; None when there is none that can be used."""
        for number in self.newest_first():
            try:
                if self._path(number).exists():
                    return number, schema.open_to_write(self._path(number))
                self._forget(number)
            except (sqlite3.DatabaseError, schema.OtherSchema) as error:
                if not is_broken(error):
                    raise
                self.put_aside(number, error)
        return None

    def wrote(self, number: int) -> None:
        """Something was added to it just now."""
        self._written[number] = self._clock()

    def expire(self) -> None:
        """Removes the oldest segments that are too old, or too much. What is being written stays."""
        while len(numbers := self.numbers()) > 1:
            now = self._clock()
            old = now - self._written.get(numbers[0], now) > self.bounds.age_s
            if not old and self.bytes() <= self.bounds.bytes - self.bounds.segment_bytes:
                return
            self._forget(numbers[0])
            _unlink(self._path(numbers[0]))

    @contextmanager
    def reading(self, number: int, until_s: float = math.inf) -> Iterator[sqlite3.Connection | None]:
        """A connection to ask; None when the segment has gone. One that proves broken meanwhile is put aside.

        Raises TooLong at `until_s` of the monotonic clock.
        """
        database = None
        try:
            database = self._connection(number)
        except (sqlite3.DatabaseError, schema.OtherSchema) as error:
            self._found(number, error)
        if database is None:
            yield None
            return
        database.set_progress_handler(lambda: time.monotonic() > until_s, _STEPS)
        try:
            yield database
        except sqlite3.DatabaseError as error:
            database.close()
            if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT:
                raise TooLong("this takes too long: narrow it, by a time or a service") from None
            self._found(number, error)
        except BaseException:
            database.close()
            raise
        else:
            self._give_back(number, database)

    def _found(self, number: int, error: Exception) -> None:
        if not is_broken(error):
            raise error
        self.put_aside(number, error)

    def put_aside(self, number: int, error: Exception) -> None:
        """A broken segment makes room for a new one. The last one stays for whoever wants to look at it."""
        if not self._forget(number):
            return  # somebody else has just found it
        path = self._path(number)
        for earlier in self._folder.glob("*.broken"):
            earlier.unlink(missing_ok=True)
        aside = path.with_suffix(".broken")
        if path.exists():
            path.replace(aside)
        _unlink(path)
        log.error(
            "a file of the store is broken, and was put aside; a new one is begun", file=str(aside), error=str(error)
        )

    def marks(self) -> list[tuple[str, int, int]]:
        """How far log files were read. A new segment begins with the marks of the one before."""
        for number in self.newest_first():
            with self.reading(number) as database:
                if database:
                    return database.execute("select part, file, byte from marks").fetchall()
        return []

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for _, database in idle:
            database.close()

    def _find(self) -> None:
        """What an earlier process left."""
        for number in sorted(int(path.stem) for path in self._folder.glob("*.db") if path.stem.isdigit()):
            self._last, self._begun[number] = number, 0.0
            self._written[number] = max(_modified(file) for file in _files(self._path(number)))
            with self.reading(number) as database:
                if database:
                    (self._begun[number],) = database.execute("select begun_s from segment").fetchone()

    def _connection(self, number: int) -> sqlite3.Connection | None:
        with self._lock:
            if number not in self._begun:
                return None
            for at, (of, database) in enumerate(self._idle):
                if of == number:
                    del self._idle[at]
                    return database
        try:
            return schema.open_to_read(self._path(number))
        except sqlite3.OperationalError:
            if self._path(number).exists():
                raise
            self._forget(number)  # it was removed meanwhile, by `expire` or by hand
            return None

    def _give_back(self, number: int, database: sqlite3.Connection) -> None:
        with self._lock:
            if number in self._begun:
                self._idle.append((number, database))
            else:
                database.close()
            surplus, self._idle = self._idle[:-_IDLE], self._idle[-_IDLE:]
        for _, other in surplus:
            other.close()

    def _forget(self, number: int) -> bool:
        """Whether it was there until now."""
        with self._lock:
            was_there = self._begun.pop(number, None) is not None
            self._written.pop(number, None)
            gone = [database for of, database in self._idle if of == number]
            self._idle = [(of, database) for of, database in self._idle if of != number]
        for database in gone:
            database.close()
        return was_there

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:08}.db"

    def _bytes(self, number: int) -> int:
        return sum(_size(file) for file in _files(self._path(number)))


def is_broken(error: Exception) -> bool:
    """Whether the file is no database of ours, or none at all; not: whether the disk is full, or busy."""
    if isinstance(error, sqlite3.DatabaseError):
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in _BROKEN
    return isinstance(error, schema.OtherSchema)


def _files(path: Path) -> list[Path]:
    return [path, *(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))]


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _modified(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def _unlink(path: Path) -> None:
    for file in _files(path):
        file.unlink(missing_ok=True)
