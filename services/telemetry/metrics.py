"""The newest number of every series of every process, for Prometheus: nothing is kept of what was before.

Whoever wants to see yesterday's has a Prometheus that reads the page. What arrives may be anybody's, so there is a
bound for everything, and what is refused is counted.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1 import metrics_pb2 as pb
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from services.chassis import prometheus
from services.chassis.metrics import Counter, Gauge

FORGET_S = 60.0
"""After so long a silence; of a sender that speaks more seldom (OpenTelemetry's default is a minute): 2.5 pauses."""
LONGEST_PAUSE_S = 300.0
LOOK_EVERY_S = 1.0
MOST_SERIES = 20_000
MOST_LABEL_BYTES = 1000
MOST_NAME = 200
MOST_ABOUT = 500
MOST_BUCKETS = 200
MOST_POINT_BYTES = MOST_LABEL_BYTES + 16 * MOST_BUCKETS + 200
"""Of a number with all that belongs to it: a bucket has a bound and a count, of 8 bytes each."""
MOST_POINTS = 50_000
"""Metrics and their numbers in one request: empty ones have two bytes each."""

REFUSALS = {
    "kind": "Prometheus has no exponential histograms in text, and summaries are not taken: send explicit buckets",
    "temporality": "Prometheus takes sums since a start only: set the temporality to cumulative",
    "length": f"at most {MOST_NAME} letters of name, {MOST_LABEL_BYTES} bytes of attributes, {MOST_BUCKETS} buckets",
    "many": f"at most {MOST_POINTS} numbers in one request",
    "full": f"there are {MOST_SERIES} series already",
}
"""Why a number is not kept, in a word for those who count and in a sentence for those who sent it."""

_refused = Counter("shopmesh.store.series.refused", "{series}", "Numbers that the store did not take.", "reason")
for _reason in REFUSALS:
    _refused.add(_reason, by=0)
_kept = Gauge("shopmesh.store.series", "{series}", "Series of which the store keeps the newest number.")

type Point = pb.NumberDataPoint | pb.HistogramDataPoint


class Numbers:
    """May be told by one thread and read by another. Neither waits for more than some milliseconds."""

    def __init__(
        self, own: Callable[[], pb.ResourceMetrics] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`own` are those of this process, which nobody has to send."""
        self._own, self._clock, self._lock = own, clock, Lock()
        self._senders: dict[tuple[str, ...], _Sender] = {}
        self._kept, self._looked = 0, -LOOK_EVERY_S
        _kept.ask(lambda: {(): self._kept})

    def take(self, data: bytes) -> ExportMetricsServiceResponse:
        """One encoded request. What is not kept of it is named in the response. Raises DecodeError."""
        request, refused = ExportMetricsServiceRequest.FromString(data), dict[str, int]()
        if (count := _count(request)) > MOST_POINTS:
            return _response({"many": count})
        with self._lock:
            for said in request.resource_metrics:
                if known := self._senders.get(_whose(said.resource)):
                    known.hear(self._clock())
            self._forget()
            for said in request.resource_metrics:
                for reason, points in self._hear(said):
                    refused[reason] = refused.get(reason, 0) + points
        return _response(refused)

    def text(self) -> str:
        """The page of all processes that were heard lately."""
        with self._lock:
            self._forget()
            kept = [(sender.resource, list(sender.series.values())) for sender in self._senders.values()]
        said = [_message(resource, series) for resource, series in kept]
        return prometheus.text([self._own(), *said] if self._own else said, told_apart=True)

    def _hear(self, said: pb.ResourceMetrics) -> Iterator[tuple[str, int]]:
        """Yields what is not kept, and why."""
        metrics = [metric for scope in said.scope_metrics for metric in scope.metrics]
        whose = _whose(said.resource)
        if said.resource.ByteSize() > MOST_LABEL_BYTES:
            yield "length", sum(len(_points(metric)) for metric in metrics)
            return
        now = self._clock()
        sender = self._senders.get(whose) or _Sender(now)
        sender.resource = said.resource.SerializeToString()
        for metric in metrics:
            points = _points(metric)
            if why := _unwanted(metric):
                yield why, len(points)
                continue
            head = _head(metric)
            for point in points:
                series = (metric.name, _labels(point.attributes))
                point.ClearField("exemplars")  # which are not shown
                encoded = point.SerializeToString()
                too_long = len(series[1]) > MOST_LABEL_BYTES or len(encoded) > MOST_POINT_BYTES
                if too_long or _buckets(point) > MOST_BUCKETS:
                    yield "length", 1
                elif series not in sender.series and self._kept >= MOST_SERIES:
                    yield "full", 1
                else:
                    self._kept += series not in sender.series
                    sender.series[series] = _Series(head, encoded, now)
        if sender.series:
            self._senders[whose] = sender

    def _forget(self) -> None:
        now = self._clock()
        if now - self._looked < LOOK_EVERY_S:
            return
        self._looked = now
        for whose, sender in tuple(self._senders.items()):
            silent = [key for key, series in sender.series.items() if now - series.heard > sender.patience_s]
            for key in silent:
                del sender.series[key]
            self._kept -= len(silent)
            if not sender.series:
                del self._senders[whose]


@dataclass(frozen=True, slots=True)
class _Series:
    """As bytes: a message would keep all of the request alive that it came in."""

    head: bytes
    point: bytes
    heard: float


@dataclass(slots=True)
class _Sender:
    heard: float
    resource: bytes = b""
    patience_s: float = FORGET_S
    series: dict[tuple[str, bytes], _Series] = field(default_factory=dict[tuple[str, bytes], _Series])

    def hear(self, now: float) -> None:
        if pause := now - self.heard:
            self.heard, self.patience_s = now, max(FORGET_S, 2.5 * min(pause, LONGEST_PAUSE_S))


def _count(request: ExportMetricsServiceRequest) -> int:
    """Metrics, and their numbers where the metrics are not too many already."""
    scopes = [scope for said in request.resource_metrics for scope in said.scope_metrics]
    count = sum(len(scope.metrics) for scope in scopes)
    if count > MOST_POINTS:
        return count
    return count + sum(len(_points(metric)) for scope in scopes for metric in scope.metrics)


def _response(refused: Mapping[str, int]) -> ExportMetricsServiceResponse:
    """`refused`: how many numbers are not kept, by reason."""
    response = ExportMetricsServiceResponse()
    for reason, points in refused.items():
        _refused.add(reason, by=points)
        response.partial_success.rejected_data_points += points
    response.partial_success.error_message = "; ".join(REFUSALS[reason] for reason in refused)
    return response


def _whose(resource: Resource) -> tuple[str, ...]:
    """What Prometheus tells senders apart by."""
    known = {each.key: each.value.string_value for each in resource.attributes}
    return tuple(known.get(key, "") for key in ("service.namespace", "service.name", "service.instance.id"))


def _points(metric: pb.Metric) -> Sequence[Point]:
    points: Sequence[Point] = getattr(metric, metric.WhichOneof("data") or "gauge").data_points
    return points


def _unwanted(metric: pb.Metric) -> str:
    """Why none of it is kept; empty when it is."""
    match metric.WhichOneof("data"):
        case "gauge":
            temporality = pb.AGGREGATION_TEMPORALITY_CUMULATIVE
        case "sum":
            temporality = metric.sum.aggregation_temporality
        case "histogram":
            temporality = metric.histogram.aggregation_temporality
        case _:
            return "kind"
    if temporality != pb.AGGREGATION_TEMPORALITY_CUMULATIVE:
        return "temporality"
    return "length" if len(metric.name) > MOST_NAME else ""


def _head(metric: pb.Metric) -> bytes:
    """All but the points."""
    head = pb.Metric(name=metric.name, unit=metric.unit[:MOST_NAME], description=metric.description[:MOST_ABOUT])
    if metric.HasField("gauge"):
        head.gauge.SetInParent()
    elif metric.HasField("sum"):
        head.sum.is_monotonic = metric.sum.is_monotonic
        head.sum.aggregation_temporality = metric.sum.aggregation_temporality
    else:
        head.histogram.aggregation_temporality = metric.histogram.aggregation_temporality
    return head.SerializeToString()


def _labels(attributes: Sequence[KeyValue]) -> bytes:
    return b"".join(sorted(each.SerializeToString() for each in attributes))


def _buckets(point: Point) -> int:
    return len(point.bucket_counts) if isinstance(point, pb.HistogramDataPoint) else 0


def _message(resource: bytes, kept: Sequence[_Series]) -> pb.ResourceMetrics:
    said = pb.ResourceMetrics(resource=Resource.FromString(resource))
    metrics, last = said.scope_metrics.add().metrics, b""
    for series in kept:
        if series.head != last:
            metrics.add().MergeFromString(series.head)
            last = series.head
        # Encoded messages that are put together are one, in which lists are joined (protobuf, "Last One Wins").
        point = _points(metrics[-1])
        point.add().MergeFromString(series.point)  # type: ignore[attr-defined]  # a repeated field of one of the kinds
    return said
