"""What the control plane tells of Envoy's circuit breakers."""

import asyncio
import socket
from typing import Any

import httpx
import pytest

from services.chassis import reporting
from services.chassis.settings import Settings
from services.controlplane.breakers import (
    Breaker,
    Envoys,
    Line,
    combined,
    count,
    lines,
    reading,
    saying,
    with_instances,
)
from tests.support.scraped import Scraped

SHUT = Breaker()
BUSY = Breaker(frozenset({"too many requests"}))
WELL = Breaker(instances={"127.0.0.1:1": ""})
OUT = Breaker(frozenset({"no instance is well"}), instances={"127.0.0.1:1": "failing checks"})
FIRST = {"of": "order", "name": "order at 127.0.0.1:1", "address": "127.0.0.1:1"}


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        (SHUT, SHUT, []),
        (BUSY, BUSY, []),
        (SHUT, BUSY, [("breaker opened", {"of": "order", "why": "too many requests"})]),
        (BUSY, SHUT, [("breaker closed", {"of": "order", "why": "too many requests"})]),
        (
            WELL,
            OUT,
            [
                ("instance is out", {**FIRST, "why": "failing checks"}),
                ("breaker opened", {"of": "order", "why": "no instance is well"}),
            ],
        ),
        (
            OUT,
            WELL,
            [
                ("instance is back", {**FIRST, "why": "failing checks"}),
                ("breaker closed", {"of": "order", "why": "no instance is well"}),
            ],
        ),
        (SHUT, WELL, []),
        (WELL, SHUT, []),
    ],
)
def test_only_what_changes_is_told(before: Breaker, now: Breaker, told: list[Line]) -> None:
    assert list(lines({"order": before}, {"order": now}, "{} at {}".format)) == told


def test_what_changes_is_counted_and_what_is_is_shown() -> None:
    def numbers() -> tuple[dict[tuple[str, str], float], float, float]:
        seen = Scraped(reporting.page(Settings.read("controlplane", {})))
        at = {
            (each.labels["service"], each.labels["state"]): each.value for each in seen.of("shopmesh_envoy_instances")
        }
        open_now = seen.value("shopmesh_envoy_breaker_open", service="order")
        return at, open_now, seen.sum("shopmesh_envoy_ejections_total", service="order", state="ejected")

    out = Breaker(frozenset({"too many requests"}), instances={"127.0.0.1:1": "", "127.0.0.1:2": "ejected"})
    count({}, {"order": WELL})
    at, open_now, ejections = numbers()
    assert (at["order", "well"], at["order", "ejected"], open_now) == (1, 0, 0)

    count({"order": WELL}, {"order": out})
    count({"order": out}, {"order": out})

    assert numbers() == (
        {("order", "well"): 1, ("order", "ejected"): 1, ("order", "failing checks"): 0}, 1, ejections + 1,
    )  # fmt: skip


def test_what_was_out_before_we_looked_is_no_ejection_of_now() -> None:
    def ejections() -> float:
        seen = Scraped(reporting.page(Settings.read("controlplane", {})))
        return seen.sum("shopmesh_envoy_ejections_total", service="order")

    count({}, {"order": WELL})
    before = ejections()
    count({}, {"order": OUT})

    assert ejections() == before


def test_the_clusters_of_a_service_are_one_breaker() -> None:
    numbers = {
        "order.membership_total": 2,
        "order.membership_healthy": 0,
        "order@2.0.circuit_breakers.default.rq_open": 1,
        "order/streams.outlier_detection.ejections_active": 1,
        "order@3.0.membership_total": 1,
        "product.membership_total": 0,
        "jwks.circuit_breakers.default.rq_open": 1,
    }
    stats = {"stats": [{"name": f"cluster.{name}", "value": value} for name, value in numbers.items()]}
    read = reading(stats, frozenset({"order", "product"}))
    assert {service: breaker.open for service, breaker in read.items()} == {
        "order": {"no instance is well", "too many requests"},
        "product": frozenset(),
    }


