"""`shopmesh prepare`: what must be there before the containers of a shop can start. Run as often as you like.

`files` makes a folder for each reader, so that each can have a volume of its own and sees nobody else's secrets:

    product/ inventory/      client-secret, database-password
    order/ notification/     the same, and nats-password
    audit/                   database-password, nats-password: of who only looks, the command and the pages
    postgres/                superuser-password
    keycloak/                shop-realm.json with the clients' secrets, keycloak.conf with the password of its database
    nats/                    nats.conf, which includes its users from users.conf
    envoy/                   bootstrap.yaml

A secret that is there stays; what is rendered from secrets is written anew. `databases` makes roles and databases in
PostgreSQL, with the passwords of those files.
"""

import asyncio
import json
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import click

from services.cli.settings import AUDIT, PORTS, SERVICES
from services.failure import Failure
from services.files import resource

if TYPE_CHECKING:
    import asyncpg

KEYCLOAK = "keycloak"
ON_NATS = ("order", "notification", AUDIT)
OWNERS = (*SERVICES, KEYCLOAK)
"""Roles of PostgreSQL that have a database of their own name."""

CLIENT_SECRET, DATABASE_PASSWORD, NATS_PASSWORD = "client-secret", "database-password", "nats-password"
SUPERUSER_PASSWORD = "superuser-password"  # noqa: S105  the name of a file

WAIT_S = 60.0
"""For a PostgreSQL that is just coming up."""

NATS_CONFIG = Template("""\
listen: "0.0.0.0:$port"
http: "0.0.0.0:8222"
server_name: shopmesh
jetstream { store_dir: "/data", sync_interval: always, max_memory_store: 64MB, max_file_store: 4GB }
include users.conf
""")


@click.group()
def prepare() -> None:
    """Make what the containers of a shop start with: secrets, files, databases."""


@prepare.command()
@click.option("--into", type=click.Path(path_type=Path, file_okay=False), required=True, help="A folder per reader.")
def files(into: Path) -> None:
    """Make random secrets where there are none, and render the files that hold them or lead to the control plane.

    The realm has users for a demonstration, whose passwords are their names. SHOPMESH_DEMO=no leaves them out; where
    SHOPMESH_PUBLIC lets others than this machine in, one of yes and no has to be said.
    """
    demo, public = os.environ.get("SHOPMESH_DEMO") or "", os.environ.get("SHOPMESH_PUBLIC") or "127.0.0.1"
    if demo not in ("", "yes", "no"):
        raise Failure(f"SHOPMESH_DEMO is yes or no, not {demo!r}")
    if not demo and public != "127.0.0.1":
        raise Failure(
            f"SHOPMESH_PUBLIC={public} lets others in, and the password of each demo user is its name: "
            "set SHOPMESH_DEMO=no, or yes where that is meant"
        )
    for service in SERVICES:
        _secret(into / service / CLIENT_SECRET)
    for role in (*SERVICES, AUDIT):
        _secret(into / role / DATABASE_PASSWORD)
    for user in ON_NATS:
        _secret(into / user / NATS_PASSWORD)
    _secret(into / "postgres" / SUPERUSER_PASSWORD)
    _secret(into / KEYCLOAK / DATABASE_PASSWORD)
    clients = {service: _read(into / service / CLIENT_SECRET) for service in SERVICES}
    _write(into / KEYCLOAK / "shop-realm.json", realm(clients, with_users=demo != "no"))
    _write(into / KEYCLOAK / "keycloak.conf", f"db-password={_read(into / KEYCLOAK / DATABASE_PASSWORD)}\n")
    passwords = {user: _read(into / user / NATS_PASSWORD) for user in ON_NATS}
    users = ", ".join(f"{{user: {user}, password: {json.dumps(of)}}}" for user, of in passwords.items())
    _write(into / "nats" / "users.conf", f"authorization {{ users: [{users}] }}\n")
    _write(into / "nats" / "nats.conf", NATS_CONFIG.substitute(port=PORTS["nats"]))
    _write_bootstrap(into / "envoy", "envoy")
    click.echo(f"secrets and files of {len([*into.iterdir()])} readers are in {into}")


@prepare.command()
@click.option(
    "--into", type=click.Path(path_type=Path, file_okay=False), required=True, help="Where bootstrap.yaml goes."
)
def bootstrap(into: Path) -> None:
    """Render the file that an Envoy called SHOPMESH_INSTANCE starts with, and nothing else.

    SHOPMESH_ADS (host:port) says where the control plane is.
    """
    _write_bootstrap(into, os.environ.get("SHOPMESH_INSTANCE") or "envoy")


