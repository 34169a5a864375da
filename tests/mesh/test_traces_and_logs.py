"""What Envoy tells about calls: spans, trace context, access log."""

import re
import socket
import time
from uuid import uuid4

import grpc
import httpx
import pytest

from services.chassis.etcd import Etcd
from services.log_files import Line
from tests.mesh.calls import call
from tests.support.mesh import Mesh, running_mesh
from tests.support.otlp import Receiver, receiving
from tests.support.refused import outcome
from tests.support.waiting import DEADLINE_S, eventually

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


FAILS = ("UNKNOWN", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")


@pytest.mark.parametrize("code", ["NOT_FOUND", "FAILED_PRECONDITION", "UNIMPLEMENTED", "UNAUTHENTICATED", *FAILS])
async def test_a_call_in_which_the_shop_failed_is_a_warning(mesh: Mesh, edge: grpc.aio.Channel, code: str) -> None:
    asked = {"traceparent": f"00-{(trace_id := uuid4().hex)}-b7ad6b7169203331-00", "x-abort": code}
    refused = await outcome(call(edge, GET_STOCK, metadata=[*asked.items()]))
    assert refused.code is grpc.StatusCode[code]
    async with httpx.AsyncClient(base_url=f"http://{mesh.envoy.edge}", headers=asked, trust_env=False) as web:
        status = (await web.get("/v1/products/mug/stock")).status_code

    async def logged() -> dict[bool, object]:
        lines = [line for line in mesh.envoy.calls() if line.get("trace_id") == trace_id]
        assert len(lines) == 2
        return {"grpc_status" in line: line["level"] for line in lines}

    levels = await eventually(logged, "both calls are logged")
    assert levels[True] == ("warning" if code in FAILS else "info")
    assert levels[False] == ("warning" if status >= 500 else "info")


async def test_where_nobody_reads_stdout_lines_go_the_way_of_the_spans() -> None:
    with receiving() as receiver, running_mesh(receiver.endpoint, otlp_lines=True) as mesh:
        async with mesh.instances("echo", of=["product"]), grpc.aio.insecure_channel(mesh.envoy.edge) as edge:
            trace_id = (await heard(edge, GET_PRODUCT)).split("-")[1]
            await outcome(call(edge, GET_PRODUCT, metadata=[("x-abort", "INTERNAL")]))

            async def told() -> list[Line]:
                lines = receiver.said("call")
                assert {line.level for line in lines} == {"info", "warning"}
                return lines

            lines = await eventually(told, "both calls are told")
    (line,) = [each for each in lines if each.level == "info"]
    assert (line.service, line.instance, line.trace_id) == ("envoy", f"envoy-{socket.gethostname()}", trace_id)
    assert abs(line.time_ns / 1e9 - time.time()) < DEADLINE_S
    assert line.fields.items() >= {"path": GET_PRODUCT, "code": "200", "grpc_status": "OK", "listener": "edge"}.items()
    assert "-" not in line.fields.values()
    assert line.span_id
