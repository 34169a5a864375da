"""The pods of the rendered overlay as containers: what they are told, who they run as, what they may write.

One network, no policies, no gateway; PostgreSQL and NATS, which an operator and a chart make, are their plain images.
"""

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from tests.support.surroundings import CHECKOUT

type Document = Mapping[str, Any]

NETWORK = "shopmesh-pods"
SUBNET = "10.213.77"
OVERLAY = CHECKOUT / "deploy" / "kubernetes" / "overlays" / "demo"


def named(pod: str) -> str:
    """Its container."""
    return f"{NETWORK}-{pod}"


def docker(*words: object) -> str:
    """Runs it and returns what it says. Raises CalledProcessError, with what it says of itself."""
    run = subprocess.run(["docker", *map(str, words)], check=False, capture_output=True, text=True)
    assert run.returncode == 0, f"docker {' '.join(map(str, words))}: {run.stderr}"
    return run.stdout.strip()


@dataclass
class Pods:
    """Those that run, and the folder that all volumes are in."""

    folder: Path
    image: str
    rendered: list[Document]
    addresses: dict[str, str] = field(default_factory=dict[str, str])
    _numbers: Iterator[int] = field(default_factory=lambda: count(10))

    def start(self, kind: str, name: str, number: int = 0) -> str:
        """The pod with that number of a Deployment or StatefulSet; returns its name. Init containers are over then."""
        made = self._one(kind, name)
        spec, pod = made["spec"]["template"]["spec"], f"{name}-{number}"
        self.addresses[pod] = f"{SUBNET}.{next(self._numbers)}"
        volumes = {volume["name"]: self._volume(pod, volume) for volume in spec.get("volumes", ())}
        for claim in made["spec"].get("volumeClaimTemplates", ()):
            volumes[claim["metadata"]["name"]] = self._folder(pod, claim["metadata"]["name"])
        for container in spec.get("initContainers", ()):
            docker("run", "--rm", *self._words(pod, spec, container, volumes))
        (container,) = spec["containers"]
        names = [word for alias in self._names(made, pod) for word in ("--network-alias", alias)]
        waits = ("--detach", "--name", named(pod)) if kind != "Job" else ("--rm",)
        docker("run", *waits, *names, "--ip", self.addresses[pod], *self._words(pod, spec, container, volumes))
        return pod

    def beside(self, name: str, image: str, alias: str, *words: str) -> None:
        """Something that no manifest makes. Words that begin with `--env` and `--volume` are for the engine."""
        engine = [word for word in words if word.startswith(("--env", "--volume"))]
        known = ("--detach", "--name", named(name), "--network", NETWORK, "--network-alias", alias)
        docker("run", *known, *engine, image, *(word for word in words if word not in engine))

    def secret(self, name: str, **keys: str) -> None:
        folder = self.folder / "secrets" / name
        folder.mkdir(parents=True)
        for key, value in keys.items():
            (folder / key).write_text(value)

    def running(self) -> dict[str, bool]:
        """Whether each runs and has never been started anew."""
        told = json.loads(docker("inspect", *docker("ps", "-aq", "--filter", f"name={NETWORK}-").split()))
        return {each["Name"].removeprefix(f"/{NETWORK}-"): each["State"]["Running"] for each in told}

    def _one(self, kind: str, name: str) -> Document:
        return next(each for each in self.rendered if each["kind"] == kind and each["metadata"]["name"] == name)

    def _names(self, made: Document, pod: str) -> Iterator[str]:
        """The Services that select it, and itself below a StatefulSet's."""
        labels = made["spec"]["template"]["metadata"]["labels"]
        for each in self.rendered:
            if each["kind"] == "Service" and each["spec"]["selector"].items() <= labels.items():
                yield each["metadata"]["name"]
                yield f"{pod}.{each['metadata']['name']}"

    def _words(self, pod: str, spec: Document, container: Document, volumes: Mapping[str, Path]) -> list[object]:
        may, limits = container["securityContext"], container["resources"]["limits"]
        told = {name: value for source in container.get("envFrom", ()) for name, value in self._map(source).items()}
        told |= {each["name"]: self._value(each, pod) for each in container.get("env", ())}
        command = [re.sub(r"\$\((\w+)\)", lambda found: told[found[1]], word) for word in container.get("command", ())]
        image = container["image"].replace("registry.example.com/shopmesh:0.1.0", self.image)
        return [
            "--network", NETWORK, "--hostname", pod, "--memory", limits["memory"].lower().removesuffix("i"),
            "--user", f"{spec['securityContext']['runAsUser']}:{spec['securityContext']['runAsGroup']}",
            *(["--read-only"] if may["readOnlyRootFilesystem"] else []),
            "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
            *(word for name, value in told.items() for word in ("--env", f"{name}={value}")),
            *(f"--volume={volumes[mount['name']]}:{mount['mountPath']}:{'ro' if mount.get('readOnly') else 'rw'}"
              for mount in container.get("volumeMounts", ())),
            *(["--entrypoint", command[0]] if command else []),
            image, *command[1:], *container.get("args", ()),
        ]  # fmt: skip

    def _map(self, source: Document) -> dict[str, str]:
        data: dict[str, str] = self._one("ConfigMap", source["configMapRef"]["name"])["data"]
        return data

    def _value(self, variable: Document, pod: str) -> str:
        if "value" in variable:
            return str(variable["value"])
        fields = {"metadata.name": pod, "status.podIP": self.addresses[pod]}
        return fields[variable["valueFrom"]["fieldRef"]["fieldPath"]]

    def _volume(self, pod: str, volume: Document) -> Path:
        folder = self._folder(pod, volume["name"])
        for source in [volume] if "secret" in volume else volume.get("projected", {}).get("sources", ()):
            secret = source["secret"]
            for item in secret["items"]:
                file = folder / item["path"]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(
                    (self.folder / "secrets" / (secret.get("secretName") or secret["name"]) / item["key"]).read_bytes()
                )
        return folder

    def _folder(self, pod: str, name: str) -> Path:
        """As an emptyDir or a new disk: everybody in the pod may write."""
        folder = self.folder / pod / name
        folder.mkdir(parents=True)
        folder.chmod(0o777)
        return folder


@contextmanager
def pods(folder: Path, image: str) -> Iterator[Pods]:
    """Those of the overlay; none runs yet. Nothing stays."""
    _remove()
    docker("network", "create", "--subnet", f"{SUBNET}.0/24", NETWORK)
    rendered = subprocess.run(["kubectl", "kustomize", OVERLAY], check=True, capture_output=True, text=True).stdout
    try:
        yield Pods(folder, image, list(yaml.load_all(rendered, yaml.CSafeLoader)))
    finally:
        _remove()


def _remove() -> None:
    if left := docker("ps", "-aq", "--filter", f"network={NETWORK}").split():
        docker("rm", "-f", "-v", *left)
    if docker("network", "ls", "-q", "--filter", f"name=^{NETWORK}$"):
        docker("network", "rm", NETWORK)
