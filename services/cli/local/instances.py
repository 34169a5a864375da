"""Commands that change which instances of a running shop take calls."""

from pathlib import Path

import click

from services.cli.local.control import ask
from services.cli.options import with_state
from services.cli.places import launched


@click.command()
@with_state
@click.argument("release", metavar="SERVICE[@VERSION]")
@click.argument("number", type=int)
def scale(state: Path, release: str, number: int) -> None:
    """Run NUMBER instances of a service, 0 to 9, or of another version of it.

    New ones are started and get calls once they are registered and Envoy has seen them well; surplus ones drain first,
    so no call fails. Drained ones are the first to come back. Another version is a process of its own with that name
    in the mesh, running the same code: what there is to see of a canary on one machine. It lasts until the shop stops.

    \b
    For example:
      shopmesh scale inventory 3
      shopmesh scale product@2.0-test 1    a canary beside product
      shopmesh scale product@2.0-test 0    no canary any more
    """  # noqa: D301  click reads \b as: as it stands
    _do(state, "scale", release=release, number=number)


@click.command()
@with_state
@click.argument("instance")
def drain(state: Path, instance: str) -> None:
    """Take one INSTANCE out of the traffic and end it gracefully.

    It is DRAINING in the mesh first and finishes its calls, so none fails while another instance is there. It stays
    drained, which `status` says, until `restart INSTANCE` or `scale` brings it back, or the shop is started again.

    For example: shopmesh drain inventory-2
    """
    _do(state, "drain", instance=instance)


@click.command()
@with_state
@click.argument("name", metavar="SERVICE|PART")
def restart(state: Path, name: str) -> None:
    """Restart the instances of a service one after the other, or one part.

    Each instance drains and ends, and its successor is registered and has been seen well by Envoy before the next one
    ends. The only instance of its version has a stand-in meanwhile. So no call fails; streams are told to come back.
    Envoy is replaced by another one on the same ports until its successor listens, and loses no call either.
    With another name of `status`, such as inventory-2 or controlplane, only that part.

    \b
    For example:
      shopmesh restart order
      shopmesh restart envoy
      shopmesh restart controlplane
    """  # noqa: D301  click reads \b as: as it stands
    _do(state, "restart", name=name)


_ELSEWHERE = {
    "scale": "`docker compose up -d --scale order=2` or `kubectl scale deployment/order --replicas=2` does it there",
    "drain": "whatever stops a container drains it: `docker stop CONTAINER`, `kubectl delete pod NAME`",
    "restart": "`docker compose restart order` or `kubectl rollout restart deployment/order` does it there",
}


def _do(state: Path, what: str, **facts: object) -> None:
    try:
        for said in ask(launched(state, _ELSEWHERE[what]), what, **facts):
            click.echo(said)
    except KeyboardInterrupt:
        raise click.ClickException("not waited for; it goes on in the shop, see `shopmesh status`") from None
