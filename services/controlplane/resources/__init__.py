"""The model as xDS: what Envoy is to do, as pure functions of what is known."""

from collections.abc import Iterable, Sequence

from services.controlplane.contract import Contract
from services.controlplane.model import Model, differing
from services.controlplane.resources.clusters import assignments, jwks_cluster, otlp_cluster, service_clusters
from services.controlplane.resources.listeners import edge_listener, mesh_listener
from services.controlplane.resources.routes import ServiceRoutes, edge_table, mesh_table
from services.controlplane.resources.surroundings import HostPort, Surroundings
from services.controlplane.snapshot import Resource, Snapshot

__all__ = ["HostPort", "Resources", "Surroundings"]

_TABLES = ""


class Resources:
    """Makes snapshots. What a model has in common with the one before is not made again."""

    def __init__(self, contract: Contract, surroundings: Surroundings) -> None:
        self._contract = contract
        self._services = frozenset(contract.services)
        self._fixed: list[Resource] = [
            jwks_cluster(surroundings.jwks_url),
            otlp_cluster(surroundings.otlp_endpoint),
            edge_listener(contract, surroundings),
            mesh_listener(surroundings),
        ]
        self._model = Model()
        self._routes: dict[str, ServiceRoutes] = {}
        self._made: dict[str, Sequence[Resource]] = {}
        """By service; the tables of routes, which are of all, by _TABLES."""
        self._snapshot: Snapshot | None = None

    def of(self, model: Model) -> Snapshot:
        """Every service of the contracts has its cluster, with or without instances.

        The same snapshot as before if nothing in it differs. Raises snapshot.Inconsistent.
        """
        before, now = self._model.seen, model.seen
        policies = differing(before.policies, now.policies)
        changed: dict[str, Sequence[Resource]] = {
            service: self._of(service, model)
            for service in (policies | differing(self._model.endpoints, model.endpoints)) & self._services
        }
        if routed := (policies | differing(before.sampling, now.sampling)) & self._services:
            changed[_TABLES] = self._tables(routed, model)
        self._model = model
        if self._snapshot is None:
            self._snapshot = Snapshot.of([*self._fixed, *(one for made in changed.values() for one in made)])
        elif changed:
            old = [one for key in changed for one in self._made.get(key, ())]
            self._snapshot = self._snapshot.with_([one for made in changed.values() for one in made], old)
        self._made |= changed
        return self._snapshot

    def _of(self, service: str, model: Model) -> Sequence[Resource]:
        """The clusters of a service and their assignments."""
        policy, streams = model.seen.policies[service], self._contract.has_streams(service)
        return [
            *service_clusters(service, policy, streams=streams),
            *assignments(service, policy.canary, model.of(service), streams=streams),
        ]

    def _tables(self, changed: Iterable[str], model: Model) -> Sequence[Resource]:
        for service in changed:
            rpcs, seen = self._contract.of(service), model.seen
            self._routes[service] = ServiceRoutes.of(service, rpcs, seen.policies[service], seen.sampling[service])
        routes = [self._routes[service] for service in self._contract.services]
        return [edge_table(routes, self._contract.openapi), mesh_table(routes)]
