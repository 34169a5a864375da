"""The control plane as a process: one gRPC server for ADS and for what the edge is asked about all services."""

import asyncio
import os
import signal
import sys
import time

import grpc
import uvloop
from mesh.v1 import registry_pb2

from services.chassis import logs
from services.chassis.early import end_at_once
from services.chassis.etcd import Etcd
from services.chassis.own_lines import also_sent
from services.chassis.reporting import report
from services.chassis.settings import CannotStart, Settings, innermost
from services.chassis.sizes import SERVER_OPTIONS
from services.chassis.status import StatusRecord
from services.controlplane import breakers, edge
from services.controlplane.ads import MAY_BE_ASKED, DiscoveryService, Refusal
from services.controlplane.contract import Contract
from services.controlplane.control import Control
from services.controlplane.kept import Kept
from services.controlplane.latest import Latest
from services.controlplane.resources import HostPort, Resources, Surroundings
from services.controlplane.seeds import Seeds
from services.controlplane.source import Source
from services.files import resource

SERVICE = "controlplane"
PREFIX = "/shop/"
GRACE_S = 1.0

_log = logs.get()


async def serve(settings: Settings, contract: Contract, seeds: Seeds) -> None:
    """Until SIGTERM or SIGINT."""
    surroundings = Surroundings(
        edge=HostPort.parse(settings.edge_listen),
        mesh=HostPort.parse(settings.mesh_listen),
        issuer=settings.issuer,
        audience=settings.audience,
        jwks_url=settings.jwks_url,
        otlp_endpoint=settings.otlp_endpoint,
        otlp_lines=settings.otlp_logs and bool(settings.otlp_endpoint),
    )
    services = frozenset(contract.services)
    file = settings.state_dir / f"{settings.instance}.json"
    control = Control(Resources(contract, surroundings), file, time.monotonic)
    etcd = Etcd(",".join(settings.etcd))
    kept = Kept(settings.state_dir / f"{settings.instance}-documents.json")
    status = StatusRecord(etcd, PREFIX, SERVICE, settings.instance)
    source = Source(etcd, PREFIX, services, seeds, kept, status.tell)

    server = grpc.aio.server(options=[*SERVER_OPTIONS, MAY_BE_ASKED])
    discovery = DiscoveryService(control.snapshots)
    discovery.add_to(server)
    edge.add_to(server, contract, control.models)
    try:
        server.add_insecure_port(settings.ads_listen)
    except RuntimeError as error:
        await etcd.close()
        raise CannotStart(f"SHOPMESH_ADS_LISTEN {settings.ads_listen} cannot be bound") from error
    await server.start()
    _log.info("serving", address=settings.ads_listen)

    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    try:
        async with asyncio.TaskGroup() as group:
            running = (
                control.run(services),
                source.follow(control.see),
                status.run(),
                _tell_refusals(discovery.refusals, status),
                breakers.follow(settings.envoy_admin, services, control.name_at),
                report(settings),
            )
            tasks = [group.create_task(each) for each in running]
            await stopped.wait()
            for task in tasks:
                task.cancel()
    finally:
        await server.stop(GRACE_S)
        await status.leave()
        await etcd.close()


async def _tell_refusals(refusals: Latest[tuple[Refusal, ...]], status: StatusRecord) -> None:
    """What Envoys refuse, as long as they do. Never ends."""
    told, news = dict[Refusal, registry_pb2.EnvoyRefusal](), asyncio.Event()
    with refusals.waking(news):
        while True:
            await news.wait()
            news.clear()
            now = refusals.value or ()
            told = {refusal: told.get(refusal) or _told(refusal) for refusal in now}
            status.tell_refusals(told.values())


def _told(refusal: Refusal) -> registry_pb2.EnvoyRefusal:
    message = registry_pb2.EnvoyRefusal(
        node=refusal.node, type_url=refusal.kind.value, reason=f"{', '.join(refusal.names)}: {refusal.detail}"
    )
    message.time.GetCurrentTime()
    return message


def main() -> None:
    """Reads the environment, then serves."""
    end_at_once()
    try:
        settings = Settings.read(SERVICE, os.environ)
        logs.configure(settings.service, settings.instance)
        descriptors, openapi = (resource(f"gen/{name}").read_bytes() for name in ("descriptors.binpb", "openapi.json"))
        contract = Contract.read(descriptors, openapi)
        with also_sent(settings):
            uvloop.run(serve(settings, contract, Seeds.read(resource("etcd/seed"), contract.methods)))
    except* CannotStart as errors:
        sys.exit(f"{SERVICE}: {innermost(errors)}")


if __name__ == "__main__":
    main()
