"""What `shopmesh mesh explain` makes of Envoy's configuration and the policy that asked for it."""

from typing import Any

import pytest

from services.cli.explain import EDGE, Asked, Rpc, figures, rpcs_of, told, ways

SEED = {
    "retries": {"edge": 1, "mesh": 2, "per_try_timeout": "0.5s", "budget_percent": 20},
    "circuit_breaker": {"max_requests": 1024},
}
RESERVE = Rpc("/shop.inventory.v1.InventoryService/ReserveStock", True, False, "order", frozenset({"order"}))


def route(*headers: dict[str, Any], path: str = RESERVE.path, **action: object) -> dict[str, Any]:
    retry = {"retry_on": "reset,connect-failure,refused-stream", "num_retries": 2, "per_try_timeout": "0.500s"}
    return {
        "match": {"path": path, "headers": list(headers)},
        "route": {"cluster": "inventory", "retry_policy": retry, **action},
    }


def dump(*routes: dict[str, Any], max_requests: int = 1024) -> dict[str, Any]:
    hosts = [{"domains": ["inventory"], "routes": list(routes)}, {"domains": ["*"], "routes": []}]
    cluster = {"name": "inventory", "circuit_breakers": {"thresholds": [{"max_requests": max_requests}]}}
    return {
        "configs": [
            {"dynamic_active_clusters": [{"cluster": cluster}]},
            {"dynamic_route_configs": [{"route_config": {"name": "mesh", "virtual_hosts": hosts}}]},
        ]
    }


def exact(name: str, value: str) -> dict[str, Any]:
    return {"name": name, "string_match": {"exact": value}}


@pytest.mark.parametrize(
    ("document", "way", "expected"),
    [
        ({}, route(), {"tries": "3  [seed]", "one try": "0.500s  [seed]", "go to": "inventory", "calls": "all"}),
        ({"retries": {"mesh": 2}}, route(), {"tries": "3  [etcd 7]", "one try": "0.500s  [seed]"}),
        ({"rpcs": {"ReserveStock": {"mesh": 0}}}, route(), {"tries": "3 (asked for 1)  [etcd 7]"}),
        (
            {},
            route(max_stream_duration={"max_stream_duration": "0s"}),
            {"time limit": "the caller's deadline  [default]"},
        ),
        (
            {"rpcs": {"ReserveStock": {"timeout": "2s"}}},
            route(max_stream_duration={"max_stream_duration": "2s"}),
            {"time limit": "2s  [etcd 7]"},
        ),
        ({}, route(exact(":method", "POST"), exact("x-canary", "yes")), {"calls": "with x-canary: yes"}),
        (
            {},
            route(weighted_clusters={"clusters": [{"name": "a", "weight": 9}, {"name": "b", "weight": 1}]}),
            {"go to": "a 90 %, b 10 %"},
        ),
    ],
)
def test_a_way_is_told_with_the_origin_of_each_figure(
    document: dict[str, Any], way: dict[str, Any], expected: dict[str, str]
) -> None:
    words = told(Asked(SEED, document, 7), "order", RESERVE, way)

    assert {name: words[name] for name in expected} == expected


def test_faults_are_told() -> None:
    share = {"numerator": 250_000, "denominator": "MILLION"}
    fault = {"delay": {"fixed_delay": "2s", "percentage": share}, "abort": {"grpc_status": 14, "percentage": share}}
    way = route() | {"typed_per_filter_config": {"envoy.filters.http.fault": fault}}

    words = told(Asked(SEED, {}, 0), "order", RESERVE, way)

    assert words["faults"] == "25 % delayed by 2s, 25 % answered with gRPC status 14"


def test_what_envoy_does_not_do_as_asked_stands_beside_what_it_does() -> None:
    asked = Asked(SEED, {"circuit_breaker": {"max_requests": 5}}, 7)

    shown = {name: (value, source) for name, value, source in figures(dump(), asked, "inventory")}

    assert shown["calls under way, at most"] == ("1024 (asked for 5)", "etcd 7")
    assert "streams under way, at most" not in shown


def test_the_ways_of_an_rpc_are_those_of_the_listener_it_comes_by() -> None:
    other = route(path="/shop.inventory.v1.InventoryService/GetStock")
    preflight = route(exact(":method", "OPTIONS"))

    assert ways(dump(other, preflight, route()), "order", "inventory", RESERVE) == [route()]
    assert ways(dump(other, route()), EDGE, "inventory", RESERVE) == []


def test_the_contract_says_who_may_call_and_what_may_be_repeated() -> None:
    rpcs = {rpc.method: rpc for rpc in rpcs_of("inventory")}

    assert rpcs["ReserveStock"] == RESERVE
    open_to = {who: {name for name, rpc in rpcs.items() if rpc.is_open_to(who)} for who in (EDGE, "order", "product")}
    assert "ReserveStock" in open_to["order"] - open_to[EDGE] - open_to["product"]
    assert "AdjustStock" in open_to[EDGE] - open_to["order"]
    assert {"GetStock"} <= open_to[EDGE] & open_to["order"] & open_to["product"]
