"""What a process has counted, in OTLP's words: the one form that is sent to a collector and that becomes a page.

Imported when somebody wants to know: the messages are a megabyte of memory.
"""

from collections.abc import Iterable, Iterator, Mapping

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.metrics.v1 import metrics_pb2 as pb
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from services.chassis.metrics import Attributes, Counter, Gauge, Histogram, Metric, Single
from services.chassis.settings import Settings

_SCOPE = InstrumentationScope(name="services.chassis")
_CUMULATIVE = pb.AGGREGATION_TEMPORALITY_CUMULATIVE


def encode(metrics: Iterable[Metric], settings: Settings, started_ns: int, now_ns: int) -> pb.ResourceMetrics:
    """All series as they are now, summed up since the process started; metrics that have none are left out."""
    facts: Attributes = {
        "service.name": settings.service,
        "service.instance.id": settings.instance,
        "service.version": settings.version,
    }
    encoded = (_encode(metric, started_ns, now_ns) for metric in metrics)
    return pb.ResourceMetrics(
        resource=Resource(attributes=_attributes(facts)),
        scope_metrics=[pb.ScopeMetrics(scope=_SCOPE, metrics=[metric for metric in encoded if metric])],
    )


def _encode(metric: Metric, started_ns: int, now_ns: int) -> pb.Metric | None:
    """None without a series."""
    message = pb.Metric(name=metric.name, unit=metric.unit, description=metric.about)
    match metric:
        case Histogram():
            histogram = message.histogram
            histogram.aggregation_temporality = _CUMULATIVE
            histogram.data_points.extend(_distributions(metric, started_ns, now_ns))
            return message if histogram.data_points else None
        case Counter():
            message.sum.aggregation_temporality, message.sum.is_monotonic = _CUMULATIVE, True
            message.sum.data_points.extend(_numbers(metric, started_ns, now_ns))
            return message if message.sum.data_points else None
        case Gauge():
            message.gauge.data_points.extend(_numbers(metric, 0, now_ns))
            return message if message.gauge.data_points else None
    raise TypeError(metric)


def _numbers(metric: Single, started_ns: int, now_ns: int) -> Iterator[pb.NumberDataPoint]:
    for attributes, value in metric.numbers():
        yield pb.NumberDataPoint(
            attributes=_attributes(attributes),
            start_time_unix_nano=started_ns,
            time_unix_nano=now_ns,
            as_double=value,
        )


def _distributions(metric: Histogram, started_ns: int, now_ns: int) -> Iterator[pb.HistogramDataPoint]:
    for attributes, series in metric.distributions():
        counts = series.counts.copy()
        yield pb.HistogramDataPoint(
            attributes=_attributes(attributes),
            start_time_unix_nano=started_ns,
            time_unix_nano=now_ns,
            count=sum(counts),
            sum=series.sum,
            bucket_counts=counts,
            explicit_bounds=metric.bounds,
        )


def _attributes(attributes: Mapping[str, str | bool]) -> list[KeyValue]:
    return [
        KeyValue(key=key, value=AnyValue(bool_value=value) if isinstance(value, bool) else AnyValue(string_value=value))
        for key, value in attributes.items()
    ]
