"""One order from a token to an e-mail, over each door."""

import asyncio
import subprocess
import sysconfig
import uuid
from pathlib import Path
from typing import Any

import grpc
import httpx
from shop.notification.v1 import notification_pb2, notification_pb2_grpc
from shop.order.v1 import order_pb2, order_pb2_grpc

from tests.support.installation import Installation
from tests.support.mail import mails_about
from tests.support.shop_fixtures import Bearer, Stocked, order_of, stock_of
from tests.support.waiting import eventually


async def placed(edge: grpc.aio.Channel, bearer: Bearer, product: str, quantity: int = 1) -> order_pb2.Order:
    answer = await order_pb2_grpc.OrderServiceStub(edge).PlaceOrder(
        order_of(product, quantity), metadata=bearer("ann"), timeout=60
    )
    return answer.order


async def test_an_order_over_grpc_is_placed_confirmed_and_told(
    edge: grpc.aio.Channel, bearer: Bearer, stocked: Stocked
) -> None:
    product = await stocked(5)

    order = await placed(edge, bearer, product, 2)

    assert order.state == order_pb2.Order.STATE_PLACED
    assert (order.total.currency_code, order.total.units, order.total.nanos) == ("EUR", 25, 0)

    async def confirmed() -> bool:
        return await stock_of(edge, product) == (3, 0)

    await eventually(confirmed, "the pieces have left the shelf, and none is promised any more")

    async def listed() -> bool:
        answer = await notification_pb2_grpc.NotificationServiceStub(edge).ListNotifications(
            notification_pb2.ListNotificationsRequest(page_size=100), metadata=bearer("ann"), timeout=60
        )
        states = [each.state for each in answer.notifications if each.order == order.name]
        return states == [notification_pb2.Notification.STATE_SENT]

    await eventually(listed, "the notification is listed as sent")


async def test_its_customer_gets_one_mail_that_says_what_was_bought(
    installation: Installation, mail: str, edge: grpc.aio.Channel, bearer: Bearer, stocked: Stocked
) -> None:
    order = await placed(edge, bearer, await stocked(5), 2)

    async def mailed() -> list[dict[str, Any]]:
        return await mails_about(mail, order.name)

    (got,) = await eventually(mailed, "a mail about the order")
    assert [to["Address"] for to in got["To"]] == [installation.claims("ann")["email"]]
    assert "25.00" in got["Text"]
    assert order.name.removeprefix("orders/") in got["Text"]


async def test_the_same_over_rest(
    edge: grpc.aio.Channel, http: httpx.AsyncClient, bearer: Bearer, stocked: Stocked
) -> None:
    product = await stocked(5)
    request = {"requestId": str(uuid.uuid4()), "order": {"lines": [{"product": product, "quantity": 2}]}}

    answer = await http.post("/v1/orders", json=request, headers=dict(bearer("ann")))

    assert answer.status_code == 200, answer.text
    order = answer.json()["order"]
    assert order["state"] == "STATE_PLACED"
    assert order["total"] == {"currencyCode": "EUR", "units": "25", "nanos": 0} or order["total"]["units"] == "25"

    async def confirmed() -> bool:
        return await stock_of(edge, product) == (3, 0)

    await eventually(confirmed, "the pieces have left the shelf")
    again = await http.get(f"/v1/{order['name']}", headers=dict(bearer("ann")))
    assert again.json()["order"]["lines"] == order["lines"]


async def test_an_order_over_the_command_line_of_a_developer(installation: Installation, stocked: Stocked) -> None:
    product = await stocked(1)
    body = f'{{"request_id": "{uuid.uuid4()}", "order": {{"lines": [{{"product": "{product}", "quantity": 1}}]}}}}'
    buf = Path(sysconfig.get_path("scripts")) / "buf"

    curl = await asyncio.create_subprocess_exec(
        buf, "curl", "--protocol", "grpc", "--http2-prior-knowledge",
        "-H", f"Authorization: Bearer {installation.token('ann')}", "-d", body,
        f"http://{installation.edge}/shop.order.v1.OrderService/PlaceOrder",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await asyncio.wait_for(curl.communicate(), 60)

    assert b'"STATE_PLACED"' in said, said.decode()


async def test_an_order_is_cancelled_over_rest_by_its_customer_alone_and_all_pieces_come_back(
    edge: grpc.aio.Channel, http: httpx.AsyncClient, bearer: Bearer, stocked: Stocked
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
        return await stock_of(edge, product) == (5, 0)

    await eventually(given_back, "the shelf is as it was")


async def test_who_cancels_gets_one_mail_that_says_so(
    mail: str, edge: grpc.aio.Channel, bearer: Bearer, stocked: Stocked
) -> None:
    order = await placed(edge, bearer, await stocked(5), 2)
    cancel = order_pb2.CancelOrderRequest(name=order.name)
    await order_pb2_grpc.OrderServiceStub(edge).CancelOrder(cancel, metadata=bearer("ann"), timeout=60)

    async def told() -> bool:
        cancelled = [each for each in await mails_about(mail, order.name) if "cancelled" in each["Subject"]]
        return len(cancelled) == 1 and "nothing is owed" in cancelled[0]["HTML"]

    await eventually(told, "a mail says that it was cancelled")


async def test_the_same_request_id_gives_the_first_order(
    edge: grpc.aio.Channel, bearer: Bearer, stocked: Stocked
) -> None:
    product = await stocked(5)
    request = order_of(product)
    orders = order_pb2_grpc.OrderServiceStub(edge)

    first = await orders.PlaceOrder(request, metadata=bearer("bob"), timeout=60)
    again = await orders.PlaceOrder(request, metadata=bearer("bob"), timeout=60)

    assert again.order.name == first.order.name
    newest = order_pb2.ListOrdersRequest(page_size=100)
    bobs = (await orders.ListOrders(newest, metadata=bearer("bob"), timeout=60)).orders
    assert [order.name for order in bobs if order.lines[0].product == product] == [first.order.name]

    async def one_piece_sold() -> bool:
        return await stock_of(edge, product) == (4, 0)

    await eventually(one_piece_sold, "one piece has left the shelf")
