"""What every call of a server has around it: one async context manager, written once for all kinds of rpc.

gRPC has four kinds, each with a handler of its own shape; `Around` is written once.
"""

import asyncio
import inspect
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import status_pb2
from grpc import StatusCode
from grpc.aio import AbortError, InternalError, ServicerContext

from services.chassis import errors, logs, rpc_metrics, tracing
from services.chassis.messages import violations
from services.chassis.worker import finishing
from services.refusals import InvalidRequest, Refusal, Unavailable

type Context = ServicerContext[Any, Any]
type Surroundings = Callable[[Call], AbstractAsyncContextManager[None]]
type Admission = Callable[[Call], Awaitable[None]]
"""Raises a Refusal for callers who may not."""

log = logs.get()

STREAM_S = 15 * 60.0
"""How long a stream lasts: then it goes on elsewhere, so that no instance keeps what once came to it."""
_CLOCKS_S = 0.05
"""Timers and the clock that tokens end by are not the same."""

_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


def time_left() -> float | None:
    """Seconds until the deadline of the call that we serve; None when there is none."""
    deadline = _deadline.get()
    return None if deadline is None else deadline - time.monotonic()


class StreamMoved(Unavailable):
    """Nothing is lost: who asks again says what they have."""

    reason = "STREAM_MOVED"
    message = "This stream goes on elsewhere; ask again, and say what you have."
    retry_after = timedelta(0)


@dataclass(slots=True)
class Call:
    """One rpc in flight, of whichever kind."""

    method: str
    """`/package.Service/Method`."""
    context: Context
    streaming: bool
    """In at least one direction."""
    metadata: dict[str, str | bytes]
    caller: str | None = None
    """Subject of the token, once it is verified."""
    expires: float = math.inf
    """When the token ends, in seconds since 1970."""
    started: float = field(default_factory=time.monotonic)
    code: StatusCode = StatusCode.OK
    reason: str = ""

    def time_remaining(self) -> float | None:
        """Seconds that the caller gave it, None without a deadline."""
        return self.context.time_remaining()

    async def refuse(self, status: status_pb2.Status) -> None:
        """Answers with this status. Afterwards the handler only has to return."""
        self.code, self.reason = errors.code_of(status), errors.reason_of(status)
        # gRPC has sent the status and ends the call when the handler returns.
        with suppress(AbortError):
            details = (errors.DETAILS_KEY, status.SerializeToString())
            await self.context.abort(self.code, status.message, (details,))


class Around:
    """Puts its surroundings around the calls of a server.

    Nothing of a caller who is not admitted is read; messages are checked against their protovalidate options. Handlers
    of streaming rpcs are async generators.
    """

    def __init__(self, around: Surroundings, admit: Admission) -> None:
        self._around, self._admit = around, admit
        self.stream_s = STREAM_S
        self._streams: set[asyncio.Timeout] = set()
        self._moving = False
        self.last_call = 0.0
        """When one came, by the monotonic clock."""

    def end_streams(self) -> None:
        """Has all streams go on elsewhere, also those that still come: else they would last until they are cut."""
        self._moving = True
        for limit in self._streams:
            if not limit.expired():
                limit.reschedule(0)

    def wrap(self, method: str, handler: Any) -> "grpc.RpcMethodHandler[Any, Any]":  # noqa: ANN401
        """What serves `/package.Service/Method` instead of its handler: gRPC would ask an interceptor at each call."""
        inner = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        if handler.response_streaming and not inspect.isasyncgenfunction(inner):
            raise TypeError(f"{method} must be an async generator")
        parse = _parser(handler.request_deserializer)
        render = handler.response_serializer or _as_it_is
        streaming = handler.request_streaming or handler.response_streaming

        def begun(context: Context) -> Call:
            call = Call(method, context, streaming, _metadata(context))
            self.last_call = call.started
            return call

        async def one(received: Any, context: Context) -> Any:  # noqa: ANN401
            call = begun(context)
            async with self._around(call):
                return render(await inner(await asked(call, received), context))

        # Writes by itself: were it a generator, gRPC would write, and nothing here could end a call whose caller does
        # not read.
        async def many(received: Any, context: Context) -> None:  # noqa: ANN401
            call = begun(context)
            async with self._around(call):
                request = await asked(call, received)
                async with self._lasting(call), aclosing(inner(request, context)) as answers:
                    first = True
                    async for message in answers:
                        await _write(context, render(message), first=first)
                        first = False

        async def asked(call: Call, received: Any) -> Any:  # noqa: ANN401
            """What the handler takes, of a caller who may: one request, or an iterator of requests."""
            await self._admit(call)
            return _each(received, parse) if handler.request_streaming else parse(await _one_of(call.context))

        # Streams of requests also where there is one: a call that ends without any, grpc.aio would never answer. Its
        # caller would wait, and to Envoy the instance would look dead.
        make: Any = grpc.stream_unary_rpc_method_handler
        if handler.response_streaming:
            make = grpc.stream_stream_rpc_method_handler
        wrapped: grpc.RpcMethodHandler[Any, Any] = make(many if handler.response_streaming else one)
        return wrapped

    @asynccontextmanager
    async def _lasting(self, call: Call) -> AsyncIterator[None]:
        """Ends a stream with its token, and with StreamMoved after its time, or when the process is to end."""
        if self._moving:
            raise StreamMoved
        limit = asyncio.timeout(min(self.stream_s, call.expires - time.time() + _CLOCKS_S))
        try:
            async with limit:
                self._streams.add(limit)
                try:
                    yield
                finally:
                    self._streams.discard(limit)
        except TimeoutError:
            if not limit.expired():
                raise
            await self._admit(call)
            raise StreamMoved from None


