"""Telling what one goes by: one key under a lease, there as long as this process lives, whatever happens to etcd."""

import asyncio
import random
from collections.abc import Iterable

from mesh.v1 import registry_pb2

from services.chassis import logs
from services.chassis.documents import rendered
from services.chassis.etcd import Etcd, EtcdUnavailable, patiently
from services.chassis.patience import describe

LAST_WORD_S = 0.5
"""How long leaving may take; nobody is misled by a record that ends with its lease."""

log = logs.get()


class StatusRecord:
    """The record of this instance at `<prefix>status/<service>/<instance>`; changes that come together are one put."""

    def __init__(self, etcd: Etcd, prefix: str, service: str, instance: str, ttl_s: int = 10) -> None:
        self._etcd, self._ttl_s = etcd, ttl_s
        self._key = f"{prefix}status/{service}/{instance}"
        self._status = registry_pb2.Status()
        self._news = asyncio.Event()
        self._lease: int | None = None

    def tell(self, document: str, standing: registry_pb2.AppliedDocument) -> None:
        """What holds of `config/order` or the like from now on."""
        self._status.documents[document].CopyFrom(standing)
        self._news.set()

    def tell_refusals(self, refusals: Iterable[registry_pb2.EnvoyRefusal]) -> None:
        """What Envoys refuse now, all of it."""
        del self._status.envoy_refusals[:]
        self._status.envoy_refusals.extend(refusals)
        self._news.set()

    async def run(self) -> None:
        """Keeps it true for ever; cancel it before `leave`."""
        while True:
            await patiently("telling the status")(self._begin)
            try:
                while await self._kept():
                    pass
                log.warning("the status was lost", key=self._key)
            except EtcdUnavailable as error:
                log.warning("the status cannot be renewed", key=self._key, error=describe(error))

    async def leave(self) -> None:
        """Takes the record away. An etcd that is away does not hold it up."""
        if self._lease is None:
            return
        try:
            async with asyncio.timeout(LAST_WORD_S):
                await self._etcd.revoke(self._lease)
        except (EtcdUnavailable, TimeoutError):
            log.warning("the status stays until its lease ends", key=self._key)

    async def _begin(self) -> None:
        self._lease = await self._etcd.grant(self._ttl_s)
        await self._put(self._lease)

    async def _put(self, lease: int) -> None:
        self._news.clear()
        await self._etcd.put(self._key, self._record(), lease=lease)

    async def _kept(self) -> bool:
        """Puts what is new at once; else renews the lease after a third of its time, and the record if it is gone."""
        lease = self._lease
        assert lease is not None
        try:
            async with asyncio.timeout(self._ttl_s / 3 * random.uniform(0.8, 1.0)):  # noqa: S311
                await self._news.wait()
        except TimeoutError:
            if not await self._etcd.refresh(lease):
                return False
            await self._etcd.commit({self._key: self._record()}, unchanged={self._key: 0}, lease=lease)
        else:
            await self._put(lease)
        return True

    def _record(self) -> bytes:
        return rendered(self._status)
