"""The model as xDS: what Envoy is to do, as pure functions of what is known."""

from services.controlplane.contract import Contract
from services.controlplane.model import Model
from services.controlplane.resources.clusters import assignment, jwks_cluster, otlp_cluster, service_cluster
from services.controlplane.resources.listeners import edge_listener, mesh_listener
from services.controlplane.resources.routes import edge_routes, mesh_routes
from services.controlplane.resources.surroundings import HostPort, Surroundings
from services.controlplane.snapshot import Resource, Snapshot

__all__ = ["HostPort", "Resources", "Surroundings"]


class Resources:
    """Makes snapshots. What depends on nothing that changes (listeners, clusters outside the mesh) is made once."""

    def __init__(self, contract: Contract, surroundings: Surroundings) -> None:
        self._contract = contract
        self._fixed: list[Resource] = [
            jwks_cluster(surroundings.jwks_url),
            edge_listener(contract, surroundings),
            mesh_listener(surroundings),
            otlp_cluster(surroundings.otlp_endpoint),
        ]

    def of(self, model: Model) -> Snapshot:
        """Every service of the contracts has its cluster, with or without instances."""
        services, policies = self._contract.services, model.seen.policies
        return Snapshot.of(
            [
                *self._fixed,
                *(service_cluster(service, policies[service]) for service in services),
                *(assignment(service, model.of(service)) for service in services),
                edge_routes(self._contract, model.seen),
                mesh_routes(self._contract, model.seen),
            ]
        )
