"""How the process itself is: its time, its memory, and how late its event loop comes to things."""

import asyncio
import os
import time
from pathlib import Path

from services.chassis.metrics import Counter, Gauge, Histogram, Labels

EVERY_S = 0.5

_cpu = Counter("process.cpu.time", "s", "CPU time that the process has used.", "cpu.mode")
_memory = Gauge("process.memory.usage", "By", "Memory that the process has in RAM, shared pages too.")
_uptime = Gauge("process.uptime", "s", "How long the process runs.")
_late = Histogram(
    "shopmesh.event_loop.delay", "s", "How late the event loop comes to what is due, looked at twice a second."
)
_BEGAN = time.monotonic()
_STATM = Path("/proc/self/statm")
"""Linux: proc(5)."""
_PAGE = os.sysconf("SC_PAGE_SIZE")


def _times() -> dict[Labels, float]:
    used = os.times()
    return {("user",): used.user, ("system",): used.system}


def _resident() -> dict[Labels, float]:
    """Where it cannot be read, it is not known."""
    try:
        return {(): int(_STATM.read_bytes().split()[1]) * _PAGE}
    except OSError:
        return {}


_cpu.ask(_times)
_memory.ask(_resident)
_uptime.ask(lambda: {(): time.monotonic() - _BEGAN})


async def watch_the_loop() -> None:
    """Never ends."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + EVERY_S
        await asyncio.sleep(EVERY_S)
        _late.record(max(0.0, loop.time() - due))
