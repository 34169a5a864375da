"""SMTP: how a notification becomes a mail, and what the answers of a mail server mean."""

import asyncio
import binascii
import hashlib
import random
import re
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from email.header import Header
from email.utils import format_datetime
from typing import Self
from urllib.parse import unquote, urlsplit

import aiosmtplib
from shop.notification.v1.config_pb2 import NotificationConfig
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from services.chassis import logs
from services.chassis.metrics import Counter, Histogram
from services.chassis.tracing import SpanKind, failed, span
from services.chassis.worker import Failed, each
from services.notification.domain import (
    Accepted,
    Attempt,
    Kind,
    Letter,
    Outcome,
    Patience,
    Postponed,
    Refused,
    State,
    Verdict,
    judge,
)
from services.notification.ports import MailServer, Outgoing
from services.refusals import Unavailable

AT_ONCE = 16
"""Conversations side by side. Claim no more: none may wait for its turn while its lease runs."""

LEASE_MARGIN = timedelta(seconds=5)
"""What a lease is longer than the conversation: time to write down how it ended."""

_WAITED_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0, 86400.0)

_mails = Counter("shop.notification.mails", "{mail}", "Attempts to send a mail, by what became of it.", "state")
_duplicates = Counter("shop.notification.possible_duplicates", "{mail}", "Mails that may have been sent before.")
_waited = Histogram(
    "shop.notification.mail.delay",
    "s",
    "From the order's being what the mail tells of (placed: its customer was answered) until the mail server took it.",
    "kind",
    bounds=_WAITED_S,
)

_QUIT_S = 1.0
"""For a farewell."""

_MESSAGE_ID_DOMAIN = "shopmesh.dev"
_MESSAGE_ID_WORDS = {Kind.ORDER_PLACED: "placed", Kind.ORDER_REJECTED: "rejected", Kind.ORDER_CANCELLED: "cancelled"}

# Said about us, not about the mail (RFC 4954, section 6): authentication is required or too weak.
_OUR_FAULT = {530, 534, 535, 538}


@dataclass(frozen=True, slots=True)
class SmtpAddress:
    """Where a mail server listens, and how it wants to be spoken to."""

    host: str
    port: int
    tls: bool = False
    starttls: bool = False
    user: str | None = None
    password: str | None = None

    @classmethod
    def parse(cls, url: str) -> Self:
        """From `smtp://`, `smtps://` or `smtp+starttls://`, then `[user:password@]host[:port]`. Raises ValueError."""
        parts = urlsplit(url)
        ports = {"smtp": 25, "smtps": 465, "smtp+starttls": 587}
        if parts.scheme not in ports or not parts.hostname:
            # Without the URL: it may hold a password.
            raise ValueError("a mail server is smtp://, smtps:// or smtp+starttls://[user:password@]host[:port]")
        return cls(
            host=parts.hostname,
            port=parts.port or ports[parts.scheme],
            tls=parts.scheme == "smtps",
            starttls=parts.scheme == "smtp+starttls",
            user=None if parts.username is None else unquote(parts.username),
            password=None if parts.password is None else unquote(parts.password),
        )


class SmtpServer:
    """The mail server at an address. Mails in a row share a connection; those side by side have one each."""

    def __init__(self, address: SmtpAddress, mail_from: Callable[[], str]) -> None:
        self._address, self._mail_from = address, mail_from
        self.host_and_port = (address.host, address.port)
        self._kept: list[aiosmtplib.SMTP] = []
        """Over each of them a mail was accepted, and none is on its way."""

    async def send(self, attempt: Attempt, until: float) -> Outcome:
        sender = self._mail_from()
        message = render(attempt, sender)
        if self._kept:
            outcome = await self._over(self._kept.pop(), message, sender, attempt.recipient, until)
            # A server that has waited long enough says 421 or just hangs up: that is not about this mail.
            if not isinstance(outcome, Postponed) or outcome.in_doubt:
                return outcome
        return await self._over(self._client(), message, sender, attempt.recipient, until)

    async def hang_up(self) -> None:
        kept, self._kept = self._kept, []
        for smtp in kept:
            with suppress(aiosmtplib.SMTPException, OSError):
                await smtp.quit(timeout=_QUIT_S)
            smtp.close()

    async def _over(self, smtp: aiosmtplib.SMTP, message: bytes, sender: str, recipient: str, until: float) -> Outcome:
        """Keeps the connection when the mail was accepted: whatever else was said, the next mail begins anew."""
        accepted = text_under_way = False
        try:
            async with asyncio.timeout_at(until):
                if not smtp.is_connected:
                    await smtp.connect()
                await _envelope(smtp, sender, recipient)
                text_under_way = True
                await smtp.data(message)
            accepted = True
        except aiosmtplib.SMTPResponseException as answer:
            said = _unnamed(f"{answer.code} {answer.message}", recipient)
            return Refused(said) if _is_final(answer) else Postponed(said)
        except _AddressNotSupported as no:
            return Refused(str(no))
        except (aiosmtplib.SMTPException, OSError) as broken:
            return Postponed(_unnamed(f"{type(broken).__name__}: {broken}", recipient), in_doubt=text_under_way)
        finally:
            if accepted:
                self._kept.append(smtp)
            else:
                smtp.close()
        return Accepted()

    def _client(self) -> aiosmtplib.SMTP:
        address = self._address
        return aiosmtplib.SMTP(
            hostname=address.host,
            port=address.port,
            username=address.user,
            password=address.password,
            use_tls=address.tls,
            start_tls=address.starttls,
            local_hostname=socket.gethostname(),  # else it asks DNS for the full name, which can take seconds
            timeout=None,  # the whole conversation has one
        )


