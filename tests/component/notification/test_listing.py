"""ListNotifications as its callers see it: over gRPC, on PostgreSQL."""

from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID

import grpc
import pytest
from shop.notification.v1.config_pb2 import NotificationConfig
from shop.notification.v1.notification_pb2 import ListNotificationsRequest, Notification
from shop.notification.v1.notification_pb2_grpc import (
    NotificationServiceStub,
    add_NotificationServiceServicer_to_server,
)

from services.chassis.database import Database
from services.chassis.messages import encode_page_token
from services.notification.api import NotificationApi
from services.notification.domain import State, Verdict
from services.notification.events import understand
from services.notification.letters import letter
from services.notification.store import SqlNotifications
from services.notification.use_cases import Mending, Showing
from tests.support.issuer import Issuer
from tests.support.notification import keep, placed, rejected
from tests.support.refused import Refused, outcome
from tests.support.serving import Metadata, bearing, serving


@pytest.fixture
async def stub(
    database: Database, issuer: Issuer, config: NotificationConfig
) -> AsyncIterator[NotificationServiceStub]:
    notifications = SqlNotifications(database)
    mending = Mending(notifications, understand, letter, mended=lambda: None)
    api = NotificationApi(Showing(notifications), mending, lambda: config)
    async with serving(add_NotificationServiceServicer_to_server, api, issuer) as channel:
        yield NotificationServiceStub(channel)


@pytest.fixture
def ann(issuer: Issuer) -> Metadata:
    return bearing(issuer.token("ann", ["customer"]))


async def test_customers_see_what_they_were_told_and_when(
    stub: NotificationServiceStub, database: Database, ann: Metadata
) -> None:
    notifications, news = SqlNotifications(database), placed()
    await keep(notifications, news)
    attempts = await notifications.claim(1, timedelta(minutes=1))
    await notifications.settle([Verdict(attempt, State.SENT) for attempt in attempts])
    await keep(notifications, rejected(news))

    second, first = (await stub.ListNotifications(ListNotificationsRequest(), metadata=ann)).notifications

    assert first.name == f"customers/ann/notifications/{news.notification_id}"
    assert first.order == f"orders/{news.order_id}"
    assert (first.recipient, first.subject) == (news.recipient, letter(news).subject)
    assert (first.kind, first.state) == (Notification.KIND_ORDER_PLACED, Notification.STATE_SENT)
    assert first.create_time.ToMicroseconds() <= first.send_time.ToMicroseconds()
    assert (second.kind, second.state) == (Notification.KIND_ORDER_REJECTED, Notification.STATE_READY)
    assert not second.HasField("send_time")


@pytest.mark.parametrize(("asked", "pages"), [(0, [2, 2, 1]), (1, [1, 1, 1, 1, 1]), (3, [3, 2]), (100, [3, 2])])
async def test_pages_follow_one_another_newest_first(
    stub: NotificationServiceStub, database: Database, ann: Metadata, asked: int, pages: list[int]
) -> None:
    orders = [placed() for _ in range(5)]
    await keep(SqlNotifications(database), *orders)

    seen, sizes, token = [], [], "first"
    while token:
        request = ListNotificationsRequest(page_size=asked, page_token=token.removeprefix("first"))
        page = await stub.ListNotifications(request, metadata=ann)
        seen += [one.order for one in page.notifications]
        sizes.append(len(page.notifications))
        token = page.next_page_token

    assert seen == [f"orders/{news.order_id}" for news in reversed(orders)]
    assert sizes == pages


async def test_page_sizes_are_those_of_the_configuration_at_that_moment(
    stub: NotificationServiceStub, database: Database, config: NotificationConfig, ann: Metadata
) -> None:
    await keep(SqlNotifications(database), *(placed() for _ in range(3)))
    config.default_page_size = 1

    page = await stub.ListNotifications(ListNotificationsRequest(), metadata=ann)

    assert len(page.notifications) == 1


async def test_nobody_sees_what_another_was_told(
    stub: NotificationServiceStub, database: Database, issuer: Issuer, ann: Metadata
) -> None:
    await keep(SqlNotifications(database), *(placed() for _ in range(3)))
    bob = bearing(issuer.token("bob", ["customer"]))
    anns = await stub.ListNotifications(ListNotificationsRequest(page_size=1), metadata=ann)

    page = await stub.ListNotifications(ListNotificationsRequest(), metadata=bob)
    stolen = ListNotificationsRequest(page_token=anns.next_page_token)

    assert not page.notifications
    assert await outcome(stub.ListNotifications(stolen, metadata=bob)) == Refused(
        grpc.StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID"
    )


@pytest.mark.parametrize(
    "token",
    [
        "nonsense",
        encode_page_token("orders of ann", ("2026-11-24T00:00:00+00:00", str(UUID(int=1)))),
        encode_page_token("notifications of ann", ("2026-11-24T00:00:00+00:00",)),
        encode_page_token("notifications of ann", ("yesterday", str(UUID(int=1)))),
        encode_page_token("notifications of ann", ("2026-11-24T00:00:00", str(UUID(int=1)))),
        encode_page_token("notifications of ann", ("0001-01-01T00:00:00+23:59", str(UUID(int=1)))),
    ],
    ids=["no token", "of another list", "too short", "no time", "no zone", "before time"],
)
async def test_a_page_token_that_this_list_did_not_give_out_is_refused(
    stub: NotificationServiceStub, ann: Metadata, token: str
) -> None:
    call = stub.ListNotifications(ListNotificationsRequest(page_token=token), metadata=ann)

    assert await outcome(call) == Refused(grpc.StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID")


async def test_only_customers_have_notifications(stub: NotificationServiceStub, issuer: Issuer) -> None:
    request = ListNotificationsRequest()
    oscar = bearing(issuer.token("oscar", ["operator"]))
    order = bearing(issuer.token("service-account-order", client="order"))

    for metadata in (oscar, order):
        refused = await outcome(stub.ListNotifications(request, metadata=metadata))
        assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_MISSING")
    assert (await outcome(stub.ListNotifications(request))).code is grpc.StatusCode.UNAUTHENTICATED


async def test_a_negative_page_size_is_refused(stub: NotificationServiceStub, ann: Metadata) -> None:
    refused = await outcome(stub.ListNotifications(ListNotificationsRequest(page_size=-1), metadata=ann))

    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
