"""The OpenAPI document says of the REST door what the contracts say."""

import json
import re
from typing import Any

import pytest
from openapi_spec_validator import validate

from services.controlplane.contract import Contract
from services.files import resource

CONTRACT = Contract.read(resource("gen/descriptors.binpb").read_bytes(), resource("gen/openapi.json").read_bytes())
DOCUMENT: dict[str, Any] = json.loads(CONTRACT.openapi)
OPERATIONS = {(verb, path): operation for path, verbs in DOCUMENT["paths"].items() for verb, operation in verbs.items()}


def body(operation: str) -> dict[str, Any]:
    [found] = [one for one in OPERATIONS.values() if one["operationId"] == operation]
    schema: dict[str, Any] = found["requestBody"]["content"]["application/json"]["schema"]
    return schema


def test_it_is_a_document_of_openapi() -> None:
    validate(DOCUMENT)


def test_each_route_of_the_contract_is_an_operation_and_nothing_else_is() -> None:
    routes = {(rpc.method, pattern) for rpc in CONTRACT.rpcs for pattern in rpc.http_patterns}
    described = {
        (operation["operationId"], re.sub(r"\\\{.*?\\\}", "[^/]+", re.escape(path)))
        for (_, path), operation in OPERATIONS.items()
    }

    assert described == routes


def test_a_field_that_stands_in_a_path_is_nowhere_asked_for_in_a_query() -> None:
    """Envoy does not read such a field from any query."""
    in_paths = frozenset[str]().union(*(rpc.fields_in_paths for rpc in CONTRACT.rpcs))
    in_queries = {
        parameter["name"]
        for operation in OPERATIONS.values()
        for parameter in operation.get("parameters", [])
        if parameter["in"] == "query"
    }

    assert "name" in in_paths
    assert in_queries
    assert not in_paths & in_queries


def test_what_a_path_has_begun_need_not_be_in_the_body() -> None:
    assert "required" not in body("UpdateProduct")
    assert body("PlaceOrder")["required"] == ["order", "requestId"]


@pytest.mark.parametrize("rpc", [rpc for rpc in CONTRACT.rpcs if rpc.http_patterns], ids=lambda rpc: rpc.method)
def test_an_operation_says_who_may_and_how_it_is_refused(rpc: Any) -> None:
    [operation] = [one for one in OPERATIONS.values() if one["operationId"] == rpc.method]

    assert operation["security"] == ([{}, {"token": []}] if rpc.public else [{"token": []}])
    assert operation["description"]
    assert {"200", "400", "401", "403", "429", "503"} <= operation["responses"].keys()
    for code, status in {"NOT_FOUND/": "404", "ABORTED/": "409", "ALREADY_EXISTS/": "409"}.items():
        assert (code in operation["description"]) == (
            status in operation["responses"]
            and any(reason in operation["responses"][status]["description"] for reason in reasons(operation, code))
        )


def reasons(operation: dict[str, Any], code: str) -> list[str]:
    return re.findall(f"{code}([A-Z_]+)", operation["description"])


RULES = [
    ("CreateProduct", ["productId"], {"type": "string", "pattern": "^[a-z][a-z0-9-]{2,62}$"}),
    ("AdjustStock", ["delta"], {"type": "integer", "minimum": -1_000_000, "maximum": 1_000_000, "not": {"enum": [0]}}),
    ("CancelOrder", ["etag"], {"type": "string", "maxLength": 64}),
    ("CheckStock", ["lines"], {"type": "array", "minItems": 1, "maxItems": 100}),
]


@pytest.mark.parametrize(("operation", "path", "rule"), RULES)
def test_rules_of_the_contract_are_rules_of_the_document(operation: str, path: list[str], rule: dict[str, Any]) -> None:
    [name] = path

    assert body(operation)["properties"][name].items() >= rule.items()


def test_what_only_the_shop_says_is_read_only_and_what_it_needs_is_required() -> None:
    order = DOCUMENT["components"]["schemas"]["Order"]
    assert order["required"] == ["lines"]
    assert order["properties"]["state"]["readOnly"]
    assert body("PlaceOrder")["required"] == ["order", "requestId"]
    assert "name" not in body("CancelOrder")["properties"], "the path says it"
