"""One key under a lease, there as long as this process lives, whatever happens to etcd."""

import asyncio
import random
from abc import ABC, abstractmethod
from contextlib import aclosing, suppress

from services.chassis import logs
from services.chassis.etcd import Change, Etcd, EtcdUnavailable, Snapshot, patiently
from services.chassis.patience import describe

log = logs.get()


class LeasedRecord(ABC):
    """What one process says of itself."""

    last_word_s = 1.5
    """How long leaving may take: a process that ends does not wait for an etcd that is away."""

    def __init__(self, etcd: Etcd, key: str, ttl_s: int) -> None:
        self._etcd, self.key, self._ttl_s = etcd, key, ttl_s
        self._lease: int | None = None
        self._writing = asyncio.Lock()
        self._written = b""
        self._due = asyncio.Event()

    @abstractmethod
    def value(self) -> bytes:
        """As it is to stand there now."""

    async def run(self) -> None:
        """Keeps it there for ever; cancel it before `leave`."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch())
            group.create_task(self._keep())

    def renew(self) -> None:
        """Has the other task write it soon, if it says something new or is not there."""
        self._due.set()

    async def put(self) -> None:
        """Writes it now, if it is there. Raises EtcdUnavailable."""
        async with self._writing:
            if self._lease is not None:
                await self._write(self._lease)

    async def leave(self) -> None:
        """Takes the record away, unless another process of the same name has put its own there."""
        try:
            async with asyncio.timeout(self.last_word_s):
                await patiently("leaving")(self._revoke)
        except TimeoutError:
            log.warning("the record stays until its lease ends", key=self.key)

    async def _watch(self) -> None:
        """Has it renewed when the record is gone, or after a break (wiped, restored) another one stands there.

        Renewing alone would find that out a third of a lease later.
        """
        async with aclosing(self._etcd.watch_prefix(self.key)) as changes:
            async for change in changes:
                match change:
                    case Snapshot():
                        entry = change.entries.get(self.key)
                        if entry is None or entry.value != self.value():
                            self.renew()
                    case Change(value=None) if change.key == self.key:
                        self.renew()

    async def _keep(self) -> None:
        while True:
            await patiently("writing the record")(self.begin)
            try:
                while await self._kept():
                    pass
                log.warning("the record was lost", key=self.key)
            except EtcdUnavailable as error:
                log.warning("the record cannot be renewed", key=self.key, error=describe(error))

    async def begin(self) -> None:
        """Writes it under a lease of its own. Raises EtcdUnavailable."""
        async with self._writing:
            self._lease = await self._etcd.grant(self._ttl_s)
            await self._write(self._lease)

    async def _write(self, lease: int) -> None:
        value = self.value()
        await self._etcd.put(self.key, value, lease=lease)
        self._written = value

    async def _kept(self) -> bool:
        """Renews the lease once, after a third of its time or when it is due, and writes what is new or gone.

        A record that another process of the same name has put in its place stays.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(self._ttl_s / 3 * random.uniform(0.8, 1.0)):  # noqa: S311
                await self._due.wait()
        self._due.clear()
        async with self._writing:
            lease = self._lease
            if lease is None or not await self._etcd.refresh(lease):
                return False
            if self.value() != self._written:
                await self._write(lease)
            else:
                await self._etcd.commit({self.key: self._written}, unchanged={self.key: 0}, lease=lease)
            return True

    async def _revoke(self) -> None:
        async with self._writing:
            if self._lease is not None:
                await self._etcd.revoke(self._lease)
                self._lease = None
