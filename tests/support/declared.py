"""All metrics that the code declares, by the names that Prometheus has for them."""

import importlib
import pkgutil
import sys

from opentelemetry.proto.metrics.v1 import metrics_pb2 as pb

import services
from services.chassis import metrics, prometheus
from services.chassis.metrics import Kind, Metric


def every_metric() -> dict[str, Metric]:
    """By its name in Prometheus, in the order of the alphabet, without those of tests."""
    for module in pkgutil.walk_packages(services.__path__, "services."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    known = {_name(metric): metric for metric in metrics.declared if not metric.name.startswith("test.")}
    return dict(sorted(known.items()))


def labels_of(metric: Metric) -> list[str]:
    """As Prometheus writes them."""
    return [label.replace(".", "_") for label in metric.labels]


def rows() -> list[str]:
    """The table in docs/metrics.md."""
    return [
        f"| `{name}` | {metric.kind.value} | {', '.join(labels_of(metric))} | {metric.about} |"
        for name, metric in every_metric().items()
    ]


def _name(metric: Metric) -> str:
    message = pb.Metric(name=metric.name, unit=metric.unit)
    if metric.kind is Kind.COUNTER:
        message.sum.is_monotonic = True
    else:
        getattr(message, metric.kind.value).SetInParent()
    return prometheus.name_of(message)


if __name__ == "__main__":
    sys.stdout.write("\n".join([*rows(), ""]))
