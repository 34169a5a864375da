"""What the OpenAPI document calls valid, protovalidate takes; what it calls invalid, protovalidate refuses."""

import json
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
import schemathesis
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from schemathesis import GenerationMode

from services.chassis.messages import violations
from services.files import resource
from tests.support.contract import Rpc, rpcs


def _sent(schema: object) -> Any:
    """Without what is read only: nobody sends it, and services pass it over. Nor anything that has no name."""
    if isinstance(schema, list):
        return [_sent(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {name: _sent(value) for name, value in schema.items()}
    if isinstance(fields := kept.get("properties"), dict):
        kept["properties"] = {name: of for name, of in fields.items() if not _read_only(of)}
        if "type" in kept:
            kept["additionalProperties"] = False
    return kept


def _read_only(schema: object) -> bool:
    return isinstance(schema, dict) and bool(schema.get("readOnly"))


DOCUMENT: dict[str, Any] = _sent(json.loads(resource("gen/openapi.json").read_bytes()))
OPERATIONS: dict[str, Any] = {
    found.ok().definition.raw["operationId"]: found.ok()  # type: ignore[union-attr]  # ours is well-formed
    for found in schemathesis.openapi.from_dict(DOCUMENT).get_all_operations()
}
# The rules of UpdateProduct's product depend on its mask; the service applies them.
CASES = [rpc for rpc in rpcs() if rpc.method in OPERATIONS and rpc.method != "UpdateProduct"]
TEXTS = st.sampled_from(["", "a", "products/mug", "EUR", "eur", "0", "1", "1000000", "1000001", "-1", "price desc"])
NUMBERS = st.sampled_from([-1_000_001, -1, 0, 1, 999, 1000, 9_999_999, 10_000_000, 990_000_000, 1_000_000_000, 2**31])


def schema_of(method: str) -> dict[str, Any]:
    """Of all that is not in the path: the body, or the query as an object."""
    operation: dict[str, Any] = OPERATIONS[method].definition.raw
    if body := operation.get("requestBody"):
        schema: dict[str, Any] = body["content"]["application/json"]["schema"]
    else:
        queries = [one for one in operation["parameters"] if one["in"] == "query"]
        schema = {
            "type": "object",
            "properties": {one["name"]: one["schema"] for one in queries},
            "required": [one["name"] for one in queries if one["required"]],
        }
    return {"components": DOCUMENT["components"]} | schema


def taken(rpc: Rpc, sent: Any) -> bool:
    """Whether a message of this JSON keeps to protovalidate's rules, but for the name that the path says."""
    message = rpc.request()
    try:
        json_format.ParseDict(sent, message)
    except json_format.ParseError:
        return False
    return not [field for field, _ in violations(message) if field != "name"]


def places(value: object, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where a leaf is."""
    match value:
        case dict():
            for name, field in value.items():
                yield from places(field, (*here, name))
        case list():
            for at, item in enumerate(value):
                yield from places(item, (*here, at))
        case _:
            yield here


@pytest.mark.parametrize("rpc", CASES, ids=lambda rpc: rpc.method)
@settings(derandomize=True, deadline=None)
@given(data=st.data())
def test_the_document_and_protovalidate_agree(rpc: Rpc, data: st.DataObject) -> None:
    schema = schema_of(rpc.method)
    case = data.draw(OPERATIONS[rpc.method].as_strategy(generation_mode=GenerationMode.POSITIVE), "valid")
    # A query is text, also where it stands for true and false.
    words = {"true": True, "false": False}
    query = {
        name: words.get(value, value) if schema["properties"][name].get("type") == "boolean" else value
        for name, value in (case.query or {}).items()
    }
    sent: Any = case.body if OPERATIONS[rpc.method].body else query

    assert taken(rpc, sent)

    # To JSON Schema a format, such as that of a URI, is no more than a remark.
    leaves = [place for place in places(sent) if place[-1:] != ("imageUri",)]
    if not leaves or leaves == [()]:
        return
    changed, path = deepcopy(sent), data.draw(st.sampled_from(leaves))
    inside = changed
    for step in path[:-1]:
        inside = inside[step]
    if data.draw(st.booleans(), "leave out") and isinstance(inside, dict):
        del inside[path[-1]]
    elif isinstance(inside[path[-1]], str):
        inside[path[-1]] = data.draw(TEXTS)
    elif not isinstance(inside[path[-1]], bool):
        inside[path[-1]] = data.draw(NUMBERS)

    assert taken(rpc, changed) == Draft202012Validator(schema).is_valid(changed), changed
