"""One shape for every interceptor: an async context manager around a call, written once for all kinds of rpc.

gRPC has four kinds and would like each interceptor written four times. `Around` does that once; what each layer does
is told by its name.
"""

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import status_pb2
from grpc import StatusCode
from grpc.aio import AbortError, ServicerContext

from services.chassis import errors, logs, tracing
from services.chassis.messages import violations
from services.refusals import InvalidRequest, Refusal

type Context = ServicerContext[Any, Any]
type Layer = Callable[[Call], AbstractAsyncContextManager[None]]

OWN_METHODS = "/grpc."
"""Health and reflection: public, and asked too often to be told about."""

_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


def time_left() -> float | None:
    """Seconds until the deadline of the call that we serve; None when there is none."""
    deadline = _deadline.get()
    return None if deadline is None else deadline - time.monotonic()


class DeadlinePassed(Exception):
    """The handler took longer than its call may."""


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
    started: float = field(default_factory=time.monotonic)
    code: StatusCode = StatusCode.OK
    reason: str = ""

    def time_remaining(self) -> float | None:
        """Seconds that the caller gave it, None without a deadline."""
        return self.context.time_remaining()

    async def refuse(self, status: status_pb2.Status) -> None:
        """Answers with this status. Afterwards the handler only has to return."""
        self.code, self.reason = errors.code_of(status), errors.reason_of(status)
        # gRPC has sent the status and ends the call when the handler returns; who traces sees no exception.
        with suppress(AbortError):
            details = (errors.DETAILS_KEY, status.SerializeToString())
            await self.context.abort(self.code, status.message, (details,))


class Around(grpc.aio.ServerInterceptor):
    """Puts layers, outermost first, around every call of a server but for health and reflection.

    Messages are parsed inside the layers, so nothing of a caller who is not let in is read, and checked against their
    protovalidate options. Handlers of streaming rpcs are async generators.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = layers
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:  # noqa: ANN401
        method = handler_call_details.method
        if known := self._wrapped.get(method):
            return known
        handler = await continuation(handler_call_details)
        if handler is None or method.startswith(OWN_METHODS):
            return handler
        self._wrapped[method] = wrapped = self._wrap(method, handler)
        return wrapped

    def _wrap(self, method: str, handler: Any) -> "grpc.RpcMethodHandler[Any, Any]":  # noqa: ANN401
        inner = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        if handler.response_streaming and not inspect.isasyncgenfunction(inner):
            raise TypeError(f"{method} must be an async generator")
        parse = _parser(handler.request_deserializer)
        render = handler.response_serializer or _as_it_is
        streaming = handler.request_streaming or handler.response_streaming

        async def one(received: Any, context: Context) -> Any:  # noqa: ANN401
            async with AsyncExitStack() as stack:
                await self._enter(stack, Call(method, context, streaming, _metadata(context)))
                return render(await inner(await asked(received, context), context))

        async def many(received: Any, context: Context) -> AsyncIterator[Any]:  # noqa: ANN401
            async with AsyncExitStack() as stack:
                await self._enter(stack, Call(method, context, streaming, _metadata(context)))
                async with aclosing(inner(await asked(received, context), context)) as answers:
                    async for message in answers:
                        yield render(message)

        async def asked(received: Any, context: Context) -> Any:  # noqa: ANN401
            """What the handler takes: one request, or an iterator of requests."""
            return _each(received, parse) if handler.request_streaming else parse(await _one_of(context))

        # Streams of requests also where there is one: a call that ends without any, grpc.aio would never answer. Its
        # caller would wait, and to Envoy the instance would look dead.
        make: Any = grpc.stream_unary_rpc_method_handler
        if handler.response_streaming:
            make = grpc.stream_stream_rpc_method_handler
        wrapped: grpc.RpcMethodHandler[Any, Any] = make(many if handler.response_streaming else one)
        return wrapped

    async def _enter(self, stack: AsyncExitStack, call: Call) -> None:
        for layer in self._layers:
            await stack.enter_async_context(layer(call))


@asynccontextmanager
async def traced(call: Call) -> AsyncIterator[None]:
    """Takes the caller's trace ids, or new ones."""
    traceparent = call.metadata.get(tracing.HEADER)
    tracing.adopt(traceparent if isinstance(traceparent, str) else None)
    yield


@asynccontextmanager
async def told(call: Call) -> AsyncIterator[None]:
    """One line per call."""
    try:
        yield
    except (asyncio.CancelledError, GeneratorExit):
        left = time_left()
        call.code = StatusCode.CANCELLED if left is None or left > 0 else StatusCode.DEADLINE_EXCEEDED
        raise
    finally:
        logs.get().info(
            "call",
            method=call.method,
            code=call.code.name,
            **({"reason": call.reason} if call.reason else {}),
            ms=round((time.monotonic() - call.started) * 1000, 3),
            caller=call.caller,
        )


def refused(domain: str) -> Layer:
    """Answers for what the handler raises. A refusal says why; anything else is logged and says nothing."""

    @asynccontextmanager
    async def layer(call: Call) -> AsyncIterator[None]:
        try:
            yield
        except Refusal as refusal:
            await call.refuse(errors.to_status(refusal, domain))
        except DeadlinePassed:
            await call.refuse(errors.deadline_exceeded(domain))
        except Exception:  # noqa: BLE001  the edge of the process: nobody else would answer
            logs.get().exception("unexpected error", method=call.method)
            await call.refuse(errors.internal(domain, tracing.trace_id()))

    return layer


def bounded(default_s: Callable[[], float]) -> Layer:
    """Ends a unary call at its deadline, which is the default one if it came with none. Streams may have none."""

    @asynccontextmanager
    async def layer(call: Call) -> AsyncIterator[None]:
        left = call.time_remaining()
        if left is None and not call.streaming:
            left = default_s()
        if left is None:
            yield
            return
        _deadline.set(call.started + left)
        limit = asyncio.timeout(left)
        try:
            async with limit:
                yield
        except TimeoutError:
            if limit.expired():
                raise DeadlinePassed from None
            raise

    return layer


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


async def _one_of(context: Context) -> bytes:
    """The one message; more are not read."""
    message: bytes | object = await context.read()
    if not isinstance(message, bytes):
        raise InvalidRequest(("", "there is no message"))
    return message


def _metadata(context: Context) -> dict[str, str | bytes]:
    """Of several values under one key the first counts: what a proxy appends cannot replace what it checked."""
    metadata: dict[str, str | bytes] = {}
    for key, value in context.invocation_metadata() or ():
        metadata.setdefault(key, value)
    return metadata


def _as_it_is(message: Any) -> Any:  # noqa: ANN401
    return message
