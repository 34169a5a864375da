"""What the contracts say about every rpc: who may call it, by which HTTP route, and whether it may be tried again."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from google.api import annotations_pb2, http_pb2
from google.protobuf import descriptor_pb2
from mesh.v1 import auth_pb2

_MethodOptions = descriptor_pb2.MethodOptions
_VARIABLE = re.compile(r"\{([^=}]+)(?:=([^}]+))?\}")


@dataclass(frozen=True, slots=True)
class Rpc:
    """One rpc of one service."""

    service: str
    """Name in the mesh: `product` for `shop.product.v1.ProductService`."""
    grpc_service: str
    method: str
    public: bool
    roles: tuple[str, ...]
    clients: tuple[str, ...]
    idempotent: bool
    streaming: bool
    http_patterns: tuple[str, ...]
    """Regular expressions, each for a whole path; none for an rpc without an HTTP route."""
    fields_in_paths: frozenset[str]
    """Fields of the request that a path fills, as `name` in `/v1/{name=products/*}`."""

    @property
    def path(self) -> str:
        return f"/{self.grpc_service}/{self.method}"

    @property
    def at_edge(self) -> bool:
        """Rpcs for service clients have no way in from outside."""
        return not self.clients


@dataclass(frozen=True)
class Contract:
    """All rpcs that carry a rule, in the order in which the contracts have them."""

    rpcs: tuple[Rpc, ...]
    descriptors: bytes
    """The serialized FileDescriptorSet, imports before their users."""
    openapi: bytes
    """The same for callers over REST: a document of OpenAPI."""

    @classmethod
    def read(cls, descriptors: bytes, openapi: bytes = b"") -> "Contract":
        files = descriptor_pb2.FileDescriptorSet.FromString(descriptors).file
        return cls(tuple(rpc for file in files for rpc in _rpcs(file)), descriptors, openapi)

    @cached_property
    def services(self) -> tuple[str, ...]:
        """Names in the mesh, sorted."""
        return tuple(sorted(self._by_service))

    @cached_property
    def grpc_services(self) -> tuple[str, ...]:
        """Full names, sorted."""
        return tuple(sorted({rpc.grpc_service for rpc in self.rpcs}))

    def of(self, service: str) -> tuple[Rpc, ...]:
        """The rpcs of a service, by its name in the mesh."""
        return tuple(self._by_service.get(service, ()))

    @cached_property
    def _by_service(self) -> Mapping[str, Sequence[Rpc]]:
        found: dict[str, list[Rpc]] = {}
        for rpc in self.rpcs:
            found.setdefault(rpc.service, []).append(rpc)
        return found

    @property
    def methods(self) -> Mapping[str, frozenset[str]]:
        """Names of the rpcs, such as `PlaceOrder`, by service."""
        return {service: frozenset(rpc.method for rpc in self.of(service)) for service in self.services}

    def has_streams(self, service: str) -> bool:
        """Whether any rpc of the service streams."""
        return any(rpc.streaming for rpc in self.of(service))

    def service_of(self, grpc_service: str) -> str | None:
        """The name in the mesh of a full name."""
        return next((rpc.service for rpc in self.rpcs if rpc.grpc_service == grpc_service), None)


def _rpcs(file: descriptor_pb2.FileDescriptorProto) -> Iterator[Rpc]:
    for service in file.service:
        for method in service.method:
            options = method.options
            if not options.HasExtension(auth_pb2.rule):
                continue
            rule = options.Extensions[auth_pb2.rule]
            templates = list(_templates(options.Extensions[annotations_pb2.http]))  # type: ignore[index]  # published without types
            yield Rpc(
                service=file.package.split(".")[-2],
                grpc_service=f"{file.package}.{service.name}",
                method=method.name,
                public=rule.public,
                roles=tuple(rule.roles),
                clients=tuple(rule.clients),
                idempotent=options.idempotency_level != _MethodOptions.IDEMPOTENCY_UNKNOWN,
                streaming=method.client_streaming or method.server_streaming,
                http_patterns=tuple(_pattern(template) for template in templates),
                fields_in_paths=frozenset(
                    variable[1] for template in templates for variable in _VARIABLE.finditer(template)
                ),
            )


def _templates(rule: http_pb2.HttpRule) -> Iterator[str]:
    for one in (rule, *rule.additional_bindings):
        kind = one.WhichOneof("pattern")
        if kind is not None:
            yield one.custom.path if kind == "custom" else getattr(one, kind)


def _pattern(template: str) -> str:
    """An HTTP template, such as `/v1/{name=products/*}:archive`, as a regular expression.

    In google.api.http `*` is one segment, `**` any number of them.
    """
    path = _VARIABLE.sub(lambda variable: variable[2] or "*", template)
    return re.escape(path).replace(r"\*\*", ".*").replace(r"\*", "[^/]+")
