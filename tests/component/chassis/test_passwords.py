"""PostgreSQL and NATS that ask for passwords: those are read from their files for each connection."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from services.chassis.bus.access import BusUnavailable
from services.chassis.bus.connection import Bus
from services.chassis.bus.looking import Looking
from services.chassis.database import Database, DatabaseUnavailable
from services.chassis.patience import describe
from services.chassis.settings import PasswordFile, PasswordUnreadable
from services.story.asking import CannotTell
from services.story.databases import Databases, ThoseThatAnswer
from tests.support.nats import NatsServer
from tests.support.postgres import Postgres, running_postgres
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def guarded() -> Iterator[Postgres]:
    with running_postgres() as server:
        yield server


def ask_for_her_password(rules: Path) -> bool:
    """Whether the rules are new."""
    asked = "host all ann 127.0.0.1/32 scram-sha-256\n"
    if (text := rules.read_text()).startswith(asked):
        return False
    rules.write_text(asked + text)
    return True


@pytest.fixture
async def url(guarded: Postgres) -> str:
    """Of the role `ann`, whose password is `first one` until a test changes it."""
    administrator = await asyncpg.connect(guarded.url("postgres"))
    try:
        await administrator.execute("drop role if exists ann; create role ann login password 'first one'")
        if ask_for_her_password(Path(await administrator.fetchval("show hba_file"))):
            await administrator.execute("select pg_reload_conf()")
    finally:
        await administrator.close()
    return guarded.url("postgres", "ann")


@pytest.fixture
def file(tmp_path: Path) -> PasswordFile:
    path = tmp_path / "password"
    path.write_text("first one\n")
    return PasswordFile("SHOPMESH_DATABASE_PASSWORD_FILE", path)


async def all_end(guarded: Postgres) -> None:
    administrator = await asyncpg.connect(guarded.url("postgres"))
    await administrator.execute("select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = 'ann'")
    await administrator.close()


async def test_a_changed_password_is_taken_up_with_the_next_connection(
    guarded: Postgres, url: str, file: PasswordFile
) -> None:
    database = await Database.connect(url, password=file)
    assert await database.fetchval("select current_user") == "ann"
    await database.execute("alter role ann password 'another'")
    file.path.write_text("another")
    await all_end(guarded)

    async def answers() -> bool:
        try:
            return bool(await database.fetchval("select current_user") == "ann")
        except DatabaseUnavailable:  # the connection that was ended
            return False

    await eventually(answers, "a connection with the other password")
    await database.close()


async def test_a_file_that_goes_away_is_an_outage_of_the_database_and_no_more(
    guarded: Postgres, url: str, file: PasswordFile
) -> None:
    database = await Database.connect(url, size=1, password=file)
    file.path.unlink()
    await all_end(guarded)

    async def refused() -> str:
        try:
            await database.fetchval("select 1")
        except DatabaseUnavailable as error:
            return describe(error) if isinstance(error.__cause__, PasswordUnreadable) else ""
        return ""

    told = await eventually(refused, "it is away for want of a password")
    assert f"SHOPMESH_DATABASE_PASSWORD_FILE={file.path} cannot be read: No such file or directory" in told
    file.path.write_text("first one")
    assert await database.fetchval("select 1") == 1
    await database.close()


async def test_without_its_file_nothing_is_begun(url: str, file: PasswordFile) -> None:
    file.path.unlink()
    with pytest.raises(PasswordUnreadable):
        await Database.connect(url, password=file)
    with pytest.raises(PasswordUnreadable):
        await Bus.connect("nats://ann@127.0.0.1:1", "test", file)


async def test_who_only_looks_into_databases_is_told_why_they_do_not_answer(url: str, file: PasswordFile) -> None:
    async with Databases({"order": url}, password=file) as databases:
        assert [row["user"] for row in await databases.read("order", "select current_user as user")] == ["ann"]
    async with ThoseThatAnswer({"order": url}, 10, file) as some:
        assert await some.read("order", "select 1 as one")
    file.path.write_text("wrong")

    async def refused() -> str:
        try:
            async with Databases({"order": url}, password=file):
                return ""  # the server has not read its rules yet
        except CannotTell as error:
            return str(error)

    assert "password authentication failed" in await eventually(refused, "it is refused")
    file.path.unlink()
    async with ThoseThatAnswer({"order": url}, 10, file) as none:
        assert f"={file.path} cannot be read" in none.away["order"]


class GuardedNats(NatsServer):
    """Takes the user `ann` alone; her password is changed by `takes`."""

    def takes(self, password: str) -> None:
        """From now on; who is connected with another one is put out."""
        config = f'authorization {{ users = [ {{ user: ann, password: "{password}" }} ] }}\n'
        (self.folder / "nats.conf").write_text(config)

    @property
    def url(self) -> str:
        return f"nats://ann@127.0.0.1:{self.port}"

    def command(self) -> list[str | Path]:
        return [*super().command(), "-c", self.folder / "nats.conf"]


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[GuardedNats]:
    server = GuardedNats(tmp_path)
    server.takes("first one")
    server.start()
    yield server
    server.kill()


@asynccontextmanager
async def connecting(nats: NatsServer, file: PasswordFile) -> AsyncIterator[Bus]:
    bus = await Bus.connect(nats.url, "test", file)
    try:
        yield bus
    finally:
        await bus.close()


async def _connected(bus: Bus) -> bool:
    return bus.connected


async def test_nats_is_shown_the_password_of_the_moment(nats: GuardedNats, file: PasswordFile) -> None:
    async with connecting(nats, file) as bus:
        await eventually(lambda: _connected(bus), "connected")
        nats.stop()
        nats.takes("another")
        file.path.unlink()
        nats.start()
        file.path.write_text("another\n")

        async def again() -> bool:
            return bus.connected and bus.connections == 2

        await eventually(again, "connected with the other password")
        await bus.ensure_stream("S", ["s.*"])
        await bus.publish("s.a", b"", {})
        async with Looking(nats.url, file) as looking:
            assert (contents := await looking.contents("S")) is not None
            assert contents.messages == 1


async def test_a_password_that_nats_refuses_is_told_and_a_good_one_mends_it(
    nats: GuardedNats, file: PasswordFile, capsys: pytest.CaptureFixture[str]
) -> None:
    file.path.write_text("wrong")
    said = ""

    async def told() -> bool:
        nonlocal said
        said += capsys.readouterr().out
        return "NATS refuses the connection" in said

    async with connecting(nats, file) as bus:
        await eventually(told, "the refusal is told")
        assert "Authorization Violation" in said
        assert "wrong" not in said
        with pytest.raises(BusUnavailable):
            await Looking(nats.url, file).__aenter__()
        file.path.write_text("first one")
        await eventually(lambda: _connected(bus), "connected")
