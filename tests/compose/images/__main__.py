"""Sees to it that each image that compose.yaml names is there: pulled, or built from what the local shop runs on.

`python -m tests.compose.images [NAME...]` (etcd, nats, ...; all when none is named) prints which of the two each is.
A stand-in has the official name and tag, and a label that says what it is made of. A pull is tried each time, so the
official image takes its place as soon as it can be had.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import yaml

from services.failure import Failure
from tests.compose.images import contexts, observing
from tests.compose.images.debian import base
from tests.compose.images.engine import CannotBuild, docker

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
LABEL = "shopmesh.stand-in"
PULL_S = 300

STAND_INS: dict[str, Callable[[Path, str], str]] = {
    "python": contexts.python,
    "envoy": contexts.envoy,
    "postgres": contexts.postgres,
    "nats": contexts.nats,
    "etcd": contexts.etcd,
    "keycloak": contexts.keycloak,
    "mailpit": contexts.mailpit,
    "opentelemetry-collector-contrib": observing.collector,
    "prometheus": observing.prometheus,
    "jaeger": observing.jaeger,
}
"""How the build folder is filled, by the last part of the image's name; its Dockerfile is beside this module."""


def official(profiles: Collection[str] = (), root: Path = ROOT) -> dict[str, str]:
    """The images, by the last part of their names: those that our own image is made of, and those of compose.yaml.

    Of the services that belong to a profile only those of `profiles`.
    """
    named = [*_of_dockerfile(root / "Dockerfile"), *_of_compose(root / "compose.yaml", profiles)]
    return {_short(image): image for image in named if _short(image) != "shopmesh"}


def provide(image: str) -> str:
    """Pulls it, or has a stand-in; says which. Raises CannotBuild when neither can be done."""
    if _pulled(image):
        return "pulled"
    if docker("images", "--quiet", image):
        made_of = docker("inspect", "--format", f'{{{{index .Config.Labels "{LABEL}"}}}}', image)
        return f"stand-in: {made_of}" if made_of else "pulled before"
    short = _short(image)
    if short not in STAND_INS:
        raise CannotBuild("cannot be pulled, and there is no stand-in for it")
    with tempfile.TemporaryDirectory(prefix="shopmesh-stand-in-") as folder:
        context = Path(folder)
        made_of = STAND_INS[short](context, image.rpartition(":")[2])
        docker(
            "build", "--quiet", "--tag", image, "--label", f"{LABEL}={made_of}", "--build-arg", f"BASE={base()}",
            "--file", str(HERE / f"{short}.Dockerfile"), str(context),
        )  # fmt: skip
    return f"stand-in: {made_of}"


def _pulled(image: str) -> bool:
    try:
        done = subprocess.run(["docker", "pull", "--quiet", image], capture_output=True, timeout=PULL_S, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _of_dockerfile(file: Path) -> Iterator[str]:
    text = file.read_text()
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)", text, re.MULTILINE))
    stages = set(re.findall(r"^FROM .* AS (\S+)", text, re.MULTILINE))
    for image in re.findall(r"^FROM (\S+)", text, re.MULTILINE):
        if image not in {*stages, "scratch"}:
            yield re.sub(r"\$\{?(\w+)\}?", lambda found: str(arguments[found[1]]), image)


def _of_compose(file: Path, profiles: Collection[str]) -> Iterator[str]:
    """With the defaults of variables."""
    for service in yaml.safe_load(file.read_text())["services"].values():
        belongs = service.get("profiles")
        if "image" in service and (not belongs or set(belongs) & set(profiles)):
            yield re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", service["image"])


def _short(image: str) -> str:
    return image.rpartition("/")[2].partition(":")[0]


def main(words: Sequence[str] | None = None) -> None:
    """Prints a line for each image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these")
    parser.add_argument("--profile", action="append", default=[], help="also those of this profile of compose.yaml")
    asked = parser.parse_args(words)
    for short, image in official(asked.profile).items():
        if not asked.names or short in asked.names:
            try:
                print(f"{image:<48} {provide(image)}", flush=True)
            except (CannotBuild, Failure) as error:
                sys.exit(f"{image}: {error}")


if __name__ == "__main__":
    main()
