"""SMTP in: every mail to anybody is accepted, and goes no further than the shelf."""

import asyncio
from datetime import UTC, datetime

from aiosmtpd.smtp import SMTP, Envelope, Session

from services.chassis import logs
from services.mailbox.letters import read
from services.mailbox.shelf import Shelf

MOST_BYTES_OF_A_MAIL = 10 * 1024 * 1024
IDLE_S = 60


class Reception:
    """What aiosmtpd asks when a mail has come."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    # aiosmtpd calls it by this name.
    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: ARG002, N802
        assert isinstance(envelope.content, bytes)
        letter = read(envelope.content, envelope.mail_from or "", envelope.rcpt_tos, datetime.now(UTC))
        self._shelf.put(letter)
        logs.get().info("mail kept", mail=letter.id, message_id=letter.message_id)
        return f"250 2.0.0 kept as {letter.id}"


async def listen(shelf: Shelf, host: str, port: int) -> asyncio.Server:
    """Takes SMTP on that address from now on, in the running loop. Raises OSError when it is in use."""
    loop = asyncio.get_running_loop()

    def conversation() -> SMTP:
        return SMTP(
            Reception(shelf),
            loop=loop,
            hostname="localhost",
            ident="shopmesh mailbox",
            data_size_limit=MOST_BYTES_OF_A_MAIL,
            enable_SMTPUTF8=True,
            timeout=IDLE_S,
        )

    return await loop.create_server(conversation, host, port)
