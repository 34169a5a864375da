"""A real SMTP server (aiosmtpd) that says what a test wants it to say."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

type Say = Callable[[str], Awaitable[str]]


async def welcome(recipient: str) -> str:
    """Takes every mail."""
    del recipient
    return "250 OK"


@dataclass(slots=True)
class MailServer:
    """Keeps what it took. Set what it says to a recipient, and to a text once it is there."""

    port: int = 0
    to_recipient: Say = welcome
    to_text: Say = welcome
    users: dict[str, str] = field(default_factory=dict[str, str])
    """Passwords. With users, nobody else may send."""
    envelopes: list[Envelope] = field(default_factory=list[Envelope])
    """What came, whatever was said to it."""
    at_once: int = 0
    """The most mails that were on their way side by side."""
    conversations: list[SMTP] = field(default_factory=list[SMTP])
    """One per connection."""
    _under_way: int = 0

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self.port}"

    @property
    def mails(self) -> list[EmailMessage]:
        return [parsed(envelope) for envelope in self.envelopes]

    def cut(self) -> None:
        """Ends all conversations, wherever they are."""
        for conversation in self.conversations:
            _cut(conversation)

    async def handle_RCPT(  # noqa: N802, the name of the command
        self, server: SMTP, session: Session, envelope: Envelope, address: str, rcpt_options: list[str]
    ) -> str:
        del server, session, rcpt_options
        answer = await self.to_recipient(address)
        if answer.startswith("2"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        del session
        self.envelopes.append(envelope)
        self._under_way += 1
        self.at_once = max(self.at_once, self._under_way)
        try:
            return await self.to_text(envelope.rcpt_tos[0])
        except ConnectionAbortedError:
            _cut(server)
            return "421 gone"
        finally:
            self._under_way -= 1

    def authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, auth_data: LoginPassword
    ) -> AuthResult:
        del server, session, envelope, mechanism
        known = self.users.get(auth_data.login.decode()) == auth_data.password.decode()
        return AuthResult(success=known, handled=False)  # not handled: the answer is left to aiosmtpd


async def hang_up(recipient: str) -> str:
    """As a server that dies with the text in its hands."""
    raise ConnectionAbortedError(recipient)


def _cut(conversation: SMTP) -> None:
    if isinstance(conversation.transport, asyncio.WriteTransport):
        conversation.transport.abort()


def parsed(envelope: Envelope) -> EmailMessage:
    assert isinstance(envelope.content, bytes)
    message = message_from_bytes(envelope.content, policy=default)
    assert isinstance(message, EmailMessage)
    return message


@asynccontextmanager
async def mail_server(
    *, port: int = 0, tls: ssl.SSLContext | None = None, starttls: ssl.SSLContext | None = None, **users: str
) -> AsyncIterator[MailServer]:
    """Listens on a port of 127.0.0.1, 0 for any; with users it asks for authentication."""
    server = MailServer(users=users)
    loop = asyncio.get_running_loop()

    def converse() -> SMTP:
        options: dict[str, Any] = {"tls_context": starttls, "require_starttls": starttls is not None}
        if users:
            options |= {"auth_required": True, "auth_require_tls": False, "authenticator": server.authenticate}
        smtp = SMTP(server, enable_SMTPUTF8=True, hostname="test", ident="test", loop=loop, **options)
        server.conversations.append(smtp)
        return smtp

    listening = await loop.create_server(converse, "127.0.0.1", port, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        server.cut()
        await listening.wait_closed()
