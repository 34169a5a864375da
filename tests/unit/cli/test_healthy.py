import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from services.cli.containers import healthy


@asynccontextmanager
async def server(servicer: health_aio.HealthServicer | None) -> AsyncIterator[int]:
    running = grpc.aio.server()
    if servicer:
        health_pb2_grpc.add_HealthServicer_to_server(servicer, running)
    port = running.add_insecure_port("127.0.0.1:0")
    await running.start()
    yield port
    await running.stop(None)


async def said(port: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the check says of the order service at that port; nothing when it is well."""
    monkeypatch.setenv("SHOPMESH_LISTEN", f"0.0.0.0:{port}")
    monkeypatch.setattr("sys.argv", ["healthy", "order"])
    try:
        await asyncio.to_thread(healthy.main)
    except SystemExit as end:
        return str(end)
    return ""


async def test_a_process_that_takes_calls_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    async with server(health_aio.HealthServicer()) as port:
        assert await said(port, monkeypatch) == ""


async def test_a_process_that_drains_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    servicer = health_aio.HealthServicer()
    await servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    async with server(servicer) as port:
        assert await said(port, monkeypatch) == "order takes no calls"


async def test_a_server_without_health_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    async with server(None) as port:
        assert await said(port, monkeypatch) == "order takes no calls"


async def test_a_process_that_is_gone_or_hangs_is_named_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(healthy, "ANSWER_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert await said(port, monkeypatch) == "order does not answer: timed out"
    assert "order does not answer: " in await said(port, monkeypatch)


def test_who_does_not_say_where_it_listens_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHOPMESH_ADS_LISTEN", raising=False)
    monkeypatch.setattr("sys.argv", ["healthy", "controlplane"])

    with pytest.raises(SystemExit, match="SHOPMESH_ADS_LISTEN does not say at which port controlplane listens"):
        healthy.main()
