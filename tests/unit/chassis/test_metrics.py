"""How a process counts, and what Prometheus reads of it."""

import pytest

from services.chassis import metrics, prometheus
from services.chassis.database import DatabaseUnavailable
from services.chassis.looking import Look
from services.chassis.metrics import Counter, Gauge, Histogram, Metrics
from services.chassis.otlp_metrics import encode
from services.chassis.settings import Settings
from tests.support.scraped import Scraped

SETTINGS = Settings.read("order", {"SHOPMESH_INSTANCE": "order-1", "SHOPMESH_VERSION": "1.2"})


def page(among: Metrics, *, told_apart: bool = False) -> str:
    return prometheus.text([encode(among, SETTINGS, among.started_ns, among.started_ns + 1)], told_apart=told_apart)


def scraped(among: Metrics) -> Scraped:
    return Scraped(page(among))


@pytest.fixture
def among() -> Metrics:
    return Metrics()


def test_a_counter_counts_by_its_labels(among: Metrics) -> None:
    mails = Counter("shop.mails", "{mail}", "Mails.", "outcome", "order.kind", among=among)
    mails.add("sent", "PLACED")
    mails.add("sent", "PLACED", by=2)
    mails.add("refused", "")

    now = scraped(among)

    assert now.value("shop_mails_total", outcome="sent", order_kind="PLACED") == 3
    assert now.value("shop_mails_total", outcome="refused", order_kind="") == 1
    assert now.families["shop_mails"].type == "counter"
    assert now.families["shop_mails"].documentation == "Mails."


def test_a_counter_without_labels_is_there_before_anything_is_counted(among: Metrics) -> None:
    Counter("shop.mails", "{mail}", "Mails.", among=among)

    assert scraped(among).value("shop_mails_total") == 0


def test_a_gauge_says_what_is_known_now_and_nothing_else(among: Metrics) -> None:
    holds = Gauge("shop.holds", "{hold}", "Holds.", "state", among=among)
    holds.set_all({("HELD",): 5, ("EXPIRED",): 1})
    holds.set_all({("HELD",): 4})

    assert [(sample.labels, sample.value) for sample in scraped(among).of("shop_holds")] == [({"state": "HELD"}, 4)]

    holds.forget()

    assert not list(scraped(among).of("shop_holds"))


async def test_what_cannot_be_asked_for_is_not_known(among: Metrics) -> None:
    holds = Gauge("shop.holds", "{hold}", "Holds.", among=among)

    async def look() -> None:
        if list(holds.numbers()):
            raise DatabaseUnavailable
        holds.set(5)

    worker = Look("holds", look, holds)
    await worker.claim(64)
    assert scraped(among).value("shop_holds") == 5

    with pytest.raises(DatabaseUnavailable):
        await worker.claim(64)
    assert not list(scraped(among).of("shop_holds"))


def test_a_gauge_may_ask_at_each_look(among: Metrics) -> None:
    waiting = [3.0]
    Gauge("shop.waiting.time", "s", "Waiting.", among=among).ask(lambda: {(): waiting[0]})
    waiting[0] = 4.5

    assert scraped(among).value("shop_waiting_time_seconds") == 4.5


def test_a_histogram_counts_what_lies_at_or_below_each_bound(among: Metrics) -> None:
    took = Histogram("rpc.call.duration", "s", "Took.", "method", bounds=(0.1, 1.0), among=among)
    for seconds in (0.05, 0.1, 0.5, 7.0):
        took.record(seconds, "Place")

    now = scraped(among)

    assert [now.value("rpc_call_duration_seconds_bucket", le=le) for le in ("0.1", "1.0", "+Inf")] == [2, 3, 4]
    assert now.value("rpc_call_duration_seconds_count", method="Place") == 4
    assert now.value("rpc_call_duration_seconds_sum", method="Place") == pytest.approx(7.65)


def test_labels_without_end_become_one_series(among: Metrics) -> None:
    bad = Counter("shop.bad", "{thing}", "Labelled by what has no end.", "order", among=among)
    took = Histogram("shop.took", "s", "The same.", "order", bounds=(1.0,), among=among)
    now = Gauge("shop.now", "{thing}", "The same.", "order", among=among)
    for number in range(metrics.MOST_SERIES + 10):
        bad.add(str(number))
        took.record(0.5, str(number))
        now.set(1, str(number))
    bad.add("0")

    seen = scraped(among)

    assert seen.value("shop_bad_total", otel_metric_overflow="true") == 10
    assert seen.value("shop_bad_total", order="0") == 2
    assert seen.value("shop_took_seconds_count", otel_metric_overflow="true") == 10
    for name in ("shop_bad_total", "shop_took_seconds_count", "shop_now"):
        assert len(list(seen.of(name))) == metrics.MOST_SERIES + 1


def test_labels_that_are_not_the_metrics_own_are_a_mistake(among: Metrics) -> None:
    mails = Counter("shop.mails", "{mail}", "Mails.", "outcome", among=among)
    with pytest.raises(ValueError, match=r"shop.mails has the labels \('outcome',\)"):
        mails.add("sent", "twice")
    with pytest.raises(ValueError, match=r"two metrics shop\.mails"):
        Gauge("shop.mails", "{mail}", "Mails.", among=among)


def test_whose_numbers_they_are_is_said_where_several_are_on_a_page(among: Metrics) -> None:
    Counter("shop.mails", "{mail}", "Mails.", "job", among=among).add("clean")

    assert 'shop_mails_total{job="order",instance="order-1",exported_job="clean"} 1' in page(among, told_apart=True)
    assert 'target_info{job="order",instance="order-1"' in page(among, told_apart=True)
    assert 'shop_mails_total{job="clean"} 1' in page(among)
