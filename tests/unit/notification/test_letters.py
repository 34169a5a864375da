"""What customers read."""

from html.parser import HTMLParser
from typing import override
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.money import Money
from services.notification.domain import Line, News
from services.notification.letters import letter
from tests.support.notification import cancelled, placed, rejected

ORDER = UUID("2f1c1d1e-5d0b-4f0e-9a55-0d9f3c1b7a10")
TOLD = [placed(ORDER), rejected(placed(ORDER)), cancelled(placed(ORDER))]
LOADS_OR_LEADS = {"a", "base", "embed", "form", "iframe", "img", "link", "object", "script", "video"}


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


# --- HTML ---


class Page(HTMLParser):
    """What a reader of a page sees, and of what it is made."""

    def __init__(self, page: str | None) -> None:
        super().__init__()
        self.tags: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.shown = ""
        assert page
        self.feed(page)
        self.close()

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, attrs))
        self.shown += " "

    @override
    def handle_data(self, data: str) -> None:
        self.shown += data if self.tags and self.tags[-1][0] != "style" else ""

    @property
    def words(self) -> list[str]:
        return self.shown.split()


@pytest.mark.parametrize("news", TOLD, ids=lambda news: news.kind.value)
def test_html_and_text_say_the_same(news: News) -> None:
    told = letter(news)
    spoken = [word.rstrip(":") for word in told.text.split() if word != "="]
    shown = [word.rstrip(":") for word in Page(told.html).words]

    assert shown[-len(spoken) :] == spoken, "behind title and headline"
    assert shown[: -len(spoken)] == told.subject.split() + told.subject.replace(f" {ORDER}", "").split()


@settings(deadline=None)
@given(st.text())
def test_a_name_is_text_whatever_is_in_it(name: str) -> None:
    tidy, odd = [letter(placed(ORDER, lines=[Line(text, 1, Money.of("EUR", 1))])) for text in ("Mug", name)]

    assert Page(odd.html).tags == Page(tidy.html).tags
    assert Page(odd.html).words == [
        word for plain in Page(tidy.html).words for word in (_shown(odd.text) if plain == "Mug" else [plain])
    ]


def _shown(text: str) -> list[str]:
    return text.partition("UTC\n\n")[2].partition("\n    1 x EUR 1.00")[0].split()


def test_a_product_that_is_called_script_is_no_script() -> None:
    told = letter(placed(lines=[Line("<script>alert(1)</script>&amp;", 1, Money.of("EUR", 1))]))

    assert told.html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;amp;" in told.html
    assert "<script" not in told.html
    assert "<script>alert(1)</script>&amp;" in told.text


@pytest.mark.parametrize("news", TOLD, ids=lambda news: news.kind.value)
def test_a_page_loads_nothing_runs_nothing_and_leads_nowhere(news: News) -> None:
    told = letter(news)

    assert LOADS_OR_LEADS.isdisjoint(tag for tag, _ in Page(told.html).tags)
    assert told.html
    for door in ("http", "//", "url(", "@import", "src", "href", "javascript"):
        assert door not in told.html


def test_a_page_names_its_language_and_has_colours_for_the_dark() -> None:
    told = letter(placed())

    assert ("html", [("lang", "en")]) in Page(told.html).tags
    assert ("meta", [("name", "color-scheme"), ("content", "light dark")]) in Page(told.html).tags
    assert told.html
    assert "prefers-color-scheme: dark" in told.html


# --- Recipients ---


@pytest.mark.parametrize(
    "recipient",
    [
        "",
        "ann",
        "ann@",
        "ann@example.com\r\nBcc: eve@example.com",
        "ann@a, eve@b",
        "<ann@a>",
        "a b@c",
        "=?utf-8?q?ann=40a=2Ceve?=@b",
        "=?utf-8?q?=0D=0A?=@b",
    ],
)
def test_a_recipient_that_no_mail_can_be_sent_to_is_refused(recipient: str) -> None:
    with pytest.raises(ValueError, match="recipient is no address"):
        placed(recipient=recipient)


@pytest.mark.parametrize("recipient", ["ann@example.com", "a.n+n@localhost", "zoë@müller.example", "ann@[127.0.0.1]"])
def test_a_recipient_may_look_like_this(recipient: str) -> None:
    assert placed(recipient=recipient).recipient == recipient
