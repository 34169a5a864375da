"""The connection of a process to NATS: it publishes, and hands what it consumes to whoever asked."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Self

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig, DiscardPolicy, RetentionPolicy, StorageType, StreamConfig, StreamState

from services.chassis import logs
from services.chassis.bus.access import RECONNECT_S, BusUnavailable, credentials, is_about_who_we_are
from services.chassis.bus.pulling import Handle, Pull
from services.chassis.patience import QUIET, Seldom, describe, pause_s
from services.chassis.settings import PasswordFile

PUBLISH_S = 2.0
BEGIN_ANEW_S = 1.0
"""After a server that refuses us, or a client that has given up: nats-py itself tries again only what is away."""
DAY_S = 24 * 3600
STREAM_BYTES = 1 << 30
FULL = 0.8
"""Of what a stream holds: from then on it is purged of what all have read."""
_DIFFERENT_CONFIG = 10058
"""JetStream: the stream is there with another configuration."""

log = logs.get()


@dataclass(frozen=True, slots=True)
class Behind:
    """Of what a consumer is to get."""

    undelivered: int
    unacknowledged: int


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
                    await Pull(self._client, stream, durable, batch).run(self._inboxes, handle)
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
                    **credentials(url, password),
                )
                await self._on_connection()
                await self._closed.wait()
            except nats.errors.Error as error:
                log.warning("NATS refuses the connection", error=describe(error))
            await asyncio.sleep(BEGIN_ANEW_S)

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
        elif is_about_who_we_are(error):
            if self._refused.may():
                log.warning("NATS refuses the connection", error=describe(error))
        else:  # each attempt to connect
            log.debug("NATS is away", error=describe(error))
