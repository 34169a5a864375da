"""What the control plane tells of Envoy's circuit breakers."""

import pytest

from services.controlplane.breakers import Breaker, Line, lines, reading

SHUT = Breaker()
BUSY = Breaker(frozenset({"too many requests"}))
OUT = Breaker(frozenset({"no instance is well"}), 2)


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        (SHUT, SHUT, []),
        (BUSY, BUSY, []),
        (SHUT, BUSY, [("breaker opened", {"of": "order", "why": "too many requests"})]),
        (BUSY, SHUT, [("breaker closed", {"of": "order", "why": "too many requests"})]),
        (
            SHUT,
            OUT,
            [
                ("breaker opened", {"of": "order", "why": "no instance is well"}),
                ("instance ejected", {"of": "order", "ejected": 2}),
            ],
        ),
        (Breaker(ejected=2), Breaker(ejected=1), [("instance is back", {"of": "order", "ejected": 1})]),
    ],
)
def test_only_what_changes_is_told(before: Breaker, now: Breaker, told: list[Line]) -> None:
    assert list(lines({"order": before}, {"order": now})) == told


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
    order = Breaker(frozenset({"no instance is well", "too many requests"}), 1)
    assert reading(stats, frozenset({"order", "product"})) == {"order": order, "product": SHUT}