async def _envelope(smtp: aiosmtplib.SMTP, sender: str, recipient: str) -> None:
    if _is_ascii(sender, recipient):
        await smtp.mail(sender)
        await smtp.rcpt(recipient)
        return
    await smtp.ehlo()
    if not smtp.supports_extension("smtputf8"):
        raise _AddressNotSupported("the mail server takes addresses in ASCII only")
    await smtp.mail(sender, options=["SMTPUTF8", "BODY=8BITMIME"], encoding="utf-8")
    await smtp.rcpt(recipient, encoding="utf-8")


class _AddressNotSupported(Exception):
    pass


def _unnamed(said: str, recipient: str) -> str:
    """What a mail server says goes to log lines and operators; the address that it likes to quote does not."""
    user, _, _ = recipient.rpartition("@")
    address = rf"{re.escape(recipient)}|(?<![\w.-]){re.escape(user)}(?![\w-])"
    return re.sub(address, "(recipient)", said, flags=re.IGNORECASE)


def _is_ascii(*addresses: str) -> bool:
    """Else RFC 6531 holds."""
    return all(address.isascii() for address in addresses)


def _is_final(answer: aiosmtplib.SMTPResponseException) -> bool:
    """Whether it is about this mail and for ever. What a server says at its door is about us, or about itself."""
    about_this_mail = (aiosmtplib.SMTPSenderRefused, aiosmtplib.SMTPRecipientRefused, aiosmtplib.SMTPDataError)
    return isinstance(answer, about_this_mail) and 500 <= answer.code < 600 and answer.code not in _OUR_FAULT


def render(attempt: Attempt, sender: str) -> bytes:
    """The mail as it is sent: the same bytes at each attempt. Raises ValueError for a header with a line break.

    Headers by hand too: EmailMessage parses and folds each, which takes several times what sending the mail does.
    """
    headers = {
        "Message-ID": f"<{_MESSAGE_ID_WORDS[attempt.kind]}.{attempt.order_id}@{_MESSAGE_ID_DOMAIN}>",
        "Date": format_datetime(attempt.create_time),
        "From": sender,
        "To": attempt.recipient,  # in UTF-8 where it is not ASCII (RFC 6532)
        "Subject": _in_ascii(attempt.letter.subject),
        "Auto-Submitted": "auto-generated",  # RFC 3834: nobody's absence note answers it
        "MIME-Version": "1.0",
    }
    return "".join(_header(name, value) for name, value in headers.items()).encode() + _body(attempt.letter)


def _header(name: str, value: str) -> str:
    if "\r" in value or "\n" in value:
        raise ValueError(f"{name} has a linefeed or carriage return")
    return f"{name}: {value}\r\n"


def _in_ascii(words: str) -> str:
    """As a header says them to whom only ASCII can be said (RFC 2047)."""
    return words if words.isascii() else Header(words, "utf-8", maxlinelen=sys.maxsize).encode()


def _body(letter: Letter) -> bytes:
    """Content-Type and what follows (RFC 2046). By hand: EmailMessage takes 1 ms for it, and a random boundary."""
    text = _part("plain", letter.text)
    if letter.html is None:
        return text
    html = _part("html", letter.html)
    boundary = hashlib.sha256(text + html).hexdigest().encode()
    return b"".join(
        [
            b'Content-Type: multipart/alternative;\r\n boundary="%s"\r\n' % boundary,
            b"\r\n--%s\r\n%s\r\n--%s\r\n%s\r\n--%s--\r\n" % (boundary, text, boundary, html, boundary),
        ]
    )


