"""What deploy/ asks Prometheus for."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.support.promql import Asked, asked, named

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text())["groups"]
    for rule in group["rules"]
]
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
RECORDED = {rule["record"] for rule in RULES if "record" in rule}


def queries() -> list[Asked]:
    """Of rules and dashboard; of a panel also what its legends name."""
    return [asked(rule["expr"]) for rule in RULES] + list(_of_panels())


def _of_panels() -> Iterator[Asked]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            found = asked(target["expr"])
            yield Asked(found.query, found.metrics, found.labels | frozenset(named(target["legendFormat"])))


def metrics() -> set[str]:
    """The names that processes have to tell: without those that rules record."""
    return {name for query in queries() for name in query.metrics} - RECORDED
