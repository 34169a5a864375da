"""What a caller can say over REST alone: JSON, paths and queries that make no request."""

import json

import grpc
import httpx
import pytest

from tests.support.door_fixtures import World, cart, line
from tests.support.doors import read_json
from tests.support.shop_fixtures import Bearer

INVALID_ARGUMENT, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
ORDERS = "/v1/orders"
# fmt: off
ONLY_OVER_REST: list[tuple[str, str, str, str | bytes, grpc.StatusCode, str]] = [
    ("no value of the enum", "POST", ORDERS, '{"order": {"state": "STATE_LOST"}}', INVALID_ARGUMENT, "STATE_LOST"),
    ("a word for a number", "POST", ORDERS, '{"order": {"lines": [{"quantity": "1x"}]}}', INVALID_ARGUMENT, "quantity"),
    ("a fraction", "POST", ORDERS, '{"order": {"lines": [{"quantity": 1.5}]}}', INVALID_ARGUMENT, "quantity"),
    ("33 bits", "POST", ORDERS, '{"order": {"lines": [{"quantity": 4294967296}]}}', INVALID_ARGUMENT, "quantity"),
    ("a number for a word", "POST", ORDERS, '{"request_id": 5}', INVALID_ARGUMENT, "request_id"),
    ("no JSON", "POST", ORDERS, "lines=1", INVALID_ARGUMENT, "lines"),
    ("half of JSON", "POST", ORDERS, '{"order": {', INVALID_ARGUMENT, ""),
    ("JSON and more", "POST", ORDERS, "{} {}", INVALID_ARGUMENT, ""),
    ("a list", "POST", ORDERS, "[]", INVALID_ARGUMENT, "message"),
    ("null", "POST", ORDERS, "null", INVALID_ARGUMENT, "message"),
    ("no text", "POST", ORDERS, b"\xff\xfe{", INVALID_ARGUMENT, "UTF-8"),
    ("ten thousand brackets", "POST", ORDERS, "[" * 10_000, INVALID_ARGUMENT, "deep"),
    ("a field that nobody knows, in the query", "GET", "/v1/products?colour=red", "", INVALID_ARGUMENT, "colour"),
    ("a token in the query", "GET", "/v1/products?access_token=x", "", INVALID_ARGUMENT, "access_token"),
    ("a word for a number, in the query", "GET", "/v1/products?page_size=all", "", INVALID_ARGUMENT, "page_size"),
    ("a path that leads nowhere", "GET", "/v1/nothing", "", NOT_FOUND, "/v1/nothing"),
    ("a name of another kind", "GET", "/v1/mug", "", NOT_FOUND, "/v1/mug"),
    ("the path of an rpc", "POST", "/shop.product.v1.ProductService/GetProduct", "{}", NOT_FOUND, "GetProduct"),
    ("a verb that does not fit", "DELETE", "/v1/products/mug", "", NOT_FOUND, "/v1/products/mug"),
]
"""The last column stands in the message."""
# fmt: on


@pytest.mark.parametrize(("about", "verb", "path", "content", "code", "word"), ONLY_OVER_REST)
async def test_what_is_no_request_is_refused_by_envoy(
    http: httpx.AsyncClient, bearer: Bearer, about: str, verb: str, path: str, content: str | bytes,
    code: grpc.StatusCode, word: str,
) -> None:  # fmt: skip
    answer = read_json(await http.request(verb, path, content=content, headers=dict(bearer("ann"))))

    assert (answer.code, answer.reason) == (code, ""), about
    assert answer.message
    assert word in answer.message


async def test_an_empty_body_is_an_empty_request(http: httpx.AsyncClient, bearer: Bearer) -> None:
    nothing, empty = [
        read_json(await http.post(ORDERS, content=body, headers=dict(bearer("ann")))) for body in ("", "{}")
    ]

    assert nothing == empty
    assert empty.reason == "INVALID_REQUEST"


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "text/plain", None])
async def test_json_is_read_under_any_type_and_unknown_fields_are_left_out_as_over_grpc(
    http: httpx.AsyncClient, world: World, bearer: Bearer, kind: str | None
) -> None:
    body = json.dumps(world.told(cart(line("{thing}"), request_id="{ordered}")) | {"colour": "red"})
    headers = dict(bearer("ann")) | ({"content-type": kind} if kind else {})

    placed = await http.post(ORDERS, content=body, headers=headers)

    assert placed.json()["order"]["name"] == world.names["order"]


async def test_what_the_path_says_counts_more_than_the_query(http: httpx.AsyncClient, world: World) -> None:
    asked, other = world.names["thing"], world.names["bare"]

    answer = await http.get(f"/v1/{asked}", params={"name": other})

    assert answer.json()["product"]["name"] == asked
