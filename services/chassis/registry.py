"""Being found: the record of an instance among the endpoints of its service."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import override

from mesh.v1 import registry_pb2

from services.chassis import logs
from services.chassis.documents import rendered
from services.chassis.etcd import Etcd, patiently
from services.chassis.leased import LeasedRecord

log = logs.get()


class Registration(LeasedRecord):
    """The record of this instance at `<prefix>endpoints/<service>/<instance>`."""

    def __init__(
        self,
        etcd: Etcd,
        prefix: str,
        service: str,
        instance: str,
        endpoint: registry_pb2.Endpoint,
        address: Callable[[], Awaitable[str]] | None = None,
        ttl_s: int = 10,
    ) -> None:
        """`address` tells where it is each time that it registers; None: where `endpoint` says."""
        super().__init__(etcd, f"{prefix}endpoints/{service}/{instance}", ttl_s)
        self._endpoint = registry_pb2.Endpoint()
        self._endpoint.CopyFrom(endpoint)
        self._endpoint.state = registry_pb2.Endpoint.STATE_READY
        self._address = address

    @override
    def value(self) -> bytes:
        return rendered(self._endpoint)

    @override
    async def begin(self) -> None:
        if self._address:
            self._endpoint.address = await self._address()
        await super().begin()
        log.info("registered", key=self.key, address=self._endpoint.address)

    async def drain(self) -> None:
        """Says that this instance takes nothing new. An etcd that is away does not hold it up."""
        self._endpoint.state = registry_pb2.Endpoint.STATE_DRAINING
        try:
            async with asyncio.timeout(self.last_word_s):
                await patiently("draining")(self.put)
        except TimeoutError:
            log.warning("draining could not be announced", key=self.key)
