"""The catalogue in PostgreSQL."""

from collections.abc import Mapping, Sequence

from services.chassis.database import Database, OutcomeUnknown, Record
from services.money import Money
from services.product.domain import Description, Listing, Place, Product, ProductExists, ProductNotFound, Sort
from services.refusals import RequestIdReused

# All but the words that are searched, which nobody reads.
COLUMNS = (
    "id, display_name, description, currency, units, nanos, image_uri, archived, version, create_time, update_time"
)

GET = f"select {COLUMNS} from products where id = $1"  # noqa: S608  our own columns
FIND = f"select {COLUMNS} from products where id = any($1)"  # noqa: S608  our own columns

# No conflict target: the id or the request may be there already, and only ADDED tells which.
# Waits for whoever is adding the same id or request at this moment.
ADD = f"""
insert into products (
  id, display_name, description, currency, units, nanos, image_uri, creator, request_id, request_fingerprint
) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
on conflict do nothing returning {COLUMNS}"""  # noqa: S608  our own columns
ADDED = f"""
select {COLUMNS}, request_fingerprint from products where creator = $1 and request_id = $2"""  # noqa: S608  our own

# Locks the row. Whoever waited for the lock looks at the version anew, and then changes nothing.
# A clock that was set back must not give two states one update_time.
SAVE = f"""
update products set
  display_name = $3, description = $4, currency = $5, units = $6, nanos = $7, image_uri = $8, archived = $9,
  version = version + 1, update_time = greatest(now(), update_time + interval '1 microsecond')
where id = $1 and version = $2 returning {COLUMNS}"""  # noqa: S608  our own columns

SORTED_BY = {
    Sort.DISPLAY_NAME: ("display_name", "id"),
    Sort.PRICE: ("currency", "units", "nanos", "id"),
    Sort.CREATE_TIME: ("create_time", "id"),
}


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

    async def page(self, listing: Listing, after: Place | None, most: int) -> Sequence[Product]:
        statement, arguments = page_statement(listing, after, most)
        return [_product(row) for row in await self._database.fetch(statement, *arguments)]

    async def add(self, id: str, description: Description, caller: str, request_id: str) -> Product:
        try:
            return await self._add(id, description, caller, request_id)
        except OutcomeUnknown:
            # The request's key waits for a first try that is still committing, then tells.
            return await self._add(id, description, caller, request_id)

    async def _add(self, id: str, description: Description, caller: str, request_id: str) -> Product:
        fingerprint = description.fingerprint(id)
        row = await self._database.fetchrow(ADD, id, *_columns(description), caller, request_id, fingerprint)
        if row is None:
            # A second statement: the one that lost does not see the row it lost to.
            row = await self._database.fetchrow(ADDED, caller, request_id)
            if row is None:
                raise ProductExists(product=f"products/{id}")
            if row["request_fingerprint"] != fingerprint:
                raise RequestIdReused(request_id=request_id)
        return _product(row)

    async def save(self, product: Product) -> Product | None:
        said = _columns(product.description)
        row = await self._database.fetchrow(SAVE, product.id, product.version, *said, product.archived)
        return _product(row) if row else None


def page_statement(listing: Listing, after: Place | None, most: int) -> tuple[str, Sequence[object]]:
    """One page, and its arguments. It reads what it returns and no more, from the index that has the list's order.

    Where few products have the words, PostgreSQL takes these from the indexes of words and sorts them instead.
    """
    arguments: list[object] = [most]

    def argument(value: object) -> str:
        arguments.append(value)
        return f"${len(arguments)}"

    conditions = [_has(argument(word)) for word in listing.words]
    if not listing.show_archived:
        conditions.append("not archived")
    columns = SORTED_BY[listing.sort]
    if after is not None:
        place = ", ".join(map(argument, _parts(after)))
        conditions.append(f"({', '.join(columns)}) {'<' if listing.descending else '>'} ({place})")
    where = f"where {' and '.join(conditions)}" if conditions else ""
    order = ", ".join(f"{column} desc" if listing.descending else column for column in columns)
    return f"select {COLUMNS} from products {where} order by {order} limit $1", arguments  # noqa: S608  our own words


def _has(word: str) -> str:
    """Whether a product has a word: in some form of it, or nearly, or it is one of those that say nothing."""
    query = f"plainto_tsquery('english', {word})"
    return f"(words @@ {query} or {word} <% display_name or numnode({query}) = 0)"


def _parts(place: Place) -> Sequence[object]:
    match place:
        case ((currency, nanos), id):
            return currency, *Money(currency, nanos).parts, id
        case (key, id):
            return key, id


def _columns(description: Description) -> Sequence[object]:
    price = description.price
    return description.display_name, description.text, price.currency, *price.parts, description.image_uri


def _product(row: Record) -> Product:
    price = Money.of(row["currency"], row["units"], row["nanos"])
    description = Description(row["display_name"], row["description"], price, row["image_uri"])
    return Product(row["id"], description, row["archived"], row["version"], row["create_time"], row["update_time"])
