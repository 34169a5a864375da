"""The lines of this process on their way to the OTLP endpoint, beside its stdout: where nobody reads its files."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from services.chassis import logs
from services.chassis.settings import Settings

LAST_WORD_S = 0.5
"""A process that ends does not wait for a collector that is away."""


@contextmanager
def also_sent(settings: Settings) -> Iterator[None]:
    """From now on to the end of the body, the last line in it included; nothing without SHOPMESH_OTLP_LOGS.

    A line costs who writes it a place in a queue: it is read and encoded in the thread that sends it. What is not taken
    is dropped, and counted as shopmesh.telemetry.dropped of the signal `logs`.
    """
    if not (settings.otlp_logs and settings.otlp_endpoint):
        yield
        return
    from services.chassis.otlp_lines import encoded
    from services.chassis.sending import Sender, Signal
    from services.log_files import said

    def encode(lines: Sequence[bytes]) -> bytes:
        now = time.time_ns()
        return encoded((said(line, settings.service, now) for line in lines), now).SerializeToString()

    sender = Sender(settings.otlp_endpoint, encode, Signal.LINES)
    try:
        with logs.also(sender.put):
            yield
    finally:
        sender.close(LAST_WORD_S)
