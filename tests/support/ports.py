"""Ports for processes under test."""

import random
import socket

# Above the well-known ports and shopmesh's defaults, below Linux's ephemeral range (32768), from which the kernel
# hands ports to outgoing connections at any moment.
_LOWEST, _HIGHEST = 20000, 32767


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nothing listens on. Random, so that stacks started side by side hardly ever meet.

    Nothing reserves it: bind it soon.
    """
    for _ in range(200):
        port = random.randint(_LOWEST, _HIGHEST)
        if _is_free(host, port):
            return port
    raise RuntimeError(f"no free port between {_LOWEST} and {_HIGHEST} on {host}")


def free_ports(count: int, host: str = "127.0.0.1") -> int:
    """The first of `count` consecutive ports that nothing listens on."""
    for _ in range(200):
        first = random.randint(_LOWEST, _HIGHEST - count)
        if all(_is_free(host, first + at) for at in range(count)):
            return first
    raise RuntimeError(f"no {count} consecutive free ports between {_LOWEST} and {_HIGHEST} on {host}")


def _is_free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: a port whose last connections are in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True
