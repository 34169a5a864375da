"""Lines for whoever waits: the fixture `tell`."""

from collections.abc import Callable

type Tell = Callable[[str], None]
