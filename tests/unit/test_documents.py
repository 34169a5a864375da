"""What the documents say of the contracts is what the contracts say."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet, MethodDescriptorProto
from mesh.v1 import auth_pb2

CHECKOUT = Path(__file__).parents[2]
DESCRIPTORS = CHECKOUT / "gen" / "descriptors.binpb"


def route(method: MethodDescriptorProto) -> str:
    """Such as `GET /v1/products/*`, empty without one."""
    http: http_pb2.HttpRule = method.options.Extensions[annotations_pb2.http]  # type: ignore[index]  # published without types
    verb = http.WhichOneof("pattern")
    return f"`{verb.upper()} {re.sub(r'{[^=]+=([^}]+)}', r'\1', getattr(http, verb))}`" if verb else ""


def allowed(method: MethodDescriptorProto) -> str:
    rule = method.options.Extensions[auth_pb2.rule]
    return "anybody" if rule.public else ", ".join([*rule.roles, *(f"the service {client}" for client in rule.clients)])


def rows() -> Iterator[str]:
    """The lines that the table of rpcs should have."""
    for file in FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()).file:
        for service in file.service:
            for method in service.method:
                yield " | ".join((f"| {service.name}.{method.name}", route(method), f"{allowed(method)} |"))


def test_the_table_of_rpcs_has_them_all_with_their_routes_and_rules() -> None:
    table = re.findall(r"^\| \w+Service\.\w+ \|.*$", (CHECKOUT / "docs" / "api.md").read_text(), re.MULTILINE)

    assert sorted(table) == sorted(rows())


@pytest.mark.parametrize(
    "document", ["README.md", "CONTRIBUTING.md", "docs/api.md", "docs/running.md", "docs/benchmarks.md"]
)
def test_every_link_leads_somewhere(document: str) -> None:
    file = CHECKOUT / document
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", file.read_text())

    assert [link for link in links if not (file.parent / link).exists()] == []


def test_the_files_that_contributors_are_sent_to_exist() -> None:
    named = set(
        re.findall(r"`((?:protos|services|etcd|tests|docs)/[^`]*)`", (CHECKOUT / "CONTRIBUTING.md").read_text())
    )

    found = {name for name in named if any(CHECKOUT.glob(re.sub(r"<\w+>", "product", name)))}

    assert found == named
