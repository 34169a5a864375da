"""The shape of every field, at its edges: what keeps to its rule passes every door, what just misses it none."""

import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from buf.validate import validate_pb2
from google.protobuf import json_format
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.type.money_pb2 import Money

from tests.support.contract import rpcs
from tests.support.door_fixtures import MUG, World, cart, line, new_product
from tests.support.doors import Doors, ask
from tests.support.shop_fixtures import Bearer

RPC = {rpc.method: rpc for rpc in rpcs()}
NOTHING = "00000000-0000-0000-0000-000000000000"

type Values = tuple[list[Any], list[Any]]
"""Good ones, bad ones."""


def changed(values: Values, change: Callable[[Any], Any]) -> Values:
    """Other values that are good and bad alike."""
    good, bad = values
    return [change(value) for value in good], [change(value) for value in bad]


AN_ID: Values = ["mug", "a-9", f"a{'b' * 62}"], [
    "", "ab", f"a{'b' * 63}", "Mug", "1st", "-mug", "a_b", "a b", "m\u00fcg", "mug/stock",
]  # fmt: skip
A_PRODUCT = changed(AN_ID, "products/{}".format)
ITS_STOCK = changed(A_PRODUCT, "{}/stock".format)
A_UUID: Values = [NOTHING], ["", f"{NOTHING}0", NOTHING.replace("0", "A"), "1"]
AN_ORDER = changed(A_UUID, "orders/{}".format)
AN_ORDER[1].extend(["", "mug"])
A_DEAD_LETTER = changed(A_UUID, "deadLetters/{}".format)
SEVERAL_PRODUCTS: Values = (
    [["products/abc"], ["products/abc"] * 100],
    [[], ["products/abc"] * 101, ["products/abc", "mug"]],
)
SEVERAL_STOCKS = changed(SEVERAL_PRODUCTS, lambda names: [f"{name}/stock" for name in names])
A_REQUEST_ID = [" ", "~" * 64, str(uuid.UUID(int=1))], ["", "x" * 65, "a\nb", "\x7f", "\u00fc"]
A_PAGE_SIZE = [0, 1, 100, 101, 2**31 - 1], [-1, -(2**31)]
A_QUANTITY = [1, 999], [0, -1, 1000, 2**31 - 1]
LINES = [1, 100], [0, 101, 1000]
A_NAME = ["x", "\u00fc" * 200, "\U0001f375", "' or 1=1"], ["", "x" * 201, "a\0b"]
A_TEXT = ["", "\u00fc" * 10_000, "two\nlines"], ["x" * 10_001, "\0"]
A_PICTURE = ["", "https://pictures.example/mug.png"], ["mug.png", "//pictures.example", "https://x/" + "x" * 1991]
A_PRICE = (
    [Money(currency_code="EUR", nanos=10_000_000), Money(currency_code="USD", units=1_000_000)],
    [
        Money(),
        Money(units=1),
        Money(currency_code="eur", units=1),
        Money(currency_code="EUR"),
        Money(currency_code="EUR", units=-1),
        Money(currency_code="EUR", nanos=1),
        Money(currency_code="EUR", nanos=1_000_000_000),
        Money(currency_code="EUR", units=1_000_000, nanos=10_000_000),
    ],
)

EDGES: Mapping[tuple[str, str], Values] = {
    ("GetProduct", "name"): A_PRODUCT,
    ("BatchGetProducts", "names"): SEVERAL_PRODUCTS,
    ("ListProducts", "page_size"): A_PAGE_SIZE,
    ("ListProducts", "page_token"): ([], ["x" * 2001]),
    ("ListProducts", "query"): (["", "x" * 100, "% _ ' \\ \" &+"], ["x" * 101, "a\0b"]),
    ("ListProducts", "order_by"): (
        ["price", "price desc", " create_time  desc ", "display_name"],
        ["name", "price asc", "price, display_name", "price desc desc", "Price"],
    ),
    ("CreateProduct", "product_id"): AN_ID,
    ("CreateProduct", "product"): ([], [None]),
    ("CreateProduct", "product.display_name"): A_NAME,
    ("CreateProduct", "product.description"): A_TEXT,
    ("CreateProduct", "product.price"): A_PRICE,
    ("CreateProduct", "product.image_uri"): A_PICTURE,
    ("CreateProduct", "request_id"): A_REQUEST_ID,
    ("UpdateProduct", "product.name"): A_PRODUCT,
    ("UpdateProduct", "product.display_name"): A_NAME,
    ("UpdateProduct", "product.description"): A_TEXT,
    ("UpdateProduct", "product.price"): A_PRICE,
    ("UpdateProduct", "product.image_uri"): A_PICTURE,
    ("UpdateProduct", "update_mask"): (
        [FieldMask(), FieldMask(paths=["*"]), FieldMask(paths=["display_name", "price"])],
        [FieldMask(paths=["name"]), FieldMask(paths=["etag"]), FieldMask(paths=["display_name", "nonsense"])],
    ),
    ("ArchiveProduct", "name"): A_PRODUCT,
    ("UnarchiveProduct", "name"): A_PRODUCT,
    ("GetStock", "name"): ITS_STOCK,
    ("BatchGetStock", "names"): SEVERAL_STOCKS,
    ("CheckStock", "lines"): LINES,
    ("CheckStock", "lines.product"): A_PRODUCT,
    ("CheckStock", "lines.quantity"): A_QUANTITY,
    ("ListStock", "page_size"): A_PAGE_SIZE,
    ("ListStock", "page_token"): ([], ["x" * 1001]),
    ("AdjustStock", "name"): ITS_STOCK,
    ("AdjustStock", "delta"): ([1, 1_000_000, -1_000_000], [0, 1_000_001, -1_000_001, 2**63 - 1]),
    ("AdjustStock", "request_id"): A_REQUEST_ID,
    ("PlaceOrder", "order"): ([], [None]),
    ("PlaceOrder", "order.lines"): LINES,
    ("PlaceOrder", "order.lines.product"): A_PRODUCT,
    ("PlaceOrder", "order.lines.quantity"): A_QUANTITY,
    ("PlaceOrder", "request_id"): A_REQUEST_ID,
    ("GetOrder", "name"): AN_ORDER,
    ("CancelOrder", "name"): AN_ORDER,
    ("CancelOrder", "etag"): (["", "x" * 64], ["x" * 65]),
    ("WatchOrder", "name"): AN_ORDER,
    ("WatchOrder", "after_etag"): (
        ["", '"1"', '"999999999"'],
        ["1", '"0"', '"-1"', '"01"', '"1', '"x"', '"1000000000"', '"1"2"'],
    ),
    ("ListOrders", "page_size"): A_PAGE_SIZE,
    ("ListOrders", "page_token"): ([], ["x" * 1001]),
    ("ListNotifications", "page_size"): A_PAGE_SIZE,
    ("ListNotifications", "page_token"): ([], ["x" * 1001]),
    ("ListDeadLetters", "page_size"): A_PAGE_SIZE,
    ("ListDeadLetters", "page_token"): ([], ["x" * 1001]),
    ("RedriveDeadLetter", "name"): A_DEAD_LETTER,
    ("DiscardDeadLetter", "name"): A_DEAD_LETTER,
}
"""What keeps to the rule of a field, and what just misses it. `lines` are counted."""

