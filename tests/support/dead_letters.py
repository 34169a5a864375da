"""Dead letters in a shop that runs: nothing that happens to a healthy one makes any."""

import uuid

import asyncpg

from tests.support.shop import Shop

BURY = """
insert into dead_letters (id, event_type, event_id, headers, payload, reason, attempts, state)
values ($1::uuid, 'shop.order.v1.OrderPlaced', $1::uuid::text, '{}', '', 'no protobuf', 1, $2)"""


WHY = "order: value is required; version: must be greater than or equal to 1; recipient: must be at least 1 characters"
"""What the shop finds wrong with them."""


async def bury(shop: Shop, *states: str) -> list[str]:
    """One event in each of the states that nobody will understand; gives their names."""
    ids = [uuid.uuid4() for _ in states]
    connection = await asyncpg.connect(f"postgresql://notification@127.0.0.1:{shop.ports['postgres']}/notification")
    try:
        await connection.executemany(BURY, list(zip(ids, states, strict=True)))
    finally:
        await connection.close()
    return [f"deadLetters/{id}" for id in ids]
