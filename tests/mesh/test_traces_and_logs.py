"""What Envoy tells about calls: spans, trace context, access log."""

import re

import grpc
import httpx
import pytest

from services.chassis.etcd import Etcd
from tests.mesh.calls import call
from tests.support.mesh import Mesh
from tests.support.otlp import Receiver
from tests.support.waiting import eventually

GET_PRODUCT = "/shop.product.v1.ProductService/GetProduct"
GET_STOCK = "/shop.inventory.v1.InventoryService/GetStock"
A_TRACE = "0af7651916cd43dd8448eb211c80319c"


def sampled(traceparent: str) -> bool:
    return traceparent.endswith("-01")


async def heard(edge: grpc.aio.Channel, path: str, *sent: tuple[str, str]) -> str:
    """The trace context that the service got. Raises grpc.aio.AioRpcError."""
    asked = call(edge, path, metadata=[*sent, ("x-hear", "traceparent")])
    await asked
    return str(dict(await asked.initial_metadata())["x-heard"])


async def test_a_call_without_trace_context_gets_one(mesh: Mesh, edge: grpc.aio.Channel) -> None:
    del mesh
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", await heard(edge, GET_PRODUCT))


@pytest.mark.parametrize("flag", ["00", "01"])
async def test_the_callers_trace_is_continued_with_its_decision(mesh: Mesh, edge: grpc.aio.Channel, flag: str) -> None:
    del mesh
    got = await heard(edge, GET_PRODUCT, ("traceparent", f"00-{A_TRACE}-b7ad6b7169203331-{flag}"))

    assert got.startswith(f"00-{A_TRACE}-")
    assert got.endswith(f"-{flag}")
    assert "b7ad6b7169203331" not in got


async def test_a_share_between_none_and_all_is_kept(mesh: Mesh, edge: grpc.aio.Channel) -> None:
    etcd = Etcd(mesh.etcd.endpoint)
    await etcd.put("/shop/config/inventory", b'{"process": {"sampling_percent": 10}}')
    try:

        async def look() -> bool:
            return not sampled(await heard(edge, GET_STOCK))

        await eventually(look, "not all traces of inventory are kept")
        # Once only: an address may make 400 calls in a burst.
        share = sum([sampled(await heard(edge, GET_STOCK)) for _ in range(300)]) / 300
        assert 0.01 < share < 0.3, "beyond that not once in a million times"
    finally:
        await etcd.delete("/shop/config/inventory")
        await etcd.close()


async def test_the_share_of_traces_is_the_services_own_over_every_door(mesh: Mesh, edge: grpc.aio.Channel) -> None:
    etcd = Etcd(mesh.etcd.endpoint)

    async def all_kept() -> bool:
        # What another test has put may be on its way out still.
        return all([sampled(await heard(edge, GET_STOCK)) for _ in range(10)])

    await eventually(all_kept, "traces of inventory are kept")
    await etcd.put("/shop/config/inventory", b'{"process": {"sampling_percent": 0}}')
    try:
        at, asking = f"http://{mesh.envoy.edge}", {"x-hear": "traceparent"}
        async with httpx.AsyncClient(base_url=at, headers=asking, trust_env=False) as web:

            async def look() -> bool:
                # Two connections may be with two of Envoy's threads, which learn of it one after the other.
                stock = await web.get("/v1/products/mug/stock")
                return not sampled(stock.headers["x-heard"]) and not sampled(await heard(edge, GET_STOCK))

            await eventually(look, "traces of inventory are no longer kept")
            product = await web.get("/v1/products/mug")

        assert sampled(product.headers["x-heard"])
        assert sampled(await heard(edge, GET_PRODUCT))
    finally:
        await etcd.delete("/shop/config/inventory")
        await etcd.close()


async def test_envoy_exports_its_span_and_names_it_in_the_log(
    mesh: Mesh, edge: grpc.aio.Channel, spans: Receiver
) -> None:
    trace_id = (await heard(edge, GET_PRODUCT)).split("-")[1]

    async def exported() -> bool:
        return [span.service for span in spans.trace(trace_id)] == ["envoy"]

    async def logged() -> list[dict[str, object]]:
        return [line for line in mesh.envoy.calls() if line.get("trace_id") == trace_id]

    await eventually(exported, "the span is exported")
    (line,) = await eventually(logged, "the call is logged")
    assert (
        line
        | {
            "listener": "edge",
            "path": GET_PRODUCT,
            "code": 200,
            "grpc_status": "OK",
            "service": "envoy",
            "level": "info",
        }
        == line
    )
    assert isinstance(line["duration_ms"], int)
    assert line["span_id"] == spans.trace(trace_id)[0].span_id


async def test_a_rest_call_is_logged_as_it_was_made(mesh: Mesh) -> None:
    async with httpx.AsyncClient(base_url=f"http://{mesh.envoy.edge}", trust_env=False) as web:
        await web.get("/v1/products/as-logged")

    async def logged() -> list[dict[str, object]]:
        return [line for line in mesh.envoy.calls() if line.get("path") == "/v1/products/as-logged"]

    (line,) = await eventually(logged, "the call is logged")
    assert (line["method"], line["code"]) == ("GET", 200)
    assert "grpc_status" not in line
