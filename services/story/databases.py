"""The databases that know orders, read as the role `audit`, which sees their `audit_*` views and changes nothing."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol, Self

import asyncpg

from services.chassis.settings import PasswordFile, PasswordUnreadable
from services.story.asking import CannotTell

type Row = asyncpg.Record
"""Of a view; views are described in the migrations of the service that owns them."""

SERVICES = ("order", "inventory", "notification")
CONNECT_S = 5.0
STATEMENT_S = 300.0
"""The sums of the ledger, of many years."""

_SETTINGS = {
    "application_name": "shopmesh",
    "default_transaction_read_only": "on",
    "lock_timeout": "5s",  # a migration, which it would make all others wait for
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
    "plan_cache_mode": "force_custom_plan",
    "timezone": "UTC",
}

_UNANSWERED = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, PasswordUnreadable)
"""asyncpg says InternalClientError of a statement on a connection whose end it has begun to read."""


def urls(address: str) -> dict[str, str]:
    """By service, of the server at `host:port`."""
    return {service: f"postgresql://audit@{address}/{service}" for service in SERVICES}


class Readable(Protocol):
    async def read(self, service: str, sql: str, *args: object) -> list[Row]:
        """All rows of one statement."""
        ...


@dataclass(slots=True)
class Databases:
    """A connection to each: `async with Databases(urls(address)) as databases`.

    Everything raises CannotTell when one of them does not answer, or not in time.
    """

    urls: Mapping[str, str]
    connect_s: float = CONNECT_S
    statement_s: float = STATEMENT_S
    password: PasswordFile | None = None
    """Of the user that the URLs name; None: the server asks for none."""
    _connections: "dict[str, asyncpg.Connection[Row]]" = field(default_factory=dict)

    async def __aenter__(self) -> Self:
        for service, url in self.urls.items():
            try:
                self._connections[service] = await asyncpg.connect(
                    url,
                    password=self.password.read() if self.password else None,
                    timeout=self.connect_s,
                    # For a server that has stopped answering: later than it would give a statement up itself.
                    command_timeout=self.statement_s + self.connect_s,
                    server_settings={**_SETTINGS, "statement_timeout": f"{self.statement_s:.0f}s"},
                )
            except _UNANSWERED as error:
                await self.__aexit__()
                raise _away(service, error) from None
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self._connections.values():
            connection.terminate()

    async def read(self, service: str, sql: str, *args: object) -> list[Row]:
        """All rows of one statement."""
        try:
            return list(await self._connections[service].fetch(sql, *args))
        except _UNANSWERED as error:
            raise _away(service, error) from None

    @asynccontextmanager
    async def at_one_moment(self, service: str) -> AsyncIterator[None]:
        """What is read of the service meanwhile is of the same moment."""
        try:
            async with self._connections[service].transaction(isolation="repeatable_read", readonly=True):
                yield
        except _UNANSWERED as error:
            raise _away(service, error) from None


@dataclass(slots=True)
class ThoseThatAnswer:
    """The same for a look that shows what there is: what is asked of a database that does not answer is empty.

    `away` says of each such database why.
    """

    urls: Mapping[str, str]
    within_s: float
    password: PasswordFile | None = None
    away: dict[str, str] = field(default_factory=dict[str, str])
    _open: dict[str, Databases] = field(default_factory=dict[str, Databases])
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def __aenter__(self) -> Self:
        await asyncio.gather(*(self._try(service) for service in SERVICES))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def read(self, service: str, sql: str, *args: object) -> list[Row]:
        """All rows of one statement, or none."""
        if service in self.away:
            return []
        try:
            return await self._open[service].read(service, sql, *args)
        except CannotTell as error:
            self.away[service] = str(error)
            return []

    async def _try(self, service: str) -> None:
        if service not in self.urls:
            self.away[service] = f"nobody said where the database of {service} is (SHOPMESH_POSTGRES)"
            return
        one = Databases({service: self.urls[service]}, self.within_s, self.within_s, self.password)
        try:
            self._open[service] = await self._stack.enter_async_context(one)
        except CannotTell as error:
            self.away[service] = str(error)


def _away(service: str, error: Exception) -> CannotTell:
    return CannotTell(
        f"the database of {service} does not answer ({str(error) or type(error).__name__}): see `shopmesh status`"
    )
