"""`shopmesh trace`: draws a trace, or all traces of an order."""

import json
import os
import sys
from pathlib import Path

import click

from services.cli.options import with_state
from services.cli.places import places_of


@click.command()
@with_state
@click.argument("id", required=False)
@click.option("--order", metavar="ORDER", help="All traces of this order: placing, cancelling, and what followed.")
@click.option("--json", "as_json", is_flag=True, help="A list of {trace_id, spans, lines}.")
def trace(state: Path, id: str | None, order: str | None, as_json: bool) -> None:
    """Draw a trace: a line per span, with what was logged in it.

    ID is 32 hexadecimal digits, as in log lines, in `shopmesh order` and in answers with code INTERNAL. ORDER is
    orders/<uuid> or the uuid.

    Each line has the service, the name under that of its parent, why it failed or was refused, when it began after the
    first, and for how long. "together with others" leads to the trace in which one call was made for several orders.
    Packages are left out of names; --json has everything.

    For example: shopmesh trace --order orders/1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed
    """
    from services.cli.telemetry.trace import asked, client, pictures, terminal_width, wanted

    trace_id, order_id = wanted(id, order)
    with client(f"http://{places_of(state).telemetry}") as pages:
        traces = asked(pages, trace_id, order_id)
    lines = [json.dumps(traces, indent=1)] if as_json else pictures(traces, order_id, terminal_width())
    try:
        for line in lines:
            click.echo(line)
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
