"""The profile `observability`: its files fit together, to compose.yaml and to what the shop tells.

docs/observability.md says what was started with them, and seen.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import deployed, observability
from tests.support.observability import COLLECTOR, JAEGER, LOKI, PROFILE, PROMETHEUS, ROOT, SERVICES, SOURCES, mounted
from tests.support.promql import asked
from tests.unit.test_metrics_of_all import METRICS

FILES = {
    "collector": "deploy/observability/collector.yaml",
    "jaeger": "deploy/observability/jaeger.yaml",
    "loki": "deploy/observability/loki.yaml",
}


def test_the_profile_has_its_services_and_each_is_given_its_files() -> None:
    assert set(PROFILE) == {"collector", "prometheus", "jaeger", "loki", "grafana"}
    for name in PROFILE:
        assert all((ROOT / path).exists() for path in mounted(name).values()), name
    for name, path in FILES.items():
        (command,) = PROFILE[name]["command"]
        assert mounted(name)[command.partition("=")[2]] == path
    assert mounted("prometheus") == {"/etc/prometheus": "deploy/prometheus"}
    assert "--config.file=/etc/prometheus/containers.yml" in PROFILE["prometheus"]["command"]


def test_whoever_is_asked_for_something_listens_there() -> None:
    assert observability.asked() <= observability.answering()
    for name in {*PROFILE, *(name for name, _ in observability.asked())}:
        assert "mesh" in SERVICES[name]["networks"], name


def test_all_tell_the_same_endpoint_and_the_store_does_not_tell_itself() -> None:
    """It would forward to the collector what that has forwarded to it."""
    told = {service.get("environment", {}).get("SHOPMESH_OTLP_ENDPOINT") for service in SERVICES.values()}

    assert told == {None, "${SHOPMESH_OTLP_ENDPOINT:-http://telemetry:4317}"}
    assert "SHOPMESH_OTLP_ENDPOINT" not in SERVICES["telemetry"]["environment"]
    # Where it would refuse the name that Prometheus asks it by.
    assert "telemetry" in SERVICES["telemetry"]["environment"]["SHOPMESH_PAGES_HOSTS"].split(",")


@pytest.mark.parametrize("config", [COLLECTOR, JAEGER], ids=["collector", "jaeger"])
def test_pipelines_are_made_of_all_that_is_declared(
    config: dict[str, dict[str, dict[str, dict[str, list[str]]]]],
) -> None:
    pipelines = config["service"]["pipelines"].values()

    for kind in ("receivers", "processors", "exporters"):
        assert {part for pipeline in pipelines for part in pipeline.get(kind, ())} == set(config.get(kind, ())), kind
    assert set(config["service"].get("extensions", ())) == set(config.get("extensions", ()))


def test_the_store_of_the_shop_is_told_everything_and_numbers_never_wait() -> None:
    pipelines = COLLECTOR["service"]["pipelines"]
    telemetry = {name for name, exporter in COLLECTOR["exporters"].items() if exporter["endpoint"] == "telemetry:4317"}

    assert set(pipelines) == {"traces", "logs", "metrics"}
    for pipeline in pipelines.values():
        assert telemetry & set(pipeline["exporters"])
    for name in pipelines["metrics"]["exporters"]:
        exporter = COLLECTOR["exporters"][name]
        assert not exporter["sending_queue"]["enabled"]
        assert not exporter["retry_on_failure"]["enabled"]


def test_prometheus_reads_the_same_rules_and_page_as_beside_a_local_shop() -> None:
    local = observability.read("deploy/prometheus/prometheus.yml")
    jobs = {job["job_name"]: job for job in PROMETHEUS["scrape_configs"]}

    assert PROMETHEUS["rule_files"] == local["rule_files"]
    assert PROMETHEUS["global"] == local["global"]
    for job in local["scrape_configs"]:
        for key in ("honor_labels", "metrics_path"):
            assert jobs[job["job_name"]].get(key) == job.get(key)


def test_grafana_shows_our_dashboard_and_links_lead_to_sources_that_it_has() -> None:
    (provider,) = observability.read("deploy/grafana/dashboards.yaml")["providers"]
    (shown,) = [there for there, here in mounted("grafana").items() if here == "deploy/grafana/dashboard.json"]
    variables = {variable["name"]: variable for variable in deployed.DASHBOARD["templating"]["list"]}

    assert Path(shown).parent == Path(provider["options"]["path"])
    assert PROFILE["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == shown
    assert {source["type"] for source in SOURCES.values()} == {"prometheus", "loki", "jaeger"}
    assert observability.uids(list(SOURCES.values())) == {"prometheus", "loki", "jaeger"}
    assert [uid for uid, source in SOURCES.items() if source.get("isDefault")] == ["prometheus"]
    assert variables["datasource"]["query"] in {source["type"] for source in SOURCES.values()}
    assert {panel["datasource"]["uid"] for panel in deployed.DASHBOARD["panels"] if "datasource" in panel} == {
        "${datasource}"
    }


def test_what_a_trace_asks_for_is_what_the_shop_tells() -> None:
    jaeger = SOURCES["jaeger"]["jsonData"]
    (field,) = SOURCES["loki"]["jsonData"]["derivedFields"]
    labels = LOKI["limits_config"]["otlp_config"]["resource_attributes"]["attributes_config"]

    assert labels == [{"action": "index_label", "attributes": ["service.name"]}]
    assert observability.unescaped(jaeger["tracesToLogsV2"]["query"]) == (
        '{service_name=~".+"} | trace_id="${__trace.traceId}"'
    )
    assert (field["matcherType"], field["matcherRegex"]) == ("label", "trace_id")
    assert observability.unescaped(field["url"]) == "${__value.raw}"
    assert jaeger["tracesToMetrics"]["tags"] == [{"key": "service.name", "value": "job"}]
    for query in jaeger["tracesToMetrics"]["queries"]:
        found = asked(observability.unescaped(query["query"]).replace("$__tags", 'job="order"'))
        assert {name.removesuffix("_count") for name in found.metrics} <= set(METRICS)


@pytest.mark.parametrize(
    "words",
    [
        ("promtool", "check", "config", "deploy/prometheus/containers.yml"),
        ("otelcol-contrib", "validate", "--config=deploy/observability/collector.yaml"),
        ("jaeger", "validate", "--config=deploy/observability/jaeger.yaml"),
        ("loki", "-verify-config", "-config.file=deploy/observability/loki.yaml"),
    ],
    ids=lambda words: words[0],
)
def test_whoever_is_given_a_file_takes_it(words: tuple[str, ...]) -> None:
    if not shutil.which(words[0]):
        pytest.skip(f"there is no {words[0]} here")

    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
