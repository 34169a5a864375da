"""Keeps pages on this machine to readers of this machine.

A page of another site must not read ours through the reader's browser: under a foreign name that leads here (DNS
rebinding), by a script's request (Origin), or by loading an answer as a picture or script of its own (Sec-Fetch-Site).
A link on another site may lead here.
"""

import os
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.chassis.settings import LOOPBACK, SettingInvalid

# Nothing runs, and a page loads its own stylesheet only.
CONTENT_SECURITY_POLICY = {
    "default-src": "'none'",
    "style-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_OF_A_NAME = frozenset("abcdefghijklmnopqrstuvwxyz0123456789.-_:")


def policy(**changed: str) -> str:
    """The Content-Security-Policy of our pages with some directives changed: `form_action="'self'"`."""
    directives = CONTENT_SECURITY_POLICY | {name.replace("_", "-"): value for name, value in changed.items()}
    return "; ".join(f"{name} {value}" for name, value in directives.items())


def answering_to(listening: str, environ: Mapping[str, str] = os.environ) -> frozenset[str]:
    """The names under which pages that listen at this host are to be reached, as Guarded takes them.

    Those of the machine itself, that host, and what SHOPMESH_PAGES_HOSTS adds: names or addresses without a port, with
    commas between them. Raises SettingInvalid.
    """
    others = [name.strip() for name in (environ.get("SHOPMESH_PAGES_HOSTS") or "").split(",")]
    return LOOPBACK | {listening} | {_added(name) for name in others if name}


class Guarded:
    """Refuses what comes from elsewhere, and puts the protecting headers on every answer that has none of its own."""

    def __init__(self, app: ASGIApp, hosts: Collection[str], headers: Mapping[str, str]) -> None:
        self._app = app
        self._hosts = frozenset(hosts)
        self._headers = {**HEADERS, **headers}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        headers = Headers(scope=scope)
        if _hostname(headers.get("host", "")) not in self._hosts:
            return PlainTextResponse("These pages answer to names of their own machine only.\n", 421)
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != headers.get("host"):
            return PlainTextResponse("These pages answer no requests of other sites.\n", 403)
        embedded = headers.get("sec-fetch-mode", "navigate") != "navigate"
        if embedded and headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            return PlainTextResponse("These pages are part of no other site.\n", 403)
        return None


def _added(name: str) -> str:
    known = _hostname(f"[{name}]" if name.count(":") > 1 and not name.startswith("[") else name)
    if known != name.strip("[]").lower() or not set(known) <= _OF_A_NAME:
        raise SettingInvalid(f"SHOPMESH_PAGES_HOSTS takes names without scheme, port or wildcard, not {name!r}")
    return known


def _hostname(host: str) -> str:
    """What the reader called this machine, of `name:port`; empty for a name that is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
