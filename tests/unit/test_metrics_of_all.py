"""The metrics of the whole code: documented, named as they should be, and all that deploy/ asks for."""

import re
from pathlib import Path

from services.chassis.metrics import Kind
from tests.support import declared, deployed

METRICS = declared.every_metric()
ALWAYS = {"job", "instance", "service_version", "otel_metric_overflow"}
"""Labels of any metric."""


def test_the_table_of_metrics_is_that_of_the_code() -> None:
    """`python -m tests.support.declared` writes it."""
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()

    assert [line for line in page.splitlines() if line.startswith("| `")] == declared.rows()


def test_names_and_labels_are_such_as_prometheus_wants() -> None:
    for name, metric in METRICS.items():
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
        assert not name.endswith(("_count", "_sum", "_bucket"))
        assert metric.about.endswith(".")
        for label in declared.labels_of(metric):
            assert re.fullmatch(r"[a-z][a-z0-9_]*", label)
            assert label not in {"job", "instance", "le", "quantile"}


def test_rules_and_dashboard_ask_for_what_the_code_says() -> None:
    known = dict(METRICS)
    for name, metric in METRICS.items():
        if metric.kind is Kind.HISTOGRAM:
            known |= {f"{name}_{ending}": metric for ending in ("bucket", "sum", "count")}
    recorded = {rule["record"] for rule in deployed.RULES if "record" in rule}

    for asked in deployed.queries():
        assert asked.metrics, asked.query
        labels = set(ALWAYS)
        for name in asked.metrics - recorded:
            assert name in known, asked.query
            labels |= set(declared.labels_of(known[name]))
            labels |= {"le"} if name.endswith("_bucket") else set()
        assert asked.labels <= labels, asked.query


def test_buckets_that_rules_ask_for_are_there() -> None:
    for asked in deployed.queries():
        for bound in re.findall(r'le="([^"]+)"', asked.query):
            assert bound in {str(bound) for metric in METRICS.values() for bound in getattr(metric, "bounds", ())}
