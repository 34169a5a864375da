"""The lines of a process, sent to a real store, or to nobody: what it says to stdout stays the same."""

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from signal import SIGTERM
from typing import Any

import grpc
import httpx
import pytest

from services.chassis import logs, sending
from services.chassis.own_lines import LAST_WORD_S, also_sent
from services.chassis.settings import Settings
from tests.component.chassis.test_process import child
from tests.component.chassis.test_sending import dead, frozen
from tests.support.etcd import EtcdServer
from tests.support.issuer import Issuer
from tests.support.ruled_echo import EchoStub, Text
from tests.support.ruled_process import ORDER
from tests.support.telemetry import Telemetry
from tests.support.waiting import eventually

TRACE = "a" * 32


@pytest.fixture(scope="module")
def telemetry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Telemetry]:
    """As in a container: no files to read, and the environment that all processes have, which leads to itself."""
    folder = tmp_path_factory.mktemp("telemetry")
    store = Telemetry(folder, folder, {"SHOPMESH_LOGS": "", "SHOPMESH_OTLP_LOGS": "true"})
    store.more = {**store.more, "SHOPMESH_OTLP_ENDPOINT": endpoint_of(store)}
    store.start()
    yield store
    store.stop()


def endpoint_of(telemetry: Telemetry) -> str:
    return f"http://127.0.0.1:{telemetry.other_ports[0]}"


async def kept(telemetry: Telemetry, **query: str) -> list[dict[str, Any]]:
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(f"http://127.0.0.1:{telemetry.port}/api/logs", params=query)
    found: list[dict[str, Any]] = answer.raise_for_status().json()["lines"]
    return found


async def test_what_a_process_says_can_be_found_by_order_by_trace_and_to_its_last_word(
    telemetry: Telemetry, etcd: EtcdServer, issuer: Issuer, tmp_path: Path
) -> None:
    environ = {
        "SHOPMESH_ETCD": etcd.endpoint,
        "SHOPMESH_ISSUER": issuer.url,
        "SHOPMESH_OTLP_ENDPOINT": endpoint_of(telemetry),
        "SHOPMESH_OTLP_LOGS": "true",
    }
    with child(tmp_path, "product-heard", **environ) as process:
        address = (await process.said("registered"))["address"]
        async with grpc.aio.insecure_channel(address) as channel:
            header = [("traceparent", f"00-{TRACE}-{'b' * 16}-01")]
            await EchoStub(channel).Say(Text(text="an order"), metadata=header)

            async def of_the_order() -> list[dict[str, Any]]:
                return [line for line in await kept(telemetry, order=ORDER) if line["message"] == "said of the order"]

            (line,) = await eventually(of_the_order, "the line is found by its order")
            assert (line["level"], line["service"], line["instance"]) == ("warning", "product", "product-heard")
            assert (line["trace_id"], line["order"], line["fields"]) == (TRACE, ORDER, {"reason": "OUT_OF_STOCK"})
        process.tell(SIGTERM)
        assert await process.ended() == 0

        async def all_of_it() -> bool:
            arrived = await kept(telemetry, service="product-heard", limit="1000")
            return Counter(one["message"] for one in arrived) == Counter(one["message"] for one in process.lines())

        await eventually(all_of_it, "everything has arrived, also what it said last")
        assert process.lines("stopped")


async def test_the_store_keeps_its_own_lines_and_none_of_them_makes_another(telemetry: Telemetry) -> None:
    async def begun() -> bool:
        return "telemetry is taken" in [line["message"] for line in await kept(telemetry, service="telemetry")]

    await eventually(begun, "its first line")
    assert len(await kept(telemetry, service="telemetry", limit="1000")) < 10


def test_without_the_variable_nothing_is_taken_along() -> None:
    for environ in ({"SHOPMESH_OTLP_ENDPOINT": "http://127.0.0.1:1"}, {"SHOPMESH_OTLP_LOGS": "true"}):
        with also_sent(Settings.read("order", environ)):
            assert logs._Line.also is None


@pytest.mark.parametrize("nobody", [dead, frozen])
def test_lines_that_nobody_takes_hold_nothing_up(nobody: Any) -> None:
    def dropped() -> float:
        return sum(number for labels, number in sending._dropped.numbers() if labels["signal"] == "logs")

    before, line = dropped(), logs._Line("order", "order-1")
    with nobody() as endpoint:
        begun = time.monotonic()
        with also_sent(Settings.read("order", {"SHOPMESH_OTLP_ENDPOINT": endpoint, "SHOPMESH_OTLP_LOGS": "true"})):
            for number in range(2 * sending.MOST_WAITING):
                line(None, "info", {"event": "said", "number": number})
            said_s = time.monotonic() - begun
            begun = time.monotonic()
        ended_s = time.monotonic() - begun

    assert said_s < sending.ANSWER_S  # waiting for one answer would take that long
    assert ended_s < LAST_WORD_S + 1
    assert dropped() - before == 2 * sending.MOST_WAITING
    assert logs._Line.also is None


def test_the_variable_is_true_or_false() -> None:
    with pytest.raises(Exception, match="SHOPMESH_OTLP_LOGS must be true or false, not 'yes'"):
        Settings.read("order", {"SHOPMESH_OTLP_LOGS": "yes"})
