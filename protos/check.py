"""Checks the contracts: buf's lint, no breaking change since baseline.binpb, and a rule and a route for every rpc."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from generate import PROTOS, plugin, write_descriptors
from google.api import annotations_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet, MethodDescriptorProto
from mesh.v1 import auth_pb2


def main() -> None:
    """Prints every complaint; exits with 1 when there is one."""
    with tempfile.TemporaryDirectory() as scratch:
        image = Path(scratch) / "image.binpb"
        write_descriptors(image, Path(scratch), "--include_source_info")
        linted = buf("lint", str(image))
        kept = buf("breaking", str(image), "--against", str(PROTOS / "baseline.binpb"))
        complaints = list(unruled(FileDescriptorSet.FromString(image.read_bytes())))
    print(*complaints, sep="\n", end="\n" if complaints else "")
    if complaints or not linted or not kept:
        sys.exit(1)


def buf(command: str, *args: str) -> bool:
    """Whether buf finds all well; what it finds goes to our output."""
    config = ("--config", str(PROTOS / "buf.yaml"))
    return subprocess.run([plugin("buf"), command, *args, *config], check=False).returncode == 0


def unruled(files: FileDescriptorSet) -> Iterator[str]:
    """What is wrong with the rules and routes of our rpcs, a line each."""
    for file in files.file:
        for service in file.service:
            for method in service.method:
                if wrong := wrong_with(method):
                    yield f"{file.name}: {service.name}.{method.name} {wrong}"


def wrong_with(method: MethodDescriptorProto) -> str | None:
    """Exactly one of public, roles, clients; a route for all but those for clients."""
    rule = method.options.Extensions[auth_pb2.rule]
    if sum((rule.public, bool(rule.roles), bool(rule.clients))) != 1:
        return "needs the option mesh.v1.rule with exactly one of public, roles, clients"
    routed = method.options.HasExtension(annotations_pb2.http)  # type: ignore[arg-type]  # its stub knows no extensions
    if routed and rule.clients:
        return "is for service clients, so it must not have a google.api.http route"
    if not routed and not rule.clients:
        return "needs a google.api.http route"
    return None


if __name__ == "__main__":
    main()
