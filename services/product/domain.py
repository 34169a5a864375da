"""What a product is, how it changes, and how products are listed."""

import hashlib
import json
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Self

from services.money import Money
from services.refusals import AlreadyExists, EtagMismatch, NotFound


class ProductNotFound(NotFound):
    reason = "PRODUCT_NOT_FOUND"
    message = "There is no such product."


class ProductExists(AlreadyExists):
    reason = "PRODUCT_EXISTS"
    message = "Another product has this id."


@dataclass(frozen=True, slots=True)
class Description:
    """What a catalogue manager says about a product."""

    display_name: str
    text: str
    price: Money
    image_uri: str

    def fingerprint(self, product_id: str) -> bytes:
        """Tells whether two requests asked for the same product, also after the product was changed."""
        said = [product_id, self.display_name, self.text, self.price.currency, self.price.nanos, self.image_uri]
        return hashlib.sha256(json.dumps(said).encode()).digest()


@dataclass(frozen=True, slots=True)
class Revision:
    """What shall be said of a product from now on; None leaves it as it was."""

    display_name: str | None = None
    text: str | None = None
    price: Money | None = None
    image_uri: str | None = None

    def of(self, description: Description) -> Description:
        """The description, revised."""
        return Description(
            description.display_name if self.display_name is None else self.display_name,
            description.text if self.text is None else self.text,
            description.price if self.price is None else self.price,
            description.image_uri if self.image_uri is None else self.image_uri,
        )


@dataclass(frozen=True, slots=True)
class Product:
    """One thing that the shop sells, or has sold."""

    id: str
    description: Description
    archived: bool
    version: int
    create_time: datetime
    update_time: datetime

    @property
    def etag(self) -> str:
        return f'"{self.version}"'

    def revised(self, revision: Revision, etag: str) -> Self:
        """Raises EtagMismatch."""
        self._require(etag)
        return replace(self, description=revision.of(self.description))

    def put_away(self, etag: str) -> Self:
        """Archived; as it is when it is so already. Raises EtagMismatch."""
        return self if self.archived else self._turned(etag)

    def put_back(self, etag: str) -> Self:
        """Not archived; as it is when it is so already. Raises EtagMismatch."""
        return self._turned(etag) if self.archived else self

    def _turned(self, etag: str) -> Self:
        self._require(etag)
        return replace(self, archived=not self.archived)

    def _require(self, etag: str) -> None:
        """No etag means whichever state there is."""
        if etag and etag != self.etag:
            raise EtagMismatch(product=f"products/{self.id}")


class Sort(Enum):
    """What a list is sorted by. Amounts in different currencies are not compared: the currency comes first."""

    DISPLAY_NAME = "display_name"
    PRICE = "price"
    CREATE_TIME = "create_time"


type Place = tuple[str | tuple[str, int] | datetime, str]
"""Where a product stands in a list: by what the list is sorted by (a price as currency and billionths), then by id."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Which products a caller wants to see, and in which order."""

    sort: Sort = Sort.DISPLAY_NAME
    descending: bool = False
    """Ids too, which break ties."""
    words: tuple[str, ...] = ()
    """A product is in the list when it has all of them."""
    show_archived: bool = False

    def place_of(self, product: Product) -> Place:
        match self.sort:
            case Sort.DISPLAY_NAME:
                return product.description.display_name, product.id
            case Sort.PRICE:
                return (product.description.price.currency, product.description.price.nanos), product.id
            case Sort.CREATE_TIME:
                return product.create_time, product.id
