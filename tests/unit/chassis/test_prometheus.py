"""Metrics of anybody as Prometheus reads them: names by OpenTelemetry's rules, and hostile text as text."""

import math
from collections.abc import Mapping

import pytest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1 import metrics_pb2 as pb
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from services.chassis import prometheus
from tests.support.scraped import Scraped

CUMULATIVE, DELTA = pb.AGGREGATION_TEMPORALITY_CUMULATIVE, pb.AGGREGATION_TEMPORALITY_DELTA


def attributes(values: Mapping[str, str]) -> list[KeyValue]:
    return [KeyValue(key=key, value=AnyValue(string_value=value)) for key, value in values.items()]


def gauge(name: str, unit: str = "", value: float = 1.0, labels: Mapping[str, str] | None = None) -> pb.Metric:
    point = pb.NumberDataPoint(as_double=value, attributes=attributes(labels or {}))
    return pb.Metric(name=name, unit=unit, gauge=pb.Gauge(data_points=[point]))


def counter(name: str, unit: str = "", temporality: pb.AggregationTemporality.ValueType = CUMULATIVE) -> pb.Metric:
    points = [pb.NumberDataPoint(as_int=7)]
    return pb.Metric(
        name=name, unit=unit, sum=pb.Sum(data_points=points, aggregation_temporality=temporality, is_monotonic=True)
    )


def text(*metrics: pb.Metric, service: str = "shop", instance: str = "shop-1") -> str:
    resource = Resource(attributes=attributes({"service.name": service, "service.instance.id": instance}))
    said = pb.ResourceMetrics(resource=resource, scope_metrics=[pb.ScopeMetrics(metrics=metrics)])
    return prometheus.text([said], told_apart=True)


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        (gauge("process.memory.usage", "By"), "process_memory_usage_bytes"),
        (gauge("shop.queue", "{order}"), "shop_queue"),
        (gauge("shop.used", "1"), "shop_used_ratio"),
        (gauge("shop.speed", "By/s"), "shop_speed_bytes_per_seconds"),
        (gauge("shop.wait.seconds", "s"), "shop_wait_seconds"),
        (gauge("1st..place-", ""), "_1st_place"),
        (gauge("größe", ""), "gr_e"),
        (gauge("", ""), "unnamed"),
        (counter("process.cpu.time", "s"), "process_cpu_time_seconds_total"),
        (counter("shop.mails.total", "{mail}"), "shop_mails_total"),
        (counter("shop.share", "1"), "shop_share_total"),
    ],
)
def test_names_are_those_of_opentelemetrys_rules(metric: pb.Metric, name: str) -> None:
    assert prometheus.name_of(metric) == name
    assert f"\n{name}{{" in text(metric)


def test_hostile_text_stays_text() -> None:
    labels = {"a b": '"} 1\nother{x="\\', "a.b": "second", "9": "number", "__name__": "stolen", "le": "1"}
    hostile = gauge("shop.x", labels=labels)
    hostile.description = "one\nother 1\\"

    said = text(hostile, service='s"\n', instance="\\")

    (sample,) = Scraped(said).of("shop_x")
    assert sample.labels == {
        "job": 's"\n', "instance": "\\", "a_b": '"} 1\nother{x="\\;second', "key_9": "number", "key__name__": "stolen",
        "exported_le": "1",
    }  # fmt: skip
    assert "other" not in {sample.name for sample in Scraped(said).samples}


def test_numbers_that_are_none_are_said_in_prometheus_words() -> None:
    metrics = [
        gauge("shop.nan", value=math.nan),
        gauge("shop.inf", value=math.inf),
        gauge("shop.less", value=-math.inf),
    ]

    said = text(*metrics)

    assert [line.rpartition(" ")[2] for line in said.splitlines() if line[0] != "#"] == ["1", "NaN", "+Inf", "-Inf"]
    assert len(Scraped(said).samples) == 4


def test_what_prometheus_has_no_word_for_is_left_out() -> None:
    exponential = pb.Metric(
        name="shop.exponential",
        exponential_histogram=pb.ExponentialHistogram(
            data_points=[pb.ExponentialHistogramDataPoint(count=1)], aggregation_temporality=CUMULATIVE
        ),
    )

    said = text(
        counter("shop.delta", temporality=DELTA), exponential, pb.Metric(name="shop.nothing"), gauge("shop.good")
    )

    assert [sample.name for sample in Scraped(said).samples] == ["target_info", "shop_good"]


def test_of_two_kinds_under_one_name_the_first_is_right() -> None:
    said = text(gauge("shop.a.total"), counter("shop.a"))

    assert [(sample.name, sample.value) for sample in Scraped(said).of("shop_a_total")] == [("shop_a_total", 1)]


def test_the_lines_of_one_metric_stand_together_whoever_sent_them() -> None:
    def of(instance: str) -> pb.ResourceMetrics:
        resource = Resource(attributes=attributes({"service.name": "shop", "service.instance.id": instance}))
        return pb.ResourceMetrics(
            resource=resource, scope_metrics=[pb.ScopeMetrics(metrics=[gauge("shop.a"), gauge("shop.b")])]
        )

    names = [
        line.partition("{")[0]
        for line in prometheus.text([of("1"), of("2")], told_apart=True).splitlines()
        if not line.startswith("#")
    ]

    assert names == ["target_info", "target_info", "shop_a", "shop_a", "shop_b", "shop_b"]
