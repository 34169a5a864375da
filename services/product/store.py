"""The catalogue in PostgreSQL."""

from collections.abc import Mapping, Sequence

from services.chassis.database import Database, Record
from services.money import Money
from services.product.domain import Description, Place, Product, ProductExists, ProductNotFound
from services.refusals import RequestIdReused

GET = "select * from products where id = $1"
FIND = "select * from products where id = any($1)"
FIRST_PAGE = "select * from products order by display_name, id limit $1"
NEXT_PAGE = "select * from products where (display_name, id) > ($2, $3) order by display_name, id limit $1"

# No conflict target: the id or the request may be there already, and only ADDED tells which.
ADD = """
insert into products (
  id, display_name, description, currency, units, nanos, image_uri, creator, request_id, request_fingerprint
) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
on conflict do nothing returning *"""
ADDED = "select * from products where creator = $1 and request_id = $2"


class SqlCatalog:
    """Catalog (port)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, id: str) -> Product:
        row = await self._database.fetchrow(GET, id)
        if row is None:
            raise ProductNotFound(product=f"products/{id}")
        return _product(row)

    async def find(self, ids: Sequence[str]) -> Mapping[str, Product]:
        return {row["id"]: _product(row) for row in await self._database.fetch(FIND, ids)}

    async def page(self, after: Place | None, most: int) -> Sequence[Product]:
        if after is None:
            rows = await self._database.fetch(FIRST_PAGE, most)
        else:
            rows = await self._database.fetch(NEXT_PAGE, most, *after)
        return [_product(row) for row in rows]

    async def add(self, id: str, description: Description, caller: str, request_id: str) -> Product:
        fingerprint = description.fingerprint(id)
        row = await self._database.fetchrow(
            ADD,
            id,
            description.display_name,
            description.text,
            description.price.currency,
            *description.price.parts,
            description.image_uri,
            caller,
            request_id,
            fingerprint,
        )
        if row is None:
            # A second statement: the one that lost does not see the row it lost to.
            row = await self._database.fetchrow(ADDED, caller, request_id)
            if row is None:
                raise ProductExists(product=f"products/{id}")
            if row["request_fingerprint"] != fingerprint:
                raise RequestIdReused(request_id=request_id)
        return _product(row)


def _product(row: Record) -> Product:
    price = Money.of(row["currency"], row["units"], row["nanos"])
    description = Description(row["display_name"], row["description"], price, row["image_uri"])
    return Product(row["id"], description, row["archived"], row["version"], row["create_time"], row["update_time"])
