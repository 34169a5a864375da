"""The story of an order, over the services' real tables."""

import asyncio
import html
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from uuid import uuid4

import httpx
import pytest

from services.order.contract import event_id
from services.story.databases import ThoseThatAnswer
from services.story.trail import trail
from services.telemetry import web_orders
from services.telemetry.web import Place, application
from tests.support.backstage import Backstage
from tests.support.proxy import proxy_to
from tests.support.told_store import A_LINE, A_SPAN, ToldStore
from tests.unit.order.fakes import MUGS, TERMS

TRACE = "0af7651916cd43dd8448eb211c80319c"
SOME_ORDER = "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed"
NOWHERE = "postgresql://audit@127.0.0.1:1/nothing"


@pytest.fixture
def store() -> ToldStore:
    return ToldStore()


@pytest.fixture
async def web(shop: Backstage, store: ToldStore) -> AsyncIterator[httpx.AsyncClient]:
    async with pages(store, shop.urls) as client:
        yield client


@asynccontextmanager
async def pages(store: ToldStore, databases: dict[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(application(store, Place(databases=databases)))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8026") as client:
        yield client


def text(page: httpx.Response) -> str:
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page.text)))


def in_this_order(shown: str, *wanted: str) -> None:
    for words in wanted:
        assert words in shown, words
        shown = shown[shown.index(words) :]


async def test_the_story_is_told_by_time_from_all_services(
    shop: Backstage, web: httpx.AsyncClient, store: ToldStore
) -> None:
    [order] = await shop.sold(1)
    async with shop.work():
        await shop.cancel(order)
        await shop.at_rest()
    parent = f"00-{TRACE}-b7ad6b7169203331-01"
    await shop.corrupt("order", f"update order_events set traceparent = '{parent}' where version = 2")
    store.spans.append(replace(A_SPAN, trace_id=TRACE, name="CancelOrder"))
    store.tell(A_LINE._replace(message="cancelled by its customer", order=f"orders/{order.id}", trace_id=TRACE))

    page = await web.get(f"/orders/{order.id}")

    assert page.status_code == 200
    shown = text(page)
    in_this_order(shown, f"Order {order.id} CANCELLED", "ann@example.com", "EUR 51.50", "RELEASED")
    in_this_order(shown, "inventory HELD mug: reserved +1 teapot: reserved +1", "order PLACED", "version 1")
    in_this_order(shown, "order PLACED", "sent OrderPlaced", f"event {event_id(order)}", "mail sent")
    in_this_order(shown, "inventory CONFIRMED", "mug: on hand -1, reserved -1", "order CANCELLED trace version 2")
    in_this_order(shown, "order CANCELLED", "inventory RELEASED", "mug: on hand +1")
    in_this_order(shown, "CancelOrder", "1 span", "cancelled by its customer")
    assert f'href="/zipkin/traces/{TRACE}"' in page.text
    assert 'class="pending"' not in page.text


async def test_what_is_still_to_come_stands_above_what_happened(shop: Backstage, web: httpx.AsyncClient) -> None:
    [order] = await shop.sold(1)
    await shop.corrupt(
        "order",
        "update orders set settled_time = null, attempts = 7, last_error = 'INVENTORY_UNAVAILABLE'",
        "update order_events set sent_time = null, unsent_time = now(), attempts = 1, last_error = 'BusUnavailable'",
    )
    await shop.corrupt(
        "notification",
        "update notifications set state = 'READY', send_time = null, last_error = '451 later'",
        "insert into dead_letters (id, event_type, event_id, reason, attempts)"
        f" values (gen_random_uuid(), 'shop.order.v1.OrderPlaced', '{event_id(order)}', 'recipient is no address', 1)",
    )
    await shop.corrupt("inventory", "update reservations set state = 'HELD'")

    shown = text(await web.get(f"/orders/{order.id}"))

    assert "to be settled with inventory (7 attempts, INVENTORY_UNAVAILABLE)" in shown
    assert "OrderPlaced is to be sent again (1 attempt, BusUnavailable)" in shown
    assert "the hold is good until" in shown
    assert "is to be sent (last error: 451 later)" in shown
    assert "dead letter, OPEN OrderPlaced: recipient is no address" in shown


