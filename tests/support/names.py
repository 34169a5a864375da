"""A name server for tests: one name, with the addresses of the moment, as a network of containers has it."""

import socket
import socketserver
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import override

_A, _IN = 1, 1
_ANSWER, _NO_SUCH_NAME = 0x8580, 0x8583
"""Flags of an answer that is ours to give (RFC 1035 section 4.1.1)."""


class Names(socketserver.UDPServer):
    """Listens on a port of 127.0.0.1; what `addresses` is changed to is known from the next question on."""

    def __init__(self, name: str) -> None:
        super().__init__(("127.0.0.1", 0), _Question)
        self.name, self.addresses = name, list[str]()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def answer(self, question: bytes) -> bytes:
        """Of one question, as resolvers ask them."""
        id, labels, end = question[:2], list[str](), 12
        while length := question[end]:
            labels.append(question[end + 1 : end + 1 + length].decode())
            end += 1 + length
        asked, (kind,) = question[12 : end + 5], struct.unpack("!H", question[end + 1 : end + 3])
        known = ".".join(labels).lower() == self.name
        found: Sequence[str] = self.addresses if known and kind == _A else ()
        flags = _ANSWER if known and self.addresses else _NO_SUCH_NAME
        record = struct.pack("!HHHIH", 0xC00C, _A, _IN, 0, 4)  # the name that was asked for, good for no time
        answers = b"".join(record + socket.inet_aton(address) for address in found)
        return id + struct.pack("!HHHHH", flags, 1, len(found), 0, 0) + asked + answers


class _Question(socketserver.BaseRequestHandler):
    server: Names

    @override
    def handle(self) -> None:
        question, answering = self.request
        answering.sendto(self.server.answer(question), self.client_address)


@contextmanager
def name_server(name: str) -> Iterator[Names]:
    """Nobody has the name at first."""
    with Names(name) as names:
        thread = threading.Thread(target=names.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield names
        finally:
            names.shutdown()
            thread.join()
