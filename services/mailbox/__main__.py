"""Runs the mailbox: SMTP and the page in one process, until SIGTERM."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette

from services.mailbox.shelf import Shelf
from services.mailbox.smtp import listen
from services.mailbox.web import application


def main() -> None:
    """Serves on the addresses that the environment names."""
    smtp_host, smtp_port = address(os.environ.get("SHOPMESH_SMTP_LISTEN", "127.0.0.1:1025"))
    mail_host, mail_port = address(os.environ.get("SHOPMESH_MAIL_LISTEN", "127.0.0.1:8025"))
    shelf = Shelf()

    @asynccontextmanager
    async def smtp(_: Starlette) -> AsyncGenerator[None]:
        async with await listen(shelf, smtp_host, smtp_port):
            yield

    app = application(shelf, {"localhost", "127.0.0.1", "::1", mail_host}, smtp)
    uvicorn.run(app, host=mail_host, port=mail_port, log_config=None, access_log=False, timeout_graceful_shutdown=1)


def address(text: str) -> tuple[str, int]:
    """Host and port of `host:port`, an IPv6 host in brackets."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


if __name__ == "__main__":
    main()
