"""`shopmesh config` and `shopmesh policy`: what services are told while they run, as etcd has it, and who goes by it.

The commands that change it are in changing.py. What takes long to import is imported when a command runs.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from services.cli.documents.access import (
    as_of,
    changed,
    effective,
    kind_of,
    refused_to,
    services_of,
    state_at,
    with_etcd,
)
from services.cli.documents.changing import edit, rollback, set_, unset
from services.cli.options import with_state
from services.cli.settings import SERVICES

_json = click.option("--json", "as_json", is_flag=True, help="For programs.")


def group(name: str, about: str) -> click.Group:
    """The commands for one kind of documents: `config` or `policy`."""
    made = click.Group(name, help=about)
    for command in (get, set_, unset, edit, diff, history, rollback, status):
        made.add_command(command)
    return made


@click.command()
@with_state
@click.argument("service", required=False)
@click.argument("field", required=False)
@_json
@click.pass_context
def get(ctx: click.Context, state: Path, service: str | None, field: str | None, as_json: bool) -> None:
    """Show what holds for SERVICE, or for all, and where each value comes from: the seed, or etcd.

    With FIELD, such as process.log_level, its value alone.
    """
    from services.cli.documents.fields import flat, found, shown
    from services.cli.documents.revisions import read

    kind, names = kind_of(ctx), services_of(service)
    held, told = with_etcd(state, lambda etcd: read(etcd, kind, names)), list[dict[str, Any]]()
    for name in names:
        seed = effective(kind, name, None)
        whole, said = effective(kind, name, held[name].text), kind.fields(name, held[name].text)
        if field:
            value = refused_to(lambda: found(whole, kind.message(name).DESCRIPTOR, field))  # noqa: B023  called at once
            click.echo(json.dumps(value) if as_json else "" if value is None else shown(value))
            continue
        defaults, in_etcd = flat(seed), flat(said)
        rows = [
            (path, shown(value), "seed" if path not in in_etcd else f"etcd{_instead_of(path, defaults)}")
            for path, value in flat(whole).items()
        ]
        told.append({"service": name, "revision": held[name].applied, "etcd": said, "effective": whole, "seed": seed})
        if not as_json:
            click.echo(f"{name}: {as_of(held[name])}")
            _table(rows, indent="  ")
    if as_json and not field:
        click.echo(json.dumps(told if service is None else told[0], indent=1))


def _instead_of(path: str, defaults: Mapping[str, Any]) -> str:
    from services.cli.documents.fields import shown

    return f" (seed: {shown(defaults[path])})" if path in defaults else ""


@click.command()
@with_state
@click.argument("service", required=False)
@click.argument("from_", type=int, required=False, metavar="[FROM]")
@click.argument("to", type=int, required=False)
@_json
@click.pass_context
def diff(
    ctx: click.Context, state: Path, service: str | None, from_: int | None, to: int | None, as_json: bool
) -> None:
    """Show what differs from the seeds; with FROM, from that revision to TO or to what holds now."""
    from services.cli.documents.fields import differences, shown
    from services.cli.documents.revisions import revisions

    kind, told = kind_of(ctx), dict[str, list[dict[str, Any]]]()
    for name in services_of(service):
        known = with_etcd(state, lambda etcd: revisions(etcd, kind, name))  # noqa: B023  called at once
        new = known[-1] if to is None else state_at(known, to, kind, name)
        old = None if from_ is None else state_at(known, from_, kind, name).held.text
        changes = differences(effective(kind, name, old), effective(kind, name, new.held.text))
        told[name] = [{"field": path, "old": before, "new": after} for path, before, after in changes]
        if changes and not as_json:
            click.echo(f"{name}: {'seed' if from_ is None else f'revision {from_}'} to {as_of(new.held)}")
            for path, before, after in changes:
                for sign, value in (("-", before), ("+", after)):
                    if value is not None:
                        click.echo(f"{sign} {path}: {shown(value)}")
    if as_json:
        click.echo(json.dumps(told, indent=1))


@click.command()
@with_state
@click.argument("service")
@_json
@click.pass_context
def history(ctx: click.Context, state: Path, service: str, as_json: bool) -> None:
    """Show who changed what and when, the newest last; 100 changes are kept."""
    from services.cli.documents.revisions import revisions

    kind, (service,) = kind_of(ctx), services_of(service)
    known = with_etcd(state, lambda etcd: revisions(etcd, kind, service))
    rows = [("revision", "time", "author", "action", "changes")]
    told = list[dict[str, Any]]()
    for before, row in zip([None, *known[:-1]], known, strict=True):
        changes = changed(kind, service, before.held.text if before else None, row.held.text)
        action = row.action or ("" if before is None else "written past shopmesh")
        is_now = row is known[-1]
        number = "-" if is_now and row.held.text is None else str(row.held.revision)  # nothing stands at no revision
        rows.append((number, row.time[:19], row.author, action, changes))
        told.append({"revision": row.held.revision, "time": row.time, "author": row.author, "action": action,
                     "document": row.held.text, "changes": changes})  # fmt: skip
    if as_json:
        click.echo(json.dumps(told, indent=1))
    else:
        _table(rows)


@click.command()
@with_state
@click.option("--wait", type=float, default=0.0, metavar="SECONDS", help="Wait so long for processes that lag.")
@_json
@click.pass_context
def status(ctx: click.Context, state: Path, wait: float, as_json: bool) -> None:
    """Show which process goes by which revision, and what was refused.

    Exit code 1 when one lags behind etcd or has refused something.
    """
    from services.cli.documents.applied import look

    told = with_etcd(state, lambda etcd: look(etcd, kind_of(ctx), SERVICES, wait))
    if as_json:
        click.echo(json.dumps(told.as_object(), indent=1))
    else:
        _table([*told.rows()])
        for line in told.trouble():
            click.echo(line)
    if not told.well:
        sys.exit(1)


def _table(rows: Sequence[Sequence[str]], indent: str = "") -> None:
    """Columns as wide as they need to be; the last one is free."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)] if rows else []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        click.echo(f"{indent}{'  '.join(cells)}".rstrip())