@prepare.command()
def databases() -> None:
    """Make what is missing of roles and databases, and give each role the password of its file.

    SHOPMESH_POSTGRES (host:port) says where, SHOPMESH_SECRETS which folder has what `prepare files` made.
    """
    folder, address = Path(_needed("SHOPMESH_SECRETS")), _needed("SHOPMESH_POSTGRES")
    passwords = {role: _read(folder / role / DATABASE_PASSWORD) for role in (*OWNERS, AUDIT)}
    asyncio.run(_make(address, _read(folder / "postgres" / SUPERUSER_PASSWORD), passwords))
    click.echo(f"databases of {', '.join(OWNERS)} are at {address}")


def realm(secrets: Mapping[str, str], *, with_users: bool) -> str:
    """The realm file with the clients' secrets in it. Without users nobody can ask for a token by a password either."""
    text = re.sub(
        r"\$\{SHOPMESH_SECRET_(\w+)}",
        lambda found: secrets[found[1].lower()],
        resource("keycloak/shop-realm.json").read_text(),
    )
    if with_users:
        return text
    document: dict[str, Any] = json.loads(text)
    document["users"] = [user for user in document["users"] if "serviceAccountClientId" in user]
    document["clients"] = [client for client in document["clients"] if not client.get("directAccessGrantsEnabled")]
    return json.dumps(document, indent=2)


async def _make(address: str, password: str, passwords: Mapping[str, str]) -> None:
    """Does with the script what psql does with it. Raises Failure."""
    from services.cli.local.postgres import databases_script

    connection = await _connected(address, password)
    try:
        *made, rest = databases_script(OWNERS).split("\\gexec")
        for query in made:
            for (statement,) in await connection.fetch(query):
                await connection.execute(statement)
        await connection.execute(rest)
        for role, of in passwords.items():
            await connection.execute(
                await connection.fetchval("select format('alter role %I password %L', $1::text, $2::text)", role, of)
            )
    finally:
        await connection.close()


async def _connected(address: str, password: str) -> "asyncpg.Connection[asyncpg.Record]":
    """As the superuser, to a server that may be coming up just now. Raises Failure."""
    import asyncpg
    from tenacity import AsyncRetrying, RetryError, retry_if_exception_type, stop_after_delay, wait_fixed

    from services.cli.local.postgres import SUPERUSER

    patiently = AsyncRetrying(
        retry=retry_if_exception_type((OSError, TimeoutError, asyncpg.CannotConnectNowError)),
        stop=stop_after_delay(WAIT_S),
        wait=wait_fixed(0.5),
    )
    try:
        return await patiently(asyncpg.connect, f"postgresql://{SUPERUSER}@{address}/{SUPERUSER}", password=password)
    except RetryError:
        raise Failure(f"PostgreSQL at {address} does not answer: see its log") from None
    except asyncpg.InvalidPasswordError:
        raise Failure(
            f"PostgreSQL at {address} was made with another password than the one in SHOPMESH_SECRETS: "
            "bring that volume back, or remove both and begin anew"
        ) from None


def _write_bootstrap(folder: Path, node: str) -> None:
    """Raises Failure."""
    from services.chassis.settings import host_and_port
    from services.cli.local.envoy_bootstrap import rendered

    ads = host_and_port("SHOPMESH_ADS", os.environ.get("SHOPMESH_ADS") or f"controlplane:{PORTS['ads']}")
    # Who may reach the admin page is the network's business.
    _write(folder / "bootstrap.yaml", rendered(node, admin=("0.0.0.0", PORTS["envoy-admin"]), ads=ads))  # noqa: S104


def _secret(file: Path) -> None:
    if not file.exists():
        _write(file, secrets.token_urlsafe(32))


def _write(file: Path, text: str) -> None:
    """Whole or not at all. Readable by whoever has the folder: in each container another user has to read it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(text)
    part.chmod(0o444)
    part.replace(file)


def _read(file: Path) -> str:
    """Raises Failure."""
    try:
        return file.read_text().strip()
    except OSError as error:
        raise Failure(f"{file} cannot be read ({error.strerror}): `shopmesh prepare files` makes it") from None


def _needed(variable: str) -> str:
    """Raises Failure."""
    if not (value := os.environ.get(variable)):
        raise Failure(f"{variable} is not set: see `shopmesh prepare databases --help`")
    return value
