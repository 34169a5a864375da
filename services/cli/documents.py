"""`shopmesh config` and `shopmesh policy`: what services are told while they run, read and changed in etcd.

The etcd is that of the shop in the state folder, or the one that SHOPMESH_ETCD (host:port) names. What takes long to
import is imported when a command runs.
"""

import asyncio
import difflib
import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from services.cli.editing import changed_meanwhile, kept, page, pretty, without_comments
from services.cli.options import with_state
from services.cli.process import CannotStart
from services.cli.settings import SERVICES
from services.cli.state import StateFolder

if TYPE_CHECKING:
    from services.chassis.etcd import Etcd
    from services.cli.revisions import Held, Kind, Revision

ETCD_VARIABLE = "SHOPMESH_ETCD"

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
    from services.cli.fields import flat, found, shown
    from services.cli.revisions import read

    kind, names = _kind(ctx), _services(service)
    held, told = _with_etcd(state, lambda etcd: read(etcd, kind, names)), list[dict[str, Any]]()
    for name in names:
        seed = _whole(kind, name, None)
        whole, said = _whole(kind, name, held[name].text), kind.fields(name, held[name].text)
        if field:
            value = _refused_to(lambda: found(whole, kind.message(name).DESCRIPTOR, field))  # noqa: B023  called at once
            click.echo(json.dumps(value) if as_json else "" if value is None else shown(value))
            continue
        defaults, in_etcd = flat(seed), flat(said)
        rows = [
            (path, shown(value), "seed" if path not in in_etcd else f"etcd{_instead_of(path, defaults)}")
            for path, value in flat(whole).items()
        ]
        told.append({"service": name, "revision": held[name].applied, "etcd": said, "effective": whole, "seed": seed})
        if not as_json:
            click.echo(f"{name}: {_as_of(held[name])}")
            _table(rows, indent="  ")
    if as_json and not field:
        click.echo(json.dumps(told if service is None else told[0], indent=1))


def _instead_of(path: str, defaults: Mapping[str, Any]) -> str:
    from services.cli.fields import shown

    return f" (seed: {shown(defaults[path])})" if path in defaults else ""


@click.command("set")
@with_state
@click.argument("words", nargs=-1, required=True, metavar="SERVICE FIELD=VALUE...")
@click.option("--all", "everywhere", is_flag=True, help="For all services, in one transaction; give no SERVICE.")
@click.pass_context
def set_(ctx: click.Context, state: Path, words: tuple[str, ...], everywhere: bool) -> None:
    """Change fields; the others stay as they are.

    A FIELD is a path such as process.log_level or rpcs.PlaceOrder.timeout; a VALUE is written as 20, 1.5s, 10m, debug,
    or in JSON where it is a list or an object. All of it is checked before any of it is written.
    """
    services, fields = _meant(words, everywhere)
    assignments = [word.partition("=") for word in fields]
    if not assignments or any(not equals for _, equals, _ in assignments):
        raise click.UsageError("write FIELD=VALUE, such as default_page_size=50")
    kind = _kind(ctx)

    def alter(service: str, held: "Held") -> str | None:
        from services.cli.fields import assigned
        from services.cli.revisions import written

        document = kind.fields(service, held.text)
        for path, _, value in assignments:
            assigned(document, kind.message(service).DESCRIPTOR, path, value)
        return written(document)

    _change(state, kind, services, alter, f"set {' '.join(fields)}")


@click.command()
@with_state
@click.argument("words", nargs=-1, metavar="SERVICE [FIELD...]")
@click.option("--all", "everywhere", is_flag=True, help="For all services, in one transaction; give no SERVICE.")
@click.pass_context
def unset(ctx: click.Context, state: Path, words: tuple[str, ...], everywhere: bool) -> None:
    """Return fields to their defaults; without FIELD, the whole document."""
    services, paths = _meant(words, everywhere)
    kind = _kind(ctx)

    def alter(service: str, held: "Held") -> str | None:
        from services.cli.fields import removed
        from services.cli.revisions import written

        if not paths:
            return None
        document = kind.fields(service, held.text)
        for path in paths:
            removed(document, kind.message(service).DESCRIPTOR, path)
        return written(document)

    _change(state, kind, services, alter, f"unset {' '.join(paths)}".rstrip())


