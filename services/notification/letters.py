"""The words of the mails, as plain text and as HTML: two renderings of one content."""

import unicodedata
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from services.notification.domain import Kind, Letter, Line, News

_SUBJECTS = {
    Kind.ORDER_PLACED: "Your order {order} has been placed",
    Kind.ORDER_REJECTED: "Your order {order} could not be kept",
    Kind.ORDER_CANCELLED: "Your order {order} has been cancelled",
}

_OPENINGS = {
    Kind.ORDER_PLACED: "thank you for your order. We have received it and set everything aside for you.",
    Kind.ORDER_REJECTED: "we are sorry: we cannot keep the order that you placed with us, and have closed it.",
    Kind.ORDER_CANCELLED: "as you asked us to, we have cancelled your order.",
}

_WHY = {
    "OUT_OF_STOCK": "something you ordered was sold out before we could set it aside for you.",
    "INVENTORY_UNAVAILABLE": "our warehouse could not be reached in time to set the goods aside for you.",
}
_WHY_ELSE = "we could not set the goods aside for you."

_CLOSED = "nothing is sent and nothing is owed. You are welcome to order again."
_NEXT = {
    Kind.ORDER_PLACED: (
        "we pack your order; there is nothing for you to do.\n"
        "Should anything go wrong, we write to you at this address."
    ),
    Kind.ORDER_REJECTED: _CLOSED,
    Kind.ORDER_CANCELLED: _CLOSED,
}


@dataclass(frozen=True, slots=True)
class Content:
    """All that a letter says; names from outside cannot break out of their line."""

    subject: str
    headline: str
    opening: str
    order: str
    placed: str
    lines: tuple[tuple[str, str, str], ...]
    """Name, pieces times price, sum."""
    total: str
    why: str | None
    next: str


def letter(news: News) -> Letter:
    """The mail about `news`."""
    content = _content(news)
    return Letter(content.subject, _text(content), _page().render(letter=content))


def _content(news: News) -> Content:
    subject = _SUBJECTS[news.kind]
    return Content(
        subject=subject.format(order=news.order_id),
        headline=subject.replace(" {order}", ""),
        opening=_OPENINGS[news.kind],
        order=str(news.order_id),
        placed=_day(news.placed_at),
        lines=tuple(map(_line, news.lines)),
        total=str(news.total),
        why=_WHY.get(news.reason, _WHY_ELSE) if news.kind is Kind.ORDER_REJECTED else None,
        next=_NEXT[news.kind],
    )


def _text(content: Content) -> str:
    paragraphs = [
        "Hello,",
        content.opening,
        f"Order number: {content.order}\nPlaced: {content.placed}",
        "\n".join(f"  {name}\n    {pieces} = {sum}" for name, pieces, sum in content.lines),
        f"Total: {content.total}",
    ]
    if content.why:
        paragraphs.append(f"Why: {content.why}")
    paragraphs += [f"What happens next: {content.next}", "Your shop"]
    return "\n\n".join(paragraphs) + "\n"


@cache
def _page() -> Template:
    templates = FileSystemLoader(Path(__file__).parent / "templates")
    jinja = Environment(
        loader=templates, autoescape=True, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    return jinja.get_template("letter.html")


def _line(line: Line) -> tuple[str, str, str]:
    return _one_line(line.display_name), f"{line.quantity} x {line.unit_price}", str(line.unit_price * line.quantity)


def _day(time: datetime) -> str:
    return f"{time.day} {time:%B %Y, %H:%M} UTC"


def _one_line(text: str) -> str:
    """Without line breaks, control characters, and marks that turn the direction of writing for what follows."""
    shown = (" " if _breaks_out(character) else character for character in text)
    return " ".join("".join(shown).split())


def _breaks_out(character: str) -> bool:
    return unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} or unicodedata.bidirectional(character) in {
        "LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI",
    }  # fmt: skip
