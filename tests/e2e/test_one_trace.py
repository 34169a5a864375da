"""What can be seen of an order: one trace, from the one who calls to the mail, and what was said in it."""

import json
import re
import uuid
from collections.abc import Iterator

import grpc
import pytest
from shop.order.v1 import order_pb2, order_pb2_grpc

from tests.support.installation import Installation
from tests.support.otlp import Span
from tests.support.pages import lines_of, spans_of, traces_of
from tests.support.refused import outcome
from tests.support.shop import Shop
from tests.support.shop_fixtures import Bearer, Stocked, order_of
from tests.support.waiting import eventually

CALLER = "b7ad6b7169203331"
TRIES = 20

PLACED = """\
envoy         SERVER    shop.order.v1.OrderService/PlaceOrder
  order         SERVER    shop.order.v1.OrderService/PlaceOrder
    order         CLIENT    insert orders insert order_events
    order         CLIENT    select orders
    order         CLIENT    shop.inventory.v1.InventoryService/ReserveStock
      envoy         CLIENT    shop.inventory.v1.InventoryService/ReserveStock
        inventory     SERVER    shop.inventory.v1.InventoryService/ReserveStock
          inventory     CLIENT    insert reservations select stock update stock insert ledger
    order         CLIENT    shop.product.v1.ProductService/BatchGetProducts
      envoy         CLIENT    shop.product.v1.ProductService/BatchGetProducts
        product       SERVER    shop.product.v1.ProductService/BatchGetProducts
          product       CLIENT    select products
    order         INTERNAL  settle
      order         CLIENT    shop.inventory.v1.InventoryService/ConfirmReservations
        envoy         CLIENT    shop.inventory.v1.InventoryService/ConfirmReservations
          inventory     SERVER    shop.inventory.v1.InventoryService/ConfirmReservations
            inventory     CLIENT    select reservations select stock update stock insert ledger update reservations
    order         PRODUCER  send shop.order.v1.OrderPlaced
      notification  CONSUMER  process shop.order.v1.OrderPlaced
        notification  CLIENT    insert notifications
        notification  CLIENT    smtp send
"""
"""Brothers by kind and name. The first one's parent is the caller's."""

_RPC = {"rpc.system.name", "rpc.method", "rpc.response.status_code"}
_SQL = {"db.system.name", "db.namespace", "db.query.summary", "db.query.text", "server.address", "server.port"}
_MESSAGE = {
    "messaging.system",
    "messaging.operation.name",
    "messaging.operation.type",
    "messaging.destination.name",
    "messaging.message.id",
}
ATTRIBUTES = {
    ("SERVER", "rpc"): _RPC,
    ("CLIENT", "rpc"): _RPC | {"server.address"},
    ("CLIENT", "sql"): _SQL,
    ("PRODUCER", "send"): _MESSAGE,
    ("CONSUMER", "process"): _MESSAGE | {"messaging.consumer.group.name"},
    ("CLIENT", "smtp"): {
        "network.protocol.name",
        "server.address",
        "server.port",
        "shop.notification.kind",
        "shop.notification.attempt",
    },
    ("INTERNAL", "settle"): set[str](),
}
"""All that a span of ours has, beside `shop.order`, when nothing goes wrong."""


def drawn(spans: list[Span], above: str = CALLER, depth: int = 0) -> Iterator[str]:
    for span in sorted((each for each in spans if each.parent_id == above), key=lambda each: (each.kind, each.name)):
        yield f"{'  ' * depth}{span.service:13} {span.kind:9} {span.name}\n"
        yield from drawn(spans, span.span_id, depth + 1)


def sort_of(span: Span) -> str:
    if "/" in span.name:
        return "rpc"
    first, _, _ = span.name.partition(" ")
    return "sql" if first in {"select", "insert", "update"} else first


