"""The pages over a store that has what it was told, asked as a browser asks."""

import html
import re
import zipfile
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.log_files import Line
from services.telemetry.model import LineQuery, TooLong, TraceQuery
from services.telemetry.web import Place, application
from tests.support.told_store import A_LINE, A_SPAN, BEGAN_NS, MS, ORDER, TRACE, ToldStore

ELSE = "ab" * 16
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'\x00\x1b[2J\u202egnp.exe"
READ = ("/", "/logs", "/orders", f"/orders/{ORDER[7:]}", f"/logs?order={ORDER}", f"/logs?trace={TRACE}")


@pytest.fixture
def store(told: ToldStore) -> ToldStore:
    """With two traces and three lines."""
    told.forget()
    told.spans += [
        replace(A_SPAN, attributes={"shop.order": ORDER}),
        replace(A_SPAN, span_id="00f067aa0ba902b7", parent_id=A_SPAN.span_id, service="inventory", name="Reserve"),
        replace(A_SPAN, trace_id=ELSE, start_ns=BEGAN_NS + 50 * MS, end_ns=BEGAN_NS + 51 * MS, name="GetOrder"),
    ]
    told.tell(
        A_LINE._replace(message="placed", trace_id=TRACE, order=ORDER, fields={"code": "OK"}),
        A_LINE._replace(message="out of stock", level="warning", service="inventory", instance="inventory-2"),
        A_LINE._replace(message="bad gateway", level="error", service="envoy", instance="envoy", trace_id=TRACE),
    )
    return told


@pytest.fixture(scope="module")
def told() -> ToldStore:
    return ToldStore()


