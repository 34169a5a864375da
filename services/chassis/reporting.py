"""Telling what was counted: sent to the OTLP endpoint, and shown on a page of the process, each only where wanted."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from grpc.aio import AioRpcError

from services.chassis import collector, logs, vitals
from services.chassis.metrics import declared
from services.chassis.patience import Seldom
from services.chassis.settings import LOOPBACK, CannotStart, Settings, host_and_port, joined

if TYPE_CHECKING:
    from opentelemetry.proto.metrics.v1.metrics_pb2 import ResourceMetrics

EVERY_S = 5.0
ANSWER_S = 2.0
LAST_WORD_S = 0.5
"""A process that ends does not wait for a collector that is away."""
_OPTIONS = (
    # What was not told now is told in five seconds: there is nothing to repeat, and to come back late is no use.
    ("grpc.enable_retries", 0),
    ("grpc.max_reconnect_backoff_ms", 5000),
)

log = logs.get()


async def report(settings: Settings) -> None:
    """Never ends, but returns when nobody wants to know. Raises CannotStart when SHOPMESH_METRICS cannot be bound."""
    if not settings.reports:
        return
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(vitals.watch_the_loop())
        if settings.otlp_endpoint:
            tasks.create_task(push(settings))
        if settings.metrics:
            tasks.create_task(show(settings.metrics, lambda: page(settings)))


def counted(settings: Settings) -> "ResourceMetrics":
    """All that this process has counted so far."""
    from services.chassis.otlp_metrics import encode

    return encode(declared, settings, declared.started_ns, time.time_ns())


def page(settings: Settings) -> str:
    """The same as Prometheus reads it; whose it is, Prometheus says itself."""
    from services.chassis import prometheus

    return prometheus.text([counted(settings)], told_apart=False)


async def push(settings: Settings) -> None:
    """Sends everything every 5 s for ever. A collector that is away costs nothing but a line a minute.

    Each time all is sent as it is since the start, so nothing is lost by what could not be sent, and nothing is kept.
    """
    from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as pb
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import MetricsServiceStub

    channel = collector.aio_channel(settings.otlp_endpoint, _OPTIONS)
    export: Callable[..., Awaitable[Any]] = MetricsServiceStub(channel).Export  # type: ignore[no-untyped-call]  # published without
    seldom = Seldom()

    async def send(timeout_s: float) -> None:
        try:
            await export(pb.ExportMetricsServiceRequest(resource_metrics=[counted(settings)]), timeout=timeout_s)
        except AioRpcError as error:
            if seldom.may():
                log.warning("nobody takes the metrics", endpoint=settings.otlp_endpoint, code=error.code().name)

    try:
        while True:
            await send(ANSWER_S)
            await asyncio.sleep(EVERY_S)
    finally:
        with suppress(asyncio.CancelledError):
            await send(LAST_WORD_S)
        await channel.close()


async def show(address: str, text: Callable[[], str]) -> None:
    """Serves the page `/metrics` at `host:port`, for ever. Raises CannotStart where it cannot be bound."""
    # Its server is not used: it takes the signals of the process, and wakes up ten times a second.
    from uvicorn import Config
    from uvicorn.server import ServerState

    host, port = host_and_port("SHOPMESH_METRICS", address)
    config = Config(_application(host, text), log_config=None, access_log=False, lifespan="off")
    config.load()
    state = ServerState()
    try:
        server = await asyncio.get_running_loop().create_server(
            lambda: config.http_protocol_class(config=config, server_state=state, app_state={}),  # type: ignore[call-arg]  # as uvicorn's server does
            host,
            port,
        )
    except OSError as error:
        raise CannotStart(f"SHOPMESH_METRICS={address} cannot be bound: {os.strerror(error.errno or 0)}") from None
    log.info("metrics are shown", page=f"http://{joined(host, server.sockets[0].getsockname()[1])}/metrics")
    try:
        await asyncio.Event().wait()
    finally:
        server.close()


def _application(host: str, text: Callable[[], str]) -> Any:  # noqa: ANN401
    """Bound to this machine, it answers to names of this machine only: a page of another site shall not read it."""
    from services.chassis.prometheus import CONTENT_TYPE

    async def answer(scope: Any, _: object, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:  # noqa: ANN401
        asked = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
        status, kind, body = 404, "text/plain", "The metrics of this process are at /metrics.\n"
        if host in LOOPBACK and urlsplit(f"//{asked}").hostname not in LOOPBACK:
            status, body = 421, "These metrics are for names of this machine only.\n"
        elif scope["path"] == "/metrics" and scope["method"] in {"GET", "HEAD"}:
            status, kind, body = 200, CONTENT_TYPE, text()
        headers = [
            (b"content-type", kind.encode()), (b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"),
        ]  # fmt: skip
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body.encode()})

    return answer
