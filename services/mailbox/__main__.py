"""Runs the mailbox: SMTP and the page in one process, until SIGTERM."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette

from services.chassis import logs
from services.chassis.early import end_at_once
from services.chassis.settings import host_and_port, joined
from services.mailbox.shelf import Shelf
from services.mailbox.smtp import listen
from services.mailbox.web import application
from services.pages.guard import answering_to


def main() -> None:
    """Serves on the addresses that the environment names."""
    end_at_once()
    smtp_host, smtp_port = address("SHOPMESH_SMTP_LISTEN", "127.0.0.1:1025")
    mail_host, mail_port = address("SHOPMESH_MAIL_LISTEN", "127.0.0.1:8025")
    logs.configure("mailbox", os.environ.get("SHOPMESH_INSTANCE") or "mailbox")
    shelf, hosts = Shelf(), answering_to(mail_host)

    @asynccontextmanager
    async def smtp(_: Starlette) -> AsyncGenerator[None]:
        async with await listen(shelf, smtp_host, smtp_port):
            logs.get().info(
                "the mailbox is open", smtp=joined(smtp_host, smtp_port), page=f"http://{joined(mail_host, mail_port)}"
            )
            yield

    app = application(shelf, hosts, smtp)
    uvicorn.run(app, host=mail_host, port=mail_port, log_config=None, access_log=False, timeout_graceful_shutdown=1)


def address(name: str, default: str) -> tuple[str, int]:
    """Host and port that the environment names. Raises SettingInvalid."""
    return host_and_port(name, os.environ.get(name) or default)


if __name__ == "__main__":
    main()
