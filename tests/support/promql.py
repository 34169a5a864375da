"""What queries ask for: the metrics, and the labels that they are chosen and put together by."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import promql_parser as promql


@dataclass(frozen=True, slots=True)
class Asked:
    query: str
    metrics: frozenset[str]
    labels: frozenset[str]


def asked(query: str) -> Asked:
    """By one query, in which Grafana's variables may stand. Raises ValueError for what is no PromQL."""
    metrics, labels = set[str](), set[str]()

    def look(part: promql.Expr) -> None:
        match part:
            case promql.VectorSelector():
                metrics.add(part.name or "")
                labels.update(matcher.name for matcher in part.matchers.matchers)
            case promql.MatrixSelector():
                look(part.vector_selector)
            case promql.AggregateExpr() if part.modifier:
                labels.update(part.modifier.labels)
            case promql.BinaryExpr() if part.modifier:
                labels.update(part.modifier.matching.labels if part.modifier.matching else ())
                labels.update(part.modifier.group_labels or ())

    promql.walk(promql.parse(query.replace("$__rate_interval", "5m")), pre_visit=look)
    return Asked(query, frozenset(metrics), frozenset(labels))


def named(legend: str) -> Iterator[str]:
    """Labels that a legend of Grafana names."""
    yield from re.findall(r"\{\{(\w+)\}\}", legend)
