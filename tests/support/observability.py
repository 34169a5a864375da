"""The profile `observability` of compose.yaml, and the files that its services are given."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

ROOT = Path(__file__).parents[2]


def read(path: str) -> Any:
    """A YAML file of this project, by its path from the top."""
    return yaml.safe_load((ROOT / path).read_text())


SERVICES: dict[str, Any] = read("compose.yaml")["services"]
PROFILE = {name: service for name, service in SERVICES.items() if "observability" in service.get("profiles", ())}
COLLECTOR = read("deploy/observability/collector.yaml")
JAEGER = read("deploy/observability/jaeger.yaml")
LOKI = read("deploy/observability/loki.yaml")
PROMETHEUS = read("deploy/prometheus/containers.yml")
SOURCES: dict[str, Any] = {source["uid"]: source for source in read("deploy/grafana/datasources.yaml")["datasources"]}


def mounted(service: str) -> dict[str, str]:
    """Path in the container -> path from the top of this project. Raises AssertionError for one that may be written."""
    found = {}
    for volume in PROFILE[service].get("volumes", ()):
        here, there, *mode = volume.split(":")
        if here.startswith("./"):
            assert mode == ["ro"], volume
            found[there] = here.removeprefix("./")
    return found


def asked() -> set[tuple[str, int]]:
    """Whom the files name, by host and port: those who send, scrape and ask."""
    exporters = (exporter["endpoint"] for exporter in COLLECTOR["exporters"].values())
    scraped = (
        target
        for job in PROMETHEUS["scrape_configs"]
        for static in job.get("static_configs", ())
        for target in static["targets"]
    )
    looked_up = (
        f"{name}:{lookup['port']}"
        for job in PROMETHEUS["scrape_configs"]
        for lookup in job.get("dns_sd_configs", ())
        for name in lookup["names"]
    )
    sources = (source["url"] for source in SOURCES.values())
    return {_host_and_port(address) for addresses in (exporters, scraped, looked_up, sources) for address in addresses}


def answering() -> set[tuple[str, int]]:
    """Who listens where: by the same files for those of the profile, by the shop's own table for the shop."""
    from services.cli.settings import PORTS

    reader = COLLECTOR["service"]["telemetry"]["metrics"]["readers"][0]["pull"]["exporter"]["prometheus"]
    return {
        ("telemetry", PORTS["otlp"]),
        ("telemetry", PORTS["telemetry"]),
        ("envoy", PORTS["envoy-admin"]),
        ("collector", _port(COLLECTOR["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"])),
        ("collector", reader["port"]),
        ("jaeger", _port(JAEGER["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"])),
        ("jaeger", _port(JAEGER["extensions"]["jaeger_query"]["http"]["endpoint"])),
        ("loki", LOKI["server"]["http_listen_port"]),
        ("prometheus", 9090),  # its default
    }


def uids(found: object) -> set[str]:
    """Of all data sources that anything in this is linked with."""
    match found:
        case dict():
            own = {value for key, value in found.items() if key == "datasourceUid"}
            return own.union(*(uids(value) for value in found.values()))
        case list():
            return set[str]().union(*(uids(value) for value in found))
        case _:
            return set()


def unescaped(text: str) -> str:
    """As Grafana reads what it is provisioned with: `$$` is a dollar. Raises AssertionError for a variable."""
    assert not re.search(r"(?<!\$)\$(?!\$)", text), f"{text}: Grafana takes this for a variable of its environment"
    return text.replace("$$", "$")


def _host_and_port(address: str) -> tuple[str, int]:
    parts = urlsplit(address if "//" in address else f"//{address}")
    assert parts.hostname, address
    assert parts.port, address
    return parts.hostname, parts.port


def _port(endpoint: str) -> int:
    return int(endpoint.rpartition(":")[2])
