"""Files from Maven Central that no Python package brings: fetched once, checked against a pinned hash."""

import hashlib
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.failure import Failure

STALL_S = 60.0
"""A download that has not grown for this long is given up."""
MB = 1_000_000
LARGE_BYTES = 1_000 * MB
"""Files grow to this size: databases, streams, what is downloaded."""

type Progress = Callable[[str, float, float], None]
"""Told what is done, and how many megabytes of how many are there."""


@dataclass(frozen=True, slots=True)
class Artifact:
    coordinate: str
    """group:artifact:packaging:version"""
    file_name: str
    sha256: str
    size: int
    title: str


def cache_folder() -> Path:
    """Where everything lies that is the same for all stacks of a user."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "shopmesh"


MAVEN = (sys.executable, "-m", "maven_artifact.main")
"""Run with a coordinate and the file to write. A process of its own: it knows no time limit and verifies nothing."""


def fetch(artifact: Artifact, folder: Path, progress: Progress, downloader: Sequence[str] = MAVEN) -> Path:
    """The file, downloaded if it is not there yet. Raises Failure with the mend when it cannot be had."""
    file = folder / artifact.file_name
    folder.mkdir(parents=True, exist_ok=True)
    if file.exists() and _sha256(file) == artifact.sha256:
        return file
    require_space(folder, artifact.size)
    part = file.with_name(f"{file.name}.part")
    part.unlink(missing_ok=True)
    command = [*downloader, artifact.coordinate, str(part)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as download:
        try:
            _watch(download, part, artifact, progress)
        finally:
            download.kill()
        said = download.stdout.read() if download.stdout else ""
    mend = f"then run again, or put {artifact.file_name} into {folder} yourself"
    if download.returncode != 0:
        part.unlink(missing_ok=True)
        if "No space left" in said:
            raise Failure(
                f"{artifact.file_name} cannot be stored, the disk is full: free 1 GB at {folder}, then run again"
            )
        raise Failure(
            f"{artifact.file_name} cannot be downloaded from Maven Central: check the network or proxy, {mend}"
        )
    if _sha256(part) != artifact.sha256:
        part.unlink()
        raise Failure(
            f"{artifact.file_name} was downloaded but is not the file we know (its sha256 differs): something between "
            f"here and Maven Central changes it; try another network, {mend}"
        )
    part.replace(file)
    return file


def require_space(folder: Path, needed: int) -> None:
    """Raises Failure when the disk has not got that many bytes left."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise Failure(
            f"only {free // MB} MB are free at {folder}, {needed // MB} MB are needed: free some, then run again"
        )


def require_large_files() -> None:
    """Raises Failure when the limit of the shell would end a store in the middle of a write."""
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit != resource.RLIM_INFINITY and limit < LARGE_BYTES:
        raise Failure(
            f"files may not grow beyond {limit // MB} MB in this shell, {LARGE_BYTES // MB} MB are needed: allow it "
            "with `ulimit -f unlimited`, then run again"
        )


def _watch(download: subprocess.Popen[str], part: Path, artifact: Artifact, progress: Progress) -> None:
    """Reports growth until the download ends; gives it up when it stalls."""
    grown, size = time.monotonic(), 0
    while download.poll() is None:
        now = part.stat().st_size if part.exists() else 0
        if now > size:
            size, grown = now, time.monotonic()
        elif time.monotonic() - grown > STALL_S:
            return
        progress(f"downloading {artifact.title} from Maven Central (once)", size / MB, artifact.size / MB)
        time.sleep(0.2)


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
