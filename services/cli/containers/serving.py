"""`shopmesh serve`: one process of the shop, as the first one of a container."""

import os
import runpy
import socket
import sys

import click

from services.chassis.early import end_at_once

PROCESSES = ("product", "order", "inventory", "notification", "controlplane", "telemetry")
INSTANCE = "SHOPMESH_INSTANCE"


@click.command()
@click.argument("name", type=click.Choice(PROCESSES))
def serve(name: str) -> None:
    """Be one process of the shop, configured by SHOPMESH_* alone, until SIGTERM.

    What the image runs. Without SHOPMESH_INSTANCE the instance is called NAME-<host name>, which in a container is its
    id: the name stays when the container is started again, and `docker ps` shows it.
    """
    end_at_once()
    os.environ[INSTANCE] = os.environ.get(INSTANCE) or f"{name}-{socket.gethostname()}"
    sys.argv[1:] = []
    runpy.run_module(f"services.{name}", run_name="__main__", alter_sys=True)
