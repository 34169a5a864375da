"""What `make check` says to somebody who breaks the contracts: where, what, and how to mend it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

CHECKOUT = Path(__file__).parents[2]


class Fault(NamedTuple):
    """An edit of a contract: what stood there, what stands there now, at which text the complaint points."""

    file: str
    old: str
    new: str
    at: str
    says: str


BREAK = r".*; clients built before rely on it: put it back, or accept the break by `make baseline`"
ORDER, PRODUCT, INVENTORY = (f"shop/{name}/v1/{name}.proto" for name in ("order", "product", "inventory"))
POLICY = "mesh/v1/policy.proto"

FAULTS = {
    "a field of an event is removed": Fault(
        "shop/order/v1/events.proto", r"  // E-mail[^;]*string recipient = 3 [^;]*;\n", "",
        "message OrderPlaced", '"recipient" on message "OrderPlaced" was deleted.*' + BREAK,
    ),
    "the number of a field of a configuration is used for another": Fault(
        "shop/inventory/v1/config.proto", "reap_interval = 2", "sweep_interval = 2",
        "sweep_interval = 2", 'changed name from "reap_interval" to "sweep_interval"' + BREAK,
    ),
    "a field of a policy moves to another number": Fault(
        POLICY, "unhealthy_threshold = 3", "unhealthy_threshold = 30",
        "message HealthCheck", '"3" with name "unhealthy_threshold".*was deleted' + BREAK,
    ),
    "a field changes its type": Fault(
        ORDER, "  string etag = 9", "  bytes etag = 9",
        "bytes etag = 9", 'changed type from "string" to "bytes"' + BREAK,
    ),
    "an rpc is removed": Fault(
        ORDER, r"  // Gets one order(?s:.*?)\n  }\n", "",
        "service OrderService", 'RPC "GetOrder".*was deleted' + BREAK,
    ),
    "a value of an enum gets another name": Fault(
        ORDER, "STATE_PLACED = 1", "STATE_TAKEN = 1",
        "STATE_TAKEN", 'changed name from "STATE_PLACED" to "STATE_TAKEN"' + BREAK,
    ),
    "an HTTP route changes": Fault(
        PRODUCT, r'get: "/v1/products"', r'get: "/v1/goods"',
        "rpc ListProducts", "ListProducts: its route GET /v1/products is gone" + BREAK,
    ),
    "an rpc that was for anybody asks for a role": Fault(
        PRODUCT, r"(rpc BatchGetProducts(?s:.*?)){public: true}", r'\1{roles: ["customer"]}',
        "rpc BatchGetProducts", "BatchGetProducts: it is no longer public" + BREAK,
    ),
    "an rpc is taken from a role": Fault(
        PRODUCT, '"catalog-manager"', '"operator"',
        "rpc CreateProduct", "CreateProduct: catalog-manager may no longer call it" + BREAK,
    ),
    "an rpc has no rule": Fault(
        PRODUCT, r"(rpc GetProduct(?s:.*?))    option \(mesh.v1.rule\).*\n", r"\1",
        "rpc GetProduct", r"GetProduct: say who may call it: option \(mesh.v1.rule\) with exactly one of",
    ),
    "an rpc has two kinds of rule": Fault(
        INVENTORY, r"(rpc GetStock(?s:.*?)){public: true}", r'\1{public: true, roles: ["customer"]}',
        "rpc GetStock", r"GetStock: say who may call it: option \(mesh.v1.rule\) with exactly one of",
    ),
    "an rpc for people has no route": Fault(
        ORDER, r'    option \(google.api.http\) = {get: "/v1/orders"};\n', "",
        "rpc ListOrders", r"ListOrders: give it a route, option \(google.api.http\), or make it",
    ),
    "an rpc for service clients has a route": Fault(
        INVENTORY, "(rpc ReserveStock.*)", r'\1\n    option (google.api.http) = {get: "/v1/holds"};',
        "rpc ReserveStock", "ReserveStock: take its google.api.http route away",
    ),
    "an rpc has no comment": Fault(
        INVENTORY, r"  // Gives back what a reservation.*\n", "",
        "rpc ReleaseReservation", 'RPC "ReleaseReservation" should have a non-empty comment',
    ),
    "a message has no comment": Fault(
        POLICY, r"// Envoy asks every instance.*\n", "",
        "message HealthCheck", 'Message "HealthCheck" should have a non-empty comment',
    ),
    "a field has no comment": Fault(
        "mesh/v1/registry.proto", r"  // When the instance started.\n", "",
        "start_time = 4", 'Field "start_time" should have a non-empty comment',
    ),
    "a name is not of its kind": Fault(
        PRODUCT, "string image_uri = 5", "string imageUri = 5",
        "imageUri = 5", r'Field name "imageUri" should be lower_snake_case, such as "image_uri"',
    ),
}  # fmt: skip


def copied(target: Path) -> Path:
    for folder in ("protos", "gen"):
        shutil.copytree(CHECKOUT / folder, target / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return target


def told(copy: Path, *words: str) -> str:
    """What a check says that must not pass."""
    ran = subprocess.run([sys.executable, *words], cwd=copy, capture_output=True, text=True, check=False)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def line_of(text: str, file: Path) -> int:
    return next(number for number, line in enumerate(file.read_text().splitlines(), 1) if text in line)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with all the faults at once."""
    copy = copied(tmp_path_factory.mktemp("broken"))
    for fault in FAULTS.values():
        file = copy / "protos" / fault.file
        text, edits = re.subn(fault.old, fault.new, file.read_text(), count=1)
        assert edits, f"{fault.old} does not stand in {fault.file}"
        file.write_text(text)
    return copy


@pytest.fixture(scope="module")
def complaints(broken: Path) -> str:
    return told(broken, "protos/check.py")


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_in_a_contract_is_refused_with_its_place_and_its_mend(
    broken: Path, complaints: str, fault: Fault
) -> None:
    place = f"protos/{fault.file}:{line_of(fault.at, broken / 'protos' / fault.file)}: "

    assert re.search(f"^{re.escape(place)}.*{fault.says}", complaints, re.MULTILINE), complaints


def test_what_is_not_generated_from_the_contracts_is_refused(tmp_path: Path) -> None:
    python = copied(tmp_path) / "gen" / "python"
    stub = python / "shop/order/v1/order_pb2_grpc.py"
    stub.write_text(stub.read_text().replace("class OrderServiceStub:", "class OrdersStub:"))
    (python / "shop/order/v1/events_pb2.py").unlink()
    (python / "shop/order/v1/orders.py").touch()

    said = told(tmp_path, "protos/generate.py", "--check").splitlines()

    assert said == [
        "gen/python/shop/order/v1/orders.py: nothing makes it",
        "gen/python/shop/order/v1/events_pb2.py: missing",
        f"gen/python/shop/order/v1/order_pb2_grpc.py:{line_of('class OrdersStub:', stub)}: differs",
        "gen/ is not what protos/ say: run `make gen` and commit its result",
    ]


def test_a_contract_that_was_changed_without_make_gen_is_refused(tmp_path: Path) -> None:
    proto = copied(tmp_path) / "protos" / ORDER
    proto.write_text(proto.read_text().replace("// One purchase.", "// What somebody bought."))

    said = told(tmp_path, "protos/generate.py", "--check")

    assert re.search(r"^gen/python/shop/order/v1/order_pb2.pyi:\d+: differs$", said, re.MULTILINE)
