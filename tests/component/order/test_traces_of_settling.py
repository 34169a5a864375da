"""What is seen of orders that are settled together."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import cast
from uuid import UUID

from structlog.testing import capture_logs
from structlog.typing import EventDict

from services.chassis import logs
from services.chassis.database import Database
from services.chassis.settings import Settings
from services.chassis.tracing import trace_id, tracing
from services.chassis.worker import Failed
from services.order.domain import InventoryUnavailable, Order, OrderPlaced, OrderRejected, ReservationReleased
from services.order.ports import NotConfirmed
from services.order.store import Claimed, SettlerJob, SqlOrders
from services.order.use_cases import Settled, Settlement, Settling
from tests.support.otlp import receiving
from tests.unit.order.fakes import NOON, TERMS, Warehouse, order


class Collapsed(Warehouse):
    async def confirm(self, order_ids: Sequence[UUID]) -> Mapping[UUID, NotConfirmed | None]:
        del order_ids
        raise KeyError("shelf")


def claimed(order: Order, trace: str) -> Claimed:
    return Claimed(order, NOON, f"00-{trace}-{'b' * 16}-01")


def in_its_trace(_: object, __: str, line: EventDict) -> EventDict:
    """What a line has when it is written."""
    return {"order": logs.order(), **line, "trace_id": trace_id()}


async def nothing(orders: Sequence[Order]) -> Sequence[Settlement]:
    raise AssertionError(orders)


async def test_the_span_of_each_order_tells_what_became_of_it() -> None:
    settled, away, sold_out, changed = orders = [order(request_id=f"r{number}") for number in range(4)]
    traces = [str(number) * 32 for number in range(1, 5)]
    outcomes: dict[object, Settlement] = {
        settled.id: Settled(),
        away.id: InventoryUnavailable(),
        sold_out.id: OrderRejected(sold_out.reject("OUT_OF_STOCK", NOON)),
        changed.id: ReservationReleased(),  # by a cancellation meanwhile
    }

    async def act(orders: Sequence[Order]) -> Sequence[Settlement]:
        return [outcomes[order.id] for order in orders]

    with receiving() as receiver:
        tracing.export(Settings.read("order", {"SHOPMESH_OTLP_ENDPOINT": receiver.endpoint}), "shop")
        try:
            job = SettlerJob(cast("Database", None), act, committed=lambda: None)  # it acts with no transaction open
            await job.act([claimed(*each) for each in zip(orders, traces, strict=True)])
        finally:
            await asyncio.to_thread(tracing.close)
        spans = [span for trace in traces for span in receiver.trace(trace)]

    told = "shop.order", "shop.reason", "error.type"
    assert [(span.name, span.status, *map(span.attributes.get, told)) for span in spans] == [
        ("settle", "UNSET", f"orders/{settled.id}", None, None),
        ("settle", "ERROR", f"orders/{away.id}", "INVENTORY_UNAVAILABLE", "INVENTORY_UNAVAILABLE"),
        ("settle", "UNSET", f"orders/{sold_out.id}", "OUT_OF_STOCK", None),
        ("settle", "UNSET", f"orders/{changed.id}", "RESERVATION_RELEASED", None),
    ]
    assert [span.links for span in spans] == [(), *[((spans[0].trace_id, spans[0].span_id),)] * 3]


async def test_what_nobody_expected_is_said_once_with_its_traceback_however_many_it_hit() -> None:
    orders = [order(request_id=f"r{number}") for number in range(3)]
    traces = [str(number) * 32 for number in range(1, 4)]
    settling = Settling(Collapsed(), lambda: TERMS, lambda: NOON)
    job = SettlerJob(cast("Database", None), settling.settle, committed=lambda: None)

    with capture_logs(processors=[in_its_trace]) as lines:
        outcomes = await job.act([claimed(*each) for each in zip(orders, traces, strict=True)])

    assert outcomes == [Failed("KeyError: 'shelf'")] * 3
    [line] = lines
    assert (line["event"], line["orders"], line["trace_id"]) == ("orders cannot be settled", 3, traces[0])
    assert isinstance(line["exc_info"], KeyError)


async def test_why_an_order_is_rejected_is_said_in_its_trace(database: Database) -> None:
    one, trace = order(), "1" * 32
    await SqlOrders(database, committed=lambda: None).add(one, OrderPlaced(one), "r1")
    job = SettlerJob(database, nothing, committed=lambda: None)

    with capture_logs(processors=[in_its_trace]) as lines:
        await job.settle([(claimed(one, trace), OrderRejected(one.reject("OUT_OF_STOCK", NOON)))])

    said = "event", "reason", "trace_id", "order"
    assert [[line[each] for each in said] for line in lines] == [
        ["order rejected", "OUT_OF_STOCK", trace, f"orders/{one.id}"]
    ]
