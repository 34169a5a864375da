"""`shopmesh audit` of a whole shop that sells meanwhile."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import grpc
from shop.order.v1 import order_pb2, order_pb2_grpc

from services.cli.audit.looking import Report, look
from tests.support.shop import Shop
from tests.support.shop_fixtures import Bearer, Stocked, order_of

LOOKS = 3


async def test_a_shop_that_sells_has_no_difference_and_the_command_says_so(
    shop: Shop, edge: grpc.aio.Channel, bearer: Bearer, stocked: Stocked
) -> None:
    product, ann, reports = await stocked(100_000), bearer("ann"), list[Report]()
    orders, began = order_pb2_grpc.OrderServiceStub(edge), datetime.now(UTC) - timedelta(seconds=1)

    def enough() -> bool:
        return sum(report.counts["orders"] > 10 for report in reports) >= LOOKS

    async def buyer() -> None:
        while not enough():
            answer = await orders.PlaceOrder(order_of(product), metadata=ann, timeout=60)
            cancel = order_pb2.CancelOrderRequest(name=answer.order.name)
            await orders.CancelOrder(cancel, metadata=ann, timeout=60)

    async def auditor() -> None:
        urls = {service: shop.database(service) for service in ("order", "inventory", "notification")}
        nats = f"nats://127.0.0.1:{shop.ports['nats']}"
        while not enough():
            reports.append(await look(urls, nats, since=began, deep=True, pause=lambda: asyncio.sleep(0.2)))

    await asyncio.gather(auditor(), *(buyer() for _ in range(4)))

    told = json.loads(shop.command("audit", "--since", "1h", "--json", check=False))
    found = [difference for report in reports for difference in report.differences]
    # Other tests leave dead letters.
    assert [difference for difference in found if difference.kind != "dead-letter"] == []
    assert {difference["kind"] for difference in told["differences"]} <= {"dead-letter"}
    assert told["looked_at"]["orders"] >= reports[-1].counts["orders"]
    assert told["unseen"] == ""
