"""The notification service: how its parts hang together."""

from shop.notification.v1.config_pb2 import NotificationConfig
from shop.notification.v1.notification_pb2_grpc import add_NotificationServiceServicer_to_server

from services.chassis.server import Process, run
from services.chassis.settings import CannotStart, Settings
from services.chassis.worker import Worker
from services.notification.api import NotificationApi
from services.notification.backlog import backlog, consumer_lag
from services.notification.domain import Outcome
from services.notification.events import CONSUMER, STREAM, SUBJECTS, OrderEvents, understand
from services.notification.letters import letter
from services.notification.mail import AT_ONCE, Claimed, Sender, SmtpAddress, SmtpServer
from services.notification.store import SqlNotifications
from services.notification.use_cases import Hearing, Mending, Showing


async def wire(process: Process[NotificationConfig]) -> None:
    """Events come from NATS, mails go to the SMTP server, people look by gRPC; tables are between all of them."""

    def config() -> NotificationConfig:
        return process.config.current

    database = await process.database("services.notification")
    notifications = SqlNotifications(database)
    bus = await process.bus()
    smtp = SmtpServer(_smtp_address(process.settings), lambda: config().mail_from)
    sender = Worker[Claimed, Outcome](Sender(notifications, smtp, config), batch=AT_ONCE)
    events = OrderEvents(Hearing(notifications, letter, heard=sender.wake))

    mending = Mending(notifications, understand, letter, mended=sender.wake)
    process.add(add_NotificationServiceServicer_to_server, NotificationApi(Showing(notifications), mending, config))
    process.background("sender", sender.run)
    process.background("events", lambda: bus.consume(STREAM, CONSUMER, SUBJECTS, events.handle))
    process.watch(backlog(database), consumer_lag(bus, STREAM, CONSUMER))


def _smtp_address(settings: Settings) -> SmtpAddress:
    try:
        return SmtpAddress.parse(settings.smtp_url)
    except ValueError as error:
        raise CannotStart(f"SHOPMESH_SMTP_URL: {error}") from None


if __name__ == "__main__":
    run("notification", NotificationConfig, wire)