@pytest.fixture(scope="module")
def jar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shaped as Zipkin Lens is."""
    path = tmp_path_factory.mktemp("lens") / "lens.jar"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "zipkin-lens/index.html", '<base href="/zipkin/"><script src="/zipkin/static/js/a.js"></script>'
        )
        archive.writestr("zipkin-lens/static/js/a.js", "1")
        archive.writestr("secret.txt", "not to be had")
    return path


def browser(store: ToldStore, place: Place, numbers: Callable[[], str] = str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(application(store, place, numbers))
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8026")


@pytest.fixture(scope="module")
async def pages(told: ToldStore, jar: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with browser(told, Place(lens=jar)) as client:
        yield client


@pytest.fixture
async def web(pages: httpx.AsyncClient, store: ToldStore) -> httpx.AsyncClient:
    return pages


def text(page: httpx.Response) -> str:
    """What a reader sees, and what a screen reader says."""
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page.text)))


async def test_lines_are_shown_newest_first_with_ways_to_their_trace_and_order(web: httpx.AsyncClient) -> None:
    page = await web.get("/logs")
    assert page.status_code == 200
    assert text(page).index("bad gateway") < text(page).index("out of stock") < text(page).index("placed")
    assert f'href="/zipkin/traces/{TRACE}"' in page.text
    assert f'href="/{ORDER}"' in page.text
    assert "code= OK" in text(page)


async def test_the_lines_of_a_trace_are_read_in_order_and_lead_back_to_it(web: httpx.AsyncClient) -> None:
    page = await web.get("/logs", params={"trace": TRACE})
    assert text(page).index("placed") < text(page).index("bad gateway")
    assert "out of stock" not in text(page)
    assert f'<a href="/zipkin/traces/{TRACE}">the trace</a>' in page.text
    assert "its lines" not in page.text


async def test_what_a_line_tells_begins_with_what_says_most(web: httpx.AsyncClient, store: ToldStore) -> None:
    fields = {"listener": "edge", "method": "POST", "flags": "-", "path": "/shop.v1/Sell", "caller": None, "code": 200}
    store.tell(A_LINE._replace(message="call", fields=fields))
    assert "call path= /shop.v1/Sell code= 200 listener= edge" in text(await web.get("/logs"))


async def test_filters_are_asked_of_the_store_and_stay_in_the_form(web: httpx.AsyncClient, store: ToldStore) -> None:
    page = await web.get("/logs", params={"service": "inventory", "level": "warning", "text": 'say "stock"'})
    assert store.asked[-1] == LineQuery(service="inventory", level="warning", text='say "stock"')
    assert '<option value="inventory" selected>' in page.text
    assert "<option selected>warning</option>" in page.text
    assert 'value="say &#34;stock&#34;"' in page.text


async def test_older_lines_are_one_link_away_and_the_filters_go_along(web: httpx.AsyncClient, store: ToldStore) -> None:
    store.tell(*(A_LINE._replace(message=f"line number {number}", level="error") for number in range(300)))
    first = await web.get("/logs?level=error")
    assert "line number 299" in text(first)
    assert "line number 99 " not in text(first)
    [older, *_] = re.findall(r'href="(/logs\?[^"]*before=[^"]*)"', first.text)
    second = await web.get(html.unescape(older))
    assert "line number 99 " in text(second)
    assert "line number 100" not in text(second)
    assert "bad gateway" in text(second)
    assert "placed" not in text(second)
    assert "before=" not in second.text  # there are none older
    assert "before=" in (await web.get("/logs?level=error&limit=50")).text


async def test_lines_of_one_moment_are_neither_lost_nor_shown_twice_between_pages(
    web: httpx.AsyncClient, store: ToldStore
) -> None:
    store.forget()
    store.tell(*(A_LINE._replace(message=f"line {number}") for number in range(25)))
    told, before = list[str](), ""
    while lines := (await web.get(f"/api/logs?limit=4{before}")).json()["lines"]:
        told[:0] = [line["message"] for line in lines]
        before = f"&before={lines[0]['id']}"
        assert len(told) <= 25
    assert told == [f"line {number}" for number in range(25)]


async def test_a_page_that_follows_reloads_itself_without_a_script(web: httpx.AsyncClient) -> None:
    followed = await web.get("/logs?follow=1&service=order")
    assert '<meta http-equiv="refresh"' in followed.text
    assert 'href="/logs?service=order">stop' in followed.text
    assert "http-equiv" not in (await web.get("/logs?service=order")).text


async def test_the_overview_says_aloud_what_was_dropped(web: httpx.AsyncClient, store: ToldStore) -> None:
    assert "dropped since" not in text(await web.get("/"))
    store.now = replace(store.now, dropped_spans={"the queue was full": 12}, dropped_lines={"the disk is full": 3})
    page = await web.get("/")
    assert "15 spans and lines were dropped since the store started; why stands below" in text(page)
    assert "12: the queue was full" in text(page)
    assert "3: the disk is full" in text(page)


async def test_the_overview_says_when_everything_goes_elsewhere(store: ToldStore) -> None:
    async with browser(store, Place(collector="http://collector.test:4317")) as web:
        assert "go to http://collector.test:4317 , as SHOPMESH_OTLP_ENDPOINT asks for" in text(await web.get("/"))
        answer = await web.get("/api/logs")
        assert (answer.status_code, answer.json()) == (503, {"error": "lines go to http://collector.test:4317"})


async def test_lens_is_served_with_its_files_and_its_deep_links(web: httpx.AsyncClient) -> None:
    index = await web.get("/zipkin/")
    script = await web.get("/zipkin/static/js/a.js")
    assert index.status_code == 200
    assert script.headers["content-type"].startswith("text/javascript")
    for path in ("/zipkin/traces/" + TRACE, "/zipkin/dependency", "/zipkin/../secret.txt", "/zipkin/%2e%2e/secret.txt"):
        assert (await web.get(path, follow_redirects=True)).text in (index.text, (await web.get("/secret.txt")).text)
    assert (await web.get("/zipkin")).headers["location"] == "/zipkin/"


async def test_traces_begin_with_the_newest_of_an_hour(web: httpx.AsyncClient) -> None:
    led = await web.get("/traces")
    assert led.status_code == 303
    assert re.fullmatch(r"/zipkin/\?lookback=1h&endTs=\d{13}&limit=20", led.headers["location"])


async def test_metrics_are_what_prometheus_reads(store: ToldStore) -> None:
    async with browser(store, Place(), lambda: "shop_orders 1\n") as web:
        page = await web.get("/metrics")
    assert page.text == "shop_orders 1\n"
    assert page.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


async def test_lens_leads_back_to_the_lines_of_a_trace(web: httpx.AsyncClient) -> None:
    config = (await web.get("/zipkin/config.json")).json()
    assert config["logsUrl"] == "http://127.0.0.1:8026/logs?trace={traceId}"


@pytest.mark.parametrize("broken", [False, True])
async def test_without_lens_everything_else_works_and_says_what_is_missing(
    store: ToldStore,
    tmp_path: Path,
    broken: bool,
) -> None:
    jar = tmp_path / "zipkin-lens-3.4.3.jar"
    if broken:
        jar.write_text("half of i")
    async with browser(store, Place(lens=jar)) as web:
        missing = await web.get("/zipkin/traces/" + TRACE)
        assert missing.status_code == 503
        assert "make run tries again" in text(missing)
        assert str(jar) in text(missing)
        assert "Zipkin Lens, which draws them, is missing" in text(await web.get("/"))
        assert (await web.get("/logs")).status_code == 200
        assert (await web.get(f"/zipkin/api/v2/trace/{TRACE}")).status_code == 200


async def test_zipkins_api_answers_what_lens_asks(web: httpx.AsyncClient, store: ToldStore) -> None:
    async def get(path: str) -> Any:
        answer = await web.get(f"/zipkin/api/v2/{path}")
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/json"
        return answer.json()

    assert await get("services") == ["envoy", "inventory", "order"]
    assert await get("spans?serviceName=order") == ["GetOrder", "PlaceOrder"]
    assert await get("remoteServices?serviceName=order") == ["product"]
    assert await get("autocompleteKeys") == ["shop.order"]
    assert await get("autocompleteValues?key=shop.order") == [ORDER]
    newest, older = await get("traces?limit=10")
    assert [span["name"] for span in newest] == ["GetOrder"]
    assert [span["name"] for span in older] == ["PlaceOrder", "Reserve"]
    assert await get(f"trace/{TRACE}") == older
    assert await get(f"traceMany?traceIds={TRACE},{ELSE},{'0' * 32}") == [older, newest]
    [link] = await get("dependencies?endTs=1790000000000&lookback=1000")
    assert link == {"parent": "order", "child": "product", "callCount": 3, "errorCount": 1}
    assert store.asked[-1] == ((1790000000000 - 1000) * MS, 1790000000000 * MS + 999_999)
    assert await get("traces?serviceName=order&remoteServiceName=inventory") == [older]
    assert await get("traces?serviceName=inventory&remoteServiceName=order") == []


async def test_traces_are_found_by_an_orders_name(web: httpx.AsyncClient, store: ToldStore) -> None:
    [found] = (await web.get("/zipkin/api/v2/traces", params={"annotationQuery": f"shop.order={ORDER}"})).json()
    assert found[0]["traceId"] == TRACE
    asked = store.asked[-1]
    assert isinstance(asked, TraceQuery)
    assert asked.order == ORDER


@pytest.mark.parametrize("path", ["/api/traces/" + "0" * 32, "/zipkin/api/v2/trace/abc123", "/zipkin/api/v2/nothing"])
async def test_what_is_not_there_is_404_in_json(web: httpx.AsyncClient, path: str) -> None:
    answer = await web.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"]


async def test_programs_read_lines_oldest_first_and_follow_by_their_ids(web: httpx.AsyncClient) -> None:
    answer = (await web.get("/api/logs")).json()
    assert answer["last"] == 3
    assert answer["lines"][0] == {
        "id": 1, "time": "2026-09-21T14:13:20.000000Z", "level": "info", "service": "order", "instance": "order-1",
        "message": "placed", "trace_id": TRACE, "span_id": "", "order": ORDER, "fields": {"code": "OK"},
    }  # fmt: skip
    later = (await web.get("/api/logs?after=1&limit=1")).json()
    assert [line["message"] for line in later["lines"]] == ["out of stock"]
    assert later["last"] == 3
    assert (await web.get("/api/logs?service=nobody")).json() == {"lines": [], "last": 3}


async def test_programs_read_whole_spans_by_trace_and_by_order(web: httpx.AsyncClient) -> None:
    one = (await web.get(f"/api/traces/{TRACE}")).json()
    of_order = (await web.get("/api/traces", params={"order": ORDER})).json()
    assert one["trace_id"] == TRACE
    assert [span["name"] for span in one["spans"]] == ["PlaceOrder", "Reserve"]
    assert one["spans"][0] == {
        "trace_id": TRACE, "span_id": A_SPAN.span_id, "parent_id": "", "service": "order", "instance": "order-1",
        "name": "PlaceOrder", "kind": "SERVER", "start_ns": BEGAN_NS, "end_ns": BEGAN_NS + 12 * MS, "status": "UNSET",
        "status_message": "", "attributes": {"shop.order": ORDER}, "events": [], "links": [],
    }  # fmt: skip
    assert of_order == {"traces": [one]}


@pytest.mark.parametrize("path", [*READ, "/logs?follow=1"])
async def test_whatever_strangers_wrote_stays_text(web: httpx.AsyncClient, store: ToldStore, path: str) -> None:
    store.spans += [
        replace(
            A_SPAN, span_id="1" * 16, service=HOSTILE, instance=HOSTILE, name=HOSTILE,
            attributes={HOSTILE: HOSTILE, "shop.order": ORDER}, status="ERROR", status_message=HOSTILE,
        )
    ]  # fmt: skip
    store.tell(
        A_LINE._replace(
            service=HOSTILE, instance=HOSTILE, message=HOSTILE, trace_id=TRACE, order=ORDER,
            fields={HOSTILE: HOSTILE, "exception": HOSTILE},
        ),
        A_LINE._replace(message="leads astray", trace_id='"><b>', order="/evil.test"),
    )  # fmt: skip
    store.now = replace(store.now, dropped_spans={HOSTILE: 1})

    page = await web.get(path)

    assert page.status_code in (200, 404)
    assert "<script" not in page.text
    assert "<img" not in page.text
    assert '<b>"' not in page.text
    assert not re.search(r'href="(?!/[^/]|/"|#)', page.text)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", page.text)


async def test_megabytes_in_a_line_do_not_make_megabytes_of_a_page(web: httpx.AsyncClient, store: ToldStore) -> None:
    large = "x" * 1_000_000
    store.tell(*(A_LINE._replace(message=large, fields={"a": large, "exception": large}) for _ in range(20)))
    assert len((await web.get("/logs")).content) < 500_000
    document = await web.get("/api/logs?limit=5000")
    assert len(document.content) < 5_000_000
    assert document.json()["lines"][-1]["message"].endswith("(980000 more characters)")


@pytest.mark.parametrize(
    "path",
    [
        "/logs?level=loud",
        "/logs?since=yesterday&text=kept",
        "/logs?trace=%3Cscript%3E",
        "/logs?order=nothing",
        "/logs?limit=99999999999999999999999",
        "/logs?text=%00",
        "/logs?before=1.5",
        "/logs?colour=red",
        "/orders?state=SOLD",
        "/orders?before=never",
        "/orders/nothing",
        "/orders/%3Cscript%3E",
        "/api/logs?limit=0",
        "/api/logs?q=misspelt",
        "/api/traces?order=%F0%9F%AB%96",
        "/api/traces/not-hexadecimal",
        "/zipkin/api/v2/traces?limit=-1",
        "/zipkin/api/v2/traces?endTs=soon",
        "/zipkin/api/v2/trace/xyz",
        "/zipkin/api/v2/traceMany?traceIds=",
        "/zipkin/api/v2/traceMany?traceIds=" + "1," * 60 + "1",
        "/zipkin/api/v2/dependencies?endTs=1e9",
    ],
)
async def test_a_question_that_means_nothing_is_a_friendly_400(web: httpx.AsyncClient, path: str) -> None:
    answer = await web.get(path)
    assert answer.status_code == 400
    if "/api/" in path:
        assert len(answer.json()["error"]) > 10
    else:
        assert 'role="alert"' in answer.text
        assert "<script" not in answer.text


async def test_a_form_that_was_not_understood_keeps_what_was_written(web: httpx.AsyncClient) -> None:
    page = await web.get("/logs?since=yesterday&text=kept")
    assert 'value="yesterday"' in page.text
    assert 'value="kept"' in page.text


@pytest.mark.parametrize("path", [*READ, "/pages.css", "/api/logs", "/zipkin/", "/zipkin/api/v2/services", "/nothing"])
async def test_every_answer_is_guarded(web: httpx.AsyncClient, path: str) -> None:
    headers = (await web.get(path)).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    rules = dict(rule.strip().partition(" ")[::2] for rule in headers["content-security-policy"].split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["frame-ancestors"] == "'none'"
    assert ("script-src" in rules) == path.startswith("/zipkin/") * (not path.startswith("/zipkin/api"))
    assert "unsafe-eval" not in headers["content-security-policy"]


@pytest.mark.parametrize("host", ["evil.test", "evil.test:8026", "127.0.0.1.evil.test", "localhost.evil.test", "[bad"])
@pytest.mark.parametrize("path", ["/", "/logs", "/api/logs", "/zipkin/api/v2/services"])
async def test_foreign_host_names_are_refused(web: httpx.AsyncClient, path: str, host: str) -> None:
    assert (await web.get(path, headers={"Host": host})).status_code == 421


async def test_the_names_of_this_machine_are_answered(web: httpx.AsyncClient) -> None:
    for host in ("localhost:8026", "127.0.0.1", "[::1]:8026"):
        assert (await web.get("/logs", headers={"Host": host})).status_code == 200, host


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Origin": "http://evil.test"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:9999"}, 403),
        ({"Origin": "http://127.0.0.1:8026"}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}, 403),
        ({"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 200),
    ],
)
async def test_only_our_own_pages_read_by_script_and_anybody_may_link(
    web: httpx.AsyncClient, headers: dict[str, str], code: int
) -> None:
    assert (await web.get("/api/logs", headers=headers)).status_code == code


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_there_is_nothing_to_change(web: httpx.AsyncClient, method: str) -> None:
    paths = (*READ, "/api/logs", "/api/traces", f"/api/traces/{TRACE}", "/zipkin/", "/zipkin/api/v2/spans", "/nothing")
    for path in paths:
        assert (await web.request(method, path)).status_code in (404, 405), path


@pytest.mark.parametrize("path", READ)
async def test_a_page_loads_nothing_but_its_stylesheet(web: httpx.AsyncClient, path: str) -> None:
    page = await web.get(path)
    assert re.findall(r"<(?:link|script|img|iframe|style)[^>]*>", page.text) == [
        '<link rel="stylesheet" href="/pages.css">'
    ]
    assert "style=" not in page.text
    assert "url(" not in (await web.get("/pages.css")).text


@pytest.mark.parametrize("path", READ)
async def test_a_page_is_usable_by_keyboard_and_screen_reader(web: httpx.AsyncClient, path: str) -> None:
    page = (await web.get(path)).text
    assert '<html lang="en">' in page
    assert '<a class="skip" href="#main">' in page
    assert len(re.findall("<h1", page)) == 1
    for field in re.findall(r"<(?:input|select)[^>]*>", page):
        assert re.search(r"<label[^>]*>[^<]+" + re.escape(field), page), f"{field} has no label"
    assert len(re.findall("<th ", page)) == len(re.findall(r'<th scope="', page))


@pytest.mark.parametrize("path", ["/logs", "/api/logs", "/zipkin/api/v2/traces"])
async def test_a_question_that_takes_too_long_is_told(
    web: httpx.AsyncClient, store: ToldStore, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def long(_: object) -> list[Line]:
        raise TooLong("this takes too long: narrow it")

    monkeypatch.setattr(store, "lines", long)
    monkeypatch.setattr(store, "traces", long)
    answer = await web.get(path)
    assert answer.status_code == 503
    assert "narrow it" in answer.text


async def test_of_traces_that_lead_to_a_service_the_newest_are_shown_not_those_of_the_newest(
    web: httpx.AsyncClient,
) -> None:
    answer = await web.get("/zipkin/api/v2/traces?serviceName=order&remoteServiceName=inventory&limit=1")
    assert [trace[0]["traceId"] for trace in answer.json()] == [TRACE]
