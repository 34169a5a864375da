"""Under which names pages are to be reached."""

import httpx
import pytest
from starlette.responses import PlainTextResponse

from services.chassis.settings import LOOPBACK, SettingInvalid
from services.pages.guard import Guarded, answering_to


async def test_pages_answer_to_the_names_that_the_environment_adds_and_to_no_others() -> None:
    hosts = answering_to("0.0.0.0", {"SHOPMESH_PAGES_HOSTS": "telemetry, Shop.Example.com,10.1.2.3,fd00::1,"})
    transport = httpx.ASGITransport(Guarded(PlainTextResponse("a page"), hosts, {}))
    asked = ("localhost", "telemetry:8026", "shop.example.com", "10.1.2.3:8026", "[fd00::1]:8026", "evil.example", "")

    async with httpx.AsyncClient(transport=transport, base_url="http://any") as client:
        answers = [(await client.get("/", headers={"host": host})).status_code for host in asked]

    assert answers == [200, 200, 200, 200, 200, 421, 421]


def test_without_the_variable_they_are_for_their_own_machine() -> None:
    assert answering_to("127.0.0.1", {}) == LOOPBACK
    assert answering_to("10.1.2.3", {"SHOPMESH_PAGES_HOSTS": ""}) == LOOPBACK | {"10.1.2.3"}


@pytest.mark.parametrize("name", ["telemetry:8026", "http://telemetry", "*", "*.example.com", "a b", "[fd00::1]:80"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(SettingInvalid, match="SHOPMESH_PAGES_HOSTS takes names without"):
        answering_to("0.0.0.0", {"SHOPMESH_PAGES_HOSTS": name})
