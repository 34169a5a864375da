from pathlib import Path

import pytest

from services.cli.local.releases import Release
from services.cli.local.stack import Stack
from services.cli.settings import PORTS

STACK = Stack(Path("/nowhere"), PORTS, {Release("inventory"): 2, Release("product", "2.0-test"): 1})


def test_a_part_needs_only_parts_declared_before_it() -> None:
    seen: set[str] = set()
    for process in STACK.processes():
        assert seen.issuperset(process.needs), process.name
        seen.add(process.name)


def test_every_port_of_the_table_belongs_to_exactly_one_part() -> None:
    bound = [port for process in STACK.processes() for port in process.ports]

    assert sorted(bound) == sorted(PORTS)


def test_a_second_instance_has_a_name_of_its_own_and_the_same_database() -> None:
    parts = {process.name: process for process in STACK.processes()}

    first, second = parts["inventory"].environment, parts["inventory-2"].environment
    assert second["SHOPMESH_INSTANCE"] == "inventory-2"
    assert first["SHOPMESH_DATABASE_URL"] == second["SHOPMESH_DATABASE_URL"]


def test_no_service_is_told_where_another_one_is() -> None:
    for process in STACK.processes():
        if process.name in ("product", "order", "inventory", "notification"):
            others = {"product", "order", "inventory", "notification"} - {process.name}
            assert not [
                name
                for name, value in process.environment.items()
                if name.startswith("SHOPMESH_") and any(other in value for other in others)
            ]


def test_what_would_lead_a_process_astray_does_not_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTPS_PROXY", "PGHOST", "ETCD_NAME", "KC_DB", "JAVA_TOOL_OPTIONS", "SHOPMESH_MESH"):
        monkeypatch.setenv(name, "astray")
    monkeypatch.setenv("SHOPMESH_SMTP_URL", "smtp://mail.example.com:25")

    for process in STACK.processes():
        assert "astray" not in process.environment.values()
        assert process.environment["SHOPMESH_SMTP_URL"] == "smtp://mail.example.com:25"


def test_another_version_is_a_process_that_registers_with_that_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOPMESH_VERSION", "1.9")  # of all that say no other

    versions = {process.name: process.environment.get("SHOPMESH_VERSION") for process in STACK.processes()}

    assert (versions["product"], versions["product@2.0-test"]) == ("1.9", "2.0-test")
