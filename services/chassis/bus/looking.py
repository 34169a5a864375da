"""What lies in a stream, for whoever looks and changes nothing."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Self

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from services.chassis.bus.access import RECONNECT_S, BusUnavailable, credentials
from services.chassis.settings import PasswordFile


@dataclass(frozen=True, slots=True)
class StreamContents:
    """What a stream says of itself."""

    created: datetime
    first: int
    """Sequence of the oldest message that it still has; one more than `last` when it has none."""
    last: int
    messages: int


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as it lies in a stream."""

    sequence: int
    time: datetime
    subject: str
    headers: Mapping[str, str]
    data: bytes


class Looking:
    """Reads what streams hold and changes nothing in them: `async with Looking(url) as looking`.

    Everything raises BusUnavailable.
    """

    AT_ONCE = 1000
    ANSWER_S = 5.0

    def __init__(self, url: str, password: PasswordFile | None = None) -> None:
        self._url, self._password, self._client = url, password, Client()
        self._stream = self._client.jetstream(timeout=self.ANSWER_S)

    async def __aenter__(self) -> Self:
        async def quiet(_: Exception) -> None:
            """nats-py would print it; whoever waits is told."""

        try:
            async with asyncio.timeout(self.ANSWER_S):
                await self._client.connect(
                    self._url,
                    name="looking",
                    allow_reconnect=False,
                    max_reconnect_attempts=1,  # to connect at all
                    reconnect_time_wait=RECONNECT_S,  # type: ignore[arg-type]  # a float is as good
                    error_cb=quiet,
                    **credentials(self._url, self._password),
                )
        except (nats.errors.Error, TimeoutError, OSError) as error:
            await self.__aexit__()  # what refuses us is connected
            raise BusUnavailable from error
        return self

    async def __aexit__(self, *_: object) -> None:
        with suppress(nats.errors.Error, OSError):
            await self._client.close()

    async def contents(self, stream: str) -> StreamContents | None:
        """None when there is no such stream."""
        try:
            info = await self._stream.stream_info(stream)
        except nats.js.errors.NotFoundError:
            return None
        except (nats.errors.Error, TimeoutError, OSError) as error:
            raise BusUnavailable from error
        assert info.created  # every stream has it
        return StreamContents(info.created, info.state.first_seq, info.state.last_seq, info.state.messages)

    async def message(self, stream: str, sequence: int) -> Stored | None:
        """None when there is no such message any more."""
        try:
            found = await self._stream.get_msg(stream, sequence)
        except nats.js.errors.NotFoundError:
            return None
        except (nats.errors.Error, TimeoutError, OSError) as error:
            raise BusUnavailable from error
        assert found.time  # every message has it
        return Stored(sequence, found.time, found.subject or "", found.headers or {}, found.data or b"")

    async def stored(
        self, stream: str, since: datetime | int, *, headers_only: bool
    ) -> AsyncIterator[Sequence[Stored]]:
        """What is there now, from a moment or a sequence on, a part at a time; nobody else's consumer is touched."""
        start = (
            ConsumerConfig(deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=since)
            if isinstance(since, int)
            else ConsumerConfig(deliver_policy=DeliverPolicy.BY_START_TIME, opt_start_time=since)
        )
        config = start.evolve(
            ack_policy=AckPolicy.NONE, headers_only=headers_only or None, mem_storage=True, inactive_threshold=60
        )
        try:
            reader = await self._stream.pull_subscribe("", stream=stream, config=config)
            left = (await reader.consumer_info()).num_pending or 0
            while left > 0:
                try:
                    some = await reader.fetch(min(self.AT_ONCE, left), timeout=self.ANSWER_S)
                except nats.errors.TimeoutError:
                    if (await reader.consumer_info()).num_pending:
                        raise
                    break  # purged meanwhile
                left -= len(some)
                yield [_stored(message) for message in some]
            await self._stream.delete_consumer(stream, (await reader.consumer_info()).name)
        except (nats.errors.Error, TimeoutError, OSError) as error:
            raise BusUnavailable from error


def _stored(message: Msg) -> Stored:
    where = message.metadata
    return Stored(where.sequence.stream, where.timestamp, message.subject, message.headers or {}, message.data)
