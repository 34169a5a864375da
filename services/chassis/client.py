"""Channels to other services of the mesh: by name, through Envoy, with our own token and what is left of the time."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Self, cast

import grpc
from google.protobuf import descriptor_pool
from grpc import StatusCode
from grpc.aio import AioRpcError, Metadata
from opentelemetry.trace import Span
from opentelemetry.util.types import AttributeValue

from services.chassis import errors, rpc_metrics
from services.chassis.auth import AUTHORIZATION, IdentityUnavailable, Rule, ServiceToken
from services.chassis.interceptors import time_left
from services.chassis.tracing import HEADER, begun, current_traceparent, ended, rpc_attributes, traceparent_of

_OPTIONS = (
    # gRPC's own back-off grows to two minutes: far longer than Envoy is ever away.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # And its own pause before it asks for a name again is 30 s: an Envoy that died would be asked for as long.
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
    ("grpc.enable_http_proxy", 0),
)


def channel(
    mesh_address: str, service: str, token: ServiceToken, domain: str, default_s: Callable[[], float]
) -> grpc.aio.Channel:
    """To whatever instances of `service` there are. Calls raise AioRpcError, also when we cannot get a token."""
    channel = grpc.aio.insecure_channel(mesh_address, options=[*_OPTIONS, ("grpc.default_authority", service)])
    return cast("grpc.aio.Channel", _Outgoing(channel, service, token, domain, default_s))


class _Outgoing:
    """Stands in for a channel when generated code makes its stubs, and gives every call what it has to carry.

    A unary call ends with the call that we serve, or after the default deadline where there is none; a stream has the
    deadline that it is given. A stub's method has to be awaited or iterated, nothing else; streams of requests are not
    offered. (Interceptors of grpc.aio make a task more for each call.)
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        service: str,
        token: ServiceToken,
        domain: str,
        default_s: Callable[[], float],
    ) -> None:
        self._channel, self._service, self._token, self._domain, self._default_s = (
            channel, service, token, domain, default_s,
        )  # fmt: skip

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._channel.close()

    def unary_unary(self, method: str, *args: Any, **options: Any) -> Callable[..., Awaitable[Any]]:
        invoke = self._channel.unary_unary(method, *args, **options)
        public, attributes = _is_public(method), self._attributes(method)

        async def call(request: Any, *, timeout: float | None = None) -> Any:  # noqa: ANN401  as gRPC has it
            left = time_left()
            left = self._default_s() if left is None else left
            asked, code, reason, started = begun(method[1:], attributes), StatusCode.CANCELLED, "", time.monotonic()
            try:
                answer = await invoke(
                    request,
                    timeout=left if timeout is None else min(timeout, left),
                    metadata=await self._carried(asked, public),
                )
                code = StatusCode.OK
            except AioRpcError as error:
                code, reason = error.code(), _reason(error)
                raise
            finally:
                rpc_metrics.asked(self._service, method, code, reason, time.monotonic() - started)
                if asked:
                    ended(asked, code, reason, error=code is not StatusCode.OK)
            return answer

        return call

    def unary_stream(self, method: str, *args: Any, **options: Any) -> Callable[..., AsyncIterator[Any]]:
        invoke = self._channel.unary_stream(method, *args, **options)
        public, attributes = _is_public(method), self._attributes(method)

        async def call(request: Any, *, timeout: float | None = None) -> AsyncIterator[Any]:  # noqa: ANN401
            asked, code, reason, started = begun(method[1:], attributes), StatusCode.CANCELLED, "", time.monotonic()
            try:
                metadata = await self._carried(asked, public)
                async for answer in invoke(request, timeout=timeout, metadata=metadata):
                    yield answer
                code = StatusCode.OK
            except AioRpcError as error:
                code, reason = error.code(), _reason(error)
                raise
            finally:
                rpc_metrics.asked(self._service, method, code, reason, time.monotonic() - started)
                if asked:
                    ended(asked, code, reason, error=code is not StatusCode.OK)

        return call

    async def _carried(self, asked: Span | None, public: bool) -> Metadata:
        metadata = Metadata()
        if not public:
            metadata.add(AUTHORIZATION, await self._own_token())
        if traceparent := traceparent_of(asked) if asked else current_traceparent():
            metadata.add(HEADER, traceparent)
        return metadata

    async def _own_token(self) -> str:
        try:
            return await self._token.header()
        except IdentityUnavailable as refusal:
            status = errors.to_status(refusal, self._domain)
            trailing = Metadata((errors.DETAILS_KEY, status.SerializeToString()))
            raise AioRpcError(errors.code_of(status), Metadata(), trailing, status.message) from refusal

    def _attributes(self, method: str) -> dict[str, AttributeValue]:
        return {**rpc_attributes(method), "server.address": self._service}


def _reason(error: AioRpcError) -> str:
    refusal = errors.refusal_of(error)
    return refusal.reason if refusal else ""


def _is_public(method: str) -> bool:
    name = method.removeprefix("/").replace("/", ".")
    return Rule.of(descriptor_pool.Default().FindMethodByName(name)).public
