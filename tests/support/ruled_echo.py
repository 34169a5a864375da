"""A service made for tests of the chassis: its rpcs do what a test gives them to do, under rules of each kind."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
from buf.validate import validate_pb2
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from mesh.v1 import auth_pb2

SERVICE = "ruled.v1.EchoService"


def _file() -> descriptor_pb2.FileDescriptorProto:
    """What protoc would say of a ruled/v1/ruled_echo.proto."""
    imports = [auth_pb2.DESCRIPTOR.name, validate_pb2.DESCRIPTOR.name]
    file = descriptor_pb2.FileDescriptorProto(
        name="ruled/v1/ruled_echo.proto", package="ruled.v1", syntax="proto3", dependency=imports
    )
    text = file.message_type.add(name="Text").field.add(name="text", number=1, type=9, label=1)
    text.options.Extensions[validate_pb2.field].string.max_len = 10
    service = file.service.add(name="EchoService")
    for name, rule, stream in (
        ("Say", auth_pb2.Rule(public=True), False),
        ("SayToCustomer", auth_pb2.Rule(roles=["customer"]), False),
        ("SayToOrder", auth_pb2.Rule(clients=["order"]), False),
        ("Watch", auth_pb2.Rule(public=True), True),
        ("WatchForCustomer", auth_pb2.Rule(roles=["customer"]), True),
    ):
        method = service.method.add(
            name=name, input_type=".ruled.v1.Text", output_type=".ruled.v1.Text", server_streaming=stream
        )
        method.options.Extensions[auth_pb2.rule].CopyFrom(rule)
    file.service.add(name="UnruledService").method.add(
        name="Say", input_type=".ruled.v1.Text", output_type=".ruled.v1.Text"
    )
    return file


_pool = descriptor_pool.Default()
_pool.Add(_file())
Text: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName("ruled.v1.Text"))


async def echo(request: Any, context: Any) -> Any:
    del context
    return request


async def count(request: Any, context: Any) -> AsyncIterator[Any]:
    del context
    for number in range(int(request.text)):
        yield Text(text=str(number))


@dataclass(slots=True)
class Echo:
    """What the rpcs do; may be changed while it is served."""

    say: Callable[[Any, Any], Awaitable[Any]] = echo
    watch: Callable[[Any, Any], AsyncIterator[Any]] = count


def add_echo(echo: Echo, server: grpc.aio.Server) -> None:
    """As protoc writes it."""

    async def say(request: Any, context: Any) -> Any:
        return await echo.say(request, context)

    async def watch(request: Any, context: Any) -> AsyncIterator[Any]:
        async for answer in echo.watch(request, context):
            yield answer

    codec = Text.FromString, Text.SerializeToString
    handlers: dict[str, Any] = {
        name: grpc.unary_unary_rpc_method_handler(say, *codec) for name in ("Say", "SayToCustomer", "SayToOrder")
    }
    handlers |= dict.fromkeys(("Watch", "WatchForCustomer"), grpc.unary_stream_rpc_method_handler(watch, *codec))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_registered_method_handlers(SERVICE, handlers)


def add_unruled(_: object, server: grpc.aio.Server) -> None:
    """A service whose rpc has no rule."""
    server.add_registered_method_handlers("ruled.v1.UnruledService", {})


class EchoStub:
    """As protoc writes it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        codec = Text.SerializeToString, Text.FromString
        self.Say, self.SayToCustomer, self.SayToOrder = (
            channel.unary_unary(f"/{SERVICE}/{name}", *codec) for name in ("Say", "SayToCustomer", "SayToOrder")
        )
        self.Watch, self.WatchForCustomer = (
            channel.unary_stream(f"/{SERVICE}/{name}", *codec) for name in ("Watch", "WatchForCustomer")
        )
