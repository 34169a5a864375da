"""The page for people, and Mailpit's API for programs.

Mails are what strangers wrote: headers and text are escaped, HTML is shown in a sandbox of its own, and neither loads
anything. A page of another site must not read them through the reader's browser, so only names of this machine are
answered (DNS rebinding).
"""

from collections.abc import Collection
from json import JSONDecodeError
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Lifespan, Message, Receive, Scope, Send

from services.mailbox import mailpit
from services.mailbox.letters import Letter
from services.mailbox.shelf import Shelf

PAGE_OF_MAILPIT = 50
ON_THE_PAGE = 100
# The stylesheet and the frame with a mail's HTML are the only things that a page loads.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; frame-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
# A mail's HTML is a document of nobody: no script, no form, no way out of its frame, and colours and pictures only that
# it brings itself.
SANDBOX = {
    "Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
}


class Pages:
    """The handlers, each a request in and a response out."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        templates = Path(__file__).parent / "templates"
        self._stylesheet = (templates / "mailbox.css").read_text()
        self._jinja = Environment(
            loader=FileSystemLoader(templates), autoescape=select_autoescape(), undefined=StrictUndefined
        )

    async def list_page(self, request: Request) -> Response:  # noqa: ARG002
        letters = self._shelf.newest_first()
        return self._page("list.html", letters=letters[:ON_THE_PAGE], total=len(letters), is_read=self._shelf.is_read)

    async def letter_page(self, request: Request) -> Response:
        return self._page("letter.html", letter=self._open(request))

    async def letter_html(self, request: Request) -> Response:
        """The mail's own HTML as it came; Mailpit has it at the same address."""
        return HTMLResponse(self._open(request).html, headers=SANDBOX)

    async def stylesheet(self, request: Request) -> Response:  # noqa: ARG002
        return Response(self._stylesheet, media_type="text/css")

    async def list_messages(self, request: Request) -> Response:
        start, limit = _number(request, "start", 0), _number(request, "limit", PAGE_OF_MAILPIT)
        return JSONResponse(mailpit.listing(self._shelf, start, limit))

    async def get_message(self, request: Request) -> Response:
        return JSONResponse(mailpit.message(self._open(request)))

    async def get_raw(self, request: Request) -> Response:
        return PlainTextResponse(self._open(request).raw)

    async def delete_messages(self, request: Request) -> Response:
        """Deletes those that the body names as `IDs`, or all when it names none, as Mailpit does."""
        try:
            body = await request.json()
        except (JSONDecodeError, UnicodeDecodeError):
            body = None
        ids = body.get("IDs") if isinstance(body, dict) else None
        if isinstance(ids, list) and ids:
            self._shelf.delete([str(id) for id in ids])
        else:
            self._shelf.delete_all()
        return PlainTextResponse("ok")

    def _open(self, request: Request) -> Letter:
        letter = self._shelf.open(request.path_params["id"])
        if letter is None:
            raise HTTPException(404, "No such mail: it was deleted, or newer ones took its place.")
        return letter

    def _page(self, template: str, **context: object) -> Response:
        return HTMLResponse(self._jinja.get_template(template).render(context))


def application(shelf: Shelf, hosts: Collection[str], lifespan: Lifespan[Starlette] | None = None) -> ASGIApp:
    """The page and the API over the mails on `shelf`, answering to the host names `hosts` only."""
    pages = Pages(shelf)
    routes = [
        Route("/", pages.list_page),
        Route("/mail/{id}", pages.letter_page),
        Route("/view/{id}.html", pages.letter_html),
        Route("/mailbox.css", pages.stylesheet),
        Route("/api/v1/messages", pages.list_messages, methods=["GET"]),
        Route("/api/v1/messages", pages.delete_messages, methods=["DELETE"]),
        Route("/api/v1/message/{id}", pages.get_message),
        Route("/api/v1/message/{id}/raw", pages.get_raw),
    ]
    return Guarded(Starlette(routes=routes, lifespan=lifespan), hosts)


class Guarded:
    """Refuses foreign host names, and puts the protecting headers on every answer that has none of its own."""

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app = app
        self._hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        if scope["type"] == "http" and (Request(scope).url.hostname or "") not in self._hosts:
            refusal = PlainTextResponse("This mailbox answers to names of its own machine only.\n", 421)
            await refusal(scope, receive, send_guarded)
        else:
            await self._app(scope, receive, send_guarded)


def _number(request: Request, name: str, default: int) -> int:
    """A query parameter; what is no number or negative counts as not given, as in Mailpit."""
    given = request.query_params.get(name, "")
    return int(given) if given.isascii() and given.isdecimal() else default
