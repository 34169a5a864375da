"""`shopmesh status`: every part of a shop, and whether it is well."""

import asyncio
import json
import sys
from pathlib import Path

import click

from services.cli.local.state import StateFolder
from services.cli.options import with_state
from services.cli.places import Places, is_elsewhere
from services.cli.settings import shown


@click.command()
@with_state
@click.option("--json", "as_json", is_flag=True, help="A list of {name, state, address, ...}, all that is shown.")
def status(state: Path, as_json: bool) -> None:
    """Show every part: its state, process, address and memory.

    PSS is memory with what is shared split among its users, so its sum is what the shop takes. A part that was drained
    stays so until `restart` or `scale` brings it back. Exit code 1 when another part is not ready.

    Of a shop that something else runs (SHOPMESH_EDGE): who is registered in etcd, with version, and whether edge,
    identity, Envoys and stores answer, which are asked. Exit code 1 when one is away, or a service has no instance
    that takes calls.
    """
    well = _elsewhere(as_json=as_json) if is_elsewhere() else _here(state, as_json=as_json)
    sys.exit(not well)


def _elsewhere(*, as_json: bool) -> bool:
    from services.cli.standing import look

    rows = asyncio.run(look(Places.of_environment()))
    if as_json:
        names = ("name", "state", "version", "address", "why")
        click.echo(json.dumps([{name: getattr(row, name) for name in names} for row in rows], indent=1))
    else:
        width = max(14, *(len(row.name) for row in rows))
        click.echo(f"{'part':{width}} {'state':9} {'version':10} address")
        for row in rows:
            line = f"{row.name:{width}} {row.state:9} {row.version or '-':10} {row.address or '-':21} {row.why}"
            click.echo(line.rstrip())
    return all(row.is_well for row in rows)


def _here(state: Path, *, as_json: bool) -> bool:
    from services.cli.local.state import memory

    rows = []
    for part in StateFolder(state.absolute()).read()["parts"]:
        rss, pss = memory(part["pid"])
        row = {name: part[name] for name in ("name", "state", "pid", "address")}
        rows.append({**row, "rss_bytes": rss, "pss_bytes": pss})
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    elif not rows:
        click.echo(f"no shop has run in {shown(state)} yet: start one with `make run` or `shopmesh up --detach`")
    else:
        width = max(14, *(len(row["name"]) for row in rows))
        click.echo(f"{'part':{width}} {'state':11} {'pid':>8}  {'address':22} {'RSS MB':>7} {'PSS MB':>7}")
        for row in rows:
            sizes = f"{row['rss_bytes'] / 1e6:7.0f} {row['pss_bytes'] / 1e6:7.0f}"
            click.echo(f"{row['name']:{width}} {row['state']:11} {row['pid'] or '-':>8}  {row['address']:22} {sizes}")
        total = sum(row["pss_bytes"] for row in rows)
        click.echo(f"{'sum':{width}} {'':11} {'':8}  {'':22} {'':7} {total / 1e6:7.0f}")
    return bool(rows) and all(row["state"] in ("ready", "drained") for row in rows)
