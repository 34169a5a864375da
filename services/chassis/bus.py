"""NATS JetStream: publishing is done when the stream has it, consuming when the handler has returned.

Nothing here waits for NATS to be there: a process starts without it, and works again when it comes back, even empty.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import nats.errors
import nats.js.errors
import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
    StreamState,
)
from opentelemetry.util.types import AttributeValue

from services.chassis import logs
from services.chassis.metrics import Counter
from services.chassis.patience import QUIET, Seldom, describe, pause_s, told
from services.chassis.settings import PasswordFile, PasswordUnreadable
from services.chassis.tracing import Part, SpanKind, failed, together, traceparent_of, tracing
from services.chassis.worker import finishing
from services.refusals import Unavailable

RECONNECT_S = 0.25
PUBLISH_S = 2.0
DAY_S = 24 * 3600
STREAM_BYTES = 1 << 30
FULL = 0.8
"""Of what a stream holds: from then on it is purged of what all have read."""
HEARTBEAT_S = 1.0
SILENCE_S = 2.5
"""A pull request that sent neither message nor heartbeat for so long is lost."""
PULL_S = 30.0
_DIFFERENT_CONFIG = 10058
"""JetStream: the stream is there with another configuration."""

log = logs.get()
_consumed = Counter(
    "messaging.client.consumed.messages",
    "{message}",
    "Messages that were handled, and deliveries that were not: those come again.",
    "messaging.system",
    "messaging.destination.name",
    "error.type",
)


class BusUnavailable(Unavailable):
    """NATS is away, or did not confirm. What was published may be in the stream all the same."""

    reason = "BUS_UNAVAILABLE"
    message = "NATS is not reachable; try again."


@dataclass(frozen=True, slots=True)
class Message:
    subject: str
    headers: Mapping[str, str]
    data: bytes
    traceparent: str | None
    """Of the span in which it was received: what its handling belongs under."""
    about: str = ""
    """What it tells of, by name (CloudEvents: subject)."""


@dataclass(frozen=True, slots=True)
class Behind:
    """Of what a consumer is to get."""

    undelivered: int
    unacknowledged: int


type Handle = Callable[[Sequence[Message]], Awaitable[None]]
"""Called with one message or more. All are acknowledged when it returns; when it raises, all come again."""


class Bus:
    """One connection, kept for ever."""

    def __init__(self) -> None:
        self._client = Client()
        self._stream = self._client.jetstream(timeout=PUBLISH_S)
        self._closed = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._begun = False
        self._refused = Seldom()
        self._inboxes: set[asyncio.Queue[Msg | None]] = set()
        self.connections = 0
        """How often a connection came about: a reader who remembers another number has to look again."""

    @classmethod
    async def connect(cls, url: str, name: str, password: PasswordFile | None = None) -> Self:
        """Returns at once; the connection comes about when NATS is there. Raises PasswordUnreadable."""
        if password:
            password.read()
        bus = cls()
        bus._keeper = asyncio.create_task(bus._keep_connected(url, name, password))
        return bus

    @property
    def connected(self) -> bool:
        return bool(self._client.is_connected)

    async def close(self) -> None:
        if self._keeper:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._begun:  # nats-py cannot close what it never tried to connect
            with suppress(nats.errors.Error, OSError):
                await self._client.close()

    async def publish(
        self, subject: str, payload: bytes, headers: Mapping[str, str], timeout_s: float = PUBLISH_S
    ) -> None:
        """Returns when the stream has stored it. Raises BusUnavailable; then it may be stored all the same."""
        await self._asked(lambda: self._stream.publish(subject, payload, timeout=timeout_s, headers=dict(headers)))

    async def behind(self, stream: str, durable: str) -> Behind | None:
        """How far a consumer is behind its stream; None when there is none yet. Raises BusUnavailable."""
        try:
            info = await self._asked(lambda: self._stream.consumer_info(stream, durable))
        except BusUnavailable as refused:
            if isinstance(refused.__cause__, nats.js.errors.NotFoundError):
                return None
            raise
        return Behind(info.num_pending or 0, info.num_ack_pending or 0)

    async def ensure_stream(self, name: str, subjects: Sequence[str], max_bytes: int = STREAM_BYTES) -> datetime:
        """Makes the stream, or mends its configuration; its creation time tells a stream from one made after a loss.

        Full, it refuses what is new and keeps what it has; nearly full, it is purged of what all of its durable
        consumers have acknowledged. Raises BusUnavailable.
        """
        config = StreamConfig(
            name=name,
            subjects=list(subjects),
            storage=StorageType.FILE,
            retention=RetentionPolicy.LIMITS,
            max_age=30 * DAY_S,
            max_bytes=max_bytes,
            discard=DiscardPolicy.NEW,
            duplicate_window=600,
        )
        try:
            info = await self._asked(lambda: self._stream.add_stream(config))
        except BusUnavailable as refused:
            if getattr(refused.__cause__, "err_code", None) != _DIFFERENT_CONFIG:
                raise
            info = await self._asked(lambda: self._stream.update_stream(config))
        assert info.created  # every stream has it
        if info.state.bytes > FULL * max_bytes:
            await self._make_room(name, info.state)
        return info.created

    async def _make_room(self, stream: str, state: StreamState) -> None:
        consumers = await self._asked(lambda: self._stream.consumers_info(stream))
        durable = [each for each in consumers if each.config.durable_name]  # others come and go, and miss nothing
        floors = {each.name: each.ack_floor.stream_seq if each.ack_floor else 0 for each in durable}
        last = min(floors.values(), default=0)
        if last < state.first_seq:
            behind = [name for name, floor in floors.items() if floor == last]
            log.error("the stream is nearly full of what was not read yet", stream=stream, behind=behind)
            return
        await self._asked(lambda: self._stream.purge_stream(stream, seq=last + 1))
        read = last + 1 - state.first_seq
        log.warning("the stream was nearly full, and is purged of what all have read", stream=stream, messages=read)

    async def consume(
        self, stream: str, durable: str, subjects: Sequence[str], handle: Handle, batch: int = 64
    ) -> None:
        """Hands the messages to `handle` for ever, `batch` at most; replicas with the same durable share them.

        What is not acknowledged within 5 s comes again. While `handle` raises, it is tried with growing pauses and
        nothing new is fetched. A stream that is missing is waited for, a consumer that is missing is made.
        """
        failures = 0
        while True:
            if self.connected:
                try:
                    await self._bind(stream, durable, subjects)
                    failures = 0
                    await _Pull(self._client, stream, durable, batch).run(self._inboxes, handle)
                except BusUnavailable as error:
                    if failures % QUIET == 0:
                        log.warning("consuming has to wait", stream=stream, durable=durable, error=describe(error))
            await asyncio.sleep(pause_s(failures))
            failures += 1

    async def _bind(self, stream: str, durable: str, subjects: Sequence[str]) -> None:
        config = ConsumerConfig(durable_name=durable, filter_subjects=list(subjects), ack_wait=5, max_deliver=-1)
        await self._asked(lambda: self._stream.add_consumer(stream, config))

    async def _asked[T](self, request: Callable[[], Awaitable[T]]) -> T:
        if not self.connected:
            raise BusUnavailable
        try:
            return await request()
        except (nats.errors.Error, TimeoutError, OSError) as error:
            raise BusUnavailable from error

    async def _keep_connected(self, url: str, name: str, password: PasswordFile | None) -> None:
        while True:
            self._closed.clear()
            self._begun = True
            try:
                await self._client.connect(
                    url,
                    name=name,
                    error_cb=self._on_error,
                    disconnected_cb=self._on_loss,
                    reconnected_cb=self._on_connection,
                    closed_cb=self._on_closed,
                    reconnect_time_wait=RECONNECT_S,  # type: ignore[arg-type]  # a float is as good
                    max_reconnect_attempts=-1,
                    ping_interval=2,
                    pending_size=0,  # else a publish that was given up goes out after the reconnect
                    **_credentials(url, password),
                )
                await self._on_connection()
                await self._closed.wait()
            except nats.errors.Error as error:
                log.warning("NATS refuses the connection", error=describe(error))
            await asyncio.sleep(1)

    async def _on_connection(self) -> None:
        self.connections += 1
        log.info("connected to NATS")
        for inbox in self._inboxes:
            inbox.put_nowait(None)

    async def _on_loss(self) -> None:
        log.warning("the connection to NATS is lost")

    async def _on_closed(self) -> None:
        self._closed.set()

    async def _on_error(self, error: Exception) -> None:
        if self.connected:
            log.warning("NATS reports an error", error=describe(error))
        elif _is_about_who_we_are(error):  # waiting does not mend it
            if self._refused.may():
                log.warning("NATS refuses the connection", error=describe(error))
        else:  # each attempt to connect
            log.debug("NATS is away", error=describe(error))


def _credentials(url: str, password: PasswordFile | None) -> dict[str, Any]:
    """What nats-py is to send with each connection; without a file, what the URL says."""
    if password is None:
        return {}

    def read() -> str:
        try:
            return password.read()
        except PasswordUnreadable as error:  # of nats-py's own kinds: else it would never connect again
            raise nats.errors.Error(str(error)) from error

    return {"user": unquote(urlsplit(url).username or ""), "password": read}


def _is_about_who_we_are(error: Exception) -> bool:
    return isinstance(error.__cause__, PasswordUnreadable) or "authorization violation" in str(error).lower()


class _Pull:
    """A pull request that is kept open: JetStream sends what is there and what comes, up to a number.

    nats-py's own `fetch` asks twice for each batch, first for what is there, then for what comes.
    """

    def __init__(self, client: Client, stream: str, durable: str, batch: int) -> None:
        self._client, self._durable, self._batch = client, durable, batch
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}"
        self._arrived: asyncio.Queue[Msg | None] = asyncio.Queue()
        self._failures = 0
        self._request = orjson.dumps(
            {"batch": batch, "expires": int(PULL_S * 1e9), "idle_heartbeat": int(HEARTBEAT_S * 1e9)}
        )

    async def run(self, inboxes: set[asyncio.Queue[Msg | None]], handle: Handle) -> None:
        """Returns after a reconnect, raises BusUnavailable when stream, consumer or connection are lost."""
        inbox = self._client.new_inbox()
        try:
            subscription = await self._client.subscribe(inbox, cb=self._arrive)
        except nats.errors.Error as error:
            raise BusUnavailable from error
        inboxes.add(self._arrived)
        try:
            await self._receive(inbox, handle)
        except nats.errors.Error as error:
            raise BusUnavailable from error
        finally:
            inboxes.discard(self._arrived)
            with suppress(nats.errors.Error):
                await subscription.unsubscribe()
                await self._give_back()

    async def _arrive(self, message: Msg) -> None:
        self._arrived.put_nowait(message)

    async def _receive(self, inbox: str, handle: Handle) -> None:
        coming = 0  # of the request under way
        while True:
            if coming <= 0:
                await self._client.publish(self._subject, self._request, reply=inbox)
                coming = self._batch
            try:
                async with asyncio.timeout(SILENCE_S):
                    some = [await self._arrived.get()]
            except TimeoutError as silence:
                raise BusUnavailable from silence
            while not self._arrived.empty() and len(some) < self._batch:
                some.append(self._arrived.get_nowait())
            messages = [message for message in some if message and message.reply]
            if messages:
                coming -= len(messages)
                await finishing(self._handle(messages, handle))
            for status in some:
                if status is None:
                    return
                if not status.reply:
                    coming = _left(status, coming)

    async def _handle(self, arrived: Sequence[Msg], handle: Handle) -> None:
        parts = [_part(message, self._durable) for message in arrived]
        error_type = ""
        with together(SpanKind.CONSUMER, parts) as spans:
            messages = [_received(message, traceparent_of(span)) for message, span in zip(arrived, spans, strict=True)]
            try:
                with logs.about(messages[0].about or None if len(messages) == 1 else None):
                    await handle(messages)
            except Exception as error:  # noqa: BLE001  the loop goes on: what was not handled comes again
                error_type = type(error).__qualname__
                for span in spans:
                    failed(span, error_type)
                if self._failures % QUIET == 0:
                    log.warning("messages wait", messages=len(arrived), **told(error))
        for message in arrived:
            _consumed.add("nats", message.subject, error_type)
        if error_type:
            await self._put_off(arrived)
        else:
            self._failures = 0
            for message in arrived:
                await message.ack()

    async def _put_off(self, messages: Sequence[Msg]) -> None:
        """They come again, and nothing is taken until then."""
        pause = pause_s(self._failures)
        self._failures += 1
        for message in messages:
            await message.nak(delay=pause)
        await asyncio.sleep(pause)

    async def _give_back(self) -> None:
        """What nobody handled shall not wait until its time is over."""
        while not self._arrived.empty():
            message = self._arrived.get_nowait()
            if message and message.reply:
                await message.nak()


def _left(status: Msg, coming: int) -> int:
    """How many messages a status leaves to come. Raises BusUnavailable when it ends the consumer (nats ADR-13)."""
    headers = status.headers or {}
    match headers.get("Status"):
        case "100":  # heartbeat
            return coming
        case "404" | "408":  # the request has expired
            return 0
        case code:
            raise BusUnavailable(status=f"{code} {headers.get('Description', '')}")


def _part(message: Msg, durable: str) -> Part:
    """What its span says, by the semantic conventions for messaging."""
    headers = message.headers or {}
    attributes: dict[str, AttributeValue] = {
        "messaging.system": "nats",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": message.subject,
        "messaging.consumer.group.name": durable,
        "messaging.message.id": headers.get("ce-id", ""),
    }
    if about := headers.get("ce-subject"):
        attributes[tracing.order] = about
    return Part(f"process {message.subject}", headers.get("traceparent"), attributes)


def _received(message: Msg, traceparent: str | None) -> Message:
    headers = message.headers or {}
    return Message(message.subject, headers, message.data, traceparent, headers.get("ce-subject", ""))


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
                    **_credentials(self._url, self._password),
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
