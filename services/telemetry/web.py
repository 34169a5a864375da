"""The pages: what the store keeps, and what it had to drop."""

import asyncio
from collections.abc import Collection
from datetime import UTC, datetime

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from services.telemetry.store import Store


def application(store: Store, hosts: Collection[str]) -> ASGIApp:
    """Answers to the host names `hosts` only."""

    async def overview(_: Request) -> PlainTextResponse:
        status = await asyncio.to_thread(store.status)
        since = (
            "" if status.oldest_ns is None else f" since {datetime.fromtimestamp(status.oldest_ns / 1e9, UTC):%c} UTC"
        )
        told = [f"{status.spans} spans and {status.lines} log lines{since}, {status.bytes / 1e6:.1f} MB"]
        for what, counted in (("spans", status.dropped_spans), ("lines", status.dropped_lines)):
            told += [f"{count} {what} dropped: {reason}" for reason, count in counted.items()]
        told += [f"{count} requests refused: {reason}" for reason, count in status.refused.items()]
        return PlainTextResponse("\n".join(told) + "\n")

    guard = Middleware(TrustedHostMiddleware, allowed_hosts=[*hosts], www_redirect=False)
    return Starlette(routes=[Route("/", overview)], middleware=[guard])
