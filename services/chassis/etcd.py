"""etcd, as the mesh uses it: keys are text, values bytes, and whoever watches never has to care about breaks.

Of aetcd this takes the client and the generated stubs. Its watcher is not used: it waits for ever when the server
ends the stream or cancels the watch.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import aetcd
import grpc
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from services.chassis import logs
from services.chassis.patience import QUIET, describe
from services.refusals import Unavailable

REQUEST_S = 3.0
_CHANNEL_OPTIONS = {
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 500,
    # Also how long an attempt may take: a member that hangs accepts, and never says a word.
    "grpc.min_reconnect_backoff_ms": 1000,
    # A connection that hangs is given up before a lease ends. Etcd closes those that ping more often than each 5 s, or
    # without a stream.
    "grpc.keepalive_time_ms": 6_000,
    "grpc.keepalive_timeout_ms": 2_000,
    # Keepalive waits for a ping that gRPC has sent for itself, and that one may take 60 s if nothing else is said.
    "grpc.http2.ping_timeout_ms": 2_000,
    "grpc.http2.max_pings_without_data": 0,
}

log = logs.get()


class EtcdUnavailable(Unavailable):
    """etcd did not answer, or refused. A write may have been done all the same."""

    reason = "ETCD_UNAVAILABLE"
    message = "Etcd is not reachable; try again."


@dataclass(frozen=True, slots=True)
class Entry:
    value: bytes
    revision: int
    """Of its last change (mod_revision)."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All keys with a prefix, as of one revision."""

    revision: int
    entries: Mapping[str, Entry]


@dataclass(frozen=True, slots=True)
class Change:
    """One key was put, or deleted: then the value is None."""

    key: str
    value: bytes | None
    revision: int


class Etcd:
    """A connection that heals by itself. `endpoints`: `host:port`, or several `ip:port` separated by commas."""

    def __init__(self, endpoints: str) -> None:
        target = endpoints if "," not in endpoints else f"ipv4:{endpoints.replace(' ', '')}"
        host, _, port = target.rpartition(":")
        self._client = aetcd.Client(host, int(port), timeout=REQUEST_S, options=_CHANNEL_OPTIONS)

    async def get(self, key: str) -> Entry | None:
        """Every method raises EtcdUnavailable, at the latest after REQUEST_S."""
        found = await _asked(self._client.get(key.encode()))
        return Entry(found.value, found.mod_revision) if found else None

    async def get_prefix(self, prefix: str) -> Snapshot:
        found = await _asked(self._client.get_prefix(prefix.encode()))
        entries = {entry.key.decode(): Entry(entry.value, entry.mod_revision) for entry in found}
        return Snapshot(found.header.revision, entries)

    async def put(self, key: str, value: bytes, *, lease: int | None = None) -> int:
        """The revision of the change."""
        put = await _asked(self._client.put(key.encode(), value, lease=lease))
        return int(put.header.revision)

    async def delete(self, key: str) -> None:
        await _asked(self._client.delete(key.encode()))

    async def commit(
        self,
        puts: Mapping[str, bytes],
        deletes: Sequence[str] = (),
        *,
        unchanged: Mapping[str, int],
        lease: int | None = None,
    ) -> int:
        """All of it in one transaction if each key in `unchanged` still has that revision (0: it is absent), else none.

        The revision of the change; 0 when it was not done.
        """
        make = self._client.transactions
        done, answers = await _asked(
            self._client.transaction(
                compare=[make.mod(key.encode()) == revision for key, revision in unchanged.items()],
                success=[make.put(key.encode(), value, lease=lease) for key, value in puts.items()]
                + [make.delete(key.encode()) for key in deletes],
                failure=[],
            )
        )
        return max(getattr(each, each.WhichOneof("response")).header.revision for each in answers) if done else 0

    async def grant(self, ttl_s: int) -> int:
        """A new lease; etcd grants no less than 2 s."""
        lease = await _asked(self._client.lease(ttl_s))
        return int(lease.id)

    async def refresh(self, lease: int) -> bool:
        """False when the lease has ended: with it went its keys."""
        refreshed = await _asked(self._client.refresh_lease(lease))
        return bool(refreshed.TTL > 0)

    async def revoke(self, lease: int) -> None:
        """Ends the lease and deletes its keys, in one revision."""
        await _asked(self._client.revoke_lease(lease))

    async def watch_prefix(self, prefix: str) -> AsyncGenerator[Snapshot | Change]:
        """What is there, then each change once and in order, for ever.

        After each break (etcd restarted, history compacted, etcd wiped) a Snapshot comes again: it replaces all that
        was told before, and what it lacks is gone. Use with `contextlib.aclosing`.
        """
        while True:
            snapshot: Snapshot = await patiently("watching")(self.get_prefix, prefix)
            yield snapshot
            try:
                async with aclosing(self._changes(prefix, snapshot.revision + 1)) as changes:
                    async for change in changes:
                        yield change
            except EtcdUnavailable as broken:
                log.warning("the watch of etcd broke", prefix=prefix, error=describe(broken))
            # Not all at once: everybody's watch broke at the same moment.
            await asyncio.sleep(random.uniform(0.05, 0.25))  # noqa: S311

    async def _changes(self, prefix: str, start: int) -> AsyncGenerator[Change]:
        """Ends, or raises EtcdUnavailable, when they have to be listed anew."""
        begin, end = prefix.encode(), aetcd.utils.prefix_range_end(prefix.encode())
        create = aetcd.rpc.WatchCreateRequest(key=begin, range_end=end, start_revision=start)
        await self._client.connect()
        call = aetcd.rpc.WatchStub(self._client.channel).Watch()
        try:
            await call.write(aetcd.rpc.WatchRequest(create_request=create))
            while (response := await call.read()) is not grpc.aio.EOF:
                if response.canceled or response.header.revision < start - 1:
                    log.warning("etcd was compacted or wiped", prefix=prefix, reason=response.cancel_reason)
                    return
                for event in response.events:
                    key, revision = event.kv.key.decode(), event.kv.mod_revision
                    yield Change(key, event.kv.value if event.type == event.PUT else None, revision)
        except grpc.aio.AioRpcError as error:
            raise EtcdUnavailable from error
        finally:
            call.cancel()

    async def close(self) -> None:
        await self._client.close()


def patiently(doing: str) -> AsyncRetrying:
    """Tries for ever while etcd is away, with pauses that grow to 1 s, each cut by chance: replicas do not march."""

    def say(state: RetryCallState) -> None:
        failed = state.outcome.exception() if state.outcome else None
        if failed and state.attempt_number % QUIET == 1:
            log.warning("waiting for etcd", doing=doing, attempts=state.attempt_number, error=describe(failed))

    return AsyncRetrying(
        retry=retry_if_exception_type(EtcdUnavailable),
        wait=wait_random_exponential(multiplier=0.1, max=1.0, min=0.05),
        before_sleep=say,
    )


async def _asked(request: Awaitable[Any]) -> Any:  # noqa: ANN401  aetcd has no types
    try:
        return await request
    except (aetcd.ClientError, TimeoutError) as error:
        raise EtcdUnavailable from error
