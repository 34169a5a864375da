"""When a server may stop that nobody should call any more.

Calls that reach gRPC's server while it stops are answered CANCELLED (grpc/grpc#41785), which nobody tries again: it
must stop when no more come.
"""

import asyncio
import time
from collections.abc import Callable

HEARD_S = 0.2
"""How long calls still come after DRAINING: by then every Envoy has heard of it."""
CHECKED_S = 2.0
"""How long they still come after NOT_SERVING where no control plane told of DRAINING: Envoy's checks have found out."""


async def until_no_call_comes(last_call: Callable[[], float]) -> None:
    """Returns when none has come for HEARD_S, or after CHECKED_S. `last_call`: when, by the monotonic clock."""
    give_up = time.monotonic() + CHECKED_S
    # An Event would cost every call.
    while (left := min(give_up, last_call() + HEARD_S) - time.monotonic()) > 0:  # noqa: ASYNC110
        await asyncio.sleep(left)
