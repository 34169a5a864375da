import socket

from tests.support.ports import free_port


def test_a_free_port_can_be_bound_and_is_below_the_ephemeral_range() -> None:
    port = free_port()
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))
    assert port < 32768
