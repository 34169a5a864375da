"""The table of `shopmesh mesh`, from what etcd and Envoy say."""

from dataclasses import replace
from typing import Any

import pytest
from mesh.v1 import registry_pb2

from services.cli.mesh.envoy_admin import Envoy, Traffic, hosts, traffic
from services.cli.mesh.view import Reading, Service, view

READY, DRAINING = registry_pb2.Endpoint.STATE_READY, registry_pb2.Endpoint.STATE_DRAINING

type State = registry_pb2.Endpoint.State.ValueType


def host(port: int, calls: int = 0, failed: int = 0, **health: object) -> dict[str, Any]:
    """As Envoy has it: what is zero is left out."""
    stats = [
        {"name": "rq_total", "value": str(calls)},
        {"name": "rq_error", "value": str(failed)},
        {"name": "cx_total"},
    ]
    return {
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "stats": stats,
        "health_status": {"eds_health_status": "HEALTHY", **health},
    }


def page(**clusters: list[dict[str, Any]]) -> dict[str, Any]:
    return {"cluster_statuses": [{"name": name, "host_statuses": found} for name, found in clusters.items()]}


def envoy(orders: list[dict[str, Any]] | None = None, traffic: Traffic | None = None, **clusters: Any) -> Envoy:
    """One that has these hosts in the cluster order, and others."""
    return Envoy(hosts(page(order=orders or [], **clusters)), {"order": traffic or Traffic()})


def registered(port: int, state: State = READY, version: str = "1") -> registry_pb2.Endpoint:
    return registry_pb2.Endpoint(address=f"127.0.0.1:{port}", state=state, version=version)


def order(now: Reading, before: Reading | None = None) -> Service:
    (found,) = [service for service in view(before or now, now) if service.service == "order"]
    return found


SEEN = Reading(
    at=10.0,
    parts={"order": ("ready", "127.0.0.1:1")},
    endpoints={"order/order": registered(1)},
    envoys={"a": envoy([host(1)])},
)


@pytest.mark.parametrize(
    ("seen", "state", "health"),
    [
        (SEEN, "READY", "well"),
        (replace(SEEN, endpoints={"order/order": registered(1, DRAINING)}), "DRAINING", "well"),
        (replace(SEEN, envoys={"a": envoy([host(1, eds_health_status="DRAINING")])}), "READY", "draining"),
        (replace(SEEN, envoys={"a": envoy([host(1, failed_outlier_check=True)])}), "READY", "ejected"),
        (replace(SEEN, envoys={"a": envoy([host(1, failed_active_health_check=True)])}), "READY", "failing checks"),
        (replace(SEEN, envoys={"a": envoy([])}), "READY", "not in Envoy"),
        (replace(SEEN, endpoints={}), "held", "well"),
        (
            replace(SEEN, endpoints={}, envoys={"a": envoy()}, parts={"order": ("drained", "127.0.0.1:1")}),
            "drained",
            "-",
        ),
        (replace(SEEN, envoys={}, silent=1), "READY", "?"),
        (replace(SEEN, endpoints=None), "?", "well"),
    ],
)
def test_an_instance_is_as_etcd_and_envoy_say(seen: Reading, state: str, health: str) -> None:
    (instance,) = order(seen).instances

    assert (instance.instance, instance.state, instance.health) == ("order", state, health)


def test_rates_are_those_between_two_readings_over_all_clusters_of_a_service() -> None:
    clusters = {
        "order": [host(1, 10, 1)],
        "order@2.0": [host(2, 4)],
        "order/streams": [host(1, 5)],
        "orders": [host(3)],
    }
    later = {"order": [host(1, 30, 2)], "order@2.0": [host(2, 5)], "order/streams": [host(1, 6)], "orders": [host(3)]}
    both = {"order/order": registered(1), "order/order@2.0": registered(2, version="2.0")}
    answered = Traffic({}, (), {0: 9, 5: 1})
    before = replace(SEEN, endpoints=both, envoys={"a": Envoy(hosts(page(**clusters)), {"order": answered})})
    now = replace(
        before,
        at=12.0,
        envoys={
            "a": Envoy(hosts(page(**later)), {"order": Traffic({"upstream_rq_5xx": 4}, (), {0: 20, 5: 3}, 12.5)}),
        },
    )

    shown = order(now, before)

    rates = [(each.instance, each.version, each.calls_per_s, each.failed_per_s) for each in shown.instances]
    assert rates == [("order", "1", 10.5, 0.5), ("order@2.0", "2.0", 0.5, 0)]
    assert (shown.calls_per_s, shown.failed_per_s, shown.refused_per_s, shown.p99_ms) == (11, 2, 1, 12.5)


