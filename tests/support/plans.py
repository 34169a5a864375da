"""How PostgreSQL goes about a statement, by its own account."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

from services.chassis.database import Database


@dataclass(frozen=True, slots=True)
class Step:
    kind: str
    index: str | None
    rows: int
    """That came out of it."""
    filtered: int
    """Rows that were read in vain."""
    blocks: int
    """Of 8 KiB, those of inner steps among them."""

    @classmethod
    def of(cls, told: dict[str, Any]) -> Self:
        return cls(
            told["Node Type"],
            told.get("Index Name"),
            int(told["Actual Rows"]),
            int(told.get("Rows Removed by Filter", 0)),
            told["Shared Hit Blocks"] + told["Shared Read Blocks"],
        )


async def plan(
    database: Database, statement: str, *arguments: object, plans: str = "auto", uses: int = 0
) -> list[Step]:
    """Runs the statement as a prepared one, and gives its steps from the outermost to the innermost.

    `plans` is PostgreSQL's plan_cache_mode: a statement that is used often may get a plan for whatever arguments
    (force_generic_plan), which can be far worse than one for these (force_custom_plan). Of itself ("auto") it makes one
    for these at first, and after five `uses` whichever it takes for the cheaper.
    """
    values = ", ".join("null" if argument is None else f"'{argument}'" for argument in arguments)
    values = f"({values})" if arguments else ""
    async with database.transaction() as transaction:
        await transaction.execute(f"set local plan_cache_mode = {plans}; prepare looked_at as {statement}")
        for _ in range(uses):
            await transaction.execute(f"execute looked_at {values}")
        told = await transaction.fetchval(f"explain (analyze, buffers, format json) execute looked_at {values}")
        await transaction.execute("deallocate looked_at")
    return list(_steps((told if isinstance(told, list) else json.loads(told))[0]["Plan"]))


def _steps(told: dict[str, Any]) -> Iterator[Step]:
    yield Step.of(told)
    for inner in told.get("Plans", ()):
        yield from _steps(inner)
