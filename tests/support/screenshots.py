"""`make screenshots`: the pictures in docs/screenshots, of a shop of its own in which two orders were placed."""

import asyncio
import re
import sys
import tempfile
from pathlib import Path

import httpx
from playwright.async_api import Browser, ViewportSize

from tests.support.chromium import HOW_TO_GET_ONE, chromium, running_chromium
from tests.support.shop import Shop, running_shop
from tests.support.waiting import eventually

FOLDER = Path(__file__).parents[2] / "docs" / "screenshots"
SIZE = ViewportSize(width=1160, height=720)
LENS_THEME = "zipkinThemeOverride"
"""Where Lens looks for what its reader chose."""


async def take(shop: Shop, order: str) -> None:
    """A picture of each page, in both colour schemes."""
    trace = await _placing(shop, order)
    pages = {
        "order": f"/{order}",
        "trace": f"/zipkin/traces/{trace}",
        "logs": f"/logs?trace={trace}",
    }
    found = chromium()
    if found is None:
        sys.exit(HOW_TO_GET_ONE)
    FOLDER.mkdir(exist_ok=True)
    async with running_chromium(found) as browser:
        for name, path in pages.items():
            for scheme in ("light", "dark"):
                await _picture(browser, shop.pages + path, scheme, FOLDER / f"{name}-{scheme}.png")


async def _placing(shop: Shop, order: str) -> str:
    """The trace in which the order was placed, once all of it has arrived."""
    found = list[str]()

    async def arrived() -> bool:
        async with httpx.AsyncClient(base_url=shop.pages, trust_env=False, timeout=60) as pages:
            traces = (await pages.get("/api/traces", params={"order": order})).json()["traces"]
        whole = [trace for trace in traces if {"envoy", "notification"} <= {span["service"] for span in trace["spans"]}]
        placing = [trace for trace in whole if any(span["name"].endswith("PlaceOrder") for span in trace["spans"])]
        found[:] = [trace["trace_id"] for trace in placing]
        return bool(found)

    await eventually(arrived, "the trace has arrived")
    return found[0]


async def _picture(browser: Browser, url: str, scheme: str, file: Path) -> None:
    context = await browser.new_context(color_scheme="dark" if scheme == "dark" else "light", viewport=SIZE)
    await context.add_init_script(f"localStorage.setItem('{LENS_THEME}', '{scheme}')")
    page = await context.new_page()
    await page.goto(url, wait_until="networkidle")
    await page.evaluate("dispatchEvent(new Event('resize'))")  # Lens measures its scale again, now that it is there
    await page.wait_for_timeout(500)
    await page.screenshot(path=file)
    await context.close()


def main() -> None:
    """Says where the pictures are."""
    with tempfile.TemporaryDirectory() as state, running_shop(Path(state)) as shop:
        shop.command("demo")
        [order] = set(re.findall(r"orders/[0-9a-f-]{36}", shop.command("demo")))
        asyncio.run(take(shop, order))
    sys.stdout.write(f"screenshots: in {FOLDER}\n")


if __name__ == "__main__":
    main()
