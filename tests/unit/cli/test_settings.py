import pytest

from services.cli.settings import PORTS, chosen_ports
from services.failure import Failure


def test_without_a_wish_the_ports_are_those_of_the_table() -> None:
    assert chosen_ports(None) == PORTS


def test_consecutive_ports_are_taken_from_the_first() -> None:
    assert sorted(chosen_ports(21000).values()) == list(range(21000, 21000 + len(PORTS)))


def test_a_variable_moves_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOPMESH_PORT_ENVOY_ADMIN", "9999")

    assert chosen_ports(21000)["envoy-admin"] == 9999


@pytest.mark.parametrize("text", ["http", "0", "65536", "-1"])
def test_what_is_no_port_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("SHOPMESH_PORT_EDGE", text)

    with pytest.raises(Failure, match=f"SHOPMESH_PORT_EDGE={text}"):
        chosen_ports(None)


def test_two_parts_cannot_share_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOPMESH_PORT_EDGE", "8025")

    with pytest.raises(Failure, match="edge and mail"):
        chosen_ports(None)
