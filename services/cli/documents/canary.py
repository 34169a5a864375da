"""`shopmesh canary`: a part of the calls to a service goes to another version of it, and comes back in one command."""

import json
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from services.cli.documents.access import as_of, envoys, with_etcd
from services.cli.documents.effect import wait, with_no_wait
from services.cli.options import with_state
from services.cli.places import is_elsewhere
from services.cli.settings import SERVICES
from services.failure import Failure

if TYPE_CHECKING:
    from services.chassis.etcd import Etcd

type Document = Mapping[str, Any]


@click.command()
@with_state
@click.argument("service", type=click.Choice(SERVICES))
@click.argument("version", required=False)
@click.argument("share", required=False, metavar="[PERCENT%]")
@click.option("--header", metavar="NAME=VALUE", help="Calls that carry this header go to VERSION, whatever its share.")
@click.option("--off", is_flag=True, help="Every call goes where it went before.")
@with_no_wait
def canary(
    state: Path, service: str, version: str | None, share: str | None, header: str | None, *, off: bool, no_wait: bool
) -> None:
    """Send a part of the calls to another VERSION of a service, by share, by header, or both.

    What is not said is none, so each use replaces the last. The rest of the calls stays with the version that ran
    before. It is a change of the service's policy, kept in `shopmesh policy history`; calls go by it when the command
    returns. Calls to a version of which no instance is well go to the other one. --off is the way back.

    \b
    For example:
      shopmesh canary product 2.0-test --header x-canary=yes    only who asks for it
      shopmesh scale product@2.0-test 1                         on one machine: start one
      shopmesh canary product 2.0-test 10%
      shopmesh canary product --off
      shopmesh scale product@2.0-test 0
    """  # noqa: D301  click reads \b as: as it stands
    if off == (version is not None) or (off and header):
        raise click.UsageError("write VERSION with a share such as 10%, with --header, or both; or --off alone")
    if not off and not share and not header:
        raise click.UsageError(f"which calls go to {version}? Write a share such as 10%, --header NAME=VALUE, or both")
    action = " ".join(["canary", *(word for word in (version, share, header) if word)]) if version else "canary --off"

    def alter(document: Document, running: Collection[str]) -> tuple[dict[str, Any], str]:
        if version is None:
            return without_canary(document, running)
        return with_canary(document, running, version, share, header)

    running = with_etcd(state, lambda etcd: _change(etcd, service, alter, action, None if no_wait else state))
    if version and version not in running:
        start = "start one" if is_elsewhere() else f"`shopmesh scale {service}@{version} 1` starts one here"
        click.echo(f"no instance of {version} runs: {start}")


async def _change(
    etcd: "Etcd",
    service: str,
    alter: Callable[[Document, Collection[str]], tuple[dict[str, Any], str]],
    action: str,
    state: Path | None,
) -> Collection[str]:
    """Prints what holds now; the versions that run. With `state` it waits until calls go there. Raises Failure."""
    from services.cli.documents.revisions import PREFIX, Held, Kind, change, written

    records = await etcd.get_prefix(f"{PREFIX}endpoints/{service}/")
    running = {version for entry in records.entries.values() if (version := _version(entry.value))}
    kind, said = Kind("policy"), ""

    def altered(_: str, held: Held) -> str | None:
        nonlocal said
        document, said = alter(kind.fields(service, held.text), running)
        return written(document)

    before, after = (await change(etcd, kind, [service], altered, action))[service]
    click.echo(f"{service}: {said} ({as_of(after)})")
    if state is not None:
        click.echo(await wait(etcd, kind, {service: before}, envoys(state)))
    return running


def _version(record: bytes) -> str:
    """Of an instance; empty where its record cannot be read, which the control plane refuses."""
    try:
        return str(json.loads(record)["version"])
    except (ValueError, LookupError, TypeError):
        return ""


def with_canary(
    document: Document, running: Collection[str], version: str, share: str | None, header: str | None
) -> tuple[dict[str, Any], str]:
    """The policy with a canary, and what that means in words. Raises Failure."""
    percent = _percent(share) if share else 0
    main = _main_version(document, running, version)
    made: dict[str, Any] = {"weights": [_weight(main, 100 - percent), _weight(version, percent)]}
    words = f"{percent} % of the calls go to {version}, {100 - percent} % to {main}"
    if header:
        name, equals, value = header.partition("=")
        if not (name and equals and value):
            raise Failure(f"--header {header}: write NAME=VALUE, such as x-canary=yes")
        made["matches"] = [{"version": version, "header": {"name": name.lower(), "value": value}}]
        words += f", and all with {name.lower()}: {value} to {version}"
    return {**document, "canary": made}, words


def without_canary(document: Document, running: Collection[str]) -> tuple[dict[str, Any], str]:
    """The policy with every call where it went before, and what that means in words.

    As long as other versions run, the policy says that they get none: without one all instances are alike.
    """
    rest = {name: value for name, value in document.items() if name != "canary"}
    named = [weight["version"] for weight in document.get("canary", {}).get("weights", [])]
    if not named:
        return rest, "no canary"
    main, others = named[0], sorted({*running} - {named[0]})
    if not others:
        return rest, f"no canary, every call goes to {main}"
    weights = [_weight(main, 100), *(_weight(other, 0) for other in others)]
    words = f"every call goes to {main}, none to {', '.join(others)}; when that runs no more, --off takes the rest away"
    return {**rest, "canary": {"weights": weights}}, words


def _main_version(document: Document, running: Collection[str], version: str) -> str:
    """Which version the other calls stay with: that of the canary before, or the only other one that runs."""
    named = [weight["version"] for weight in document.get("canary", {}).get("weights", [])]
    if named and named[0] != version:
        return str(named[0])
    others = sorted({*running} - {version})
    if len(others) != 1:
        found = ", ".join(others) or "none"
        raise Failure(
            f"which version is {version} a canary of? Beside it there is {found}: write the shares with "
            "`shopmesh policy set SERVICE canary=...`"
        )
    return others[0]


def _percent(share: str) -> int:
    if not re.fullmatch(r"\d{1,3}%?", share) or int(share.rstrip("%")) > 100:
        raise Failure(f"{share}: a share is 0% to 100%")
    return int(share.rstrip("%"))


def _weight(version: str, weight: int) -> dict[str, Any]:
    return {"version": version, "weight": weight}
