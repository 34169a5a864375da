"""What the product service needs from outside, in its own words."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from services.product.domain import Description, Listing, Place, Product


class Catalog(Protocol):
    """Where products are kept. Each method is one transaction; all raise Unavailable."""

    async def get(self, id: str) -> Product:
        """Raises ProductNotFound."""
        ...

    async def find(self, ids: Sequence[str]) -> Mapping[str, Product]:
        """Those of the products that exist."""
        ...

    async def page(self, listing: Listing, after: Place | None, most: int) -> Sequence[Product]:
        """Up to `most` products of the list behind `after` (None: from the beginning)."""
        ...

    async def add(self, id: str, description: Description, caller: str, request_id: str) -> Product:
        """Adds a product once per (caller, request_id), and returns it as it is now.

        Raises ProductExists, and RequestIdReused when the request_id added another product. When the outcome of a
        commit is unknown, asks the key once more by repeating it; raises Unavailable when it could not be told.
        """
        ...

    async def save(self, product: Product) -> Product | None:
        """Keeps what is said of it and whether it is archived, as the version after `product.version`.

        None, and nothing changed, when another version is kept: of many who changed the same one, one wins.
        """
        ...
