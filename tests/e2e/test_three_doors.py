"""Three doors, one behaviour: whatever is asked over gRPC, gRPC-web or REST has the same answer.

One table of refusals, with all that they say, and one of answers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from shop.product.v1 import product_pb2

from tests.support.contract import Rpc, rpcs
from tests.support.dead_letters import WHY
from tests.support.door_fixtures import World, cart, line, new_product
from tests.support.doors import Answer, Doors, ask, same_at_all
from tests.support.shop_fixtures import Bearer
from tests.support.waiting import eventually
from tests.unit.test_refusals import REFUSALS

RPC = {rpc.method: rpc for rpc in rpcs()}

OK = grpc.StatusCode.OK
INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
FAILED_PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
ALREADY_EXISTS = grpc.StatusCode.ALREADY_EXISTS
ABORTED = grpc.StatusCode.ABORTED
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
PERMISSION_DENIED = grpc.StatusCode.PERMISSION_DENIED

NOT_HERE = {
    "CATALOG_UNAVAILABLE": "takes a fault: Product away",
    "INVENTORY_UNAVAILABLE": "takes a fault: Inventory away",
    "IDENTITY_UNAVAILABLE": "takes a fault: Keycloak away",
    "DATABASE_UNAVAILABLE": "takes a fault: PostgreSQL away",
    "BUS_UNAVAILABLE": "takes a fault: NATS away",
    "ETCD_UNAVAILABLE": "takes a fault: etcd away",
    "STREAM_MOVED": "takes an instance that is to end, or 15 minutes",
    "DEADLINE_TOO_SHORT": "takes a deadline that runs out on the way",
    "ORDER_NOT_CANCELLABLE": "takes an order that was rejected after it was placed, so a fault",
    "EMAIL_MISSING": "takes a customer without an address; the realm has none",
    "TOKEN_INVALID": "Envoy refuses first; past it: test_who_may_what",
    "ROLE_MISSING": "Envoy refuses first; past it: test_who_may_what",
    "RESERVATION_NOT_FOUND": "for service clients, who come past the edge",
    "RESERVATION_RELEASED": "for service clients, who come past the edge",
    "RESERVATION_DIFFERS": "for service clients, who come past the edge",
}
"""Reasons that no caller at the edge of a healthy shop hears, and why."""

NOTHING = "00000000-0000-0000-0000-000000000000"


# --- refusals


@dataclass(frozen=True, slots=True)
class Case:
    """A request that is refused, and all that its caller is told."""

    about: str
    rpc: str
    who: str | None
    request: Mapping[str, Any]
    code: grpc.StatusCode
    reason: str
    facts: Mapping[str, str] = field(default_factory=dict[str, str])
    fields: tuple[str, ...] = ()


PRODUCT = {"product": "{nobodys}"}
ORDER = {"name": f"orders/{NOTHING}"}
ITS_NAME = {"order": f"orders/{NOTHING}"}
DEAD_LETTER = {"name": f"deadLetters/{NOTHING}"}
NO_DEAD_LETTER = {"dead_letter": f"deadLetters/{NOTHING}"}

# fmt: off
REFUSED = [
    # the catalogue
    Case("nobody's product", "GetProduct", None, {"name": "{nobodys}"}, NOT_FOUND, "PRODUCT_NOT_FOUND", PRODUCT),
    Case("one of two missing", "BatchGetProducts", None, {"names": ["{thing}", "{nobodys}"]}, NOT_FOUND,
         "PRODUCT_NOT_FOUND", PRODUCT),
    Case("a product to change", "UpdateProduct", "carol",
         {"product": {"name": "{nobodys}", "display_name": "x"}}, NOT_FOUND, "PRODUCT_NOT_FOUND", PRODUCT),
    Case("a product to archive", "ArchiveProduct", "carol", {"name": "{nobodys}"}, NOT_FOUND,
         "PRODUCT_NOT_FOUND", PRODUCT),
    Case("a product to unarchive", "UnarchiveProduct", "carol", {"name": "{nobodys}"}, NOT_FOUND,
         "PRODUCT_NOT_FOUND", PRODUCT),
    Case("an id that is taken", "CreateProduct", "carol", new_product("mug-{used}", "another"), ALREADY_EXISTS,
         "PRODUCT_EXISTS", {"product": "{mug}"}),
    Case("a request_id for two products", "CreateProduct", "carol", new_product("mug-two", "{used}"),
         FAILED_PRECONDITION, "REQUEST_ID_REUSED", {"request_id": "{used}"}),
    Case("an old etag of a product", "UpdateProduct", "carol",
         {"product": {"name": "{thing}", "display_name": "x", "etag": '"0"'}}, ABORTED, "ETAG_MISMATCH",
         {"product": "{thing}"}),
    Case("an old etag, archiving", "ArchiveProduct", "carol", {"name": "{thing}", "etag": '"0"'}, ABORTED,
         "ETAG_MISMATCH", {"product": "{thing}"}),
    Case("a token of another order_by", "ListProducts", None, {"page_token": "{of_products}", "order_by": "price"},
         INVALID_ARGUMENT, "PAGE_TOKEN_INVALID"),
    Case("a token of another query", "ListProducts", None, {"page_token": "{of_products}", "query": "mug"},
         INVALID_ARGUMENT, "PAGE_TOKEN_INVALID"),
    Case("no token at all", "ListProducts", None, {"page_token": "?&=/ %"}, INVALID_ARGUMENT, "PAGE_TOKEN_INVALID"),
    # the warehouse
    Case("no stock", "GetStock", None, {"name": "{bare}/stock"}, NOT_FOUND, "STOCK_NOT_FOUND", {"product": "{bare}"}),
    Case("one stock of two missing", "BatchGetStock", None, {"names": ["{thing}/stock", "{bare}/stock"]}, NOT_FOUND,
         "STOCK_NOT_FOUND", {"product": "{bare}"}),
    Case("a promised piece", "AdjustStock", "carol", {"name": "{held}/stock", "delta": -1, "request_id": "take"},
         FAILED_PRECONDITION, "STOCK_BELOW_RESERVED", {"product": "{held}", "reserved": "1", "on_hand": "1"}),
    Case("a request_id for two adjustments", "AdjustStock", "carol",
         {"name": "{bare}/stock", "delta": 1, "request_id": "{stocked}"}, FAILED_PRECONDITION, "REQUEST_ID_REUSED",
         {"request_id": "{stocked}"}),
    Case("a token of another list", "ListStock", "carol", {"page_token": "{of_products}"}, INVALID_ARGUMENT,
         "PAGE_TOKEN_INVALID"),
    # orders
    Case("a cart of nobody's product", "PlaceOrder", "ann", cart(line("{nobodys}")), NOT_FOUND,
         "PRODUCT_NOT_FOUND", PRODUCT),
    Case("more than there is", "PlaceOrder", "ann", cart(line("{thing}", 999)), FAILED_PRECONDITION, "OUT_OF_STOCK",
         {"product": "{thing}", "requested": "999", "available": "19"}),
    Case("what was never in stock", "PlaceOrder", "ann", cart(line("{bare}")), FAILED_PRECONDITION, "OUT_OF_STOCK",
         {"product": "{bare}", "requested": "1", "available": "0"}),
    Case("an archived product", "PlaceOrder", "ann", cart(line("{gone}")), FAILED_PRECONDITION, "PRODUCT_ARCHIVED",
         {"product": "{gone}"}),
    Case("two currencies", "PlaceOrder", "ann", cart(line("{thing}"), line("{dollar}")), INVALID_ARGUMENT,
         "CURRENCY_MIXED", {"left": "{left}", "right": "{right}"}),
    Case("a request_id for two carts", "PlaceOrder", "ann", cart(line("{thing}", 2), request_id="{ordered}"),
         FAILED_PRECONDITION, "REQUEST_ID_REUSED", {"order": "{order}"}),
    Case("two lines too many of one product", "PlaceOrder", "ann", cart(line("{thing}", 999), line("{thing}")),
         INVALID_ARGUMENT, "INVALID_REQUEST", fields=("order.lines[1].quantity",)),
    Case("a thousand lines", "PlaceOrder", "ann", cart(*[line("{thing}")] * 1000), INVALID_ARGUMENT, "INVALID_REQUEST",
         fields=("order.lines",)),
    Case("a hundred wrong lines", "PlaceOrder", "ann", cart(*[line("{thing}", 0)] * 100), INVALID_ARGUMENT,
         "INVALID_REQUEST", fields=tuple(f"order.lines[{number}].quantity" for number in range(32))),
    Case("nothing at all", "PlaceOrder", "ann", {}, INVALID_ARGUMENT, "INVALID_REQUEST",
         fields=("order", "request_id")),
    Case("nobody's order", "GetOrder", "ann", ORDER, NOT_FOUND, "ORDER_NOT_FOUND", ITS_NAME),
    Case("another's order", "GetOrder", "bob", {"name": "{order}"}, NOT_FOUND, "ORDER_NOT_FOUND",
         {"order": "{order}"}),
    Case("an order to cancel", "CancelOrder", "ann", ORDER, NOT_FOUND, "ORDER_NOT_FOUND", ITS_NAME),
    Case("an old etag of an order", "CancelOrder", "ann", {"name": "{order}", "etag": '"0"'}, ABORTED, "ETAG_MISMATCH",
         {"order": "{order}"}),
    Case("another's page token", "ListOrders", "bob", {"page_token": "{of_orders}"}, INVALID_ARGUMENT,
         "PAGE_TOKEN_INVALID"),
    Case("a token of orders for mails", "ListNotifications", "ann", {"page_token": "{of_orders}"}, INVALID_ARGUMENT,
         "PAGE_TOKEN_INVALID"),
    # what needs an operator
    Case("nobody's dead letter", "RedriveDeadLetter", "oscar", DEAD_LETTER, NOT_FOUND, "DEAD_LETTER_NOT_FOUND",
         NO_DEAD_LETTER),
    Case("no dead letter to discard", "DiscardDeadLetter", "oscar", DEAD_LETTER, NOT_FOUND, "DEAD_LETTER_NOT_FOUND",
         NO_DEAD_LETTER),
    Case("a discarded one", "RedriveDeadLetter", "oscar", {"name": "{discarded}"}, NOT_FOUND, "DEAD_LETTER_NOT_FOUND",
         {"dead_letter": "{discarded}"}),
    Case("a redriven one", "DiscardDeadLetter", "oscar", {"name": "{redriven}"}, NOT_FOUND, "DEAD_LETTER_NOT_FOUND",
         {"dead_letter": "{redriven}"}),
    Case("an event that nobody understands", "RedriveDeadLetter", "oscar", {"name": "{dead}"}, FAILED_PRECONDITION,
         "EVENT_GARBLED", {"dead_letter": "{dead}", "why": WHY}),
    Case("a token of orders for dead letters", "ListDeadLetters", "oscar", {"page_token": "{of_orders}"},
         INVALID_ARGUMENT, "PAGE_TOKEN_INVALID"),
    # what Envoy refuses by itself has no reason
    Case("no token", "ListOrders", None, {}, UNAUTHENTICATED, ""),
    Case("not a customer", "PlaceOrder", "carol", {}, PERMISSION_DENIED, ""),
    Case("not an operator", "ListDeadLetters", "ann", {}, PERMISSION_DENIED, ""),
]
# fmt: on


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: f"{case.rpc}: {case.about}")
async def test_a_refusal_is_the_same_at_every_door(doors: Doors, world: World, bearer: Bearer, case: Case) -> None:
    rpc = RPC[case.rpc]
    request = json_format.ParseDict(world.told(case.request), rpc.request())

    answer = same_at_all(await ask(doors, rpc, request, bearer(case.who) if case.who else ()))

    assert (answer.code, answer.reason, answer.facts) == (case.code, case.reason, world.told(case.facts))
    assert answer.domain == ("shop" if case.reason else "")
    assert tuple(field for field, _ in answer.violations) == case.fields
    assert answer.message


def test_no_reason_is_missing() -> None:
    told = {case.reason for case in REFUSED}

    assert {refusal.reason for refusal in REFUSALS} - told == set(NOT_HERE)


# --- answers

# fmt: off
ANSWERED: list[tuple[str, str | None, Mapping[str, Any]]] = [
    ("GetProduct", None, {"name": "{gone}"}),
    ("BatchGetProducts", None, {"names": ["{thing}", "{gone}", "{thing}"]}),
    ("ListProducts", None, {"page_size": 3, "order_by": "price desc", "show_archived": True}),
    ("CreateProduct", "carol", new_product("mug-{used}", "{used}")),
    ("UpdateProduct", "carol", {"product": {"name": "{thing}", "description": ""}, "update_mask": "description"}),
    ("ArchiveProduct", "carol", {"name": "{gone}"}),
    ("UnarchiveProduct", "carol", {"name": "{thing}"}),
    ("GetStock", None, {"name": "{thing}/stock"}),
    ("BatchGetStock", None, {"names": ["{thing}/stock", "{gone}/stock"]}),
    ("CheckStock", None, {"lines": [line("{gone}"), line("{thing}", 2), line("{bare}")]}),
    ("ListStock", "carol", {"page_size": 2}),
    ("AdjustStock", "carol", {"name": "{thing}/stock", "delta": 20, "request_id": "{stocked}"}),
    ("PlaceOrder", "ann", cart(line("{thing}"), request_id="{ordered}")),
    ("GetOrder", "ann", {"name": "{order}"}),
    ("ListOrders", "ann", {"page_size": 2}),
    ("CancelOrder", "ann", {"name": "{cancelled}", "etag": '"0"'}),
    ("WatchOrder", "ann", {"name": "{cancelled}"}),
    ("ListNotifications", "ann", {"page_size": 2}),
    ("ListDeadLetters", "oscar", {"page_size": 2}),
    ("RedriveDeadLetter", "oscar", {"name": "{redriven}"}),
    ("DiscardDeadLetter", "oscar", {"name": "{discarded}"}),
]
"""Reads, and changes that have happened already: asking once more changes nothing."""
# fmt: on


@pytest.mark.parametrize(("rpc", "who", "request_"), ANSWERED, ids=lambda part: part if isinstance(part, str) else "")
async def test_an_answer_is_the_same_at_every_door(
    doors: Doors, world: World, bearer: Bearer, rpc: str, who: str | None, request_: Mapping[str, Any]
) -> None:
    request = json_format.ParseDict(world.told(request_), RPC[rpc].request())
    if rpc == "ListDeadLetters":
        world.told("{dead}")  # a healthy shop has none

    async def same() -> Answer:
        answer = same_at_all(await ask(doors, RPC[rpc], request, bearer(who) if who else ()))
        assert answer.response != RPC[rpc].response()
        return answer

    # Behind the last orders, stock and mails may still be moving.
    answer = await eventually(same, "all doors say the same, and something")
    assert answer.code is OK


def test_no_rpc_is_missing() -> None:
    assert {rpc for rpc, _, _ in ANSWERED} == {rpc.method for rpc in RPC.values() if not rpc.clients}


# --- what is said by gRPC itself, or by Envoy


async def test_a_request_of_5_mib_is_too_large_at_every_door(doors: Doors, bearer: Bearer) -> None:
    product = product_pb2.Product(description="x" * 5 * 2**20)
    request = product_pb2.CreateProductRequest(product=product)

    async def refused() -> Mapping[str, Answer]:
        answers = await ask(doors, RPC["CreateProduct"], request, bearer("carol"))
        # A busy machine may take longer over so much than a try may.
        assert grpc.StatusCode.UNAVAILABLE not in {answer.code for answer in answers.values()}
        return answers

    answers = await eventually(refused, "an answer at every door")
    assert {answer.code for answer in answers.values()} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert all(answer.message for answer in answers.values())


FOR_SERVICES = [rpc for rpc in RPC.values() if rpc.clients]
UNHEARD_OF = replace(RPC["GetOrder"], path="/shop.order.v1.OrderService/Unheard")
ELSEWHERE = replace(RPC["GetOrder"], path="/unheard.Of/It")


@pytest.mark.parametrize("rpc", [*FOR_SERVICES, UNHEARD_OF, ELSEWHERE], ids=lambda rpc: rpc.method)
async def test_what_has_no_way_in_is_unimplemented(doors: Doors, bearer: Bearer, rpc: Rpc) -> None:
    without_rest = {name: door for name, door in doors.items() if name != "REST"}

    answer = same_at_all(await ask(without_rest, rpc, rpc.request(), bearer("ann")))

    assert (answer.code, answer.reason) == (grpc.StatusCode.UNIMPLEMENTED, "")
    assert answer.message
