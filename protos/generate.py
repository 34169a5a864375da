"""Makes everything under gen/ from the .proto files: `make gen`. With --check, says what differs instead: `make check`.

gen/python          modules, stubs and their types, and buf.validate, so that the package works alone
gen/descriptors.binpb   all descriptors, for Envoy's transcoder and for reflection
gen/openapi.json    the REST door as OpenAPI 3.1

The same protos with the same locked tools give the same bytes.
"""

import argparse
import itertools
import shutil
import sys
import sysconfig
import tempfile
import tomllib
from pathlib import Path

import grpc_tools
from grpc_tools import protoc
from openapi import openapi
from protovalidate._gen.buf.validate import validate_pb

ROOT = Path(__file__).resolve().parents[1]
PROTOS = ROOT / "protos"
GEN = ROOT / "gen"
BUF_VALIDATE = "buf/validate/validate.proto"
# Not imported by a service, but every refusal carries one: who reads descriptors must be able to read refusals.
REFUSAL_DETAILS = "google/rpc/error_details.proto"


def main() -> None:
    """Writes gen/, or with --check compares it with what would be written; exits with 1 on a difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, fail when gen/ is not what it should be")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch) / "gen"
        generate(fresh, Path(scratch))
        if not args.check:
            replace(fresh)
        elif differences := compare(fresh):
            print(*differences, sep="\n")
            sys.exit("gen/ is not what protos/ say: run `make gen` and commit its result")


def generate(target: Path, scratch: Path) -> None:
    """Writes what gen/ should hold to `target`."""
    python = target / "python"
    python.mkdir(parents=True)
    own = own_files()
    run_protoc(
        [*own, BUF_VALIDATE],
        scratch,
        f"--python_out={python}",
        f"--grpc_python_out={python}",
        f"--plugin=protoc-gen-mypy={plugin('protoc-gen-mypy')}",
        f"--mypy_out=quiet:{python}",
        f"--plugin=protoc-gen-mypy_grpc={plugin('protoc-gen-mypy_grpc')}",
        f"--mypy_grpc_out=quiet,only_async:{python}",
    )
    drop_stubs_without_services(python)
    for package in sorted(path for path in python.iterdir() if path.is_dir()):
        (package / "py.typed").touch()
    write_descriptors(target / "descriptors.binpb", scratch)
    image = scratch / "image.binpb"
    write_descriptors(image, scratch, "--include_source_info")
    package = tomllib.loads((GEN / "python" / "pyproject.toml").read_text())["project"]
    (target / "openapi.json").write_bytes(openapi(image.read_bytes(), package["version"]))


def drop_stubs_without_services(python: Path) -> None:
    """Removes the _pb2_grpc modules that protoc writes for files with messages only: they would say nothing."""
    for stub in python.rglob("*_pb2_grpc.py"):
        if "Servicer" not in stub.read_text():
            stub.unlink()
            stub.with_suffix(".pyi").unlink(missing_ok=True)


def write_descriptors(target: Path, scratch: Path, *options: str) -> None:
    """Writes all descriptors with everything they import as one FileDescriptorSet."""
    run_protoc(
        [*own_files(), REFUSAL_DETAILS], scratch, "--include_imports", f"--descriptor_set_out={target}", *options
    )


def own_files() -> list[str]:
    """Our .proto files, relative to protos/."""
    return sorted(path.relative_to(PROTOS).as_posix() for path in PROTOS.rglob("*.proto"))


def run_protoc(files: list[str], scratch: Path, *options: str) -> None:
    """Runs the protoc of grpcio-tools; its own words go to stderr. Exits when it fails.

    google/api and google/rpc come from googleapis-common-protos, buf/validate from protovalidate, which carries it as a
    descriptor only.
    """
    validate = scratch / "validate.binpb"
    if not validate.exists():
        write_validate(validate)
    result = protoc.main(
        [
            "protoc",
            f"--proto_path={PROTOS}",
            f"--proto_path={sysconfig.get_path('purelib')}",
            f"--proto_path={Path(grpc_tools.__file__).parent / '_proto'}",
            f"--descriptor_set_in={validate}",
            *options,
            *files,
        ]
    )
    if result != 0:
        sys.exit(f"protoc failed with {result}")


def write_validate(target: Path) -> None:
    """Writes buf/validate and what it imports as a descriptor set."""
    from google.protobuf import descriptor_pb2, duration_pb2, field_mask_pb2, timestamp_pb2

    files = descriptor_pb2.FileDescriptorSet()
    for imported in (descriptor_pb2, duration_pb2, field_mask_pb2, timestamp_pb2):
        imported.DESCRIPTOR.CopyToProto(files.file.add())
    files.file.add().MergeFromString(validate_pb.desc().proto.to_binary())
    target.write_bytes(files.SerializeToString(deterministic=True))


def plugin(name: str) -> Path:
    """The script of that name in the environment this runs in."""
    return Path(sys.executable).with_name(name)


def replace(fresh: Path) -> None:
    """Puts `fresh` in the place of gen/, but for the package's own pyproject.toml, which is written by hand."""
    for old in generated(GEN):
        (GEN / old).unlink()
    for new in generated(fresh):
        (GEN / new).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(fresh / new, GEN / new)


def compare(fresh: Path) -> list[str]:
    """What differs between gen/ and `fresh`, a line each."""
    ours, theirs = set(generated(GEN)), set(generated(fresh))
    same = ours & theirs
    return [
        *(f"gen/{path}: nothing makes it" for path in sorted(ours - theirs)),
        *(f"gen/{path}: missing" for path in sorted(theirs - ours)),
        *(f"gen/{path}:{line}: differs" for path in sorted(same) if (line := differs_at(GEN / path, fresh / path))),
    ]


def differs_at(ours: Path, theirs: Path) -> int:
    """The first line that is not the same in both files, 0 when all are."""
    lines = itertools.zip_longest(ours.read_bytes().splitlines(), theirs.read_bytes().splitlines())
    return next((number for number, (our, their) in enumerate(lines, 1) if our != their), 0)


def generated(root: Path) -> list[Path]:
    """The files under `root` that this script answers for, relative to it."""
    written_by_hand = {Path("python/pyproject.toml")}
    paths = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return [path for path in paths if "__pycache__" not in path.parts and path not in written_by_hand]


if __name__ == "__main__":
    main()
