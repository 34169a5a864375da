"""The commands that change what services are told: they write to etcd, and return when it holds."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from services.cli.documents.access import as_of, changed, effective, envoys, kind_of, services_of, state_at, with_etcd
from services.cli.documents.editing import changed_meanwhile, kept, page, pretty, without_comments
from services.cli.documents.effect import wait, with_no_wait
from services.cli.options import with_state
from services.cli.settings import SERVICES

if TYPE_CHECKING:
    from services.chassis.etcd import Etcd
    from services.cli.documents.revisions import Held, Kind


@click.command("set")
@with_state
@click.argument("words", nargs=-1, required=True, metavar="SERVICE FIELD=VALUE...")
@click.option("--all", "everywhere", is_flag=True, help="For all services, in one transaction; give no SERVICE.")
@with_no_wait
@click.pass_context
def set_(ctx: click.Context, state: Path, words: tuple[str, ...], everywhere: bool, no_wait: bool) -> None:
    """Change fields; the others stay as they are.

    A FIELD is a path such as process.log_level or rpcs.PlaceOrder.timeout; a VALUE is written as 20, 1.5s, 10m, debug,
    or in JSON where it is a list or an object; `get` shows those with a default. All of it is checked before any of
    it is written. Returns when it is in effect; after 10 s with exit code 1, and who does not go by it and why.
    """
    services, fields = _meant(words, everywhere)
    assignments = [word.partition("=") for word in fields]
    if not assignments or any(not equals for _, equals, _ in assignments):
        raise click.UsageError("write FIELD=VALUE, such as default_page_size=50")
    kind = kind_of(ctx)

    def alter(service: str, held: "Held") -> str | None:
        from services.cli.documents.fields import assigned
        from services.cli.documents.revisions import written

        document = kind.fields(service, held.text)
        for path, _, value in assignments:
            assigned(document, kind.message(service).DESCRIPTOR, path, value)
        return written(document)

    _change(state, kind, services, alter, f"set {' '.join(fields)}", no_wait)


@click.command()
@with_state
@click.argument("words", nargs=-1, metavar="SERVICE [FIELD...]")
@click.option("--all", "everywhere", is_flag=True, help="For all services, in one transaction; give no SERVICE.")
@with_no_wait
@click.pass_context
def unset(ctx: click.Context, state: Path, words: tuple[str, ...], everywhere: bool, no_wait: bool) -> None:
    """Return fields to their defaults; without FIELD, the whole document."""
    services, paths = _meant(words, everywhere)
    kind = kind_of(ctx)

    def alter(service: str, held: "Held") -> str | None:
        from services.cli.documents.fields import removed
        from services.cli.documents.revisions import written

        if not paths:
            return None
        document = kind.fields(service, held.text)
        for path in paths:
            removed(document, kind.message(service).DESCRIPTOR, path)
        return written(document)

    _change(state, kind, services, alter, f"unset {' '.join(paths)}".rstrip(), no_wait)


@click.command()
@with_state
@click.argument("service")
@click.argument("revision", type=int, required=False)
@with_no_wait
@click.pass_context
def rollback(ctx: click.Context, state: Path, service: str, revision: int | None, no_wait: bool) -> None:
    """Make the document what it was at REVISION (`history` lists them), or before its last change."""
    from services.cli.documents.revisions import revisions

    kind, (service,) = kind_of(ctx), services_of(service)
    known = with_etcd(state, lambda etcd: revisions(etcd, kind, service))
    if revision is None and len(known) < 2:
        raise click.ClickException(f"{service} has no earlier {kind.name}: history knows of no change")
    meant = known[-2] if revision is None else state_at(known, revision, kind, service)
    action = f"rollback to {meant.held.revision}"
    _change(state, kind, [service], lambda _, __: meant.held.text, action, no_wait)


@click.command()
@with_state
@click.argument("service")
@with_no_wait
@click.pass_context
def edit(ctx: click.Context, state: Path, service: str, no_wait: bool) -> None:
    """Open the document in $VISUAL or $EDITOR, check what was saved, and write it.

    What is refused can be mended in the editor. A text that is saved as it was shown changes nothing.
    """
    from services.chassis.documents import DocumentRefused
    from services.cli.documents.revisions import read, write, written

    kind, (service,) = kind_of(ctx), services_of(service)
    seed, refused, note = effective(kind, service, None), False, ""
    held = with_etcd(state, lambda etcd: read(etcd, kind, [service]))[service]
    body = pretty(held.text)
    while True:
        text = page(f"The {kind.name} of {service}: {as_of(held)}", seed, body, note)
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

        async def write_and_wait(etcd: "Etcd", held: "Held" = held, new: str | None = new) -> bool:
            done = await write(etcd, kind, {service: (held, new)}, "edit")
            if done is not None:
                await _told(etcd, kind, {service: (held, done[service])}, state, no_wait)
            return done is not None

        if with_etcd(state, write_and_wait, keep=(service, saved)):
            return
        held = with_etcd(state, lambda etcd: read(etcd, kind, [service]), keep=(service, saved))[service]
        refused, note = True, changed_meanwhile(held.text)


def _change(
    state: Path,
    kind: "Kind",
    services: Sequence[str],
    alter: "Callable[[str, Held], str | None]",
    action: str,
    no_wait: bool,
) -> None:
    from services.cli.documents.revisions import change

    async def change_and_wait(etcd: "Etcd") -> None:
        await _told(etcd, kind, await change(etcd, kind, services, alter, action), state, no_wait)

    with_etcd(state, change_and_wait)


async def _told(
    etcd: "Etcd", kind: "Kind", done: "Mapping[str, tuple[Held, Held]]", state: Path, no_wait: bool
) -> None:
    """Prints what was changed, and where it is in effect. Raises Failure when it is not."""
    for service, (before, after) in done.items():
        what = changed(kind, service, before.text, after.text)
        click.echo(f"{service}: {'nothing changed' if before == after else f'{what} ({as_of(after)})'}")
    were = {service: before for service, (before, after) in done.items() if before != after}
    if were and not no_wait:
        click.echo(await wait(etcd, kind, were, envoys(state)))


def _meant(words: Sequence[str], everywhere: bool) -> tuple[list[str], list[str]]:
    """The services, and the rest of the words."""
    if everywhere:
        if words and words[0] in SERVICES:
            raise click.UsageError("--all means every service: leave SERVICE out")
        return services_of(None), list(words)
    if not words or "=" in words[0]:
        raise click.UsageError(f"which service? One of {', '.join(SERVICES)}, or --all")
    return services_of(words[0]), list(words[1:])
