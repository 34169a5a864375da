import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
WHEEL = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
OUTSIDE = [path for path in WHEEL["only-include"] if path != "services"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel holds, as an installer would lay it out."""
    built, site = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("site")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", built], cwd=CHECKOUT, check=True)
    [wheel] = built.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    return site


@pytest.mark.parametrize("path", OUTSIDE)
def test_files_outside_the_packages_are_found_in_the_wheel(installed: Path, path: str) -> None:
    program = "import sys, services.files; print(services.files.resource(sys.argv[1]))"
    found = subprocess.run(
        [sys.executable, "-c", program, path],
        cwd=installed,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert found == str(installed / "services" / "_files" / path)


def test_the_wheel_holds_every_file_of_the_packages(installed: Path) -> None:
    packages = CHECKOUT / "services"
    ours = {path.relative_to(packages) for path in packages.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    packed = {path.relative_to(installed / "services") for path in (installed / "services").rglob("*")}
    assert ours <= packed
