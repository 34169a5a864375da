"""Takes up what all parts of a stack log, from the files that the launcher keeps: docs/adr/0013.

The files are the buffer. How far they were read is kept with the lines, so that a restart goes on there; while whoever
takes the lines has no room, they wait where they are.
"""

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from services.chassis import logs
from services.log_files import SUFFIX, Line, Place, batches, said

LOOK_EVERY_S = 0.3

log = logs.get()


class Taker(Protocol):
    """Who takes lines; called in threads, one call at a time."""

    @property
    def has_room(self) -> bool: ...

    def put_lines(self, lines: Sequence[Line], mark: tuple[str, int, int]) -> bool:
        """`mark` (a part, its file, the byte after the lines) is kept with them. False: they were not taken."""


class Tail:
    """Follows every file of a folder, also those that come later."""

    def __init__(self, folder: Path, marks: Mapping[str, tuple[int, int]], taker: Taker) -> None:
        self._folder, self._taker = folder, taker
        self._places = {part: Place(*mark) for part, mark in marks.items()}
        self._seen: dict[str, tuple[int, int]] = {}
        """Inode and size of files with nothing new."""
        self._unread: dict[str, int | None] = {}
        """Why a file could not be read: of each cause it is told once."""

    async def run(self) -> None:
        """For ever. While nothing is logged it only looks at the sizes of files."""
        loop, thread = asyncio.get_running_loop(), ThreadPoolExecutor(1)  # of its own: questions take all of the others
        try:
            while True:
                if self._taker.has_room and any(self._seen.get(part) != now for part, now in self._now().items()):
                    await loop.run_in_executor(thread, self.look)
                await asyncio.sleep(LOOK_EVERY_S)
        finally:
            thread.shutdown(wait=False)

    def look(self) -> None:
        """Hands on what is new, as far as there is room for it."""
        for part, now in self._now().items():
            try:
                if self._seen.get(part) != now and self._hand_on(part):
                    self._seen[part] = now
            except OSError as error:
                if self._unread.get(part) != error.errno:
                    self._unread[part] = error.errno
                    log.warning("a log file cannot be read; it is tried again", part=part, error=error.strerror)

    def _hand_on(self, part: str) -> bool:
        """Whether all of it was taken."""
        for batch in batches(self._folder, part, self._places.get(part)):
            if not self._taker.has_room:
                return False
            arrival_ns = time.time_ns()
            lines = [said(raw, part, arrival_ns) for raw in batch.lines if raw]
            mark = (part, batch.place.file, batch.place.offset)
            if not self._taker.put_lines(lines, mark):
                return False
            self._places[part] = batch.place
            if batch.after_gap:
                log.warning("log lines may be missing: a file was replaced before it was read to its end", part=part)
        return True

    def _now(self) -> dict[str, tuple[int, int]]:
        found = dict[str, tuple[int, int]]()
        with suppress(OSError), os.scandir(self._folder) as files:
            for file in files:
                if file.name.endswith(SUFFIX):
                    with suppress(OSError):
                        about = file.stat()
                        found[file.name.removesuffix(SUFFIX)] = about.st_ino, about.st_size
        return found
