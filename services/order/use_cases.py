"""What customers can do with orders, and how Inventory is brought to what an order says. No transport, no SQL."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from services.order.domain import (
    Cart,
    Customer,
    DeadlineTooShort,
    Event,
    InventoryUnavailable,
    Order,
    OrderCancelled,
    OrderPlaced,
    OrderRejected,
    OutOfStock,
    ReservationNotFound,
    State,
    Terms,
    order_id,
)
from services.order.ports import Catalog, NotConfirmed, Orders, Stock
from services.refusals import EtagMismatch, Refusal, RequestIdReused, Unavailable

KEPT_BACK_S = 0.3
"""Of the caller's time: for keeping the order and answering, once stock was promised."""
LEAST_S = 0.5
"""With less time than this left, nothing is begun that may be given up half-way."""


@dataclass(frozen=True, slots=True)
class Ordering:
    """The order desk."""

    orders: Orders
    catalog: Catalog
    stock: Stock
    terms: Callable[[], Terms]
    now: Callable[[], datetime]
    time_left: Callable[[], float | None]
    """Seconds of the call that is being served; None without a deadline."""
    clock: Callable[[], float] = field(default=time.monotonic)
    about: Callable[[UUID], None] = lambda _: None
    """Told which order a call is about, as soon as that is known; it need not come about."""

    async def place(self, customer: Customer, cart: Cart, request_id: str) -> Order:
        """Prices and promises `cart`, then keeps the order: PLACED, or PENDING_STOCK while Inventory is away.

        Every try of one request gets the order that the first successful one placed, as it is now. Raises
        RequestIdReused when that has other lines; what was refused leaves the request_id free, for any cart.
        """
        id = order_id(customer.id, request_id, cart)
        self.about(id)
        order = await self.orders.by_request(customer.id, request_id)
        if order is None:
            try:
                order = await self._place(id, customer, cart, request_id)
            except Refusal:
                # Another try of this request may have placed the order meanwhile: then that is the answer.
                order = await self.orders.by_request(customer.id, request_id)
                if order is None:
                    raise
            if order.id != id:
                await self._give_back(id)
        if order.id != id:
            raise RequestIdReused(order=f"orders/{order.id}")
        return order

    async def _place(self, id: UUID, customer: Customer, cart: Cart, request_id: str) -> Order:
        offers = await self.catalog.offers(cart.products, self._time_for_others_s())
        order = Order.place(id, customer, cart.priced(offers), self.now())
        event: Event | None = OrderPlaced(order)
        terms = self.terms()
        # Promise first: a hold without an order lapses by itself, an order without a hold does not.
        try:
            await self._promise(order, terms)
        except InventoryUnavailable:
            if not terms.accepts_pending:
                raise
            # The settler asks again, and whatever this try has held is the hold that it asks for.
            order, event = order.pending(), None
        return await _to_the_end(self.orders.add(order, event, request_id))

    async def _promise(self, order: Order, terms: Terms) -> None:
        timeout_s, began = self._time_for_others_s(), self.clock()
        most_s = terms.reserve_timeout.total_seconds()
        await self.stock.reserve(
            order.id, order.cart, terms.hold_ttl, most_s if timeout_s is None else min(most_s, timeout_s)
        )
        if self.clock() - began > terms.hold_ttl.total_seconds() / 2:
            # The hold may lapse before the settler confirms it. A retry renews it.
            raise InventoryUnavailable

    def _time_for_others_s(self) -> float | None:
        """How long Product or Inventory may take, so that there is time to keep the order, or to say why not."""
        left = self.time_left()
        if left is not None and left < LEAST_S:
            raise DeadlineTooShort
        return None if left is None else left - KEPT_BACK_S

    async def _give_back(self, id: UUID) -> None:
        """The key of this request is taken by another order for good, so none with our id can ever exist."""
        try:
            await self.stock.release(id)
        except Unavailable:
            return  # Then the hold lapses.

    async def cancel(self, order_id: UUID, customer_id: str, etag: str = "") -> Order:
        """The cancelled order, also when it was that before. With an `etag`, the order must have it.

        Raises OrderNotFound, OrderNotCancellable, EtagMismatch. The settler gives back what the order holds.
        """
        while True:
            order = await self.orders.get(order_id, customer_id)
            if order.state is State.CANCELLED:
                return order
            cancelled = order.cancel(self.now())
            if etag and etag != order.etag:
                raise EtagMismatch(order=f"orders/{order.id}")
            if await self.orders.change(OrderCancelled(cancelled)):
                return cancelled
            # Somebody changed it meanwhile. An order changes only a few times in its life.

    async def newest(
        self, customer_id: str, size: int, before: tuple[datetime, UUID] | None
    ) -> tuple[Sequence[Order], tuple[datetime, UUID] | None]:
        """One page, the newest order first, and where the next page begins; None on the last page."""
        orders = await self.orders.newest(customer_id, size + 1, before)
        if len(orders) <= size:
            return orders, None
        return orders[:size], (orders[size - 1].create_time, orders[size - 1].id)


