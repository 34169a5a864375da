"""The `shopmesh` command: starts a shop on this machine, shows what it does, and talks to it.

What a command needs is imported when it runs, so that each starts quickly.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import click

from services.cli.check import check
from services.cli.containers.preparing import prepare
from services.cli.containers.serving import serve
from services.cli.doctor.command import doctor
from services.cli.documents.canary import canary
from services.cli.documents.command import group
from services.cli.local.instances import drain, restart, scale
from services.cli.options import with_state
from services.cli.places import EDGE, launched, places_of
from services.cli.settings import SERVICES, shown
from services.cli.shop.deadletters import deadletters
from services.cli.status_command import status
from services.cli.telemetry.log_command import logs
from services.cli.telemetry.trace_command import trace
from services.failure import Failure
from services.story.asking import order_uuid


class Commands(click.Group):
    """Says in one line why something does not go, instead of a traceback."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except Failure as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="shopmesh", prog_name="shopmesh")
def main() -> None:
    """A shop of four gRPC services on a mesh, on this machine."""


@main.command()
@with_state
@click.option("--detach", is_flag=True, help="Return when the shop is ready and leave it running.")
@click.option(
    "--instances",
    multiple=True,
    metavar="SERVICE[@VERSION]=N",
    help="Run N instances of a service, or of another version of it. May be repeated.",
)
@click.option("--ports-from", type=click.IntRange(1024, 65000), help="Take consecutive ports from this one.")
@click.option("--only", multiple=True, metavar="PART", help="Start this part and what it needs. May be repeated.")
@click.option("--no-demo-data", is_flag=True, help="Leave the catalogue as it is.")
@click.option("--untethered", is_flag=True, hidden=True)
def up(
    state: Path,
    detach: bool,
    instances: tuple[str, ...],
    ports_from: int | None,
    only: tuple[str, ...],
    no_demo_data: bool,
    untethered: bool,
) -> None:
    """Start the shop and keep it running until Ctrl-C.

    A part that dies is started again. Everything stops when this command ends, also by SIGKILL, and when the process
    that started it ends; --detach leaves the shop running until `shopmesh down`.
    Which instances run is said here and can be changed with `shopmesh scale`; a later start begins as its own command
    line says.

    For example: shopmesh up --instances inventory=2 --instances product@2.0-test=1

    A single port is moved by the environment: SHOPMESH_PORT_EDGE, SHOPMESH_PORT_POSTGRES, and so on.
    """
    from importlib.metadata import version

    from services.cli.local import running
    from services.cli.local.releases import wanted
    from services.cli.local.stack import Stack
    from services.cli.settings import chosen_ports

    folder = launched(
        state, f"`docker compose up -d` starts it there, and one here takes another shell, without {EDGE}"
    )
    if detach:
        running.detach([word for word in sys.argv[2:] if word != "--detach"], folder)
        return
    stack = Stack(folder.path, chosen_ports(ports_from), wanted(instances), demo_data=not no_demo_data)
    running.run(stack, only, version("shopmesh"), tethered=not untethered)


@main.command()
@with_state
@click.option("--wipe", is_flag=True, help="Also remove its data: databases, streams, logs.")
def down(state: Path, wipe: bool) -> None:
    """Stop the shop of the state folder, wherever it was started."""
    folder = launched(state, "`docker compose down` or `kubectl delete -k` does it there")
    if (holder := folder.holder()) is None:
        click.echo(f"nothing runs in {shown(state)}")
    else:
        os.kill(holder, signal.SIGTERM)
        deadline = time.monotonic() + 15
        while folder.holder() == holder:
            if time.monotonic() > deadline:
                os.kill(holder, signal.SIGKILL)
            time.sleep(0.05)
        click.echo(f"stopped what ran in {shown(state)}")
    if wipe:
        from services.cli.local.stack import remove

        remove(folder.path)
        click.echo(f"removed {shown(state)}")


