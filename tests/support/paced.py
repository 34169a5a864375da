"""Channels and clients that call at a pace, for a shop in which others call too."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, override

import grpc
import httpx

CALLS_PER_S = 40.0
"""The seeds of the limits allow a person 50 to each service, an address 200."""


class Pace:
    """Awaited before each call, it lets through so many a second."""

    def __init__(self, calls_per_s: float) -> None:
        self._gap_s = 1 / calls_per_s
        self._next = 0.0

    async def __call__(self, *_: object) -> None:
        now = time.monotonic()
        at = max(now, self._next)
        self._next = at + self._gap_s
        await asyncio.sleep(at - now)


def paced_channel(target: str, pace: Pace) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(target, interceptors=_interceptors(pace))


def paced_client(target: str, pace: Pace) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://{target}", trust_env=False, timeout=60, event_hooks={"request": [pace]})


class _Unary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, pace: Pace) -> None:
        self._pace = pace

    @override
    async def intercept_unary_unary(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        await self._pace()
        return await continuation(details, request)


class _Stream(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, pace: Pace) -> None:
        self._pace = pace

    @override
    async def intercept_unary_stream(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        await self._pace()
        return await continuation(details, request)


def _interceptors(pace: Pace) -> Sequence[grpc.aio.ClientInterceptor]:
    # grpc.aio takes an object for one kind of calls only.
    return [_Unary(pace), _Stream(pace)]
