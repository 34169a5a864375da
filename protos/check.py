"""Checks the contracts: buf's lint, no break of what baseline.binpb promised, and a rule and a route for every rpc.

Each complaint is a line that names the place and the mend; nothing is printed when all is well.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from generate import PROTOS, plugin, write_descriptors
from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto
from mesh.v1 import auth_pb2

BASELINE = PROTOS / "baseline.binpb"
BREAK = "clients built before rely on it: put it back, or accept the break by `make baseline` and say why in the commit"
UNRULED = "say who may call it: option (mesh.v1.rule) with exactly one of public, roles, clients"
UNROUTED = "give it a route, option (google.api.http), or make it an rpc for service clients only"
ROUTED = "take its google.api.http route away: an rpc for service clients has no way in from outside"


@dataclass(frozen=True, slots=True)
class Rpc:
    """One rpc of ours, and where it stands."""

    name: str
    place: str
    method: MethodDescriptorProto

    @property
    def rule(self) -> auth_pb2.Rule:
        return self.method.options.Extensions[auth_pb2.rule]

    @property
    def routes(self) -> set[str]:
        """Its HTTP routes, such as `GET /v1/orders`."""
        options = self.method.options
        http: http_pb2.HttpRule = options.Extensions[annotations_pb2.http]  # type: ignore[index]  # published without types
        return {route for binding in (http, *http.additional_bindings) if (route := route_of(binding))}


def main() -> None:
    """Prints every complaint; exits with 1 when there is one."""
    with tempfile.TemporaryDirectory() as scratch:
        image = Path(scratch) / "image.binpb"
        write_descriptors(image, Path(scratch), "--include_source_info")
        now = rpcs(FileDescriptorSet.FromString(image.read_bytes()))
        before = rpcs(FileDescriptorSet.FromString(BASELINE.read_bytes()))
        complaints = [
            *buf("lint", str(image)),
            *(f"{found}; {BREAK}" for found in buf("breaking", str(image), "--against", str(BASELINE))),
            *(f"{rpc.place}: {rpc.name}: {wrong}" for rpc in now.values() for wrong in unruled(rpc)),
            *(
                f"{now[name].place}: {name}: {lost}; {BREAK}"
                for name in sorted(before.keys() & now.keys())
                for lost in narrowed(before[name], now[name])
            ),
        ]
    if complaints:
        print(*complaints, sep="\n")
        sys.exit(1)


def buf(command: str, *args: str) -> Iterator[str]:
    """What buf finds, a line each. Exits when buf itself fails."""
    config = ("--config", str(PROTOS / "buf.yaml"), "--error-format", "json")
    told = subprocess.run([plugin("buf"), command, *args, *config], check=False, capture_output=True, text=True)
    if told.returncode and not told.stdout:
        sys.exit(told.stderr)
    for found in map(json.loads, told.stdout.splitlines()):
        yield f"protos/{found['path']}:{found.get('start_line', 1)}: {found['message'].rstrip('.')} ({found['type']})"


def rpcs(files: FileDescriptorSet) -> dict[str, Rpc]:
    """All rpcs, by their full names."""
    found = (
        Rpc(f"{file.package}.{service.name}.{method.name}", place(file, at, position), method)
        for file in files.file
        for at, service in enumerate(file.service)
        for position, method in enumerate(service.method)
    )
    return {rpc.name: rpc for rpc in found}


def place(file: FileDescriptorProto, service: int, method: int) -> str:
    """File and line of an rpc; the line is 0 where the descriptors do not tell."""
    path = [FileDescriptorProto.SERVICE_FIELD_NUMBER, service, 2, method]
    lines = (location.span[0] + 1 for location in file.source_code_info.location if list(location.path) == path)
    return f"protos/{file.name}:{next(lines, 0)}"


def unruled(rpc: Rpc) -> Iterator[str]:
    """Exactly one of public, roles, clients; a route for all but those for clients."""
    if sum((rpc.rule.public, bool(rpc.rule.roles), bool(rpc.rule.clients))) != 1:
        yield UNRULED
    elif rpc.rule.clients and rpc.routes:
        yield ROUTED
    elif not rpc.rule.clients and not rpc.routes:
        yield UNROUTED


def narrowed(before: Rpc, now: Rpc) -> Iterator[str]:
    """What a caller could do before and cannot now; buf does not look into options."""
    for route in sorted(before.routes - now.routes):
        yield f"its route {route} is gone"
    if before.rule.public and not now.rule.public:
        yield "it is no longer public"
    lost = {*before.rule.roles, *before.rule.clients} - {*now.rule.roles, *now.rule.clients}
    if lost and not now.rule.public:
        yield f"{', '.join(sorted(lost))} may no longer call it"


def route_of(binding: http_pb2.HttpRule) -> str:
    """Verb and path of one binding, nothing when it has none."""
    verb = binding.WhichOneof("pattern")
    return f"{verb.upper()} {getattr(binding, verb)}" if verb else ""


if __name__ == "__main__":
    main()
