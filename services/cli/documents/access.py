"""What the commands for documents have in common: which ones are meant, the etcd that has them, and their words.

The etcd is that of the shop (places.py), or the one that SHOPMESH_ETCD (host:port) names.
"""

import asyncio
import difflib
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from services.cli.documents.editing import kept
from services.cli.places import is_elsewhere, places_of
from services.cli.settings import SERVICES
from services.failure import Failure

if TYPE_CHECKING:
    from services.chassis.etcd import Etcd
    from services.cli.documents.revisions import Held, Kind, Revision

ETCD_VARIABLE = "SHOPMESH_ETCD"


def changed(kind: "Kind", service: str, old: str | None, new: str | None) -> str:
    """In one line: what holds differently."""
    from services.chassis.documents import DocumentRefused
    from services.cli.documents.fields import differences, shown

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


def kind_of(ctx: click.Context) -> "Kind":
    """By the name of the group that the command is in."""
    from services.cli.documents.revisions import Kind

    assert ctx.parent is not None
    return Kind(str(ctx.parent.command.name))


def services_of(service: str | None) -> list[str]:
    """One or all. Raises ClickException with what was perhaps meant."""
    if service is not None and service not in SERVICES:
        close = difflib.get_close_matches(service, SERVICES, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there is {', '.join(SERVICES)}"
        raise click.ClickException(f"there is no service {service!r}: {hint}")
    return [*SERVICES] if service is None else [service]


def state_at(known: "Sequence[Revision]", revision: int, kind: "Kind", service: str) -> "Revision":
    """Raises ClickException with all that are known."""
    for row in known:
        if row.held.revision == revision:
            return row
    listed = ", ".join(str(row.held.revision) for row in known)
    raise click.ClickException(
        f"{service} has no {kind.name} of revision {revision}: `shopmesh {kind.name} history {service}` knows {listed}"
    )


def as_of(held: "Held") -> str:
    """Which state of a document that is."""
    return "no document, the defaults hold" if held.text is None else f"revision {held.revision}"


def effective(kind: "Kind", service: str, text: str | None) -> dict[str, Any]:
    """What holds with such a document. Raises ClickException with what mends it."""
    return refused_to(lambda: kind.whole(service, text), f"the {kind.name} of {service} is no good: ",
                       f"; mend it with `shopmesh {kind.name} edit {service}` or `rollback {service}`")  # fmt: skip


def refused_to[T](look: Callable[[], T], before: str = "", after: str = "") -> T:
    """What `look` gives; what it refuses is a ClickException."""
    from services.chassis.documents import DocumentRefused

    try:
        return look()
    except DocumentRefused as refused:
        raise click.ClickException(f"{before}{refused}{after}") from None


def with_etcd[T](state: Path, ask: "Callable[[Etcd], Awaitable[T]]", keep: tuple[str, str] | None = None) -> T:
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
        raise Failure(
            f"etcd at {address} does not answer: `shopmesh status` tells whether the shop runs, {ETCD_VARIABLE} "
            f"names another etcd{saved}"
        ) from None
    except DocumentRefused as refused:
        raise click.ClickException(str(refused)) from None


def envoys(state: Path) -> list[str]:
    """`ip:port` of the admin page of each Envoy that goes by this etcd, as far as they are known."""
    if os.environ.get(ETCD_VARIABLE) and not is_elsewhere():
        return []
    return places_of(state).envoys()


def _address(state: Path) -> str:
    return os.environ.get(ETCD_VARIABLE) or places_of(state).etcd