def surroundings(domain: str, default_s: Callable[[], float]) -> Surroundings:
    """What stands around a call, from outside in: its trace, its line in the log, its refusals, its deadline.

    A refusal says why; anything else that is raised inside is logged and tells the caller nothing. `default_s` is the
    deadline of unary calls that come without one.
    """

    @asynccontextmanager
    async def around(call: Call) -> AsyncIterator[None]:
        traceparent = call.metadata.get(tracing.HEADER)
        span = tracing.serving(call.method, traceparent if isinstance(traceparent, str) else None)
        try:
            limit = _limit(call, default_s)
            try:
                async with limit:
                    yield
            except Refusal as refusal:
                await call.refuse(errors.to_status(refusal, domain))
            except Exception as error:  # the edge of the process: nobody else would answer
                if isinstance(error, TimeoutError) and limit.expired():
                    await call.refuse(errors.deadline_exceeded(domain))
                else:
                    log.exception("unexpected error", method=call.method)
                    await call.refuse(errors.internal(domain, tracing.trace_id()))
        except asyncio.CancelledError:
            left = time_left()
            call.code = StatusCode.CANCELLED if left is None or left > 0 else StatusCode.DEADLINE_EXCEEDED
            raise
        finally:
            _tell(call)
            if span:
                tracing.ended(span, call.code, call.reason, error=rpc_metrics.is_fault(call.code, call.reason))

    return around


def _tell(call: Call) -> None:
    """One line per call, and its count."""
    seconds = time.monotonic() - call.started
    rpc_metrics.served(call.method, call.code, call.reason, seconds)
    log.info(
        "call",
        method=call.method,
        code=call.code.name,
        **({"reason": call.reason} if call.reason else {}),
        ms=round(seconds * 1000, 3),
        caller=call.caller,
    )


def _limit(call: Call, default_s: Callable[[], float]) -> asyncio.Timeout:
    """Ends a call at its deadline, a unary one at the default when it came with none. Streams may have none."""
    left = call.time_remaining()
    if left is None and not call.streaming:
        left = default_s()
    if left is not None:
        _deadline.set(call.started + left)
    return asyncio.timeout(left)


def _parser(parse: Callable[[bytes], Any] | None) -> Callable[[Any], Any]:
    if parse is None:
        return _as_it_is

    def checked(received: bytes) -> Message:
        try:
            message: Message = parse(received)
        except DecodeError:
            raise InvalidRequest(("", "not a message of this rpc")) from None
        if wrong := violations(message):
            raise InvalidRequest(*wrong)
        return message

    return checked


def _each(received: AsyncIterator[bytes], parse: Callable[[bytes], Any]) -> AsyncIterator[Any]:
    return (parse(message) async for message in received)


async def _write(context: Context, message: Any, *, first: bool) -> None:  # noqa: ANN401
    """Waits while the caller does not read."""
    try:
        if first:
            # Cancelled in the middle of this, gRPC would send headers again with the status, and the call never end.
            await finishing(context.send_initial_metadata(()))
        await context.write(message)
    except InternalError:  # The caller has gone, and gRPC has not cancelled the call yet.
        raise asyncio.CancelledError from None


async def _one_of(context: Context) -> bytes:
    """The one message; more are not read."""
    message: bytes | object = await context.read()
    if not isinstance(message, bytes):
        raise InvalidRequest(("", "there is no message"))
    return message


def _metadata(context: Context) -> dict[str, str | bytes]:
    """Of several values under one key the first counts: what a proxy appends cannot replace what it checked."""
    return dict(reversed(tuple(context.invocation_metadata() or ())))


def _as_it_is(message: Any) -> Any:  # noqa: ANN401
    return message
