"""Small shapes that Envoy's configuration repeats."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta

import betterproto2
from envoy_data_plane.envoy.config.core.v3 import Address, SocketAddress, TypedExtensionConfig
from envoy_data_plane.google.protobuf import Any, ListValue, Struct, Value

type Json = str | float | Mapping[str, "Json"] | Sequence["Json"]

NEVER = timedelta(0)
"""Where Envoy takes a time limit, zero switches it off."""


def packed(message: betterproto2.Message) -> Any:
    """The message as google.protobuf.Any."""
    return Any.pack(message)


def extension(name: str, config: betterproto2.Message) -> TypedExtensionConfig:
    """An extension with its configuration."""
    return TypedExtensionConfig(name=name, typed_config=packed(config))


def address(host: str, port: int) -> Address:
    """A TCP address."""
    return Address(socket_address=SocketAddress(address=host, port_value=port))


def struct(fields: Mapping[str, Json]) -> Struct:
    """A JSON object."""
    return Struct(fields={name: _value(field) for name, field in fields.items()})


def _value(json: Json) -> Value:
    match json:
        case str():
            return Value(string_value=json)
        case int() | float():
            return Value(number_value=float(json))
        case Mapping():
            return Value(struct_value=struct(json))
        case _:
            return Value(list_value=ListValue(values=[_value(item) for item in json]))


def field(number: int, body: bytes) -> bytes:
    """A field of a message that is already encoded (or of text): messages may be joined from such pieces.

    Protobuf: a message's fields may come in any order, and those of a repeated field one by one.
    """
    return _varint(number << 3 | 2) + _varint(len(body)) + body


class Pieces:
    """Encoded parts of a message, each made again only when what it is made of differs.

    Encoding is slow: a table of routes took 0.4 s, and most of its routes are the same after a change.
    """

    def __init__(self) -> None:
        self._made: dict[str, tuple[object, bytes]] = {}

    def of[*Inputs](
        self, number: int, what: str, make: Callable[[*Inputs], Iterable[betterproto2.Message]], *inputs: *Inputs
    ) -> bytes:
        """All that `make` yields, as the repeated field with this number; `what` names it among all pieces."""
        made = self._made.get(what)
        if made is None or made[0] != inputs:
            encoded = b"".join(field(number, bytes(message)) for message in make(*inputs))
            made = self._made[what] = (inputs, encoded)
        return made[1]


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)
