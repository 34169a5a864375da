"""Messages of a consumer, as they come: one request that is kept open, and what is done with what it brings."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import nats.errors
import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from opentelemetry.util.types import AttributeValue

from services.chassis import logs
from services.chassis.bus.access import BusUnavailable
from services.chassis.metrics import Counter
from services.chassis.patience import QUIET, pause_s, told
from services.chassis.tracing import Part, SpanKind, failed, together, traceparent_of, tracing
from services.chassis.worker import finishing

HEARTBEAT_S = 1.0
SILENCE_S = 2.5
"""A pull request that sent neither message nor heartbeat for so long is lost."""
PULL_S = 30.0

log = logs.get()
_consumed = Counter(
    "messaging.client.consumed.messages",
    "{message}",
    "Messages that were handled, and deliveries that were not: those come again.",
    "messaging.system",
    "messaging.destination.name",
    "error.type",
)


@dataclass(frozen=True, slots=True)
class Message:
    subject: str
    headers: Mapping[str, str]
    data: bytes
    traceparent: str | None
    """Of the span in which it was received: what its handling belongs under."""
    about: str = ""
    """What it tells of, by name (CloudEvents: subject)."""


type Handle = Callable[[Sequence[Message]], Awaitable[None]]
"""Called with one message or more. All are acknowledged when it returns; when it raises, all come again."""


class Pull:
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
