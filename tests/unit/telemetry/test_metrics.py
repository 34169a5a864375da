"""The newest numbers of all processes: who is heard, who is forgotten, and what is not taken."""

import pytest
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1 import metrics_pb2 as pb
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource as SdkResource

from services.telemetry import metrics
from services.telemetry.metrics import Numbers
from tests.support.scraped import Scraped

CUMULATIVE, DELTA = pb.AGGREGATION_TEMPORALITY_CUMULATIVE, pb.AGGREGATION_TEMPORALITY_DELTA


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def numbers(clock: Clock) -> Numbers:
    return Numbers(clock=clock)


def attribute(key: str, value: str) -> KeyValue:
    return KeyValue(key=key, value=AnyValue(string_value=value))


def gauge(name: str, value: float = 1.0, *labels: KeyValue) -> pb.Metric:
    return pb.Metric(name=name, gauge=pb.Gauge(data_points=[pb.NumberDataPoint(as_double=value, attributes=labels)]))


def request(*said: pb.Metric, service: str = "order", instance: str = "order-1", version: str = "1") -> bytes:
    about = {"service.name": service, "service.instance.id": instance, "service.version": version}
    resource = Resource(attributes=[attribute(key, value) for key, value in about.items()])
    scopes = [pb.ScopeMetrics(metrics=said)]
    return ExportMetricsServiceRequest(
        resource_metrics=[pb.ResourceMetrics(resource=resource, scope_metrics=scopes)]
    ).SerializeToString()


def scraped(numbers: Numbers) -> Scraped:
    return Scraped(numbers.text())


def test_the_newest_number_of_each_series_of_each_process_is_shown(numbers: Numbers) -> None:
    numbers.take(request(gauge("a", 1, attribute("x", "1")), gauge("b", 5)))
    numbers.take(request(gauge("a", 2, attribute("x", "1"))))
    numbers.take(request(gauge("a", 3, attribute("x", "2"))))
    numbers.take(request(gauge("a", 4, attribute("x", "1")), instance="order-2"))

    seen = scraped(numbers)

    assert seen.value("a", job="order", instance="order-1", x="1") == 2
    assert seen.value("a", instance="order-1", x="2") == 3
    assert seen.value("a", instance="order-2", x="1") == 4
    assert seen.value("b", instance="order-1") == 5
    assert len(seen.samples) == 4 + len(list(seen.of("target_info"))) == 6


def test_one_name_has_one_version_the_newest(numbers: Numbers) -> None:
    numbers.take(request(gauge("a"), version="1"))
    numbers.take(request(gauge("a"), version="2"))

    assert [sample.labels["service_version"] for sample in scraped(numbers).of("target_info")] == ["2"]


def test_who_is_silent_is_forgotten(numbers: Numbers, clock: Clock) -> None:
    numbers.take(request(gauge("a"), instance="order-1"))
    numbers.take(request(gauge("a"), instance="order-2"))
    clock.now += 5
    numbers.take(request(gauge("b"), instance="order-2"))
    clock.now += 58

    seen = scraped(numbers)

    assert not list(seen.of("a"))
    assert [sample.labels["instance"] for sample in seen.of("b")] == ["order-2"]
    assert [sample.labels["instance"] for sample in seen.of("target_info")] == ["order-2"]
    clock.now += 100
    assert not scraped(numbers).samples


def test_who_speaks_once_a_minute_is_not_forgotten_between(numbers: Numbers, clock: Clock) -> None:
    for _ in range(2):
        numbers.take(request(gauge("a")))
        clock.now += 60.5

    clock.now += 30
    assert list(scraped(numbers).of("a"))
    clock.now += 300
    assert not list(scraped(numbers).of("a"))


def test_what_is_not_taken_is_counted_and_the_sender_is_told(
    numbers: Numbers, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "MOST_SERIES", 3)
    one = pb.NumberDataPoint(as_int=1)
    delta = pb.Metric(name="delta", sum=pb.Sum(data_points=[one], aggregation_temporality=DELTA, is_monotonic=True))
    summary = pb.Metric(name="summary", summary=pb.Summary(data_points=[pb.SummaryDataPoint(), pb.SummaryDataPoint()]))
    buckets = pb.Metric(
        name="buckets",
        histogram=pb.Histogram(
            data_points=[pb.HistogramDataPoint(bucket_counts=[0] * 201, explicit_bounds=map(float, range(200)))],
            aggregation_temporality=CUMULATIVE,
        ),
    )
    long = [gauge("n" * 201), gauge("label", 1, attribute("x", "y" * 1000)), buckets]

    told = numbers.take(request(delta, summary, *long, gauge("a"), gauge("b"), gauge("c"), gauge("d"))).partial_success

    assert told.rejected_data_points == 1 + 2 + 3 + 1
    assert set(told.error_message.split("; ")) == {
        said for reason, said in metrics.REFUSALS.items() if reason != "many"
    }
    assert {sample.name for sample in scraped(numbers).samples} == {"target_info", "a", "b", "c"}
    assert numbers.take(request(gauge("a", 7))).partial_success.rejected_data_points == 0
    assert numbers.take(request(gauge("d"), instance="order-2")).partial_success.rejected_data_points == 1
    assert len(list(scraped(numbers).of("target_info"))) == 1

    clock.now += 100
    assert numbers.take(request(gauge("d"), instance="order-2")).partial_success.rejected_data_points == 0


