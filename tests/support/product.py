"""The catalogue in memory, for tests; the same suite runs against this and against SQL."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from services.product.domain import Description, Place, Product, ProductExists, ProductNotFound
from services.refusals import RequestIdReused


class MemoryCatalog:
    """Nothing here awaits, so every method is one transaction."""

    def __init__(self) -> None:
        self.kept: dict[str, Product] = {}
        self._requests: dict[tuple[str, str], tuple[str, bytes]] = {}

    async def get(self, id: str) -> Product:
        if id not in self.kept:
            raise ProductNotFound(product=f"products/{id}")
        return self.kept[id]

    async def find(self, ids: Sequence[str]) -> Mapping[str, Product]:
        return {id: self.kept[id] for id in ids if id in self.kept}

    async def page(self, after: Place | None, most: int) -> Sequence[Product]:
        in_order = sorted(self.kept.values(), key=lambda product: product.place)
        return [product for product in in_order if after is None or product.place > after][:most]

    async def add(self, id: str, description: Description, caller: str, request_id: str) -> Product:
        fingerprint = description.fingerprint(id)
        if (caller, request_id) in self._requests:
            made, said = self._requests[caller, request_id]
            if said != fingerprint:
                raise RequestIdReused(request_id=request_id)
            return self.kept[made]
        if id in self.kept:
            raise ProductExists(product=f"products/{id}")
        self._requests[caller, request_id] = (id, fingerprint)
        now = datetime.now(UTC)
        self.kept[id] = Product(id, description, archived=False, version=1, create_time=now, update_time=now)
        return self.kept[id]
