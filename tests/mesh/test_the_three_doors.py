"""gRPC, gRPC-web and REST lead to the same rpcs; reflection and health answer for all services."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from shop.notification.v1.notification_pb2 import ListNotificationsRequest
from shop.product.v1.product_pb2 import GetProductRequest

from tests.mesh.calls import HealthWatch, converse, health
from tests.mesh.test_who_gets_in import bearer, keys_are_known
from tests.support.contract import rpcs
from tests.support.doors import Answer, ask, doors_of, same_at_all
from tests.support.mesh import Mesh
from tests.support.refused import outcome
from tests.support.servers import BIN
from tests.support.waiting import eventually

LINES = [{"product": "products/mug", "quantity": 2}]


@pytest.fixture
async def web(mesh: Mesh) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://{mesh.envoy.edge}", trust_env=False) as client:
        yield client


async def buf_curl(*words: str) -> str:
    """What it prints."""
    process = await asyncio.create_subprocess_exec(
        BIN / "buf", "curl", "--protocol", "grpc", "--http2-prior-knowledge", *words, stdout=subprocess.PIPE
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0
    return printed.decode()


def frame(message: bytes) -> bytes:
    """One message of gRPC-web's body."""
    return b"\0" + len(message).to_bytes(4, "big") + message


GET_PRODUCT, LIST_NOTIFICATIONS = (
    next(rpc for rpc in rpcs() if rpc.method == method) for method in ("GetProduct", "ListNotifications")
)


# --- REST


async def test_rest_fills_the_request_from_path_and_query(web: httpx.AsyncClient) -> None:
    got = (await web.get("/v1/products/mug")).json()
    listed = await web.get("/v1/products", params={"page_size": 3, "pageToken": "x"})

    assert got["product"]["name"] == "products/mug"
    assert listed.status_code == 200


@pytest.mark.parametrize("request_id", ["request_id", "requestId"])
async def test_rest_reads_both_spellings_and_writes_camel_case_and_names_of_states(
    mesh: Mesh, edge: grpc.aio.Channel, web: httpx.AsyncClient, request_id: str
) -> None:
    await keys_are_known(mesh, edge)
    sent = dict(bearer(mesh.issuer.token("ann", ["customer"])))

    placed = await web.post("/v1/orders", json={"order": {"lines": LINES}, request_id: "r1"}, headers=sent)

    order = placed.json()["order"]
    assert (order["state"], order["stateReason"]) == ("STATE_PLACED", "")
    assert order["lines"][0]["quantity"] == 2


PATCHES = [
    ({"updateMask": "displayName,imageUri"}, {"displayName": "Mug", "imageUri": "https://example.com/"}),
    ({"update_mask": "display_name"}, {"displayName": "Mug"}),
    ({"product": {"name": "products/mug", "displayName": "Mug"}, "updateMask": "displayName"}, {"displayName": "Mug"}),
]


@pytest.mark.parametrize(("body", "changed"), PATCHES)
async def test_a_patch_names_the_product_in_its_path_and_the_fields_in_its_body(
    mesh: Mesh, edge: grpc.aio.Channel, web: httpx.AsyncClient, body: dict[str, object], changed: dict[str, str]
) -> None:
    await keys_are_known(mesh, edge)
    sent = dict(bearer(mesh.issuer.token("carol", ["catalog-manager"])))
    product = {"displayName": "Mug", "imageUri": "https://example.com/", "description": "Holds tea."}

    patched = await web.patch("/v1/products/mug", json={"product": product} | body, headers=sent)

    said = {field: value for field, value in patched.json()["product"].items() if value}
    assert said == {"name": "products/mug"} | changed


TWO_NAMES = [
    ("PATCH", "/v1/products/mug", {"product": {"name": "products/bowl"}}),
    ("POST", "/v1/products/mug:archive", {"name": "products/bowl"}),
]


@pytest.mark.parametrize(("method", "path", "body"), TWO_NAMES)
async def test_a_body_may_not_name_another_product_than_the_path(
    mesh: Mesh, edge: grpc.aio.Channel, web: httpx.AsyncClient, method: str, path: str, body: dict[str, object]
) -> None:
    await keys_are_known(mesh, edge)
    sent = dict(bearer(mesh.issuer.token("carol", ["catalog-manager"])))

    refused = await web.request(method, path, json=body, headers=sent)

    assert (refused.status_code, refused.json()["code"]) == (400, grpc.StatusCode.INVALID_ARGUMENT.value[0])


async def test_a_refusal_keeps_all_that_it_says_at_every_door(edge: grpc.aio.Channel, web: httpx.AsyncClient) -> None:
    request = GetProductRequest(name="products/mug")

    refused = await ask(doors_of(edge, web), GET_PRODUCT, request, [("x-abort", "UNAVAILABLE")])

    assert len(refused) == 4
    assert same_at_all(refused) == Answer(
        grpc.StatusCode.UNAVAILABLE, "as asked", "AS_ASKED", "shop", {"by": "echo"}, retry_after_s=2
    )


