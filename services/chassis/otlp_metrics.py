"""What a process has counted, in OTLP's words: the one form that is sent to a collector and that becomes a page.

Imported when somebody wants to know: the messages are a megabyte of memory.
"""

from collections.abc import Iterable, Mapping

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.metrics.v1 import metrics_pb2 as pb
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from services.chassis.metrics import Attributes, Histogram, Kind, Metric
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
    message = pb.Metric(name=metric.name, unit=metric.unit, description=metric.about)
    if isinstance(metric, Histogram):
        message.histogram.aggregation_temporality = _CUMULATIVE
        for attributes, series in metric.distributions():
            counts = series.counts.copy()
            message.histogram.data_points.add(
                attributes=_attributes(attributes),
                start_time_unix_nano=started_ns,
                time_unix_nano=now_ns,
                count=sum(counts),
                sum=series.sum,
                bucket_counts=counts,
                explicit_bounds=metric.bounds,
            )
        return message if message.histogram.data_points else None
    points = [
        pb.NumberDataPoint(
            attributes=_attributes(attributes),
            start_time_unix_nano=started_ns if metric.kind is Kind.COUNTER else 0,
            time_unix_nano=now_ns,
            as_double=value,
        )
        for attributes, value in metric.numbers()
    ]
    if not points:
        return None
    if metric.kind is Kind.COUNTER:
        message.sum.CopyFrom(
            pb.Sum(data_points=points, aggregation_temporality=_CUMULATIVE, is_monotonic=True),
        )
    else:
        message.gauge.CopyFrom(pb.Gauge(data_points=points))
    return message


def _attributes(attributes: Mapping[str, str | bool]) -> list[KeyValue]:
    return [
        KeyValue(key=key, value=AnyValue(bool_value=value) if isinstance(value, bool) else AnyValue(string_value=value))
        for key, value in attributes.items()
    ]
