"""What the manifests promise, held against the code: how pods end, what they may use, which secrets they read."""

import inspect
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from deploy.manifests import Kustomization, documents
from services.chassis import draining, server
from services.chassis.database import Database
from services.cli.settings import SERVICES
from tests.support.surroundings import CHECKOUT

type Document = Mapping[str, Any]

KUBERNETES = CHECKOUT / "deploy" / "kubernetes"
DEMO = Kustomization.read(KUBERNETES / "overlays" / "demo")
README = (KUBERNETES / "README.md").read_text()
OURS = (*SERVICES, "controlplane", "telemetry", "envoy", "databases", "etcd", "mailpit", "catalogue")


def pods(rendered: list[Document]) -> dict[str, Document]:
    """The specification of every pod, by the name of what makes it."""
    return {each["metadata"]["name"]: each["spec"]["template"]["spec"] for each in rendered if _makes_pods(each)}


def _makes_pods(document: Document) -> bool:
    return document["kind"] in ("Deployment", "StatefulSet", "Job")


@pytest.fixture(scope="module")
def rendered() -> list[Document]:
    if not (kubectl := shutil.which("kubectl")):
        pytest.skip("no kubectl here: it renders the overlay")
    run = subprocess.run(
        [kubectl, "kustomize", KUBERNETES / "overlays" / "demo"], check=True, capture_output=True, text=True, timeout=60
    )
    return list(yaml.load_all(run.stdout, yaml.CSafeLoader))


def patch(name: str) -> Document:
    (found,) = documents(KUBERNETES / "base" / name)
    spec: Document = found.document["spec"]["template"]["spec"]
    return spec


def test_a_service_has_the_time_to_drain() -> None:
    longest_s = draining.HEARD_S + draining.CHECKED_S + server.GRACE_S
    given_s = patch("every-service.yaml")["terminationGracePeriodSeconds"]
    assert given_s >= 2 * longest_s, "the rest is for its registration and its last spans"


def test_whoever_has_a_prestop_has_time_left_after_it() -> None:
    for found in DEMO.resources:
        for container in found.containers:
            stop = container.get("lifecycle", {}).get("preStop", {})
            script = " ".join(stop.get("exec", {}).get("command", ()))
            used_s = stop.get("sleep", {}).get("seconds", 0) + sum(map(int, re.findall(r"sleep (\d+)", script)))
            assert used_s < found.document["spec"]["template"]["spec"].get("terminationGracePeriodSeconds", 30), found


def test_envoy_drains_for_as_long_as_it_is_told_to() -> None:
    (envoy,) = (found for found in DEMO.resources if found.kind == "Deployment" and found.name == "envoy")
    (container,) = envoy.document["spec"]["template"]["spec"]["containers"]
    drain_s = int(container["command"][container["command"].index("--drain-time-s") + 1])
    last_s = int(re.findall(r"sleep (\d+)", container["lifecycle"]["preStop"]["exec"]["command"][-1])[-1])
    assert last_s > drain_s


def test_pools_of_all_replicas_leave_room_in_postgresql() -> None:
    pool = inspect.signature(Database.connect).parameters["size"].default
    most = [found.document["spec"]["maxReplicas"] for found in DEMO.resources if found.kind.startswith("Horizontal")]
    (postgres,) = (found.document["spec"] for found in DEMO.resources if found.kind == "Cluster")
    (keycloak,) = (found.document["spec"] for found in DEMO.resources if found.kind == "Keycloak")
    given = int(postgres["postgresql"]["parameters"]["max_connections"])
    assert len(most) == len(SERVICES)
    # One more of each while releases change; `audit` may have 60.
    taken = sum(count + 1 for count in most) * pool + keycloak["instances"] * keycloak["db"]["poolMaxSize"] + 60
    assert taken <= given
    assert f"{sum(most) * pool}\n  of PostgreSQL's {given}" in README


def secrets_read(spec: Document) -> Iterator[tuple[str, str]]:
    """Secret and key."""
    for volume in spec.get("volumes", ()):
        for source in (volume, *volume.get("projected", {}).get("sources", ())):
            if secret := source.get("secret"):
                for item in secret["items"]:
                    yield secret.get("secretName") or secret["name"], item["key"]


def test_readme_tells_how_to_make_every_secret_that_is_read() -> None:
    told: dict[str, set[str]] = {}
    for names, keys in re.findall(r"^\| ((?:`shopmesh-\w+`,? ?)+) \| ([^|]*) \|", README, re.MULTILINE):
        for name in re.findall(r"`([\w-]+)`", names):
            told[name] = set(re.findall(r"`([\w.-]+)`", keys))
            if "the same" in keys:
                told[name] |= {"client-secret", "database-password"}
    read = {each for found in DEMO.resources if found.pod for each in secrets_read(found.pod["spec"])}
    assert {(name, key) for name, key in read if key not in told.get(name, ())} == set()
    for service in SERVICES:
        assert {key for name, key in read if name == f"shopmesh-{service}"} == told[f"shopmesh-{service}"]


def test_no_secret_is_written_down() -> None:
    assert [found for found in DEMO.resources if found.kind == "Secret"] == []
    for found in DEMO.resources:
        for container in found.containers:
            for variable in container.get("env", ()):
                assert not re.search(r"://\w+:[^@/]+@", variable.get("value", "")), f"{found}: {variable['name']}"


def test_what_the_patches_give_reaches_every_process(rendered: list[Document]) -> None:
    specs = pods(rendered)
    assert specs.keys() == set(OURS)
    for name, spec in specs.items():
        assert spec["securityContext"]["runAsNonRoot"], name
        assert spec["securityContext"]["runAsUser"] == 10001, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not spec["automountServiceAccountToken"], name
        for container in (*spec.get("initContainers", ()), *spec["containers"]):
            assert container["securityContext"]["readOnlyRootFilesystem"], name
            assert not container["securityContext"]["allowPrivilegeEscalation"], name
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), name
            assert {"cpu", "memory"} <= container["resources"]["limits"].keys(), name
            assert re.search(r":v?\d+\.\d+\.\d+", container["image"]), f"{name}: {container['image']}"
            mounts = {mount["name"] for mount in container.get("volumeMounts", ())}
            assert mounts <= {volume["name"] for volume in spec.get("volumes", ())} | {"data"}, name


def test_a_service_is_probed_where_it_listens_and_says_who_it_is(rendered: list[Document]) -> None:
    for service in SERVICES:
        (container,) = pods(rendered)[service]["containers"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container[probe]["grpc"] == {"port": container["ports"][0]["containerPort"]}, (service, probe)
        fields = {
            each["name"]: each["valueFrom"]["fieldRef"]["fieldPath"] for each in container["env"] if "valueFrom" in each
        }
        assert fields == {"SHOPMESH_INSTANCE": "metadata.name", "SHOPMESH_ADVERTISE": "status.podIP"}


def test_pods_that_may_be_moved_have_a_budget_and_are_spread(rendered: list[Document]) -> None:
    budgets = {each["metadata"]["name"] for each in rendered if each["kind"] == "PodDisruptionBudget"}
    assert budgets == {*SERVICES, "controlplane", "envoy", "etcd"}
    for name in (*SERVICES, "controlplane", "envoy"):
        assert pods(rendered)[name]["topologySpreadConstraints"], name