async def test_an_order_that_nobody_knows_is_not_found(web: httpx.AsyncClient) -> None:
    page = await web.get(f"/orders/{uuid4()}")
    assert page.status_code == 404
    assert "There is no such order" in text(page)


async def test_of_no_order_there_may_be_a_reservation(shop: Backstage, web: httpx.AsyncClient) -> None:
    await shop.stock.reserve(id := uuid4(), MUGS, TERMS.hold_ttl)
    page = await web.get(f"/orders/{id}")
    assert page.status_code == 200
    in_this_order(text(page), "Order knows of no such order", "the hold is good until", "HELD mug: reserved +")


async def test_databases_that_are_away_are_named_and_the_rest_is_shown(shop: Backstage, store: ToldStore) -> None:
    [order] = await shop.sold(1)
    store.tell(A_LINE._replace(message="placed", order=f"orders/{order.id}"))
    async with pages(store, shop.urls | {"inventory": NOWHERE}) as web:
        shown = text(await web.get(f"/orders/{order.id}"))
        in_this_order(
            shown, "PLACED", "What inventory knows is missing here: the database of inventory does not answer"
        )
        in_this_order(shown, "sent OrderPlaced", "mail sent", "placed")
    async with pages(store, dict.fromkeys(shop.urls, NOWHERE)) as web:
        page = await web.get(f"/orders/{order.id}")
        assert page.status_code == 200
        in_this_order(text(page), "What order knows is missing", "The databases tell nothing", "placed")
        assert "the database of order does not answer" in text(await web.get("/orders"))


async def test_databases_that_say_nothing_do_not_hold_up_the_page(
    store: ToldStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_orders, "DATABASES_S", 0.2)
    store.tell(A_LINE._replace(message="placed", order=f"orders/{SOME_ORDER}"))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://audit@127.0.0.1:{silent.getsockname()[1]}/any"
        async with pages(store, dict.fromkeys(("order", "inventory", "notification"), url)) as web:
            shown = text(await web.get(f"/orders/{SOME_ORDER}"))
    in_this_order(shown, "What order knows is missing here: the database of order does not answer", "placed")


async def test_a_database_that_leaves_in_the_middle_is_away(shop: Backstage) -> None:
    [order] = await shop.sold(1)
    async with ThoseThatAnswer(shop.urls, 10) as databases:
        await _end_those_who_look(shop)
        found = await trail(databases, order.id)
    assert found.order is None
    assert len(found.notifications) == 1
    assert [*databases.away] == ["order"]


async def test_a_database_whose_leaving_is_half_heard_of_is_away(shop: Backstage) -> None:
    """Its last words are there, the end of the connection is not: asyncpg calls its own state an error then."""
    [order] = await shop.sold(1)
    async with proxy_to(shop.postgres.port) as proxy:
        urls = shop.urls | {"order": shop.urls["order"].replace(f":{shop.postgres.port}/", f":{proxy.port}/")}
        async with ThoseThatAnswer(urls, 10) as databases:
            proxy.ends.clear()
            await _end_those_who_look(shop)
            await asyncio.sleep(0.1)  # else it is the answer to the question that says so
            found = await trail(databases, order.id)
        proxy.ends.set()
    assert found.order is None
    assert [*databases.away] == ["order"]


async def _end_those_who_look(shop: Backstage) -> None:
    ended = "select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = 'audit'"
    await shop.corrupt("order", f"{ended} and datname = current_database()")


async def test_orders_are_found_by_name_customer_and_state(shop: Backstage, web: httpx.AsyncClient) -> None:
    first, second = await shop.sold(2)
    await shop.cancel(second)

    everybody = await web.get("/orders")
    assert {*re.findall(r'href="/orders/([0-9a-f-]{36})"', everybody.text)} == {str(first.id), str(second.id)}
    cancelled = text(await web.get("/orders?find=ann@example.com&state=CANCELLED"))
    assert str(second.id) in cancelled
    assert str(first.id) not in cancelled
    assert "No order is like that" in text(await web.get("/orders?find=nobody@example.com"))
    for name in (str(first.id), f"orders/{first.id}", f" {str(first.id).upper()} "):
        led = await web.get("/orders", params={"find": name})
        assert (led.status_code, led.headers["location"]) == (303, f"/orders/{first.id}")


