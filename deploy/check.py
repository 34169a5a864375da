"""What can be told of Dockerfile, compose.yaml and the manifests without an engine or a cluster.

`python -m deploy.check [FOLDER]` says each fault with its place and exits with 1. It runs in an environment of its own,
which has the schemas and the linter (`make check` makes it).
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

from deploy.composed import faults as composed
from deploy.manifests import KUSTOMIZATION, Found, astray, kustomizations
from deploy.schemas import KUBERNETES, NoSchema, of_compose, of_kubernetes


def of_the_dockerfile(file: Path) -> Iterator[str]:
    """What hadolint finds."""
    hadolint = Path(sys.executable).with_name("hadolint")
    run = subprocess.run([hadolint, "--no-color", file], check=False, capture_output=True, text=True)
    yield from (run.stdout + run.stderr).splitlines()


def of_the_compose_file(file: Path) -> Iterator[str]:
    """What its schema says, and what it cannot say."""
    document = yaml.load(file.read_text(), yaml.CSafeLoader)
    yield from (f"{file}: {fault}" for fault in (*of_compose(document), *composed(document)))


def of_the_manifests(root: Path, unknown: set[str]) -> Iterator[str]:
    """Of every kustomization below `root`. What no schema tells of is put into `unknown`."""
    named = set[Path]()
    for whole in kustomizations(root):
        yield from whole.faults
        for found in whole.resources:
            yield from _of_one(found, unknown, partly=False)
        for patch in whole.patches:
            yield from _of_one(patch.found, unknown, partly=True)
        named |= {found.file for found in (*whole.resources, *(patch.found for patch in whole.patches))}
        if "overlays" in whole.folder.parts:
            yield from astray(whole)
    for file in sorted(root.rglob("*.yaml")):
        if file not in named and file.name != KUSTOMIZATION and not file.name.endswith(".values.yaml"):
            yield f"{file}: no {KUSTOMIZATION} names it"


def of_what_is_rendered(overlay: Path, unknown: set[str]) -> Iterator[str]:
    """Of an overlay as kubectl puts it together: nothing may be missing then. Without kubectl it is not looked at."""
    kubectl = shutil.which("kubectl")
    if not kubectl:
        unknown.add("the overlay as it is put together (there is no kubectl here)")
        return
    run = subprocess.run([kubectl, "kustomize", overlay], check=False, capture_output=True, text=True)
    if run.returncode:
        yield f"{overlay}: {run.stderr.strip()}"
    for document in yaml.load_all(run.stdout, yaml.CSafeLoader):
        yield from _of_one(Found(overlay, document), unknown, partly=False)


def _of_one(found: Found, unknown: set[str], *, partly: bool) -> Iterator[str]:
    try:
        yield from (f"{found}: {fault}" for fault in of_kubernetes(found.document, partly=partly))
    except NoSchema as error:
        unknown.add(f"{error} (Kubernetes {KUBERNETES} has no schema of it)")


def main(folder: Path) -> int:
    """Says what is wrong below `folder`, once each."""
    unknown = set[str]()
    found = list(dict.fromkeys((
        *of_the_dockerfile(folder / "Dockerfile"),
        *of_the_compose_file(folder / "compose.yaml"),
        *of_the_manifests(manifests := folder / "deploy" / "kubernetes", unknown),
        *of_what_is_rendered(manifests / "overlays" / "demo", unknown),
    )))  # fmt: skip
    print(*found, sep="\n", end="\n" if found else "")
    if unknown:
        print("deploy: not checked:", *sorted(unknown), sep="\n  ")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ".")))
