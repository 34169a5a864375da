"""Configuration that changes while the process runs, and is always whole and valid."""

from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import orjson
from google.protobuf import json_format
from google.protobuf.message import Message

from services.chassis import logs
from services.chassis.etcd import Etcd, Snapshot
from services.chassis.messages import overlaid, violations

log = logs.get()


class DocumentRefused(ValueError):
    """Not a document of this configuration; its text names the field."""


class LiveConfig[C: Message]:
    """The defaults with what a document in etcd says instead.

    Until etcd tells otherwise, and while it is away, the last good document holds, over restarts too.
    """

    def __init__(self, etcd: Etcd, key: str, seed: C, last_good: Path) -> None:
        """`seed` has all defaults; the file `last_good` is this process's own. Its folder is made when needed."""
        self._etcd, self._key, self._seed, self._file = etcd, key, seed, last_good
        self._subscribers: list[Callable[[C], None]] = []
        self._seen = 0
        """The newest revision of etcd that was looked at."""
        self._document = b"{}"
        self._current = self._valid(self._document)
        self._remember()

    @property
    def current(self) -> C:
        """Never changed in place: a reader who keeps it sees one state."""
        return self._current

    def subscribe(self, callback: Callable[[C], None]) -> None:
        """Calls it now and after each change, with the whole configuration."""
        self._subscribers.append(callback)
        callback(self._current)

    async def run(self) -> None:
        """Follows the document for ever."""
        async with aclosing(self._etcd.watch_prefix(self._key)) as changes:
            async for change in changes:
                if isinstance(change, Snapshot):
                    self._take_snapshot(change)
                elif change.key == self._key:
                    self._take(change.value or b"{}", change.revision)

    def _take_snapshot(self, snapshot: Snapshot) -> None:
        if entry := snapshot.entries.get(self._key):
            self._take(entry.value, max(entry.revision, snapshot.revision))
        elif snapshot.revision >= self._seen:
            self._take(b"{}", snapshot.revision)
        else:
            # Revisions went back: etcd was wiped. Nobody chose the defaults, and the document will be put back.
            log.warning("etcd was wiped, the last good configuration stays", key=self._key)
            self._seen = snapshot.revision

    def _take(self, document: bytes, revision: int) -> None:
        self._seen = revision
        try:
            config = self._valid(document)
        except DocumentRefused as refused:
            log.warning("configuration refused", key=self._key, revision=revision, error=str(refused))
            return
        if document != self._document:
            self._document = document
            self._keep()
        if config != self._current:
            self._current = config
            log.info("configuration changed", key=self._key, revision=revision)
            for callback in self._subscribers:
                callback(config)

    def _valid(self, document: bytes) -> C:
        """Raises DocumentRefused."""
        try:
            parsed = json_format.Parse(document, type(self._seed)())
        except (json_format.ParseError, UnicodeDecodeError) as error:
            raise DocumentRefused(str(error)) from error
        config = overlaid(self._seed, parsed)
        if wrong := violations(config):
            raise DocumentRefused("; ".join(f"{field}: {what}" for field, what in wrong))
        return config

    def _keep(self) -> None:
        """Whole or not at all: a process killed meanwhile finds the old file."""
        part = self._file.with_suffix(".part")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(orjson.dumps({"revision": self._seen, "document": self._document.decode()}))
            part.replace(self._file)
        except OSError as error:
            log.warning("the last good configuration cannot be kept", file=str(self._file), error=str(error))

    def _remember(self) -> None:
        try:
            kept = orjson.loads(self._file.read_bytes())
            document, seen = kept["document"].encode(), int(kept["revision"])
            self._current = self._valid(document)
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("the kept configuration is no longer good", file=str(self._file), error=str(error))
            return
        self._document, self._seen = document, seen
