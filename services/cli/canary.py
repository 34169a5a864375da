"""`shopmesh canary`: a part of the calls to a service goes to another version of it, and comes back in one command."""

import asyncio
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import click

from services.cli.options import with_state
from services.cli.process import CannotStart
from services.cli.settings import SERVICES
from services.cli.state import StateFolder

type Document = Mapping[str, Any]


@click.command()
@with_state
@click.argument("service", type=click.Choice(SERVICES))
@click.argument("version", required=False)
@click.argument("share", required=False, metavar="[PERCENT%]")
@click.option("--header", metavar="NAME=VALUE", help="Calls that carry this header go to VERSION, whatever its share.")
@click.option("--off", is_flag=True, help="Every call goes where it went before.")
def canary(state: Path, service: str, version: str | None, share: str | None, header: str | None, *, off: bool) -> None:
    """Send a part of the calls to another VERSION of a service, by share, by header, or both.

    What is not said is none, so each use replaces the last. The rest of the calls stays with the version that ran
    before. It is a change of the service's policy: live within milliseconds, kept in `shopmesh policy history`. Calls
    to a version of which no instance is well go to the other one. --off is the way back.

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
    click.echo(asyncio.run(_change(StateFolder(state.absolute()), service, version, share, header)))


async def _change(folder: StateFolder, service: str, version: str | None, share: str | None, header: str | None) -> str:
    """What holds now. Raises CannotStart."""
    from services.chassis.documents import DocumentRefused
    from services.chassis.etcd import EtcdUnavailable
    from services.cli.mesh import watched
    from services.cli.revisions import Held, Kind, change, written

    kind, said = Kind("policy"), ""
    async with watched(folder) as shop:
        endpoints = (await shop.read()).endpoints
        if endpoints is None:
            raise CannotStart("etcd does not answer: see `shopmesh status`")
        running = {endpoint.version for key, endpoint in endpoints.items() if key.startswith(f"{service}/")}

        def alter(_: str, held: Held) -> str | None:
            nonlocal said
            document = kind.fields(service, held.text)
            if version is None:
                document, said = without_canary(document, running)
            else:
                document, said = with_canary(document, running, version, share, header)
            return written(document)

        action = (
            " ".join(["canary", *(word for word in (version, share, header) if word)]) if version else "canary --off"
        )
        try:
            done = await change(shop.etcd, kind, [service], alter, action)
        except DocumentRefused as refused:
            raise CannotStart(str(refused)) from None
        except EtcdUnavailable:
            raise CannotStart(
                "etcd does not answer: the change may have been made, see `shopmesh policy get`"
            ) from None
    _, after = done[service]
    hint = f"\nno instance of {version} runs: `shopmesh scale {service}@{version} 1` starts one here"
    return f"{service}: {said} (revision {after.revision}){hint if version and version not in running else ''}"


def with_canary(
    document: Document, running: Collection[str], version: str, share: str | None, header: str | None
) -> tuple[dict[str, Any], str]:
    """The policy with a canary, and what that means in words. Raises CannotStart."""
    percent = _percent(share) if share else 0
    main = _main_version(document, running, version)
    made: dict[str, Any] = {"weights": [_weight(main, 100 - percent), _weight(version, percent)]}
    words = f"{percent} % of the calls go to {version}, {100 - percent} % to {main}"
    if header:
        name, equals, value = header.partition("=")
        if not (name and equals and value):
            raise CannotStart(f"--header {header}: write NAME=VALUE, such as x-canary=yes")
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
        raise CannotStart(
            f"which version is {version} a canary of? Beside it there is {found}: write the shares with "
            "`shopmesh policy set SERVICE canary=...`"
        )
    return others[0]


def _percent(share: str) -> int:
    if not re.fullmatch(r"\d{1,3}%?", share) or int(share.rstrip("%")) > 100:
        raise CannotStart(f"{share}: a share is 0% to 100%")
    return int(share.rstrip("%"))


def _weight(version: str, weight: int) -> dict[str, Any]:
    return {"version": version, "weight": weight}
