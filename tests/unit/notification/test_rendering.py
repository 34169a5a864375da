"""Mails as bytes: what a reader makes of them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import SMTP

from hypothesis import given, settings
from hypothesis import strategies as st

from services.notification.domain import Attempt, Letter
from services.notification.letters import letter
from services.notification.mail import render
from tests.support.notification import placed

NEWS = placed()
ATTEMPT = Attempt(
    notification_id=NEWS.notification_id,
    order_id=NEWS.order_id,
    kind=NEWS.kind,
    recipient=NEWS.recipient,
    letter=letter(NEWS),
    create_time=datetime(2026, 11, 24, tzinfo=UTC),
    number=1,
    tries=1,
    tried_for=timedelta(),
    traceparent=None,
)
TRICKS = st.sampled_from(["\r", "\n", "\r\n", ".", "=", "=3D", " ", "\t", "--", "\0", "é", "👩‍🌾", "x" * 200, "--=_"])
TEXT = st.lists(TRICKS | st.text(st.characters(codec="utf-8"))).map("".join)


def read(raw: bytes) -> EmailMessage:
    mail = message_from_bytes(raw, policy=SMTP)
    assert isinstance(mail, EmailMessage)
    assert not mail.defects
    assert all(not part.defects for part in mail.iter_parts())
    return mail


def lines_of(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


@settings(deadline=None)
@given(TEXT, TEXT)
def test_both_parts_are_read_as_they_were_written(text: str, html: str) -> None:
    raw = render(replace(ATTEMPT, letter=Letter("An order", text, html)), "shop@example.com")

    mail = read(raw)
    assert mail.get_content_type() == "multipart/alternative"
    assert mail["Subject"] == "An order"
    parts = [(part.get_content_type(), lines_of(part.get_content())) for part in mail.iter_parts()]
    assert parts == [("text/plain", lines_of(text)), ("text/html", lines_of(html))]
    require_fit_for_smtp(raw)


@settings(deadline=None)
@given(TEXT)
def test_a_text_alone_is_read_as_it_was_written(text: str) -> None:
    raw = render(replace(ATTEMPT, letter=Letter("An order", text, None)), "shop@example.com")

    mail = read(raw)
    assert (mail.get_content_type(), lines_of(mail.get_content())) == ("text/plain", lines_of(text))
    require_fit_for_smtp(raw)


def require_fit_for_smtp(raw: bytes) -> None:
    """RFC 5321 and 5322: ASCII, no bare CR or LF, no line beyond 78 characters."""
    assert raw.isascii()
    for line in raw.split(b"\r\n"):
        assert b"\r" not in line
        assert b"\n" not in line
        assert len(line) <= 78