@click.command()
@with_state
@click.argument("service")
@click.argument("revision", type=int, required=False)
@click.pass_context
def rollback(ctx: click.Context, state: Path, service: str, revision: int | None) -> None:
    """Make the document what it was at REVISION (`history` lists them), or before its last change."""
    from services.cli.revisions import revisions

    kind, (service,) = _kind(ctx), _services(service)
    known = _with_etcd(state, lambda etcd: revisions(etcd, kind, service))
    if revision is None and len(known) < 2:
        raise click.ClickException(f"{service} has no earlier {kind.name}: history knows of no change")
    meant = known[-2] if revision is None else _at(known, revision, kind, service)
    action = f"rollback to {meant.held.revision}"
    _change(state, kind, [service], lambda _, __: meant.held.text, action)


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
    from services.cli.fields import differences, shown
    from services.cli.revisions import revisions

    kind, told = _kind(ctx), dict[str, list[dict[str, Any]]]()
    for name in _services(service):
        known = _with_etcd(state, lambda etcd: revisions(etcd, kind, name))  # noqa: B023  called at once
        new = known[-1] if to is None else _at(known, to, kind, name)
        old = None if from_ is None else _at(known, from_, kind, name).held.text
        changes = differences(_whole(kind, name, old), _whole(kind, name, new.held.text))
        told[name] = [{"field": path, "old": before, "new": after} for path, before, after in changes]
        if changes and not as_json:
            click.echo(f"{name}: {'seed' if from_ is None else f'revision {from_}'} to {_as_of(new.held)}")
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
    from services.cli.revisions import revisions

    kind, (service,) = _kind(ctx), _services(service)
    known = _with_etcd(state, lambda etcd: revisions(etcd, kind, service))
    rows = [("revision", "time", "author", "action", "changes")]
    told = list[dict[str, Any]]()
    for before, row in zip([None, *known[:-1]], known, strict=True):
        changes = _changes(kind, service, before.held.text if before else None, row.held.text)
        action = row.action or ("" if before is None else "written past shopmesh")
        rows.append((str(row.held.revision), row.time[:19], row.author, action, changes))
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
    from services.cli.applied import look

    told = _with_etcd(state, lambda etcd: look(etcd, _kind(ctx), SERVICES, wait))
    if as_json:
        click.echo(json.dumps(told.as_object(), indent=1))
    else:
        _table([*told.rows()])
        for line in told.trouble():
            click.echo(line)
    if not told.well:
        sys.exit(1)


@click.command()
@with_state
@click.argument("service")
@click.pass_context
def edit(ctx: click.Context, state: Path, service: str) -> None:
    """Open the document in $VISUAL or $EDITOR, check what was saved, and write it.

    What is refused can be mended in the editor. A text that is saved as it was shown changes nothing.
    """
    from services.chassis.documents import DocumentRefused
    from services.cli.revisions import read, write, written

    kind, (service,) = _kind(ctx), _services(service)
    seed, refused, note = _whole(kind, service, None), False, ""
    held = _with_etcd(state, lambda etcd: read(etcd, kind, [service]))[service]
    body = pretty(held.text)
    while True:
        text = page(f"The {kind.name} of {service}: {_as_of(held)}", seed, body, note)
        saved = click.edit(text, extension=".json", require_save=False) or text
        if saved.rstrip() == text.rstrip():
            if refused:
                raise click.ClickException(f"nothing is written; your text is in {kept(service, saved)}")
            click.echo(f"{service}: nothing changed")
            return
        body = without_comments(saved)
        try:
            new = written(kind.fields(service, body))
            kind.whole(service, new)
        except DocumentRefused as error:
            refused, note = True, f"REFUSED: {error}"
            continue
        if new == held.text:
            click.echo(f"{service}: nothing changed")
            return
        change = {service: (held, new)}
        done = _with_etcd(state, lambda etcd: write(etcd, kind, change, "edit"), keep=(service, saved))  # noqa: B023
        if done is not None:
            _tell(kind, {service: (held, done[service])})
            return
        held = _with_etcd(state, lambda etcd: read(etcd, kind, [service]), keep=(service, saved))[service]
        refused, note = True, changed_meanwhile(held.text)


def _change(
    state: Path,
    kind: "Kind",
    services: Sequence[str],
    alter: "Callable[[str, Held], str | None]",
    action: str,
) -> None:
    from services.cli.revisions import change

    _tell(kind, _with_etcd(state, lambda etcd: change(etcd, kind, services, alter, action)))