def test_an_instance_is_out_where_one_of_the_clusters_has_it_out() -> None:
    def cluster(name: str, **health: object) -> dict[str, object]:
        at = {"socket_address": {"address": "127.0.0.1", "port_value": 1}}
        return {"name": name, "host_statuses": [{"address": at, "health_status": health}]}

    clusters = {
        "cluster_statuses": [
            cluster("order", eds_health_status="HEALTHY"),
            cluster("order/streams", failed_outlier_check=True, eds_health_status="HEALTHY"),
            cluster("product", eds_health_status="DRAINING"),
            cluster("inventory", failed_active_health_check=True, pending_active_hc=True),
            cluster("controlplane"),
        ]
    }
    seen = with_instances({"order": BUSY, "product": SHUT, "inventory": SHUT}, clusters)
    assert seen == {
        "order": Breaker(BUSY.open, instances={"127.0.0.1:1": "ejected"}),
        "product": SHUT,
        "inventory": SHUT,
    }


EJECTED = Breaker(instances={"127.0.0.1:1": "ejected", "127.0.0.1:2": ""})
ALL_WELL = Breaker(instances={"127.0.0.1:1": "", "127.0.0.1:2": ""})


@pytest.mark.parametrize(
    ("readings", "all_together"),
    [
        ([], {}),
        ([{"order": EJECTED}, {"order": ALL_WELL}], {"order": EJECTED}),
        ([{"order": ALL_WELL}, {"order": EJECTED}], {"order": EJECTED}),
        ([{"order": BUSY}, {"order": SHUT, "product": WELL}], {"order": BUSY, "product": WELL}),
        ([{"order": OUT}, {"order": BUSY}], {"order": Breaker(OUT.open | BUSY.open, instances=OUT.instances)}),
    ],
)
def test_of_several_envoys_the_one_that_turns_away_counts(
    readings: list[dict[str, Breaker]], all_together: dict[str, Breaker]
) -> None:
    assert combined(readings) == all_together


def test_a_line_names_the_envoys_that_say_so() -> None:
    readings = {"10.0.0.1:9901": {"order": EJECTED}, "10.0.0.2:9901": {"order": ALL_WELL}, "10.0.0.3:9901": {}}
    assert saying(readings, {"of": "order", "address": "127.0.0.1:1", "why": "ejected"}) == ["10.0.0.1:9901"]
    assert saying(readings, {"of": "order", "address": "127.0.0.1:2"}) == []
    assert saying({"a": {"order": BUSY}, "b": {"order": BUSY}}, {"of": "order", "why": "too many"}) == ["a", "b"]


async def test_envoys_that_come_and_go_are_found_by_their_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """An Envoy answers as it does; what stands in here is the network, and the resolver."""
    there, silent, asked = ["10.0.0.1"], {"10.0.0.3"}, list[str]()

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        if request.url.host in silent:
            raise httpx.ConnectError("no route to host")
        if request.url.path == "/clusters":
            return httpx.Response(200, json={"cluster_statuses": []})
        busy = {"name": "cluster.order.circuit_breakers.default.rq_open", "value": int(request.url.host == "10.0.0.2")}
        return httpx.Response(200, json={"stats": [busy]})

    async def resolve(host: str, port: int, **_: Any) -> Any:
        assert (host, port) == ("envoy", 9901)
        if not there:
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (at, port)) for at in there]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        envoys = Envoys("envoy:9901", frozenset({"order"}), http)

        async def read() -> dict[str, frozenset[str]]:
            return {at: of["order"].open for at, of in (await envoys.read()).items()}

        first = {"10.0.0.1:9901": frozenset[str]()}
        assert await read() == first
        there += ["10.0.0.2", "10.0.0.3"]
        both = {**first, "10.0.0.2:9901": frozenset({"too many requests"})}
        assert await read() == both
        there.clear()
        assert await read() == both, "a resolver that is away leaves them where they were"
        there.append("10.0.0.2")
        assert [*await read()] == ["10.0.0.2:9901"]
        silent.add("10.0.0.2")
        assert await read() == {}
    assert asked.count("10.0.0.3") == 2
