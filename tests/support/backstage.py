"""The whole shop behind its doors, in one process: the real tables of three services, their workers and the stream."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID, uuid4

import asyncpg
from google.protobuf.duration_pb2 import Duration
from nats.js.errors import NotFoundError
from shop.notification.v1.config_pb2 import NotificationConfig

from services.chassis.bus.connection import Bus
from services.chassis.database import Database
from services.chassis.worker import Worker
from services.inventory import domain as inventory
from services.inventory.reaper import Reaper
from services.inventory.store import SqlReservations, SqlStocks
from services.inventory.use_cases import Warehouse
from services.notification.domain import Accepted, Attempt, Outcome
from services.notification.events import CONSUMER, SUBJECTS, OrderEvents
from services.notification.letters import letter
from services.notification.mail import Claimed, Sender
from services.notification.store import SqlNotifications
from services.notification.use_cases import Hearing
from services.order.domain import Cart, Customer, Order, OutOfStock, ReservationNotFound, ReservationReleased
from services.order.events import STREAM, relay
from services.order.ports import NotConfirmed
from services.order.store import SettlerJob, SqlOrders
from services.order.use_cases import Ordering, Settling
from services.refusals import Refusal
from tests.support.nats import NatsServer
from tests.support.postgres import Postgres
from tests.support.waiting import eventually
from tests.unit.order.fakes import MUG_AND_TEAPOT, TERMS, Catalogue

SERVICES = ("order", "inventory", "notification")
ANN = Customer("ann", "ann@example.com")
CONFIG = NotificationConfig(
    mail_from="shop@example.com",
    smtp_timeout=Duration(seconds=5),
    mail_backoff_initial=Duration(seconds=1),
    mail_backoff_max=Duration(seconds=1),
    mail_give_up=Duration(seconds=60),
)


_CLEAR = (
    ("order", "truncate orders, order_events"),
    ("order", "update event_stream set create_time = null"),
    ("inventory", "truncate stock, reservations, ledger, adjustments"),
    ("notification", "truncate notifications, dead_letters"),
)


@dataclass
class Stock:
    """Order's port over Inventory's use cases, without a call in between: nobody waits, and nothing times out."""

    warehouse: Warehouse

    async def reserve(self, order_id: UUID, cart: Cart, ttl: timedelta, timeout_s: float | None = None) -> None:  # noqa: ARG002
        try:
            await self.warehouse.reserve(order_id, inventory.Lines(cart.items), ttl)
        except Refusal as refusal:
            raise _said(refusal) from refusal

    async def confirm(self, order_ids: Sequence[UUID]) -> Mapping[UUID, NotConfirmed | None]:
        results = await self.warehouse.confirm(order_ids)
        return {
            id: _said(result) if isinstance(result, Refusal) else None
            for id, result in zip(order_ids, results, strict=True)
        }

    async def release(self, order_id: UUID) -> None:
        await self.warehouse.release(order_id)


def _said(refusal: Refusal) -> OutOfStock | ReservationNotFound | ReservationReleased:
    match refusal:
        case inventory.OutOfStock():
            return OutOfStock(**refusal.facts)
        case inventory.ReservationNotFound():
            return ReservationNotFound()
        case inventory.ReservationReleased():
            return ReservationReleased()
    raise refusal


class Mailbox:
    """A mail server that takes everything."""

    host_and_port = ("mail.example.com", 25)

    async def send(self, attempt: Attempt, until: float) -> Outcome:  # noqa: ARG002
        return Accepted()

    async def hang_up(self) -> None: ...


@dataclass
class Backstage:
    """`work` is what all services do by themselves; `place` and `cancel` are what customers do."""

    databases: dict[str, Database]
    nats: NatsServer
    bus: Bus
    postgres: Postgres

    def __post_init__(self) -> None:
        self._woken = tuple[Callable[[], None], ...]()
        self.stock = Stock(Warehouse(SqlReservations(self.databases["inventory"])))
        self.orders = SqlOrders(self.databases["order"], self._committed)
        self._desk = Ordering(self.orders, Catalogue(), self.stock, lambda: TERMS, _now, lambda: None)

    @property
    def urls(self) -> dict[str, str]:
        """For the role `audit`."""
        return {service: self.url(service, "audit") for service in SERVICES}

    def url(self, service: str, user: str) -> str:
        return self.postgres.url(self.databases[service]._url.rpartition("/")[2], user)

    async def stocked(self, **pieces: int) -> None:
        for product, quantity in pieces.items():
            await SqlStocks(self.databases["inventory"]).adjust(product, quantity, "carol", str(uuid4()))

    async def place(self, cart: Cart = MUG_AND_TEAPOT, customer: Customer = ANN) -> Order:
        return await self._desk.place(customer, cart, str(uuid4()))

    async def cancel(self, order: Order) -> Order:
        return await self._desk.cancel(order.id, order.customer.id)

    @asynccontextmanager
    async def work(self) -> AsyncIterator[None]:
        orders = self.databases["order"]
        settling = Worker(SettlerJob(orders, Settling(self.stock, lambda: TERMS, _now).settle, self._committed))
        sending = Worker(relay(orders, self.bus))
        self._woken = (settling.wake, sending.wake)
        notifications = SqlNotifications(self.databases["notification"])
        mails = Worker[Claimed, Outcome](Sender(notifications, Mailbox(), lambda: CONFIG))
        events = OrderEvents(Hearing(notifications, letter, mails.wake))
        reaper = Reaper(self.stock.warehouse, lambda: timedelta(seconds=0.1))
        consume = partial(self.bus.consume, STREAM, CONSUMER, SUBJECTS, events.handle)
        jobs = (settling.run, sending.run, mails.run, reaper.run, consume)
        tasks = [asyncio.ensure_future(job()) for job in jobs]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def sold(self, number: int) -> list[Order]:
        """So many orders, settled, announced and told."""
        async with self.work():
            orders = list(await asyncio.gather(*(self.place() for _ in range(number))))
            await self.at_rest()
        return orders

    async def at_rest(self) -> None:
        """Every order is settled and announced, every mail is out."""

        async def look() -> bool:
            orders, notifications = self.databases["order"], self.databases["notification"]
            open_orders = await orders.fetchval("select count(*) from orders where settled_time is null")
            said = await orders.fetchval("select count(*) from order_events where type is not null")
            told = await notifications.fetchval(
                "select count(*) from notifications where state not in ('READY', 'SENDING')"
            )
            unsent = await orders.fetchval(
                "select count(*) from order_events where sent_time is null and type is not null"
            )
            return bool(open_orders == unsent == 0 and said == told)

        await eventually(look, "all is settled, announced and told")

    async def clear(self) -> None:
        """As if nothing had ever been sold."""
        for service, statement in _CLEAR:
            await self.databases[service].execute(statement)
        with suppress(NotFoundError):
            await self.bus._stream.delete_stream(STREAM)

    async def corrupt(self, service: str, *statements: str) -> None:
        """As somebody who may do everything, and does."""
        connection = await asyncpg.connect(self.url(service, "postgres"))
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    def _committed(self) -> None:
        for wake in self._woken:
            wake()


@asynccontextmanager
async def backstage(postgres: Postgres, nats: NatsServer) -> AsyncIterator[Backstage]:
    """With new databases."""
    async with AsyncExitStack() as stack:
        databases = {
            service: await stack.enter_async_context(postgres.database(f"services.{service}")) for service in SERVICES
        }
        bus = await Bus.connect(nats.url, "test")
        stack.push_async_callback(bus.close)

        async def connected() -> bool:
            return bus.connected

        await eventually(connected, "NATS is reached")
        yield Backstage(databases, nats, bus, postgres)


def _now() -> datetime:
    return datetime.now(UTC)
