"""A shop that tells everything to the collector of the profile `observability`: seen in Jaeger, Loki and Prometheus."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from tests.support import deployed, observability
from tests.support.backends import Backends, missing, running_backends
from tests.support.otlp import Span
from tests.support.pages import spans_of
from tests.support.ports import free_port
from tests.support.shop import Shop, running_shop
from tests.support.waiting import eventually

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"not on the PATH: {', '.join(missing())}")

TRACE = uuid.uuid4().hex
SERVICES = {"envoy", "order", "product", "inventory", "notification"}
STEADY_S = 180.0


@dataclass(frozen=True, slots=True)
class Observed:
    shop: Shop
    backends: Backends
    order: str
    """The name of one that was placed under TRACE."""


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    otlp = free_port()
    endpoint = {"SHOPMESH_OTLP_ENDPOINT": f"http://127.0.0.1:{otlp}"}
    with (
        running_shop(tmp_path_factory.mktemp("shop"), environment=endpoint) as shop,
        running_backends(tmp_path_factory.mktemp("backends"), otlp, shop.ports) as backends,
    ):
        yield Observed(shop, backends, _placed(shop))


def _placed(shop: Shop) -> str:
    line = {"product": "products/blue-mug", "quantity": 1}
    answer = httpx.post(
        f"http://{shop.edge}/v1/orders",
        json={"order": {"lines": [line]}, "requestId": str(uuid.uuid4())},
        headers={"authorization": f"Bearer {shop.token('ann')}", "traceparent": f"00-{TRACE}-b7ad6b7169203331-01"},
        timeout=60,
        trust_env=False,
    )
    return str(answer.raise_for_status().json()["order"]["name"])


async def test_a_trace_is_whole_in_jaeger_and_in_the_store_of_the_shop(observed: Observed) -> None:
    async def whole() -> list[tuple[str, str]]:
        spans = await observed.backends.spans(TRACE)
        assert {service for service, _ in spans} == SERVICES
        assert ("notification", "smtp send") in spans
        return spans

    async def kept() -> list[Span]:
        return [span for span in await spans_of(observed.shop.pages, TRACE) if span.name == "smtp send"]

    await eventually(whole, "the trace in Jaeger")
    await eventually(kept, "the trace in the shop's own store")


async def test_lines_are_found_by_service_order_and_trace(observed: Observed) -> None:
    follow = observability.unescaped(observability.SOURCES["jaeger"]["jsonData"]["tracesToLogsV2"]["query"])

    async def said() -> bool:
        lines = await observed.backends.lines(follow.replace("${__trace.traceId}", TRACE))
        assert {known["service_name"] for known, _ in lines} == SERVICES
        # What Grafana's link from a line to its trace needs, and what people look for.
        assert {known["trace_id"] for known, _ in lines} == {TRACE}
        assert all(known["service_instance_id"] and known["severity_text"] for known, _ in lines)
        about = await observed.backends.lines(f'{{service_name="order"}} | order="{observed.order}"')
        return bool(about)

    await eventually(said, "lines in Loki")
    assert await observed.backends.labels() == {"service_name"}


async def test_prometheus_has_all_that_rules_and_dashboard_ask_for(observed: Observed) -> None:
    async def complete() -> bool:
        names = {row["metric"]["__name__"] for row in await observed.backends.numbers('{job!=""}')}
        assert deployed.metrics() <= names, deployed.metrics() - names
        return True

    await eventually(complete, "numbers in Prometheus", STEADY_S)
    up = {row["metric"]["job"]: row["value"][1] for row in await observed.backends.numbers("up")}
    assert up == {"shopmesh": "1", "envoy": "1", "collector": "1"}
    jobs = {row["metric"]["job"] for row in await observed.backends.numbers("process_uptime_seconds")}
    assert jobs == {"product", "order", "inventory", "notification", "controlplane", "telemetry"}


async def test_every_query_is_answered_and_objectives_have_values(observed: Observed) -> None:
    for asked in deployed.queries():
        query = asked.query.replace("$__rate_interval", "1m").replace("$job", ".*")
        await observed.backends.numbers(query)

    async def evaluated() -> bool:
        rules = await observed.backends.rules()
        assert {rule["health"] for rule in rules} == {"ok"}, [rule for rule in rules if rule["health"] != "ok"]
        assert len(rules) == len(deployed.RULES)
        for recorded in ("shop:place_order_errors:ratio_rate5m", "shop:mails_late:ratio_rate5m"):
            (row,) = await observed.backends.numbers(f"{recorded} == {recorded}")  # NaN is not equal to itself
            assert float(row["value"][1]) == 0
        return True

    # What counts is what came between two looks: a second order.
    _placed(observed.shop)
    await eventually(evaluated, "rules with values", STEADY_S)


async def test_a_span_leads_to_the_numbers_of_its_service(observed: Observed) -> None:
    for query in observability.SOURCES["jaeger"]["jsonData"]["tracesToMetrics"]["queries"]:
        filled = observability.unescaped(query["query"]).replace("$__tags", 'job="order"')

        async def answered(filled: str = filled, name: str = query["name"]) -> bool:
            return bool(await observed.backends.numbers(filled)) or name == "Errors"

        await eventually(answered, query["name"], STEADY_S)