@dataclass(frozen=True, slots=True)
class Settled:
    """Inventory is where this version of the order wants it."""


type Outcome = Settled | OrderPlaced | OrderRejected
type Settlement = Outcome | Exception
"""What comes out for one order; an exception says why it must be tried again, on the row as it is then."""


@dataclass(frozen=True, slots=True)
class Settling:
    """Brings Inventory to what orders say, however often it is asked to.

    PENDING_STOCK        reserve: held -> PLACED; OUT_OF_STOCK -> REJECTED; Inventory away -> again, with back-off, or
                         past its bound REJECTED
    PLACED               confirm: confirmed -> settled; OUT_OF_STOCK -> REJECTED; not found -> reserve, then confirm;
                         released -> somebody else changed the order: again, with the row as it is then
    REJECTED, CANCELLED  release -> settled
    """

    stock: Stock
    terms: Callable[[], Terms]
    now: Callable[[], datetime]

    async def settle(self, orders: Sequence[Order]) -> list[Settlement]:
        """One outcome per order, in their order: what is raised about one hinders no other."""
        confirming = asyncio.ensure_future(self._confirm([order.id for order in orders if order.state is State.PLACED]))
        return await asyncio.gather(*(self._one(order, confirming) for order in orders))

    async def _one(self, order: Order, confirming: Awaitable[Mapping[UUID, NotConfirmed | None]]) -> Settlement:
        try:
            match order.state:
                case State.PENDING_STOCK:
                    await self._reserve(order)
                    return OrderPlaced(order.accept(self.now()))
                case State.PLACED:
                    answer = (await confirming)[order.id]
                    if isinstance(answer, ReservationNotFound):
                        await self._reserve(order)
                        answer = (await self.stock.confirm([order.id]))[order.id]
                    return self._refused(order, answer) if answer else Settled()
                case State.REJECTED | State.CANCELLED:
                    await self.stock.release(order.id)
                    return Settled()
        except Refusal as refusal:
            return self._refused(order, refusal)
        except Exception as error:  # noqa: BLE001  goes to the row of this order, which comes again after a pause
            return error

    async def _reserve(self, order: Order) -> None:
        """Within the time that a customer's call has for it: all others of the batch wait for the answer."""
        terms = self.terms()
        await self.stock.reserve(order.id, order.cart, terms.hold_ttl, terms.reserve_timeout.total_seconds())

    def _refused(self, order: Order, refusal: Refusal) -> OrderRejected | Refusal:
        now = self.now()
        waited_enough = (
            order.state is State.PENDING_STOCK
            and isinstance(refusal, InventoryUnavailable)
            and now - order.create_time > self.terms().pending_bound
        )
        if isinstance(refusal, OutOfStock) or waited_enough:
            return OrderRejected(order.reject(refusal.reason, now))
        return refusal

    async def _confirm(self, ids: Sequence[UUID]) -> Mapping[UUID, NotConfirmed | None]:
        if not ids:
            return {}
        try:
            return await self.stock.confirm(ids)
        except InventoryUnavailable as refusal:
            return dict.fromkeys(ids, refusal)


async def _to_the_end[T](work: Coroutine[Any, Any, T]) -> T:
    """Lets the work end also when the call is cancelled, and the call end only then."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise
