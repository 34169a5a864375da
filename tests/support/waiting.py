"""Waiting for a condition instead of sleeping."""

import asyncio
import time
from collections.abc import Awaitable, Callable

DEADLINE_S = 60.0
"""How long a test waits before it fails: long enough for a loaded machine, never the measure of speed."""


async def eventually[T](look: Callable[[], Awaitable[T]], what: str, deadline_s: float = DEADLINE_S) -> T:
    """The first truthy answer of `look`, asked again and again. An AssertionError of `look` counts as "not yet".

    Raises AssertionError, naming `what` and the last answer, when the deadline passes.
    """
    end = time.monotonic() + deadline_s
    while True:
        last: object
        try:
            if answer := await look():
                return answer
            last = answer
        except AssertionError as not_yet:
            last = not_yet
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_s:g} s: {what}; last seen: {last!r}")
        await asyncio.sleep(0.02)
