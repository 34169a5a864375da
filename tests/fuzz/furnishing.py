"""What the searches find in the shop: products, orders, reservations and dead letters of their own."""

import asyncio
import uuid
from concurrent.futures import ThreadPoolExecutor

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.type.money_pb2 import Money
from shop.inventory.v1 import inventory_pb2
from shop.order.v1 import order_pb2
from shop.product.v1 import product_pb2

from tests.fuzz.calling import PAST_THE_EDGE, Outside, callers
from tests.fuzz.contracts import RPCS, called_with
from tests.support.dead_letters import bury


def furnish(outside: Outside) -> None:
    """Something in every state, and a token for every second page."""
    run = uuid.uuid4().hex[:8]
    products = [stocked(outside, f"fuzz-{run}-{number}", 1_000) for number in range(4)]
    stocked(outside, f"fuzz-{run}-nothing", 0)
    for number, product in enumerate(products):
        order = order_pb2.Order(lines=[order_pb2.Order.Line(product=product, quantity=number + 1)])
        _done(outside, order_pb2.PlaceOrderRequest(order=order, request_id=f"{run} {number}"))
    held = inventory_pb2.Reservation(lines=[inventory_pb2.Reservation.Line(product=products[0], quantity=1)])
    ids = [str(uuid.uuid4()) for _ in range(4)]
    for id in ids:
        hour = Duration(seconds=3_600)
        _done(outside, inventory_pb2.ReserveStockRequest(reservation_id=id, reservation=held, ttl=hour))
    _done(outside, inventory_pb2.ConfirmReservationsRequest(names=[f"reservations/{ids[0]}"]))
    _done(outside, inventory_pb2.ReleaseReservationRequest(name=f"reservations/{ids[1]}"))
    with ThreadPoolExecutor() as thread:  # this one has the loop of other tests
        thread.submit(asyncio.run, bury(outside.shop, *["OPEN"] * 20, "REDRIVEN", "DISCARDED")).result()
    for called in RPCS:
        if "page_size" in called.method.input_type.fields_by_name:
            _done(outside, called.request(page_size=1))


def stocked(outside: Outside, id: str, pieces: int) -> str:
    """Makes a product with so many pieces; gives its name."""
    described = product_pb2.Product(display_name=f"Fuzz {id}", price=Money(currency_code="EUR", units=3))
    _done(outside, product_pb2.CreateProductRequest(product_id=id, product=described, request_id=id))
    if pieces:
        stock = f"products/{id}/stock"
        _done(outside, inventory_pb2.AdjustStockRequest(name=stock, delta=pieces, request_id=id))
    return f"products/{id}"


def _done(outside: Outside, request: Message) -> None:
    called = called_with(request)
    answer = outside.say(called, PAST_THE_EDGE, callers(called.rpc)[-1], request.SerializeToString())
    assert answer is not None, request
