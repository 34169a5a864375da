"""Seeds, and documents that hold only what differs."""

import json
from pathlib import Path

import pytest
from google.protobuf import json_format
from google.protobuf.message import Message
from mesh.v1 import policy_pb2
from shop.inventory.v1.config_pb2 import InventoryConfig
from shop.notification.v1.config_pb2 import NotificationConfig
from shop.order.v1.config_pb2 import OrderConfig
from shop.product.v1.config_pb2 import ProductConfig

from services.chassis.documents import DocumentRefused, effective
from services.chassis.etcd import Change, Entry, Snapshot
from services.controlplane import last_good
from services.controlplane.contract import Contract
from services.controlplane.model import Endpoint, Seen, State
from services.controlplane.seeds import Seeds
from services.controlplane.source import Documents, endpoint
from services.files import resource

CONTRACT = Contract.read(resource("gen/descriptors.binpb").read_bytes())
SERVICES = CONTRACT.services
CONFIGS = {
    "inventory": InventoryConfig,
    "notification": NotificationConfig,
    "order": OrderConfig,
    "product": ProductConfig,
}


@pytest.fixture
def seeds() -> Seeds:
    return Seeds.read(resource("etcd/seed"), CONTRACT.methods)


def unset(message: Message) -> list[str]:
    """Fields that a seed leaves open, but for those of which no default could say anything: lists, maps, a canary."""
    fields = [field.name for field in message.DESCRIPTOR.fields if not field.is_repeated and field.name != "canary"]
    missing = [name for name in fields if not message.HasField(name)]
    for field, value in message.ListFields():
        if isinstance(value, Message) and not value.DESCRIPTOR.full_name.startswith("google."):
            missing += [f"{field.name}.{name}" for name in unset(value)]
    return missing


@pytest.mark.parametrize("service", SERVICES)
def test_the_seeds_say_everything_and_keep_to_the_contract(service: str) -> None:
    policy = effective(policy_pb2.Policy(), resource(f"etcd/seed/policy/{service}.json").read_bytes())
    config = effective(CONFIGS[service](), resource(f"etcd/seed/config/{service}.json").read_bytes())

    assert unset(policy) == []
    assert unset(config) == []


def test_a_document_changes_what_it_names_and_nothing_else(seeds: Seeds) -> None:
    changed = seeds.policy("product", b'{"retries": {"per_try_timeout": "2s"}}')

    expected = json.loads(resource("etcd/seed/policy/product.json").read_text())
    expected["retries"]["per_try_timeout"] = "2s"
    assert changed == json_format.ParseDict(expected, policy_pb2.Policy())


def test_an_empty_document_changes_nothing(seeds: Seeds) -> None:
    assert seeds.policy("product", b"") == seeds.policies["product"]


def test_sampling_is_read_from_a_configuration_whatever_else_it_holds(seeds: Seeds) -> None:
    assert seeds.sampling_percent("product", b'{"process": {"sampling_percent": 0}, "other": 1}') == 0
    assert seeds.sampling_percent("product", b'{"default_page_size": 5}') == 100


BAD = [
    (b"{", "not JSON"),
    (b"[]", "not a JSON object"),
    (b'{"retrys": {}}', "retrys"),
    (b'{"retries": {"edge": 11}}', "retries.edge"),
    (b'{"health_check": {"interval": "0s"}}', "health_check.interval"),
    (b'{"load_balancing": "LOAD_BALANCING_FASTEST"}', "load_balancing"),
    (b'{"rpcs": {"GetProdukt": {}}}', r"rpcs\['GetProdukt'\]: the service has no rpc 'GetProdukt': it has Archive"),
    (b'{"rpcs": {"GetProduct": {"timeout": "0s"}}}', r"rpcs\['GetProduct'\].timeout"),
    (b'{"retries": {"edge": 1, "edge": 2}}', "edge"),
    (b'{"ejection": {"base_ejection_time": "300s"}}', "ejection: max_ejection_time is less than base_ejection_time"),
    (b'{"canary": {"weights": [{"version": "1", "weight": 0}]}}', "canary.weights: the weights sum to 0"),
    (
        b'{"canary": {"weights": [{"version": "1", "weight": 1}, {"version": "1", "weight": 2}]}}',
        "canary.weights: a version stands twice",
    ),
    (b'{"canary": {"weights": [{"weight": 1}]}}', r"canary.weights\[0\].version: value is required"),
    (b'{"canary": {"matches": [{"version": "2"}]}}', r"canary.matches\[0\].header: value is required"),
    (b'{"faults": [{"percent": 10}]}', r"faults\[0\]: neither delay nor abort is set"),
    (b'{"faults": [{"abort": "OK"}]}', r"faults\[0\].abort"),
    (b'{"faults": [{"abort": "INTERNAL", "rpcs": ["GetStock"]}]}', r"faults\[0\].rpcs\[0\]: the service has no rpc"),
    (b'{"faults": [{"abort": "INTERNAL"}, {"delay": "1s", "rpcs": ["GetProduct"]}]}', r"faults\[1\]: never made"),
]


