"""What `make check` says of compose.yaml and the manifests beyond their schemas, which it has in a place of its own."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

from deploy.composed import faults
from deploy.manifests import Kustomization, astray
from tests.support.surroundings import CHECKOUT
from tests.support.wirings import KUBERNETES

COMPOSE = (CHECKOUT / "compose.yaml").read_text()

COMPOSED = {
    "a name of its own": ("\nnetworks:", "\nname: shop\nnetworks:", r"^name: Compose 1\.29 refuses it"),
    "a network that is not there": ("networks: [data]", "networks: [dat]", "etcd: networks: there is no network dat"),
    "a volume that is not there": ('"nats:/data"', '"nat:/data"', "nats: volumes: there is no volume nat"),
    "a volume of nobody": ('"nats:/data"', '"etcd:/data"', r"^volumes\.nats: nobody uses it"),
    "a service that is not there": ("etcd: {condition", "etc: {condition", "depends_on: there is no service etc"),
    "no healthcheck": ("healthcheck: {test: [CMD, wget", "x: {test: [CMD, wget", "nats has no healthcheck"),
    "any version": ("image: nats:2.15.1-alpine", "image: nats:latest", "image: nats:latest is no exact version"),
    "a version that moves": ("image: postgres:18.6-bookworm", "image: postgres:18", "image: postgres:18 is no exact"),
    "no version": ("image: nats:2.15.1-alpine", "image: nats", "image: nats is no exact version"),
    "published to everybody": ("${SHOPMESH_PUBLIC:-127.0.0.1}:${SHOPMESH_PORT_MAIL", "${SHOPMESH_PORT_MAIL",
                               "services.mailpit: ports"),
    "a secret in sight": ("MP_DATABASE:", "MP_PASSWORD:", "MP_PASSWORD looks like a secret: give a file"),
}  # fmt: skip
"""What stands there, what is made of it, what is said."""

BASE, DEMO = "base/kustomization.yaml", "overlays/demo/kustomization.yaml"
MANIFESTS = {
    "a file that is not there": (BASE, "- order.yaml", "- orders.yaml", "there is no orders.yaml"),
    "a patch that is not there": (BASE, "path: every-service.yaml", "path: all.yaml", "no all.yaml"),
    "a patch of nothing": (BASE, "component=service", "component=servant", "the patch hits nothing"),
    "a patch of an unknown name": ("overlays/demo/pages.yaml", "name: telemetry", "name: pages", "patch hits nothing"),
    "a patch of another container": ("base/every-service.yaml", "- name: shopmesh", "- name: shop",
                                     "Deployment order has no container {'shop'}"),
    "settings that are not there": (BASE, "[settings.env]", "[setting.env]", "no setting.env"),
    "settings of nobody": (DEMO, "name: shopmesh-settings", "name: settings",
                           "no ConfigMap settings to merge into"),
    "an image of nobody": (DEMO, "name: shopmesh, new", "name: mesh, new", "the image mesh"),
    "a port of nobody": ("base/envoy.yaml", "targetPort: mesh", "targetPort: mess", "no container has a port mess"),
    "a service of nobody": ("base/telemetry.yaml", "  selector: {app.kubernetes.io/name: telemetry}",
                            "  selector: {app.kubernetes.io/name: tele}", "Service telemetry: selects no pod"),
    "a budget of nobody": ("infrastructure/etcd.yaml", "    matchLabels: {app.kubernetes.io/name: etcd}\n",
                           "    matchLabels: {app.kubernetes.io/name: etc}\n", "Budget etcd: selects no pod"),
    "replicas of nobody": ("base/order.yaml", "kind: Deployment, name: order", "kind: Deployment, name: orders",
                           "there is no Deployment orders"),
    "somebody else's pods": ("base/order.yaml", "    matchLabels: {app.kubernetes.io/name: order}\n  template",
                             "    matchLabels: {app.kubernetes.io/name: product}\n  template",
                             "Deployment order: does not select its own pods"),
}  # fmt: skip
"""A file, what stands there, what is made of it, what is said."""


def test_nothing_is_said_of_what_is_there() -> None:
    assert list(faults(yaml.load(COMPOSE, yaml.CSafeLoader))) == []
    demo = Kustomization.read(KUBERNETES / "overlays" / "demo")
    assert [*demo.faults, *astray(demo)] == []


@pytest.mark.parametrize(("old", "new", "says"), COMPOSED.values(), ids=COMPOSED)
def test_a_fault_of_the_compose_file_is_told(old: str, new: str, says: str) -> None:
    assert old in COMPOSE
    told = list(faults(yaml.load(COMPOSE.replace(old, new), yaml.CSafeLoader)))
    assert [fault for fault in told if re.search(says, fault)], told


@pytest.mark.parametrize(("file", "old", "new", "says"), MANIFESTS.values(), ids=MANIFESTS)
def test_a_fault_of_the_manifests_is_told(file: str, old: str, new: str, says: str, tmp_path: Path) -> None:
    shutil.copytree(KUBERNETES, tmp_path, dirs_exist_ok=True)
    text = (tmp_path / file).read_text()
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new))
    demo = Kustomization.read(tmp_path / "overlays" / "demo")
    told = [*demo.faults, *astray(demo)]
    assert [fault for fault in told if says in fault], told
