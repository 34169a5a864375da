"""One order from a token to an e-mail, over each door."""

import asyncio
import subprocess
import sysconfig
import uuid
from pathlib import Path

import grpc
import httpx
from shop.notification.v1 import notification_pb2, notification_pb2_grpc
from shop.order.v1 import order_pb2, order_pb2_grpc

from tests.support.shop import Shop
from tests.support.shop_fixtures import Bearer, Stocked, audit, order_of
from tests.support.waiting import eventually


async def mails_about(http: httpx.AsyncClient, shop: Shop, order: str) -> list[dict[str, object]]:
    """Mails whose text names the order, whole."""
    found = []
    for summary in (await http.get(f"{shop.mail}/api/v1/messages")).json()["messages"]:
        mail = (await http.get(f"{shop.mail}/api/v1/message/{summary['ID']}")).json()
        if order.removeprefix("orders/") in mail["Text"]:
            found.append(mail)
    return found


async def placed(edge: grpc.aio.Channel, bearer: Bearer, product: str, quantity: int = 1) -> order_pb2.Order:
    answer = await order_pb2_grpc.OrderServiceStub(edge).PlaceOrder(
        order_of(product, quantity), metadata=bearer("ann"), timeout=60
    )
    return answer.order


async def test_an_order_over_grpc_is_placed_confirmed_and_mailed(
    shop: Shop, edge: grpc.aio.Channel, http: httpx.AsyncClient, bearer: Bearer, stocked: Stocked
) -> None:
    product = await stocked(5)

    order = await placed(edge, bearer, product, 2)

    assert order.state == order_pb2.Order.STATE_PLACED
    assert (order.total.currency_code, order.total.units, order.total.nanos) == ("EUR", 25, 0)

    async def mailed() -> list[dict[str, object]]:
        return await mails_about(http, shop, order.name)

    (mail,) = await eventually(mailed, "a mail about the order")
    assert mail["To"] == [{"Name": "", "Address": "ann@example.com"}]
    assert "25.00" in str(mail["Text"])
    id = uuid.UUID(order.name.removeprefix("orders/"))

    async def confirmed() -> bool:
        query = "select state from audit_reservations where reservation_id = $1"
        return [row["state"] for row in await audit(shop, "inventory", query, id)] == ["CONFIRMED"]

    await eventually(confirmed, "the hold is confirmed")

    async def listed() -> bool:
        answer = await notification_pb2_grpc.NotificationServiceStub(edge).ListNotifications(
            notification_pb2.ListNotificationsRequest(page_size=100), metadata=bearer("ann"), timeout=60
        )
        states = [each.state for each in answer.notifications if each.order == order.name]
        return states == [notification_pb2.Notification.STATE_SENT]

    await eventually(listed, "the notification is listed as sent")


async def test_the_same_over_rest(shop: Shop, http: httpx.AsyncClient, bearer: Bearer, stocked: Stocked) -> None:
    product = await stocked(5)
    request = {"requestId": str(uuid.uuid4()), "order": {"lines": [{"product": product, "quantity": 2}]}}

    answer = await http.post("/v1/orders", json=request, headers=dict(bearer("ann")))

    assert answer.status_code == 200, answer.text
    order = answer.json()["order"]
    assert order["state"] == "STATE_PLACED"
    assert order["total"] == {"currencyCode": "EUR", "units": "25", "nanos": 0} or order["total"]["units"] == "25"

    async def mailed() -> bool:
        return len(await mails_about(http, shop, order["name"])) == 1

    await eventually(mailed, "one mail about the order")
    again = await http.get(f"/v1/{order['name']}", headers=dict(bearer("ann")))
    assert again.json()["order"]["lines"] == order["lines"]


async def test_an_order_over_the_command_line_of_a_developer(shop: Shop, stocked: Stocked) -> None:
    product = await stocked(1)
    body = f'{{"request_id": "{uuid.uuid4()}", "order": {{"lines": [{{"product": "{product}", "quantity": 1}}]}}}}'
    buf = Path(sysconfig.get_path("scripts")) / "buf"

    curl = await asyncio.create_subprocess_exec(
        buf, "curl", "--protocol", "grpc", "--http2-prior-knowledge",
        "-H", f"Authorization: Bearer {shop.token('ann')}", "-d", body,
        f"http://{shop.edge}/shop.order.v1.OrderService/PlaceOrder",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await asyncio.wait_for(curl.communicate(), 60)

    assert b'"STATE_PLACED"' in said, said.decode()


async def test_an_order_is_cancelled_over_rest_by_its_customer_alone_and_all_pieces_come_back(
    shop: Shop, edge: grpc.aio.Channel, http: httpx.AsyncClient, bearer: Bearer, stocked: Stocked
) -> None:
    product = await stocked(5)
    order = await placed(edge, bearer, product, 2)
    path = f"/v1/{order.name}:cancel"

    others = await http.post(path, json={}, headers=dict(bearer("bob")))
    outdated = await http.post(path, json={"etag": '"7"'}, headers=dict(bearer("ann")))
    first = await http.post(path, json={"etag": order.etag}, headers=dict(bearer("ann")))
    again = await http.post(path, json={"etag": order.etag}, headers=dict(bearer("ann")))

    assert (others.status_code, outdated.status_code) == (404, 409), others.text + outdated.text
    assert first.status_code == again.status_code == 200, first.text + again.text
    assert first.json()["order"]["state"] == "STATE_CANCELLED"
    assert again.json() == first.json()

    async def given_back() -> bool:
        query = "select on_hand, reserved from audit_stock where product = $1"
        [row] = await audit(shop, "inventory", query, product.removeprefix("products/"))
        return tuple(row) == (5, 0)

    async def told() -> bool:
        mails = await mails_about(http, shop, order.name)
        cancelled = [mail for mail in mails if "cancelled" in str(mail["Subject"])]
        return len(cancelled) == 1 and "nothing is owed" in str(cancelled[0]["HTML"])

    await eventually(given_back, "the shelf is as it was")
    await eventually(told, "a mail says that it was cancelled")


async def test_the_same_request_id_gives_the_first_order(
    shop: Shop, edge: grpc.aio.Channel, bearer: Bearer, stocked: Stocked
) -> None:
    request = order_of(await stocked(5))
    orders = order_pb2_grpc.OrderServiceStub(edge)

    first = await orders.PlaceOrder(request, metadata=bearer("bob"), timeout=60)
    again = await orders.PlaceOrder(request, metadata=bearer("bob"), timeout=60)

    assert again.order.name == first.order.name
    rows = await audit(shop, "order", "select order_id from audit_orders where request_id = $1", request.request_id)
    assert len(rows) == 1