@pytest.mark.parametrize(("document", "names"), BAD)
def test_a_bad_document_is_refused_with_its_field(seeds: Seeds, document: bytes, names: str) -> None:
    with pytest.raises(DocumentRefused, match=names):
        seeds.policy("product", document)


ENDPOINTS = [
    (b'{"address": "127.0.0.1:7001", "state": "STATE_READY"}', Endpoint("127.0.0.1:7001")),
    (
        b'{"address": "[::1]:7001", "version": "2", "state": "STATE_DRAINING", "start_time": "1970-01-01T00:00:01.5Z"}',
        Endpoint("[::1]:7001", State.DRAINING, "2", 1.5),
    ),
]


@pytest.mark.parametrize(("document", "expected"), ENDPOINTS)
def test_a_registration_is_understood(document: bytes, expected: Endpoint) -> None:
    assert endpoint("product/product", document) == expected


BAD_ENDPOINTS = [
    ("product/product", b'{"address": "localhost:7001", "state": "STATE_READY"}', "address"),
    ("product/product", b'{"address": "127.0.0.1", "state": "STATE_READY"}', "address"),
    ("product/product", b'{"address": "127.0.0.1:7001"}', "state"),
    ("product", b'{"address": "127.0.0.1:7001", "state": "STATE_READY"}', "no instance"),
]


@pytest.mark.parametrize(("name", "document", "why"), BAD_ENDPOINTS)
def test_a_bad_registration_is_refused(name: str, document: bytes, why: str) -> None:
    with pytest.raises(DocumentRefused, match=why):
        endpoint(name, document)


def numbers() -> Documents[int]:
    def number(_name: str, value: bytes) -> int:
        try:
            return int(value)
        except ValueError as error:
            raise DocumentRefused(str(error)) from error

    return Documents("/n/", number)


def test_the_last_good_document_stays_when_a_bad_one_comes() -> None:
    documents = numbers()
    documents.take(Snapshot(1, {"/n/a": Entry(b"1", 1), "/n/b": Entry(b"bad", 1)}))

    documents.take(Change("/n/a", b"worse", 2))

    assert documents.by_name == {"a": 1}


def test_it_is_told_which_revision_holds_and_which_was_refused() -> None:
    documents, told = numbers(), list[tuple[int, int]]()
    for event in (
        Snapshot(4, {"/n/a": Entry(b"1", 3)}),
        Change("/n/a", b"bad", 5),
        Change("/n/b", b"2", 6),
        Change("/n/a", b"1", 7),
        Change("/n/a", None, 8),
        Snapshot(9, {}),
    ):
        documents.take(event)
        told.append((documents.standing("a").revision, documents.standing("a").refused.revision))

    assert told == [(3, 0), (3, 5), (3, 5), (7, 0), (0, 0), (0, 0)]


def test_a_new_list_replaces_the_old_one_but_not_by_bad_documents() -> None:
    documents = numbers()
    documents.take(Snapshot(1, {"/n/a": Entry(b"1", 1), "/n/b": Entry(b"2", 1)}))

    documents.take(Snapshot(9, {"/n/a": Entry(b"bad", 9)}))

    assert documents.by_name == {"a": 1}


def test_a_deleted_document_is_gone() -> None:
    documents = numbers()
    documents.take(Snapshot(1, {"/n/a": Entry(b"1", 1)}))

    documents.take(Change("/n/a", None, 2))

    assert documents.by_name == {}


def test_what_was_seen_survives_a_restart(tmp_path: Path, seeds: Seeds) -> None:
    seen = Seen(
        {"product": {"product": Endpoint("127.0.0.1:1", State.DRAINING, "2", 1.5)}},
        seeds.policies,
        dict.fromkeys(SERVICES, 12.5),
    )
    file = tmp_path / "last-good" / "controlplane.json"

    last_good.save(file, seen)

    assert last_good.load(file, frozenset(SERVICES)) == seen


@pytest.mark.parametrize("content", ["", "{}", '{"endpoints": [["a"]], "policies": {}, "sampling": {}}'])
def test_a_file_that_says_nothing_useful_is_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "file.json").write_text(content)

    assert last_good.load(tmp_path / "file.json", frozenset(SERVICES)) is None
    assert last_good.load(tmp_path / "absent.json", frozenset(SERVICES)) is None
