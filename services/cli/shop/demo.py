"""One order of ann's, placed and then cancelled, told step by step: what happened where, and when."""

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import grpc
import httpx
from shop.inventory.v1 import inventory_pb2, inventory_pb2_grpc
from shop.order.v1 import order_pb2, order_pb2_grpc
from shop.product.v1 import product_pb2, product_pb2_grpc

from services.chassis.settings import Settings
from services.chassis.tracing import Span, SpanKind, rpc_attributes, span, traceparent_of, tracing
from services.cli.identity import access_token
from services.cli.places import Places
from services.failure import Failure
from services.story.asking import order_uuid
from services.story.databases import Databases
from services.story.trail import Trail, money, trail

CALL_S = 10.0
MAIL_S = 30.0
LOOK_EVERY_S = 0.02
NO_PROXY = [("grpc.enable_http_proxy", 0)]
"""gRPC would send even calls to 127.0.0.1 through the proxy that http_proxy names."""


@dataclass(slots=True)
class Story:
    """Steps with the moment they happened, in seconds since 1970."""

    began: float = field(default_factory=time.time)
    steps: list[tuple[float, str, str]] = field(default_factory=list[tuple[float, str, str]])

    def step(self, where: str, what: str, when: datetime | None = None) -> None:
        """Now, or `when` a database says it was."""
        self.steps.append((when.timestamp() if when else time.time(), where, what))

    def lines(self) -> list[str]:
        """In order of time: what a database knows of happened before the answer that it led to came back."""
        return [f"  {at - self.began:6.3f} s  {where:15} {what}" for at, where, what in sorted(self.steps)]


async def run(places: Places, tell: Callable[[str], None]) -> None:
    """Tells the whole story, or as far as it goes. Raises Failure when a step fails."""
    page, story = f"{places.telemetry_page}/orders", Story()
    with _traced(places.otlp_endpoint):
        try:
            order_id = await _live(places, story)
        finally:
            for line in story.lines():
                tell(line)
    asks = f"shopmesh order {order_id}", f"shopmesh trace --order {order_id}", f"shopmesh logs --order {order_id}"
    tell("\n  more:  " + "\n         ".join((f"{page}/{order_id}", *asks)))


@contextmanager
def _traced(endpoint: str) -> Iterator[None]:
    """The traces of the two calls begin with their caller, and are recorded whatever share of others is."""
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # it is no matter of the story when nobody listens
    tracing.export(Settings.read("demo", {"SHOPMESH_INSTANCE": "demo", "SHOPMESH_OTLP_ENDPOINT": endpoint}), "shop")
    try:
        yield
    finally:
        tracing.close()


@contextmanager
def _calling(method: str, token: str) -> Iterator[tuple[Span, tuple[tuple[str, str], ...]]]:
    """The span of a call to `/package.Service/Method`, and the metadata that the call has to have.

    Where nobody takes our spans, the edge is to decide whether it records a trace.
    """
    with span(method[1:], SpanKind.CLIENT, attributes=rpc_attributes(method)) as asked:
        traced = (("traceparent", traceparent_of(asked) or ""),) if asked.is_recording() else ()
        yield asked, (("authorization", f"Bearer {token}"), *traced)
        asked.set_attribute("rpc.response.status_code", "OK")


async def _live(places: Places, story: Story) -> UUID:
    """Places the order through the edge, follows it to the mail, and cancels it again."""
    token = await asyncio.to_thread(access_token, places.token_url, "ann")
    story.step("keycloak", f"gave ann an access token of {len(token)} characters")
    async with (
        grpc.aio.insecure_channel(places.edge, options=NO_PROXY) as edge,
        Databases(places.databases()) as databases,
        httpx.AsyncClient(trust_env=False, timeout=CALL_S, base_url=f"http://{places.mail}") as mail,
    ):
        try:
            lines = await _choose(edge, story)
            order = await _place(edge, lines, token, story)
            await _followed(order, databases, mail)
            await _cancel(edge, order, token, story)
            followed, arrived = await _followed(order, databases, mail)
        except grpc.aio.AioRpcError as error:
            raise Failure(f"the shop refused: {error.code().name} {error.details()}") from None
    for when, where, what in _told(followed):
        story.step(where, what, when)
    for when, subject in arrived:
        story.step("mailbox", f"has “{subject}”: {places.mail_page}", when)
    return order_uuid(order.name)


async def _followed(
    order: order_pb2.Order, databases: Databases, mail: httpx.AsyncClient
) -> tuple[Trail, list[tuple[datetime, str]]]:
    """Everything about the order once it has come to rest, and when which mail arrived."""
    order_id, give_up = order_uuid(order.name), time.monotonic() + MAIL_S
    while not (seen := await trail(databases, order_id)).is_finished or not (arrived := await _arrived(mail, seen)):
        if time.monotonic() > give_up:
            raise Failure(f"the mail has not come within {MAIL_S:.0f} s: see `shopmesh order {order_id}`")
        await asyncio.sleep(LOOK_EVERY_S)
    return seen, arrived


