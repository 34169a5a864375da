"""Three instances of every service on a mesh of their own, and when all of it is well."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import override

from tests.support.mesh import Mesh, running_mesh
from tests.support.servers import Server
from tests.support.steady import SERVICES, Load, steady_load
from tests.support.waiting import eventually

NAMES = ("a", "b", "c")


class Instance(Server):
    """An instance of every service in one process (tests/support/echo.py), each on a port of its own."""

    ports = len(SERVICES)

    def __init__(self, name: str, fleet: "Fleet", like: "Instance | None" = None) -> None:
        """`like`: it listens where that one did."""
        self.name, self._fleet = name, fleet
        folder = fleet.folder / name
        folder.mkdir(exist_ok=True)
        super().__init__(folder)
        if like:
            self.port, self.other_ports = like.port, like.other_ports

    @property
    def addresses(self) -> dict[str, str]:
        """By service."""
        return {service: f"127.0.0.1:{port}" for service, port in self._ports.items()}

    @override
    def command(self) -> Sequence[str | Path]:
        settings = [f"SHOPMESH_ETCD={self._fleet.mesh.etcd.endpoints}", f"EXECUTED={self._fleet.executed}"]
        services = [f"{service}={port}" for service, port in self._ports.items()]
        here = f"PYTHONPATH={Path(__file__).parents[2]}"
        return ["env", here, *settings, sys.executable, "-m", "tests.support.echo", self.name, *services]

    @property
    def _ports(self) -> dict[str, int]:
        return dict(zip(SERVICES, (self.port, *self.other_ports), strict=True))


class Fleet:
    """What runs now."""

    def __init__(self, mesh: Mesh, folder: Path) -> None:
        self.mesh, self.folder = mesh, folder
        self.executed = folder / "executed"
        self.executed.touch()
        self.instances: dict[str, Instance] = {}

    async def add(self, name: str, like: Instance | None = None) -> Instance:
        """Returns when it accepts; it registers right after."""
        instance = self.instances[name] = Instance(name, self, like)
        await asyncio.to_thread(instance.start)
        return instance

    async def retire(self, name: str) -> None:
        """As an operator does: it drains, and has ended when this returns."""
        await asyncio.to_thread(self.instances.pop(name).stop)

    async def lose(self, name: str) -> Instance:
        """As a crash does."""
        lost = self.instances.pop(name)
        await asyncio.to_thread(lost.kill)
        return lost

    @asynccontextmanager
    async def load(self) -> AsyncIterator[Load]:
        token = self.mesh.issuer.token("ann", ["customer", "catalog-manager"], exp=_NEVER)
        bearer = (("authorization", f"Bearer {token}"),)
        async with steady_load(self.mesh.envoy.edge, self.mesh.envoy.mesh, bearer) as load:
            yield load

    async def routed(self, names: Sequence[str]) -> None:
        """Returns when Envoy sends calls to these instances, and to no others."""

        async def look() -> bool:
            return await self._routed() == {service: self._addresses(service, names) for service in SERVICES}

        await eventually(look, f"calls go to {', '.join(names)}")

    async def well(self) -> None:
        """Returns when Envoy has a control plane, and Envoy and etcd know just the instances that run."""
        await eventually(self._well, "all is well again")

    async def _well(self) -> bool:
        wanted = {service: self._addresses(service, list(self.instances)) for service in SERVICES}
        registered, routed, connected = await asyncio.gather(
            self._registered(),
            self._routed(),
            asyncio.to_thread(self.mesh.envoy.number, "control_plane.connected_state"),
        )
        assert wanted == registered, f"etcd has {registered}, wanted {wanted}"
        assert wanted == routed, f"Envoy has {routed}, wanted {wanted}"
        return connected == 1

    def _addresses(self, service: str, names: Sequence[str]) -> list[str]:
        return sorted(self.instances[name].addresses[service] for name in names)

    async def _routed(self) -> dict[str, list[str]]:
        clusters = await asyncio.to_thread(self.mesh.envoy.clusters)
        return {
            service: sorted(address for address, why_not in clusters.get(service, {}).items() if not why_not)
            for service in SERVICES
        }

    async def _registered(self) -> dict[str, list[str]]:
        """Asked over HTTP: a gRPC channel of the test would add its own back-off to what is measured."""
        entries = await asyncio.to_thread(self.mesh.etcd.entries, "/shop/endpoints/")
        found: dict[str, list[str]] = {service: [] for service in SERVICES}
        for key, value in entries.items():
            found[key.split("/")[3]].append(json.loads(value)["address"])
        return {service: sorted(addresses) for service, addresses in found.items()}


_NEVER = 4_000_000_000
"""When the token ends: longer than any fault."""


@asynccontextmanager
async def running_fleet(*, etcd_members: int = 1, control_planes: int = 1) -> AsyncIterator[Fleet]:
    """A mesh with all instances; all of it is gone in the end."""
    with (
        TemporaryDirectory(prefix="shopmesh-test-fleet-") as folder,
        running_mesh(etcd_members=etcd_members, control_planes=control_planes) as mesh,
    ):
        fleet = Fleet(mesh, Path(folder))
        try:
            for name in NAMES:
                await fleet.add(name)
            await fleet.well()
            yield fleet
        finally:
            for instance in fleet.instances.values():
                instance.kill()
