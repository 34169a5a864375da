"""Configuration that changes while the process runs, and is always whole and valid."""

from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import orjson
from google.protobuf.message import Message
from mesh.v1 import registry_pb2

from services.chassis import logs
from services.chassis.documents import DocumentRefused, effective
from services.chassis.etcd import Etcd, Snapshot

log = logs.get()


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
        self._document = b""
        self._standing = registry_pb2.AppliedDocument(revision=0)
        self._hearers: list[Callable[[registry_pb2.AppliedDocument], None]] = []
        self._current = effective(seed, self._document)
        self._remember()

    @property
    def current(self) -> C:
        """Never changed in place: a reader who keeps it sees one state."""
        return self._current

    def subscribe(self, callback: Callable[[C], None]) -> None:
        """Calls it now and after each change, with the whole configuration."""
        self._subscribers.append(callback)
        callback(self._current)

    def hear(self, callback: Callable[[registry_pb2.AppliedDocument], None]) -> None:
        """Calls it with what is in effect, and what was refused, after each document that was looked at."""
        self._hearers.append(callback)

    async def run(self) -> None:
        """Follows the document for ever."""
        async with aclosing(self._etcd.watch_prefix(self._key)) as changes:
            async for change in changes:
                if isinstance(change, Snapshot):
                    self._take_snapshot(change)
                elif change.key == self._key:
                    revision = change.revision if change.value is not None else 0
                    self._take(change.value or b"", revision, change.revision)

    def _take_snapshot(self, snapshot: Snapshot) -> None:
        if entry := snapshot.entries.get(self._key):
            self._take(entry.value, entry.revision, max(entry.revision, snapshot.revision))
        elif snapshot.revision >= self._seen:
            self._take(b"", 0, snapshot.revision)
        else:
            # Revisions went back: etcd was wiped. Nobody chose the defaults, and the document will be put back.
            log.warning("etcd was wiped, the last good configuration stays", key=self._key)
            self._seen = snapshot.revision

    def _take(self, document: bytes, revision: int, seen: int) -> None:
        """`revision` is the document's own, 0 where there is none."""
        self._seen = seen
        try:
            config = effective(self._seed, document)
        except DocumentRefused as refused:
            log.warning("configuration refused", key=self._key, revision=revision, error=str(refused))
            self._refuse(revision, str(refused))
            return
        renewed = document != self._document or revision != self._standing.revision
        self._document, self._standing = document, registry_pb2.AppliedDocument(revision=revision)
        if renewed:
            self._keep()
        if config != self._current:
            self._current = config
            log.info("configuration changed", key=self._key, revision=revision)
            for callback in self._subscribers:
                callback(config)
        self._tell()

    def _refuse(self, revision: int, reason: str) -> None:
        refused = registry_pb2.DocumentRefusal(revision=revision, reason=reason)
        refused.time.GetCurrentTime()
        self._standing = registry_pb2.AppliedDocument(revision=self._standing.revision, refused=refused)
        self._tell()

    def _tell(self) -> None:
        for callback in self._hearers:
            callback(self._standing)

    def _keep(self) -> None:
        """Whole or not at all: a process killed meanwhile finds the old file."""
        kept = {"revision": self._seen, "applied": self._standing.revision, "document": self._document.decode()}
        part = self._file.with_suffix(".part")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(orjson.dumps(kept))
            part.replace(self._file)
        except OSError as error:
            log.warning("the last good configuration cannot be kept", file=str(self._file), error=str(error))

    def _remember(self) -> None:
        try:
            kept = orjson.loads(self._file.read_bytes())
            document, seen = kept["document"].encode(), int(kept["revision"])
            applied = int(kept.get("applied", 0))
            self._current = effective(self._seed, document)
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("the kept configuration is no longer good", file=str(self._file), error=str(error))
            return
        self._document, self._seen = document, seen
        self._standing = registry_pb2.AppliedDocument(revision=applied)
