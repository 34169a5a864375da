"""`python -m services.cli.containers.healthy [NAME]`: exit code 0 when the process of this container takes calls.

Asks grpc.health.v1.Health over HTTP/2 (RFC 9113) by hand: it runs every few seconds beside each process, and to import
gRPC for it costs six times as much. Without NAME it asks what `shopmesh serve NAME` runs here, if that runs here.
"""

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

LISTENS = {"controlplane": "SHOPMESH_ADS_LISTEN", "telemetry": "SHOPMESH_OTLP_LISTEN"}
"""The variable that says where a process takes gRPC, where it is not SHOPMESH_LISTEN."""

ANSWER_S = 2.0

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _GOAWAY = 0, 1, 3, 4, 7
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_NO_MESSAGE = bytes(5)
"""An empty HealthCheckRequest in gRPC's framing: not compressed, of length 0. It asks about the whole server."""
_SERVING = b"\x08\x01"
"""HealthCheckResponse{status: SERVING}."""


def main() -> None:
    """Says why not, in one line."""
    name = sys.argv[1] if sys.argv[1:] else _served_here()
    if name is None:
        return
    variable = LISTENS.get(name, "SHOPMESH_LISTEN")
    host, _, port = os.environ.get(variable, "").rpartition(":")
    if not port.isdecimal() or port == "0":
        sys.exit(f"{variable} does not say at which port {name} listens")
    try:
        status = ask("127.0.0.1" if host in ("", "0.0.0.0", "[::]") else host.strip("[]"), int(port))  # noqa: S104
    except OSError as error:
        sys.exit(f"{name} does not answer: {error}")
    if status != _SERVING:
        sys.exit(f"{name} takes no calls")


def ask(host: str, port: int) -> bytes:
    """The encoded answer to Health/Check; empty when there is none. Raises OSError."""
    with socket.create_connection((host, port), timeout=ANSWER_S) as connection:
        connection.sendall(
            _PREFACE
            + _frame(_SETTINGS, 0, 0)
            + _frame(_HEADERS, _END_HEADERS, 1, _headers(f"{host}:{port}"))
            + _frame(_DATA, _END_STREAM, 1, _NO_MESSAGE)
        )
        body = b""
        for kind, flags, payload in _frames(connection):
            if kind == _SETTINGS and not flags & _ACK:
                connection.sendall(_frame(_SETTINGS, _ACK, 0))
            elif kind == _DATA:
                body += payload
            elif kind in (_RST_STREAM, _GOAWAY) or (kind == _HEADERS and flags & _END_STREAM):
                break
        return body[len(_NO_MESSAGE) :]


def _headers(authority: str) -> bytes:
    """Of the call (RFC 7541): indexed fields of the static table, and literals that are not kept."""

    def text(value: str) -> bytes:
        return bytes([len(value)]) + value.encode()

    return (
        b"\x83\x86"  # :method POST, :scheme http
        + (b"\x04" + text("/grpc.health.v1.Health/Check"))  # :path
        + (b"\x01" + text(authority))  # :authority
        + (b"\x0f\x10" + text("application/grpc"))  # content-type
        + (b"\x00" + text("te") + text("trailers"))
    )


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def _frames(connection: socket.socket) -> Iterator[tuple[int, int, bytes]]:
    """Kind, flags and payload of each, until the other side hangs up. There is one stream."""
    with connection.makefile("rb") as coming:
        while len(head := coming.read(9)) == 9:
            yield head[3], head[4], coming.read(int.from_bytes(head[:3]))


def _served_here() -> str | None:
    """What the first process of this container serves; None where it is another one, which has no such check."""
    words = Path("/proc/1/cmdline").read_bytes().decode().split("\0")
    return words[words.index("serve") + 1] if "serve" in words[:-1] else None


if __name__ == "__main__":
    main()
