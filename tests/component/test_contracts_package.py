"""What a client gets who installs shopmesh-contracts and nothing else of the shop."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
PACKAGE = CHECKOUT / "gen" / "python"
PROJECT = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
MODULES = sorted(
    path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".") for path in PACKAGE.rglob("*.py")
)

CLIENT = """
from datetime import timedelta

import grpc
from google.protobuf.duration_pb2 import Duration
from mesh.v1.policy_pb2 import Retries
from shop.order.v1.order_pb2 import Order, PlaceOrderRequest
from shop.order.v1.order_pb2_grpc import OrderServiceStub


async def place(channel: grpc.aio.Channel) -> Order:
    line = Order.Line(product="products/mug", quantity=2)
    request = PlaceOrderRequest(order=Order(lines=[line]), request_id="1")
    answer = await OrderServiceStub(channel).PlaceOrder(request, timeout=5)
    return answer.order


Retries(edge=1, per_try_timeout=Duration(seconds=1))
Order.Line(quantity="2")  # type: ignore[arg-type]
"""
"""Types that came out as Any would leave its last comment unused, which strict refuses."""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that holds the wheel and what it asks for, in the versions that are locked."""
    built, environment = tmp_path_factory.mktemp("built"), tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", built], cwd=PACKAGE, check=True)
    [wheel] = built.glob("*.whl")
    python = environment / "bin" / "python"
    for words in (
        ("venv", "--clear", "--python", sys.executable, environment),
        ("pip", "install", "--python", python, "-c", CHECKOUT / "requirements.lock", f"{wheel}[types]"),
    ):
        uv = (CHECKOUT / ".tools/uv/bin/uv", "--quiet", *words)
        subprocess.run(uv, check=True, env={**os.environ, "UV_SYSTEM_CERTS": "1"})
    return python


def test_every_module_can_be_imported_where_nothing_else_of_the_shop_is(python: Path, tmp_path: Path) -> None:
    imports = "\n".join(f"import {module}" for module in MODULES)
    subprocess.run([python, "-W", "error", "-c", imports], cwd=tmp_path, check=True)


def test_a_client_of_it_passes_strict_type_checking(python: Path, tmp_path: Path) -> None:
    (tmp_path / "client.py").write_text(CLIENT)
    mypy = (sys.executable, "-m", "mypy", "--strict", "--python-executable", python, "client.py")
    checked = subprocess.run(mypy, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_it_asks_for_the_versions_that_its_code_was_generated_for() -> None:
    modules = [path.read_text() for path in PACKAGE.rglob("*.py")]
    protobuf = {match[1] for text in modules if (match := re.search(r"# Protobuf Python Version: (\S+)", text))}
    grpcio = {match[1] for text in modules if (match := re.search(r"GRPC_GENERATED_VERSION = '(\S+)'", text))}

    asked = dict(re.findall(r"(\S+)>=([\d.]+),", "\n".join(PROJECT["dependencies"])))

    assert ({asked["protobuf"]}, {asked["grpcio"]}) == (protobuf, grpcio)


def test_it_has_the_version_of_the_shop() -> None:
    assert PROJECT["version"] == tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["version"]
