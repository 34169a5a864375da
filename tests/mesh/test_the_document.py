"""What there is over REST is told to anybody, by the edge itself."""

import httpx
import pytest

from services.files import resource
from tests.support.mesh import Mesh

DOCUMENT = resource("gen/openapi.json").read_bytes()


async def test_the_edge_shows_the_document_to_pages_of_any_origin(mesh: Mesh) -> None:
    async with httpx.AsyncClient(base_url=f"http://{mesh.envoy.edge}", trust_env=False) as web:
        shown = await web.get("/openapi.json", headers={"origin": "http://docs.example"})

    assert (shown.status_code, shown.content) == (200, DOCUMENT)
    assert shown.headers["content-type"] == "application/json"
    assert shown.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_it_can_only_be_read(mesh: Mesh, method: str) -> None:
    async with httpx.AsyncClient(base_url=f"http://{mesh.envoy.edge}", trust_env=False) as web:
        refused = await web.request(method, "/openapi.json")

    assert (refused.status_code, refused.json()["code"]) == (404, 5)
