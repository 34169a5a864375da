"""What the control plane tells of Envoy's circuit breakers."""

import pytest

from services.chassis import reporting
from services.chassis.settings import Settings
from services.controlplane.breakers import Breaker, Line, count, lines, reading, with_instances
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