@main.command()
@with_state
@click.argument("user")
def token(state: Path, user: str) -> None:
    """Print an access token of a demo USER, good for an hour.

    There are ann and bob (customer), carol (catalog-manager, inventory-manager) and oscar (operator).

    For example: curl -H "Authorization: Bearer $(shopmesh token ann)" http://127.0.0.1:8080/v1/orders
    """
    from services.cli.identity import access_token

    click.echo(access_token(places_of(state).token_url, user))


@main.command()
@with_state
@click.argument("id")
@click.option("--json", "as_json", is_flag=True, help="{order, versions, reservation, ledger, notifications, ...}.")
@click.option("--watch", is_flag=True, help="Print each version as it comes, until the last one or Ctrl-C.")
def order(state: Path, id: str, as_json: bool, watch: bool) -> None:
    """Show one order on one screen, from its state to its mails.

    Its state and every version with its event, the reservation with its ledger, mails, dead letters. ID is
    orders/<uuid> or the uuid. Reads the services' databases, without changing anything.

    With --watch it asks the shop itself, as the customer whose order it is: ann or bob, or who owns the access token in
    SHOPMESH_TOKEN. It goes on by itself when an instance ends or the shop is away.
    """
    from services.cli.shop.order_page import document, page
    from services.story.databases import Databases
    from services.story.trail import trail

    places, wanted = places_of(state), order_uuid(id)
    if watch:
        from services.cli.shop.following import customers, follow

        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(follow(places.edge, wanted, customers(places.token_url), click.echo))
        return

    async def read() -> str:
        async with Databases(places.databases()) as databases:
            found = await trail(databases, wanted)
        return json.dumps(document(wanted, found), indent=1) if as_json else page(wanted, found)

    click.echo(asyncio.run(read()))


@main.command()
@with_state
@click.argument("order", required=False)
@click.option("--since", metavar="TIME", help="All orders' events since 2026-03-01T12:00:00Z, or of the last 2h.")
def resend(state: Path, order: str | None, since: str | None) -> None:
    """Send an order's events again, or all events since a TIME.

    For readers that have lost what they made of them. Events keep their ids and their order, so whoever has an event
    already passes it by: nobody is mailed twice. ORDER is orders/<uuid> or the uuid. What was not sent yet goes out
    anyway and is not counted.

    For example: shopmesh resend --since 2h
    """
    from datetime import UTC, datetime

    from services.cli import times
    from services.cli.shop.resend import resend as sent_again

    if (order is None) == (since is None):
        raise click.UsageError("say one of the two: an ORDER, or --since TIME")
    what = order_uuid(order) if order else times.since(str(since), datetime.now(UTC))
    events = asyncio.run(sent_again(places_of(state).database("order", role="order"), what))
    click.echo(f"{events} event{'' if events == 1 else 's'} will be sent again")


@main.command()
@with_state
@click.option("--json", "as_json", is_flag=True, help="What docs/operating.md describes.")
@click.option("--since", metavar="TIME", help="Orders since 2026-03-01T12:00:00Z, or of the last 2h. Default: 24h.")
@click.option("--all", "everything", is_flag=True, help="All orders there ever were.")
@click.option("--deep", is_flag=True, help="Also what the events say: in the rows, and in the stream.")
def audit(state: Path, as_json: bool, since: str | None, everything: bool, deep: bool) -> None:
    """Compare orders, stock, events and mails, and name each difference with its mend.

    Orders and their history, reservations, ledger and counters, events and the stream, notifications and dead letters
    must agree. Only reads, a little at a time, while everything runs. What is on its way is no difference: whatever
    differs is looked at twice, a few seconds apart, and what the workers may still do within a minute is left to them.
    What is under way counts however old it is, and stock is always counted whole.

    Exit code 0: no difference; 1: there are some; 2: it could not look everywhere. docs/operating.md tells what each
    difference means.
    """
    from datetime import UTC, datetime

    from services.cli import times
    from services.cli.audit.looking import look
    from services.cli.audit.page import as_document, page

    if everything and since:
        raise click.UsageError("say one of the two: --since TIME, or --all")
    try:
        places = places_of(state)
        begin = None if everything else times.since(since or "24h", datetime.now(UTC))
        nats = places.nats_url, places.password("audit", "nats")
        report = asyncio.run(look(places.databases(), *nats, since=begin, deep=deep))
    except Failure as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    click.echo(json.dumps(as_document(report), indent=1) if as_json else page(report))
    sys.exit(report.exit_code)