async def test_one_trace_leads_from_the_caller_to_the_mail_and_says_what_was_done(
    pages: str, edge: grpc.aio.Channel, bearer: Bearer, stocked: Stocked
) -> None:
    product = await stocked(5)

    async def placed() -> tuple[str, order_pb2.Order, list[Span]]:
        trace_id = uuid.uuid4().hex
        called = (*bearer("ann"), ("traceparent", f"00-{trace_id}-{CALLER}-01"))
        order = (await order_pb2_grpc.OrderServiceStub(edge).PlaceOrder(order_of(product), metadata=called)).order

        async def whole() -> list[Span]:
            spans = await spans_of(pages, trace_id)
            # What is done for several orders at once is in the trace of one of them. Another test may have had that.
            if not any(span.links for span in spans):
                assert "".join(drawn(spans)) == PLACED
            return spans

        return trace_id, order, await eventually(whole, "every span has its parent, the first one the caller")

    for _ in range(TRIES):
        trace_id, order, spans = await placed()
        if not any(span.links for span in spans):
            break
    else:
        pytest.skip(f"in each of {TRIES} traces something was done for other people's orders as well")
    assert len(spans) == PLACED.count("\n"), "and no other is there"
    ours = [span for span in spans if span.service != "envoy"]
    assert {(span.name, *sorted(span.attributes.keys() - {"shop.order"})) for span in ours} == {
        (span.name, *sorted(ATTRIBUTES[span.kind, sort_of(span)])) for span in ours
    }
    assert {span.status for span in spans} == {"UNSET"}
    about = {span.name for span in ours if span.attributes.get("shop.order") == order.name}
    assert {span.name for span in ours} - about == {"select products"}, "Product does not know what it is asked for"
    assert [span.attributes["rpc.response.status_code"] for span in ours if sort_of(span) == "rpc"] == ["OK"] * 7

    async def said() -> bool:
        lines = await lines_of(pages, trace=trace_id)
        calls = {(line["service"], line["order"]) for line in lines if line["message"] == "call"}
        # In containers Envoy's lines stay with the engine.
        at_the_edge = set[tuple[str, str]]() if Installation.given() else {("envoy", "")}
        assert calls >= {("order", order.name), ("inventory", order.name), ("product", "")} | at_the_edge
        return [line["order"] for line in lines if line["message"] == "mail sent"] == [order.name]

    await eventually(said, "what was said in it has arrived")


async def test_the_command_draws_the_trace_of_an_order(
    shop: Shop, edge: grpc.aio.Channel, bearer: Bearer, stocked: Stocked
) -> None:
    trace_id, product = uuid.uuid4().hex, await stocked(1)
    called = (*bearer("ann"), ("traceparent", f"00-{trace_id}-{CALLER}-01"))
    order = (await order_pb2_grpc.OrderServiceStub(edge).PlaceOrder(order_of(product), metadata=called)).order

    async def said() -> bool:
        lines = await lines_of(shop.pages, trace=trace_id, order=order.name)
        return "mail sent" in {line["message"] for line in lines}

    await eventually(said, "what was said in it has arrived")
    seen = shop.command("trace", "--order", order.name)
    assert seen.splitlines()[0] == f"trace {trace_id}"
    assert "· mail sent" in seen
    assert re.search(r"^notification +smtp send +.* ms$", seen, re.MULTILINE)
    assert [each["trace_id"] for each in json.loads(shop.command("trace", "--json", trace_id))] == [trace_id]


async def test_a_refusal_tells_its_reason_and_is_no_error_of_the_one_who_refuses(
    pages: str, edge: grpc.aio.Channel, bearer: Bearer, stocked: Stocked
) -> None:
    trace_id, product = uuid.uuid4().hex, await stocked(0)
    called = (*bearer("ann"), ("traceparent", f"00-{trace_id}-{CALLER}-01"))

    refused = await outcome(order_pb2_grpc.OrderServiceStub(edge).PlaceOrder(order_of(product), metadata=called))
    assert refused.reason == "OUT_OF_STOCK"

    async def told() -> set[tuple[str | None, ...]]:
        ours = [span for span in await spans_of(pages, trace_id) if span.attributes.get("shop.reason")]
        assert len(ours) == 3
        return {
            (span.service, span.kind, span.status, *map(span.attributes.get, ("shop.reason", "error.type")))
            for span in ours
        }

    assert await eventually(told, "the spans tell of it") == {
        ("order", "SERVER", "UNSET", "OUT_OF_STOCK", None),
        ("order", "CLIENT", "ERROR", "OUT_OF_STOCK", "FAILED_PRECONDITION"),
        ("inventory", "SERVER", "UNSET", "OUT_OF_STOCK", None),
    }


async def test_each_call_about_an_order_has_its_trace_and_leads_to_its_own_mail(
    pages: str, edge: grpc.aio.Channel, bearer: Bearer, stocked: Stocked
) -> None:
    orders = order_pb2_grpc.OrderServiceStub(edge)
    order = (await orders.PlaceOrder(order_of(await stocked(1)), metadata=bearer("ann"))).order
    await orders.CancelOrder(order_pb2.CancelOrderRequest(name=order.name), metadata=bearer("ann"))

    async def both() -> list[set[str]]:
        names = [{span.name for span in trace} for trace in await traces_of(pages, order.name)]
        told = {"shop.order.v1.OrderService/CancelOrder", "process shop.order.v1.OrderCancelled", "settle"}
        assert [each for each in names if each >= told]
        return [each for each in names if "shop.order.v1.OrderService/PlaceOrder" in each]

    (placing,) = await eventually(both, "the traces of placing and cancelling have arrived")
    assert "shop.order.v1.OrderService/CancelOrder" not in placing
