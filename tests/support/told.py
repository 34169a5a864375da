"""A real Envoy that is told snapshots by the discovery service of the control plane, within the test's own process."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import grpc

from services.controlplane.ads import MAY_BE_ASKED, DiscoveryService, Refusal
from services.controlplane.contract import Contract
from services.controlplane.latest import Latest
from services.controlplane.model import Model, Seen
from services.controlplane.resources import HostPort, Resources, Surroundings
from services.controlplane.seeds import Seeds
from services.controlplane.snapshot import Snapshot
from services.files import resource
from tests.support.mesh import Envoy
from tests.support.waiting import eventually

WHOLE = Contract.read(resource("gen/descriptors.binpb").read_bytes(), resource("gen/openapi.json").read_bytes())
# A service with streams and one without.
CONTRACT = replace(WHOLE, rpcs=tuple(rpc for service in ("order", "product") for rpc in WHOLE.of(service)))
SEEDS = Seeds.read(resource("etcd/seed"), CONTRACT.methods)
NOTHING = Seen({}, SEEDS.policies, {service: SEEDS.sampling_percent(service) for service in CONTRACT.services})


@dataclass
class Told:
    """An Envoy, and what it is told."""

    envoy: Envoy
    resources: Resources
    surroundings: Surroundings
    discovery: DiscoveryService
    snapshots: Latest[Snapshot]

    @property
    def refusals(self) -> Sequence[Refusal]:
        return self.discovery.refusals.value or ()

    async def has(self, snapshot: Snapshot) -> None:
        """Returns when Envoy has taken this, all of it, and uses it; fails when it refuses a part."""
        (conversation,) = self.discovery.conversations

        async def look() -> bool:
            return bool(self.refusals) or all(
                not subscription.unanswered and subscription.kept == snapshot.versions[kind]
                for kind, subscription in conversation.subscriptions.items()
            )

        await eventually(look, "Envoy has taken all of it")
        assert self.refusals == ()

        async def uses() -> bool:
            return await asyncio.to_thread(self.envoy.number, "cluster_manager.warming_clusters") == 0

        await eventually(uses, "Envoy waits for nothing")

    def contents(self) -> object:
        """The clusters and routes that it goes by."""
        clusters, routes = "dynamic_active_clusters", "dynamic_route_configs"
        pages = self.envoy.asked("config_dump").json()["configs"]
        return [
            sorted(
                json.dumps({key: value for key, value in each.items() if key in {"cluster", "route_config"}})
                for page in pages
                for each in page.get(of, [])
            )
            for of in (clusters, routes)
        ]

    def sends_to(self, service: str) -> set[str]:
        return {*self.envoy.clusters()[service]}


@asynccontextmanager
async def told_envoy(folder: Path) -> AsyncIterator[Told]:
    """It has been told the seeds and no instance. There is no issuer, and listeners do not wait for one."""
    snapshots = Latest[Snapshot]()
    discovery, server, envoy = DiscoveryService(snapshots), grpc.aio.server(options=[MAY_BE_ASKED]), Envoy(folder)
    discovery.add_to(server)
    envoy.ads_ports = [server.add_insecure_port("127.0.0.1:0")]
    surroundings = Surroundings(
        HostPort.parse(envoy.edge), HostPort.parse(envoy.mesh), "http://issuer", "shop-api", "http://127.0.0.1:1/certs"
    )
    resources = Resources(CONTRACT, surroundings)
    snapshots.put(resources.of(Model().see(NOTHING, 0)))
    await server.start()
    await asyncio.to_thread(envoy.start)
    yield Told(envoy, resources, surroundings, discovery, snapshots)
    envoy.kill()
    await server.stop(0)