def _tell(kind: "Kind", done: "Mapping[str, tuple[Held, Held]]") -> None:
    for service, (before, after) in done.items():
        if before == after:
            click.echo(f"{service}: nothing changed")
        else:
            click.echo(f"{service}: {_changes(kind, service, before.text, after.text)} (revision {after.revision})")


def _changes(kind: "Kind", service: str, old: str | None, new: str | None) -> str:
    """In one line: what holds differently."""
    from services.chassis.documents import DocumentRefused
    from services.cli.fields import differences, shown

    def told(value: object) -> str:
        return "unset" if value is None else shown(value)

    try:
        after = kind.whole(service, new)
    except DocumentRefused as refused:
        return f"refused: {refused}"
    try:
        changes = differences(kind.whole(service, old), after)
    except DocumentRefused:
        return "in place of a document that was refused"
    return ", ".join(f"{path} {told(before)} -> {told(after)}" for path, before, after in changes) or (
        "the defaults" if new is None else "same as before"
    )


def _kind(ctx: click.Context) -> "Kind":
    from services.cli.revisions import Kind

    assert ctx.parent is not None
    return Kind(str(ctx.parent.command.name))


def _services(service: str | None) -> list[str]:
    if service is not None and service not in SERVICES:
        close = difflib.get_close_matches(service, SERVICES, n=1, cutoff=0.4)
        hint = f"did you mean {close[0]}?" if close else f"there is {', '.join(SERVICES)}"
        raise click.ClickException(f"there is no service {service!r}: {hint}")
    return [*SERVICES] if service is None else [service]


def _meant(words: Sequence[str], everywhere: bool) -> tuple[list[str], list[str]]:
    """The services, and the rest of the words."""
    if everywhere:
        if words and words[0] in SERVICES:
            raise click.UsageError("--all means every service: leave SERVICE out")
        return _services(None), list(words)
    if not words or "=" in words[0]:
        raise click.UsageError(f"which service? One of {', '.join(SERVICES)}, or --all")
    return _services(words[0]), list(words[1:])


def _at(known: "Sequence[Revision]", revision: int, kind: "Kind", service: str) -> "Revision":
    for row in known:
        if row.held.revision == revision:
            return row
    listed = ", ".join(str(row.held.revision) for row in known)
    raise click.ClickException(
        f"{service} has no {kind.name} of revision {revision}: `shopmesh {kind.name} history {service}` knows {listed}"
    )


def _as_of(held: "Held") -> str:
    return "no document, the defaults hold" if held.text is None else f"revision {held.revision}"


def _whole(kind: "Kind", service: str, text: str | None) -> dict[str, Any]:
    return _refused_to(lambda: kind.whole(service, text), f"the {kind.name} of {service} is no good: ",
                       f"; mend it with `shopmesh {kind.name} edit {service}` or `rollback {service}`")  # fmt: skip


def _refused_to[T](look: Callable[[], T], before: str = "", after: str = "") -> T:
    from services.chassis.documents import DocumentRefused

    try:
        return look()
    except DocumentRefused as refused:
        raise click.ClickException(f"{before}{refused}{after}") from None


def _with_etcd[T](state: Path, ask: "Callable[[Etcd], Awaitable[T]]", keep: tuple[str, str] | None = None) -> T:
    """What etcd answers. `keep`: service and text of an editor, not to be lost when it does not."""
    from services.chassis.documents import DocumentRefused
    from services.chassis.etcd import Etcd, EtcdUnavailable

    address = _address(state)

    async def asking() -> T:
        etcd = Etcd(address)
        try:
            return await ask(etcd)
        finally:
            await etcd.close()

    try:
        return asyncio.run(asking())
    except EtcdUnavailable:
        saved = f"; your text is in {kept(*keep)}" if keep else ""
        raise CannotStart(
            f"etcd at {address} does not answer: `shopmesh status` tells whether the shop runs, {ETCD_VARIABLE} "
            f"names another etcd{saved}"
        ) from None
    except DocumentRefused as refused:
        raise click.ClickException(str(refused)) from None


def _address(state: Path) -> str:
    return os.environ.get(ETCD_VARIABLE) or f"127.0.0.1:{StateFolder(state.absolute()).ports()['etcd']}"


def _table(rows: Sequence[Sequence[str]], indent: str = "") -> None:
    """Columns as wide as they need to be; the last one is free."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)] if rows else []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        click.echo(f"{indent}{'  '.join(cells)}".rstrip())
