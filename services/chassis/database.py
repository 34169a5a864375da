"""PostgreSQL: one statement per step on a cheap pool, and honest words about what was done when it fails.

asyncpg's own pool makes a task and a timer per release; this one is a list. What it hands out is never reset, so
only autocommit statements and whole transactions run here, and whatever was interrupted ends its connection.
"""

import asyncio
import hashlib
import itertools
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any, Self

import asyncpg
import orjson

from services.chassis import logs
from services.chassis.metrics import Gauge
from services.chassis.patience import QUIET, describe, pause_s
from services.chassis.settings import CannotStart, PasswordFile, PasswordUnreadable
from services.chassis.statements import TracedConnection
from services.refusals import Unavailable

type Connection = asyncpg.Connection[Record]
type Record = asyncpg.Record

CONNECT_S = 2.0
"""A server that does not answer the handshake by then is away."""
TURN_S = 3.0
"""How long a statement waits until a connection is free."""
STATEMENT_S = 10.0
"""The bound for callers that have none of their own; a call whose deadline ends is cancelled earlier."""
MIGRATION_S = 600.0
SWEEP_S = 0.1
"""How late a bound may be kept."""

_SERVER_SETTINGS = {
    "timezone": "UTC",
    "idle_in_transaction_session_timeout": "5s",
    # What lost its client (a cancelled call, a killed process) stops waiting for locks.
    "client_connection_check_interval": "1s",
    "jit": "off",  # small statements: compiling one costs more than running it
}

_ONE_AT_A_TIME = "select pg_advisory_xact_lock(hashtext('migrations'))"
# Without a sum: ran before it was kept.
_MIGRATIONS = """
create table if not exists migrations (name text primary key, create_time timestamptz not null default now());
alter table migrations add column if not exists sha256 text"""

_ARGUMENT = re.compile(r"(invalid input for query argument \$\d+): .*", re.DOTALL)

log = logs.get()
_connections = Gauge("shopmesh.database.connections", "{connection}", "Connections to the database.", "state")
_turns = Gauge("db.client.connection.pending_requests", "{request}", "Statements that wait for a connection.")


class DatabaseUnavailable(Unavailable):
    """Surely not done: there was no connection, or the server gave the statement up."""

    reason = "DATABASE_UNAVAILABLE"
    message = "The database is not reachable; try again."


class OutcomeUnknown(DatabaseUnavailable):
    """The connection was lost after the statement (or the commit) was sent: it may have been done."""


