"""What glibc does with memory. Elsewhere nothing happens."""

import contextlib
import ctypes

_M_ARENA_MAX = -8  # malloc.h


def in_one_place() -> None:
    """Each thread that allocates has an arena of its own otherwise, and keeps what a flood once took."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """What is free, to the system: takes some milliseconds."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
