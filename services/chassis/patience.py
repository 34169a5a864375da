"""Waiting for what is away: for ever, with pauses that grow to a second, without flooding the log."""

import random
import time

from services.refusals import Refusal

QUIET = 30
"""Of failures in a row every so many are logged, the first too: a line in half a minute."""
_SHORTEST_S, _LONGEST_S = 0.05, 1.0

SELDOM_S = 60.0


class Seldom:
    """For a line about what happens again and again: says when it may be told, once a minute at most."""

    def __init__(self) -> None:
        self._last = float("-inf")

    def may(self) -> bool:
        """Whether it may be told now; then it is told."""
        now = time.monotonic()
        if now - self._last < SELDOM_S:
            return False
        self._last = now
        return True


def pause_s(failures: int) -> float:
    """How long to wait after so many failures in a row; by chance, so that replicas come one by one."""
    return min(_SHORTEST_S * 2.0 ** min(failures, 10), _LONGEST_S) * random.uniform(0.5, 1.0)  # noqa: S311


def describe(error: BaseException) -> str:
    """In one line, for a row or a log: what kind, its own words, and what was behind it."""
    behind = f" ({describe(error.__cause__)})" if error.__cause__ else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{behind}"


def told(error: Exception) -> dict[str, object]:
    """The facts of a log line: a refusal says all by itself, what nobody expected comes with its traceback."""
    return {"error": describe(error), "exc_info": None if isinstance(error, Refusal) else error}
