"""Connections to the OTLP endpoint: by `https://` encrypted, else not; never through a proxy, and only when needed."""

from collections.abc import Iterable

import grpc

from services.chassis.settings import target_of

type Options = Iterable[tuple[str, int]]

_NO_PROXY = ("grpc.enable_http_proxy", 0)


def channel(endpoint: str, options: Options) -> grpc.Channel:
    """For threads."""
    target, encrypted = target_of(endpoint)
    options = [*options, _NO_PROXY]
    if encrypted:
        return grpc.secure_channel(target, grpc.ssl_channel_credentials(), options)
    return grpc.insecure_channel(target, options)


def aio_channel(endpoint: str, options: Options) -> grpc.aio.Channel:
    """For the event loop."""
    target, encrypted = target_of(endpoint)
    options = [*options, _NO_PROXY]
    if encrypted:
        return grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(), options)
    return grpc.aio.insecure_channel(target, options)
