"""How instances are called: `product` and `product-2` of the version at hand, `product@2.0` of another one."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from services.cli.settings import SERVICES
from services.failure import Failure

MOST = 9
"""So many instances of one release run at the most: this is one machine."""

_RELEASE = re.compile(r"([a-z]+)(?:@([A-Za-z0-9][A-Za-z0-9._+-]{0,63}))?")
_INSTANCE = re.compile(r"([a-z]+)(?:-([0-9]+))?(@.+)?")


@dataclass(frozen=True, slots=True, order=True)
class Release:
    """A service in one version; without a version it is that of the code at hand."""

    service: str
    version: str = ""

    @classmethod
    def parse(cls, word: str) -> "Release":
        """From SERVICE or SERVICE@VERSION. Raises Failure for what is neither."""
        found = _RELEASE.fullmatch(word)
        if found is None or found[1] not in SERVICES:
            raise Failure(f"{word}: write SERVICE or SERVICE@VERSION, with one of {', '.join(SERVICES)}")
        return cls(found[1], found[2] or "")

    @classmethod
    def of(cls, instance: str) -> "Release | None":
        """Which release an instance belongs to; None for a part that is no instance of a service."""
        found = _INSTANCE.fullmatch(instance)
        return cls(found[1], (found[3] or "")[1:]) if found and found[1] in SERVICES else None

    def instance(self, number: int) -> str:
        """The name of its first, second ... instance."""
        name = self.service if number == 1 else f"{self.service}-{number}"
        return f"{name}@{self.version}" if self.version else name

    def __str__(self) -> str:
        return f"{self.service}@{self.version}" if self.version else self.service


def wanted(words: Iterable[str]) -> dict[Release, int]:
    """From words RELEASE=N. Raises Failure; a service itself has at least one instance when a shop starts."""
    instances = {}
    for word in words:
        name, _, number = word.rpartition("=")
        if not number.isdigit() or not 1 <= int(number) <= MOST:
            raise Failure(f"{word}: write SERVICE=N or SERVICE@VERSION=N, with N from 1 to {MOST}")
        instances[Release.parse(name)] = int(number)
    return instances
