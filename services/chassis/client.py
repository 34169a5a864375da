"""Channels to other services of the mesh: by name, through Envoy, with our own token and what is left of the time."""

from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from grpc.aio import AioRpcError, ClientCallDetails, Metadata

from services.chassis import errors, tracing
from services.chassis.auth import AUTHORIZATION, IdentityUnavailable, Rule, ServiceToken
from services.chassis.interceptors import time_left

_OPTIONS = (
    # gRPC's own back-off grows to two minutes: far longer than Envoy is ever away.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),
)


def channel(
    mesh_address: str, service: str, token: ServiceToken, domain: str, default_s: Callable[[], float]
) -> grpc.aio.Channel:
    """To whatever instances of `service` there are. Calls raise AioRpcError, also when we cannot get a token."""
    return grpc.aio.insecure_channel(
        mesh_address,
        options=[*_OPTIONS, ("grpc.default_authority", service)],
        interceptors=[Outgoing(token, domain, default_s), *tracing.tracing.client_interceptors()],
    )


class Outgoing(grpc.aio.UnaryUnaryClientInterceptor, grpc.aio.UnaryStreamClientInterceptor):
    """Gives every call what it has to carry.

    A unary call ends with the call that we serve, or after the default deadline where there is none; a stream has the
    deadline that it is given.
    """

    def __init__(self, token: ServiceToken, domain: str, default_s: Callable[[], float]) -> None:
        self._token, self._domain, self._default_s = token, domain, default_s
        self._public: dict[str | bytes, bool] = {}

    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: ClientCallDetails, request: object
    ) -> Any:  # noqa: ANN401
        left = time_left()
        left = self._default_s() if left is None else left
        timeout = client_call_details.timeout
        timeout = left if timeout is None else min(timeout, left)
        return await continuation(await self._carrying(client_call_details, timeout), request)

    async def intercept_unary_stream(
        self, continuation: Callable[..., Any], client_call_details: ClientCallDetails, request: object
    ) -> Any:  # noqa: ANN401
        details = await self._carrying(client_call_details, client_call_details.timeout)
        return await continuation(details, request)

    async def _carrying(self, details: ClientCallDetails, timeout: float | None) -> ClientCallDetails:
        metadata = Metadata(*(details.metadata or ()))
        if not self._is_public(details.method):
            metadata.add(AUTHORIZATION, await self._own_token())
        # OpenTelemetry adds its own where it makes a span for this call.
        if not tracing.recorded() and (traceparent := tracing.current_traceparent()):
            metadata.add(tracing.HEADER, traceparent)
        return ClientCallDetails(details.method, timeout, metadata, details.credentials, details.wait_for_ready)

    async def _own_token(self) -> str:
        try:
            return await self._token.header()
        except IdentityUnavailable as refusal:
            status = errors.to_status(refusal, self._domain)
            trailing = Metadata((errors.DETAILS_KEY, status.SerializeToString()))
            raise AioRpcError(errors.code_of(status), Metadata(), trailing, status.message) from refusal

    def _is_public(self, method: Any) -> bool:  # noqa: ANN401  typed as text, bytes in truth
        if (public := self._public.get(method)) is None:
            name = (method.decode() if isinstance(method, bytes) else method).removeprefix("/").replace("/", ".")
            public = self._public[method] = Rule.of(descriptor_pool.Default().FindMethodByName(name)).public
        return public
