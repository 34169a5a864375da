"""A span per SQL statement, for those that run in a recorded one."""

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, cast

import asyncpg
from opentelemetry.trace import Status, StatusCode
from opentelemetry.util.types import AttributeValue

from services.chassis.tracing import begun, recorded

if TYPE_CHECKING:
    _Connection = asyncpg.Connection[asyncpg.Record]
else:
    _Connection = asyncpg.Connection

type Asked[T] = Coroutine[Any, Any, T]


class TracedConnection(_Connection):
    """Tells OpenTelemetry of its statements, by the semantic conventions for PostgreSQL; never of their arguments."""

    def execute(self, query: str, *args: object, **options: Any) -> Asked[str]:
        return self._traced(query, super().execute(query, *args, **options))

    def fetch(self, query: str, *args: object, **options: Any) -> Asked[Any]:
        return self._traced(query, super().fetch(query, *args, **options))

    def fetchrow(self, query: str, *args: object, **options: Any) -> Asked[Any]:
        return self._traced(query, super().fetchrow(query, *args, **options))

    def fetchval(self, query: str, *args: object, **options: Any) -> Asked[Any]:
        return self._traced(query, super().fetchval(query, *args, **options))

    def _traced[T](self, query: str, asked: Asked[T]) -> Asked[T]:
        return self._within_a_span(query, asked) if recorded() else asked

    async def _within_a_span[T](self, query: str, asked: Asked[T]) -> T:
        name, *_ = query.split(maxsplit=1)
        span = begun(name, {**self._facts(), "db.query.text": query})
        try:
            return await asked
        except BaseException as error:
            if span:
                span.set_attribute("error.type", getattr(error, "sqlstate", None) or type(error).__qualname__)
                span.set_status(Status(StatusCode.ERROR))
            raise
        finally:
            if span:
                span.end()

    def _facts(self) -> dict[str, AttributeValue]:
        to, database = cast("Any", self)._addr, cast("Any", self)._params.database
        facts: dict[str, AttributeValue] = {"db.system.name": "postgresql", "db.namespace": database}
        if isinstance(to, tuple):
            return {**facts, "server.address": to[0], "server.port": to[1]}
        return {**facts, "server.address": to}  # a socket's path