@main.command()
@with_state
def demo(state: Path) -> None:
    """Place one order as ann and tell what happens, with times.

    Step by step, and service by service, until the mail has arrived.
    """
    from services.cli.shop.demo import run

    asyncio.run(run(places_of(state), click.echo))


@main.command()
@with_state
def demo_data(state: Path) -> None:
    """Put the demo's products and stock into the shop, as carol; what is there already stays as it is.

    `make run` does it by itself, `docker compose up` too; nothing is put there with SHOPMESH_DEMO=no.
    """
    from services.cli.shop.demo_data import load

    if os.environ.get("SHOPMESH_DEMO") == "no":
        click.echo("SHOPMESH_DEMO=no: no demo data")
        return
    click.echo(asyncio.run(load(places_of(state))))


@main.group(invoke_without_command=True)
@with_state
@click.option("--once", is_flag=True, help="One table and the end, as without a terminal.")
@click.option("--json", "as_json", is_flag=True, help="Once, as a list of services with their instances.")
@click.pass_context
def mesh(context: click.Context, state: Path, once: bool, as_json: bool) -> None:
    """Show the mesh, again each second until Ctrl-C: instances, health, breakers, calls and how they end.

    \b
    state      of a service, its breaker: closed, or open and why; then Envoy answers UNAVAILABLE at once
               of an instance, as it registered in etcd: READY or DRAINING; held: it vanished without a word and keeps
               its place until it is known to be gone; drained: taken out by `shopmesh drain`;
               then why Envoy sends it no calls: failing checks, ejected, draining, not in Envoy (yet)
    calls/s    in the last second; to an instance, each try counts
    failed     per second; of a service, calls that Envoy had to answer itself; of an instance, tries that broke off,
               ran out of time or were answered UNAVAILABLE, INTERNAL and the like
    refused    per second, answered by an instance with another status than OK
    p99        of the calls answered in the last 5 s, streams left out
    policy     the revision in etcd that is applied; seed: there is no document, the defaults hold
    """  # noqa: D301  click reads \b as: as it stands
    from services.cli.mesh.command import show

    if context.invoked_subcommand is None:
        show(places_of(state), once=once, as_json=as_json)


@mesh.command()
@with_state
@click.argument("caller", type=click.Choice(("edge", *SERVICES)))
@click.argument("service", type=click.Choice(SERVICES))
def explain(state: Path, caller: str, service: str) -> None:
    """Tell how calls from CALLER to SERVICE are carried, and where each figure comes from.

    Per rpc: where its calls go, how long they may take, how often and after what they are tried again, which faults are
    made on purpose. CALLER is a service, or edge for calls from outside. The values are what Envoy has; where the
    policy asks for another one, because it was refused or is on its way, that stands beside it.

    For example: shopmesh mesh explain order inventory
    """
    from services.cli.mesh.command import explain

    explain(places_of(state), caller, service)


for command in (
    check, doctor, status, scale, drain, restart, canary, deadletters, logs, trace, serve, prepare,
):  # fmt: skip
    main.add_command(command)


main.add_command(group("config", "Read and change how services behave, live and with a history."))
main.add_command(group("policy", "Read and change how calls are carried, live and with a history."))

if __name__ == "__main__":
    main(prog_name="shopmesh")
