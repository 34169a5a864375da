"""One shop in containers for the run: two of everything that may run twice. What is missing on this machine is told."""

import fcntl
import shlex
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import gettempdir
from typing import NoReturn

import pytest

from tests.compose.customers import Customers, customers_of
from tests.compose.faults import HEAD, Row
from tests.compose.images.__main__ import official, provide
from tests.compose.images.engine import CannotBuild
from tests.compose.project import IMAGE, NEXT_IMAGE, ROOT, Missing, Project
from tests.compose.telling import Tell


@pytest.fixture(scope="session")
def tell(pytestconfig: pytest.Config) -> Tell:
    """A line for whoever waits."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    reporter = pytestconfig.pluginmanager.getplugin("terminalreporter")

    def told(line: str) -> None:
        with capture.global_and_fixture_disabled():
            reporter.ensure_newline()
            reporter.write_line(line)

    return told


@pytest.fixture(scope="session")
def alone() -> Iterator[None]:
    """There is one project of that name: another run waits until this one is over. SIGTERM ends it as Ctrl-C does."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    with (Path(gettempdir()) / "shopmesh-test-compose.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def images(nothing_stays: Project, tell: Tell) -> None:
    """Those of others are pulled or stand-ins, which is told; ours is built twice, under two names."""
    for image in official().values():
        try:
            tell(f"{image:<48} {provide(image)}")
        except CannotBuild as error:
            pytest.exit(f"{image}: {error}", 2)
    _built(["--tag", IMAGE, str(ROOT)])
    _built(["--tag", NEXT_IMAGE, "-"], f"FROM {IMAGE}\nLABEL shopmesh.test=next\n")
    tell(f"{IMAGE:<48} built from Dockerfile, and {NEXT_IMAGE} from it")


def _built(words: list[str], dockerfile: str = "") -> None:
    done = subprocess.run(
        ["docker", "build", "--quiet", *words], input=dockerfile, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.exit(f"the image cannot be built: {done.stdout[-4000:]}{done.stderr[-4000:]}", 2)


@pytest.fixture(scope="session")
def nothing_stays(alone: None, tell: Tell) -> Iterator[Project]:
    """The project before anything of it is there. Whatever becomes of the tests, nothing is there afterwards."""
    try:
        made = Project()
    except Missing as missing:
        pytest.exit(f"make test-compose: {missing}", 2)
    made.remove()  # what a run that was killed has left
    tell(f"{shlex.join(made.command)} is {made.compose('version', '--short').strip()}")
    yield made
    made.remove()


@pytest.fixture(scope="session")
async def project(nothing_stays: Project, images: None) -> Project:
    """Runs, and all of it is well."""
    await nothing_stays.start()
    return nothing_stays


@pytest.fixture(scope="session")
async def customers(project: Project) -> AsyncIterator[Customers]:
    async with customers_of(project) as all_of_them:
        yield all_of_them


@pytest.fixture(scope="session")
def rows(tell: Tell) -> Iterator[list[Row]]:
    """What was found so far; printed at the end, also into docs/faults.md."""
    found: list[Row] = []
    yield found
    tell("\n" + "\n".join([HEAD, *map(str, found)]))
