"""A mail server that is killed at any moment and has lost no mail that it accepted: `smtp_sink PORT FILE`.

Each Message-ID is a line of the file before the mail is accepted.
"""

import asyncio
import os
import sys
from collections import Counter
from collections.abc import Sequence
from email import message_from_bytes
from pathlib import Path
from typing import override

from aiosmtpd.smtp import SMTP, Envelope, Session

from tests.support.servers import Server


class SmtpSink(Server):
    """Such a process; `url` is what SHOPMESH_SMTP_URL takes."""

    @property
    def accepted(self) -> Counter[str]:
        """How often which Message-ID was."""
        return Counter(self._file.read_text().split())

    @property
    def _file(self) -> Path:
        file = self.folder / "accepted"
        file.touch()
        return file

    @override
    def command(self) -> Sequence[str | Path]:
        here = f"PYTHONPATH={Path(__file__).parents[2]}"
        return ["env", here, sys.executable, "-m", "tests.support.smtp_sink", str(self.port), self._file]


class _Reception:
    def __init__(self, file: int) -> None:
        self._file = file

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        assert isinstance(envelope.content, bytes)
        os.write(self._file, f"{message_from_bytes(envelope.content)['Message-ID']}\n".encode())
        return "250 OK"


async def _receive(port: int, file: str) -> None:
    reception, loop = _Reception(os.open(file, os.O_WRONLY | os.O_APPEND)), asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: SMTP(reception, loop=loop, hostname="test", ident="test", enable_SMTPUTF8=True), "127.0.0.1", port
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_receive(int(sys.argv[1]), sys.argv[2]))