async def test_a_service_without_instances_is_an_outage_at_every_door(
    mesh: Mesh, edge: grpc.aio.Channel, web: httpx.AsyncClient
) -> None:
    await keys_are_known(mesh, edge)
    sent = bearer(mesh.issuer.token("ann", ["customer"]))

    refused = await ask(doors_of(edge, web), LIST_NOTIFICATIONS, ListNotificationsRequest(), sent)

    assert len(refused) == 4
    assert same_at_all(refused).code is grpc.StatusCode.UNAVAILABLE


# --- what a browser needs beyond gRPC-web


@pytest.mark.parametrize("rpc", ["/shop.product.v1.ProductService/GetProduct", "/shop.order.v1.OrderService/GetOrder"])
async def test_a_page_may_read_what_is_answered_and_why_not(web: httpx.AsyncClient, rpc: str) -> None:
    headers = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1", "origin": "http://shop.example"}

    answer = await web.post(rpc, content=bytes(5), headers=headers)

    assert answer.headers["access-control-allow-origin"] == "http://shop.example"
    shown = set(answer.headers["access-control-expose-headers"].replace(" ", "").split(","))
    assert shown == {"grpc-status", "grpc-message", "grpc-status-details-bin", "retry-after"}


@pytest.mark.parametrize("path", ["/shop.order.v1.OrderService/PlaceOrder", "/v1/orders"])
async def test_a_browser_may_ask_first(web: httpx.AsyncClient, path: str) -> None:
    allowed = await web.options(
        path,
        headers={
            "origin": "http://shop.example",
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type,x-grpc-web",
        },
    )

    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == "http://shop.example"
    assert {"authorization", "content-type", "x-grpc-web"} <= set(
        allowed.headers["access-control-allow-headers"].replace(" ", "").split(",")
    )


@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
async def test_what_grpc_would_reset_takes_no_instance_out(web: httpx.AsyncClient, method: str) -> None:
    path = "/shop.product.v1.ProductService/GetProduct"
    request = frame(GetProductRequest(name="products/mug").SerializeToString())

    # HTTP/1.1, and `te: trailers` is missing.
    async with asyncio.TaskGroup() as at_once:
        for _ in range(20):
            at_once.create_task(
                web.request(method, path, content=request, headers={"content-type": "application/grpc"})
            )

    assert (await web.get("/v1/products/mug")).status_code == 200


@pytest.mark.parametrize("header", ["x!", "x|y", "x-junk-bin", "grpc-trace-bin"])
async def test_a_header_that_grpc_cannot_read_is_nobodys_fault(web: httpx.AsyncClient, header: str) -> None:
    assert (await web.get("/v1/products/mug", headers={header: "!"})).status_code == 200


# --- reflection and health


async def test_reflection_describes_all_services(mesh: Mesh) -> None:
    url = f"http://{mesh.envoy.edge}"

    listed = await buf_curl("--list-services", url)
    got = await buf_curl("-d", '{"name": "products/mug"}', f"{url}/shop.product.v1.ProductService/GetProduct")

    assert {
        "grpc.health.v1.Health",
        "shop.inventory.v1.InventoryService",
        "shop.notification.v1.NotificationService",
        "shop.order.v1.OrderService",
        "shop.product.v1.ProductService",
    } <= set(listed.split())
    assert json.loads(got)["product"]["name"] == "products/mug"


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_is_there_in_both_versions(edge: grpc.aio.Channel, version: str) -> None:
    async def list_services() -> AsyncIterator[bytes]:
        yield reflection_pb2.ServerReflectionRequest(list_services="*").SerializeToString()

    answers = converse(edge, f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo", list_services())

    assert b"shop.order.v1.OrderService" in await anext(aiter(answers))


STATUS = [
    ("", health_pb2.HealthCheckResponse.SERVING),
    ("product", health_pb2.HealthCheckResponse.SERVING),
    ("shop.product.v1.ProductService", health_pb2.HealthCheckResponse.SERVING),
    ("notification", health_pb2.HealthCheckResponse.NOT_SERVING),
]


@pytest.mark.parametrize(("service", "status"), STATUS)
async def test_health_is_told_by_the_name_of_a_service(edge: grpc.aio.Channel, service: str, status: int) -> None:
    async def look() -> bool:
        return await health(edge, service) == status

    await eventually(look, f"{service or 'the edge'} has status {status}")


async def test_health_of_an_unknown_service_is_not_found(edge: grpc.aio.Channel) -> None:
    refused = await outcome(health(edge, "unheard"))
    watch = HealthWatch(edge, "unheard")

    assert refused.code is grpc.StatusCode.NOT_FOUND
    assert await watch.next() == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.end()


async def test_a_watcher_of_health_hears_of_changes(mesh: Mesh, edge: grpc.aio.Channel) -> None:
    watch = HealthWatch(edge, "notification")

    assert await watch.next() == health_pb2.HealthCheckResponse.NOT_SERVING
    async with mesh.instances("watched", of=["notification"]):
        assert await watch.next() == health_pb2.HealthCheckResponse.SERVING
    assert await watch.next() == health_pb2.HealthCheckResponse.NOT_SERVING
    watch.end()