def test_an_envoy_that_started_anew_counts_from_zero() -> None:
    before = replace(SEEN, envoys={"a": envoy([host(1, 100)], Traffic({"upstream_rq_5xx": 9}))})
    now = replace(SEEN, at=11.0)

    assert (order(now, before).calls_per_s, order(now, before).failed_per_s) == (0, 0)


@pytest.mark.parametrize(
    ("seen", "breaker"),
    [
        (SEEN, "closed"),
        (replace(SEEN, envoys={"a": envoy([host(1)], Traffic({}, ("rq_pending",)))}), "open: too many waiting calls"),
        (replace(SEEN, envoys={"a": envoy([host(1, failed_outlier_check=True)])}), "open: no instance is well"),
        (replace(SEEN, endpoints={}, envoys={"a": envoy()}), "open: no instance is well"),
        (replace(SEEN, envoys={}, silent=1), "?"),
    ],
)
def test_a_breaker_says_why_it_is_open(seen: Reading, breaker: str) -> None:
    assert order(seen).breaker == breaker


def test_several_envoys_are_added_up_and_what_only_some_say_tells_how_many() -> None:
    out = host(1, 10, failed_outlier_check=True)
    before = replace(SEEN, envoys={"a": envoy([host(1, 10)]), "b": envoy([host(1, 5)], Traffic({}, (), {}, 3.0))})
    now = replace(
        SEEN,
        at=11.0,
        envoys={
            "a": envoy([host(1, 17)], Traffic({}, (), {5: 2}, 4.0)),
            "b": envoy([{**out, "stats": host(1, 8)["stats"]}], Traffic({}, (), {5: 1}, 9.0)),
        },
    )

    shown = order(now, before)

    (instance,) = shown.instances
    assert (shown.calls_per_s, shown.refused_per_s, shown.p99_ms) == (10, 3, 9.0)
    assert (instance.health, shown.breaker) == (
        "ejected at 1 of 2 Envoys",
        "open at 1 of 2 Envoys: no instance is well",
    )


def test_an_envoy_that_is_silent_or_new_takes_no_part_in_rates() -> None:
    before = replace(SEEN, envoys={"a": envoy([host(1, 10)])})
    now = replace(SEEN, at=11.0, envoys={"a": envoy([host(1, 11)]), "b": envoy([host(1, 900)])}, silent=1)

    shown = order(now, before)

    assert (shown.calls_per_s, shown.breaker, shown.instances[0].health) == (1, "closed at 2 of 3 Envoys", "well")


def applied(revision: int, refused: int = 0) -> tuple[registry_pb2.Status, ...]:
    status = registry_pb2.Status()
    status.documents["policy/order"].revision = revision
    if refused:
        status.documents["policy/order"].refused.revision = refused
    return (status,)


@pytest.mark.parametrize(
    ("asked", "told", "policy"),
    [
        ({}, (), "seed"),
        ({"order": 7}, (), "7"),
        ({"order": 7}, applied(7), "7"),
        ({"order": 7}, applied(5), "5, soon 7"),
        ({"order": 7}, applied(5, refused=7), "7 refused, 5 holds"),
        ({"order": 7}, applied(0, refused=7), "7 refused, seed holds"),
    ],
)
def test_a_policy_is_the_revision_that_holds(
    asked: dict[str, int], told: tuple[registry_pb2.Status, ...], policy: str
) -> None:
    assert order(replace(SEEN, policies=asked, applied=told)).policy == policy


def test_envoys_statistics_are_read_by_cluster() -> None:
    def percentiles(name: str, interval: float | None) -> dict[str, object]:
        return {"name": name, "values": [{"interval": 1, "cumulative": 1}, {"interval": interval, "cumulative": 9}]}

    found = traffic({
        "stats": [
            {"name": "cluster.order.upstream_rq_total", "value": 3},
            {"name": "cluster.order@2_0.upstream_rq_5xx", "value": 1},
            {"name": "cluster.order.circuit_breakers.default.rq_open", "value": 1},
            {"name": "cluster.order.circuit_breakers.default.cx_open", "value": 0},
            {"name": "cluster.order.grpc.5", "value": 2},
            {"histograms": {
                "supported_quantiles": [50, 99],
                "computed_quantiles": [
                    percentiles("cluster.order.upstream_rq_time", 4.5),
                    percentiles("cluster.order@2_0.upstream_rq_time", None),
                ],
            }},
        ]
    })  # fmt: skip

    assert found == {
        "order": Traffic({"upstream_rq_total": 3}, ("rq",), {5: 2}, 4.5),
        "order@2_0": Traffic({"upstream_rq_5xx": 1}),
    }
