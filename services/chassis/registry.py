"""Being found: one key under a lease, there as long as this process lives, whatever happens to etcd."""

import asyncio
import random
from contextlib import aclosing, suppress

from mesh.v1 import registry_pb2

from services.chassis import logs
from services.chassis.documents import rendered
from services.chassis.etcd import Change, Etcd, EtcdUnavailable, Snapshot, patiently
from services.chassis.patience import describe

LAST_WORD_S = 1.5
"""How long draining and leaving may take: a process that ends does not wait for an etcd that is away."""

log = logs.get()


class Registration:
    """The record of this instance at `<prefix>endpoints/<service>/<instance>`."""

    def __init__(
        self, etcd: Etcd, prefix: str, service: str, instance: str, endpoint: registry_pb2.Endpoint, ttl_s: int = 10
    ) -> None:
        self._etcd, self._ttl_s = etcd, ttl_s
        self._key = f"{prefix}endpoints/{service}/{instance}"
        self._endpoint = registry_pb2.Endpoint()
        self._endpoint.CopyFrom(endpoint)
        self._endpoint.state = registry_pb2.Endpoint.STATE_READY
        self._lease: int | None = None
        self._writing = asyncio.Lock()
        self._missed = asyncio.Event()

    async def run(self) -> None:
        """Keeps it registered for ever; cancel it before `leave`."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch())
            group.create_task(self._keep())

    async def _watch(self) -> None:
        """Wakes the other task when the record is gone, or after a break (wiped, restored) another one stands there.

        Renewing alone would find that out a third of a lease later.
        """
        async with aclosing(self._etcd.watch_prefix(self._key)) as changes:
            async for change in changes:
                match change:
                    case Snapshot():
                        entry = change.entries.get(self._key)
                        if entry is None or entry.value != self._record():
                            self._missed.set()
                    case Change(value=None) if change.key == self._key:
                        self._missed.set()

    async def _keep(self) -> None:
        while True:
            await patiently("registering")(self._register)
            try:
                while await self._kept():
                    pass
                log.warning("the registration was lost", key=self._key)
            except EtcdUnavailable as error:
                log.warning("the registration cannot be renewed", key=self._key, error=describe(error))

    async def drain(self) -> None:
        """Says that this instance takes nothing new. An etcd that is away does not hold it up."""
        self._endpoint.state = registry_pb2.Endpoint.STATE_DRAINING
        try:
            async with asyncio.timeout(LAST_WORD_S):
                await patiently("draining")(self._put)
        except TimeoutError:
            log.warning("draining could not be announced", key=self._key)

    async def leave(self) -> None:
        """Takes the record away, unless another process of the same name has put its own there."""
        try:
            async with asyncio.timeout(LAST_WORD_S):
                await patiently("leaving")(self._revoke)
        except TimeoutError:
            log.warning("the record stays until its lease ends", key=self._key)

    async def _put(self) -> None:
        async with self._writing:
            if self._lease is not None:
                await self._etcd.put(self._key, self._record(), lease=self._lease)

    async def _revoke(self) -> None:
        async with self._writing:
            if self._lease is not None:
                await self._etcd.revoke(self._lease)
                self._lease = None

    async def _register(self) -> None:
        async with self._writing:
            self._lease = await self._etcd.grant(self._ttl_s)
            await self._etcd.put(self._key, self._record(), lease=self._lease)
        log.info("registered", key=self._key, address=self._endpoint.address)

    async def _kept(self) -> bool:
        """Renews the lease once, after a third of its time or when the record is missed, and puts back what is gone."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._ttl_s / 3 * random.uniform(0.8, 1.0)):  # noqa: S311
                await self._missed.wait()
        self._missed.clear()
        async with self._writing:
            lease = self._lease
            if lease is None or not await self._etcd.refresh(lease):
                return False
            await self._etcd.commit({self._key: self._record()}, unchanged={self._key: 0}, lease=lease)
            return True

    def _record(self) -> bytes:
        return rendered(self._endpoint)
