"""The rules of carts and orders."""

from datetime import timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.money import NANOS, CurrencyMixed, Money
from services.order.domain import MOST_PIECES, Cart, Line, Order, order_id
from services.refusals import InvalidRequest
from tests.unit.order.fakes import ANN, NOON, order

PRODUCTS = st.sampled_from(["bowl", "mug", "plate", "teapot"])
WANTED = st.lists(st.tuples(PRODUCTS, st.integers(1, 9)), min_size=1, max_size=100)
LINES = st.lists(
    st.builds(
        Line,
        PRODUCTS,
        st.text(min_size=1),
        st.integers(1, MOST_PIECES),
        st.builds(lambda cents: Money("EUR", cents * NANOS // 100), st.integers(1, 100_000_000)),
    ),
    min_size=1,
    max_size=100,
)


@given(WANTED, st.randoms(use_true_random=False))
def test_how_a_cart_was_written_down_does_not_matter(wanted: list[tuple[str, int]], random: object) -> None:
    single_pieces = [(product, 1) for product, quantity in wanted for _ in range(quantity)]
    random.shuffle(single_pieces)  # type: ignore[attr-defined]

    assert Cart.of(single_pieces) == Cart.of(wanted)


@given(WANTED)
def test_each_product_stands_once_and_sorted(wanted: list[tuple[str, int]]) -> None:
    cart = Cart.of(wanted)

    assert list(cart.products) == sorted({product for product, _ in wanted})
    assert sum(quantity for _, quantity in cart.items) == sum(quantity for _, quantity in wanted)


def test_lines_of_one_product_may_not_exceed_the_range_of_one_line_together() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        Cart.of([("mug", 999), ("plate", 1), ("mug", 1)])

    assert refusal.value.violations == (("order.lines[2].quantity", "all lines of mug together exceed 999"),)


def test_the_id_of_an_order_never_changes_for_the_same_request() -> None:
    # Written down: a retry after an upgrade must still find its hold.
    cart = Cart.of([("teapot", 1), ("mug", 2)])

    assert order_id("ann", "r1", cart) == UUID("ae96f4f0-f531-57bf-83d1-07389706fbea")


@given(st.text(), st.text(), WANTED, st.text(), st.text(), WANTED)
def test_different_requests_have_different_ids(
    customer: str, request: str, wanted: list[tuple[str, int]],
    other_customer: str, other_request: str, other_wanted: list[tuple[str, int]],
) -> None:  # fmt: skip
    one, other = (customer, request, Cart.of(wanted)), (other_customer, other_request, Cart.of(other_wanted))

    assert (order_id(*one) == order_id(*other)) == (one == other)


@given(LINES)
def test_the_total_is_the_sum_of_pieces_times_price(lines: list[Line]) -> None:
    placed = Order.place(order().id, ANN, tuple(lines), NOON)

    assert placed.total.nanos == sum(line.quantity * line.unit_price.nanos for line in lines)
    assert placed.total.currency == "EUR"


def test_an_order_is_in_one_currency() -> None:
    lines = (Line("mug", "Mug", 1, Money.of("EUR", 5)), Line("bowl", "Bowl", 1, Money.of("USD", 5)))

    with pytest.raises(CurrencyMixed):
        Order.place(order().id, ANN, lines, NOON)


@pytest.mark.parametrize("late", [timedelta(), timedelta(hours=1)])
def test_a_change_is_later_than_what_it_changes_also_by_a_clock_that_is_behind(late: timedelta) -> None:
    placed = order(at=NOON)

    for changed in (placed.cancel(NOON - late), placed.reject("OUT_OF_STOCK", NOON - late)):
        assert changed.update_time > placed.update_time
