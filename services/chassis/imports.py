"""Libraries without what they load besides and nobody here uses."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def hidden(module: str) -> Iterator[None]:
    """As if it were not installed."""
    before = sys.modules.get(module)
    sys.modules[module] = None  # type: ignore[assignment]  # Python's own way: importing it raises ImportError
    try:
        yield
    finally:
        if before is None:
            del sys.modules[module]
        else:
            sys.modules[module] = before
