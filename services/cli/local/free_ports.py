"""Whether the ports of a stack are free, and who has those that are not."""

import socket
from collections.abc import Mapping

import psutil

from services.cli.settings import HOST, variable
from services.failure import Failure


def require_free(ports: Mapping[str, int]) -> None:
    """Raises Failure that names each port taken, its owner and how to move it."""
    taken = {name: port for name, port in ports.items() if not _is_free(port)}
    if not taken:
        return
    owners = _owners()
    told = "; ".join(f"{port} ({name}) is used by {owners.get(port, 'another user')}" for name, port in taken.items())
    first = next(iter(taken))
    raise Failure(
        f"ports {told}. Stop that, move one port ({variable(first)}=...), or all of them (--ports-from 20000)"
        if len(taken) > 1
        else f"port {told}. Stop that, move this port ({variable(first)}=...), or all ports (--ports-from 20000)"
    )


def any_free() -> int:
    """A port that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _owners() -> dict[int, str]:
    """Port to `name (process id)`, as far as we may see."""
    owners: dict[int, str] = {}
    for process in psutil.process_iter(["name"]):
        try:
            connections = process.net_connections("tcp")
        except (psutil.Error, OSError):
            continue
        for connection in connections:
            if connection.status == psutil.CONN_LISTEN:
                owners.setdefault(connection.laddr.port, f"{process.info['name']} (process {process.pid})")
    return owners
