"""Amounts of money, exact, in one currency each."""

from dataclasses import dataclass
from typing import Self

from services.refusals import Invalid

NANOS = 1_000_000_000
"""Money counts in billionths of a currency unit, as google.type.Money does."""


class CurrencyMixed(Invalid):
    reason = "CURRENCY_MIXED"
    message = "Amounts in different currencies cannot be added."


@dataclass(frozen=True, slots=True)
class Money:
    """An amount in one currency, exact to a billionth of a unit."""

    currency: str
    nanos: int

    @classmethod
    def of(cls, currency: str, units: int, nanos: int = 0) -> Self:
        """From whole units and billionths, as google.type.Money and the tables hold them."""
        return cls(currency, units * NANOS + nanos)

    @property
    def parts(self) -> tuple[int, int]:
        """Whole units and the billionths beside them, both of one sign (google.type.Money)."""
        units, nanos = divmod(abs(self.nanos), NANOS)
        return (units, nanos) if self.nanos >= 0 else (-units, -nanos)

    def __add__(self, other: Self) -> Self:
        """Raises CurrencyMixed."""
        if other.currency != self.currency:
            raise CurrencyMixed(left=self.currency, right=other.currency)
        return type(self)(self.currency, self.nanos + other.nanos)

    def __mul__(self, times: int) -> Self:
        return type(self)(self.currency, self.nanos * times)

    def __str__(self) -> str:
        """In hundredths, for people: `EUR 12.50`."""
        units, nanos = self.parts
        sign = "-" if self.nanos < 0 else ""
        return f"{self.currency} {sign}{abs(units)}.{abs(nanos) // 10_000_000:02d}"