class MigrationChanged(CannotStart):
    """A migration that has run here has another text now, so the tables are not what this version takes them for."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"the tables were made by another {name} than this version has: go back to the version that made them, or "
            "begin with an empty database"
        )


class Database:
    """One database of one process; statements are autocommit, at most `size` at a time."""

    def __init__(self, url: str, size: int, password: PasswordFile | None = None) -> None:
        self._url, self._password = url, password
        self._free: list[Connection | None] = [None] * size
        """Unused places; the last used one is taken first. None is a place that was never connected."""
        self._queue: deque[tuple[float, asyncio.Future[Connection | None]]] = deque()
        """Who waits for a place, and until when."""
        self._busy: dict[Connection, float] = {}
        """Connections at work, and until when they may be."""
        self._sweeper: asyncio.TimerHandle | None = None

    @classmethod
    async def connect(cls, url: str, size: int = 8, password: PasswordFile | None = None) -> Self:
        """Waits for a server that is away, for ever; cancel it to give up. Raises PasswordUnreadable."""
        if password:
            password.read()
        database = cls(url, size, password)
        database._sweep()
        for attempt in itertools.count():
            try:
                database._give(await database._take())
            except DatabaseUnavailable as refusal:
                if attempt % QUIET == 0:
                    log.warning("waiting for the database", attempts=attempt + 1, error=describe(refusal))
                await asyncio.sleep(pause_s(attempt))
            else:
                break
        return database

    def show(self) -> None:
        """From now on the metrics of this process tell how busy it is."""
        _connections.ask(lambda: {("used",): len(self._busy), ("idle",): sum(map(bool, self._free))})
        _turns.ask(lambda: {(): len(self._queue)})

    async def fetch(self, sql: str, *args: object, timeout_s: float = STATEMENT_S) -> list[Record]:
        """All rows. Raises DatabaseUnavailable, OutcomeUnknown, and asyncpg's errors for what the server refuses."""
        return await self._run(lambda connection: connection.fetch(sql, *args), timeout_s)

    async def fetchrow(self, sql: str, *args: object, timeout_s: float = STATEMENT_S) -> Record | None:
        """The first row. Raises as `fetch` does."""
        return await self._run(lambda connection: connection.fetchrow(sql, *args), timeout_s)

    async def fetchval(self, sql: str, *args: object, timeout_s: float = STATEMENT_S) -> Any:  # noqa: ANN401
        """The first column of the first row, None without one. Raises as `fetch` does."""
        return await self._run(lambda connection: connection.fetchval(sql, *args), timeout_s)

    async def execute(self, sql: str, *args: object, timeout_s: float = STATEMENT_S) -> str:
        """The server's word for what was done, such as `UPDATE 3`. Raises as `fetch` does."""
        return await self._run(lambda connection: connection.execute(sql, *args), timeout_s)

    @asynccontextmanager
    async def transaction(self, timeout_s: float = STATEMENT_S) -> AsyncIterator[Connection]:
        """For what one statement cannot do. Committed when the block ends well, else rolled back.

        Raises OutcomeUnknown when the connection was lost in the commit, DatabaseUnavailable when before it.
        """
        connection = await self._take()
        self._busy[connection] = time.monotonic() + timeout_s
        ended, committing = False, False
        try:
            await connection.execute("begin")
            yield connection
            committing = not connection.is_closed()  # else nothing is sent
            await _commit(connection)
            ended = True
        except Exception as error:
            _quote_nothing(error)
            if refusal := _refusal(error, connection, sent=committing):
                raise refusal from error
            if not committing:
                await _roll_back(connection)
            ended = True
            raise
        finally:
            del self._busy[connection]
            if not ended:
                connection.terminate()
            self._give(connection)

    async def migrate(self, package: str) -> None:
        """Runs `<package>/migrations/NNNN_name.sql` that have not run here yet, in order, each in one transaction.

        Replicas that start together run each once: an advisory lock, held until the commit, lets one in at a time.
        Raises MigrationChanged. What a newer version has migrated stays: versions beside each other share the tables.
        """
        async with self.transaction(timeout_s=MIGRATION_S) as connection:
            await connection.execute(_ONE_AT_A_TIME)
            await connection.execute(_MIGRATIONS)
        for file in sorted((files(package) / "migrations").iterdir(), key=lambda file: file.name):
            if file.name.endswith(".sql"):
                await self._migrate(file.name, file.read_text(encoding="utf-8"))

    async def _migrate(self, name: str, sql: str) -> None:
        sha256 = hashlib.sha256(sql.encode()).hexdigest()
        async with self.transaction(timeout_s=MIGRATION_S) as connection:
            await connection.execute(_ONE_AT_A_TIME)
            ran = await connection.fetchrow("select sha256 from migrations where name = $1", name)
            if ran is None:
                await connection.execute(sql)
                await connection.execute("insert into migrations (name, sha256) values ($1, $2)", name, sha256)
                log.info("migrated", migration=name)
            elif ran["sha256"] not in (None, sha256):
                raise MigrationChanged(name)

    async def close(self) -> None:
        """Ends every connection; statements still under way raise OutcomeUnknown."""
        if self._sweeper:
            self._sweeper.cancel()
        for connection in (*self._busy, *self._free):
            if connection:
                connection.terminate()

    async def _run[T](self, statement: Callable[[Connection], Awaitable[T]], timeout_s: float) -> T:
        connection = await self._take()
        self._busy[connection] = time.monotonic() + timeout_s
        ended = False
        try:
            result = await statement(connection)
            ended = True
        except Exception as error:
            _quote_nothing(error)
            if refusal := _refusal(error, connection, sent=True):
                raise refusal from error
            ended = True
            raise
        else:
            return result
        finally:
            del self._busy[connection]
            if not ended:
                connection.terminate()
            self._give(connection)

    async def _take(self) -> Connection:
        """A connection that was alive a moment ago. Raises DatabaseUnavailable, within the bounds above."""
        place = self._free.pop() if self._free else await self._turn()
        if place is not None and not place.is_closed():
            return place
        try:
            return await self._connect()
        except BaseException:
            self._give(None)
            raise

    async def _turn(self) -> Connection | None:
        turn: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        self._queue.append((time.monotonic() + TURN_S, turn))
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and not turn.exception():
                self._give(turn.result())
            raise

    def _give(self, place: Connection | None) -> None:
        while self._queue:
            _, turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(place)
                return
        self._free.append(place)

    def _sweep(self) -> None:
        """Ends what is overdue. Once for all: a timer per statement costs a quarter of a small statement."""
        now = time.monotonic()
        for connection, until in tuple(self._busy.items()):
            if until < now:
                connection.terminate()
        while self._queue and (self._queue[0][0] < now or self._queue[0][1].done()):
            _, turn = self._queue.popleft()
            if not turn.done():
                turn.set_exception(DatabaseUnavailable())
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    async def _connect(self) -> Connection:
        try:
            connection = await asyncpg.connect(
                self._url,
                password=self._password.read() if self._password else None,
                timeout=CONNECT_S,
                connection_class=TracedConnection,
                max_cached_statement_lifetime=0,  # else a timer per statement
                server_settings=_SERVER_SETTINGS,
            )
        except (OSError, asyncpg.PostgresError, asyncpg.InternalClientError, PasswordUnreadable) as error:
            raise DatabaseUnavailable from error
        await connection.set_type_codec(
            "jsonb", schema="pg_catalog", format="binary", encoder=_to_jsonb, decoder=_from_jsonb
        )
        return connection


