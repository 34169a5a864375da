"""`shopmesh status` of a shop that something else runs, where nearly all is away."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, override

import pytest
from click.testing import CliRunner

from services.chassis.etcd import Etcd
from services.cli.__main__ import main
from tests.support.etcd import EtcdServer, running_etcd
from tests.support.ports import free_port


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdServer]:
    with running_etcd() as server:
        yield server


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    """Answers as Envoy's edge does for a path that nobody has, with a 404, and as Keycloak in trouble: with a 503."""

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404 if self.path == "/" else 503)
            self.end_headers()

        @override
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def put(etcd: EtcdServer, documents: Mapping[str, str]) -> None:
    async def putting() -> None:
        client = Etcd(etcd.endpoint)
        for key, text in documents.items():
            await client.put(f"/shop/{key}", text.encode())
        await client.close()

    asyncio.run(putting())


def status(environment: Mapping[str, str]) -> tuple[int, dict[str, dict[str, Any]]]:
    done = CliRunner().invoke(main, ["status", "--json"], env=environment)
    return done.exit_code, {row["name"]: row for row in json.loads(done.stdout)}


def test_each_part_is_told_with_why_it_is_not_well(etcd: EtcdServer, web: str) -> None:
    record = {"address": "10.0.0.7:50051", "version": "2.0"}
    put(etcd, {
        "endpoints/order/order-1": json.dumps({**record, "state": "STATE_READY"}),
        "endpoints/inventory/inventory-1": json.dumps({**record, "state": "STATE_DRAINING"}),
        "status/controlplane/controlplane-1": "{}",
    })  # fmt: skip
    nobody = f"127.0.0.1:{free_port()}"

    code, rows = status({
        "SHOPMESH_EDGE": web, "SHOPMESH_ETCD": etcd.endpoint, "SHOPMESH_ISSUER": f"http://{web}/realms/shop",
        "SHOPMESH_NATS_URL": f"nats://audit@{nobody}", "SHOPMESH_POSTGRES": nobody, "SHOPMESH_MAIL": nobody,
    })  # fmt: skip

    assert code == 1
    states = {name: row["state"] for name, row in rows.items()}
    assert states == {
        "order-1": "ready", "inventory-1": "draining", "controlplane-1": "ready", "etcd": "ready", "edge": "ready",
        "product": "missing", "inventory": "missing", "notification": "missing",
        "identity": "away", "nats": "away", "postgres": "away", "mail": "away",
    }  # fmt: skip
    assert (rows["order-1"]["address"], rows["order-1"]["version"]) == ("10.0.0.7:50051", "2.0")
    assert (rows["identity"]["why"], rows["nats"]["address"]) == ("answers 503", nobody)
    assert "no instance is registered that takes calls" in rows["inventory"]["why"]


def test_without_etcd_the_rest_is_told(web: str) -> None:
    nobody = f"127.0.0.1:{free_port()}"

    code, rows = status({"SHOPMESH_EDGE": web, "SHOPMESH_ETCD": nobody, "SHOPMESH_ISSUER": f"http://{web}/"})

    assert (code, {name: row["state"] for name, row in rows.items()}) == (
        1, {"etcd": "away", "edge": "ready", "identity": "away"}
    )  # fmt: skip
