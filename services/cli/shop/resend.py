"""Sends events of orders again. It writes, so it asks the database as the role of Order, not as `audit`."""

from datetime import datetime
from uuid import UUID

import asyncpg

from services.failure import Failure


async def resend(database: str, what: UUID | datetime) -> int:
    """Of an order, or of all since a time: how many events go out again. Raises Failure for an unknown order."""
    try:
        connection = await asyncpg.connect(database, timeout=5)
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        raise Failure(f"the database of order does not answer ({error}): see `shopmesh status`") from None
    try:
        if isinstance(what, datetime):
            return int(await connection.fetchval("select resend($1::timestamptz)", what))
        if not await connection.fetchval("select exists (select from audit_orders where order_id = $1)", what):
            raise Failure(f"there is no order {what}")
        return int(await connection.fetchval("select resend($1::uuid)", what))
    finally:
        await connection.close()