async def test_orders_are_found_by_a_customer_whose_id_looks_like_an_orders(
    shop: Backstage, web: httpx.AsyncClient
) -> None:
    customer = uuid4()
    [order] = await shop.sold(1)
    await shop.corrupt("order", f"update orders set customer = '{customer}'")

    found = await web.get(f"/orders?find={customer}")
    assert f'href="/orders/{order.id}"' in found.text
    assert (await web.get(f"/orders?find=orders/{customer}")).headers["location"] == f"/orders/{customer}"


async def test_older_orders_are_one_link_away(shop: Backstage, web: httpx.AsyncClient) -> None:
    await shop.sold(1)
    await shop.corrupt(
        "order",
        "insert into orders (id, customer, request_id, email, state, version, lines, total_currency, total_units,"
        " total_nanos, create_time, update_time) select gen_random_uuid(), 'bob', n, 'bob@example.com', state, 1,"
        " lines, 'EUR', n, 0, now() - n * interval '10 minutes', now() from orders, generate_series(1, 60) n",
    )
    first = await web.get("/orders?find=bob")
    assert first.text.count("bob@example.com") == 50
    assert "EUR 50.00" in text(first)
    [older] = re.findall(r'href="(/orders\?[^"]*before=[^"]*)"', first.text)
    second = await web.get(html.unescape(older))
    assert second.text.count("bob@example.com") == 10
    in_this_order(text(second), "EUR 51.00", "EUR 60.00")
    assert "before=" not in second.text


async def test_orders_of_one_moment_are_all_on_some_page(shop: Backstage, web: httpx.AsyncClient) -> None:
    await shop.sold(1)
    await shop.corrupt(
        "order",
        "insert into orders (id, customer, request_id, email, state, version, lines, total_currency, total_units,"
        " total_nanos, create_time, update_time) select gen_random_uuid(), 'bob', n, 'bob@example.com', state, 1,"
        " lines, 'EUR', n, 0, now(), now() from orders, generate_series(1, 60) n",
    )
    first = await web.get("/orders?find=bob")
    [older] = re.findall(r'href="(/orders\?[^"]*before=[^"]*)"', first.text)
    second = await web.get(html.unescape(older))
    shown = re.findall(r'href="/orders/([0-9a-f-]{36})"', first.text + second.text)
    assert len(shown) == len({*shown}) == 60


async def test_many_pages_at_once_leave_the_databases_to_the_services(
    store: ToldStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_orders, "DATABASES_S", 0.2)
    now, most = 0, 0

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        while await reader.read(1000):
            pass
        now -= 1
        writer.close()

    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
        url = f"postgresql://audit@127.0.0.1:{server.sockets[0].getsockname()[1]}/any?sslmode=disable"
        async with pages(store, dict.fromkeys(("order", "inventory", "notification"), url)) as web:
            await asyncio.gather(*(web.get(f"/orders/{SOME_ORDER}") for _ in range(20)))
    assert 0 < most <= 3 * web_orders.MOST_LOOKS


HOSTILE = "<script>alert(1)</script>\u202e\"'"


async def test_what_the_tables_hold_stays_text(shop: Backstage, web: httpx.AsyncClient) -> None:
    [order] = await shop.sold(1)
    await shop.corrupt(
        "order",
        f"update orders set email = $${HOSTILE}$$, state_reason = $${HOSTILE}$$, request_id = $${HOSTILE}$$,"
        f" settled_time = null, last_error = $${HOSTILE}$$,"
        " lines = jsonb_set(lines, '{0,display_name}', to_jsonb($$" + HOSTILE + "$$::text))",
        f"update order_events set type = $${HOSTILE}$$, traceparent = $$00-{HOSTILE}-1-1$$",
    )
    await shop.corrupt("notification", f"update notifications set subject = $${HOSTILE}$$, recipient = $${HOSTILE}$$")
    for path in ("/orders", f"/orders/{order.id}"):
        page = await web.get(path)
        assert page.status_code == 200
        assert "&lt;script&gt;" in page.text
        assert "<script" not in page.text
        assert "\u202e" not in page.text
