"""`shopmesh deadletters` against a Notification at the edge's port, and its database."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import grpc
import pytest
from click.testing import CliRunner, Result
from shop.notification.v1 import notification_pb2 as pb
from shop.notification.v1.config_pb2 import NotificationConfig
from shop.notification.v1.notification_pb2_grpc import add_NotificationServiceServicer_to_server
from structlog.testing import capture_logs

from services.chassis.database import Database
from services.cli.__main__ import main
from services.cli.local.state import StateFolder
from services.cli.shop.redriving import content, operator, shown
from services.failure import Failure
from services.notification.api import NotificationApi
from services.notification.domain import Garbled, State, Verdict
from services.notification.events import understand
from services.notification.letters import letter
from services.notification.store import SqlNotifications
from services.notification.use_cases import Mending, Showing
from tests.support.issuer import Issuer, running_issuer
from tests.support.notification import claimed, event, keep, order_placed, placed
from tests.support.ports import free_port
from tests.support.postgres import Postgres
from tests.support.serving import serving_at


@dataclass(slots=True)
class Shop:
    """As much of a shop as the command asks."""

    folder: StateFolder
    database: Database
    notifications: SqlNotifications

    async def said(self, *words: str, answer: str = "") -> Result:
        """What `shopmesh deadletters WORDS` says. In a thread: the edge answers in this one."""
        runner, environment = CliRunner(), {"SHOPMESH_STATE": str(self.folder.path)}
        return await asyncio.to_thread(runner.invoke, main, ["deadletters", *words], input=answer, env=environment)

    async def given_up(self, reason: str = "550 no such user") -> str:
        news = placed()
        await keep(self.notifications, news)
        [attempt] = await claimed(self.notifications)
        await self.notifications.settle([Verdict(attempt, State.FAILED, error=reason)])
        return str(news.notification_id)

    async def buried(self, payload: bytes, **headers: str) -> str:
        garbled = Garbled(event(payload=payload, **headers), "no protobuf")
        await self.notifications.bury([garbled])
        return str(garbled.dead_letter_id)


@pytest.fixture(scope="module")
async def issuer() -> AsyncIterator[Issuer]:
    with running_issuer() as issuer:
        issuer.roles["oscar"] = ["operator"]
        yield issuer


@pytest.fixture
async def shop(tmp_path: Path, postgres: Postgres, issuer: Issuer) -> AsyncIterator[Shop]:
    folder, sizes = StateFolder(tmp_path), NotificationConfig(default_page_size=2, max_page_size=2)
    async with postgres.database("services.notification") as database:
        notifications = SqlNotifications(database)
        mending = Mending(notifications, understand, letter, mended=lambda: None)
        api = NotificationApi(Showing(notifications), mending, lambda: sizes)
        async with serving_at(add_NotificationServiceServicer_to_server, api, issuer) as edge:
            ports = {"edge": int(edge.rpartition(":")[2])}
            with folder.hold(), capture_logs():  # the command's own words alone
                folder.write({"pid": os.getpid(), "ready": True, "ports": ports, "issuer": issuer.url, "parts": []})
                yield Shop(folder, database, notifications)


async def test_all_that_wait_are_listed_also_over_several_pages(shop: Shop) -> None:
    assert (await shop.said("list")).output == "no dead letter waits\n"
    ids = [await shop.given_up() for _ in range(3)] + [await shop.buried(b"\xff") for _ in range(2)]

    table, rows = (await shop.said("list")).output, json.loads((await shop.said("list", "--json")).output)

    assert [row["name"] for row in rows] == [f"deadLetters/{id}" for id in reversed(ids)]
    assert {"event_type", "event_id", "order", "reason", "attempts", "create_time"} < set(rows[0])
    assert [line.split()[0] for line in table.splitlines()[::2]] == [row["name"] for row in rows]
    assert table.count("after 1 attempt(s): 550 no such user") == 3


async def test_one_and_several_are_redriven_without_a_question(shop: Shop) -> None:
    first, second, third = [await shop.given_up() for _ in range(3)]

    done = await shop.said("redrive", first, f"deadLetters/{second.upper()}")

    assert done.exit_code == 0
    assert [line.split()[:2] for line in done.output.splitlines()] == [
        ["redriven", f"deadLetters/{first}"],
        ["redriven", f"deadLetters/{second}"],
    ]
    assert [str(dead.id) for dead in await shop.notifications.open_page(9, None)] == [third]


@pytest.mark.parametrize(("verb", "ending"), [("redrive", "READY"), ("discard", "FAILED")])
async def test_all_are_ended_after_it_was_told_how_many_they_are(shop: Shop, verb: str, ending: str) -> None:
    assert (await shop.said(verb, "--all")).output == "no dead letter waits\n"
    for _ in range(3):
        await shop.given_up()

    refused = await shop.said(verb, "--all", answer="n\n")
    assert refused.exit_code == 1
    assert f"{verb} 3 dead letters" in refused.output
    assert len(await shop.notifications.open_page(9, None)) == 3

    done = await shop.said(verb, "--all", answer="y\n")
    assert done.exit_code == 0
    assert not await shop.notifications.open_page(9, None)
    states = await shop.database.fetch("select state from notifications")
    assert [row["state"] for row in states] == [ending] * 3


async def test_one_is_discarded_after_a_question_or_with_yes(shop: Shop) -> None:
    first, second = await shop.given_up(), await shop.given_up()

    assert "discard 1 dead letter for good?" in (await shop.said("discard", first)).output
    assert len(await shop.notifications.open_page(9, None)) == 2

    done = await shop.said("discard", first, second, "--yes")
    assert done.output.count("discarded deadLetters/") == 2
    assert not await shop.notifications.open_page(9, None)


async def test_what_is_refused_is_told_and_hinders_no_other(shop: Shop) -> None:
    garbled, good, nothing = await shop.buried(b""), await shop.given_up(), str(uuid4())

    done = await shop.said("redrive", garbled, nothing, good)

    assert done.exit_code == 1
    assert f"{garbled}: its event cannot be understood even now: order: value is required" in done.output
    assert f"{nothing}: no such dead letter waits" in done.output
    assert f"redriven deadLetters/{good}" in done.output


@pytest.mark.parametrize("words", [["redrive"], ["discard", "--all", str(uuid4())]])
async def test_which_ones_are_meant_must_be_said_and_how_is_told(shop: Shop, words: list[str]) -> None:
    done = await shop.said(*words)

    assert done.exit_code == 2
    assert "write which ones, or --all alone" in done.output


async def test_what_is_no_name_is_told(shop: Shop) -> None:
    assert "42 is no dead letter" in (await shop.said("redrive", "42")).output


async def test_an_edge_or_a_keycloak_that_is_away_is_told(shop: Shop, issuer: Issuer) -> None:
    issuer.away = True
    assert "Keycloak fails" in (await shop.said("list")).output
    issuer.away = False
    port = free_port()
    shop.folder.write({**shop.folder.written(), "ports": {"edge": port}})

    done = await shop.said("list")

    assert done.exit_code == 1
    assert f"no use of Notification behind the edge at 127.0.0.1:{port} (UNAVAILABLE" in done.output
    assert "shopmesh status" in done.output


# --- what is in one


async def test_an_event_is_shown_as_far_as_it_can_be_read(shop: Shop, postgres: Postgres) -> None:
    said = order_placed()
    said.order.lines[0].display_name = "M\u00fcg\x1b[2J\u202e"
    readable = await shop.buried(said.SerializeToString(), traceparent="00-ab")
    unreadable = await shop.buried(b"\xff\x1b" * 200)
    url = postgres.url(await shop.database.fetchval("select current_database()"), "audit")

    told, dark = [await content(url, f"deadLetters/{id}") for id in (readable, unreadable)]

    assert told["payload"]["recipient"] == said.recipient
    assert told["headers"] == {"traceparent": "00-ab"}
    page = shown(told)
    assert "M\u00fcg\\u001b[2J\\u202e" in page
    assert all(each.isprintable() or each == "\n" for each in page)
    assert dark["payload"].startswith("ff 1b ff 1b")
    assert dark["payload"].endswith(" ... of 400 bytes")


async def test_a_mail_is_shown_with_its_address_also_after_its_end(shop: Shop, postgres: Postgres) -> None:
    id = await shop.given_up("550 no\n\x1b[31msuch user")
    await shop.said("discard", id, "--yes")
    url = postgres.url(await shop.database.fetchval("select current_database()"), "audit")

    told = await content(url, f"deadLetters/{id}")

    assert (told["state"], told["mail"]["recipient"], told["mail"]["state"]) == (
        "DISCARDED", "ann@example.com", "FAILED",
    )  # fmt: skip
    assert "reason       550 no\\n\\x1b[31msuch user\n" in shown(told)


async def test_what_never_was_and_a_database_that_is_away_are_told(shop: Shop, postgres: Postgres) -> None:
    url = postgres.url(await shop.database.fetchval("select current_database()"), "audit")

    with pytest.raises(Failure, match="there is no dead letter"):
        await content(url, f"deadLetters/{uuid4()}")
    with pytest.raises(Failure, match="does not answer"):
        await content(f"postgresql://audit@127.0.0.1:{free_port()}/notification", f"deadLetters/{uuid4()}")


# --- at an edge that counts


async def test_an_edge_that_takes_no_more_calls_for_now_is_waited_for() -> None:
    answers = iter([grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.OK])

    async def discard(
        request: pb.DiscardDeadLetterRequest,
        context: grpc.aio.ServicerContext[pb.DiscardDeadLetterRequest, pb.DiscardDeadLetterResponse],
    ) -> pb.DiscardDeadLetterResponse:
        context.set_code(next(answers))
        return pb.DiscardDeadLetterResponse(dead_letter=pb.DeadLetter(name=request.name))

    handler = grpc.unary_unary_rpc_method_handler(
        discard, pb.DiscardDeadLetterRequest.FromString, pb.DiscardDeadLetterResponse.SerializeToString
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        [
            grpc.method_handlers_generic_handler(
                "shop.notification.v1.NotificationService", {"DiscardDeadLetter": handler}
            )
        ]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    async with operator(f"127.0.0.1:{port}", "token") as oscar:
        assert (await oscar.end("discard", "deadLetters/1")).name == "deadLetters/1"

    assert not list(answers)
    await server.stop(None)