def _part(kind: str, text: str) -> bytes:
    head = f'Content-Type: text/{kind}; charset="utf-8"\nContent-Transfer-Encoding: quoted-printable\n\n'.encode()
    lines = text.replace("\r\n", "\n").replace("\r", "\n").encode()
    return (head + binascii.b2a_qp(lines, istext=True)).replace(b"\n", b"\r\n")


type Claimed = tuple[Attempt, float]
"""An attempt, and until when (the loop's time) it may speak with the mail server."""


class Sender:
    """The job that sends what is due (chassis.worker.Job)."""

    name = "sender"

    def __init__(self, outgoing: Outgoing, server: MailServer, config: Callable[[], NotificationConfig]) -> None:
        self._outgoing, self._server, self._config = outgoing, server, config

    async def claim(self, most: int) -> Sequence[Claimed]:
        timeout = self._config().smtp_timeout.ToTimedelta()
        # From before the claim: a process that was frozen since does not start what others have taken over.
        until = asyncio.get_running_loop().time() + timeout.total_seconds()
        attempts = await self._outgoing.claim(most, timeout + LEASE_MARGIN)
        if not attempts:
            await self._server.hang_up()
        return [(attempt, until) for attempt in attempts]

    async def act(self, items: Sequence[Claimed]) -> Sequence[Outcome | Failed]:
        return await each(self._send, items, at_once=AT_ONCE)

    async def _send(self, claimed: Claimed) -> Outcome:
        attempt, until = claimed
        logs.bind_order(f"orders/{attempt.order_id}")
        facts = {"kind": attempt.kind.value, "attempt": attempt.number}
        with span("smtp send", SpanKind.CLIENT, attempt.traceparent, self._described(attempt)) as sending:
            outcome = await self._server.send(attempt, until)
            match outcome:
                case Accepted():
                    logs.get().info("mail sent", **facts)
                case Postponed(error) | Refused(error):
                    failed(sending, came_to := type(outcome).__name__.lower())
                    logs.get().warning("mail not sent", **facts, outcome=came_to, error=error)
        return outcome

    def _described(self, attempt: Attempt) -> Mapping[str, str | int]:
        """What the span of a conversation says; there are no semantic conventions for SMTP."""
        host, port = self._server.host_and_port
        return {
            "network.protocol.name": "smtp",
            "server.address": host,
            "server.port": port,
            "shop.notification.kind": attempt.kind.value,
            "shop.notification.attempt": attempt.number,
        }

    async def settle(self, outcomes: Sequence[tuple[Claimed, Outcome | Failed]]) -> None:
        patience = _patience(self._config())
        verdicts = [
            judge(attempt, _known(outcome), patience, jitter=random.random())  # noqa: S311
            for (attempt, _), outcome in outcomes
        ]
        # What is not written down is sent again when the lease is over: worth more than one try.
        async for stubborn in AsyncRetrying(
            retry=retry_if_exception_type(Unavailable),
            wait=wait_random_exponential(0.1, max=1),
            stop=stop_after_delay(LEASE_MARGIN),
            reraise=True,
        ):
            with stubborn:
                await self._outgoing.settle(verdicts)
        for verdict in verdicts:
            _count(verdict)


def _count(verdict: Verdict) -> None:
    attempt = verdict.attempt
    _mails.add(verdict.state.value)
    if verdict.in_doubt or attempt.taken_over:
        _duplicates.add()
    if verdict.state is State.SENT and attempt.since:
        # By the clocks of two machines: what they differ by is not to be seen as less than nothing.
        _waited.record(max(0.0, time.time() - attempt.since.timestamp()), attempt.kind.value)


def _known(outcome: Outcome | Failed) -> Outcome:
    """Of what went wrong unexpectedly nobody knows how far it came."""
    return Postponed(outcome.error, in_doubt=True) if isinstance(outcome, Failed) else outcome


def _patience(config: NotificationConfig) -> Patience:
    return Patience(
        first_pause=config.mail_backoff_initial.ToTimedelta(),
        longest_pause=config.mail_backoff_max.ToTimedelta(),
        give_up_after=config.mail_give_up.ToTimedelta(),
    )
