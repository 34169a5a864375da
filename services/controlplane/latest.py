"""One value that is replaced as a whole, and a way to wait for the next."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Latest[T]:
    """Many readers, one writer, one event loop. A slow reader misses values in between, never the last one."""

    def __init__(self) -> None:
        self.value: T | None = None
        self.number = 0
        """Grows with every value."""
        self._woken: dict[asyncio.Event, None] = {}

    def put(self, value: T) -> None:
        """Replaces the value and wakes who waits, in the order in which they came."""
        self.value = value
        self.number += 1
        for event in self._woken:
            event.set()

    @contextmanager
    def waking(self, event: asyncio.Event) -> Iterator[None]:
        """Sets the event at every new value."""
        self._woken[event] = None
        try:
            yield
        finally:
            del self._woken[event]

    async def beyond(self, number: int) -> None:
        """Returns as soon as `number` is not the latest."""
        event = asyncio.Event()
        with self.waking(event):
            while self.number == number:
                event.clear()
                await event.wait()
