"""Which variables of the environment the code asks for: seen while it reads them, or written in it."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from services.chassis.settings import Settings
from services.mailbox.__main__ import address
from services.pages.guard import answering_to
from services.telemetry.__main__ import Places

PREFIX = "SHOPMESH_"
CHECKOUT = Path(__file__).parents[2]

NOT_SETTINGS = {
    "SHOPMESH_STARTED": "`make run` tells the launcher when it began",
    "SHOPMESH_SECRET_": "blanks in the realm file",
    "SHOPMESH_PORT_": "one row stands for all ports",
    "SHOPMESH_PORT_EDGE": "one of them",
    "SHOPMESH_PORT_POSTGRES": "one of them",
    "SHOPMESH_IDENTITY": "of compose.yaml; what mends an issuer names it",
    "SHOPMESH_TARGET": "`shopmesh check` tells its tests where the shop is",
    "SHOPMESH_RESULTS": "and where it listens to them",
    "SHOPMESH_USER_ANN": "read by those tests; in the help of the command",
    "SHOPMESH_PASSWORD_ANN": "read by those tests; in the help of the command",
}


class Empty(Mapping[str, str]):
    """An environment with nothing in it, which keeps what it is asked for."""

    def __init__(self) -> None:
        self.asked = set[str]()

    def __getitem__(self, name: str) -> str:
        if name.startswith(PREFIX):
            self.asked.add(name)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def read_by(process: str, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """What this process of the shop asks its environment for."""
    environ = Empty()
    with monkeypatch.context() as patched:
        patched.setattr(os, "environ", environ)
        if process == "mailbox":
            address("SHOPMESH_SMTP_LISTEN", "127.0.0.1:1025")
            address("SHOPMESH_MAIL_LISTEN", "127.0.0.1:8025")
            answering_to("127.0.0.1", environ)
            return environ.asked | {"SHOPMESH_INSTANCE"}
        Settings.read(process, environ)
        if process == "telemetry":
            Places.read()
            answering_to("127.0.0.1", environ)
    return environ.asked


def written() -> set[str]:
    """What the code names in full."""
    return set(re.findall(r"SHOPMESH_[A-Z_]+", code())) - NOT_SETTINGS.keys()


def code() -> str:
    """All of it."""
    return "".join(file.read_text() for file in (CHECKOUT / "services").rglob("*.py"))
