"""What a product is."""

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime

from services.money import Money
from services.refusals import AlreadyExists, NotFound


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
class Product:
    """One thing that the shop sells."""

    id: str
    description: Description
    archived: bool
    version: int
    create_time: datetime
    update_time: datetime

    @property
    def place(self) -> "Place":
        return self.description.display_name, self.id


type Place = tuple[str, str]
"""Where a product stands in the list: by display name, then by id."""
