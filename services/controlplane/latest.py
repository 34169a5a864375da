"""One value that is replaced as a whole, and a way to wait for the next."""

import asyncio


class Latest[T]:
    """Many readers, one writer, one event loop. A slow reader misses values in between, never the last one."""

    def __init__(self) -> None:
        self.value: T | None = None
        self.number = 0
        """Grows with every value."""
        self._replaced = asyncio.Event()

    def put(self, value: T) -> None:
        """Replaces the value and wakes who waits."""
        self.value = value
        self.number += 1
        self._replaced.set()
        self._replaced = asyncio.Event()

    async def beyond(self, number: int) -> None:
        """Returns as soon as `number` is not the latest."""
        while self.number == number:
            await self._replaced.wait()
