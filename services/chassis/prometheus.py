"""Metrics as Prometheus reads them: its text format 0.0.4, with names by OpenTelemetry's rules for that.

Dots become underscores, the unit is spelt out behind the name, counters end in `_total` (OpenTelemetry, "Prometheus and
OpenMetrics Compatibility"). What comes in may be anybody's: all of it is escaped, and what Prometheus has no word for
is left out.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence

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
    info = families.setdefault("target_info", _Family("gauge", "Who was asked."))
    for resource in resources:
        about = _labels(resource.resource.attributes)
        known = {each.key: _value(each.value) for each in resource.resource.attributes}
        whose = _whose(known) if told_apart else ()
        info.lines[_merged(about, whose), ""] = "1"
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                _add(families, metric, whose)
    return "".join(family.text(name) for name, family in families.items() if family.lines)


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
    def __init__(self, kind: str, about: str) -> None:
        self.kind, self.about = kind, about
        self.lines: dict[tuple[Labels, str], str] = {}
        """Values by labels and the ending of the name."""

    def text(self, name: str) -> str:
        about = self.about.replace("\\", "\\\\").replace("\n", "\\n")
        head = f"# HELP {name} {about}\n# TYPE {name} {self.kind}\n"
        return head + "".join(
            f"{name}{ending}{_braces(labels)} {value}\n" for (labels, ending), value in self.lines.items()
        )


def _add(families: dict[str, _Family], metric: pb.Metric, whose: Labels) -> None:
    kind = _kind(metric)
    if kind is None:
        return
    family = families.setdefault(name_of(metric), _Family(kind, metric.description or "Not described."))
    if family.kind != kind:
        return
    if metric.HasField("histogram"):
        for distribution in metric.histogram.data_points:
            _add_distribution(family, distribution, _merged(_labels(distribution.attributes), whose))
        return
    for point in metric.sum.data_points if metric.HasField("sum") else metric.gauge.data_points:
        value = point.as_double if point.HasField("as_double") else float(point.as_int)
        family.lines[_merged(_labels(point.attributes), whose), ""] = _number(value)


def _kind(metric: pb.Metric) -> str | None:
    """None for what is not summed up since a start, and for kinds that Prometheus does not have."""
    if metric.HasField("gauge"):
        return "gauge"
    if metric.histogram.aggregation_temporality == _CUMULATIVE:
        return "histogram"
    if metric.sum.aggregation_temporality == _CUMULATIVE:
        return "counter" if metric.sum.is_monotonic else "gauge"
    return None


def _add_distribution(family: _Family, point: pb.HistogramDataPoint, labels: Labels) -> None:
    if len(point.bucket_counts) == len(point.explicit_bounds) + 1:
        so_far = 0
        for bound, count in zip((*point.explicit_bounds, math.inf), point.bucket_counts, strict=True):
            so_far += count
            family.lines[(*labels, ("le", _bound(bound))), "_bucket"] = str(so_far)
    else:
        family.lines[(*labels, ("le", "+Inf")), "_bucket"] = str(point.count)
    family.lines[labels, "_sum"] = _number(point.sum)
    family.lines[labels, "_count"] = str(point.count)


def _whose(resource: Mapping[str, str]) -> Labels:
    job = "/".join(filter(None, (resource.get(_NAMESPACE, ""), resource.get(_JOB, ""))))
    return (("job", job or "unknown"), ("instance", resource.get(_INSTANCE, "")))


def _labels(attributes: Sequence[KeyValue]) -> Labels:
    """In the order of their names. Values of keys that Prometheus cannot tell apart are joined by `;`."""
    labels = dict[str, str]()
    for each in sorted(attributes, key=lambda each: each.key):
        label = re.sub(r"[^a-zA-Z0-9_]", "_", each.key) or "_"
        label = f"key_{label}" if label[0].isdigit() else label
        label = f"key{label}" if label.startswith("__") else label
        value = _value(each.value)
        labels[label] = f"{labels[label]};{value}" if label in labels else value
    return tuple(labels.items())


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


def _braces(labels: Labels) -> str:
    if not labels:
        return ""
    escaped = (
        (name, value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")) for name, value in labels if value
    )
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped) + "}"


def _bound(value: float) -> str:
    """With a point: what a query compares is the same in Prometheus 2 and 3, which adds it."""
    return "+Inf" if math.isinf(value) else repr(float(value))


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)
