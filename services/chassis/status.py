"""Telling what one goes by: the record of a process among those that follow documents."""

from collections.abc import Iterable
from typing import override

from mesh.v1 import registry_pb2

from services.chassis.documents import rendered
from services.chassis.etcd import Etcd
from services.chassis.leased import LeasedRecord
from services.chassis.metrics import Gauge

_applied = Gauge("shopmesh.config.revision", "{revision}", "Revision in etcd of what this process goes by.", "document")
_known = Gauge(
    "shopmesh.config.revision.known", "{revision}", "The newest that it has seen, also if it was refused.", "document"
)


class StatusRecord(LeasedRecord):
    """The record of this instance at `<prefix>status/<service>/<instance>`; changes that come together are one put."""

    last_word_s = 0.5
    """Nobody is misled by a record that ends with its lease."""

    def __init__(self, etcd: Etcd, prefix: str, service: str, instance: str, ttl_s: int = 10) -> None:
        super().__init__(etcd, f"{prefix}status/{service}/{instance}", ttl_s)
        self._status = registry_pb2.Status()

    @override
    def value(self) -> bytes:
        return rendered(self._status)

    def tell(self, document: str, standing: registry_pb2.AppliedDocument) -> None:
        """What holds of `config/order` or the like from now on."""
        self._status.documents[document].CopyFrom(standing)
        _applied.set(standing.revision, document)
        _known.set(max(standing.revision, standing.refused.revision), document)
        self.renew()

    def tell_refusals(self, refusals: Iterable[registry_pb2.EnvoyRefusal]) -> None:
        """What Envoys refuse now, all of it."""
        del self._status.envoy_refusals[:]
        self._status.envoy_refusals.extend(refusals)
        self.renew()
