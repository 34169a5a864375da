"""Small shapes that Envoy's configuration repeats."""

from collections.abc import Mapping, Sequence
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
