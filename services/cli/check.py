"""`shopmesh check`: the end-to-end tests of the checkout, against one installation, told in words."""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Self

import click

from services.cli.options import with_state
from services.cli.places import Places, is_elsewhere, keys_url, places_of
from services.failure import Failure

CHECKOUT = Path(__file__).parents[2]
SUITE = "tests/e2e"
_KNOWN_AS = {"TARGET": "edge", "MAIL": "mail", "TELEMETRY": "telemetry", "ETCD": "etcd"}
"""Variables of the tests that say what Places know."""
_TIMEOUT_S = 10.0
_OTHERS = "not checked here"


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one test: a line of tests/support/results.py."""

    about: str
    """Its module, in words."""
    test: str
    outcome: str
    """passed, failed or skipped."""
    why: str

    @classmethod
    def of(cls, line: str) -> Self:
        return cls(**json.loads(line))


@dataclass(slots=True)
class Summary:
    """Of a whole run."""

    held: int = 0
    failed: int = 0
    skipped: Counter[str] = field(default_factory=Counter[str])
    """By reason."""

    @property
    def exit_code(self) -> int:
        """0: all held; 1: some did not; 2: nothing was checked."""
        return 1 if self.failed else 0 if self.held else 2

    def told(self) -> Iterator[str]:
        yield ""
        yield f"{self.held} held, {self.failed} failed, {self.skipped.total()} {_OTHERS}"
        for why, count in self.skipped.most_common():
            yield f"{count:7}  {why}"


@click.command()
@with_state
@click.option("--target", metavar="HOST:PORT", help="The edge of another shop than that of the state folder.")
@click.option("--issuer", metavar="URL", help="Who issues its tokens, as they say it: http://HOST:PORT/realms/shop.")
def check(state: Path, target: str | None, issuer: str | None) -> None:
    """Check a shop from outside, with the end-to-end tests of this checkout.

    Through its doors, as the demo users: about 170 tests in two minutes, 40 calls a second at most. They make products
    and orders of their own, with mails to those users, archive the products at the end, and leave the rest alone.

    \b
    SHOPMESH_TOKEN_URL   where tokens are had, where that is not at the issuer
    SHOPMESH_MAIL        host:port of Mailpit: mails are read as well
    SHOPMESH_TELEMETRY   host:port of the pages: traces, lines and numbers too
    SHOPMESH_ETCD        host:port: services are called past Envoy too, where they are reached from here
    SHOPMESH_SECRETS     folder with <service>/client-secret: calls are made as services too
    SHOPMESH_USER_ANN    SHOPMESH_PASSWORD_ANN: somebody else in the place of ann; likewise BOB, CAROL, OSCAR

    Exit code 0: all that was checked holds; 1: something does not; 2: nothing could be checked.
    """  # noqa: D301  click reads \b as: as it stands
    try:
        told = _environment(state, target, issuer)
        _must_be_there()
        _must_answer(told)
    except Failure as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    sys.exit(run(told))


def run(told: Mapping[str, str], suite: str = SUITE) -> int:
    """Runs the tests with these variables; tells of each module when it is through. Gives the exit code."""
    click.echo(f"http://{told['SHOPMESH_TARGET']}, tokens of {told['SHOPMESH_ISSUER']}\n")
    log = Path(tempfile.mkdtemp(prefix="shopmesh-check-")) / "pytest.log"
    summary = Summary()
    reading, writing = os.pipe()
    with log.open("w") as output, os.fdopen(reading) as results:
        tests = subprocess.Popen(
            [sys.executable, "-m", "pytest", suite, "-p", "tests.support.results"],
            env={**os.environ, **told, "SHOPMESH_RESULTS": str(writing)},
            cwd=CHECKOUT, stdout=output, stderr=subprocess.STDOUT, pass_fds=(writing,),
        )  # fmt: skip
        os.close(writing)
        try:
            for line in told_of(map(Result.of, results), summary):
                click.echo(line)
        except KeyboardInterrupt:
            tests.wait()
            summary.failed += 1
            click.echo("\ninterrupted")
        code = tests.wait()
    for line in summary.told():
        click.echo(line)
    if code and not summary.failed:
        click.echo(f"the tests ended with {code}: see {log}")
        return 2
    if summary.failed:
        click.echo(f"all that was seen: {log}")
    return summary.exit_code


def told_of(results: Iterable[Result], summary: Summary) -> Iterator[str]:
    """A line for each module of which something was checked, with what failed below it. Counts in `summary`."""
    for about, of_module in groupby(results, lambda result: result.about):
        of_these = list(of_module)
        held = sum(result.outcome == "passed" for result in of_these)
        failed = [result for result in of_these if result.outcome == "failed"]
        summary.held += held
        summary.failed += len(failed)
        summary.skipped.update(result.why for result in of_these if result.outcome == "skipped")
        if held or failed:
            count = f"{held} of {held + len(failed)}" if failed else str(held)
            yield f"{count:>9} held   {about}"
        for result in failed:
            yield f"            FAILED {result.test}"
            yield from (f"                   {line}" for line in result.why.splitlines())


def _environment(state: Path, target: str | None, issuer: str | None) -> dict[str, str]:
    """What the tests are told of the shop. Raises Failure."""
    if target:
        places = Places.of_target(target, issuer)
        return {"SHOPMESH_TARGET": target, **_identity(places.issuer, places.token_url)}
    places = places_of(state)
    told = {f"SHOPMESH_{name}": places.known.get(field, "") for name, field in _KNOWN_AS.items()}
    told |= {"SHOPMESH_TARGET": places.edge, **_identity(issuer or places.issuer, places.token_url)}
    return told | _secrets(places)


def _identity(issuer: str, url: str) -> dict[str, str]:
    return {"SHOPMESH_ISSUER": issuer, "SHOPMESH_TOKEN_URL": url}


def _secrets(places: Places) -> dict[str, str]:
    if is_elsewhere() or places.folder is None:
        return {}
    return {"SHOPMESH_SECRETS": str(places.folder.path / "secrets")}


def _must_be_there() -> None:
    """Raises Failure where the tests, or what runs them, are not installed."""
    from importlib.util import find_spec

    if not (CHECKOUT / SUITE).is_dir() or not find_spec("pytest"):
        raise Failure(
            "the tests are not installed here; in a checkout of shopmesh, after `make check`: "
            "`.venv/bin/shopmesh check --target HOST:PORT --issuer URL`"
        )


def _must_answer(told: Mapping[str, str]) -> None:
    """Raises Failure when edge or Keycloak do not: then every test would fail, and late."""
    from services.chassis.http import httpx

    keys = keys_url(told["SHOPMESH_TOKEN_URL"])
    for whom, url in {"the edge": f"http://{told['SHOPMESH_TARGET']}/v1/products", "Keycloak": keys}.items():
        try:
            # No proxy from the environment, and no time for the certificates of the machine where none is asked for.
            httpx.get(url, trust_env=False, verify=url.startswith("https"), timeout=_TIMEOUT_S)
        except httpx.HTTPError as error:
            raise Failure(f"{whom} does not answer at {url} ({error}): `shopmesh doctor` tells more") from None
