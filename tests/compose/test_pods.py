"""The pods of deploy/kubernetes, as containers: what they are told, who they are and what they may write will do."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.cli.settings import PORTS, SERVICES
from tests.compose.images.__main__ import official
from tests.compose.pods import Pods, docker, named, pods
from tests.compose.project import IMAGE
from tests.support.waiting import eventually

pytestmark = pytest.mark.skipif(not shutil.which("kubectl"), reason="no kubectl here: it puts the manifests together")

START_S = 300.0


@pytest.fixture(scope="module")
def running(images: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pods]:
    """One of each Deployment, three of etcd; no Keycloak, which its operator makes, so nobody with a token."""
    folder = tmp_path_factory.mktemp("pods")
    made = folder / "made"
    subprocess.run([sys.executable, "-m", "services.cli", "prepare", "files", "--into", made], check=True)
    with pods(folder, IMAGE) as shop:
        # As the README makes them.
        for reader in (*SERVICES, "audit", "nats"):
            shop.secret(f"shopmesh-{reader}", **{file.name: file.read_text() for file in (made / reader).iterdir()})
        superuser = (made / "postgres" / "superuser-password").read_text()
        shop.secret("shopmesh-postgres", username="postgres", password=superuser)
        shop.secret("shopmesh-keycloak", **{"database-password": (made / "keycloak" / "database-password").read_text()})
        shop.beside("postgres", official()["postgres"], "postgres-rw", f"--env=POSTGRES_PASSWORD={superuser}")
        shop.beside(
            "nats", official()["nats"], "nats", f"--volume={made}/nats:/secrets:ro", "--config=/secrets/nats.conf"
        )
        for member in range(3):
            shop.start("StatefulSet", "etcd", member)
        shop.start("Job", "databases")
        for name in ("mailpit", "controlplane", "envoy", *SERVICES, "telemetry"):
            shop.start("Deployment", name)
        yield shop


async def test_a_call_passes_envoy_and_a_service_to_its_database(running: Pods) -> None:
    async with httpx.AsyncClient(base_url=f"http://{running.addresses['envoy-0']}:{PORTS['edge']}") as caller:

        async def answered() -> bool:
            try:
                return (await caller.get("/v1/products")).status_code == 200
            except httpx.HTTPError:
                return False

        await eventually(answered, "products are listed at the edge", START_S)
    assert [name for name, runs in running.running().items() if not runs] == []


@pytest.mark.parametrize("service", SERVICES)
async def test_the_probe_of_a_service_finds_it_serving(service: str, running: Pods) -> None:
    async with grpc.aio.insecure_channel(f"{running.addresses[f'{service}-0']}:50051") as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)  # its stub does not know what it gets in __init__
        answer = await health.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=START_S)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_service_that_ends_takes_less_than_its_grace(running: Pods) -> None:
    began = time.monotonic()
    docker("stop", "--time", 20, named("order-0"))
    assert time.monotonic() - began < 20
    assert docker("inspect", "--format", "{{.State.ExitCode}}", named("order-0")) == "0"


async def test_one_member_of_etcd_may_be_away(running: Pods) -> None:
    docker("kill", named("etcd-0"))
    running.start("Deployment", "product", 1)

    async def registered() -> bool:
        return '"message":"registered"' in docker("logs", named("product-1"))

    await eventually(registered, "another instance registers", START_S)
