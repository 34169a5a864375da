"""What `shopmesh prepare databases` does to a real PostgreSQL."""

import asyncio
import base64
import hashlib
import hmac
import re
from pathlib import Path

import asyncpg
import pytest
from click.testing import CliRunner

from services.cli.containers.preparing import OWNERS, prepare
from services.failure import Failure
from tests.support.postgres import Postgres


@pytest.fixture
def secrets(tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> Path:
    CliRunner().invoke(prepare, ["files", "--into", str(tmp_path)], catch_exceptions=False)
    monkeypatch.setenv("SHOPMESH_SECRETS", str(tmp_path))
    monkeypatch.setenv("SHOPMESH_POSTGRES", f"127.0.0.1:{postgres.port}")
    return tmp_path


def databases() -> str:
    return CliRunner().invoke(prepare, ["databases"], catch_exceptions=False).output


async def passwords(postgres: Postgres) -> dict[str, str]:
    """As PostgreSQL keeps them."""
    connection = await asyncpg.connect(postgres.url("postgres"))
    try:
        rows = await connection.fetch("select rolname, rolpassword from pg_authid where rolpassword is not null")
    finally:
        await connection.close()
    return {row["rolname"]: row["rolpassword"] for row in rows}


def opens(password: str, kept: str) -> bool:
    """Whether that is the password of what PostgreSQL keeps (RFC 5802, 3)."""
    rounds, salt, stored = re.match(r"SCRAM-SHA-256\$(\d+):([^$]+)\$([^:]+):", kept).groups()  # type: ignore[union-attr]
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(salt), int(rounds))
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    return hashlib.sha256(client_key).digest() == base64.b64decode(stored)


async def test_each_role_gets_its_database_and_its_password_however_often(secrets: Path, postgres: Postgres) -> None:
    assert "databases of product, order, inventory, notification, keycloak are at" in await asyncio.to_thread(databases)
    first = await passwords(postgres)
    await asyncio.to_thread(databases)

    for owner in OWNERS:
        connection = await asyncpg.connect(postgres.url(owner, owner))
        await connection.execute("create table mine ()")
        await connection.execute("drop table mine")
        await connection.close()
    assert first.keys() == {*OWNERS, "audit"}
    for role, kept in first.items():
        assert opens((secrets / role / "database-password").read_text(), kept), role


async def test_a_new_password_replaces_the_old_one(secrets: Path, postgres: Postgres) -> None:
    file = secrets / "order" / "database-password"
    await asyncio.to_thread(databases)
    old = file.read_text()

    file.unlink()
    CliRunner().invoke(prepare, ["files", "--into", str(secrets)], catch_exceptions=False)
    await asyncio.to_thread(databases)

    kept = (await passwords(postgres))["order"]
    assert opens(file.read_text(), kept)
    assert not opens(old, kept)


def test_what_is_missing_is_named(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (secrets / "audit" / "database-password").unlink()
    with pytest.raises(Failure, match=r"audit/database-password cannot be read .*: `shopmesh prepare files` makes it"):
        databases()

    monkeypatch.delenv("SHOPMESH_SECRETS")
    with pytest.raises(Failure, match="SHOPMESH_SECRETS is not set"):
        databases()
