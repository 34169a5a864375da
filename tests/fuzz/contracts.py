"""Every rpc of the shop, with its messages and what its comment says it refuses with."""

import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from services.controlplane.contract import Contract, Rpc
from services.files import resource

PROTOS = Path(__file__).parents[2] / "protos"

FOR_EVERY_RPC = frozenset({
    "INVALID_ARGUMENT/INVALID_REQUEST",
    "UNAUTHENTICATED/TOKEN_INVALID",
    "PERMISSION_DENIED/ROLE_MISSING",
})  # fmt: skip
"""What any rpc may refuse with, so that no comment says it."""

_COMMENTED_RPC = re.compile(r"((?:^ *//.*\n)+) *rpc (\w+)\(", re.MULTILINE)


@dataclass(frozen=True, repr=False)
class Called:
    """One rpc as callers see it."""

    rpc: Rpc
    refusals: frozenset[str]
    """Answers, CODE/REASON, that its comment names or that any rpc may give."""

    @cached_property
    def method(self) -> MethodDescriptor:
        return descriptor_pool.Default().FindMethodByName(self.rpc.path.removeprefix("/").replace("/", "."))

    @cached_property
    def request(self) -> type[Message]:
        return message_factory.GetMessageClass(self.method.input_type)

    @cached_property
    def response(self) -> type[Message]:
        return message_factory.GetMessageClass(self.method.output_type)

    def __repr__(self) -> str:
        return f"{self.rpc.service}.{self.rpc.method}"


def _all() -> Iterator[Called]:
    descriptors = resource("gen/descriptors.binpb").read_bytes()
    for file in descriptor_pb2.FileDescriptorSet.FromString(descriptors).file:
        if file.package.startswith("shop."):
            importlib.import_module(file.name.removesuffix(".proto").replace("/", ".") + "_pb2")
    told = {
        (proto.parent.parent.name, method): comment
        for proto in PROTOS.glob("shop/*/v1/*.proto")
        for comment, method in _COMMENTED_RPC.findall(proto.read_text())
    }
    for rpc in Contract.read(descriptors).rpcs:
        named = re.findall(r"\b[A-Z_]+/[A-Z_]+\b", told[rpc.service, rpc.method])
        yield Called(rpc, FOR_EVERY_RPC | set(named))


RPCS = tuple(_all())


def called_with(request: Message) -> Called:
    """The rpc that takes such a request."""
    return next(called for called in RPCS if called.request is type(request))
