"""The rules that Prometheus is given: objectives and alerts, tested by its own tool."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.promtool import needs_promtool, told_by_promtool

PROMETHEUS = Path(__file__).parents[2] / "deploy" / "prometheus"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"] for rule in group["rules"]
]
ALERTS = {rule["alert"] for rule in RULES if "alert" in rule}
TESTS = ("rules_test.yml", "rules_slow_test.yml")


@needs_promtool
def test_prometheus_takes_configuration_and_rules() -> None:
    assert "SUCCESS: 1 rule files found" in told_by_promtool("check", "config", "prometheus.yml", cwd=PROMETHEUS)


@needs_promtool
@pytest.mark.parametrize("tests", TESTS)
def test_each_alert_fires_when_it_has_to_and_not_before(tests: str) -> None:
    assert "SUCCESS" in told_by_promtool("test", "rules", tests, cwd=PROMETHEUS)


def test_every_alert_is_tested_and_says_what_to_do() -> None:
    fires = set[str]()
    for file in TESTS:
        for test in yaml.safe_load((PROMETHEUS / file).read_text())["tests"]:
            for query in test["promql_expr_test"]:
                fires |= {name for name in ALERTS for sample in query["exp_samples"] if f'"{name}"' in str(sample)}

    assert fires == ALERTS
    for rule in RULES:
        if "alert" in rule:
            assert rule["labels"]["severity"] in {"page", "ticket"}
            assert set(rule["annotations"]) == {"summary", "mend"}
