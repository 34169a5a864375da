"""The page for people, and Mailpit's API for programs.

Mails are what strangers wrote: headers and text are escaped, HTML is shown in a sandbox of its own, and neither loads
anything.
"""

from collections.abc import Collection
from json import JSONDecodeError
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Lifespan

from services.mailbox import mailpit
from services.mailbox.letters import Letter
from services.mailbox.shelf import Shelf
from services.pages.guard import Guarded, policy
from services.pages.rendering import Renderer

PAGE_OF_MAILPIT = 50
ON_THE_PAGE = 100
# The stylesheet and the frame with a mail's HTML are the only things that a page loads.
HEADERS = {"Content-Security-Policy": policy(frame_src="'self'")}
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
        self._renderer = Renderer(Path(__file__).parent / "templates")
        self.stylesheet = self._renderer.stylesheet

    async def list_page(self, request: Request) -> Response:  # noqa: ARG002
        letters = self._shelf.newest_first()
        return self._renderer.page(
            "list.html", letters=letters[:ON_THE_PAGE], total=len(letters), is_read=self._shelf.is_read
        )

    async def letter_page(self, request: Request) -> Response:
        return self._renderer.page("letter.html", letter=self._open(request))

    async def letter_html(self, request: Request) -> Response:
        """The mail's own HTML as it came; Mailpit has it at the same address."""
        return HTMLResponse(self._open(request).html, headers=SANDBOX)

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


def application(shelf: Shelf, hosts: Collection[str], lifespan: Lifespan[Starlette] | None = None) -> ASGIApp:
    """The page and the API over the mails on `shelf`, answering to the host names `hosts` only."""
    pages = Pages(shelf)
    routes = [
        Route("/", pages.list_page),
        Route("/mail/{id}", pages.letter_page),
        Route("/view/{id}.html", pages.letter_html),
        Route("/pages.css", pages.stylesheet),
        Route("/api/v1/messages", pages.list_messages, methods=["GET"]),
        Route("/api/v1/messages", pages.delete_messages, methods=["DELETE"]),
        Route("/api/v1/message/{id}", pages.get_message),
        Route("/api/v1/message/{id}/raw", pages.get_raw),
    ]
    return Guarded(Starlette(routes=routes, lifespan=lifespan), hosts, HEADERS)


def _number(request: Request, name: str, default: int) -> int:
    """A query parameter; what is no number or negative counts as not given, as in Mailpit."""
    given = request.query_params.get(name, "")
    return int(given) if given.isascii() and given.isdecimal() else default