def test_a_resource_without_end_is_not_taken(numbers: Numbers) -> None:
    told = numbers.take(request(gauge("a"), gauge("b"), service="s" * 1001)).partial_success

    assert told.rejected_data_points == 2
    assert not scraped(numbers).samples


def test_garbage_is_refused(numbers: Numbers) -> None:
    with pytest.raises(DecodeError):
        numbers.take(request(gauge("a"))[:-3])


def test_the_sdk_is_understood(numbers: Numbers) -> None:
    from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics

    reader = InMemoryMetricReader()
    resource = SdkResource({"service.name": "shop", "service.instance.id": "shop-7"})
    meter = MeterProvider([reader], resource=resource, shutdown_on_exit=False).get_meter("test")
    meter.create_counter("things", "{thing}", "Things.").add(3, {"colour": "red"})
    meter.create_histogram("took", "s", explicit_bucket_boundaries_advisory=[0.1, 1]).record(0.5)
    data = reader.get_metrics_data()
    assert data is not None
    numbers.take(encode_metrics(data).SerializeToString())

    seen = scraped(numbers)

    assert seen.value("things_total", job="shop", instance="shop-7", colour="red") == 3
    assert seen.value("took_seconds_bucket", le="1.0") == 1
    assert seen.value("took_seconds_count") == 1


def test_what_this_process_counts_itself_stands_on_the_page(clock: Clock) -> None:
    own = ExportMetricsServiceRequest.FromString(request(gauge("own", 2), service="telemetry")).resource_metrics[0]
    numbers = Numbers(lambda: own, clock)
    numbers.take(request(gauge("a")))

    assert scraped(numbers).value("own", job="telemetry") == 2
    assert scraped(numbers).value("a", job="order") == 1


def test_a_number_is_bounded_with_all_that_belongs_to_it(numbers: Numbers) -> None:
    point = pb.NumberDataPoint(as_double=1.0, exemplars=[pb.Exemplar(as_double=1.0)] * 100_000)
    bounds = pb.HistogramDataPoint(count=1, explicit_bounds=[1.0] * 100_000)
    histogram = pb.Histogram(data_points=[bounds], aggregation_temporality=CUMULATIVE)
    response = numbers.take(
        request(pb.Metric(name="a", gauge=pb.Gauge(data_points=[point])), pb.Metric(name="b", histogram=histogram))
    )

    assert response.partial_success.rejected_data_points == 1
    kept = [series for sender in numbers._senders.values() for series in sender.series.values()]
    assert [len(series.point) < 100 for series in kept] == [True]


def test_a_histogram_with_all_the_buckets_it_may_have_is_kept(numbers: Numbers) -> None:
    label = attribute("x", "y" * (metrics.MOST_LABEL_BYTES - 20))
    full = pb.HistogramDataPoint(
        count=2**63, sum=1.0, min=1.0, max=1.0, start_time_unix_nano=1, time_unix_nano=2, attributes=[label],
        bucket_counts=[1] * metrics.MOST_BUCKETS, explicit_bounds=[float(n) for n in range(metrics.MOST_BUCKETS - 1)],
    )  # fmt: skip
    histogram = pb.Histogram(data_points=[full], aggregation_temporality=CUMULATIVE)
    assert not numbers.take(request(pb.Metric(name="b", histogram=histogram))).partial_success.rejected_data_points


@pytest.mark.parametrize("of", ["metrics", "points"])
def test_a_request_of_too_many_numbers_is_refused(numbers: Numbers, of: str) -> None:
    if of == "metrics":
        many = request(*[pb.Metric()] * 50_001)
    else:
        many = request(pb.Metric(name="a", gauge=pb.Gauge(data_points=[pb.NumberDataPoint()] * 50_001)))
    told = numbers.take(many).partial_success
    assert told.rejected_data_points > 50_000
    assert told.error_message == metrics.REFUSALS["many"]
    assert not numbers._senders
