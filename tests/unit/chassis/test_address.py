"""Where others reach a server, when names resolve late."""

import socket
from collections.abc import Callable
from typing import Any

import pytest

from services.chassis import address as module
from services.chassis.address import address
from services.chassis.settings import Settings

EVERYWHERE = {"SHOPMESH_LISTEN": "0.0.0.0:0", "SHOPMESH_MESH": "envoy:10000", "SHOPMESH_ETCD": "etcd.invalid:2379"}


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What a resolver knows."""
    known = dict[str, str]()
    look: Callable[..., Any] = socket.getaddrinfo

    def resolve(host: str, port: int, *args: Any, **how: Any) -> Any:
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return look(known[host], port, *args, **how)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return known


async def test_the_address_that_leads_to_the_mesh_is_found_when_its_name_resolves(
    names: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = list[int]()

    def pause_s(failures: int) -> float:
        waits.append(failures)
        if failures == 2:
            names["envoy"] = "127.0.0.1"
        return 0

    monkeypatch.setattr(module, "pause_s", pause_s)

    assert await address(Settings.read("order", EVERYWHERE), 5000) == "127.0.0.1:5000"
    assert waits == [0, 1, 2]


async def test_an_address_that_is_told_needs_no_name(names: dict[str, str]) -> None:
    assert await address(Settings.read("order", {**EVERYWHERE, "SHOPMESH_ADVERTISE": "10.1.2.3"}), 5000) == (
        "10.1.2.3:5000"
    )
