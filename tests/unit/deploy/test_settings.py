"""docs/settings.md is the one table of variables: it has those that the code reads, and no others."""

import re

import pytest

from services.chassis.settings import Settings
from tests.support.surroundings import CHECKOUT, NOT_SETTINGS, PREFIX, code, read_by, written

ROW = re.compile(r"^\| `(SHOPMESH_[A-Z_]+)(?:<NAME>)?` \| ([^|]*?) ?\|", re.MULTILINE)
"""Name and default."""
PROCESSES = ("order", "controlplane", "telemetry", "mailbox")
"""All services read the same."""

ONLY_COMPOSE = {"SHOPMESH_IDENTITY", "SHOPMESH_IMAGE"}
"""What compose.yaml itself makes something of; it says what."""


@pytest.fixture(scope="module")
def rows() -> list[tuple[str, str]]:
    return ROW.findall((CHECKOUT / "docs" / "settings.md").read_text())


def test_the_table_has_what_is_read_and_nothing_else(
    rows: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = written().union(*(read_by(process, monkeypatch) for process in PROCESSES))
    assert {name for name, _ in rows} - {"SHOPMESH_PORT_"} == read


def test_rows_are_in_order_and_single(rows: list[tuple[str, str]]) -> None:
    names = [name for name, _ in rows]
    assert names == sorted(set(names))


def test_defaults_are_those_of_the_code(rows: list[tuple[str, str]]) -> None:
    settings, told = Settings.read("<service>", {}), dict(rows)
    for name in ("ADS_LISTEN", "AUDIENCE", "CLIENT_ID", "DATABASE_URL", "EDGE_LISTEN", "ISSUER", "LISTEN", "MESH",
                 "MESH_LISTEN", "NATS_URL", "SMTP_URL", "STATE_DIR"):  # fmt: skip
        assert told[PREFIX + name] == f"`{getattr(settings, name.lower())}`", name
    for name in ("ADVERTISE", "CLIENT_SECRET_FILE", "ENVOY_ADMIN", "METRICS", "OTLP_ENDPOINT"):
        assert not told[PREFIX + name], name
        assert not getattr(settings, name.lower()), name


def test_what_is_no_setting_is_still_in_the_code() -> None:
    assert [name for name in NOT_SETTINGS if name not in code()] == []


def test_compose_file_and_manifests_name_no_variable_that_is_not_in_the_table(rows: list[tuple[str, str]]) -> None:
    files = [CHECKOUT / "compose.yaml", CHECKOUT / "Dockerfile", *(CHECKOUT / "deploy" / "kubernetes").rglob("*.*")]
    named = {name for file in files for name in re.findall(r"SHOPMESH_[A-Z_]+", file.read_text())}
    strange = {name for name in named if not name.startswith(("SHOPMESH_PORT_", "SHOPMESH_SECRET_"))}
    assert strange - {name for name, _ in rows} == ONLY_COMPOSE
    assert all(name in (CHECKOUT / "compose.yaml").read_text() for name in ONLY_COMPOSE)
