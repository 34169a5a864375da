"""Metrics as Prometheus reads them: its text format 0.0.4, with names by OpenTelemetry's rules for that.

Dots become underscores, the unit is spelt out behind the name, counters end in `_total` (OpenTelemetry, "Prometheus and
OpenMetrics Compatibility"). What comes in may be anybody's: all of it is escaped, and what Prometheus has no word for
is left out.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1 import metrics_pb2 as pb

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_UNITS = {
    "d": "days", "h": "hours", "min": "minutes", "s": "seconds", "ms": "milliseconds", "us": "microseconds",
    "ns": "nanoseconds", "By": "bytes", "KiBy": "kibibytes", "MiBy": "mebibytes", "GiBy": "gibibytes",
    "KBy": "kilobytes", "MBy": "megabytes", "GBy": "gigabytes", "%": "percent", "Hz": "hertz", "Cel": "celsius",
    "m": "meters", "V": "volts", "A": "amperes", "J": "joules", "W": "watts", "g": "grams",
}  # fmt: skip
_JOB, _NAMESPACE, _INSTANCE = "service.name", "service.namespace", "service.instance.id"

_CUMULATIVE = pb.AGGREGATION_TEMPORALITY_CUMULATIVE

type Labels = tuple[tuple[str, str], ...]


def text(resources: Iterable[pb.ResourceMetrics], *, told_apart: bool) -> str:
    """The page. `told_apart`: every line says by `job` and `instance` whose it is, as a page of many processes must.

    Of two that call one metric by different kinds the first is right.
    """
    families = dict[str, _Family]()
    info = families.setdefault("target_info", _Family("target_info", "gauge", "Who was asked."))
    for resource in resources:
        about = _labels(resource.resource.attributes)
        known = {each.key: _value(each.value) for each in resource.resource.attributes}
        whose = _whose(known) if told_apart else ()
        info.put(_merged(about, whose), "1")
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                _add(families, metric, whose)
    return "".join(family.text() for family in families.values() if family.series)


def name_of(metric: pb.Metric) -> str:
    """What Prometheus calls it."""
    name = re.sub(r"_+", "_", re.sub(r"[^a-zA-Z0-9_:]", "_", metric.name)).strip("_") or "unnamed"
    is_counter = metric.HasField("sum") and metric.sum.is_monotonic
    name = name.removesuffix("_total") if is_counter else name
    unit = "_per_".join(filter(None, (_UNITS.get(part, part) for part in re.sub(r"{.*?}", "", metric.unit).split("/"))))
    if unit == "1":
        unit = "ratio" if metric.HasField("gauge") else ""
    unit = re.sub(r"[^a-zA-Z0-9_]+", "_", unit).strip("_")
    if unit and not name.endswith(f"_{unit}"):
        name = f"{name}_{unit}"
    name = f"{name}_total" if is_counter else name
    return f"_{name}" if name[0].isdigit() else name


class _Family:
    """All series of one metric, each as its lines."""

    def __init__(self, name: str, kind: str, about: str) -> None:
        self.name, self.kind, self.about = name, kind, about
        self.series: dict[Labels, str] = {}

    def text(self) -> str:
        about = self.about.replace("\\", "\\\\").replace("\n", "\\n")
        return f"# HELP {self.name} {about}\n# TYPE {self.name} {self.kind}\n" + "".join(self.series.values())

    def put(self, labels: Labels, value: str) -> None:
        self.series[labels] = f"{self.name}{_braces(_inner(labels))} {value}\n"

    def put_distribution(self, labels: Labels, point: pb.HistogramDataPoint) -> None:
        inner, lines, so_far = _inner(labels), list[str](), 0
        before = f"{self.name}_bucket{{{inner}," if inner else f"{self.name}_bucket{{"
        if len(point.bucket_counts) == len(point.explicit_bounds) + 1:
            for bound, count in zip(point.explicit_bounds, point.bucket_counts, strict=False):
                so_far += count
                lines.append(f'{before}le="{_bound(bound)}"}} {so_far}\n')
        lines.append(f'{before}le="+Inf"}} {point.count}\n')
        lines.append(f"{self.name}_sum{_braces(inner)} {_number(point.sum)}\n")
        lines.append(f"{self.name}_count{_braces(inner)} {point.count}\n")
        self.series[labels] = "".join(lines)


def _add(families: dict[str, _Family], metric: pb.Metric, whose: Labels) -> None:
    kind, name = _kind(metric), name_of(metric)
    if kind is None:
        return
    family = families.setdefault(name, _Family(name, kind, metric.description or "Not described."))
    if family.kind != kind:
        return
    if kind == "histogram":
        for distribution in metric.histogram.data_points:
            family.put_distribution(_merged(_labels(distribution.attributes), whose), distribution)
        return
    for point in metric.sum.data_points if metric.HasField("sum") else metric.gauge.data_points:
        value = point.as_double if point.HasField("as_double") else float(point.as_int)
        family.put(_merged(_labels(point.attributes), whose), _number(value))


def _kind(metric: pb.Metric) -> str | None:
    """None for what is not summed up since a start, and for kinds that Prometheus does not have."""
    if metric.HasField("gauge"):
        return "gauge"
    if metric.histogram.aggregation_temporality == _CUMULATIVE:
        return "histogram"
    if metric.sum.aggregation_temporality == _CUMULATIVE:
        return "counter" if metric.sum.is_monotonic else "gauge"
    return None


def _whose(resource: Mapping[str, str]) -> Labels:
    job = "/".join(filter(None, (resource.get(_NAMESPACE, ""), resource.get(_JOB, ""))))
    return (("job", job or "unknown"), ("instance", resource.get(_INSTANCE, "")))


def _labels(attributes: Sequence[KeyValue]) -> Labels:
    """In the order of their names. Values of keys that Prometheus cannot tell apart are joined by `;`."""
    labels = dict[str, str]()
    for each in sorted(attributes, key=lambda each: each.key):
        label, value = _label(each.key), _value(each.value)
        labels[label] = f"{labels[label]};{value}" if label in labels else value
    return tuple(labels.items())


@lru_cache(4096)
def _label(key: str) -> str:
    label = re.sub(r"[^a-zA-Z0-9_]", "_", key) or "_"
    if label.startswith("__"):
        return f"key{label}"
    return f"key_{label}" if label[0].isdigit() else label


def _merged(labels: Labels, whose: Labels) -> Labels:
    """The second ones hold; what a metric says beside them under the same name is kept as `exported_...`."""
    taken = {name for name, _ in whose} | {"le"}
    return (*whose, *((f"exported_{name}" if name in taken else name, value) for name, value in labels))


def _value(value: AnyValue) -> str:
    match value.WhichOneof("value"):
        case "string_value":
            return value.string_value
        case "bool_value":
            return "true" if value.bool_value else "false"
        case "int_value":
            return str(value.int_value)
        case "double_value":
            return _number(value.double_value)
        case _:
            return ""


def _inner(labels: Labels) -> str:
    escaped = (
        (name, value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")) for name, value in labels if value
    )
    return ",".join(f'{name}="{value}"' for name, value in escaped)


def _braces(inner: str) -> str:
    return f"{{{inner}}}" if inner else ""


@lru_cache(4096)
def _bound(value: float) -> str:
    """With a point: what a query compares is the same in Prometheus 2 and 3, which adds it."""
    return repr(value)


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)
