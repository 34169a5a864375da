"""`shopmesh logs`: what all parts have said, from the store of the shop's telemetry or from the supervisor's files."""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from services.cli.local.state import StateFolder
from services.cli.options import with_state
from services.cli.places import is_elsewhere, places_of
from services.cli.settings import shown
from services.failure import Failure

if TYPE_CHECKING:
    from services.cli.telemetry.log_search import Files, Source, Wanted
    from services.log_files import Line

    type Tell = Callable[[Sequence[Line]], int]

FOLLOW_EVERY_S = 0.3
LEVELS = ("debug", "info", "warning", "error")
"""As log_files has them, which `--help` does not wait for."""


@click.command()
@with_state
@click.argument("service", required=False, default="")
@click.option("--level", type=click.Choice(LEVELS, case_sensitive=False), help="At least that severe.")
@click.option(
    "--grep",
    metavar="WORDS",
    default="",
    help="Lines with all these words, or words that begin so, without regard to case; no pattern.",
)
@click.option("--trace", metavar="ID", default="", help="Lines of one trace.")
@click.option("--order", metavar="ID", default="", help="Lines about this order, and all lines of their traces.")
@click.option("--since", metavar="TIME", default="", help="From then on: 10m, 2h, or 2026-03-01T12:00:00Z.")
@click.option("--until", metavar="TIME", default="", help="Up to then, in the same forms.")
@click.option("--follow", "-f", is_flag=True, help="Go on with new lines until Ctrl-C.")
@click.option("--lines", "-n", "limit", type=click.IntRange(1, 100_000), default=1000, show_default=True,
              help="The newest so many.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def logs(
    state: Path, service: str, level: str | None, grep: str, trace: str, order: str, since: str, until: str,
    follow: bool, limit: int, as_json: bool,
) -> None:  # fmt: skip
    """Show what all parts have logged, in order of time; times are UTC.

    With SERVICE, a service or any name of `status`, only what that one has. The options can be combined.

    For example: shopmesh logs order --level warning --since 10m

    Asks the store of the shop's telemetry, which has the lines of longer ago; when that does not answer, it reads the
    files that the launcher writes, where the launcher runs the shop, and says so.
    """
    from services.cli.telemetry.log_search import Files, Wanted, order_name, trace_id

    if follow and until:
        raise click.UsageError("--follow goes on, and --until ends: choose one of them")
    wanted = Wanted(
        service=service,
        level=(level or "").lower(),
        text=grep,
        trace=trace_id(trace) if trace else "",
        order=order_name(order) if order else "",
        since_ns=_time(since) if since else 0,
        until_ns=_time(until) if until else None,
        limit=limit,
    )
    files = None if is_elsewhere() else Files(StateFolder(state.absolute()).logs)
    if files and not files.names():
        raise Failure(f"nothing is logged in {shown(state)}: no shop has run there yet")
    try:
        _show(state, files, wanted, _teller(as_json=as_json), follow=follow)
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        pass


def _show(state: Path, files: "Files | None", wanted: "Wanted", tell: "Tell", *, follow: bool) -> None:
    """Raises Failure for what cannot be asked."""
    from services.cli.telemetry.log_search import Away

    try:
        source = _store(state)
        found = source.newest(wanted)
    except Away as away:
        source = _instead(files, away)
        found = source.newest(wanted)
    if not found and files and wanted.service and wanted.service not in files.names():
        raise Failure(f"nothing is logged for {wanted.service}: there is {', '.join(files.names())}")
    if not found and not follow:
        click.echo("no line matches", err=True)
    last_ns, waiting = tell(found), False
    while follow:
        time.sleep(FOLLOW_EVERY_S)
        try:
            found, waiting = source.later(wanted), False
        except Away as away:
            if files is None:
                if not waiting:
                    click.echo(f"{away}: waiting", err=True)
                waiting = True
                continue
            source = _instead(files, away)
            found = source.newest(replace(wanted, since_ns=max(wanted.since_ns, last_ns + 1)))
        last_ns = max(last_ns, tell(found))


def _instead(files: "Files | None", away: Exception) -> "Source":
    """Raises Failure where there are no files."""
    if files is None:
        raise Failure(f"{away}: see `shopmesh status`; the containers' own logs have what they said")
    click.echo(f"{away}: these lines are from the files in {shown(files.folder)}", err=True)
    return files


def _store(state: Path) -> "Source":
    """Raises Away when no shop runs here."""
    from services.cli.telemetry.log_search import Away, Store

    if not is_elsewhere() and StateFolder(state.absolute()).holder() is None:
        raise Away("no shop runs here")
    return Store(places_of(state).telemetry)


def _time(text: str) -> int:
    """Nanoseconds since 1970. Raises Failure."""
    from services.cli.times import moment

    return round(moment(text, datetime.now(UTC)).timestamp() * 1e6) * 1000


def _teller(*, as_json: bool) -> "Tell":
    """Prints lines, in the text for people with the day where it changes; gives the time of the last one."""
    from services.cli.telemetry.log_view import day, rendered
    from services.log_files import told

    today = f"{datetime.now(UTC):%Y-%m-%d}"

    def tell(lines: "Sequence[Line]") -> int:
        nonlocal today
        for line in lines:
            if as_json:
                click.echo(json.dumps(told(line)))
                continue
            if day(line) != today:
                today = day(line)
                click.echo(click.style(today, dim=True))
            click.echo(rendered(line))
        return max((line.time_ns for line in lines), default=0)

    return tell
