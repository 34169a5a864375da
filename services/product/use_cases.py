"""What can be read from the catalogue beyond a single product. No transport, no SQL."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from services.product.domain import Place, Product, ProductNotFound
from services.product.ports import Catalog


@dataclass(frozen=True, slots=True)
class Browsing:
    """A customer with the catalogue in hand."""

    catalog: Catalog

    async def several(self, ids: Iterable[str]) -> list[Product]:
        """Each product once, in the order of first mention. Raises ProductNotFound for the first that is missing."""
        wanted = list(dict.fromkeys(ids))
        found = await self.catalog.find(wanted)
        for id in wanted:
            if id not in found:
                raise ProductNotFound(product=f"products/{id}")
        return [found[id] for id in wanted]

    async def page(self, after: Place | None, size: int) -> tuple[Sequence[Product], Place | None]:
        """A page, and the place behind which the next one begins; None on the last page."""
        # One more than asked for tells whether this is the last page.
        products = await self.catalog.page(after, size + 1)
        page = products[:size]
        return page, page[-1].place if len(products) > size else None
