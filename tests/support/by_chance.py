"""A shop in which whatever can happen to a message happens by chance: Order and Inventory against what must hold.

Every call from one part to another is a message under way, until a rule says what becomes of it. So two tries of one
request, a cancel, two settlers and the reaper meet each other at every step, also where the answer got lost on the way.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from shop.order.v1 import order_pb2

from services.chassis.database import Database, DatabaseUnavailable
from services.inventory import domain as inventory
from services.order.contract import STATES
from services.order.domain import Cart, Order, OrderNotCancellable, OutOfStock, State, order_id
from services.order.use_cases import Ordering, Settling
from services.refusals import RequestIdReused, Unavailable
from tests.support.lossy import Fate, Network, OrdersFarAway, StockFarAway, heard
from tests.support.order_and_stock import MemoryShop, Shop, SqlShop, Version
from tests.unit.order.fakes import ANN, NOON, TERMS, Catalogue

CARTS = [Cart.of([("mug", 2)]), Cart.of([("mug", 1), ("teapot", 1)]), Cart.of([("teapot", 2)])]
REQUESTS = ["r1", "r2", "r3"]
OVER, MINUTES = timedelta(0), timedelta(minutes=10)


@dataclass
class Try:
    """A try of a request, and the order that there was of that request when it began."""

    call: asyncio.Task[Order]
    cart: Cart
    request_id: str
    before: Order | None


@dataclass
class Cancelling:
    call: asyncio.Task[Order]
    order: UUID


class AnythingHappens(RuleBasedStateMachine):
    """Two orders' worth of tries, at most six of them under way; `loop` and `make` are set by who runs it."""

    loop: asyncio.AbstractEventLoop
    make: Callable[[], Awaitable[Shop]]

    def __init__(self) -> None:
        super().__init__()
        self.shop = self.run(type(self).make())
        self.network = Network()
        self.terms, self.now = TERMS, NOON
        stock = StockFarAway(self.shop.keeper, self.network)
        self.desk = Ordering(
            OrdersFarAway(self.shop.orders, self.network),
            Catalogue(),
            stock,
            lambda: self.terms,
            lambda: self.now,
            lambda: None,
            lambda: 0.0,
        )
        self.settler = self.shop.settler(Settling(stock, lambda: self.terms, lambda: self.now).settle)
        self.tries: list[Try] = []
        self.cancels: list[Cancelling] = []
        self.rounds: list[asyncio.Task[None]] = []
        self.adjustments = 0
        self.acknowledged: dict[str, UUID] = {}
        self.cancelled: set[UUID] = set()
        self.run(self.shop.keeper.stocked(mug=4, teapot=3))

    def run[T](self, work: Awaitable[T]) -> T:
        """Does it, and lets everybody go on until all wait for the network."""

        async def and_go_on() -> T:
            result = await work
            for _ in range(12):
                await asyncio.sleep(0)
            return result

        return self.loop.run_until_complete(and_go_on())

    def begin[T](self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        async def begin() -> asyncio.Task[T]:
            return asyncio.create_task(work)

        return self.run(begin())

    # --- What customers, operators and time do. ---

    @initialize(accepts_pending=st.booleans(), inventory_away=st.booleans())
    def so_it_begins(self, accepts_pending: bool, inventory_away: bool) -> None:
        self.terms = replace(self.terms, accepts_pending=accepts_pending)
        self.network.inventory_away = inventory_away

    @precondition(lambda self: len(self.tries) < 6)
    @rule(request_id=st.sampled_from(REQUESTS), cart=st.sampled_from(CARTS))
    def somebody_tries(self, request_id: str, cart: Cart) -> None:
        before = self.run(self.shop.orders.by_request(ANN.id, request_id))
        call = self.begin(self.desk.place(ANN, cart, request_id))
        self.tries.append(Try(call, cart, request_id, before))

    @precondition(lambda self: self.tries)
    @rule(which=st.integers(0, 9))
    def somebody_gives_up(self, which: int) -> None:
        self.tries[which % len(self.tries)].call.cancel()
        self.look()

    @precondition(lambda self: self.acknowledged and len(self.cancels) < 2)
    @rule(which=st.integers(0, 9))
    def somebody_cancels(self, which: int) -> None:
        order = sorted(self.acknowledged.values())[which % len(self.acknowledged)]
        self.cancels.append(Cancelling(self.begin(self.desk.cancel(order, ANN.id)), order))

    @rule(
        change=st.one_of(
            st.tuples(st.just("stock"), st.sampled_from(["mug", "teapot"]), st.sampled_from([-2, -1, 1, 3])),
            st.tuples(st.just("terms"), st.booleans(), st.sampled_from([OVER, MINUTES])),
            st.tuples(st.just("inventory"), st.booleans()),
            st.tuples(st.just("time"), st.sampled_from([timedelta(seconds=1), timedelta(minutes=40)])),
        )
    )
    def the_world_changes(self, change: tuple[Any, ...]) -> None:
        match change:
            case ("stock", product, delta):
                self.adjustments += 1
                request_id = f"a{self.adjustments}"
                self.run(heard(lambda: self.shop.keeper.stocks.adjust(product, delta, "carol", request_id)))
            case ("terms", accepts_pending, hold_ttl):
                self.terms = replace(self.terms, accepts_pending=accepts_pending, hold_ttl=hold_ttl)
            case ("inventory", away):
                self.network.inventory_away = away
            case (_, time):
                self.now += time

    # --- What the shop does by itself. ---

    @precondition(lambda self: len(self.rounds) < 2)
    @rule()
    def a_settler_begins(self) -> None:
        self.rounds.append(self.begin(self.settle_once()))

    async def settle_once(self) -> None:
        items = await self.network.carry(lambda: self.settler.claim(8), DatabaseUnavailable())
        if items:
            outcomes = list(zip(items, await self.settler.act(items), strict=True))
            await self.network.carry(lambda: self.settler.settle(outcomes), DatabaseUnavailable())

    @rule(what=st.sampled_from(["leases end", "a reaper ends a hold"]))
    def something_ends(self, what: str) -> None:
        self.run(self.shop.leases_end() if what == "leases end" else self.shop.keeper.warehouse.lapse_one())

    # --- What happens to messages. ---

    @precondition(lambda self: self.network.under_way)
    @rule(which=st.integers(0, 9), fate=st.sampled_from([Fate.ANSWERED, *Fate]))
    def a_message_is_carried(self, which: int, fate: Fate) -> None:
        under_way = self.network.under_way
        self.run(self.network.deliver(under_way[which % len(under_way)], fate))
        self.look()

    @precondition(lambda self: self.network.late)
    @rule(which=st.integers(0, 9))
    def a_late_message_arrives(self, which: int) -> None:
        self.run(heard(self.network.late.pop(which % len(self.network.late))))

    @precondition(lambda self: self.network.under_way)
    @rule(messages=st.integers(1, 8))
    def all_is_well_for_a_while(self, messages: int) -> None:
        for _ in range(messages):
            if self.network.under_way:
                self.a_message_is_carried(0, Fate.ANSWERED)

    # --- What must hold. ---

    @invariant()
    def stock_is_right_at_every_moment(self) -> None:
        self.run(self.shop.keeper.require_consistent())

    def look(self) -> None:
        """What those hear whose calls have ended."""
        self.run(asyncio.sleep(0))
        for tried in [tried for tried in self.tries if tried.call.done()]:
            self.tries.remove(tried)
            if not tried.call.cancelled():
                self.require_honest(tried)
        for cancel in [cancel for cancel in self.cancels if cancel.call.done()]:
            self.cancels.remove(cancel)
            self.require_honest_about_a_cancel(cancel)
        for round in [round for round in self.rounds if round.done()]:
            self.rounds.remove(round)
            assert isinstance(round.exception(), Unavailable | None)

    def require_honest(self, tried: Try) -> None:
        match tried.call.exception():
            case None:
                order = tried.call.result()
                assert order.id == order_id(ANN.id, tried.request_id, tried.cart)
                assert order.cart == tried.cart
                assert self.acknowledged.setdefault(tried.request_id, order.id) == order.id
                assert tried.before is None or order.version >= tried.before.version
            case RequestIdReused() as refusal:
                first = UUID(refusal.facts["order"].removeprefix("orders/"))
                assert first != order_id(ANN.id, tried.request_id, tried.cart)
                assert self.acknowledged.setdefault(tried.request_id, first) == first
            case OutOfStock() as refusal:
                # It was looked up just now: nothing has happened since.
                assert self.run(self.shop.orders.by_request(ANN.id, tried.request_id)) is None
                assert int(refusal.facts["available"]) < int(refusal.facts["requested"])
            case Unavailable():
                pass
            case wrong:
                raise AssertionError(f"nobody may hear {wrong!r}")

    def require_honest_about_a_cancel(self, cancel: Cancelling) -> None:
        match cancel.call.exception():
            case None:
                assert cancel.call.result().state is State.CANCELLED
                self.cancelled.add(cancel.order)
            case OrderNotCancellable() as refusal:
                assert refusal.facts["state"] == "STATE_REJECTED"
            case wrong:
                assert isinstance(wrong, Unavailable)

    def teardown(self) -> None:
        """In the end all is well: what is under way arrives, late messages too, and the settlers get done."""
        try:
            self.finish()
            self.run(self.require_truth())
        finally:
            for task in [*(tried.call for tried in self.tries), *(each.call for each in self.cancels), *self.rounds]:
                task.cancel()
            self.run(asyncio.sleep(0))

    def finish(self) -> None:
        self.network.inventory_away = False
        for _ in range(40):
            while self.network.under_way:
                self.a_message_is_carried(0, Fate.ANSWERED)
            while self.network.late:
                self.a_late_message_arrives(0)
            if self.run(self.shop.unsettled()):
                self.something_ends("leases end")
                self.a_settler_begins()
            else:
                break
        assert [*self.tries, *self.cancels, *self.rounds] == []
        self.run(self.shop.holds_are_overdue())
        while self.run(self.shop.keeper.warehouse.lapse_one()):
            pass

    async def require_truth(self) -> None:
        shop, orders = self.shop, await self.shop.all_orders()
        assert await shop.unsettled() == 0
        by_id = {order.id: order for order in orders}
        by_request = {request_id: await shop.orders.by_request(ANN.id, request_id) for request_id in REQUESTS}
        assert len(orders) == sum(order is not None for order in by_request.values()), "one order per request"
        for request_id, acknowledged in self.acknowledged.items():
            assert by_request[request_id] == by_id[acknowledged], "what was acknowledged is there"
        assert {by_id[id].state for id in self.cancelled} <= {State.CANCELLED}

        sold = Counter[str]()
        for order in orders:
            held = (await shop.keeper.reservations.get(order.id)).state
            if order.state is State.PLACED:
                assert held is inventory.State.CONFIRMED
                sold.update(dict(order.cart.items))
            else:
                assert order.state in (State.REJECTED, State.CANCELLED)
                assert held is inventory.State.RELEASED
            assert (order.state_reason != "") is (order.state is State.REJECTED)
        for product in ("mug", "teapot"):
            stock = await shop.keeper.stocks.get(product)
            stocked = sum(entry[3] for entry in await shop.keeper.ledger() if entry[1:3] == (product, "ADJUSTED"))
            assert (stock.on_hand, stock.reserved) == (stocked - sold[product], 0)
        await shop.keeper.require_consistent()
        self.require_history(await shop.versions(), by_id)

    def require_history(self, told: Mapping[str, Sequence[Version]], by_id: Mapping[UUID, Order]) -> None:
        assert told.keys() == {f"orders/{id}" for id in by_id}
        for id, order in by_id.items():
            versions = told[f"orders/{id}"]
            assert [version.number for version in versions] == list(range(1, order.version + 1))
            assert versions[-1].order.state == STATES[order.state]
            states = [order_pb2.Order.State.Name(version.order.state).removeprefix("STATE_") for version in versions]
            assert tuple(states) in LIVES
            types = [version.type and version.type.rpartition(".")[2] for version in versions]
            assert types == [EVENT_OF[state] for state in states]


EVENT_OF = {
    "PENDING_STOCK": None,
    "PLACED": "OrderPlaced",
    "REJECTED": "OrderRejected",
    "CANCELLED": "OrderCancelled",
}
LIVES = {
    (*begin, *end)
    for begin in [("PLACED",), ("PENDING_STOCK", "PLACED")]
    for end in [(), ("REJECTED",), ("CANCELLED",)]
} | {("PENDING_STOCK", "REJECTED"), ("PENDING_STOCK", "CANCELLED")}
"""Of an order that is settled."""


def run_in_memory(chances: settings) -> None:
    """The machine over memory."""

    async def make() -> Shop:
        return MemoryShop()

    with asyncio.Runner() as runner:
        _run(runner, make, chances)


def run_in_sql(orders_url: str, stock_url: str, chances: settings) -> None:
    """The machine over two databases of one's own."""
    with asyncio.Runner() as runner:
        orders, stock = [runner.run(Database.connect(url)) for url in (orders_url, stock_url)]
        try:
            _run(runner, SqlShop(orders, stock).emptied, chances)
        finally:
            for database in (orders, stock):
                runner.run(database.close())


def _run(runner: asyncio.Runner, make: Callable[[], Awaitable[Shop]], chances: settings) -> None:
    machine = type("AnythingHappens", (AnythingHappens,), {"loop": runner.get_loop(), "make": staticmethod(make)})
    # How long it takes to draw the steps says more about the machine than about the shop.
    patient = settings(chances, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(machine, settings=patient)
