"""NotificationService: parse, one call, render."""

from collections.abc import Callable
from typing import override
from uuid import UUID

from shop.notification.v1 import notification_pb2_grpc
from shop.notification.v1.notification_pb2 import ListNotificationsRequest, ListNotificationsResponse
from shop.notification.v1.notification_pb2 import Notification as NotificationMessage

from services.chassis.auth import caller
from services.chassis.messages import PageSizes, decode_page_token, encode_page_token, moment, page_size, to_timestamp
from services.notification.domain import Notification
from services.notification.use_cases import Showing


class NotificationApi(notification_pb2_grpc.NotificationServiceServicer):
    """Whose notifications they are is said by the token alone."""

    def __init__(self, showing: Showing, page_sizes: Callable[[], PageSizes]) -> None:
        self._showing, self._page_sizes = showing, page_sizes

    @override
    async def ListNotifications(self, request: ListNotificationsRequest, context: object) -> ListNotificationsResponse:
        customer = caller().subject
        query = f"notifications of {customer}"
        page = await self._showing.page(
            customer,
            page_size(request.page_size, self._page_sizes()),
            decode_page_token(query, request.page_token, moment, UUID),
        )
        return ListNotificationsResponse(
            notifications=map(_rendered, page.notifications),
            next_page_token=encode_page_token(query, page.next),
        )


def _rendered(notification: Notification) -> NotificationMessage:
    message = NotificationMessage(
        name=f"customers/{notification.customer}/notifications/{notification.id}",
        order=f"orders/{notification.order_id}",
        kind=NotificationMessage.Kind.Value(f"KIND_{notification.kind.value}"),
        recipient=notification.recipient,
        subject=notification.subject,
        state=NotificationMessage.State.Value(f"STATE_{notification.state.value}"),
        create_time=to_timestamp(notification.create_time),
    )
    if notification.send_time:
        message.send_time.CopyFrom(to_timestamp(notification.send_time))
    return message
