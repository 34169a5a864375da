"""What can be done with the catalogue beyond looking at a single product. No transport, no SQL."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from services.product.domain import Listing, Place, Product, ProductNotFound, Revision
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

    async def page(self, listing: Listing, after: Place | None, size: int) -> tuple[Sequence[Product], Place | None]:
        """A page, and the place behind which the next one begins; None on the last page."""
        # One more than asked for tells whether this is the last page.
        products = await self.catalog.page(listing, after, size + 1)
        page = products[:size]
        return page, listing.place_of(page[-1]) if len(products) > size else None


@dataclass(frozen=True, slots=True)
class Curating:
    """A manager who tends the catalogue. All of it raises ProductNotFound, and EtagMismatch where an etag is given."""

    catalog: Catalog

    async def revise(self, id: str, revision: Revision, etag: str) -> Product:
        """The product as the revision has it; what changes nothing is no change."""
        return await self._change(id, lambda product: product.revised(revision, etag))

    async def archive(self, id: str, etag: str) -> Product:
        """Whatever its etag, one that is archived already is left as it is."""
        return await self._change(id, lambda product: product.put_away(etag))

    async def unarchive(self, id: str, etag: str) -> Product:
        """Whatever its etag, one that is not archived is left as it is."""
        return await self._change(id, lambda product: product.put_back(etag))

    async def _change(self, id: str, rule: Callable[[Product], Product]) -> Product:
        """Whoever loses to another change looks again at what is there then: each round but the last is another's."""
        while True:
            product = await self.catalog.get(id)
            wanted = rule(product)
            if wanted == product:
                return product
            if saved := await self.catalog.save(wanted):
                return saved
