"""A PostgreSQL for tests: one server per run, a database of its own per test, new or emptied."""

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import override

import asyncpg

from services.chassis.database import Database
from services.cli.local.postgres import Postgres as LocalPostgres
from tests.support.servers import Server

# What the migrations themselves have put into tables, to be put there again.
_REMEMBER = """
create schema seeds;
do $$ declare name text; filled boolean; begin
  for name in select tablename from pg_tables where schemaname = 'public' and tablename <> 'migrations' loop
    execute format('select exists (select from public.%I)', name) into filled;
    if filled then execute format('create table seeds.%1$I as table public.%1$I', name); end if;
  end loop;
end $$"""
# Whoever is still connected had it before.
_EMPTY = """
do $$ declare name text; begin
  perform pg_terminate_backend(pid, 5000) from pg_stat_activity
    where datname = current_database() and usename = current_user and pid <> pg_backend_pid();
  execute (select 'truncate ' || string_agg(format('public.%I', tablename), ', ') || ' restart identity'
    from pg_tables where schemaname = 'public' and tablename <> 'migrations');
  for name in select tablename from pg_tables where schemaname = 'seeds' loop
    execute format('insert into public.%1$I overriding system value select * from seeds.%1$I', name);
  end loop;
end $$"""


class Postgres(Server):
    """`async with postgres.emptied("services.order") as database:` is how a test uses it."""

    stop_signal = signal.SIGINT  # SIGTERM waits until every client has left

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._stack = LocalPostgres(folder, as_root=os.geteuid() == 0)
        self.user = self._stack.user
        self._number = itertools.count()
        self._templates: dict[str, str] = {}
        self._used: defaultdict[str, list[str]] = defaultdict(list)
        """The URLs of databases that wait for the next test, by package."""
        self._making = asyncio.Lock()
        subprocess.run(
            [sys.executable, "-m", "services.cli.local.postgres", "--state", folder], check=True, capture_output=True
        )

    @override
    def command(self) -> Sequence[str | Path]:
        return [*self._stack.command(self.port), "-c", "fsync=off"]  # tests kill the server, never the machine

    @override
    def answers(self) -> bool:
        program = self._stack.programs / "pg_isready"
        question = [str(program), "-q", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres"]
        return subprocess.run(question, check=False).returncode == 0

    def remove(self) -> None:
        """Ends it; its data goes with it."""
        self.kill()
        self._stack.remove()

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

    @asynccontextmanager
    async def emptied(self, package: str) -> AsyncIterator[Database]:
        """A connection to a database in which nothing is, and which other tests had: five times as quick as a new one.

        Not for who changes its tables, or depends on what PostgreSQL knows of them by and by (statistics).
        """
        url = self._used[package].pop() if self._used[package] else await self.make(package)
        database = await Database.connect(url)
        try:
            await database.execute(_EMPTY)
        except BaseException:  # one that cannot be emptied is handed on to nobody
            await database.close()
            raise
        try:
            yield database
        finally:
            await database.close()
            self._used[package].append(url)

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
                await database.execute(_REMEMBER)
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


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """Starts one and removes it, with all its data, in the end."""
    with tempfile.TemporaryDirectory(prefix="shopmesh-test-postgres-") as folder:
        postgres = Postgres(Path(folder))
        try:
            postgres.start()
            yield postgres
        finally:
            postgres.remove()
