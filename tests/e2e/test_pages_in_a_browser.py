"""What a newcomer does after `make run`: from the name of an order to its trace, and on to its log lines."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from urllib.parse import quote

import grpc
import pytest
from playwright.async_api import Browser, Page, expect
from shop.order.v1 import order_pb2_grpc

from tests.support.chromium import HOW_TO_GET_ONE, chromium, running_chromium
from tests.support.shop_fixtures import Bearer, Stocked, order_of
from tests.support.waiting import DEADLINE_S, eventually

expect.set_options(timeout=DEADLINE_S * 1000)
SERVICES = ("envoy", "order", "product", "inventory", "notification")


@dataclass
class Visit:
    """A window of a browser, and what went wrong in it."""

    page: Page
    home: str
    troubles: list[str] = field(default_factory=list[str])

    def watch(self, page: Page) -> None:
        page.set_default_timeout(DEADLINE_S * 1000)
        page.on("console", lambda said: self.troubles.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.troubles.append(str(error)))
        page.on("response", lambda got: self.troubles.append(f"{got.status} {got.url}") if got.status >= 400 else None)
        page.on("request", lambda request: None if self._is_ours(request.url) else self.troubles.append(request.url))

    def _is_ours(self, url: str) -> bool:
        return url.startswith((f"{self.home}/", "data:", "blob:"))


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    if (found := chromium()) is None:
        pytest.skip(HOW_TO_GET_ONE)
    async with running_chromium(found) as browser:
        yield browser


@pytest.fixture
async def visit(browser: Browser, pages: str) -> AsyncIterator[Visit]:
    # Lens draws the spans for which there is room.
    context = await browser.new_context(viewport={"width": 1280, "height": 1400})
    visit = Visit(await context.new_page(), pages)
    visit.watch(visit.page)
    context.on("page", visit.watch)
    yield visit
    await context.close()
    assert visit.troubles == []


@pytest.fixture(scope="module")
async def order(pages: str, edge: grpc.aio.Channel, bearer: Bearer, stocked: Stocked) -> str:
    request = order_of(await stocked(5))
    placed = await order_pb2_grpc.OrderServiceStub(edge).PlaceOrder(request, metadata=bearer("ann"), timeout=60)
    return placed.order.name


async def test_from_an_orders_name_to_its_trace_and_its_log_lines(visit: Visit, order: str) -> None:
    page = visit.page
    await page.goto(visit.home)
    await page.get_by_role("navigation").get_by_role("link", name="Orders").click()
    await page.get_by_label("Order, e-mail address or customer").fill(order)
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_contain_text(order.removeprefix("orders/"))

    async def told() -> bool:
        await page.reload()
        story = await page.get_by_role("list").filter(has_text="PLACED").first.inner_text()
        pictures = await page.get_by_role("img").all()
        seen = " ".join([await picture.get_attribute("aria-label") or "" for picture in pictures])
        return "mail sent" in story and all(service in seen for service in SERVICES)

    await eventually(told, "the page tells of the order and its trace, up to the mail")
    await page.get_by_role("figure").get_by_role("link", name="PlaceOrder").click()

    for service in SERVICES:
        await expect(page.get_by_text(f"{service}: ").first).to_be_visible()
    await expect(page.get_by_text("postgresql: ").first).to_be_visible()

    menu = page.get_by_role("button", name="Span Table").locator("xpath=following::button[1]")  # it has no name
    await menu.click()
    async with page.context.expect_page() as opened:
        await page.get_by_role("menuitem", name="View Logs").click()
    logs = await opened.value
    await expect(logs.get_by_role("heading", level=1)).to_have_text("Logs")
    await expect(logs.get_by_role("row").filter(has_text="PlaceOrder").first).to_be_visible()
    await logs.get_by_role("link", name="order " + order.removeprefix("orders/")[:8]).first.click()
    await expect(logs.get_by_role("heading", level=1)).to_contain_text(order.removeprefix("orders/"))


async def test_lens_finds_traces_by_an_orders_name(visit: Visit, order: str) -> None:
    page = visit.page
    await page.goto(f"{visit.home}/traces")
    address = page.url
    await expect(page.get_by_text("AdjustStock").first).to_be_visible()
    await page.goto(f"{address}&annotationQuery=shop.order%3D{quote(order)}")
    await expect(page.get_by_text("PlaceOrder")).to_have_count(1)
    await expect(page.get_by_text("AdjustStock")).to_have_count(0)


async def test_the_pages_are_used_by_keyboard_alone(visit: Visit, order: str) -> None:
    page = visit.page
    await page.goto(f"{visit.home}/{order}")
    await page.keyboard.press("Tab")
    await expect(page.get_by_text("Skip to the content")).to_be_focused()
    assert await page.get_by_text("Skip to the content").is_visible()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("main")).to_be_focused()
    await page.keyboard.press("Tab")
    outline = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_pages_fit_a_telephone(browser: Browser, visit: Visit, order: str, scheme: str) -> None:
    page = visit.page
    await page.set_viewport_size({"width": 360, "height": 740})
    await page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    for path in ("/", "/logs", "/orders", f"/{order}"):
        await page.goto(visit.home + path)
        assert await page.evaluate("document.documentElement.scrollWidth") <= 360, path
