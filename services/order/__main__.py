"""The process of the order service."""

from datetime import UTC, datetime
from uuid import UUID

from shop.order.v1.config_pb2 import OrderConfig
from shop.order.v1.order_pb2_grpc import add_OrderServiceServicer_to_server

from services.chassis import logs
from services.chassis.interceptors import time_left
from services.chassis.messages import from_duration
from services.chassis.server import Process, run
from services.chassis.worker import Worker
from services.order.api import OrderApi
from services.order.backlog import backlog
from services.order.domain import Terms
from services.order.events import relay
from services.order.peers import GrpcCatalog, GrpcStock
from services.order.store import SettlerJob, SqlOrders
from services.order.use_cases import Ordering, Settling
from services.order.watching import Watching

BREATH_S = 0.1
"""Between batches of 64 events when many wait: who places an order meanwhile shall not wait for all of them."""


async def wire(process: Process[OrderConfig]) -> None:
    """Puts the service together."""

    def terms() -> Terms:
        return terms_of(process.config.current)

    def now() -> datetime:
        return datetime.now(UTC)

    def committed() -> None:
        sending.wake()
        settling.wake()

    def changed() -> None:
        committed()
        watching.wake()

    def about(order_id: UUID) -> None:
        logs.bind_order(f"orders/{order_id}")

    database = await process.database("services.order")
    stock = GrpcStock(process.channel("inventory"))
    sending = Worker(relay(database, await process.bus()), breath_s=BREATH_S)
    settling = Worker(SettlerJob(database, Settling(stock, terms, now).settle, changed))
    process.background(SettlerJob.name, settling.run)
    process.background("relay", sending.run)
    process.watch(backlog(database))
    orders, catalog = SqlOrders(database, committed, changed), GrpcCatalog(process.channel("product"))
    watching = Watching(database, orders)
    process.background("watching", watching.run)
    ordering = Ordering(orders, catalog, stock, terms, now, time_left, about=about)
    process.add(
        add_OrderServiceServicer_to_server, OrderApi(ordering, orders, watching, lambda: process.config.current)
    )


def terms_of(config: OrderConfig) -> Terms:
    """What the operator has set, in the words of the domain."""
    return Terms(
        hold_ttl=from_duration(config.hold_ttl),
        reserve_timeout=from_duration(config.reserve_timeout),
        accepts_pending=config.inventory_away == OrderConfig.INVENTORY_AWAY_PENDING_STOCK,
        pending_bound=from_duration(config.pending_bound),
    )


if __name__ == "__main__":
    run("order", OrderConfig, wire)