def _refusal(error: Exception, connection: Connection, *, sent: bool) -> DatabaseUnavailable | None:
    """What a failed statement means: away, in doubt, or None when the server or our own code refused it."""
    match error:
        case asyncpg.QueryCanceledError() | asyncpg.InsufficientResourcesError():
            return DatabaseUnavailable()
        case asyncpg.PostgresConnectionError() | asyncpg.OperatorInterventionError():
            return OutcomeUnknown() if sent else DatabaseUnavailable()
        case OSError() | asyncpg.PostgresError() | asyncpg.InterfaceError() | asyncpg.InternalClientError():
            if connection.is_closed():
                return OutcomeUnknown() if sent else DatabaseUnavailable()
    return None


def _quote_nothing(error: Exception) -> None:
    """Errors go to log lines and rows: without the row that PostgreSQL quotes, and the argument that asyncpg does."""
    if isinstance(error, asyncpg.PostgresError):
        error.detail = None
        error.args = tuple(_ARGUMENT.sub(r"\1", said) for said in error.args)


async def _commit(connection: Connection) -> None:
    """The server answers the commit of a failed transaction politely, with what it did instead."""
    if await connection.execute("commit") != "COMMIT":
        raise RuntimeError("rolled back: an error of a statement was passed over inside the transaction")


async def _roll_back(connection: Connection) -> None:
    """The reason for rolling back matters more than a rollback that fails: then the connection ends."""
    try:
        await connection.execute("rollback")
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
        connection.terminate()


def _to_jsonb(value: object) -> bytes:
    return b"\x01" + orjson.dumps(value)


def _from_jsonb(value: bytes) -> Any:  # noqa: ANN401
    return orjson.loads(value[1:])
