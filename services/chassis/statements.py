"""A span per SQL statement, for those that run in a recorded one."""

import re
from collections.abc import Coroutine, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import asyncpg
from opentelemetry.util.types import AttributeValue

from services.chassis.tracing import begun, failed, recorded

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
        own = cast("Any", self)
        span = begun(*_described(query, own._params.database, own._addr))
        try:
            return await asked
        except BaseException as error:
            if span:
                code = getattr(error, "sqlstate", None)
                failed(span, code or type(error).__qualname__)
                if code:
                    span.set_attribute("db.response.status_code", code)
            raise
        finally:
            if span:
                span.end()


@lru_cache(1024)
def _described(query: str, database: str, at: tuple[str, int] | str) -> tuple[str, Mapping[str, AttributeValue]]:
    """Name and attributes of a statement's span; `at` is host and port, or a socket's path."""
    summary = summarised(query)
    facts: dict[str, AttributeValue] = {
        "db.system.name": "postgresql",
        "db.namespace": database,
        "db.query.summary": summary,
        "db.query.text": query,
    }
    if isinstance(at, tuple):
        return summary, {**facts, "server.address": at[0], "server.port": at[1]}
    return summary, {**facts, "server.address": at}


_WORD = re.compile(
    r"""'[^']*' | --[^\n]*
    | \b(?: for \s+ update | do \s+ update | distinct \s+ from )\b   # none of these begins anything
    | \b(?P<operation> insert (?=\s+into\b) | delete (?=\s+from\b) | update | select )\b
    | \b(?: into | (?: from | join ) (?! \s+ [\w.]+ \s* \( ) ) \s+ (?P<target> [a-z_][\w.]* )   # no function
    | (?P<with> \b[a-z_]\w* ) \s+ as \s* (?: materialized \s* )? \(
    """,
    re.VERBOSE | re.IGNORECASE,
)
_UPDATED = re.compile(r"\s+(?:only\s+)?([a-z_][\w.]*)", re.IGNORECASE)
_SUMMARY_LENGTH = 255


def summarised(query: str) -> str:
    """What a statement does to which tables, in its order: `insert orders insert order_events` (db.query.summary).

    What comes again, and what only reads from the statement's own `with`, is left out.
    """
    found: list[list[str]] = []
    within = {match["with"] for match in _WORD.finditer(query) if match["with"]}
    for match in _WORD.finditer(query):
        if operation := match["operation"]:
            found.append([operation])
            if operation.lower() == "update" and (updated := _UPDATED.match(query, match.end())):
                found[-1].append(updated[1])
        elif (target := match["target"]) and target not in within and found and target not in found[-1]:
            found[-1].append(target)
    steps = dict.fromkeys(" ".join(step) for step in found if len(step) > 1)
    return " ".join(steps)[:_SUMMARY_LENGTH] or query.split(maxsplit=1)[0]
