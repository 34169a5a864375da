"""OrderService: parse, one call, render."""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import override
from uuid import UUID

from shop.order.v1 import order_pb2, order_pb2_grpc

from services.chassis import logs
from services.chassis.auth import caller
from services.chassis.messages import PageSizes, decode_page_token, encode_page_token, moment, page_size
from services.order.contract import order_message
from services.order.domain import Cart, Customer
from services.order.ports import Orders
from services.order.use_cases import Ordering
from services.order.watching import Watching


class OrderApi(order_pb2_grpc.OrderServiceServicer):
    """Whose order it is, is said by the token alone."""

    def __init__(
        self, ordering: Ordering, orders: Orders, watching: Watching, page_sizes: Callable[[], PageSizes]
    ) -> None:
        self._ordering, self._orders, self._watching, self._page_sizes = ordering, orders, watching, page_sizes

    @override
    async def PlaceOrder(self, request: order_pb2.PlaceOrderRequest, context: object) -> order_pb2.PlaceOrderResponse:
        customer = Customer(caller().subject, caller().email or "")
        cart = Cart.of((line.product.removeprefix("products/"), line.quantity) for line in request.order.lines)
        order = await self._ordering.place(customer, cart, request.request_id)
        logs.bind_order(f"orders/{order.id}")
        return order_pb2.PlaceOrderResponse(order=order_message(order))

    @override
    async def GetOrder(self, request: order_pb2.GetOrderRequest, context: object) -> order_pb2.GetOrderResponse:
        logs.bind_order(request.name)
        order = await self._orders.get(UUID(request.name.removeprefix("orders/")), caller().subject)
        return order_pb2.GetOrderResponse(order=order_message(order))

    @override
    async def ListOrders(self, request: order_pb2.ListOrdersRequest, context: object) -> order_pb2.ListOrdersResponse:
        query = f"orders of {caller().subject}"
        before = decode_page_token(query, request.page_token, moment, UUID)
        size = page_size(request.page_size, self._page_sizes())
        orders, beyond = await self._ordering.newest(caller().subject, size, before)
        return order_pb2.ListOrdersResponse(
            orders=[order_message(order) for order in orders],
            next_page_token=encode_page_token(query, beyond),
        )

    @override
    async def CancelOrder(
        self, request: order_pb2.CancelOrderRequest, context: object
    ) -> order_pb2.CancelOrderResponse:
        logs.bind_order(request.name)
        id = UUID(request.name.removeprefix("orders/"))
        order = await self._ordering.cancel(id, caller().subject, request.etag)
        return order_pb2.CancelOrderResponse(order=order_message(order))

    @override
    async def WatchOrder(
        self, request: order_pb2.WatchOrderRequest, context: object
    ) -> AsyncIterator[order_pb2.WatchOrderResponse]:
        logs.bind_order(request.name)
        id = UUID(request.name.removeprefix("orders/"))
        after = int(request.after_etag.strip('"')) if request.after_etag else None
        async with aclosing(self._watching.versions(id, caller().subject, after)) as versions:
            async for order in versions:
                yield order_pb2.WatchOrderResponse(order=order)
