"""What `shopmesh mesh explain` makes of Envoy's configuration and the policy that asked for it."""

from typing import Any

import pytest

from services.cli.mesh.envoy_config import ways
from services.cli.mesh.explain import EDGE, Asked, Rpc, differences, figures, rpcs_of, told

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
    figures = told(Asked(SEED, document, 7), "order", RESERVE, way)

    assert {name: f"{figures[name]}  [{figures[name].by}]".removesuffix("  []") for name in expected} == expected


def test_faults_are_told() -> None:
    share = {"numerator": 250_000, "denominator": "MILLION"}
    fault = {"delay": {"fixed_delay": "2s", "percentage": share}, "abort": {"grpc_status": 14, "percentage": share}}
    way = route() | {"typed_per_filter_config": {"envoy.filters.http.fault": fault}}

    words = told(Asked(SEED, {}, 0), "order", RESERVE, way)

    assert str(words["faults"]) == "25 % delayed by 2s, 25 % answered with gRPC status 14"


def test_what_envoy_does_not_do_as_asked_stands_beside_what_it_does() -> None:
    asked = Asked(SEED, {"circuit_breaker": {"max_requests": 5}}, 7)

    shown = {name: (str(figure), figure.by) for name, figure in figures(dump(), asked, "inventory")}

    assert shown["calls under way, at most"] == ("1024 (asked for 5)", "etcd 7")
    assert "streams under way, at most" not in shown


def test_the_ways_of_an_rpc_are_those_of_the_listener_it_comes_by() -> None:
    other = route(path="/shop.inventory.v1.InventoryService/GetStock")
    preflight = route(exact(":method", "OPTIONS"))

    assert ways(dump(other, preflight, route()), "inventory", RESERVE.path) == [route()]
    assert ways(dump(other, route()), "*", RESERVE.path) == []


def test_the_contract_says_who_may_call_and_what_may_be_repeated() -> None:
    rpcs = {rpc.method: rpc for rpc in rpcs_of("inventory")}

    assert rpcs["ReserveStock"] == RESERVE
    open_to = {who: {name for name, rpc in rpcs.items() if rpc.is_open_to(who)} for who in (EDGE, "order", "product")}
    assert "ReserveStock" in open_to["order"] - open_to[EDGE] - open_to["product"]
    assert "AdjustStock" in open_to[EDGE] - open_to["order"]
    assert {"GetStock"} <= open_to[EDGE] & open_to["order"] & open_to["product"]


def weighted(**weights: int) -> dict[str, Any]:
    return {"clusters": [{"name": f"inventory@{version}", "weight": weight} for version, weight in weights.items()]}


CANARY = {
    "weights": [{"version": "old", "weight": 1}, {"version": "new", "weight": 3}],
    "matches": [{"version": "new", "header": {"name": "x-canary", "value": "yes"}}],
}
BOTH = [route(exact("x-canary", "yes"), cluster="inventory@new"), route(weighted_clusters=weighted(old=1, new=3))]
DELAY = {"fixed_delay": "0.250s", "percentage": {"numerator": 125_000, "denominator": "MILLION"}}
SLOW = route() | {"typed_per_filter_config": {"envoy.filters.http.fault": {"delay": DELAY}}}


@pytest.mark.parametrize(
    ("document", "routes", "differs"),
    [
        ({}, [route()], False),
        ({}, [], True),
        ({"canary": CANARY}, BOTH, False),
        ({"canary": CANARY}, [route()], True),
        ({"canary": CANARY}, BOTH[::-1], True),
        ({"canary": CANARY | {"matches": []}}, BOTH, True),
        ({"canary": {"weights": [{"version": "old"}]}}, [route()], False),
        ({"faults": [{"delay": "0.25s", "percent": 12.5}]}, [SLOW], False),
        ({"faults": [{"delay": "0.25s", "percent": 12}]}, [SLOW], True),
        ({"faults": [{"rpcs": ["GetStock"], "abort": "UNAVAILABLE"}]}, [route()], False),
        ({}, [SLOW], True),
        ({"rpcs": {"ReserveStock": {"mesh": 1}}}, [route()], True),
        ({"rpcs": {"ReserveStock": {"timeout": "2s"}}}, [route()], True),
        ({}, [route(max_stream_duration={"max_stream_duration": "2s"})], True),
    ],
)
def test_it_is_found_out_whether_envoy_does_as_it_was_asked_for_an_rpc(
    document: dict[str, Any], routes: list[dict[str, Any]], differs: bool
) -> None:
    found = [line for line in differences(dump(*routes), Asked(SEED, document, 7), "inventory") if "Reserve" in line]

    assert bool(found) == differs, found


def test_a_cluster_that_is_not_in_use_yet_and_a_limit_at_the_edge_are_differences() -> None:
    page = dump()
    page["configs"].append({"dynamic_warming_clusters": [{"cluster": {"name": "inventory@new/streams"}}]})
    asked = Asked(SEED, {"rate_limit": {"user": {"calls": 5, "per": "1s", "burst": 9}}}, 7)

    found = [*differences(page, asked, "inventory")]

    assert "inventory@new/streams: its instances are not checked yet" in found
    assert "calls of one user, at most: no limit (asked for 5 in 1 s, 9 at once)" in found


def test_what_was_asked_for_in_the_same_way_before_is_not_waited_for() -> None:
    older = {"retries": {"mesh": 1}, "circuit_breaker": {"max_requests": 1024}}
    page = dump(route(), max_requests=77)
    then, now = Asked(older, {}, 0), Asked(older, {"circuit_breaker": {"max_requests": 5}}, 7)

    assert [*differences(page, now, "inventory", then)] == ["calls under way, at most: 77 (asked for 5)"]
