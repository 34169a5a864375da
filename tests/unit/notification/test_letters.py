"""What customers read."""

from uuid import UUID

import pytest

from services.money import Money
from services.notification.domain import Line, letter
from tests.support.notification import cancelled, placed, rejected

ORDER = UUID("2f1c1d1e-5d0b-4f0e-9a55-0d9f3c1b7a10")


def test_a_placed_order_is_told_with_its_number_lines_sums_and_total() -> None:
    mugs = Line("Blue mug", 2, Money.of("EUR", 12, 500_000_000))
    tea = Line("Earl Grey, 100 g", 1, Money.of("EUR", 0, 50_000_000))

    told = letter(placed(ORDER, lines=[mugs, tea]))

    assert told.subject == f"Your order {ORDER} has been placed"
    assert told.text == (
        "Hello,\n"
        "\n"
        "thank you for your order. We have received it and set everything aside for you.\n"
        "\n"
        f"Order number: {ORDER}\n"
        "Placed: 24 November 2026, 16:20 UTC\n"
        "\n"
        "  Blue mug\n"
        "    2 x EUR 12.50 = EUR 25.00\n"
        "  Earl Grey, 100 g\n"
        "    1 x EUR 0.05 = EUR 0.05\n"
        "\n"
        "Total: EUR 25.00\n"
        "\n"
        "What happens next: we pack your order; there is nothing for you to do.\n"
        "Should anything go wrong, we write to you at this address.\n"
        "\n"
        "Your shop\n"
    )


@pytest.mark.parametrize(
    ("reason", "in_plain_words"),
    [
        ("OUT_OF_STOCK", "something you ordered was sold out"),
        ("INVENTORY_UNAVAILABLE", "our warehouse could not be reached"),
        ("A_REASON_OF_NEXT_YEAR", "we could not set the goods aside"),
    ],
)
def test_a_rejected_order_is_told_with_the_reason_in_plain_words(reason: str, in_plain_words: str) -> None:
    told = letter(rejected(placed(ORDER), reason))

    assert told.subject == f"Your order {ORDER} could not be kept"
    assert in_plain_words in told.text
    assert "nothing is owed" in told.text
    assert reason not in told.text


def test_a_cancelled_order_is_told_with_what_it_was_and_that_nothing_is_owed() -> None:
    told = letter(cancelled(placed(ORDER)))

    assert told.subject == f"Your order {ORDER} has been cancelled"
    assert "we have cancelled your order" in told.text
    assert "2 x EUR 12.50 = EUR 25.00" in told.text
    assert "nothing is owed" in told.text
    assert "Why:" not in told.text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Mug\r\nTotal: EUR 0.00", "Mug Total: EUR 0.00"),
        ("Mug\u2028Total: EUR 0.00", "Mug Total: EUR 0.00"),
        ("Mug\x1b[2J\x00", "Mug [2J"),
        ("Mug \u202e00.0 RUE\u202c", "Mug 00.0 RUE"),
        ("Tasse für Zoë 👩‍🌾", "Tasse für Zoë 👩‍🌾"),
    ],
)
def test_a_name_from_outside_stays_in_its_line(name: str, shown: str) -> None:
    text = letter(placed(lines=[Line(name, 1, Money.of("EUR", 1))])).text

    assert f"\n  {shown}\n    1 x EUR 1.00" in text


@pytest.mark.parametrize(
    "recipient", ["", "ann", "ann@", "ann@example.com\r\nBcc: eve@example.com", "ann@a, eve@b", "<ann@a>", "a b@c"]
)
def test_a_recipient_that_no_mail_can_be_sent_to_is_refused(recipient: str) -> None:
    with pytest.raises(ValueError, match="recipient is no address"):
        placed(recipient=recipient)


@pytest.mark.parametrize("recipient", ["ann@example.com", "a.n+n@localhost", "zoë@müller.example", "ann@[127.0.0.1]"])
def test_a_recipient_may_look_like_this(recipient: str) -> None:
    assert placed(recipient=recipient).recipient == recipient
