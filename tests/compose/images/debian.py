"""The Debian that stand-ins stand on, made once by debootstrap from the mirror of this machine: half a minute."""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.compose.images.engine import CannotBuild, docker, tell

NAME = "shopmesh-stand-in:bookworm"
SUITE = "bookworm"
PACKAGES = (
    "ca-certificates", "netbase", "tzdata", "libssl3", "libsqlite3-0", "libffi8", "zlib1g", "libbz2-1.0", "liblzma5",
    "libreadline8", "libncursesw6", "libuuid1", "libexpat1", "busybox-static",
)  # fmt: skip
"""What Python needs, and a busybox for images that have nothing else."""
UNNEEDED = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
    "var/cache/apt",
    "var/lib/apt/lists",
)
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def base() -> str:
    """The name of the base, which is made if it is not there. Raises CannotBuild."""
    if not docker("images", "--quiet", NAME):
        if not shutil.which("debootstrap"):
            raise CannotBuild("stand-ins are made from Debian packages, by debootstrap: apt install debootstrap")
        tell(f"  making the base of the stand-ins, Debian {SUITE}")
        with tempfile.TemporaryDirectory(prefix="shopmesh-debian-") as folder:
            root = Path(folder) / "root"
            _install(root)
            _import(root)
    return NAME


def _install(root: Path) -> None:
    words = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(root), *_mirror()]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise CannotBuild(f"debootstrap, which takes root: {done.stdout.strip().splitlines()[-1]}")
    for name in UNNEEDED:
        shutil.rmtree(root / name, ignore_errors=True)
        (root / name).mkdir()
    # Where no health check finds it: the official images have none, but for those that are made of it.
    (root / "bin" / "busybox").rename(root / "usr" / "share" / "busybox")
    if CERTIFICATES.exists():  # what builds inside fetch passes the same proxies as what is fetched here
        shutil.copyfile(CERTIFICATES, root / CERTIFICATES.relative_to("/"))


def _import(root: Path) -> None:
    with subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE) as tar:
        subprocess.run(["docker", "import", "-", NAME], stdin=tar.stdout, stdout=subprocess.DEVNULL, check=True)


def _mirror() -> list[str]:
    """The one that apt uses here, where this is a Debian; else debootstrap's own."""
    if not Path("/etc/debian_version").exists():
        return []
    apt = Path("/etc/apt")
    for file in (
        apt / "sources.list",
        *sorted(apt.glob("sources.list.d/*.sources")),
        *sorted(apt.glob("sources.list.d/*.list")),
    ):
        text = file.read_text() if file.exists() else ""
        if found := re.search(r"^(?:URIs:|deb)\s+(?:\[.*?\]\s+)?(https?://\S+/debian)/?(?:\s|$)", text, re.MULTILINE):
            return [found[1]]
    return []
