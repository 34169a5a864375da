"""docs/settings.md is the one table of variables: it has those that the code reads, and no others."""

import re

import pytest

from services.chassis.settings import Settings
from tests.support.surroundings import CHECKOUT, NOT_SETTINGS, PREFIX, code, read_by, written

ROW = re.compile(r"^\| `(SHOPMESH_[A-Z_]+)(?:<NAME>)?` \| ([^|]*?) ?\|", re.MULTILINE)
"""Name and default."""
PROCESSES = ("order", "controlplane", "telemetry", "mailbox")
"""All services read the same."""


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
