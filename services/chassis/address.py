"""The address by which others reach a server of this process, looked up until it is known."""

import asyncio
import itertools
import threading
from collections.abc import Callable

from services.chassis import logs
from services.chassis.patience import QUIET, describe, pause_s
from services.chassis.settings import Settings

log = logs.get()


async def address(settings: Settings, port: int) -> str:
    """`ip:port` of a server that is bound to `port`; waits for ever while the name of the mesh does not resolve."""
    for attempt in itertools.count():
        try:
            return await _beside(lambda: settings.advertised(port))
        except OSError as error:
            if attempt % QUIET == 0:
                log.warning(
                    "not registered yet: no address of this machine is known to lead to the mesh",
                    mesh=settings.mesh,
                    attempts=attempt + 1,
                    error=describe(error),
                )
        await asyncio.sleep(pause_s(attempt))
    raise AssertionError("counting ends never")


async def _beside[T](look: Callable[[], T]) -> T:
    """In a thread that nobody waits for: a resolver may take long, and asyncio waits for its own threads at the end."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[T] = loop.create_future()

    def tell(end: Callable[[], None]) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(lambda: None if found.done() else end())

    def run() -> None:
        try:
            result = look()
        except OSError as error:
            failure = error
            tell(lambda: found.set_exception(failure))
        else:
            tell(lambda: found.set_result(result))

    threading.Thread(target=run, name="address", daemon=True).start()
    return await found
