"""REST keeps to its OpenAPI document, whatever it is sent, with a token and without."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import assume, given
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from services.files import resource
from tests.fuzz.calling import Outside, callers
from tests.fuzz.contracts import RPCS
from tests.fuzz.searching import searching

CHECKS: Any = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance,
    response_schema_conformance, negative_data_rejection, unsupported_method,
]  # fmt: skip

DOCUMENT = schemathesis.openapi.from_dict(json.loads(resource("gen/openapi.json").read_bytes()))
OPERATIONS: list[Any] = [found.ok() for found in DOCUMENT.get_all_operations()]  # type: ignore[union-attr]  # ours is well-formed


@pytest.fixture(scope="session")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


@pytest.mark.parametrize("mode", GenerationMode, ids=lambda mode: mode.value)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
@searching(6)
@given(data=st.data())
def test_rest_keeps_to_its_document(
    data: st.DataObject, operation: Any, mode: GenerationMode, outside: Outside, session: requests.Session
) -> None:
    called = next(called for called in RPCS if called.rpc.method == operation.definition.raw["operationId"])
    caller = data.draw(st.sampled_from([*callers(called.rpc) * 4, None]), "caller")
    case = data.draw(operation.as_strategy(generation_mode=mode), "call")
    # A parameter without a name (`?=1`) says nothing, and Envoy passes it by.
    assume("" not in (case.query or {}))
    headers = {"authorization": f"Bearer {outside.token(caller)}"} if caller else {}

    answer = case.call_and_validate(
        base_url=f"http://{outside.shop.edge}", session=session, headers=headers, checks=CHECKS
    )

    # What is no call at all is told so before anybody is asked for a token.
    assert called.rpc.public or caller or answer.status_code in {400, 401}
    outside.tally[f"{called} REST"][str(answer.status_code)] += 1
