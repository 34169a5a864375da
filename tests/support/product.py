"""The catalogue in memory, for tests, against which the same suite runs as against SQL; and what is said of a mug."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from google.type.money_pb2 import Money
from shop.product.v1 import product_pb2 as pb

from services.product.domain import Description, Listing, Place, Product, ProductExists, ProductNotFound
from services.refusals import RequestIdReused


class MemoryCatalog:
    """Nothing here awaits, so every method is one transaction. It finds words as they are written."""

    def __init__(self) -> None:
        self.kept: dict[str, Product] = {}
        self._requests: dict[tuple[str, str], tuple[str, bytes]] = {}

    async def get(self, id: str) -> Product:
        if id not in self.kept:
            raise ProductNotFound(product=f"products/{id}")
        return self.kept[id]

    async def find(self, ids: Sequence[str]) -> Mapping[str, Product]:
        return {id: self.kept[id] for id in ids if id in self.kept}

    async def page(self, listing: Listing, after: Place | None, most: int) -> Sequence[Product]:
        shown = [
            product
            for product in self.kept.values()
            if (listing.show_archived or not product.archived) and _has(product, listing.words)
        ]
        places: list[Any] = sorted(map(listing.place_of, shown), reverse=listing.descending)  # of one type in one list
        if after is not None:
            places = [place for place in places if (place < after if listing.descending else place > after)]
        return [self.kept[id] for _, id in places[:most]]

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

    async def save(self, product: Product) -> Product | None:
        if self.kept[product.id].version != product.version:
            return None
        self.kept[product.id] = replace(product, version=product.version + 1, update_time=datetime.now(UTC))
        return self.kept[product.id]


def _has(product: Product, words: Sequence[str]) -> bool:
    said = f"{product.description.display_name} {product.description.text}".lower().split()
    return all(word.lower() in said for word in words)


def euros(units: int, nanos: int = 0) -> Money:
    return Money(currency_code="EUR", units=units, nanos=nanos)


MUG = pb.Product(
    display_name="Mug", description="Holds tea.", price=euros(12, 500_000_000), image_uri="https://example.com/mug.png"
)


def create(id: str, product: pb.Product = MUG, request_id: str = "") -> pb.CreateProductRequest:
    return pb.CreateProductRequest(product_id=id, product=product, request_id=request_id or id)


def but(**fields: object) -> pb.Product:
    """The mug, but for these."""
    product = pb.Product(**fields)  # type: ignore[arg-type]
    said = pb.Product()
    said.CopyFrom(MUG)
    for name in fields:
        said.ClearField(name)  # type: ignore[arg-type]
    said.MergeFrom(product)
    return said


def ids(products: Sequence[pb.Product]) -> list[str]:
    return [product.name.removeprefix("products/") for product in products]