WHOLE: Mapping[str, Mapping[str, Any]] = {
    "CreateProduct": new_product("mug-{used}", "{used}", description="of a request_id that is another product's"),
    "ArchiveProduct": {"etag": '"0"'},
    "UnarchiveProduct": {"etag": '"0"'},
    "UpdateProduct": {"product": {"name": "{edited}", "description": "", "image_uri": ""} | MUG,
                      "update_mask": "displayName,description,price,imageUri"},
    "AdjustStock": {"name": "{thing}/stock", "delta": -1_000_000, "request_id": "{stocked}"},
    "PlaceOrder": cart(line("{nobodys}"), request_id="{ordered}"),
    "CheckStock": {"lines": [line("{nobodys}")]},
    "CancelOrder": {"name": f"orders/{NOTHING}"},
    "WatchOrder": {"name": f"orders/{NOTHING}"},
}  # fmt: skip
"""Requests in which nothing is wrong; for others than these an empty one is enough.

Whatever name or request_id is put into them, none changes anything but `edited`: the shop may be somebody's, and may
have a products/mug.
"""

WHO = {"customer": "ann", "catalog-manager": "carol", "inventory-manager": "carol", "operator": "oscar"}


def put(message: Any, path: str, value: Any) -> None:
    """Sets a field, in the first one where there are many above it. None takes it away."""
    name, _, below = path.partition(".")
    inside = getattr(message, name)
    repeated = message.DESCRIPTOR.fields_by_name[name].is_repeated
    if below:
        put(inside[0] if repeated else inside, below, value)
    elif name == "lines":
        inside.extend([inside[0]] * (value - 1)) if value else message.ClearField(name)
    elif repeated:
        inside.extend(value)
    elif value is None:
        message.ClearField(name)
    elif isinstance(value, Message):
        inside.CopyFrom(value)
    else:
        setattr(message, name, value)


@pytest.mark.parametrize(("rpc", "path"), EDGES, ids=lambda part: part)
async def test_the_shape_of_a_field_is_the_same_at_every_door(
    doors: Doors, world: World, bearer: Bearer, rpc: str, path: str
) -> None:
    called, (good, bad) = RPC[rpc], EDGES[rpc, path]
    metadata = () if called.public else bearer(WHO[next(iter(called.roles))])
    wrong = []
    for value in [*good, *bad]:
        request = json_format.ParseDict(world.told(WHOLE.get(rpc, {})), called.request())
        put(request, path, value)
        if path == "product.name":
            put(request, "product.etag", '"0"')  # never the one of a product that has this name
        answers = await ask(doors, called, request, metadata)
        told = {(answer.code, answer.reason, answer.violations) for answer in answers.values()}
        named = {re.sub(r"\[\d+\]", "", field) for _, _, violations in told for field, _ in violations}
        refused = {reason for _, reason, _ in told} == {"INVALID_REQUEST"}
        if len(told) != 1 or refused != (value in bad) or (refused and named != {path}):
            wrong.append(f"{str(value)[:80]!r}: {answers}")

    assert not wrong, "\n".join(wrong)


def ruled(descriptor: Any, above: str = "") -> Iterator[str]:
    """Paths of the fields of a request that have a rule of protovalidate."""
    for each in descriptor.fields:
        rules = each.GetOptions().Extensions[validate_pb2.field]
        if rules.ListFields() and rules.ignore != validate_pb2.IGNORE_ALWAYS:
            yield f"{above}{each.name}"
        if each.message_type and each.message_type.file.package.startswith("shop."):
            yield from ruled(each.message_type, f"{above}{each.name}.")


def test_no_shape_is_missing() -> None:
    known = {(rpc.method, path) for rpc in RPC.values() if not rpc.clients for path in ruled(rpc.request.DESCRIPTOR)}

    assert known <= set(EDGES)
