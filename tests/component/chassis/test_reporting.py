"""What a process has counted, as others get to know it: every rpc on both sides, its page, and what it sends."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

from services.chassis import reporting, vitals
from services.chassis.interceptors import StreamMoved
from services.chassis.metrics import Counter
from services.chassis.settings import CannotStart, Settings
from services.refusals import Rejected
from tests.component.chassis.test_client import calling
from tests.support.issuer import Issuer
from tests.support.otlp_metrics import receiving
from tests.support.ports import free_port
from tests.support.refused import outcome
from tests.support.ruled_echo import SERVICE, Echo, Text
from tests.support.scraped import Scraped
from tests.support.waiting import eventually

_clicks = Counter("test.reporting.clicks", "{click}", "Counted by this test.")


class CupsGone(Rejected):
    reason = "CUPS_GONE"
    message = "There are no cups."


def settings(**environ: str) -> Settings:
    return Settings.read("order", {"SHOPMESH_INSTANCE": "order-1", **environ})


def now() -> Scraped:
    return Scraped(reporting.page(settings()))


@asynccontextmanager
async def reported(**environ: str) -> AsyncIterator[None]:
    task = asyncio.create_task(reporting.report(settings(**environ)))
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_every_rpc_is_counted_on_both_sides_and_a_refusal_is_no_error_of_the_server(
    echo: Echo, address: str, issuer: Issuer
) -> None:
    async def say(request: object, context: object) -> object:
        match getattr(request, "text", ""):
            case "refuse":
                raise CupsGone
            case "move":
                raise StreamMoved
            case "break":
                raise ZeroDivisionError
        return request

    echo.say = say
    before = now()
    async with calling(address, issuer) as stub:
        for text in ("fine", "fine", "refuse", "move", "break"):
            await outcome(stub.Say(Text(text=text)))
        _ = [each async for each in stub.Watch(Text(text="1"))]

    def more(side: str, method: str, **labels: str) -> float:
        name, method = f"rpc_{side}_call_duration_seconds_count", f"{SERVICE}/{method}"
        return now().sum(name, rpc_method=method, **labels) - before.sum(name, rpc_method=method, **labels)

    async def counted() -> bool:
        return more("server", "Watch") == 1

    await eventually(counted, "the server has counted the last call")
    for side in ("server", "client"):
        assert more(side, "Say", rpc_response_status_code="OK", error_type="", shop_reason="") == 2
        assert more(side, "Say", rpc_response_status_code="INTERNAL", error_type="INTERNAL") == 1
        assert more(side, "Watch", rpc_response_status_code="OK") == 1
    refused = {"rpc_response_status_code": "FAILED_PRECONDITION", "shop_reason": "CUPS_GONE"}
    assert more("server", "Say", error_type="", **refused) == 1
    assert more("client", "Say", error_type="FAILED_PRECONDITION", server_address="echo", **refused) == 1
    moved = {"rpc_response_status_code": "UNAVAILABLE", "shop_reason": "STREAM_MOVED"}
    assert more("server", "Say", error_type="", **moved) == 1, "its time was over, nothing went wrong"
    assert more("client", "Say", error_type="UNAVAILABLE", **moved) == 1


async def test_all_is_sent_to_the_endpoint_and_once_more_at_the_end() -> None:
    async with receiving() as receiver:
        async with reported(SHOPMESH_OTLP_ENDPOINT=receiver.endpoint):

            async def has_come() -> bool:
                return receiver.requests > 0 and bool(receiver.newest)

            await eventually(has_come, "the first of all reports")
            before = receiver.scraped().value("test_reporting_clicks_total", job="order", instance="order-1")
            _clicks.add(by=3)

        assert receiver.scraped().value("test_reporting_clicks_total", job="order", instance="order-1") == before + 3
        assert receiver.scraped().value("process_memory_usage_bytes") > 1e6
        assert receiver.scraped().value("process_cpu_time_seconds_total", cpu_mode="user") > 0


async def test_no_proxy_comes_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    for name in ("grpc_proxy", "https_proxy", "no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with receiving() as receiver, reported(SHOPMESH_OTLP_ENDPOINT=receiver.endpoint):

        async def has_come() -> bool:
            return bool(receiver.newest)

        await eventually(has_come, "a report")


def test_a_number_that_cannot_be_read_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(vitals, "_STATM", tmp_path / "away")

    assert not list(now().of("process_memory_usage_bytes"))
    assert now().value("process_uptime_seconds") > 0


async def test_nobody_at_the_endpoint_is_a_line_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "EVERY_S", 0.01)
    endpoint = f"http://127.0.0.1:{free_port()}"
    with capture_logs() as lines:
        async with reported(SHOPMESH_OTLP_ENDPOINT=endpoint):

            async def said() -> bool:
                return bool(lines)

            await eventually(said, "the line")
            await asyncio.sleep(0.2)  # twenty more attempts

    assert [(line["event"], line["endpoint"], line["code"]) for line in lines] == [
        ("nobody takes the metrics", endpoint, "UNAVAILABLE")
    ]


async def test_a_frozen_endpoint_delays_the_end_by_half_a_second_at_most() -> None:
    async with receiving() as receiver:
        receiver.is_frozen = True
        async with reported(SHOPMESH_OTLP_ENDPOINT=receiver.endpoint):

            async def asked() -> bool:
                return receiver.requests > 0

            await eventually(asked, "a report that nobody takes")
            ending = asyncio.get_running_loop().time()

        assert asyncio.get_running_loop().time() - ending < reporting.ANSWER_S


async def test_a_process_shows_its_numbers_to_this_machine_only() -> None:
    with capture_logs() as lines:
        async with reported(SHOPMESH_METRICS="127.0.0.1:0"), httpx.AsyncClient(trust_env=False) as http:

            async def shown() -> bool:
                return any(line["event"] == "metrics are shown" for line in lines)

            await eventually(shown, "the page")
            (page,) = (line["page"] for line in lines)
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/metrics", page)
            seen = await http.get(page)
            by_name = await http.get(page, headers={"Host": "localhost:80"})
            foreign = await http.get(page, headers={"Host": "evil.example"})
            nameless = await http.get(page, headers={"Host": ""})
            elsewhere = await http.get(page.removesuffix("/metrics"))
            posted = await http.post(page)

    assert seen.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert Scraped(seen.text).value("target_info", service_name="order", service_instance_id="order-1") == 1
    assert list(Scraped(seen.text).of("test_reporting_clicks_total"))
    answers = (seen, by_name, foreign, nameless, elsewhere, posted)
    assert [answer.status_code for answer in answers] == [200, 200, 421, 421, 404, 404]
    assert "clicks" not in foreign.text + nameless.text


async def test_an_address_that_is_taken_ends_the_process_with_a_clear_line() -> None:
    taken = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    async with taken:
        address = f"127.0.0.1:{taken.sockets[0].getsockname()[1]}"
        with pytest.RaisesGroup(
            pytest.RaisesExc(CannotStart, match=f"SHOPMESH_METRICS={address} cannot be bound: Address already in use$")
        ):
            await reporting.report(settings(SHOPMESH_METRICS=address))


async def test_nothing_runs_where_nobody_wants_to_know() -> None:
    async with asyncio.timeout(60):
        await reporting.report(settings())
