"""Mails as a real SMTP server gets them, and what its answers lead to."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from services.money import Money
from services.notification.domain import Accepted, Attempt, Letter, Line, News, Outcome, Postponed, Refused
from services.notification.letters import letter
from services.notification.mail import SmtpAddress, SmtpServer
from tests.support.certificates import certificate_for
from tests.support.notification import cancelled, placed, rejected
from tests.support.ports import free_port
from tests.support.smtp import MailServer, hang_up, mail_server

SHOP = "shop@example.com"


def attempt(news: News) -> Attempt:
    return Attempt(
        notification_id=news.notification_id,
        order_id=news.order_id,
        kind=news.kind,
        recipient=news.recipient,
        letter=letter(news),
        create_time=datetime(2026, 11, 24, 16, 20, 5, tzinfo=UTC),
        number=1,
        tries=1,
        tried_for=timedelta(),
        traceparent=None,
    )


async def send(url: str, attempt: Attempt, timeout_s: float = 30) -> Outcome:
    smtp = SmtpServer(SmtpAddress.parse(url), lambda: SHOP)
    try:
        return await in_time(smtp, attempt, timeout_s)
    finally:
        await smtp.hang_up()


async def in_time(smtp: SmtpServer, attempt: Attempt, timeout_s: float = 30) -> Outcome:
    return await smtp.send(attempt, asyncio.get_running_loop().time() + timeout_s)


@asynccontextmanager
async def smtp_server(server: MailServer) -> AsyncIterator[SmtpServer]:
    """For several mails."""
    smtp = SmtpServer(SmtpAddress.parse(server.url), lambda: SHOP)
    yield smtp
    await smtp.hang_up()


# --- The mail ---


async def test_the_mail_arrives_as_it_was_written(server: MailServer) -> None:
    news = placed(lines=[Line("Tasse für Zoë 👩‍🌾", 2, Money.of("EUR", 12, 500_000_000))])

    assert await send(server.url, attempt(news)) == Accepted()

    [envelope], [mail] = server.envelopes, server.mails
    assert (envelope.mail_from, envelope.rcpt_tos) == (SHOP, ["ann@example.com"])
    assert (mail["From"], mail["To"]) == (SHOP, "ann@example.com")
    assert mail["Subject"] == f"Your order {news.order_id} has been placed"
    assert mail["Message-ID"] == f"<placed.{news.order_id}@shopmesh.dev>"
    assert parsedate_to_datetime(mail["Date"]) == datetime(2026, 11, 24, 16, 20, 5, tzinfo=UTC)
    assert mail.get_content_type() == "multipart/alternative"
    assert not mail.defects
    parts = [(part.get_content_type(), part.get_content().replace("\r\n", "\n")) for part in mail.iter_parts()]
    # The last is the one that a reader should prefer (RFC 2046, section 5.1.4).
    assert parts == [("text/plain", letter(news).text), ("text/html", letter(news).html)]


async def test_a_letter_of_before_there_was_html_goes_out_as_it_was(server: MailServer) -> None:
    old = replace(letter(news := placed()), html=None)

    assert await send(server.url, replace(attempt(news), letter=old)) == Accepted()

    [mail] = server.mails
    assert mail.get_content_type() == "text/plain"
    assert mail.get_content().replace("\r\n", "\n") == old.text


async def test_each_attempt_sends_the_same_bytes_and_another_kind_has_another_message_id(server: MailServer) -> None:
    news = placed()

    await send(server.url, attempt(news))
    await send(server.url, replace(attempt(news), number=2))
    await send(server.url, attempt(rejected(news)))
    await send(server.url, attempt(cancelled(news)))

    first, again, other, another = server.envelopes
    assert first.content == again.content
    assert [mail["Message-ID"] for mail in server.mails][1:] == [
        f"<placed.{news.order_id}@shopmesh.dev>",
        f"<rejected.{news.order_id}@shopmesh.dev>",
        f"<cancelled.{news.order_id}@shopmesh.dev>",
    ]
    assert len({first.content, other.content, another.content}) == 3


async def test_a_text_full_of_tricks_ends_no_header_and_no_mail(server: MailServer) -> None:
    tricks = ".\r\n.\r\nMAIL FROM:<eve@example.com>\r\n..\n\nSubject: x\r\n" + "long " * 400
    trick = replace(attempt(placed()), letter=Letter("An order", tricks, tricks))

    assert await send(server.url, trick) == Accepted()

    [mail] = server.mails
    assert mail["Subject"] == "An order"
    assert [part.get_content().split() for part in mail.iter_parts()] == [tricks.split()] * 2


async def test_a_header_with_a_line_break_is_never_sent(server: MailServer) -> None:
    trick = replace(attempt(placed()), letter=Letter("An order\r\nBcc: eve@example.com", "Hello", None))

    with pytest.raises(ValueError, match="linefeed or carriage return"):
        await send(server.url, trick)
    assert not server.envelopes


async def test_a_subject_in_another_alphabet_is_read_as_it_was_written(server: MailServer) -> None:
    subject = "Bestellung für Zoë 👩‍🌾 " + "und noch mehr " * 20
    assert await send(server.url, replace(attempt(placed()), letter=Letter(subject, "Hello", None))) == Accepted()

    [envelope], [mail] = server.envelopes, server.mails
    assert isinstance(envelope.content, bytes)
    assert max(map(len, envelope.content.splitlines())) < 998  # RFC 5322, section 2.1.1
    assert envelope.content.isascii()
    assert mail["Subject"] == subject


async def test_an_address_in_another_alphabet_is_sent_as_utf8(server: MailServer) -> None:
    assert await send(server.url, attempt(placed(recipient="zoë@müller.example"))) == Accepted()

    [envelope], [mail] = server.envelopes, server.mails
    assert envelope.rcpt_tos == ["zoë@müller.example"]
    assert mail["To"] == "zoë@müller.example"


# --- The connection ---


async def test_mails_in_a_row_share_a_connection_until_there_is_nothing_to_send(server: MailServer) -> None:
    async with smtp_server(server) as smtp:
        outcomes = [await in_time(smtp, attempt(placed())) for _ in range(3)]
        assert len(server.conversations) == 1
        await smtp.hang_up()
        outcomes.append(await in_time(smtp, attempt(placed())))

    assert outcomes == [Accepted()] * 4
    assert len(server.conversations) == 2
    assert len(server.mails) == 4


async def test_mails_side_by_side_have_a_connection_each(server: MailServer) -> None:
    together = asyncio.Event()

    async def wait_for_all(recipient: str) -> str:
        del recipient
        if len(server.envelopes) == 3:
            together.set()
        await together.wait()
        return "250 OK"

    server.to_text = wait_for_all
    async with smtp_server(server) as smtp:
        outcomes = await asyncio.gather(*(in_time(smtp, attempt(placed())) for _ in range(3)))

    assert outcomes == [Accepted()] * 3
    assert server.at_once == 3


@pytest.mark.parametrize("last_word", ["", "421 idle for too long\r\n"])
async def test_a_server_that_hung_up_between_two_mails_is_called_again(server: MailServer, last_word: str) -> None:
    async with smtp_server(server) as smtp:
        await in_time(smtp, attempt(placed()))
        for conversation in server.conversations:
            assert isinstance(conversation.transport, asyncio.WriteTransport)
            conversation.transport.write(last_word.encode())
            conversation.transport.close()

        assert await in_time(smtp, attempt(placed())) == Accepted()

    assert len(server.conversations) == 2


async def test_after_a_refused_recipient_the_next_mail_begins_anew(server: MailServer) -> None:
    async def no_bob(recipient: str) -> str:
        return "550 no such user" if recipient == "bob@example.com" else "250 OK"

    server.to_recipient = no_bob
    async with smtp_server(server) as smtp:
        outcomes = [
            await in_time(smtp, attempt(placed(recipient=whom)))
            for whom in ("ann@example.com", "bob@example.com", "carol@example.com")
        ]

    assert outcomes == [Accepted(), Refused("550 no such user"), Accepted()]
    assert [envelope.rcpt_tos for envelope in server.envelopes] == [["ann@example.com"], ["carol@example.com"]]


async def test_a_kept_connection_that_dies_with_the_text_in_its_hands_leaves_doubt(server: MailServer) -> None:
    async with smtp_server(server) as smtp:
        await in_time(smtp, attempt(placed()))
        server.to_text = hang_up

        outcome = await in_time(smtp, attempt(placed()))

    assert isinstance(outcome, Postponed)
    assert outcome.in_doubt
    assert len(server.envelopes) == 2


# --- The answers ---


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ("550 no such user", Refused("550 no such user")),
        ("552 mailbox full", Refused("552 mailbox full")),
        ("550 <Ann@Example.com>: user ann unknown", Refused("550 <(recipient)>: user (recipient) unknown")),
        ("450 ann@example.com can't; annoying", Postponed("450 (recipient) can't; annoying")),
        ("451 try later", Postponed("451 try later")),
        ("421 shutting down", Postponed("421 shutting down")),
        ("530 authentication required", Postponed("530 authentication required")),
    ],
)
@pytest.mark.parametrize("said_to", ["to_recipient", "to_text"])
async def test_the_code_decides(server: MailServer, said_to: str, answer: str, outcome: Outcome) -> None:
    async def say(recipient: str) -> str:
        del recipient
        return answer

    setattr(server, said_to, say)

    assert await send(server.url, attempt(placed())) == outcome


async def test_nobody_at_the_door_is_temporary() -> None:
    outcome = await send(f"smtp://127.0.0.1:{free_port()}", attempt(placed()))

    assert isinstance(outcome, Postponed)
    assert not outcome.in_doubt


async def test_a_server_that_dies_with_the_text_in_its_hands_leaves_doubt(server: MailServer) -> None:
    server.to_text = hang_up

    outcome = await send(server.url, attempt(placed()))

    assert isinstance(outcome, Postponed)
    assert outcome.in_doubt


@pytest.mark.parametrize(("silent", "in_doubt"), [("to_recipient", False), ("to_text", True)])
async def test_silence_ends_in_time(server: MailServer, silent: str, in_doubt: bool) -> None:
    async def say_nothing(recipient: str) -> str:
        await asyncio.Event().wait()
        return recipient

    setattr(server, silent, say_nothing)

    async with asyncio.timeout(20):
        outcome = await send(server.url, attempt(placed()), timeout_s=0.3)

    assert isinstance(outcome, Postponed)
    assert outcome.in_doubt is in_doubt


async def test_nothing_is_begun_when_the_time_is_over(server: MailServer) -> None:
    """As in a process that was frozen after its claim."""
    outcome = await send(server.url, attempt(placed()), timeout_s=-1)

    assert isinstance(outcome, Postponed)
    assert not server.envelopes


# --- The door ---


# aiosmtpd warns of passwords in clear: here nobody listens.
@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")
async def test_user_and_password_are_given_where_asked_for() -> None:
    async with mail_server(ann="p@ss:word/") as server:
        asks = await send(server.url, attempt(placed()))
        wrong = await send(f"smtp://ann:wrong@127.0.0.1:{server.port}", attempt(placed()))
        right = await send(f"smtp://ann:p%40ss%3Aword%2F@127.0.0.1:{server.port}", attempt(placed()))

    assert isinstance(asks, Postponed)
    assert isinstance(wrong, Postponed)
    assert right == Accepted()


@pytest.mark.parametrize("scheme", ["smtps", "smtp+starttls"])
async def test_tls_is_spoken_with_whom_the_machine_trusts_only(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = certificate_for("127.0.0.1", tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    tls, starttls = (context, None) if scheme == "smtps" else (None, context)
    async with mail_server(tls=tls, starttls=starttls) as server:
        url = f"{scheme}://127.0.0.1:{server.port}"
        stranger = await send(url, attempt(placed()))
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        trusted = await send(url, attempt(placed()))

    assert isinstance(stranger, Postponed)
    assert trusted == Accepted()


async def test_a_server_without_starttls_gets_no_mail_that_asks_for_it(server: MailServer) -> None:
    outcome = await send(f"smtp+starttls://127.0.0.1:{server.port}", attempt(placed()))

    assert isinstance(outcome, Postponed)
    assert not server.envelopes


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("smtp://mail", SmtpAddress("mail", 25)),
        ("smtps://mail", SmtpAddress("mail", 465, tls=True)),
        ("smtp+starttls://mail", SmtpAddress("mail", 587, starttls=True)),
        ("smtp://a%40b:c%2F@[::1]:1025", SmtpAddress("::1", 1025, user="a@b", password="c/")),
    ],
)
def test_the_url_says_where_and_how(url: str, address: SmtpAddress) -> None:
    assert SmtpAddress.parse(url) == address


@pytest.mark.parametrize("url", ["", "mail:25", "http://mail", "smtp://", "smtp://mail:port"])
def test_a_url_that_names_no_mail_server_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"smtp://|[Pp]ort"):
        SmtpAddress.parse(url)
