"""The model as xDS: what Envoy is to do, as pure functions of what is known."""

from collections.abc import Callable

from services.controlplane.contract import Contract
from services.controlplane.model import Model
from services.controlplane.resources.clusters import assignment, jwks_cluster, otlp_cluster, service_cluster
from services.controlplane.resources.listeners import edge_listener, mesh_listener
from services.controlplane.resources.routes import edge_routes, mesh_routes
from services.controlplane.resources.surroundings import HostPort, Surroundings
from services.controlplane.snapshot import Resource, Snapshot

__all__ = ["HostPort", "Resources", "Surroundings"]


class Resources:
    """Makes snapshots. Encoding is slow (routes take 0.4 s), so a resource is made anew only when its inputs differ."""

    def __init__(self, contract: Contract, surroundings: Surroundings) -> None:
        self._contract = contract
        self._fixed: list[Resource] = [
            jwks_cluster(surroundings.jwks_url),
            otlp_cluster(surroundings.otlp_endpoint),
            edge_listener(contract, surroundings),
            mesh_listener(surroundings),
        ]
        self._made: dict[str, tuple[object, Resource]] = {}

    def of(self, model: Model) -> Snapshot:
        """Every service of the contracts has its cluster, with or without instances."""
        services, seen = self._contract.services, model.seen
        return Snapshot.of(
            [
                *self._fixed,
                *(
                    self._once(f"cluster {service}", service_cluster, service, seen.policies[service])
                    for service in services
                ),
                *(self._once(f"assignment {service}", assignment, service, model.of(service)) for service in services),
                self._once("edge", edge_routes, self._contract, seen.policies, seen.sampling),
                self._once("mesh", mesh_routes, self._contract, seen.policies, seen.sampling),
            ]
        )

    def _once[**Inputs](
        self, what: str, make: Callable[Inputs, Resource], *inputs: Inputs.args, **named: Inputs.kwargs
    ) -> Resource:
        made = self._made.get(what)
        if made is None or made[0] != inputs:
            made = self._made[what] = (inputs, make(*inputs, **named))
        return made[1]
