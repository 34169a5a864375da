"""Which order is asked for, and why it is not told."""

from uuid import UUID

from services.failure import Failure


class CannotTell(Failure):
    """Why something is not told: there is no such thing, or who knows it does not answer."""


def order_uuid(text: str) -> UUID:
    """Of `orders/<id>` or the id alone. Raises CannotTell for what is none."""
    try:
        return UUID(text.removeprefix("orders/"))
    except ValueError:
        shown = text if len(text) <= 60 else f"{text[:60]}…"
        raise CannotTell(
            f"“{shown}” is no order: give its id, as in orders/1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed"
        ) from None
