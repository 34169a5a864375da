"""The manifests as kustomize would take them, read without it: what a folder holds, and what of it leads nowhere."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

type Document = Mapping[str, Any]

KUSTOMIZATION = "kustomization.yaml"
POD_CONTROLLERS = {"Deployment", "StatefulSet", "Job"}


@dataclass(frozen=True, slots=True)
class Found:
    """A resource, and the file that has it."""

    file: Path
    document: Document

    @property
    def kind(self) -> str:
        return str(self.document["kind"])

    @property
    def name(self) -> str:
        return str(self.document["metadata"]["name"])

    @property
    def labels(self) -> Mapping[str, str]:
        labels: Mapping[str, str] = self.document["metadata"].get("labels", {})
        return labels

    @property
    def pod(self) -> Document | None:
        """The template of the pods that it makes."""
        return self.document["spec"]["template"] if self.kind in POD_CONTROLLERS else None

    @property
    def containers(self) -> list[Document]:
        spec = self.pod["spec"] if self.pod else {}
        return [*spec.get("initContainers", ()), *spec.get("containers", ())]

    def __str__(self) -> str:
        return f"{self.file}: {self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Patch:
    """What is laid over resources: over those that its target selects, or the one that it names itself."""

    found: Found
    target: Mapping[str, str] | None

    def hits(self, resource: Found) -> bool:
        if self.target is None:
            return (resource.kind, resource.name) == (self.found.kind, self.found.name)
        wanted = dict(part.split("=", 1) for part in self.target.get("labelSelector", "").split(",") if part)
        return (
            self.target.get("kind", resource.kind) == resource.kind
            and self.target.get("name", resource.name) == resource.name
            and wanted.items() <= resource.labels.items()
        )


@dataclass(slots=True)
class Kustomization:
    """A folder with all that it stands on."""

    folder: Path
    resources: list[Found] = field(default_factory=list[Found])
    patches: list[Patch] = field(default_factory=list[Patch])
    maps: set[str] = field(default_factory=set[str])
    """Names of the ConfigMaps that it makes."""
    faults: list[str] = field(default_factory=list[str])

    @classmethod
    def read(cls, folder: Path) -> "Kustomization":
        """Never raises: what cannot be read is a fault."""
        this = cls(folder)
        file = folder / KUSTOMIZATION
        told: Document = yaml.load(file.read_text(), yaml.CSafeLoader)
        for name in told.get("resources", ()):
            this._take(folder / name)
        for patch in told.get("patches", ()):
            this._lay(folder / patch["path"], patch.get("target"))
        for made in told.get("configMapGenerator", ()):
            this._make(made)
        having = (*this.resources, *(patch.found for patch in this.patches))
        used = {each.get("image", "").partition(":")[0] for found in having for each in found.containers}
        for image in told.get("images", ()):
            if image["name"] not in used:
                this.faults.append(f"{file}: no container has the image {image['name']}")
        return this

    def _take(self, path: Path) -> None:
        if (path / KUSTOMIZATION).is_file():
            below = Kustomization.read(Path(os.path.normpath(path)))
            self.resources += below.resources
            self.patches += below.patches
            self.maps |= below.maps
            self.faults += below.faults
        elif path.is_file():
            self.resources += documents(path)
        else:
            self.faults.append(f"{self.folder / KUSTOMIZATION}: there is no {path.name}")

    def _lay(self, path: Path, target: Mapping[str, str] | None) -> None:
        if not path.is_file():
            self.faults.append(f"{self.folder / KUSTOMIZATION}: there is no {path.name}")
            return
        for found in documents(path):
            patch = Patch(found, target)
            self.patches.append(patch)
            hit = [resource for resource in self.resources if patch.hits(resource)]
            if not hit:
                self.faults.append(f"{found.file}: the patch hits nothing")
            for resource in hit:
                known = {container["name"] for container in resource.containers}
                if strange := {container["name"] for container in found.containers} - known:
                    self.faults.append(f"{found.file}: {resource.kind} {resource.name} has no container {strange}")

    def _make(self, made: Mapping[str, Any]) -> None:
        name, file = made["name"], self.folder / KUSTOMIZATION
        if made.get("behavior") == "merge" and name not in self.maps:
            self.faults.append(f"{file}: there is no ConfigMap {name} to merge into")
        self.maps.add(name)
        for part in (*made.get("envs", ()), *made.get("files", ())):
            if not (self.folder / part).is_file():
                self.faults.append(f"{file}: there is no {part}")


def documents(path: Path) -> list[Found]:
    """Of a file, which may have several."""
    return [Found(path, document) for document in yaml.load_all(path.read_text(), yaml.CSafeLoader) if document]


def kustomizations(root: Path) -> Iterator[Kustomization]:
    """Those of every folder below `root` that has one."""
    for file in sorted(root.rglob(KUSTOMIZATION)):
        yield Kustomization.read(file.parent)


def astray(whole: Kustomization) -> Iterator[str]:
    """What names a thing that there is not: selectors without pods, ports that no container has."""
    targets = {(found.kind, found.name) for found in whole.resources}
    for found in whole.resources:
        spec = found.document.get("spec", {})
        if found.kind == "Service":
            yield from (f"{found}: {fault}" for fault in _of_a_service(spec, whole))
        elif found.kind == "PodDisruptionBudget" and not selected(whole, spec["selector"]["matchLabels"]):
            yield f"{found}: selects no pod"
        elif found.kind == "HorizontalPodAutoscaler":
            of = spec["scaleTargetRef"]["kind"], spec["scaleTargetRef"]["name"]
            if of not in targets:
                yield f"{found}: there is no {' '.join(of)}"
        elif found.pod and "selector" in spec and found not in selected(whole, spec["selector"]["matchLabels"]):
            yield f"{found}: does not select its own pods"


def _of_a_service(spec: Document, whole: Kustomization) -> Iterator[str]:
    hit = selected(whole, spec["selector"])
    if not hit:
        yield "selects no pod"
    names = {port["name"] for found in hit for each in found.containers for port in each.get("ports", ())}
    for port in spec["ports"] if hit else ():
        if port["targetPort"] not in names:
            yield f"no container has a port {port['targetPort']}"


def selected(whole: Kustomization, labels: Mapping[str, str]) -> list[Found]:
    """What makes pods that have these labels."""
    return [
        found for found in whole.resources if found.pod and labels.items() <= found.pod["metadata"]["labels"].items()
    ]
