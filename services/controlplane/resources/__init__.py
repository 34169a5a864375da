"""The model as xDS: what Envoy is to do, as pure functions of what is known."""

from collections.abc import Sequence

from mesh.v1 import policy_pb2

from services.controlplane.contract import Contract
from services.controlplane.model import Model, differing
from services.controlplane.resources.clusters import assignments, jwks_cluster, otlp_cluster, service_clusters
from services.controlplane.resources.encoding import Pieces
from services.controlplane.resources.listeners import edge_listener, mesh_listener
from services.controlplane.resources.routes import edge_routes, mesh_routes
from services.controlplane.resources.surroundings import HostPort, Surroundings
from services.controlplane.snapshot import Resource, Snapshot

__all__ = ["HostPort", "Resources", "Surroundings"]

_ROUTES = ""


class Resources:
    """Makes snapshots. Encoding is slow, so what a model has in common with the one before is not made again."""

    def __init__(self, contract: Contract, surroundings: Surroundings) -> None:
        self._contract = contract
        self._services = frozenset(contract.services)
        self._fixed: list[Resource] = [
            jwks_cluster(surroundings.jwks_url),
            otlp_cluster(surroundings.otlp_endpoint),
            edge_listener(contract, surroundings),
            mesh_listener(surroundings),
        ]
        self._pieces = Pieces()
        self._clusters: dict[str, tuple[policy_pb2.Policy, Sequence[Resource]]] = {}
        """By service, with the policy that they are made of."""
        self._model = Model()
        self._made: dict[str, Sequence[Resource]] = {}
        """By service; the routes of all stand by themselves."""
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
        if policies or differing(before.sampling, now.sampling):
            changed[_ROUTES] = self._routes(model)
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
        made = self._clusters.get(service)
        if made is None or made[0] != policy:
            made = self._clusters[service] = (policy, service_clusters(service, policy, streams=streams))
        return [
            *made[1],
            *assignments(service, policy.canary, model.of(service), streams=streams),
        ]

    def _routes(self, model: Model) -> Sequence[Resource]:
        rules = (self._contract, model.seen.policies, model.seen.sampling, self._pieces)
        return [edge_routes(*rules), mesh_routes(*rules)]
