"""NotificationService: parse, one call, render."""

from collections.abc import Callable
from typing import override
from uuid import UUID

from shop.notification.v1 import notification_pb2 as pb
from shop.notification.v1.notification_pb2_grpc import NotificationServiceServicer

from services.chassis import logs
from services.chassis.auth import caller
from services.chassis.messages import PageSizes, decode_page_token, encode_page_token, moment, page_size, to_timestamp
from services.notification.domain import DeadLetter, Notification
from services.notification.use_cases import Mending, Showing

_DEAD_LETTERS = "dead letters"


class NotificationApi(NotificationServiceServicer):
    """Whose notifications they are is said by the token alone."""

    def __init__(self, showing: Showing, mending: Mending, page_sizes: Callable[[], PageSizes]) -> None:
        self._showing, self._mending, self._page_sizes = showing, mending, page_sizes

    @override
    async def ListNotifications(self, request: pb.ListNotificationsRequest, _: object) -> pb.ListNotificationsResponse:
        customer = caller().subject
        query = f"notifications of {customer}"
        page = await self._showing.page(
            customer,
            page_size(request.page_size, self._page_sizes()),
            decode_page_token(query, request.page_token, moment, UUID),
        )
        return pb.ListNotificationsResponse(
            notifications=map(_notification, page.shown), next_page_token=encode_page_token(query, page.next)
        )

    @override
    async def ListDeadLetters(self, request: pb.ListDeadLettersRequest, _: object) -> pb.ListDeadLettersResponse:
        page = await self._mending.page(
            page_size(request.page_size, self._page_sizes()),
            decode_page_token(_DEAD_LETTERS, request.page_token, moment, UUID),
        )
        return pb.ListDeadLettersResponse(
            dead_letters=map(_dead_letter, page.shown), next_page_token=encode_page_token(_DEAD_LETTERS, page.next)
        )

    @override
    async def RedriveDeadLetter(self, request: pb.RedriveDeadLetterRequest, _: object) -> pb.RedriveDeadLetterResponse:
        redriven = await self._mending.redrive(_id_of(request.name))
        _log("dead letter redriven", redriven)
        return pb.RedriveDeadLetterResponse(dead_letter=_dead_letter(redriven))

    @override
    async def DiscardDeadLetter(self, request: pb.DiscardDeadLetterRequest, _: object) -> pb.DiscardDeadLetterResponse:
        discarded = await self._mending.discard(_id_of(request.name))
        _log("dead letter discarded", discarded)
        return pb.DiscardDeadLetterResponse(dead_letter=_dead_letter(discarded))


def _id_of(name: str) -> UUID:
    return UUID(name.removeprefix("deadLetters/"))


def _log(what: str, dead: DeadLetter) -> None:
    """By whom, and all that stood on the list."""
    facts = {"event_type": dead.event_type, "event_id": dead.event_id, "attempts": dead.attempts, "reason": dead.reason}
    logs.bind_order(f"orders/{dead.order_id}" if dead.order_id else None)
    logs.get().warning(what, dead_letter=f"deadLetters/{dead.id}", by=caller().subject, **facts)


def _notification(notification: Notification) -> pb.Notification:
    message = pb.Notification(
        name=f"customers/{notification.customer}/notifications/{notification.id}",
        order=f"orders/{notification.order_id}",
        kind=pb.Notification.Kind.Value(f"KIND_{notification.kind.value}"),
        recipient=notification.recipient,
        subject=notification.subject,
        state=pb.Notification.State.Value(f"STATE_{notification.state.value}"),
        create_time=to_timestamp(notification.create_time),
    )
    if notification.send_time:
        message.send_time.CopyFrom(to_timestamp(notification.send_time))
    return message


def _dead_letter(dead: DeadLetter) -> pb.DeadLetter:
    return pb.DeadLetter(
        name=f"deadLetters/{dead.id}",
        event_type=dead.event_type,
        event_id=dead.event_id,
        order=f"orders/{dead.order_id}" if dead.order_id else "",
        reason=dead.reason,
        attempts=dead.attempts,
        create_time=to_timestamp(dead.create_time),
    )
