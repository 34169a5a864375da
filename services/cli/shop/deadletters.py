"""`shopmesh deadletters`: what waits for a person, and what to do about it. The calls are in redriving.py."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from services.cli.options import with_state
from services.cli.places import places_of

if TYPE_CHECKING:
    from services.cli.shop.redriving import Operator, Verb

_which = click.argument("names", nargs=-1, metavar="[NAME]...")
_all = click.option("--all", "everything", is_flag=True, help="All that wait now.")
_DONE = {"redrive": "redriven", "discard": "discarded"}
_yes = click.option("--yes", is_flag=True, help="Do not ask.")


@click.group()
def deadletters() -> None:
    """Look after what could not be mailed or understood.

    A dead letter is a mail that the mail server refused for good or that was tried for too long, or an event that
    Notification could not understand. It waits until somebody has mended the cause and redrives it, or discards it.
    """


@deadletters.command("list")
@with_state
@click.option("--json", "as_json", is_flag=True, help="A list of {name, event_type, event_id, order, reason, ...}.")
def list_(state: Path, as_json: bool) -> None:
    """Show all that wait, the newest first, and why they do.

    Over the edge, as the operator oscar.
    """
    from services.cli.shop.redriving import fields, listed

    letters = _at_the_edge(state, lambda operator: operator.waiting())
    if as_json:
        click.echo(json.dumps([fields(letter) for letter in letters], indent=1))
    else:
        click.echo(listed(letters) if letters else "no dead letter waits")


@deadletters.command()
@with_state
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def show(state: Path, name: str, as_json: bool) -> None:
    """Show one dead letter with all that is kept of it, also one that was redriven or discarded.

    Of a mail: to whom it goes; `shopmesh order` tells the rest. Of an event: its headers, and its payload as JSON where
    it can be read, else its bytes. NAME is deadLetters/<id> or the id. Reads Notification's database, changes nothing.
    """
    from services.cli.shop.redriving import content, name_of, shown

    told = asyncio.run(content(places_of(state).database("notification"), name_of(name)))
    click.echo(json.dumps(told, indent=1) if as_json else shown(told))


@deadletters.command()
@with_state
@_which
@_all
@_yes
def redrive(state: Path, names: tuple[str, ...], everything: bool, yes: bool) -> None:
    """Have another go at dead letters whose cause was mended.

    A mail is sent as if for the first time, unless a newer one about its order was; an event is read again by the
    version that runs now. Whatever is redriven twice has its effect once. What fails again is back on the list. Exit
    code 1 when one was refused; the others are redriven all the same.

    \b
    For example:
      shopmesh deadletters redrive 1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed
      shopmesh deadletters redrive --all
    """  # noqa: D301  click reads \b as: as it stands
    _end(state, "redrive", names, everything=everything, ask="" if yes or not everything else "redrive {}?")


@deadletters.command()
@with_state
@_which
@_all
@_yes
def discard(state: Path, names: tuple[str, ...], everything: bool, yes: bool) -> None:
    """Take dead letters off the list for good, after a question.

    Their mails are never sent and their events never heard. What they were stays in the log of notification, and
    `shopmesh deadletters show` still shows it.
    """
    _end(state, "discard", names, everything=everything, ask="" if yes else "discard {} for good?")


def _end(state: Path, verb: "Verb", names: tuple[str, ...], *, everything: bool, ask: str) -> None:
    """`ask` has a place for how many they are; empty, nobody is asked."""
    from services.cli.shop.redriving import Refused, name_of, printable

    if everything == bool(names):
        raise click.UsageError("write which ones, or --all alone")

    async def each(operator: "Operator") -> int:
        wanted = [letter.name for letter in await operator.waiting()] if everything else [*map(name_of, names)]
        if not wanted:
            click.echo("no dead letter waits")
            return 0
        if ask:
            click.confirm(
                ask.format("1 dead letter" if len(wanted) == 1 else f"{len(wanted)} dead letters"), abort=True
            )
        refused = 0
        for name in wanted:
            try:
                ended = await operator.end(verb, name)
            except Refused as why:
                refused += 1
                click.echo(f"{name}: {printable(str(why))}", err=True)
            else:
                about = f" about {ended.order}" if ended.order else ""
                click.echo(f"{_DONE[verb]} {name}{about}")
        return refused

    if _at_the_edge(state, each):
        sys.exit(1)


def _at_the_edge[T](state: Path, ask: "Callable[[Operator], Awaitable[T]]") -> T:
    from services.cli.identity import access_token
    from services.cli.shop.redriving import operator

    places = places_of(state)
    token = access_token(places.token_url, "oscar")

    async def asking() -> T:
        async with operator(places.edge, token) as oscar:
            return await ask(oscar)

    return asyncio.run(asking())