async def _choose(edge: grpc.aio.Channel, story: Story) -> list[order_pb2.Order.Line]:
    """Two products that are in stock; nobody need be known to look around."""
    catalog = product_pb2_grpc.ProductServiceStub(edge)
    stock = inventory_pb2_grpc.InventoryServiceStub(edge)
    listed = await catalog.ListProducts(product_pb2.ListProductsRequest(page_size=20), timeout=CALL_S)
    story.step("envoy→product", f"listed {len(listed.products)} products, no token needed")
    chosen: list[product_pb2.Product] = []
    for product in listed.products:
        request = inventory_pb2.GetStockRequest(name=f"{product.name}/stock")
        try:
            found = await stock.GetStock(request, timeout=CALL_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            continue
        if found.stock.available >= 2:
            chosen.append(product)
        if len(chosen) == 2:
            break
    if not chosen:
        raise Failure("nothing is in stock any more: begin anew with `make clean`")
    names = " and ".join(product.display_name for product in chosen)
    story.step("envoy→inventory", f"said that {names} are in stock")
    return [order_pb2.Order.Line(product=product.name, quantity=2 - at) for at, product in enumerate(chosen)]


async def _place(
    edge: grpc.aio.Channel, lines: list[order_pb2.Order.Line], token: str, story: Story
) -> order_pb2.Order:
    story.step("envoy", "takes PlaceOrder, checks token and role, routes it to order")
    request = order_pb2.PlaceOrderRequest(order=order_pb2.Order(lines=lines), request_id=str(uuid.uuid4()))
    with _calling("/shop.order.v1.OrderService/PlaceOrder", token) as (asked, metadata):
        answer = await order_pb2_grpc.OrderServiceStub(edge).PlaceOrder(request, metadata=metadata, timeout=CALL_S)
        asked.set_attribute(tracing.order, answer.order.name)
    state = order_pb2.Order.State.Name(answer.order.state)
    story.step("order", f"answered {state}: {answer.order.name}")
    return answer.order


async def _cancel(edge: grpc.aio.Channel, order: order_pb2.Order, token: str, story: Story) -> None:
    story.step("envoy", "takes CancelOrder: ann has thought better of it")
    request = order_pb2.CancelOrderRequest(name=order.name, etag=order.etag)
    with _calling("/shop.order.v1.OrderService/CancelOrder", token) as (asked, metadata):
        answer = await order_pb2_grpc.OrderServiceStub(edge).CancelOrder(request, metadata=metadata, timeout=CALL_S)
        asked.set_attribute(tracing.order, order.name)
    story.step("order", f"answered {order_pb2.Order.State.Name(answer.order.state)}")


STOCK = {
    "HELD": "held {} pieces in its database",
    "CONFIRMED": "confirmed them: they have left the shelf",
    "RELEASED": "took all {} back: the shelf is as it was",
}


def _told(trail: Trail) -> list[tuple[datetime, str, str]]:
    """What happened behind the calls, with the times that the databases keep."""
    assert trail.order is not None
    pieces = sum(trail.reservation["quantities"]) if trail.reservation else 0
    moved = {entry["kind"]: entry["create_time"] for entry in trail.ledger}
    steps = [(when, "inventory", STOCK[kind].format(pieces)) for kind, when in moved.items() if kind in STOCK]
    first, *changes = trail.events
    committed = f"committed the order of {money(trail.order)} and its event together"
    steps.append((first["create_time"], "order", committed))
    steps += [
        (event["create_time"], "order", f"committed version {event['version']} and its event together")
        for event in changes
    ]
    steps += [
        (event["sent_time"], "order→nats", f"{event['type']} is in the stream ORDERS")
        for event in trail.events
        if event["sent_time"]
    ]
    for each in trail.notifications:
        steps.append(
            (each["create_time"], "notification", f"took the event from NATS and noted a mail to {each['recipient']}")
        )
        if each["send_time"]:
            steps.append((each["send_time"], "notification", "handed the mail over by SMTP"))
    if trail.order["settled_time"]:
        steps.append((trail.order["settled_time"], "order", "is settled: order and stock agree"))
    return steps


async def _arrived(mail: httpx.AsyncClient, trail: Trail) -> list[tuple[datetime, str]]:
    """When the mailbox, asked by Mailpit's API, got the mails about the order; none while one of them is missing."""
    try:
        answer = await mail.get("/api/v1/messages", params={"limit": 50})
    except httpx.TransportError:
        return []
    got = {message["Subject"]: datetime.fromisoformat(message["Created"]) for message in answer.json()["messages"]}
    subjects = [each["subject"] for each in trail.notifications]
    return [(got[subject], subject) for subject in subjects] if got.keys() >= set(subjects) else []
