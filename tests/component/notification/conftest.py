"""What the tests of notification stand on."""

from collections.abc import AsyncIterator, Iterator

import pytest
from google.protobuf.duration_pb2 import Duration
from shop.notification.v1.config_pb2 import NotificationConfig

from services.chassis.database import Database
from tests.support.issuer import Issuer, running_issuer
from tests.support.nats import NatsServer, running_nats
from tests.support.postgres import Postgres
from tests.support.smtp import MailServer, mail_server


@pytest.fixture
async def database(postgres: Postgres) -> AsyncIterator[Database]:
    async with postgres.emptied("services.notification") as database:
        yield database


@pytest.fixture(scope="module")
def stream_server() -> Iterator[NatsServer]:
    """A NATS of one's own: the subjects of events are the same everywhere."""
    with running_nats() as server:
        yield server


@pytest.fixture
async def server() -> AsyncIterator[MailServer]:
    async with mail_server() as server:
        yield server


@pytest.fixture
def config() -> NotificationConfig:
    return NotificationConfig(
        default_page_size=2,
        max_page_size=3,
        mail_from="shop@example.com",
        smtp_timeout=Duration(seconds=5),
        mail_backoff_initial=Duration(nanos=10_000_000),
        mail_backoff_max=Duration(nanos=50_000_000),
        mail_give_up=Duration(seconds=60),
    )


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with running_issuer() as issuer:
        yield issuer
