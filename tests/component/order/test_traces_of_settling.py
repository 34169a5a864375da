"""What is seen of orders that are settled together."""

import asyncio
from collections.abc import Sequence
from typing import cast

from services.chassis.database import Database
from services.chassis.settings import Settings
from services.chassis.tracing import tracing
from services.order.domain import InventoryUnavailable, Order, OrderRejected
from services.order.store import Claimed, SettlerJob
from services.order.use_cases import Settled, Settlement
from tests.support.otlp import receiving
from tests.unit.order.fakes import NOON, order


async def test_the_span_of_each_order_tells_what_became_of_it() -> None:
    settled, away, sold_out = orders = [order(request_id=request_id) for request_id in ("r1", "r2", "r3")]
    traces = [str(number) * 32 for number in range(1, 4)]
    outcomes: dict[object, Settlement] = {
        settled.id: Settled(),
        away.id: InventoryUnavailable(),
        sold_out.id: OrderRejected(sold_out.reject("OUT_OF_STOCK", NOON)),
    }

    async def act(orders: Sequence[Order]) -> Sequence[Settlement]:
        return [outcomes[order.id] for order in orders]

    with receiving() as receiver:
        tracing.export(Settings.read("order", {"SHOPMESH_OTLP_ENDPOINT": receiver.endpoint}), "shop")
        job = SettlerJob(cast("Database", None), act, committed=lambda: None)  # it acts with no transaction open
        await job.act(
            [Claimed(order, NOON, f"00-{trace}-{'b' * 16}-01") for order, trace in zip(orders, traces, strict=True)]
        )
        await asyncio.to_thread(tracing.close)
        spans = [span for trace in traces for span in receiver.trace(trace)]

    told = "shop.order", "shop.reason", "error.type"
    assert [(span.name, span.status, *map(span.attributes.get, told)) for span in spans] == [
        ("settle", "UNSET", f"orders/{settled.id}", None, None),
        ("settle", "ERROR", f"orders/{away.id}", "INVENTORY_UNAVAILABLE", "INVENTORY_UNAVAILABLE"),
        ("settle", "UNSET", f"orders/{sold_out.id}", "OUT_OF_STOCK", None),
    ]
    assert [span.links for span in spans] == [(), *[((spans[0].trace_id, spans[0].span_id),)] * 2]
