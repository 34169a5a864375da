"""Words that many messages share, page tokens, and documents over defaults."""

import base64
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from google.protobuf.json_format import ParseDict
from hypothesis import given
from hypothesis import strategies as st
from mesh.v1 import config_pb2, policy_pb2
from shop.order.v1 import config_pb2 as order_config_pb2
from shop.order.v1 import order_pb2

from services.chassis import messages
from services.chassis.messages import (
    decode_page_token,
    encode_page_token,
    from_duration,
    from_money,
    from_timestamp,
    overlaid,
    page_size,
    to_duration,
    to_money,
    to_timestamp,
    violations,
)
from services.money import NANOS, Money
from services.refusals import PageTokenInvalid

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
TIME, ID = datetime(2026, 1, 1, 12, 30, 0, 123456, tzinfo=UTC), UUID(int=1)


@given(st.integers(-(10**6) * NANOS, 10**6 * NANOS))
def test_money_comes_back_as_it_went(nanos: int) -> None:
    money = Money("EUR", nanos)

    assert from_money(to_money(money)) == money


def test_times_are_utc_whatever_zone_they_came_from() -> None:
    berlin = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=1)))

    assert from_timestamp(to_timestamp(berlin)) == datetime(2026, 1, 1, 11, tzinfo=UTC)
    with pytest.raises(ValueError, match="without a zone"):
        to_timestamp(datetime(2026, 1, 1))  # noqa: DTZ001
    assert from_duration(to_duration(timedelta(seconds=1.5))) == timedelta(seconds=1.5)


def test_violations_name_fields_inside_of_lists() -> None:
    order = order_pb2.Order(lines=[order_pb2.Order.Line(product="products/mug")])

    assert [field for field, _ in violations(order_pb2.PlaceOrderRequest(order=order))] == [
        "order.lines[0].quantity",
        "request_id",
    ]


@pytest.mark.parametrize(("asked", "size"), [(0, 20), (1, 1), (20, 20), (100, 100), (101, 100), (5000, 100)])
def test_a_page_has_the_size_asked_for_within_limits(asked: int, size: int) -> None:
    sizes = order_config_pb2.OrderConfig(default_page_size=20, max_page_size=100)

    assert page_size(asked, sizes) == size


def test_a_default_above_the_maximum_is_the_maximum() -> None:
    assert page_size(0, order_config_pb2.OrderConfig(default_page_size=20, max_page_size=10)) == 10


@given(TEXT, TEXT, TEXT)
def test_a_page_token_leads_to_where_it_was_made_for(query: str, name: str, id: str) -> None:
    assert decode_page_token(query, encode_page_token(query, (name, id)), str, str) == (name, id)


def test_a_place_in_a_page_token_is_as_exact_as_it_was() -> None:
    token = encode_page_token("orders of ann", (TIME, ID))

    assert decode_page_token("orders of ann", token, datetime.fromisoformat, UUID) == (TIME, ID)


def test_a_place_may_have_one_part() -> None:
    assert decode_page_token("all stock", encode_page_token("all stock", ("mug",)), str) == ("mug",)


def test_nothing_leads_behind_the_last_page_and_the_first_begins_nowhere() -> None:
    assert encode_page_token("orders of ann", None) == ""
    assert decode_page_token("orders of ann", "", datetime.fromisoformat, UUID) is None


def test_a_page_token_of_another_query_is_refused() -> None:
    with pytest.raises(PageTokenInvalid):
        decode_page_token("orders of bob", encode_page_token("orders of ann", ["2026", "id"]), str, str)


@pytest.mark.parametrize("place", [(TIME,), (TIME, ID, ID), ("yesterday", ID), (TIME, "mine")])
def test_a_page_token_of_another_kind_of_place_is_refused(place: tuple[object, ...]) -> None:
    with pytest.raises(PageTokenInvalid):
        decode_page_token("orders of ann", encode_page_token("orders of ann", place), datetime.fromisoformat, UUID)


@pytest.mark.parametrize("content", [b"5", b"[1, 2]", b'["2026-01-01T00:00:00Z", null]', b'{"a": 1, "b": 2}', b"["])
def test_a_sealed_page_token_without_a_place_is_refused(content: bytes) -> None:
    forged = base64.urlsafe_b64encode(messages._seal("orders of ann", content) + content).decode()

    with pytest.raises(PageTokenInvalid):
        decode_page_token("orders of ann", forged, datetime.fromisoformat, UUID)


@given(st.text(min_size=1, max_size=80))
def test_what_is_no_page_token_is_refused(token: str) -> None:
    with pytest.raises(PageTokenInvalid):
        decode_page_token("orders of ann", token, str, str)


def test_a_damaged_page_token_is_refused() -> None:
    token = encode_page_token("orders of ann", ["2026", "id"])
    for position in range(len(token)):
        damaged = token[:position] + ("A" if token[position] != "A" else "B") + token[position + 1 :]
        with pytest.raises(PageTokenInvalid):
            decode_page_token("orders of ann", damaged, str, str)


def test_a_document_is_merged_into_the_defaults_per_field() -> None:
    defaults = ParseDict(
        {"process": {"log_level": "LOG_LEVEL_INFO", "default_deadline": "5.5s"}, "default_page_size": 20},
        order_config_pb2.OrderConfig(),
    )
    document = ParseDict(
        {"process": {"default_deadline": "2s"}, "default_page_size": 0}, order_config_pb2.OrderConfig()
    )

    merged = overlaid(defaults, document)

    assert merged.process.log_level == config_pb2.ProcessConfig.LOG_LEVEL_INFO
    assert from_duration(merged.process.default_deadline) == timedelta(seconds=2)
    assert merged.default_page_size == 0
    assert defaults.default_page_size == 20


def test_lists_are_replaced_whole() -> None:
    def listing(names: str) -> order_pb2.ListOrdersResponse:
        return order_pb2.ListOrdersResponse(orders=[order_pb2.Order(name=name) for name in names])

    assert overlaid(listing("ab"), listing("c")) == listing("c")


def test_an_empty_document_changes_nothing() -> None:
    policy = ParseDict({"retries": {"edge": 1}, "ejection": {"interval": "0.5s"}}, policy_pb2.Policy())

    assert overlaid(policy, policy_pb2.Policy()) == policy
    assert overlaid(policy_pb2.Policy(), policy) == policy
