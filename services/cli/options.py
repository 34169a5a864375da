"""Options that many commands have."""

from collections.abc import Callable
from pathlib import Path

import click

from services.cli.settings import STATE_VARIABLE, default_state


def with_state(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the option that tells which shop it is about."""
    return click.option(
        "--state",
        type=click.Path(path_type=Path, file_okay=False),
        envvar=STATE_VARIABLE,
        default=default_state,
        show_default="$SHOPMESH_STATE, or .shopmesh of the checkout",
        help="Folder that holds everything about one shop.",
    )(command)
