"""The first page: what there is to see, and whether anything is missing from it."""

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from services.pages.rendering import Renderer
from services.telemetry.lens import Lens, NotThere
from services.telemetry.reading import Reading


class Overview:
    def __init__(self, store: Reading, lens: Lens, renderer: Renderer, collector: str) -> None:
        self._store = store
        self._lens = lens
        self._renderer = renderer
        self._collector = collector

    async def page(self, request: Request) -> Response:  # noqa: ARG002
        status, missing = await asyncio.gather(asyncio.to_thread(self._store.status), asyncio.to_thread(self._missing))
        return self._renderer.page(
            "overview.html", kept=status, without_lens=missing, collector=self._collector, here="/"
        )

    def _missing(self) -> str:
        """Why there is no Lens; empty: it is there."""
        try:
            self._lens.require()
        except NotThere as error:
            return str(error)
        return ""
