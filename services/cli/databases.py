"""The databases that know orders, read as the role `audit`, which sees their `audit_*` views and changes nothing."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Self

import asyncpg

from services.cli.process import CannotStart
from services.cli.settings import HOST

type Row = asyncpg.Record
"""Of a view; views are described in the migrations of the service that owns them."""

SERVICES = ("order", "inventory", "notification")
CONNECT_S = 5.0
COMMAND_S = 310.0
"""For a server that has stopped answering: later than it would give a statement up itself."""

_SETTINGS = {
    "application_name": "shopmesh",
    "default_transaction_read_only": "on",
    "statement_timeout": "300s",  # the sums of the ledger, of many years
    "lock_timeout": "5s",  # a migration, which it would make all others wait for
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
    "plan_cache_mode": "force_custom_plan",
    "timezone": "UTC",
}


def urls(port: int) -> dict[str, str]:
    """By service, of a stack on this machine."""
    return {service: f"postgresql://audit@{HOST}:{port}/{service}" for service in SERVICES}


@dataclass(slots=True)
class Databases:
    """A connection to each: `async with Databases(urls(port)) as databases`.

    Everything raises CannotStart when one of them does not answer, or not in time.
    """

    urls: Mapping[str, str]
    _connections: "dict[str, asyncpg.Connection[Row]]" = field(default_factory=dict)

    async def __aenter__(self) -> Self:
        for service in SERVICES:
            try:
                self._connections[service] = await asyncpg.connect(
                    self.urls[service], timeout=CONNECT_S, command_timeout=COMMAND_S, server_settings=_SETTINGS
                )
            except (OSError, TimeoutError, asyncpg.PostgresError) as error:
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
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise _away(service, error) from None

    @asynccontextmanager
    async def at_one_moment(self, service: str) -> AsyncIterator[None]:
        """What is read of the service meanwhile is of the same moment."""
        try:
            async with self._connections[service].transaction(isolation="repeatable_read", readonly=True):
                yield
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise _away(service, error) from None


def _away(service: str, error: Exception) -> CannotStart:
    return CannotStart(
        f"the database of {service} does not answer ({str(error) or type(error).__name__}): see `shopmesh status`"
    )
